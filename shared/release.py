"""Signed releases as bytes: the card of an encoder, the log that chains all cards, the message that carries both to a device.

Where it stands in the flow: the server signs a card for each release and appends it to its log (`server.releases`); a device
checks log and encoder against what it saw before (`release_check`) and keeps them in its vault (`client.releases`).

    log       magic "PALATE" | kind 12 | version 1 | first key 32 | release 0 32 | entries 4 | entry | entry | ...
    entry     kind 1 | number 4 | previous 32 | when 8 | content | signature 64 | of a rotation: signature by the new key 64
     release  (kind 1)  release 4 | round 4 | updates 8 | hash 32 | parent 32 | shapes 32 | fixed 32 | backbone 32 | sha256 32
              | epsilon 8 | delta 8 | mechanism 32
     rotation (kind 2)  key 32
    message   magic "PALATE" | kind 11 | version 1 | size of the log 4 | log | size of the encoder 4 | encoder | checksum 4

Numbers are little endian, whole ones unsigned, others IEEE 754 of 8 bytes; `when` is seconds since 1970 UTC; a mechanism is a
word filled up with zero bytes. Entries are numbered from 1. `previous` is the SHA-256 of the whole entry before, signatures
and all; for the first it is that of "palate release log 1", a zero byte, the first key and the hash of release 0. So the hash of the
last entry names everything before it, as in a certificate-transparency log (RFC 9162) without the tree: logs here are short.
A signature is Ed25519 (RFC 8032) over "palate release entry 1", a zero byte, and the entry without its signatures. A rotation is
signed by the old key and by the new one: a stranger can neither take the log over nor put somebody else's key at its end.

There is one way of writing each value, and what decodes is encoded to the very same bytes again. Everything else is refused
with a `ReleaseError` whose `reason` is one word. `tests/data/release_vectors.json` holds test vectors.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.encoder import MAX_BYTES
from palate.shared.errors import ReleaseError
from palate.shared.wire import CHECKSUM_BYTES, MAGIC, add_checksum, checksum_fits

SHIPPED_HASH: Final = "1dd439a57c8d224ee8b2bc3049f05c547bf26612610329a8bc9041808d5689af"
"""`encoder_hash` of release 0, which ships with Palate and needs no signature: whoever changes it has changed this line too."""

BACKBONE_HASH: Final = "865f6b412840b988cfbd0ce0bd8cdf24a239000e06de1db8db604e730029a721"
"""`backbone_hash` of the frozen towers and statistics that ship with Palate: what encoders of this version are trained on."""

RELEASE, LOG = 11, 12
VERSION: Final = 1
MOST_ENTRIES: Final = 1_000

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
UNSIGNED: Final = bytes(SIGNATURE_BYTES)

LOG_NAME: Final = "releases.log"
"""How the log's file is called in a folder of releases."""

_OF_RELEASE, _OF_ROTATION = 1, 2
_ENTRY_DOMAIN, _LOG_DOMAIN = b"palate release entry 1\0", b"palate release log 1\0"
_START = struct.Struct("<6sBB")
_LOG = struct.Struct("<32s32sI")
_ENTRY = struct.Struct("<BI32sQ")
_CARD = struct.Struct("<IIQ32s32s32s32s32s32sdd32s")
_SIZE = struct.Struct("<I")

MOST_LOG_BYTES: Final = (
    _START.size + _LOG.size + MOST_ENTRIES * (_ENTRY.size + _CARD.size + 2 * SIGNATURE_BYTES)
)
MOST_BYTES: Final = _START.size + 2 * _SIZE.size + MOST_LOG_BYTES + MAX_BYTES + CHECKSUM_BYTES
"""The longest message of kind 11."""

_LAST_SECOND = 253_402_300_799  # of the year 9999
_HASH = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_KEY_TEXT = re.compile(r"palate1([a-z2-7]{58})")


