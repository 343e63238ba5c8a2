"""Writes TensorBoard event files: scalars only, with no library at all.

Where it stands in the flow: `metrics` writes each round's figures here, beside its lines of JSON. The usual writers load torch or
TensorFlow when they are installed, which costs a server ten seconds and hundreds of megabytes for a few numbers; what they write is
this (TensorFlow's record and event formats):

    file    = record*
    record  = length (8 bytes) | checksum of the length (4) | event | checksum of the event (4)      little endian
    event   = protobuf: 1 wall time (double), 2 step (varint), 3 file version (text, first event only), 5 summary
    summary = protobuf: 1 value*;  value = protobuf: 1 tag (text), 2 number (float)

A checksum is CRC-32C (Castagnoli), rotated right by 15 bits, plus 0xa282ead8.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path


class EventFile:
    """A new event file in a folder, which is made if need be; raises OSError."""

    def __init__(self, folder: Path) -> None:
        """Make the file; its name holds the time, as TensorBoard wants it."""
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns() % 10**9}"
        self._file = (folder / name).open("xb")
        self._write(_double(1, now) + _bytes(3, b"brain.Event:2"))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the figures of a step under their names; raises OSError."""
        values = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items()
        )
        self._write(_double(1, time.time()) + _number(2, step) + _bytes(5, values))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _checksum(data: bytes) -> bytes:
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
