"""Pseudonyms: the key of a device in one masked round, and how a registrar vouches for it blindly.

Where it stands in the flow: `secure_sum.messages` carries pseudonyms and their certificates to all devices of
a round, `client.federation.pseudonyms` gets them in batches, `server.registrar` signs them. A **slot** is the
number of a masked round of one federation. It never comes twice, not even for a round that was begun anew.
The registrar has one signing key for each slot. For each device that it knows it signs one blinded pseudonym
for each slot (`blind_signature`). So nobody, not even the registrar, can tell which device a pseudonym
belongs to or which pseudonyms are one device's. And still no device can appear twice in a round: every slot
has its own key, so a certificate for another slot is useless.

Three files go between registrar and device. All numbers are little endian except the 256 bytes of a modulus
or a signed value.

    slot keys  start 1 | registrar 32 | first slot 4 | count 2 | for each slot: modulus 256
               | signature 64, by the registrar
    request    start 2 | registrar 32 | identity 32 | slot keys 32 | first slot 4 | count 2
               | for each slot: blinded value 256 | signature 64, by the identity
    answer     start 3 | request 32 | count 2 | for each slot: signed value 256

`start` is "PALATEPS", the kind and the version 1. `slot keys` and `request` in a later file are the SHA-256
of the file. A registrar's key is for one federation alone: slots of two federations would be taken for each
other. Reading is strict; what does not fit is a FileFormatError. `tests/data/pseudonym_vectors.json` holds
test vectors.

**What a lying registrar can do.** It can vouch for devices that do not exist. It could give devices different
slot keys, to tell them apart by those. But a device takes part only with devices whose certificates fit its
own slot key, so such devices never meet.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from palate.shared.errors import FileFormatError, MaskError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.blind_signature import MODULUS_BITS, MODULUS_BYTES, public_key, verify
from palate.shared.secure_sum.masks import SIGNATURE_BYTES

MAGIC: Final = b"PALATEPS"
SLOT_KEYS, REQUEST, ANSWER = 1, 2, 3
CERTIFICATE_BYTES: Final = MODULUS_BYTES
NO_CERTIFICATE: Final = bytes(CERTIFICATE_BYTES)
MOST_SLOTS: Final = 4_096
"""In one file: about a megabyte."""
LAST_SLOT: Final = 2**32 - 1

_VERSION = 1
_START = struct.Struct("<8sBB")
_SLOT_KEYS = struct.Struct("<32sIH")
_REQUEST = struct.Struct("<32s32s32sIH")
_ANSWER = struct.Struct("<32sH")
_NAMES = {SLOT_KEYS: "slot keys", REQUEST: "a request for pseudonyms", ANSWER: "a registrar's answer"}
MOST_FILE_BYTES: Final = _START.size + _REQUEST.size + MOST_SLOTS * MODULUS_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True)
class SlotKey:
    """The key with which a registrar certifies the pseudonyms of one slot."""

    slot: int
    modulus: int = field(repr=False)

    @cached_property
    def public(self) -> RSAPublicKey:
        """The key in the form that signatures are checked with."""
        return public_key(self.modulus)


@dataclass(frozen=True)
class Pseudonym:
    """How a device appears in one round: its key, its certificate, and the pinned registrar's slot key."""

    key: Ed25519PrivateKey = field(repr=False)
    certificate: bytes = field(default=NO_CERTIFICATE, repr=False)
    slot_key: SlotKey | None = None


@dataclass(frozen=True)
class SlotKeys:
    """A registrar's public keys for slots in a row.

    `hash` is the SHA-256 of the file, by which people can compare it.
    """

    registrar: bytes
    first: int
    moduli: tuple[int, ...] = field(repr=False)
    hash: bytes

    @property
    def last(self) -> int:
        """The last slot."""
        return self.first + len(self.moduli) - 1

    def key(self, slot: int) -> SlotKey | None:
        """Return the key of a slot, None if it is not among these."""
        return SlotKey(slot, self.moduli[slot - self.first]) if self.first <= slot <= self.last else None


@dataclass(frozen=True)
class Request:
    """What a device asks a registrar to sign: for slots in a row one blinded value each.

    `hash` is that of its bytes.
    """

    registrar: bytes
    identity: bytes
    slot_keys: bytes
    first: int
    blinded: tuple[int, ...] = field(repr=False)
    hash: bytes


def certified_content(pseudonym: bytes, slot: int) -> bytes:
    """Return what a certificate signs: that this Ed25519 public key may appear in this slot."""
    return b"palate pseudonym 1\0" + slot.to_bytes(4, "little") + pseudonym


def check_certificate(certificate: bytes, pseudonym: bytes, key: SlotKey) -> None:
    """Raise MaskError (`certificate`) unless the registrar certified this pseudonym for the key's slot."""
    verify(certificate, certified_content(pseudonym, key.slot), key.public)


# --- the three files ----------------------------------------------------------------------------------------


