"""Small parts of the release formats: bytes from front to back, values in their ranges, keys as texts.

Where it stands in the flow: `releases.card`, `releases.log` and `release` are written and read with these.
Everything that does not fit is a `ReleaseError` whose `reason` is one word.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from palate.shared.checks import is_hex, is_number, is_whole
from palate.shared.errors import ReleaseError
from palate.shared.wire import CHECKSUM_BYTES, MAGIC

RELEASE, LOG = 11, 12  # kinds of bytes
VERSION: Final = 2

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
UNSIGNED: Final = bytes(SIGNATURE_BYTES)

START: Final = struct.Struct("<6sBB")
SIZE: Final = struct.Struct("<I")

_KEY_TEXT = re.compile(r"palate1([a-z2-7]{58})")


class Reader:
    """Takes bytes from front to back; raises ReleaseError where there are too few or too many."""

    def __init__(self, data: bytes, start: int, whose: str) -> None:
        """Begin at `start`; `whose` bytes these are is named in errors."""
        self._data, self._at, self._whose = data, start, whose

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if size > len(self._data) - self._at:
            raise ReleaseError(f"{self._whose} is cut short; take it again", "size")
        self._at += size
        return self._data[self._at - size : self._at]

    def read(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the next values."""
        return layout.unpack(self.take(layout.size))

    def end(self) -> None:
        """Raise ReleaseError if anything follows."""
        if self._at != len(self._data):
            raise ReleaseError(f"{self._whose} goes on after its end; take it again", "size")


def open_bytes(data: bytes, kind: int, most: int, what: str) -> None:
    """Raise ReleaseError unless the bytes begin as those of this kind do, and are no longer than `most`."""
    if not isinstance(data, bytes) or not START.size + CHECKSUM_BYTES <= len(data) <= most:
        raise ReleaseError(f"this is not {what}: its size is out of bounds", "size")
    magic, found, version = START.unpack_from(data)
    if magic != MAGIC:
        raise ReleaseError(f"this is not {what} of Palate; it must begin with PALATE", "magic")
    if found != kind:
        raise ReleaseError(f"this is not {what}: it is of kind {found} and must be of kind {kind}", "kind")
    if version != VERSION:
        raise ReleaseError(
            f"{what} of form {version} cannot be read; this Palate reads form {VERSION}", "version"
        )


def check_number(name: str, value: int, least: int, most: int) -> None:
    """Raise ReleaseError for what is no whole number in this range."""
    if not is_whole(value, least, most):
        raise ReleaseError(
            f"the release's {name} is out of range; it must be a whole number from {least} to {most:,}",
            "number",
        )


def checked_real(name: str, value: float, least: float, most: float, *, infinite: bool = False) -> float:
    """Return the number as a float.

    Raises:
        ReleaseError: a number outside [least, most], NaN, -0.0, and infinity unless it is allowed.
    """
    if value == math.inf and infinite:
        return value
    if not is_number(value, least, most):
        raise ReleaseError(
            f"the release's {name} is out of range; it must be from {least:g} to {most:g}", "number"
        )
    return float(value)


def keep_reals(card: object, ranges: Mapping[str, tuple[float, float]], *, infinite: bool = False) -> None:
    """Check each named attribute of a frozen dataclass with `checked_real`, and keep it as a float."""
    for name, (least, most) in ranges.items():
        value = checked_real(name.replace("_", " "), getattr(card, name), least, most, infinite=infinite)
        object.__setattr__(card, name, value)


def check_hash(name: str, value: str) -> None:
    """Raise ReleaseError for what is no SHA-256 in hexadecimal."""
    if not is_hex(value):
        raise ReleaseError(
            f"the release's {name} is no SHA-256 in 64 lower-case hexadecimal digits", "number"
        )


def check_bytes(name: str, value: bytes, size: int) -> None:
    """Raise ReleaseError for bytes of another length."""
    if not isinstance(value, bytes) or len(value) != size:
        raise ReleaseError(f"the release's {name} must have {size} bytes", "size")


def write_key(key: bytes) -> str:
    """Return a public key as the text that people pin: "palate1" and 58 letters and digits."""
    check_bytes("key", key, KEY_BYTES)
    check = hashlib.sha256(b"palate release key 1\0" + key).digest()[:4]
    return "palate1" + base64.b32encode(key + check).decode().rstrip("=").lower()


def read_key(text: str) -> bytes:
    """Return the key of a text that `write_key` wrote, whatever its case.

    Raises:
        ReleaseError: any other text.
    """
    found = _KEY_TEXT.fullmatch("".join(text.split()).lower())
    if found is not None:
        key = base64.b32decode(found[1].upper() + "=" * 6)[:KEY_BYTES]
        if write_key(key) == found[0]:
            return key
    raise ReleaseError(
        "this is no release key; it is the text that begins with palate1, whole, as `palate server key` "
        "prints it",
        "key",
    )
