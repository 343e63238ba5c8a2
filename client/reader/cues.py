"""The words by which comments show feeling, read from cues.toml: opinions, excess, wish, lack, negation, contrast.

What each list does to a mention is said in client/reader/readings.py; here they only become one index from
spelling keys to cues.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

from palate.shared.attributes import phrase_key
from palate.shared.errors import FileFormatError

Key = tuple[str, ...]
_SPOKEN = ("excess", "desire", "lack", "absence", "less", "more", "negators", "redeem", "untaken", "swaps")
_LISTS = (
    *_SPOKEN, "against", "contrast", "concession", "respect", "joins", "strong", "faint", "verbs", "copulas", "ignored", "plain", "function",
    "doubtful", "others", "habit", "granted",
)  # fmt: skip


@dataclass(frozen=True)
class Cue:
    """One phrase that shows feeling: its kind ("opinion", "agent", "excess", "desire", ...) and, for opinions, signed weight."""

    kind: str
    weight: float = 0.0


@dataclass(frozen=True)
class Cues:
    """All cues, ready for looking up by the keys of words."""

    phrases: Mapping[Key, Cue]
    """Phrases that bear on polarity, by key."""
    opinions: Mapping[str, float]
    """Opinions as written, by which unknown words are recognised as praise or blame."""
    against: frozenset[Key]
    contrast: frozenset[Key]
    concession: frozenset[Key]
    joins: frozenset[Key]
    strong: frozenset[Key]
    faint: frozenset[Key]
    respect: frozenset[Key]
    verbs: frozenset[str]
    copulas: frozenset[str]
    others: frozenset[str]
    habit: frozenset[str]
    doubtful: frozenset[Key]
    granted: frozenset[Key]
    ignored: frozenset[Key]
    plain: frozenset[str]
    function: frozenset[str]
    familiar: frozenset[str]
    """Every single word that occurs in any list."""


@lru_cache(maxsize=1)
def load_cues() -> Cues:
    """Return the cues that ship with Palate, read once."""
    return read_cues(resources.files(__package__).joinpath("cues.toml").read_text(encoding="utf-8"))


def read_cues(text: str) -> Cues:
    """Return the cues written in a TOML text. Raises FileFormatError when a list is missing or unknown."""
    table = tomllib.loads(text)
    lists = table.get("words", {})
    if set(lists) != set(_LISTS) or set(table) != {"opinions", "agents", "words"}:
        wrong = sorted(set(lists) ^ set(_LISTS)) or sorted(set(table) ^ {"opinions", "agents", "words"})
        raise FileFormatError(f"cues: {wrong[0]!r} is missing or unknown; the lists are {', '.join(_LISTS)}")
    phrases: dict[Key, Cue] = {}
    for kind in _SPOKEN:
        for phrase in lists[kind]:
            phrases.setdefault(phrase_key(phrase), Cue(kind))
    for phrase in lists["respect"]:
        phrases.setdefault(phrase_key(phrase), Cue("respect"))
    for phrase, weight in table["opinions"].items():
        phrases.setdefault(phrase_key(phrase), Cue("opinion", float(weight)))
    for phrase, weight in table["agents"].items():
        phrases[phrase_key(phrase)] = Cue("agent", float(weight))
    keys = {name: frozenset(phrase_key(phrase) for phrase in lists[name]) for name in _LISTS}
    familiar = {word for group in (*keys.values(), frozenset(phrases)) for key in group for word in key}
    return Cues(
        phrases=MappingProxyType(phrases),
        opinions=MappingProxyType({phrase: float(weight) for phrase, weight in table["opinions"].items()}),
        verbs=frozenset(lists["verbs"]),
        copulas=frozenset(lists["copulas"]),
        others=frozenset(lists["others"]),
        habit=frozenset(lists["habit"]),
        plain=frozenset(word for key in keys["plain"] for word in key),
        function=frozenset(lists["function"]),
        familiar=frozenset(familiar),
        **{
            name: keys[name]
            for name in (
                "against",
                "contrast",
                "concession",
                "joins",
                "strong",
                "faint",
                "respect",
                "ignored",
                "doubtful",
                "granted",
            )
        },
    )
