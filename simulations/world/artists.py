"""The table of subjects that artists drew: what they are called and where they belong.

`artists.toml` lists them; `drawings` draws them from Fluent Emoji and Noto Emoji.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

TABLE: Final = Path(__file__).with_name("artists.toml")


@dataclass(frozen=True)
class Artist:
    """A subject that artists drew: its drawings, its words, and the places where it belongs."""

    name: str
    drawn: tuple[str, ...]
    words: tuple[str, ...]  # its name first
    unseen: tuple[str, ...]
    settings: tuple[str, ...]
    painted: bool  # the shipped painter learns it


@cache
def load_artists() -> Mapping[str, Artist]:
    """Return all subjects that artists drew, by name, in the order of the table."""
    found = {}
    for home in tomllib.loads(TABLE.read_text(encoding="utf-8")).values():
        settings = tuple(home.pop("settings"))
        for name, one in home.items():
            found[name] = Artist(
                name,
                tuple(one["drawn"]),
                (name, *one.get("words", ())),
                tuple(one.get("unseen", ())),
                settings,
                one.get("painted", False),
            )
    return MappingProxyType(found)
