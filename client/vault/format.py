"""The bytes of the vault's files: head, record and witness.

Written and read by `vault`; every format begins with a magic of eight bytes and a version, and has a test
vector.

    key of the person      Argon2id(passphrase, salt), or a random key in the system's keyring
      ├─ head key          seals the head
      ├─ wrap key          wraps one fresh data key per record
      └─ check             16 bytes in the clear head, which tell a wrong passphrase from a damaged file

    vault.head             magic "PALATEVH" | version 1 | lock 1 | store 16 | salt 16 | check 16 | sealed |
                           SHA-256
      sealed               JSON: counter, SHA-256 of the head before, witness key, and for every record its
                           type, id, revision, file name, file size and wrapped data key
    records/<random>.rec   magic "PALATEVR" | version 1 | sealed content
    vault.witness          magic "PALATEVW" | version 1 | counter 8 | SHA-256 of the head 32 | HMAC-SHA256 32

A record's content and its data key are bound to store, type, id and revision (the head's counter when it was
written). The head names each record's file, so an older file put back, a file of another record or a missing
one is noticed. The heads form a chain (each holds the hash of the one before), and the witness holds the hash
of the last one, so an older head put back alone is noticed as well.
"""

import base64
import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palate.client.vault.sealing import (
    SALT_BYTES,
    SealBrokenError,
    bind,
    derive_subkey,
    pad,
    seal,
    unpad,
    unseal,
)
from palate.shared.errors import VaultDamagedError, WrongPassphraseError

HEAD_MAGIC, RECORD_MAGIC, WITNESS_MAGIC = b"PALATEVH", b"PALATEVR", b"PALATEVW"
VERSION = 1
LOCKED_BY_PASSPHRASE, LOCKED_BY_KEYRING = 1, 2
STORE_BYTES = 16
_CHECK_BYTES = 16
_HASH_BYTES = 32
_CLEAR = struct.Struct(f">8sBB{STORE_BYTES}s{SALT_BYTES}s{_CHECK_BYTES}s")
_WITNESS = struct.Struct(f">8sBQ{_HASH_BYTES}s")

Name = tuple[str, str]  # (type, id) of a record


@dataclass(frozen=True)
class ClearHead:
    """The part of the head that is readable without a key."""

    lock: int
    store: bytes
    salt: bytes
    check: bytes


@dataclass(frozen=True, repr=False)
class Keys:
    """The keys for the separate purposes, and the clear head that they belong to."""

    clear: ClearHead
    head: bytes
    wrap: bytes

    @staticmethod
    def derive(key: bytes, lock: int, store: bytes, salt: bytes) -> "Keys":
        """Derive all keys of a vault from the person's key."""
        check = derive_subkey(key, "vault check", store + salt, _CHECK_BYTES)
        return Keys(
            ClearHead(lock, store, salt, check),
            derive_subkey(key, "vault head", store + salt),
            derive_subkey(key, "vault wrap", store + salt),
        )


@dataclass(frozen=True, repr=False)
class Entry:
    """What the head knows about one record: where it lies and the data key that opens it, wrapped."""

    type: str
    id: str
    revision: int
    file: str
    size_bytes: int
    wrapped: bytes


