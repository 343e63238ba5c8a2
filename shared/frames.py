"""Several byte strings as one body: each behind its length, four bytes big endian.

Where it stands in the flow: the merged calls of devices (`front`) and the round loop's calls (`control`)
carry their parts so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_SIZE = struct.Struct(">I")


def join_frames(parts: Iterable[bytes]) -> bytes:
    """Return one body of several parts."""
    return b"".join(piece for part in parts for piece in (_SIZE.pack(len(part)), part))


def split_frames(body: bytes) -> list[bytes]:
    """Return the parts of a body; raise ValueError for a body that is not exactly parts."""
    parts, at = [], 0
    while at + _SIZE.size <= len(body):
        (size,) = _SIZE.unpack_from(body, at)
        at += _SIZE.size
        parts.append(body[at : at + size])
        at += size
    if at != len(body) or not parts:
        raise ValueError("not frames")
    return parts
