"""The log of releases: which keys are in force, what each release is, and until when the log is good.

Where it stands in the flow: the server appends an entry for each release and each change of keys
(`server.releases`); devices check the log against what they saw before (`releases.check`).

    log        magic "PALATE" | kind 12 | version 2 | release 0 32 | entries 4 | entry | entry | ... |
               statement
    entry      kind 1 | number 4 | previous 32 | when 8 | content | signatures
     release   (kind 1)  card                               | by the release key 64
     keys      (kind 2)  release key 32 | recovery key 32   | by the recovery key before 64 | by this release
                                                            key 64 | by this recovery key 64
    statement  when 8 | until 8 | by the release key 64

**Two keys.** The release key signs releases and statements, the recovery key only entries of keys. The first
entry names both, and a later one is good only with the signature of the recovery key in force before it:
a thief of the release key can sign until it is changed, and cannot change it. Each key that an entry
names signs it too, so nobody puts somebody else's key into a log of their own. People pin the recovery key:
its signature is under every release key, so the text stays the same when that is changed.

**A statement** says that up to `until` nothing is to be expected after the last entry; it is renewed with the
release key, and adds no entry. A device whose log is not good any more is being shown an old one, or the
server's owner is away.

**A chain.** `previous` is the SHA-256 of the whole entry before, signatures and all; for the first that of
"palate release log 2", a zero byte and the hash of release 0. So the hash of the last entry, the head, names
everything before it, as in a certificate-transparency log (RFC 9162) without the tree: logs here are short.
Signatures are Ed25519 (RFC 8032) over "palate release entry 2", a zero byte and the entry without its
signatures; of a statement over "palate release statement 2", a zero byte, the head, `when` and `until`.

Numbers are little endian and unsigned; `when` and `until` are seconds since 1970 UTC; entries are numbered
from 1. There is one way of writing each value, and what decodes is encoded to the very same bytes again;
everything else is refused with a `ReleaseError`. `tests/data/release_vectors.json` holds test vectors, made
by `tests/data/make_release_vectors.py`.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.errors import ReleaseError
from palate.shared.releases.card import CARD, Card, decode_card, encode_card
from palate.shared.releases.fields import (
    KEY_BYTES,
    LOG,
    SIGNATURE_BYTES,
    START,
    UNSIGNED,
    VERSION,
    Reader,
    check_bytes,
    check_hash,
    check_number,
    open_bytes,
)
from palate.shared.wire import MAGIC

SHIPPED_HASH: Final = "1dd439a57c8d224ee8b2bc3049f05c547bf26612610329a8bc9041808d5689af"
"""`encoder_hash` of release 0, which ships with Palate and needs no signature."""

MOST_ENTRIES: Final = 1_000
DAY: Final = 86_400
USUAL_DAYS: Final = 90
"""For how many days a statement is good by default: an offline key is needed four times a year."""
MOST_DAYS: Final = 400

_OF_RELEASE, _OF_KEYS = 1, 2
_ENTRY_DOMAIN, _LOG_DOMAIN = b"palate release entry 2\0", b"palate release log 2\0"
_STATEMENT_DOMAIN = b"palate release statement 2\0"
_LOG = struct.Struct("<32sI")
_ENTRY = struct.Struct("<BI32sQ")
_STATEMENT = struct.Struct("<QQ")
_LAST_SECOND = 253_402_300_799  # of the year 9999

MOST_LOG_BYTES: Final = (
    START.size
    + _LOG.size
    + MOST_ENTRIES * (_ENTRY.size + CARD.size + SIGNATURE_BYTES)
    + _STATEMENT.size
    + SIGNATURE_BYTES
)


@dataclass(frozen=True)
class Keys:
    """The public keys that are in force from this entry on."""

    release: bytes  # signs releases and statements; 32
    recovery: bytes  # signs changes of keys; 32

    def __post_init__(self) -> None:
        check_bytes("release key", self.release, KEY_BYTES)
        check_bytes("recovery key", self.recovery, KEY_BYTES)
        if self.release == self.recovery:
            raise ReleaseError("the release key and the recovery key are the same; they must be two", "key")


@dataclass(frozen=True)
class Entry:
    """One line of the log; `UNSIGNED` stands where a signature is missing."""

    number: int
    previous: str
    when: int  # seconds since 1970, UTC
    content: Card | Keys
    signatures: tuple[bytes, ...]  # one of a release, three of keys

    def __post_init__(self) -> None:
        check_number("number", self.number, 1, MOST_ENTRIES)
        check_hash("previous", self.previous)
        check_number("when", self.when, 0, _LAST_SECOND)
        check_number("signatures", len(self.signatures), _signatures(self.content), _signatures(self.content))
        for signature in self.signatures:
            check_bytes("signature", signature, SIGNATURE_BYTES)

    @cached_property
    def content_bytes(self) -> bytes:
        """The entry without its signatures."""
        kind = _OF_KEYS if isinstance(self.content, Keys) else _OF_RELEASE
        head = _ENTRY.pack(kind, self.number, bytes.fromhex(self.previous), self.when)
        if isinstance(self.content, Keys):
            return head + self.content.release + self.content.recovery
        return head + encode_card(self.content)

    @property
    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return _ENTRY_DOMAIN + self.content_bytes

    @cached_property
    def whole(self) -> bytes:
        """The whole entry."""
        return self.content_bytes + b"".join(self.signatures)

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the whole entry, by which the next one names it."""
        return hashlib.sha256(self.whole).hexdigest()

    @property
    def time(self) -> str:
        """When it was made, ISO 8601, UTC."""
        return time_of(self.when)


