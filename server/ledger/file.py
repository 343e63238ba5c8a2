"""An append-only file of JSON lines, each bound to the one before by its hash.

The privacy ledger lies on the disk in this form.

Where it stands in the flow: `ledger` decides what is written, this module writes it so that no line is lost,
and finds out when somebody changed one. A line is canonical JSON (sorted keys, no spaces) with its `index`,
from 0, and `previous`, the SHA-256 of the line before, without its line end; the first has 64 zeros there.

    ledger.jsonl         all lines
    ledger.jsonl.newest  the newest line once more

The copy is written first, in one step; the line is added to the file after it. So a kill, even one that
leaves half a line, loses nothing: the next to open the ledger finds the copy and completes the file, and what
the line says counts although nobody may have acted on it. A changed, doubled, left-out or reordered line
breaks the chain, and a last line that was taken away does not fit the copy. Two older files
that fit together are found out only by a hash that is kept elsewhere: `head` goes into checkpoints
and signed releases, and `includes` looks it up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from palate.shared.durable import storage_error, write_atomically
from palate.shared.errors import LedgerDamagedError

BEFORE_FIRST: Final = "0" * 64
MAX_BYTES: Final = 256_000_000
_ADVICE = "restore it from a backup; without a sound ledger nobody knows what was spent"


@dataclass(frozen=True)
class Line:
    """One line: what it says, and the SHA-256 of its bytes."""

    content: Mapping[str, Any]  # without index and previous
    hash: str


@dataclass(frozen=True)
class Found:
    """What lies on the disk: all lines, and what has to be done to complete the file."""

    lines: tuple[Line, ...]  # with the pending one
    sound_bytes: int  # of the file, up to the end of the last complete line
    pending: bytes  # the newest line, where the file does not have it or has only part of it
    torn: bool


class LedgerFile:
    """An open ledger file, completed if a kill left half a line; raises LedgerDamagedError or StorageError.

    One process at a time has it open for writing (the server holds its folder's lock); another that writes
    meanwhile is noticed at the next line.
    """

    def __init__(self, path: Path) -> None:
        """Read and check every line."""
        self.path = path
        found = read_lines(path)
        self.lines = list(found.lines)
        self._hashes = {line.hash for line in self.lines}
        self._bytes = found.sound_bytes
        if found.torn:
            self._cut(found.sound_bytes)
        if found.pending:
            self._add(found.pending)

    @property
    def head(self) -> str:
        """The hash of the newest line: it stands for the whole ledger."""
        return self.lines[-1].hash if self.lines else BEFORE_FIRST

    def includes(self, head: str) -> bool:
        """Return whether this ledger is one that once had this head, or a continuation of it."""
        return head == BEFORE_FIRST or head in self._hashes

    def append(self, content: Mapping[str, Any]) -> None:
        """Add a line.

        When this returns, it is on the disk. Raises StorageError, after which the line may or may not count.
        """
        data = encode_line(content, len(self.lines), self.head)
        write_atomically(
            _newest(self.path), data, consequence="nothing was booked, and the round must not begin"
        )
        line = Line(dict(content), _hash(data))
        self.lines.append(line)
        self._hashes.add(line.hash)
        self._add(data)

    def _add(self, data: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                if file.tell() != self._bytes:
                    raise LedgerDamagedError(
                        f"{self.path} was changed by somebody else while it was in use; {_ADVICE}"
                    )
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self.path, "the round counts as spent, and must not begin") from None
        self._bytes += len(data)

    def _cut(self, size: int) -> None:
        try:
            os.truncate(self.path, size)
        except OSError as error:
            raise storage_error(error, self.path, "nothing was changed") from None


def read_lines(path: Path) -> Found:
    """Return what lies on the disk, without changing it.

    Raises:
        LedgerDamagedError: the chain does not hold.
    """
    newest = _read(_newest(path))
    data = _read(path)
    while (again := _read(_newest(path))) != newest:  # a running server wrote a line meanwhile
        newest, data = again, _read(path)
    *complete, tail = data.split(b"\n")
    lines: list[Line] = []
    for number, line in enumerate(complete):
        lines.append(_decode_line(line, number, lines[-1].hash if lines else BEFORE_FIRST, path))
    sound_bytes = len(data) - len(tail)
    if not newest:
        if data:
            raise LedgerDamagedError(f"{_newest(path)} is missing next to its ledger; {_ADVICE}")
        return Found((), 0, b"", torn=False)
    if complete and newest == complete[-1] + b"\n" and not tail:
        return Found(tuple(lines), sound_bytes, b"", torn=False)
    # A kill came between the two writings. Half a line, or zeros after a power cut, may stand for the line
    # that is pending.
    if newest.startswith(tail) or not tail.strip(b"\0"):
        previous = lines[-1].hash if lines else BEFORE_FIRST
        lines.append(_decode_line(newest.removesuffix(b"\n"), len(lines), previous, _newest(path)))
        if newest.endswith(b"\n"):
            return Found(tuple(lines), sound_bytes, newest, torn=bool(tail))
    raise LedgerDamagedError(f"{path} does not end with the line that was written last; {_ADVICE}")


def encode_line(content: Mapping[str, Any], index: int, previous: str) -> bytes:
    """Return a line with its line end; raises ValueError for NaN and infinity, which JSON does not have."""
    whole = {**content, "index": index, "previous": previous}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _decode_line(data: bytes, index: int, previous: str, path: Path) -> Line:
    place = f"line {index + 1} of {path}"
    try:
        whole = json.loads(data, parse_constant=_refuse_constant)
        if not isinstance(whole, dict):
            raise ValueError("no object")
        found_index, found_previous = whole.pop("index"), whole.pop("previous")
        if encode_line(whole, found_index, found_previous) != data + b"\n":
            raise ValueError("not canonical")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LedgerDamagedError(f"{place} is no line of a ledger; {_ADVICE}") from None
    if (type(found_index), found_index, found_previous) != (int, index, previous):
        raise LedgerDamagedError(
            f"{place} does not follow the line before it: a line was changed, doubled, moved or taken away; "
            f"{_ADVICE}"
        )
    return Line(whole, _hash(data))


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data.removesuffix(b"\n")).hexdigest()


def _newest(path: Path) -> Path:
    return path.with_name(path.name + ".newest")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise storage_error(error, path, "nothing was changed") from None
    if len(data) > MAX_BYTES:
        raise LedgerDamagedError(f"{path} has more than {MAX_BYTES:,} bytes, so it is no ledger")
    return data
