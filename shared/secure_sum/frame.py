"""How each message of a masked round begins and ends, and how it is opened.

Where it stands in the flow: `secure_sum.messages` and `agreement` say what stands between. `start` is
"PALATE", the kind and the version 1, as in `wire`, whose messages these extend. The server's messages end
with the checksum of `wire`, the devices' with a signature over what is before it, by the identity that they
name.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.errors import MaskError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.masks import KEY_BYTES, SIGNATURE_BYTES
from palate.shared.wire import CHECKSUM_BYTES, MAGIC, VERSION, checksum_fits

INVITATION, ADVERT, ROSTER, SHARES, DELIVERY, MASKED, UNMASK, REVEALED, ENDORSEMENT, AGREEMENT = range(3, 13)
_KINDS: Final = {
    INVITATION: "an invitation",
    ADVERT: "an advert",
    ROSTER: "a roster",
    SHARES: "a message of shares",
    DELIVERY: "a delivery",
    MASKED: "a masked vector",
    UNMASK: "an unmask request",
    REVEALED: "a message of revealed shares",
    ENDORSEMENT: "an endorsement",
    AGREEMENT: "an agreement",
}

HASH_BYTES: Final = 32
_START = struct.Struct("<6sBB")
START_BYTES: Final = _START.size


def start_of(kind: int) -> bytes:
    """Return the bytes that a message of this kind begins with."""
    return _START.pack(MAGIC, kind, VERSION)


def signed(kind: int, body: bytes, identity: Ed25519PrivateKey) -> bytes:
    """Return a device's message: start, body and signature."""
    content = start_of(kind) + body
    return content + masks.sign(content, identity)


def _check_start(data: Any, kind: int) -> None:
    if not isinstance(data, bytes) or len(data) < START_BYTES:
        raise MaskError(f"the message is too short for {_KINDS[kind]}", "size")
    magic, found, version = _START.unpack_from(data)
    if magic != MAGIC:
        raise MaskError("the message is not of Palate's federation; it must begin with PALATE", "magic")
    if found != kind:
        raise MaskError(
            f"the message is {_KINDS.get(found, f'of kind {found}')}; due is {_KINDS[kind]}", "kind"
        )
    if version != VERSION:
        raise MaskError(
            f"the message has version {version} of the wire form; this Palate reads version {VERSION}",
            "version",
        )


def open_checked(data: bytes, kind: int, least: int, most: int | None = None) -> memoryview:
    """Return what is between start and checksum of a server's message, of `least` to `most` bytes.

    Raises MaskError.
    """
    _check_start(data, kind)
    size = len(data) - START_BYTES - CHECKSUM_BYTES
    if size < least or (most is not None and size > most):
        raise MaskError(f"{_KINDS[kind]} of {len(data):,} bytes is too short or too long", "size")
    if not checksum_fits(data):
        raise MaskError("the message was damaged on its way; its checksum does not fit", "damaged")
    return memoryview(data)[START_BYTES:-CHECKSUM_BYTES]


def open_signed(data: bytes, kind: int, size: int, *, at_least: bool = False) -> tuple[memoryview, bytes]:
    """Return what is between start and signature of a device's message, and the unchecked signature.

    Raises:
        MaskError: unless that is `size` bytes long, or more where `at_least`.
    """
    _check_start(data, kind)
    found = len(data) - START_BYTES - SIGNATURE_BYTES
    if found < size or (found > size and not at_least):
        raise MaskError(f"{_KINDS[kind]} of {len(data):,} bytes is too short or too long", "size")
    view = memoryview(data)
    return view[START_BYTES:-SIGNATURE_BYTES], bytes(view[-SIGNATURE_BYTES:])


def check_sender(data: bytes, body: memoryview, signature: bytes, identity: bytes) -> None:
    """Raise MaskError unless the body names this identity after its first hash, and it signed the message."""
    if body[HASH_BYTES : HASH_BYTES + KEY_BYTES] != identity:
        raise MaskError("the message is from another device", "identity")
    masks.verify(signature, data[:-SIGNATURE_BYTES], identity, "a message")


def pieces(body: memoryview, each: int) -> tuple[bytes, ...]:
    """Return the body cut into pieces of so many bytes; raises MaskError where one is left over."""
    if len(body) % each:
        raise MaskError(f"what is shared comes in pieces of {each} bytes", "size")
    return tuple(bytes(body[start : start + each]) for start in range(0, len(body), each))
