"""What the person put right about a reading, and what it teaches about how sure to be with this person.

A correction says of some words of a comment that they are liked, disliked, or neither. It stays with the
comment when a new reader reads it anew. All of them together are the labels of a small calibration: the
reader's log-odds are scaled and shifted (Platt, 1999) towards what this person's corrections say, and stay as
they are where there are few (a prior of scale 1 and shift 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from palate.shared.attributes import Mention, phrase_key
from palate.shared.errors import OptionError

FULL: Final = 0.7
"""The strength of a certain look: what one mention was worth when painter and evaluator were tuned."""
PRIOR: Final = 4.0
"""How many corrections the prior of the calibration is worth."""
_CERTAIN: Final = 1.0
_STEPS: Final = 20


@dataclass(frozen=True)
class Correction:
    """The person's own word on some words of a comment: +1 liked, -1 disliked, 0 neither.

    `read` is what the shipped reader had made of them: signed strength in [-1, 1], None if it had found
    nothing, or did not read the comment.
    """

    words: str
    polarity: int
    read: float | None
    created: str  # ISO 8601, UTC

    def __post_init__(self) -> None:
        """Refuse words that are none, and another polarity; raises `OptionError`."""
        if not phrase_key(self.words):
            raise OptionError("name the words that were misread, as they stand in the comment")
        if self.polarity not in (-1, 0, 1) or not (self.read is None or -1 <= self.read <= 1):
            raise OptionError("a correction says liked, disliked or neither")


def find_mentions(mentions: Iterable[Mention], words: str) -> list[Mention]:
    """Return the mentions that words mean: of that name, or whose phrase or attribute has these words."""
    key = phrase_key(words)
    exact = [one for one in mentions if key in (phrase_key(one.name), phrase_key(one.attribute))]
    return exact or [one for one in mentions if set(key) <= set(phrase_key(one.phrase))]


def correct(
    comment: str, mentions: Sequence[Mention], corrections: Iterable[Correction]
) -> tuple[Mention, ...]:
    """Return the mentions of a comment after its corrections, the newest correction last."""
    from palate.client.reader.phrases import place_look  # numpy, which no profile needs

    found = list(mentions)
    for one in sorted(corrections, key=lambda item: item.created):
        meant = find_mentions(found, one.words)
        if one.polarity == 0:
            found = [mention for mention in found if mention not in meant]
        elif meant:
            found = [
                replace(mention, polarity=one.polarity, strength=_CERTAIN, unsure=False)
                if mention in meant
                else mention
                for mention in found
            ]
        else:
            at = comment.lower().find(one.words.lower())
            text, start = (comment, at) if at >= 0 else (one.words, 0)
            found += [
                Mention(part.words, part.category, one.polarity, _CERTAIN, part.phrase, part.term)
                for part in place_look(text, start, start + len(one.words))
            ]
    return tuple(found)


@dataclass(frozen=True)
class Calibration:
    """How this person's odds follow from the reader's: scale times log-odds, plus shift."""

    scale: float = 1.0
    shift: float = 0.0

    def apply(self, mention: Mention) -> Mention:
        """Return the mention with the person's own odds."""
        value = math.tanh((self.scale * _log_odds(mention.polarity * mention.strength) + self.shift) / 2)
        strength = min(1.0, max(0.01, round(FULL * abs(value), 3)))
        return replace(mention, polarity=1 if value > 0 else -1, strength=strength)


def fit_calibration(corrections: Iterable[Correction]) -> Calibration:
    """Return the calibration of most posterior probability, by Newton's method.

    A correction of what was not found, or to neither, says nothing about signs.
    """
    labels = [
        (_log_odds(one.read), one.polarity) for one in corrections if one.read is not None and one.polarity
    ]
    if not labels:
        return Calibration()
    scale, shift = 1.0, 0.0
    for _ in range(_STEPS):
        g0, g1 = PRIOR * (scale - 1), PRIOR * shift
        h00, h01, h11 = PRIOR, 0.0, PRIOR
        for odds, sign in labels:
            liked = 1 / (1 + math.exp(-(scale * odds + shift)))
            error, weight = liked - (sign > 0), liked * (1 - liked)
            g0, g1 = g0 + error * odds, g1 + error
            h00, h01, h11 = h00 + weight * odds * odds, h01 + weight * odds, h11 + weight
        area = h00 * h11 - h01 * h01
        scale -= (h11 * g0 - h01 * g1) / area
        shift -= (h00 * g1 - h01 * g0) / area
    return Calibration(min(2.0, max(0.1, scale)), min(2.0, max(-2.0, shift)))


def _log_odds(value: float) -> float:
    """Return the log-odds of being liked that a reading's signed strength stands for."""
    return 2 * math.atanh(min(0.995, max(-0.995, value / FULL)))