@dataclass(frozen=True)
class Statement:
    """Until when a log is good, signed with the release key.

    Both times are 0, and the signature is `UNSIGNED`, where that was not said yet.
    """

    when: int = 0  # seconds since 1970, UTC
    until: int = 0
    signature: bytes = UNSIGNED

    def __post_init__(self) -> None:
        check_number("statement's time", self.when, 0, _LAST_SECOND)
        check_number("end", self.until, self.when, min(_LAST_SECOND, self.when + MOST_DAYS * DAY))
        check_bytes("signature", self.signature, SIGNATURE_BYTES)

    def signed_bytes(self, head: str) -> bytes:
        """Return what the signature is over, for a log with this head."""
        return _STATEMENT_DOMAIN + bytes.fromhex(head) + _STATEMENT.pack(self.when, self.until)


@dataclass(frozen=True)
class ReleaseLog:
    """All releases of a federation and all changes of its keys, in order.

    Only the form is checked here.
    """

    shipped: str = SHIPPED_HASH  # `encoder_hash` of the release 0 that it begins at
    entries: tuple[Entry, ...] = ()
    statement: Statement = Statement()

    def __post_init__(self) -> None:
        check_hash("release 0", self.shipped)
        check_number("entries", len(self.entries), 0, MOST_ENTRIES)

    @property
    def head(self) -> str:
        """The hash of the last entry, which names everything before it too."""
        return self.entries[-1].hash if self.entries else self.beginning

    @property
    def beginning(self) -> str:
        """What the first entry names as the one before it."""
        return hashlib.sha256(_LOG_DOMAIN + bytes.fromhex(self.shipped)).hexdigest()

    @property
    def keys(self) -> tuple[Keys, ...]:
        """All pairs of keys that were ever in force, in order.

        The last pair is in force for the next entry.
        """
        return tuple(entry.content for entry in self.entries if isinstance(entry.content, Keys))

    @property
    def releases(self) -> tuple[tuple[Entry, Card], ...]:
        """The entries that are releases, each with its card."""
        return tuple((entry, entry.content) for entry in self.entries if isinstance(entry.content, Card))

    @classmethod
    def begin(
        cls,
        key: Ed25519PrivateKey,
        recovery: Ed25519PrivateKey,
        when: int,
        *,
        shipped: str = SHIPPED_HASH,
        days: int = USUAL_DAYS,
    ) -> ReleaseLog:
        """Return a log whose first entry names these keys, signed by both."""
        return cls(shipped).with_keys(key, recovery, when, by=recovery, days=days)

    def with_release(
        self, card: Card, when: int, key: Ed25519PrivateKey, *, days: int = USUAL_DAYS
    ) -> ReleaseLog:
        """Return the log with one more release and a new statement, signed."""
        entry = Entry(len(self.entries) + 1, self.head, when, card, (UNSIGNED,))
        signed = replace(entry, signatures=(key.sign(entry.signed_bytes),))
        return replace(self, entries=(*self.entries, signed)).with_statement(when, key, days=days)

    def with_keys(
        self,
        key: Ed25519PrivateKey,
        recovery: Ed25519PrivateKey,
        when: int,
        *,
        by: Ed25519PrivateKey,
        days: int = USUAL_DAYS,
    ) -> ReleaseLog:
        """Return the log with these keys in force, signed by the former recovery key and by both."""
        keys = Keys(key.public_key().public_bytes_raw(), recovery.public_key().public_bytes_raw())
        entry = Entry(len(self.entries) + 1, self.head, when, keys, (UNSIGNED,) * 3)
        signatures = tuple(one.sign(entry.signed_bytes) for one in (by, key, recovery))
        signed = replace(entry, signatures=signatures)
        return replace(self, entries=(*self.entries, signed)).with_statement(when, key, days=days)

    def with_statement(self, when: int, key: Ed25519PrivateKey, *, days: int = USUAL_DAYS) -> ReleaseLog:
        """Return the log with a new statement, good for so many days from `when`."""
        check_number("days", days, 1, MOST_DAYS)
        statement = Statement(when, when + days * DAY)
        signed = replace(statement, signature=key.sign(statement.signed_bytes(self.head)))
        return replace(self, statement=signed)

    def with_unsigned(self, card: Card, when: int) -> ReleaseLog:
        """Return the log with one more release that nobody has signed yet: it goes to the signing machine.

        The statement stays that of the log before, so that without the last entry it is that log again.
        """
        entry = Entry(len(self.entries) + 1, self.head, when, card, (UNSIGNED,))
        return replace(self, entries=(*self.entries, entry))


