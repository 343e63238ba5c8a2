"""Marks the words of a comment that name a look, and says how the person judges each.

    comment, verdict ── windows of tokens ── network (onnxruntime) ── odds of each token ── looks

A look is a stretch of the person's own words with calibrated odds: that it is liked, disliked, wished for
(missing, and wanted), or only mentioned. The task is aspect-based sentiment analysis as sequence labelling
(Pontiki et al., SemEval 2014; Li et al., "A Unified Model for Opinion Target Extraction", AAAI 2019). The
network is all-MiniLM-L6-v2 (Reimers and Gurevych, EMNLP 2019) tuned by simulations/recipes/tagger.py on
comments of invented people, in int8; its odds are tempered (Guo et al., ICML 2017) on people held out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from palate.client.runtime.sessions import load_graph
from palate.client.runtime.tokenizers import load_tokenizer
from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped

SHIPPED: Final = Path(__file__).parents[1] / "weights" / "reader"
KINDS: Final = ("liked", "disliked", "wished", "mentioned")
TAGS: Final = 1 + 2 * len(KINDS)
"""Outside, then for each kind: begins, goes on."""
VERDICTS: Final = {True: "liked", False: "disliked", None: "unknown"}
"""How the verdict on the whole picture is told to the network: a word before the comment."""
MAX_TOKENS: Final = 256

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """The characters [start, end) of a comment that name a look.

    `odds` are the probabilities of `KINDS`, given that it is a look; they sum to 1.
    """

    start: int
    end: int
    odds: tuple[float, float, float, float]

    @property
    def wanted(self) -> float:
        """The probability that the person wants more of it: likes it, or wishes for it."""
        return self.odds[0] + self.odds[2]

    @property
    def liking(self) -> float:
        """How much more probably it is wanted than disliked, -1 to 1."""
        return self.wanted - self.odds[1]

    @property
    def is_judged(self) -> bool:
        """Whether it is judged, rather than only mentioned."""
        return self.odds[3] < 0.5


@dataclass(frozen=True)
class Window:
    """As much of a comment as is read at once: token ids, and the places of those that are the comment's."""

    ids: tuple[int, ...]
    first: int  # the number of the first of the comment's tokens in it
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tokens:
    """The characters [start, end) of each token of a comment, and its logits (n, `TAGS`)."""

    places: tuple[tuple[int, int], ...]
    logits: Floats


HEAD: Final = 3
"""Tokens before the comment's own: [CLS], the verdict, [SEP]."""


