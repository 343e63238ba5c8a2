"""Attributes of taste, and the vocabulary that gives a person's words their place among them.

An attribute is one thing about a picture's looks that somebody can like or dislike: "misty", "bold outlines".
A mention is one attribute as a comment speaks of it. Comments are free; the vocabulary (vocabulary.toml,
about 400 terms in 22 categories) only gives words a canonical name, a category, opposites, and what a drawing
would show. Both sides of the federation and the drawn world use the same names. The kinds of attribute follow
the extraction task of ViPer (Salehi et al., ECCV 2024).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from palate.shared.errors import FileFormatError, OptionError

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|&")
# British to American, so that both spellings have one key. Keys are only compared with keys; they need not be
# words.
_SPELLINGS = (
    (re.compile(r"(col|hum|vap|harb|vig|flav|fav|sav)our"), r"\1or"),
    (re.compile(r"^grey"), "gray"),
    (re.compile(r"^(cent|somb|och|theat|fib|lust|spect)re(s|d|ness)?$"), r"\1er\2"),
    (re.compile(r"is(e|ed|es|ing|er|ation|ations)$"), r"iz\1"),
    (re.compile(r"ll(ed|ing|er)$"), r"l\1"),
    (re.compile(r"^cos(y|ier|iest|iness)"), r"coz\1"),
    (re.compile(r"logue$"), "log"),
    (re.compile(r"^skilful"), "skillful"),
)
_KEEP_S = frozenset(
    {
        "canvas",
        "chaos",
        "glass",
        "gloss",
        "mess",
        "less",
        "is",
        "was",
        "its",
        "this",
        "as",
        "us",
        "has",
        "always",
    }
)


@dataclass(frozen=True)
class Attribute:
    """One thing about a picture's looks: its canonical name (lower case) and the category it belongs to."""

    name: str
    category: str


@dataclass(frozen=True)
class Mention:
    """One attribute as one comment speaks of it.

    polarity is +1 (liked) or -1 (disliked), strength lies in (0, 1]. The attribute is in the person's own
    words, tidied; phrase is as they wrote it. term is its place in the vocabulary, None where it has none.

    Raises:
        OptionError: a field is outside its range.
    """

    attribute: str
    category: str
    polarity: int
    strength: float
    phrase: str
    term: str | None = None
    vague: bool = False
    """Whether it names a kind alone ("these colours"), and nothing says which."""
    unsure: bool = False
    """Whether the odds are poor, so that asking the person back is worth it."""

    @property
    def name(self) -> str:
        """What the profile calls it: the vocabulary's term, or the person's own words."""
        return self.term or self.attribute

    def __post_init__(self) -> None:
        if not self.attribute or not self.category:
            raise OptionError(
                f"attribute={self.attribute!r}, category={self.category!r}: a mention needs both; give "
                "their names"
            )
        if self.polarity not in (-1, 1):
            raise OptionError(f"polarity={self.polarity!r}: must be +1 (liked) or -1 (disliked)")
        if not 0.0 < self.strength <= 1.0:
            raise OptionError(f"strength={self.strength!r}: must lie in (0, 1]")


@dataclass(frozen=True)
class Category:
    """One kind of attribute: its nouns, where a vague mention looks, and what it means with no picture."""

    name: str
    about: str
    nouns: tuple[str, ...]
    vague: tuple[str, ...]
    fallback: str | None


def spelling_key(word: str) -> str:
    """Return one word's key: lower case, American spelling, singular.

    Words that differ only so have the same key.
    """
    word = word.lower().replace("'s", "").replace("'", "")
    for pattern, replacement in _SPELLINGS:
        word = pattern.sub(replacement, word)
    if len(word) > 3 and word.endswith("s") and word not in _KEEP_S and not word.endswith(("ss", "us", "is")):
        if word.endswith("ies") and len(word) > 4:
            return word[:-3] + "y"
        if word.endswith(("shes", "ches", "sses", "xes", "zes")) and not word.endswith("aches"):
            return word[:-2]
        return word[:-1]
    return word


def phrase_key(phrase: str) -> tuple[str, ...]:
    """Return the keys of a phrase's words; hyphens part words."""
    text = phrase.lower().replace("’", "'").replace("é", "e").replace("ï", "i")
    return tuple(spelling_key(word) for word in _WORD.findall(text))


