"""Gives a person's own words their place in the vocabulary, or none.

    words of a look, sentence around it ── vocabulary's names and aliases ── else likeness of meaning ── terms

"Hazy fog" is misty, "soft, muted greens" is muted and green, "like wet cardboard" is nothing that the
vocabulary has, and keeps its own words. A word may have several senses: next to a noun of a kind ("bold
colours", "the lines are bold") it means that kind's term. What no list knows is compared with all terms by
the sentence tower (Reimers and Gurevych, EMNLP 2019), and counts only above a likeness.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from palate.client.reader.sentences import SentenceTower, load_term_embeddings
from palate.shared.attributes import Attribute, Vocabulary, load_vocabulary, phrase_key

ALIKE: Final = 0.72
"""Least cosine of a look's words and a term's, for the look to have the term's place."""
ALIKE_WORD: Final = 0.78
"""The same of a single word, since "loud" is near "quiet"."""
_FEELING: Final = frozenset({"mood", "atmosphere", "energy"})
NEAR: Final = 6
"""How many words may stand between a describing word and the noun of a kind."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|&")
_STOP = re.compile(r"[.!?;:\n]|\bbut\b|\bwhile\b|\bthough\b|\bwhereas\b", re.IGNORECASE)
_SMALL_WORDS = """
a an and are as at be been bit by for from has have i in is it its just kind kinda like little look looks lot
lots more most much of on or part quite rather really slightly so some sort such super than that the their
there these this those to too touch very was way were what with
"""
_SMALL = frozenset(_SMALL_WORDS.split())


Found = tuple[int, int, Attribute]
"""The characters [start, end) that name a term."""


@dataclass(frozen=True)
class Placed:
    """A part of a look: the person's words as written, their category, and their term if there is one.

    A vague one names a kind alone ("these colours").
    """

    phrase: str
    category: str
    term: str | None
    vague: bool = False

    @property
    def words(self) -> str:
        """The person's words, tidied."""
        return _tidy(self.phrase)


def place_look(comment: str, start: int, end: int) -> list[Placed]:
    """Return the parts of a look with their places, at least one.

    Args:
        comment: the whole text.
        start: where the look's words begin.
        end: where they end.
    """
    vocabulary = load_vocabulary()
    said = comment[start:end]
    flat = ["".join(phrase_key(match.group())[:1]) for match in _WORD.finditer(said)]
    whole = vocabulary.find(said)
    if whole is not None:
        return [Placed(said, whole.category, whole.name)]
    kind = _kind_within(vocabulary, flat) or _kind_around(vocabulary, comment, start, end)
    terms = find_terms(said, kind)
    parts = list({term.name: Placed(said[a:b], term.category, term.name) for a, b, term in terms}.values())
    if len(parts) == 1:
        return [Placed(said, parts[0].category, parts[0].term)]
    if parts:
        return parts
    telling = (key for key in flat if key not in _SMALL and vocabulary.noun_category((key,)) is None)
    if kind is not None and not any(telling):
        return [Placed(said, kind, None, vague=True)]
    alike = _alike(_tidy(said))
    if alike is not None:
        return [Placed(said, alike.category, alike.name)]
    return [Placed(said, kind or "other", None)]


def find_terms(said: str, kind: str | None) -> list[Found]:
    """Return where a text names terms of the vocabulary, [start, end), and which; the longest names win.

    Args:
        said: the text.
        kind: the category of a noun that its words describe, if there is one.
    """
    vocabulary = load_vocabulary()
    words = [(match.start(), match.end()) for match in _WORD.finditer(said)]
    keys = ["".join(phrase_key(said[a:b])[:1]) for a, b in words]
    found: list[Found] = []
    index = 0
    while index < len(keys):
        for length in range(min(vocabulary.longest, len(keys) - index), 0, -1):
            term = _term_of(vocabulary, tuple(keys[index : index + length]), kind)
            if term is not None:
                found.append((words[index][0], words[index + length - 1][1], term))
                index += length
                break
        else:
            index += 1
    following: list[Found | None] = [*found[1:], *[None] * bool(found)]
    return [one for one, after in zip(found, following, strict=True) if not _only_modifies(said, one, after)]


def _only_modifies(said: str, one: Found, after: Found | None) -> bool:
    """Say whether a word of several senses describes the thing after it: no gloom in "heavy impasto"."""
    if after is None or one[2].category not in _FEELING or after[2].category in _FEELING:
        return False
    several = load_vocabulary().means_beside(phrase_key(said[one[0] : one[1]]))
    return several and not said[one[1] : after[0]].strip()


def _term_of(vocabulary: Vocabulary, key: tuple[str, ...], kind: str | None) -> Attribute | None:
    """Return the term that words mean, beside a noun of a kind first.

    Never that of a small word or a noun.
    """
    if all(word in _SMALL for word in key) or vocabulary.noun_category(key) is not None:
        return None
    beside = vocabulary.find_beside(key, kind) if kind is not None else None
    return beside or vocabulary.find_key(key)


def _kind_within(vocabulary: Vocabulary, keys: list[str]) -> str | None:
    """Return the category of the last noun of a kind among words."""
    kinds = (vocabulary.noun_category((key,)) for key in reversed(keys))
    return next((kind for kind in kinds if kind is not None), None)


def _kind_around(vocabulary: Vocabulary, comment: str, start: int, end: int) -> str | None:
    """Return the category of the noun that a look describes: the next one after it, or the one before it."""
    after = _STOP.split(comment[end : end + 80])[0]
    before = _STOP.split(comment[max(0, start - 80) : start])[-1]
    for words in (_WORD.findall(after)[:2], _WORD.findall(before)[: -NEAR - 1 : -1]):
        for word in words:
            kind = vocabulary.noun_category(phrase_key(word))
            if kind is not None:
                return kind
    return None


def trim(comment: str, start: int, end: int) -> tuple[int, int] | None:
    """Return a look's place without small words at its edges ("so bright and"), None if nothing is left."""
    words = [(start + match.start(), start + match.end()) for match in _WORD.finditer(comment[start:end])]
    telling = [i for i, (a, b) in enumerate(words) if comment[a:b].lower() not in _SMALL]
    if not telling:
        return None
    return words[telling[0]][0], words[telling[-1]][1]


def _tidy(words: str) -> str:
    """Return words in small letters with single spaces, without marks around them."""
    return " ".join(words.lower().split()).strip(" \t\"'“”‘’.,;:!?()*_~-–—") or words.lower()


@lru_cache(maxsize=1)
def _tower() -> SentenceTower:
    return SentenceTower()


@lru_cache(maxsize=4096)
def _alike(words: str) -> Attribute | None:
    """Return the term whose name or alias is most like the words in meaning, if it is alike enough."""
    rows, names = load_term_embeddings(_tower())
    near = rows @ _tower().embed([words])[0]
    best = int(near.argmax())
    if near[best] < (ALIKE if " " in words else ALIKE_WORD):
        return None
    return Attribute(names[best], load_vocabulary().category(names[best]) or "other")
