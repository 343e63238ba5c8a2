"""The sentence tower: texts to directions in a space of meaning.

One BERT serves the generator (which reads its last hidden state) and the sentence side (which reads the mean
over words): all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019) with a cut vocabulary, made
by simulations/recipes/sentence_tower.py. Loading takes a moment, so it happens only when a text is embedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palate.client.runtime.sessions import load_graph
from palate.client.runtime.tokenizers import load_tokenizer
from palate.shared.attributes import Vocabulary, load_vocabulary
from palate.shared.shipped import check_shipped

Directions = npt.NDArray[np.float32]
"""Directions of texts in the space of meaning, (n, 384), each of unit length."""

SHIPPED = Path(__file__).parents[1] / "weights" / "generator"
"""The shipped generator's folder, whose text_encoder/ and tokenizer/ are the tower."""
TERMS = Path(__file__).parents[1] / "weights" / "vocabulary.safetensors"
WIDTH = 384
MAX_TOKENS = 128


@dataclass(frozen=True)
class SentenceTower:
    """The tower of a folder. Weights are read at first use, so build it once and keep it."""

    folder: Path = SHIPPED

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; it cuts and pads nothing."""
        return load_tokenizer(self.folder / "tokenizer" / "tokenizer.json")

    def embed(self, texts: Sequence[str]) -> Directions:
        """Return one direction per text: the mean over its words' hidden states at unit length.

        Texts are cut at 128 tokens.

        Args:
            texts: n of them; n may be 0.

        Returns:
            (n, 384) float32.

        Raises:
            ModelError: there is no tower.
        """
        rows = np.zeros((len(texts), WIDTH), dtype=np.float32)
        if not texts:
            return rows
        session = load_graph(self.folder / "text_encoder" / "model.onnx")
        for row, text in zip(rows, texts, strict=True):
            ids = self.tokenizer.encode(text).ids
            ids = ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]
            mean = session.run(None, {"ids": np.array([ids])})[0][0].mean(axis=0)
            row[:] = mean / np.linalg.norm(mean)
        return rows


def term_texts(vocabulary: Vocabulary) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts by which terms are recognised, and the term of each.

    They are every name, and every alias of up to three words.
    """
    pairs = [(term.name, term.name) for term in vocabulary.terms]
    pairs += [
        (alias, name)
        for alias, name in vocabulary.aliases.items()
        if alias != name and len(alias.split()) <= 3
    ]
    return tuple(text for text, _ in pairs), tuple(name for _, name in pairs)


def load_term_embeddings(tower: SentenceTower) -> tuple[Directions, tuple[str, ...]]:
    """Return the directions of `term_texts`, (n, 384) float32, and the term of each row.

    The shipped file holds them, made with the shipped tower by its recipe. With another tower, or a
    vocabulary that was edited, they are embedded again, which takes seconds.

    Raises:
        ModelError: there is no tower.
    """
    texts, names = term_texts(load_vocabulary())
    if tower.folder == SHIPPED and TERMS.is_file():
        from safetensors import safe_open

        check_shipped(TERMS)
        with safe_open(TERMS, framework="np") as file:
            stamp = (file.metadata() or {}).get("texts")
            rows = file.get_tensor("terms").astype(np.float32)
        if stamp == texts_stamp(texts) and rows.shape == (len(names), WIDTH):
            return rows / np.linalg.norm(rows, axis=1, keepdims=True), names
    return tower.embed(texts), names


def texts_stamp(texts: Sequence[str]) -> str:
    """Return a short digest of texts in order, which tells whether embeddings belong to them."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