def encode_log(log: ReleaseLog) -> bytes:
    """Return the bytes of a log; the same log always gives the same bytes."""
    start = START.pack(MAGIC, LOG, VERSION) + _LOG.pack(bytes.fromhex(log.shipped), len(log.entries))
    said = log.statement
    return b"".join(
        (
            start,
            *(entry.whole for entry in log.entries),
            _STATEMENT.pack(said.when, said.until),
            said.signature,
        )
    )


def decode_log(data: bytes) -> ReleaseLog:
    """Return the log of these bytes.

    Raises:
        ReleaseError: unless they are exactly what `encode_log` returns for one.
    """
    open_bytes(data, LOG, MOST_LOG_BYTES, "a release log")
    reader = Reader(data, START.size, "the release log")
    shipped, count = reader.read(_LOG)
    if count > MOST_ENTRIES:
        raise ReleaseError(
            f"the release log has {count:,} entries; at most {MOST_ENTRIES:,} are read", "number"
        )
    entries = tuple(_read_entry(reader) for _ in range(count))
    when, until = reader.read(_STATEMENT)
    statement = Statement(when, until, reader.take(SIGNATURE_BYTES))
    reader.end()
    return ReleaseLog(shipped.hex(), entries, statement)


def time_of(when: int) -> str:
    """Return seconds since 1970 as ISO 8601, UTC."""
    return datetime.fromtimestamp(when, UTC).isoformat()


def _signatures(content: Card | Keys) -> int:
    return 3 if isinstance(content, Keys) else 1


def _read_entry(reader: Reader) -> Entry:
    kind, number, previous, when = reader.read(_ENTRY)
    content: Card | Keys
    if kind == _OF_RELEASE:
        content = decode_card(reader.read(CARD))
    elif kind == _OF_KEYS:
        content = Keys(reader.take(KEY_BYTES), reader.take(KEY_BYTES))
    else:
        raise ReleaseError(f"the release log has an entry of the unknown kind {kind}", "kind")
    signatures = tuple(reader.take(SIGNATURE_BYTES) for _ in range(_signatures(content)))
    return Entry(number, previous.hex(), when, content, signatures)