def cut_windows(tokenizer: Any, comment: str, liked: bool | None) -> list[Window]:
    """Return a comment in windows of at most `MAX_TOKENS` tokens, each overlapping the next by half."""
    head = tuple(tokenizer.token_to_id(word) for word in ("[CLS]", VERDICTS[liked], "[SEP]"))
    read = tokenizer.encode(comment, add_special_tokens=False)
    room = MAX_TOKENS - HEAD - 1
    last = max(0, len(read.ids) - room)
    starts = [*range(0, last, room // 2), last]
    return [
        Window((*head, *read.ids[at : at + room], head[2]), at, tuple(read.offsets[at : at + room]))
        for at in starts
    ]


@dataclass(frozen=True)
class Tagger:
    """The network of a folder: `tagger.onnx` with its weights beside it, `tokenizer.json` and `tagger.json`.

    Files are read at first use, so build it once and keep it.
    """

    folder: Path = SHIPPED

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; it cuts and pads nothing. Raises `ModelError` if it is missing."""
        return load_tokenizer(self.folder / "tokenizer.json")

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the recipe measured, and `temperature` and `threshold`, which it fitted."""
        file = self.folder / "tagger.json"
        check_shipped(file)
        try:
            card = dict(json.loads(file.read_text(encoding="utf-8")))
            return card | {name: float(card[name]) for name in ("temperature", "threshold")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file} cannot be read; install Palate anew") from error

    def read(self, comment: str, liked: bool | None) -> list[Span]:
        """Return the looks that a comment names, in order, none overlapping.

        Args:
            comment: up to 10,000 characters.
            liked: the verdict on the whole picture; None for none.

        Raises:
            ModelError: files of the folder that are missing, damaged or exchanged.
        """
        read = self.read_tokens(comment, liked)
        return find_spans(comment, read, self.card["temperature"], self.card["threshold"])

    def read_tokens(self, comment: str, liked: bool | None) -> Tokens:
        """Return what the network says of each token of a comment; see `read`."""
        session = load_graph(self.folder / "tagger.onnx")
        places: list[tuple[int, int]] = []
        rows: list[Floats] = []
        for window in cut_windows(self.tokenizer, comment, liked):
            logits = session.run(None, {"ids": np.array([window.ids], dtype=np.int64)})[0][0, HEAD:-1]
            # Of what two windows read, each keeps the half that is farther from its edge.
            keep = max(0, (len(places) - window.first) // 2) if window.first else 0
            del places[window.first + keep :], rows[window.first + keep :]
            places += window.places[keep:]
            rows += list(logits[keep:])
        return Tokens(tuple(places), np.stack(rows) if rows else np.zeros((0, TAGS), dtype=np.float32))


@lru_cache(maxsize=1)
def shipped_tagger() -> Tagger:
    """Return the tagger that ships, kept between comments."""
    return Tagger()


def soft_max(logits: Floats) -> Floats:
    """Return the probabilities that logits (n, k) stand for."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float32)


def find_spans(comment: str, read: Tokens, temperature: float, threshold: float) -> list[Span]:
    """Return the looks that the tokens of a comment mean.

    A word belongs to a look where the odds that its first token is outside are below `threshold`; it opens a
    new one where "begins" is likelier than "goes on". The kind is that of the mean log-odds over its words.

    Args:
        comment: the text.
        read: what the network says of its tokens.
        temperature: divides the logits.
        threshold: from 0 to 1; the higher, the more is taken for a look.
    """
    odds, places = soft_max(read.logits / temperature), read.places
    looks: list[tuple[int, int, list[int]]] = []
    open_ = False
    for first, last in _words(comment, places):
        start, end = places[first][0], places[last][1]
        inside = float(odds[first, 0]) < threshold
        if not inside:
            open_ = False
        elif not any(character.isalnum() for character in comment[start:end]):
            continue  # a hyphen or comma within a look belongs to it only if words follow
        elif open_ and odds[first, 2::2].sum() >= odds[first, 1::2].sum():
            begun, _, tokens = looks[-1]
            looks[-1] = (begun, end, [*tokens, first])
        else:
            looks.append((start, end, [first]))
            open_ = True
    together = _together(comment, looks, odds)
    return [Span(start, end, _judge(odds[tokens])) for start, end, tokens in together]


def _together(
    comment: str, looks: Sequence[tuple[int, int, list[int]]], odds: Floats
) -> list[tuple[int, int, list[int]]]:
    """Return the looks, those that touch and are of one sign as one: "heavy" and "impasto"."""
    joined: list[tuple[int, int, list[int]]] = []
    for start, end, tokens in looks:
        if joined and comment[joined[-1][1] : start] == " ":
            before, _, earlier = joined[-1]
            one, other = (Span(0, 0, _judge(odds[some])) for some in (earlier, tokens))
            if one.liking * other.liking > 0:
                joined[-1] = (before, end, [*earlier, *tokens])
                continue
        joined.append((start, end, tokens))
    return joined


def _judge(odds: Floats) -> tuple[float, float, float, float]:
    """Return the odds of the kinds from those of a look's words (n, `TAGS`)."""
    kinds = odds[:, 1::2] + odds[:, 2::2]  # (n, 4)
    liked, disliked, wished, mentioned = soft_max(np.log(kinds + 1e-6).mean(axis=0))
    return float(liked), float(disliked), float(wished), float(mentioned)


def _words(comment: str, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first and last token of each word: pieces that touch, letter to letter, are one."""
    words: list[tuple[int, int]] = []
    for number, (start, _) in enumerate(places):
        touches = words and places[number - 1][1] == start
        if touches and comment[start].isalnum() and comment[start - 1].isalnum():
            words[-1] = (words[-1][0], number)
        else:
            words.append((number, number))
    return words
