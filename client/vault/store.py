"""What the rest of the device sees of the vault: records by type and id, read, and changed together in one step.

Rooms that keep something take a `Store` and never a `Vault`, so that virtual people and trials, who have no vault, give a
`MemoryStore` in its place.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

ONLY = "only"
"""The id of a record of which there is one."""


class Records(Protocol):
    """What is read from: a store, or a change to it."""

    def get(self, type_: str, id_: str, /) -> bytes:
        """Return a record's content; raises `KeyError`."""

    def has(self, type_: str, id_: str, /) -> bool:
        """Say whether there is such a record."""

    def list(self, type_: str, /) -> tuple[str, ...]:
        """Return the ids of all records of one type, sorted."""


class Change(Records, Protocol):
    """What is written through: a transaction under way."""

    def put(self, type_: str, id_: str, content: bytes, /) -> None:
        """Write a record."""

    def delete(self, type_: str, id_: str, /) -> None:
        """Forget a record; raises `KeyError` if there is none."""


class Store(Records, Protocol):
    """Where records are kept: an open vault, or a `MemoryStore`."""

    def transaction(self) -> AbstractContextManager[Change]:
        """Make the changes of a `with` block together."""


class MemoryStore:
    """Records that lie in memory and end with the process: for virtual people and trials, which keep no vault."""

    def __init__(self) -> None:
        """Begin empty."""
        self._records: dict[tuple[str, str], bytes] = {}

    def transaction(self) -> AbstractContextManager[MemoryStore]:
        """Give this store itself; its changes are made at once."""
        return nullcontext(self)

    def put(self, type_: str, id_: str, content: bytes) -> None:
        """Write a record."""
        self._records[type_, id_] = content

    def delete(self, type_: str, id_: str) -> None:
        """Forget a record; raises `KeyError` if there is none."""
        del self._records[type_, id_]

    def get(self, type_: str, id_: str) -> bytes:
        """Return a record's content; raises `KeyError` if there is none."""
        return self._records[type_, id_]

    def has(self, type_: str, id_: str) -> bool:
        """Say whether there is such a record."""
        return (type_, id_) in self._records

    def list(self, type_: str) -> tuple[str, ...]:
        """Return the ids of all records of one type, sorted."""
        return tuple(sorted(id_ for kind, id_ in self._records if kind == type_))


class Within:
    """A change under way as a store: a transaction that is begun on it takes part in that change."""

    def __init__(self, change: Change) -> None:
        """Take the change."""
        self._change = change
        self.get, self.has, self.list = change.get, change.has, change.list

    def transaction(self) -> AbstractContextManager[Change]:
        """Give the change that is under way."""
        return nullcontext(self._change)