@dataclass(frozen=True)
class PrivacySpent:
    """What the rounds up to a release have spent: user-level (epsilon, delta), and by which mechanism, in one word.

    Numbers that the server claims; a device believes them as far as it believes the server, and keeps a ledger of its own.
    """

    epsilon: float  # at least 0
    delta: float  # from 0 to below 1
    mechanism: str  # up to 32 of a-z, 0-9 and -

    def __post_init__(self) -> None:
        for name, most in (("epsilon", math.inf), ("delta", 1.0)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < most or math.copysign(1.0, value) < 0:
                raise ReleaseError(
                    f"the release's {name} is out of range; it must be from 0 to below {most:g}", "number"
                )
            object.__setattr__(self, name, float(value))
        if not isinstance(self.mechanism, str) or not _WORD.fullmatch(self.mechanism):
            raise ReleaseError(
                "the release's mechanism is no word of up to 32 small letters, digits and hyphens", "number"
            )


@dataclass(frozen=True)
class Acceptance:
    """How an encoder did on public pictures before it was signed (`server.acceptance`); what the server claims.

    Correlations are of what attributes say, against the release before and release 0; the noise is that in what was learned,
    over what devices agreed on (0 without noise).
    """

    pictures: int
    least_correlation: float  # of any attribute, -1 to 1
    mean_correlation: float
    noise_over_signal: float  # 0 to 1,000

    def __post_init__(self) -> None:
        _check_number("pictures", self.pictures, 0, 2**32 - 1)
        for name, low, high in (
            ("least_correlation", -1.0, 1.0),
            ("mean_correlation", -1.0, 1.0),
            ("noise_over_signal", 0.0, 1_000.0),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ReleaseError(
                    f"the release's {name} is out of range; it must be from {low:g} to {high:g}", "number"
                )
            object.__setattr__(self, name, float(value))


@dataclass(frozen=True)
class Card:
    """What is said, and signed, of one release; nothing in it is about a single device. Hashes are SHA-256 in hexadecimal."""

    release: int  # from 1
    round: int  # after which it was made
    updates: int  # that went into it, as the checkpoint it was taken from counted them
    hash: str  # `encoder_hash`
    parent: str  # `encoder_hash` of the release before it
    shapes: str  # `shapes_hash`
    fixed: str  # `fixed_hash`
    backbone: str  # `backbone_hash` of what it was trained on
    sha256: str  # of the encoder's file
    privacy: PrivacySpent | None = None  # None: the server promises nothing

    def __post_init__(self) -> None:
        _check_number("release", self.release, 1, 2**32 - 1)
        _check_number("round", self.round, 0, 2**32 - 1)
        _check_number("updates", self.updates, 0, 2**64 - 1)
        for name in ("hash", "parent", "shapes", "fixed", "backbone", "sha256"):
            _check_hash(name, getattr(self, name))


@dataclass(frozen=True)
class Rotation:
    """The key with which all later entries are signed."""

    key: bytes  # public, 32

    def __post_init__(self) -> None:
        _check_bytes("key", self.key, KEY_BYTES)


@dataclass(frozen=True)
class Entry:
    """One line of the log; `UNSIGNED` stands where a signature is missing."""

    number: int
    previous: str
    when: int  # seconds since 1970, UTC
    content: Card | Rotation
    signature: bytes = UNSIGNED
    countersignature: bytes = b""  # of a rotation, by the new key

    def __post_init__(self) -> None:
        _check_number("number", self.number, 1, MOST_ENTRIES)
        _check_hash("previous", self.previous)
        _check_number("when", self.when, 0, _LAST_SECOND)
        _check_bytes("signature", self.signature, SIGNATURE_BYTES)
        counter = SIGNATURE_BYTES if isinstance(self.content, Rotation) else 0
        _check_bytes("countersignature", self.countersignature, counter)

    @cached_property
    def content_bytes(self) -> bytes:
        """The entry without its signatures."""
        kind = _OF_ROTATION if isinstance(self.content, Rotation) else _OF_RELEASE
        return (
            _ENTRY.pack(kind, self.number, bytes.fromhex(self.previous), self.when)
            + (self.content.key if isinstance(self.content, Rotation) else _encode_card(self.content))
        )  # fmt: skip

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return _ENTRY_DOMAIN + self.content_bytes

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the whole entry, by which the next one names it."""
        return hashlib.sha256(self.content_bytes + self.signature + self.countersignature).hexdigest()

    @property
    def time(self) -> str:
        """When it was made, ISO 8601, UTC."""
        return datetime.fromtimestamp(self.when, UTC).isoformat()


@dataclass(frozen=True)
class ReleaseLog:
    """All releases of a federation and all changes of its key, in order. Nothing of it is checked here but the form."""

    first_key: bytes
    shipped: str = SHIPPED_HASH  # `encoder_hash` of the release 0 that it begins at
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        _check_bytes("first key", self.first_key, KEY_BYTES)
        _check_hash("release 0", self.shipped)
        _check_number("entries", len(self.entries), 0, MOST_ENTRIES)

    @property
    def head(self) -> str:
        """The hash of the last entry, which names everything before it too."""
        return self.entries[-1].hash if self.entries else self.beginning

    @property
    def beginning(self) -> str:
        """What the first entry names as the one before it."""
        return hashlib.sha256(_LOG_DOMAIN + self.first_key + bytes.fromhex(self.shipped)).hexdigest()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys that were ever in force, in order; with the last of them the next entry is to be signed."""
        named = (entry.content.key for entry in self.entries if isinstance(entry.content, Rotation))
        return (self.first_key, *named)

    @property
    def releases(self) -> tuple[tuple[Entry, Card], ...]:
        """The entries that are releases, each with its card."""
        return tuple((entry, entry.content) for entry in self.entries if isinstance(entry.content, Card))

    def with_release(self, card: Card, when: int, key: Ed25519PrivateKey) -> ReleaseLog:
        """Returns the log with one more release, signed."""
        return self._with(Entry(len(self.entries) + 1, self.head, when, card), key)

    def with_rotation(self, new: Ed25519PrivateKey, when: int, key: Ed25519PrivateKey) -> ReleaseLog:
        """Returns the log with a change of its key, signed by the old one and by the new one."""
        rotation = Rotation(new.public_key().public_bytes_raw())
        entry = Entry(len(self.entries) + 1, self.head, when, rotation, UNSIGNED, UNSIGNED)
        return self._with(replace(entry, countersignature=new.sign(entry.signed_bytes)), key)

    def _with(self, entry: Entry, key: Ed25519PrivateKey) -> ReleaseLog:
        signed = replace(entry, signature=key.sign(entry.signed_bytes))
        return replace(self, entries=(*self.entries, signed))


@dataclass(frozen=True)
class SignedRelease:
    """What a device needs for taking a release over: the log up to it, and the encoder's file (safetensors)."""

    log: ReleaseLog
    encoder: bytes


def encode_log(log: ReleaseLog) -> bytes:
    """Returns the bytes of a log; the same log always gives the same bytes."""
    start = _START.pack(MAGIC, LOG, VERSION)
    start += _LOG.pack(log.first_key, bytes.fromhex(log.shipped), len(log.entries))
    return start + b"".join(e.content_bytes + e.signature + e.countersignature for e in log.entries)


def decode_log(data: bytes) -> ReleaseLog:
    """Returns the log of these bytes; raises ReleaseError unless they are exactly what `encode_log` returns for one."""
    _open(data, LOG, MOST_LOG_BYTES, "a release log")
    reader = _Reader(data, _START.size, "the release log")
    first_key, shipped, count = reader.read(_LOG)
    if count > MOST_ENTRIES:
        raise ReleaseError(
            f"the release log has {count:,} entries; at most {MOST_ENTRIES:,} are read", "number"
        )
    entries = tuple(_read_entry(reader) for _ in range(count))
    reader.end()
    return ReleaseLog(first_key, shipped.hex(), entries)


def encode_release(release: SignedRelease) -> bytes:
    """Returns the message of kind 11; raises ReleaseError for an encoder that is too long for one."""
    if len(release.encoder) > MAX_BYTES:
        raise ReleaseError(f"the encoder has more than {MAX_BYTES:,} bytes", "size")
    log = encode_log(release.log)
    parts = (
        _START.pack(MAGIC, RELEASE, VERSION),
        _SIZE.pack(len(log)), log,
        _SIZE.pack(len(release.encoder)), release.encoder,
    )  # fmt: skip
    return add_checksum(b"".join(parts))


def decode_release(data: bytes) -> SignedRelease:
    """Returns what a message of kind 11 carries; raises ReleaseError unless it is exactly what `encode_release` returns.

    Only the form is checked here: who signed, and whether the encoder is the log's, is for `release_check`.
    """
    _open(data, RELEASE, MOST_BYTES, "a release")
    if not checksum_fits(data):
        raise ReleaseError("the release was damaged on its way; its checksum does not fit", "damaged")
    reader = _Reader(data[:-CHECKSUM_BYTES], _START.size, "the release")
    log = decode_log(reader.take(reader.read(_SIZE)[0]))
    (size,) = reader.read(_SIZE)
    if size > MAX_BYTES:
        raise ReleaseError(f"the encoder has {size:,} bytes; at most {MAX_BYTES:,} are read", "size")
    encoder = reader.take(size)
    reader.end()
    return SignedRelease(log, encoder)


def encoder_name(number: int) -> str:
    """Returns how the file of a release's encoder is called in a folder of releases."""
    return f"release-{number:05d}.safetensors"


def message_name(number: int) -> str:
    """Returns how the file that holds a release's message of kind 11 is called."""
    return f"release-{number:05d}.palate"


def write_key(key: bytes) -> str:
    """Returns a public key as the text that people pin: "palate1" and 58 letters and digits, four bytes of them a checksum."""
    _check_bytes("key", key, KEY_BYTES)
    check = hashlib.sha256(b"palate release key 1\0" + key).digest()[:4]
    return "palate1" + base64.b32encode(key + check).decode().rstrip("=").lower()


def read_key(text: str) -> bytes:
    """Returns the key of a text that `write_key` wrote, whatever its case; raises ReleaseError for any other text."""
    found = _KEY_TEXT.fullmatch("".join(text.split()).lower())
    if found is not None:
        key = base64.b32decode(found[1].upper() + "=" * 6)[:KEY_BYTES]
        if write_key(key) == found[0]:
            return key
    raise ReleaseError(
        "this is no release key; it is the text that begins with palate1, whole, as `palate server key` prints it",
        "key",
    )


class _Reader:
    """Takes bytes from front to back; raises ReleaseError where there are too few or too many."""

    def __init__(self, data: bytes, start: int, whose: str) -> None:
        self._data, self._at, self._whose = data, start, whose

    def take(self, size: int) -> bytes:
        """Returns the next bytes."""
        if size > len(self._data) - self._at:
            raise ReleaseError(f"{self._whose} is cut short; take it again", "size")
        self._at += size
        return self._data[self._at - size : self._at]

    def read(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Returns the next values."""
        return layout.unpack(self.take(layout.size))

    def end(self) -> None:
        """Raises ReleaseError if anything follows."""
        if self._at != len(self._data):
            raise ReleaseError(f"{self._whose} goes on after its end; take it again", "size")


def _open(data: bytes, kind: int, most: int, what: str) -> None:
    if not isinstance(data, bytes) or not _START.size + CHECKSUM_BYTES <= len(data) <= most:
        raise ReleaseError(f"this is not {what}: its size is out of bounds", "size")
    magic, found, version = _START.unpack_from(data)
    if magic != MAGIC:
        raise ReleaseError(f"this is not {what} of Palate; it must begin with PALATE", "magic")
    if found != kind:
        raise ReleaseError(f"this is not {what}: it is of kind {found} and must be of kind {kind}", "kind")
    if version != VERSION:
        raise ReleaseError(f"{what} of form {version} cannot be read; this Palate reads form 1", "version")


def _read_entry(reader: _Reader) -> Entry:
    kind, number, previous, when = reader.read(_ENTRY)
    content: Card | Rotation
    if kind == _OF_RELEASE:
        content = _decode_card(reader.read(_CARD))
    elif kind == _OF_ROTATION:
        content = Rotation(reader.take(KEY_BYTES))
    else:
        raise ReleaseError(f"the release log has an entry of the unknown kind {kind}", "kind")
    signature = reader.take(SIGNATURE_BYTES)
    counter = reader.take(SIGNATURE_BYTES) if kind == _OF_ROTATION else b""
    return Entry(number, previous.hex(), when, content, signature, counter)


def _encode_card(card: Card) -> bytes:
    hashes = (card.hash, card.parent, card.shapes, card.fixed, card.backbone, card.sha256)
    p = card.privacy
    spent = (p.epsilon, p.delta, p.mechanism.encode("ascii")) if p else (0.0, 0.0, b"")
    return _CARD.pack(card.release, card.round, card.updates, *map(bytes.fromhex, hashes), *spent)


def _decode_card(values: tuple[Any, ...]) -> Card:
    hashes = [value.hex() for value in values[3:9]]
    epsilon, delta, padded = values[9:]
    word = padded.rstrip(b"\0")
    privacy = PrivacySpent(epsilon, delta, word.decode("ascii", "replace")) if word else None
    if not word and (epsilon, delta) != (0.0, 0.0):
        raise ReleaseError("the release has an epsilon or delta and no mechanism", "number")
    card = Card(
        release=values[0],
        round=values[1],
        updates=values[2],
        hash=hashes[0],
        parent=hashes[1],
        shapes=hashes[2],
        fixed=hashes[3],
        backbone=hashes[4],
        sha256=hashes[5],
        privacy=privacy,
    )
    if _encode_card(card) != _CARD.pack(*values):  # -0.0, and zero bytes inside of a word
        raise ReleaseError("the release has a number that is written in another way than the one", "number")
    return card


def _check_number(name: str, value: int, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ReleaseError(
            f"the release's {name} is out of range; it must be a whole number from {least} to {most:,}",
            "number",
        )


def _check_hash(name: str, value: str) -> None:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ReleaseError(
            f"the release's {name} is no SHA-256 in 64 lower-case hexadecimal digits", "number"
        )


def _check_bytes(name: str, value: bytes, size: int) -> None:
    if not isinstance(value, bytes) or len(value) != size:
        raise ReleaseError(f"the release's {name} must have {size} bytes", "size")
