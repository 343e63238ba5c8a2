"""Finds the known term that a new describing word is most like in meaning, or that it is mere praise.

"Syrupy brushstrokes" is no entry of any list. The sentence tower places it among the vocabulary's terms of
the noun's kind. Only a likeness above a threshold counts, since a wrong attribute costs more than a missed
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from palate.client.reader.cues import load_cues
from palate.client.reader.sentences import Directions, SentenceTower, load_term_embeddings
from palate.shared.attributes import Attribute, load_vocabulary

BESIDE_NOUN = 0.72
"""Least cosine for a word next to a noun of a kind, among that kind's terms."""
ALONE = 0.76
"""Least cosine for a word that describes the whole picture, among all terms."""
PRAISE = 0.66
"""Least cosine at which a word counts as praise or blame."""


@dataclass(frozen=True)
class OpenWords:
    """Likeness of meaning by a sentence tower."""

    tower: SentenceTower

    @cached_property
    def _terms(self) -> tuple[Directions, tuple[str, ...]]:
        """The directions of the vocabulary's names and aliases, (n, 384), and the term of each."""
        return load_term_embeddings(self.tower)

    @cached_property
    def _opinions(self) -> tuple[Directions, list[float]]:
        """The single-word opinions' directions, (n, 384), and their signed weights."""
        words = {
            word: weight
            for word, weight in load_cues().opinions.items()
            if " " not in word and abs(weight) >= 0.6
        }
        return self.tower.embed(list(words)), list(words.values())

    def __call__(self, word: str, category: str | None) -> Attribute | float | None:
        """Return the term that the word means, its signed weight as praise, or None.

        Args:
            word: the describing word.
            category: the kind of the noun that it describes; None if it stands alone.
        """
        vocabulary = load_vocabulary()
        rows, names = self._terms
        near = (rows @ self.tower.embed([word])[0]).copy()  # (terms,)
        praise, weights = self._opinions
        liking = praise @ self.tower.embed([word])[0]
        if category is not None:
            kinds = {category, *vocabulary.categories[category].vague}
            outside = np.array([vocabulary.category(name) not in kinds for name in names])
            near[outside] = -1.0
        best, praised = int(near.argmax()), int(liking.argmax())
        if liking[praised] >= PRAISE and liking[praised] > near[best]:
            return float(weights[praised]) * 0.8
        if near[best] >= (ALONE if category is None else BESIDE_NOUN):
            name = names[best]
            return Attribute(name, vocabulary.category(name) or "mood")
        return None