@dataclass(frozen=True, repr=False)
class Head:
    """The list of all records at one moment; replacing it is what commits a change."""

    counter: int
    previous: bytes
    witness_key: bytes
    entries: Mapping[Name, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Witness:
    """What was seen last: the head's counter and hash, kept apart from the head."""

    counter: int
    head_hash: bytes


def encode_head(head: Head, keys: Keys) -> bytes:
    """Return the bytes of `vault.head`."""
    clear = _pack_clear(keys.clear)
    records = [
        [e.type, e.id, e.revision, e.file, e.size_bytes, _text(e.wrapped)]
        for e in sorted(head.entries.values(), key=lambda entry: (entry.type, entry.id))
    ]
    content = {
        "counter": head.counter,
        "previous": _text(head.previous),
        "witness_key": _text(head.witness_key),
        "records": records,
    }
    plaintext = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    body = clear + seal(keys.head, pad(plaintext), bind("palate vault head", clear))
    return body + hashlib.sha256(body).digest()


def read_clear_head(data: bytes) -> ClearHead:
    """Read the clear part of `vault.head`; raises `VaultDamagedError` if it is no whole head."""
    if not data.startswith(HEAD_MAGIC):
        raise VaultDamagedError("is not a vault of Palate (its first bytes are foreign)")
    if len(data) < _CLEAR.size + _HASH_BYTES:
        raise VaultDamagedError("is cut short")
    _, version, lock, store, salt, check = _CLEAR.unpack_from(data)
    if version != VERSION:
        raise VaultDamagedError(f"has format version {version}, and this Palate reads version {VERSION}")
    if not hmac.compare_digest(hashlib.sha256(data[:-_HASH_BYTES]).digest(), data[-_HASH_BYTES:]):
        raise VaultDamagedError("was changed or cut short")
    if lock not in (LOCKED_BY_PASSPHRASE, LOCKED_BY_KEYRING):
        raise VaultDamagedError(f"has a lock of unknown kind {lock}")
    return ClearHead(lock, store, salt, check)


def decode_head(data: bytes, keys: Keys) -> Head:
    """Open `vault.head`; raises `WrongPassphraseError` or `VaultDamagedError`."""
    clear = read_clear_head(data)
    if not hmac.compare_digest(clear.check, keys.clear.check):
        raise WrongPassphraseError("the passphrase (or the key in the keyring) does not open the vault")
    if clear != keys.clear:
        raise VaultDamagedError("was changed")
    sealed = data[_CLEAR.size : -_HASH_BYTES]
    try:
        content = json.loads(unpad(unseal(keys.head, sealed, bind("palate vault head", data[: _CLEAR.size]))))
        return _read_content(content)
    except SealBrokenError:
        raise VaultDamagedError("was changed") from None
    except (
        ValueError,
        KeyError,
        TypeError,
    ):  # sealed by the right key and still no list: a later or broken writer
        raise VaultDamagedError("holds a list of records that this Palate cannot read") from None


def hash_head(data: bytes) -> bytes:
    """Return the SHA-256 of a head's bytes, its link in the chain."""
    return hashlib.sha256(data).digest()


def encode_witness(witness: Witness, store: bytes, witness_key: bytes) -> bytes:
    """Return the bytes of `vault.witness`."""
    body = _WITNESS.pack(WITNESS_MAGIC, VERSION, witness.counter, witness.head_hash)
    return body + hmac.digest(witness_key, bind("palate vault witness", store, body), "sha256")


def decode_witness(data: bytes, store: bytes, witness_key: bytes) -> Witness:
    """Read a witness; raises `VaultDamagedError` unless this vault wrote it."""
    body, code = data[: _WITNESS.size], data[_WITNESS.size :]
    if not hmac.compare_digest(
        code, hmac.digest(witness_key, bind("palate vault witness", store, body), "sha256")
    ):
        raise VaultDamagedError("was changed or belongs to another vault")
    _, _, counter, head_hash = _WITNESS.unpack(body)
    return Witness(counter, head_hash)


def encode_record(data_key: bytes, store: bytes, name: Name, revision: int, content: bytes) -> bytes:
    """Return the bytes of a record's file."""
    sealed = seal(data_key, pad(content), _bind_record("content", store, name, revision))
    return RECORD_MAGIC + bytes([VERSION]) + sealed


def decode_record(data: bytes, data_key: bytes, store: bytes, name: Name, revision: int) -> bytes:
    """Open a record's file; raises `SealBrokenError` unless it is the very file that the head names."""
    start = len(RECORD_MAGIC) + 1
    if data[:start] != RECORD_MAGIC + bytes([VERSION]):
        raise SealBrokenError("not a record of this version")
    return unpad(unseal(data_key, data[start:], _bind_record("content", store, name, revision)))


def wrap_data_key(data_key: bytes, keys: Keys, name: Name, revision: int) -> bytes:
    """Seal a record's data key under the wrap key."""
    return seal(keys.wrap, data_key, _bind_record("data key", keys.clear.store, name, revision))


def unwrap_data_key(wrapped: bytes, keys: Keys, name: Name, revision: int) -> bytes:
    """Return a record's data key; raises `SealBrokenError` under other keys."""
    return unseal(keys.wrap, wrapped, _bind_record("data key", keys.clear.store, name, revision))


def _bind_record(what: str, store: bytes, name: Name, revision: int) -> bytes:
    return bind(f"palate record {what}", VERSION, store, name[0], name[1], revision)


def _pack_clear(clear: ClearHead) -> bytes:
    return _CLEAR.pack(HEAD_MAGIC, VERSION, clear.lock, clear.store, clear.salt, clear.check)


def _read_content(content: Any) -> Head:
    entries: dict[Name, Entry] = {}
    for type_, id_, revision, file, size_bytes, wrapped in content["records"]:
        entries[type_, id_] = Entry(type_, id_, int(revision), file, int(size_bytes), _raw(wrapped))
    return Head(int(content["counter"]), _raw(content["previous"]), _raw(content["witness_key"]), entries)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
