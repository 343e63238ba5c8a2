"""A server's keys at rest: each in a sealed file that only its owner may read.

They are the release key, the recovery key and the registrar's key.

Where it stands in the flow: `palate server key` makes the two keys of the log of releases; `release_keys`,
`releases` and `carrying` sign with them. A thief of the private half of the release key could give every
device that follows its log another encoder, so it is sealed with a passphrase (the environment's
PALATE_RELEASE_PASSPHRASE), or lies on another machine, or both.

    release.key   magic "PALATESK" | version 1 | sealed 0 or 1 | public half 32 |
                    not sealed: private half 32
                    sealed:     salt 16 | nonce 12 | AES-256-GCM of the private half 48, bound to everything
                                before the nonce

The file is its owner's alone (mode 600) and is not read otherwise. A passphrase becomes a key by Argon2id
with what RFC 9106 recommends second (64 MiB, 3 passes, 4 lanes), as on a device. The public half is in the
clear: showing it needs no passphrase.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import struct
import sys
import unicodedata
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from palate.shared.durable import clear_beside, make_folder, rename, storage_error, sync_folder, write_beside
from palate.shared.errors import FileFormatError, OptionError, WrongPassphraseError
from palate.shared.hardening import given
from palate.shared.releases.message import KEY_BYTES

PASSPHRASE_VARIABLE: Final = "PALATE_RELEASE_PASSPHRASE"  # noqa: S105 - a name, not a passphrase
RECOVERY_VARIABLE: Final = "PALATE_RECOVERY_PASSPHRASE"
MAGIC, VERSION = b"PALATESK", 1

_START = struct.Struct("<8sBB32s")
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 16, 12, 16
_BODY_BYTES = {0: KEY_BYTES, 1: _SALT_BYTES + _NONCE_BYTES + KEY_BYTES + _TAG_BYTES}


def passphrase_given() -> str | None:
    """Return the passphrase of the environment, or None if there is none there."""
    return given(PASSPHRASE_VARIABLE)


def recovery_passphrase_given() -> str | None:
    """Return the recovery key's passphrase of the environment.

    If there is none, it is the passphrase of the release key.
    """
    return given(RECOVERY_VARIABLE) or passphrase_given()


def is_sealed(path: Path) -> bool | None:
    """Return whether a key needs a passphrase, None if there is no key; raises what `read_public` raises."""
    data = _read(path)
    return None if data is None else _check(data, path)[0]


def make_key(path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    """Make a key, write it, sealed if there is a passphrase, and return it; what lay at `path` is gone.

    Raises StorageError, and then what lay there stays.
    """
    key = Ed25519PrivateKey.generate()
    try:
        make_folder(path.parent)
        clear_beside(path)  # a killed writer's half of a key is not left about
        beside = write_beside(path, _encode(key, passphrase))
        try:
            move_key(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        raise storage_error(error, path, "no key was made") from None
    return key


def move_key(source: Path, path: Path) -> None:
    """Put a key's file in place of another one, in one step; raises `OSError`."""
    rename(source, path)
    sync_folder(path.parent)


def read_public(path: Path) -> bytes | None:
    """Return the public half, or None if there is no key.

    Raises FileFormatError, OptionError or StorageError.
    """
    data = _read(path)
    return None if data is None else _check(data, path)[1]


def read_key(
    path: Path, passphrase: str | None, *, variable: str = PASSPHRASE_VARIABLE
) -> Ed25519PrivateKey | None:
    """Return the key, or None if there is none.

    `variable` is where the passphrase is to be put, for the error.

    Raises WrongPassphraseError, FileFormatError for a file that is no key or was changed, OptionError for one
    that others than its owner may read, StorageError if it cannot be read.
    """
    data = _read(path)
    if data is None:
        return None
    sealed, public = _check(data, path)
    body = data[_START.size :]
    if sealed:
        body = _unseal(data, passphrase, path, variable)
    key = Ed25519PrivateKey.from_private_bytes(body)
    if key.public_key().public_bytes_raw() != public:
        raise FileFormatError(f"{path} was changed: its two halves do not belong together; restore it")
    return key


def _encode(key: Ed25519PrivateKey, passphrase: str | None) -> bytes:
    public, private = key.public_key().public_bytes_raw(), key.private_bytes_raw()
    if passphrase is None:
        return _START.pack(MAGIC, VERSION, 0, public) + private
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    bound = _START.pack(MAGIC, VERSION, 1, public) + salt
    return bound + nonce + AESGCM(_derive(passphrase, salt)).encrypt(nonce, private, bound)


def _unseal(data: bytes, passphrase: str | None, path: Path, variable: str) -> bytes:
    if passphrase is None:
        raise WrongPassphraseError(f"the key {path} is sealed; set {variable}")
    end = _START.size + _SALT_BYTES
    nonce, sealed = data[end : end + _NONCE_BYTES], data[end + _NONCE_BYTES :]
    try:
        return AESGCM(_derive(passphrase, data[_START.size : end])).decrypt(nonce, sealed, data[:end])
    except InvalidTag:
        raise WrongPassphraseError(
            f"the passphrase in {variable} does not open {path}, or the file was changed"
        ) from None


def _derive(passphrase: str, salt: bytes) -> bytes:
    try:
        words = unicodedata.normalize("NFKC", passphrase).encode()
    except UnicodeEncodeError:
        raise OptionError("the passphrase holds characters that are no text") from None
    return Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=64 * 1024).derive(words)


def _check(data: bytes, path: Path) -> tuple[bool, bytes]:
    """Return whether the key is sealed, and its public half."""
    if len(data) >= _START.size:
        magic, version, sealed, public = _START.unpack_from(data)
        if magic == MAGIC and version == VERSION and len(data) - _START.size == _BODY_BYTES.get(sealed):
            return bool(sealed), public
    raise FileFormatError(f"{path} is no release key of this version of Palate; restore it")


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
                raise OptionError(
                    f"others than its owner may use the key {path}; put that right with: chmod 600"
                )
            return file.read(_START.size + _BODY_BYTES[1] + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, path, "nothing was signed") from None
