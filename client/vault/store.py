"""What the rest of the device sees of the vault: records by type and id, changed in transactions.

Where it stands in the flow: rooms that keep something take a `Store` and never a `Vault`. So virtual people
and trials, which have no vault, use a `MemoryStore` instead.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

ONLY = "only"
"""The id of a record that there is only one of."""


class Records(Protocol):
    """What can be read: a store, or a change to it."""

    def get(self, type_: str, id_: str, /) -> bytes:
        """Return a record's content; raises `KeyError` if there is none."""

    def has(self, type_: str, id_: str, /) -> bool:
        """Return whether there is such a record."""

    def list(self, type_: str, /) -> tuple[str, ...]:
        """Return the ids of all records of one type, sorted."""


class Change(Records, Protocol):
    """A transaction under way, through which records are written."""

    def put(self, type_: str, id_: str, content: bytes, /) -> None:
        """Write a record."""

    def delete(self, type_: str, id_: str, /) -> None:
        """Forget a record; raises `KeyError` if there is none."""


class Store(Records, Protocol):
    """Where records are kept: an open vault, or a `MemoryStore`."""

    def transaction(self) -> AbstractContextManager[Change]:
        """Make the changes of a `with` block together, or none of them if it raises."""


class MemoryStore:
    """Records in memory that end with the process: for virtual people and trials, which have no vault."""

    def __init__(self) -> None:
        """Begin empty."""
        self._records: dict[tuple[str, str], bytes] = {}

    def transaction(self) -> AbstractContextManager[MemoryStore]:
        """Return this store itself; its changes are made at once."""
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
        """Return whether there is such a record."""
        return (type_, id_) in self._records

    def list(self, type_: str) -> tuple[str, ...]:
        """Return the ids of all records of one type, sorted."""
        return tuple(sorted(id_ for kind, id_ in self._records if kind == type_))


class Within:
    """A change under way as a store: a transaction that begins on it is part of that change."""

    def __init__(self, change: Change) -> None:
        """Use the change."""
        self._change = change
        self.get, self.has, self.list = change.get, change.has, change.list

    def transaction(self) -> AbstractContextManager[Change]:
        """Return the change that is under way."""
        return nullcontext(self._change)