@dataclass(frozen=True)
class Vocabulary:
    """The terms, and how words find them. Built once by `load_vocabulary`; every lookup is a dictionary's."""

    terms: tuple[Attribute, ...]
    categories: Mapping[str, Category]
    aliases: Mapping[str, str]
    """Every alias as written, to its term's name."""
    _by_key: Mapping[tuple[str, ...], str] = field(repr=False)
    _by_squashed: Mapping[str, str] = field(repr=False)
    _beside: Mapping[tuple[str, tuple[str, ...]], str] = field(repr=False)
    _nouns: Mapping[tuple[str, ...], str] = field(repr=False)
    _opposites: Mapping[str, tuple[str, ...]] = field(repr=False)
    _shows: Mapping[str, Mapping[str, float]] = field(repr=False)
    _category: Mapping[str, str] = field(repr=False)

    def category(self, name: str) -> str | None:
        """Return the category of a term's canonical name, or None for a name that is no term."""
        return self._category.get(name)

    def find(self, phrase: str) -> Attribute | None:
        """Return the term that a phrase names, or None.

        A phrase is a name or an alias; case, plural, spelling and hyphens do not matter.
        """
        return self.find_key(phrase_key(phrase))

    def find_key(self, key: tuple[str, ...]) -> Attribute | None:
        """Return the term of an already computed `phrase_key`, or None."""
        name = self._by_key.get(key)
        if name is None and key:
            name = self._by_squashed.get("".join(key))
        return None if name is None else Attribute(name, self._category[name])

    def find_beside(self, key: tuple[str, ...], category: str) -> Attribute | None:
        """Return the term that a word means next to a noun: "bold" in "bold colours" is vibrant."""
        name = self._beside.get((category, key))
        return None if name is None else Attribute(name, category)

    def means_beside(self, key: tuple[str, ...]) -> bool:
        """Return whether a word means a term next to the nouns of some category."""
        return any((category, key) in self._beside for category in self.categories)

    def noun_category(self, key: tuple[str, ...]) -> str | None:
        """Return the category that a noun names ("palette", "brush strokes"), or None."""
        return self._nouns.get(key)

    def opposites(self, name: str) -> tuple[str, ...]:
        """Return the names of the terms at the other end, both as stated and as stated by them."""
        return self._opposites.get(name, ())

    def shows(self, name: str) -> Mapping[str, float]:
        """Return what a drawing shows when it has the term: attributes with weights in [-1, 1]."""
        return self._shows.get(name, MappingProxyType({}))

    def same(self, name: str) -> str:
        """Return the term under which a profile lists a name: the one that it wholly shows, or itself.

        Fog, haze and mist are one thing to a profile.
        """
        shown = self.shows(name)
        return next(iter(shown)) if list(shown.values()) == [1.0] else name

    def related(self, name: str) -> tuple[str, ...]:
        """Return the terms that mainly show the same attribute of the drawn world as this one does."""
        mine = self.main_show(name)
        if mine is None:
            return ()
        return tuple(
            term.name for term in self.terms if term.name != name and self.main_show(term.name) == mine
        )

    def main_show(self, name: str) -> str | None:
        """Return the attribute of the drawn world that the term shows most, with a weight of at least 0.5."""
        shown = self.shows(name)
        if not shown:
            return None
        best = max(shown, key=lambda attribute: shown[attribute])
        return best if shown[best] >= 0.5 else None

    @property
    def phrases(self) -> Iterable[tuple[tuple[str, ...], str]]:
        """Every key with its term's name."""
        return self._by_key.items()

    @property
    def longest(self) -> int:
        """The number of words in the longest key."""
        return max(len(key) for key in (*self._by_key, *self._nouns))


@lru_cache(maxsize=1)
def load_vocabulary() -> Vocabulary:
    """Return the vocabulary that ships with Palate, read once."""
    text = resources.files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8")
    return read_vocabulary(text)