def encode_slot_keys(first: int, moduli: Sequence[int], registrar: Ed25519PrivateKey) -> bytes:
    """Return the file of a registrar's keys for slots in a row, signed."""
    _check_range(first, len(moduli))
    header = _SLOT_KEYS.pack(registrar.public_key().public_bytes_raw(), first, len(moduli))
    content = _start_of(SLOT_KEYS) + header + _join(moduli)
    return content + masks.sign(content, registrar)


def decode_slot_keys(data: bytes, registrar: bytes | None = None) -> SlotKeys:
    """Return the slot keys of a file, signed by the registrar that it names, or by the one that is given."""
    named, first, count = _SLOT_KEYS.unpack_from(_open(data, SLOT_KEYS, _SLOT_KEYS, SIGNATURE_BYTES))
    if registrar is not None and named != registrar:
        raise FileFormatError("these slot keys are of another registrar than the one that is pinned here")
    _check_signature(data, named, SLOT_KEYS)
    moduli = _values(data, _SLOT_KEYS, count, SIGNATURE_BYTES)
    _check_range(first, count)
    if any(one.bit_length() != MODULUS_BITS or one % 2 == 0 for one in moduli) or len(set(moduli)) < count:
        raise FileFormatError(f"slot keys are different odd numbers of {MODULUS_BITS:,} bits; these are not")
    return SlotKeys(named, first, moduli, hashlib.sha256(data).digest())


def encode_request(identity: Ed25519PrivateKey, keys: SlotKeys, first: int, blinded: Sequence[int]) -> bytes:
    """Return a device's request for certificates for slots in a row, signed by its identity."""
    _check_range(first, len(blinded))
    names = keys.registrar, identity.public_key().public_bytes_raw(), keys.hash
    content = _start_of(REQUEST) + _REQUEST.pack(*names, first, len(blinded)) + _join(blinded)
    return content + masks.sign(content, identity)


def decode_request(data: bytes) -> Request:
    """Return a request, signed by the identity that it names.

    Whether the registrar knows it is for the caller to check.
    """
    header = _open(data, REQUEST, _REQUEST, SIGNATURE_BYTES)
    registrar, identity, slot_keys, first, count = _REQUEST.unpack_from(header)
    _check_signature(data, identity, REQUEST)
    blinded = _values(data, _REQUEST, count, SIGNATURE_BYTES)
    _check_range(first, count)
    return Request(registrar, identity, slot_keys, first, blinded, hashlib.sha256(data).digest())


def encode_answer(request: bytes, signed: Sequence[int]) -> bytes:
    """Return the file that answers the request of this hash, with a signed value for each of its slots."""
    return _start_of(ANSWER) + _ANSWER.pack(request, len(signed)) + _join(signed)


def decode_answer(data: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return the hash of the request that is answered, and the signed values, which are not checked yet."""
    request, count = _ANSWER.unpack_from(_open(data, ANSWER, _ANSWER, 0))
    return request, _values(data, _ANSWER, count, 0)


def _start_of(kind: int) -> bytes:
    return _START.pack(MAGIC, kind, _VERSION)


def _open(data: bytes, kind: int, header: struct.Struct, tail: int) -> memoryview:
    """Return what is after the start, long enough for the header; raises FileFormatError for another file."""
    if len(data) < _START.size + header.size + tail or data[: len(MAGIC)] != MAGIC:
        raise FileFormatError(f"the file is not {_NAMES[kind]}")
    _, found, version = _START.unpack_from(data)
    if found != kind:
        raise FileFormatError(f"the file is {_NAMES.get(found, 'of another kind')}; due is {_NAMES[kind]}")
    if version != _VERSION:
        raise FileFormatError(
            f"the file has version {version} of its form; this Palate reads version {_VERSION}"
        )
    return memoryview(data)[_START.size :]


def _values(data: bytes, header: struct.Struct, count: int, tail: int) -> tuple[int, ...]:
    begin = _START.size + header.size
    if len(data) != begin + count * MODULUS_BYTES + tail:
        raise FileFormatError("the file is not as long as it says; have it sent again")
    ends = range(begin, len(data) - tail, MODULUS_BYTES)
    return tuple(int.from_bytes(data[start : start + MODULUS_BYTES], "big") for start in ends)


def _check_signature(data: bytes, signer: bytes, kind: int) -> None:
    try:
        masks.check_identity(signer)
        masks.verify(data[-SIGNATURE_BYTES:], data[:-SIGNATURE_BYTES], signer, _NAMES[kind])
    except MaskError:
        raise FileFormatError(
            f"the file was changed on its way: whom it names has not signed {_NAMES[kind]} of this content"
        ) from None


def _check_range(first: int, count: int) -> None:
    if not 1 <= count <= MOST_SLOTS or not 1 <= first <= LAST_SLOT + 1 - count:
        raise FileFormatError(
            f"slots are numbered from 1, and a file holds 1 to {MOST_SLOTS:,} of them; not {count:,} from "
            f"{first:,} on"
        )


def _join(values: Sequence[int]) -> bytes:
    return b"".join(one.to_bytes(MODULUS_BYTES, "big") for one in values)
