"""What must never leave a device, cut into needles, and the search for them in a capture.

Where it stands in the flow: `capture` keeps what was sent; this module takes a person's comments, attributes,
pictures and private weights, makes thousands of needles of them, and says which of them lie in what was sent.
A search that finds nothing says something only if it finds what is there, so its users also search a
capture in which everything was put on purpose.

Each needle is long enough that chance does not find it in megabytes of weights (8 bytes or more of different
values), and the pieces lie so close that a part of something is found too: any 128 bytes of a picture, any 7
weights in a row, any 4 words in a row. How text is written does not matter: capitals, punctuation and white
space are undone, and so are UTF-16 and UTF-32.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.simulations.federation_demo.capture import Stream, read_layers

WORDS_TOGETHER = 4
PIECE, STRIDE = 24, 104  # bytes
WEIGHTS_TOGETHER = 4
MOST_RUNS = 1_000  # of a large array, spread over it
CHARACTERS = (
    10  # of a number as text, point included: with fewer, one in thousands stands in the time of some message
)
LEAST_DIGITS = 5  # of them, leading zeros not counted
SHORT_WORD = (
    4  # letters: so short a word stands in any megabyte of noise, so it counts only as a quoted or listed one
)

BYTES, WORDS, TEXT = "bytes", "words", "text"

_DTYPES = {"fp64": "<f8", "fp32": "<f4", "fp16": "<f2"}
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_TO_WORDS = (
    bytes(ord(chr(i).lower()) if chr(i).lower().encode("latin-1") in _LETTERS else 32 for i in range(128))
    + b" " * 128
)
_BEFORE, _AFTER = rb"(?:[\s\"'(\[{,|/]|\A)", rb"(?=[\s\"')\]},|/.!?]|\Z)"


@dataclass(frozen=True)
class Needle:
    """One thing to look for.

    What kind of thing it is a part of, which part, and the bytes in one way of looking.
    """

    kind: str
    name: str
    data: bytes
    # BYTES as they are; WORDS, with everything else taken out; TEXT, in lower case and without zero bytes
    look: str


@dataclass(frozen=True)
class Found:
    """A needle and where it lay."""

    needle: Needle
    stream: str
    layer: str
    place: int


class Needles:
    """A growing list of needles; equal bytes are looked for once."""

    def __init__(self) -> None:
        """Begin without any."""
        self._all: dict[tuple[bytes, str], Needle] = {}

    def __iter__(self) -> Iterator[Needle]:
        """Give every needle."""
        return iter(self._all.values())

    def __len__(self) -> int:
        """Return the number of needles."""
        return len(self._all)

    def kinds(self) -> Counter[str]:
        """Return how many needles there are of each kind."""
        return Counter(needle.kind for needle in self)

    def update(self, others: Iterable[Needle]) -> None:
        """Add the needles of others."""
        for one in others:
            self._add(one.kind, one.name, one.data, one.look)

    def add_comment(self, name: str, text: str) -> None:
        """Look for a comment, whole and by any four words in a row.

        Raises ValueError for one of fewer words.
        """
        words = read_words(text.encode()).split()
        if len(words) < WORDS_TOGETHER:
            raise ValueError(
                f"{name} has {len(words)} words; it takes {WORDS_TOGETHER} to be told from chance"
            )
        self._add("comment", name, b" ".join(words), WORDS)
        for start in range(len(words) - WORDS_TOGETHER + 1):
            few = b" ".join(words[start : start + WORDS_TOGETHER])
            self._add("words of a comment", f"{name}, {few.decode()!r}", few, WORDS)

    def add_attribute(self, name: str) -> None:
        """Look for the name of an attribute as words of their own, and no part of an identifier."""
        words = b" ".join(read_words(name.encode()).split())
        if len(words) > SHORT_WORD:
            self._add("attribute", name, b" " + words + b" ", WORDS)
        elif words:
            self._add("attribute", name, words, TEXT)

    def add_secret(self, kind: str, name: str, text: str) -> None:
        """Look for a passphrase or an id of at least eight characters, as one piece."""
        if len(text) < 8:
            raise ValueError(f"{name} has {len(text)} characters; it takes 8 to be told from chance")
        self._add(kind, name, text.lower().encode(), TEXT)

    def add_bytes(self, kind: str, name: str, data: bytes) -> None:
        """Look for pieces of some data, such as a picture's file; monotonous pieces are left out."""
        for place in range(0, max(1, len(data) - PIECE + 1), STRIDE):
            piece = data[place : place + PIECE]
            if len(set(piece)) > PIECE // 3:
                self._add(kind, f"{name} at {place}", piece, BYTES)

    def add_weights(self, kind: str, name: str, weights: NDArray[Any]) -> None:
        """Look for numbers: four in a row in binary and in rounded text, one alone in full text."""
        flat = np.asarray(weights, dtype=np.float64).ravel()
        step = max(WEIGHTS_TOGETHER, len(flat) // MOST_RUNS)
        for start in range(0, len(flat) - WEIGHTS_TOGETHER + 1, step):
            run = flat[start : start + WEIGHTS_TOGETHER]
            for precision, dtype in _DTYPES.items():
                with np.errstate(over="ignore"):
                    data = run.astype(dtype).tobytes()
                if len(set(data)) > len(data) // 2:
                    self._add(f"{kind} in {precision}", f"{name} at {start}", data, BYTES)
            for decimals in (3, 4, 6):
                text = " ".join(str(round(float(one), decimals)) for one in run)
                words = b" ".join(read_words(text.encode()).split())
                if len(words) >= 16 and len(set(words)) > 4:  # not four zeros
                    place = f"{name} at {start}, {decimals} decimals"
                    self._add(f"{kind} as text", place, b" " + words + b" ", WORDS)
            for value in (abs(float(run[0])), abs(float(np.float32(run[0])))):
                for text in (np.format_float_positional(value), repr(value)):
                    digits = text[:CHARACTERS]
                    if len(digits) == CHARACTERS and len(digits.replace(".", "").lstrip("0")) >= LEAST_DIGITS:
                        self._add(f"{kind} as text", f"{name} at {start}", digits.encode(), TEXT)

    def _add(self, kind: str, name: str, data: bytes, look: str) -> None:
        self._all.setdefault((data, look), Needle(kind, name, data, look))


def read_words(data: bytes) -> bytes:
    """Return the words in some bytes, in lower case with one space between them and at both ends.

    Whatever is no ASCII letter or digit parts two words; zero bytes part nothing, so UTF-16 and UTF-32 read
    as they should.
    """
    return b" " + b" ".join(data.translate(_TO_WORDS, b"\0").split()) + b" "


def search(streams: Iterable[Stream], needles: Sequence[Needle]) -> list[Found]:
    """Return which needles lie in what was sent, each once per layer of a stream.

    Raises what `read_layers` raises.
    """
    look_for = {look: _Index([one for one in needles if one.look == look]) for look in (BYTES, WORDS)}
    short = {one.data: one for one in needles if one.look == TEXT and len(one.data) <= SHORT_WORD}
    long = _Index([one for one in needles if one.look == TEXT and len(one.data) > SHORT_WORD])
    found = []
    for stream in streams:
        for layer, data in read_layers(stream):
            plain = data.lower().replace(b"\0", b"")
            hits = [*look_for[BYTES].find(data), *look_for[WORDS].find(read_words(data)), *long.find(plain)]
            hits = [hit for hit in hits if not _only_in_names(hit[0], plain)]
            hits += _find_short(short, data.lower(), plain)
            first: dict[Needle, int] = {}
            for needle, place in hits:
                first.setdefault(needle, place)
            found += [Found(needle, stream.name, layer, place) for needle, place in first.items()]
    return found


def _only_in_names(needle: Needle, plain: bytes) -> bool:
    """Say whether a one-word attribute stands only within the protocol's names: "honest" in honest_share."""
    word = needle.data.strip()
    if needle.kind != "attribute" or needle.look != WORDS or b" " in word:
        return False
    return re.search(rb"(?<![a-z0-9_])" + re.escape(word) + rb"(?![a-z0-9_])", plain) is None


def _find_short(short: dict[bytes, Needle], data: bytes, plain: bytes) -> Iterator[tuple[Needle, int]]:
    """Find short words where they are quoted or listed as text, or come with their length before them."""
    if not short:
        return
    words = b"|".join(map(re.escape, sorted(short, key=len, reverse=True)))
    for match in re.finditer(_BEFORE + b"(" + words + b")" + _AFTER, plain):
        yield short[match.group(1)], match.start(1)
    for word, needle in short.items():
        place = data.find(bytes([len(word)]) + word)
        if place >= 0:
            yield needle, place + 1


class _Index:
    """Needles by their last four bytes, so one pass finds all (many numbers begin alike)."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._by_end: dict[int, list[Needle]] = defaultdict(list)
        for one in needles:
            self._by_end[int.from_bytes(one.data[-4:], "little")].append(one)
        self._ends = np.array(sorted(self._by_end), dtype=np.uint32)
        self._may = np.zeros(1 << 16, dtype=np.bool_)
        self._may[self._ends & 0xFFFF] = True

    def find(self, data: bytes) -> Iterator[tuple[Needle, int]]:
        """Yield each needle in the data and where it begins."""
        for shift in range(min(4, len(data) - 3) if len(self._ends) else 0):
            words = np.frombuffer(data, "<u4", (len(data) - shift) // 4, shift)
            places = np.flatnonzero(self._may[words & 0xFFFF])
            near = np.searchsorted(self._ends, words[places]).clip(max=len(self._ends) - 1)
            for place in places[self._ends[near] == words[places]]:
                end = 4 * int(place) + shift + 4
                for needle in self._by_end[int(words[place])]:
                    start = end - len(needle.data)
                    if start >= 0 and data.startswith(needle.data, start):
                        yield needle, start