def read_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary written in a TOML text.

    Raises:
        FileFormatError: a key is unknown, a category is missing, an opposite is no term, or two terms share
            an alias.
    """
    table = tomllib.loads(text)
    _only("vocabulary", table, {"categories", "terms"})
    categories = {name: _read_category(name, entry) for name, entry in table["categories"].items()}
    terms: list[Attribute] = []
    category_of: dict[str, str] = {}
    aliases: dict[str, str] = {}
    by_key: dict[tuple[str, ...], str] = {}
    beside: dict[tuple[str, tuple[str, ...]], str] = {}
    stated: dict[str, tuple[str, ...]] = {}
    shows: dict[str, Mapping[str, float]] = {}
    for category, entries in table["terms"].items():
        if category not in categories:
            raise FileFormatError(f"vocabulary: terms.{category} has no categories.{category}; add it")
        for name, entry in entries.items():
            _only(f"terms.{category}.{name}", entry, {"also", "with", "opposites", "shows"})
            if name in category_of:
                raise FileFormatError(
                    f"vocabulary: {name!r} is a term of {category_of[name]} and of {category}; keep one"
                )
            terms.append(Attribute(name, category))
            category_of[name] = category
            stated[name] = tuple(entry.get("opposites", ()))
            shows[name] = MappingProxyType(
                {key: float(weight) for key, weight in entry.get("shows", {name: 1.0}).items()}
            )
            _add_aliases(name, (name, *entry.get("also", ())), aliases, by_key)
            for word in entry.get("with", ()):
                beside.setdefault((category, phrase_key(word)), name)
    _check_references(categories, category_of)
    nouns: dict[tuple[str, ...], str] = {}
    for kind in categories.values():
        for noun in kind.nouns:
            nouns.setdefault(phrase_key(noun), kind.name)
    squashed: dict[str, str] = {}
    for key, name in by_key.items():
        squashed.setdefault("".join(key), name)
    return Vocabulary(
        terms=tuple(terms),
        categories=MappingProxyType(categories),
        aliases=MappingProxyType(aliases),
        _by_key=MappingProxyType(by_key),
        _by_squashed=MappingProxyType(squashed),
        _beside=MappingProxyType(beside),
        _nouns=MappingProxyType(nouns),
        _opposites=MappingProxyType(_both_ways(stated)),
        _shows=MappingProxyType(shows),
        _category=MappingProxyType(category_of),
    )


def _read_category(name: str, entry: Mapping[str, Any]) -> Category:
    """Return a category of the vocabulary's table; raises FileFormatError for an unknown key."""
    _only(f"categories.{name}", entry, {"about", "nouns", "vague", "fallback"})
    nouns, vague = tuple(entry.get("nouns", ())), tuple(entry.get("vague", (name,)))
    return Category(name, entry["about"], nouns, vague, entry.get("fallback"))


def _add_aliases(
    name: str, phrases: Iterable[str], aliases: dict[str, str], by_key: dict[tuple[str, ...], str]
) -> None:
    """Add a term's aliases; raises FileFormatError for one that another term has."""
    for phrase in phrases:
        key = phrase_key(phrase)
        if by_key.get(key, name) != name:
            raise FileFormatError(
                f"vocabulary: {phrase!r} is an alias of {by_key[key]!r} and of {name!r}; keep one"
            )
        by_key[key] = name
        aliases[phrase] = name


def _both_ways(stated: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return each term's opposites, stated on either side; raises FileFormatError for one that is no term."""
    opposites: dict[str, list[str]] = {name: [] for name in stated}
    for name, others in stated.items():
        for other in others:
            if other not in stated:
                raise FileFormatError(
                    f"vocabulary: the opposite {other!r} of {name!r} is no term; add it or drop it"
                )
            for one, two in ((name, other), (other, name)):
                if two not in opposites[one]:
                    opposites[one].append(two)
    return {name: tuple(others) for name, others in opposites.items()}


def _check_references(categories: Mapping[str, Category], terms: Collection[str]) -> None:
    """Raise FileFormatError for a category that points to a category or a term that is not there."""
    for category, kind in categories.items():
        unknown = {*kind.vague} - {*categories}
        if unknown or (kind.fallback is not None and kind.fallback not in terms):
            raise FileFormatError(
                f"vocabulary: categories.{category} points to {sorted(unknown) or kind.fallback!r}, which "
                "is not there"
            )


def _only(where: str, table: Mapping[str, object], known: set[str]) -> None:
    """Raise FileFormatError when the table has a key that is not known."""
    unknown = sorted(set(table) - known)
    if unknown:
        raise FileFormatError(
            f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}"
        )
