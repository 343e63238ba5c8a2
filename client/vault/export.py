"""Carries a whole vault in one sealed file, to another device or as a backup.

    palate export FILE / palate import FILE

The file has a passphrase of its own (the vault's, or another one) and depends on nothing outside itself:

    magic "PALATEVX" | version 1 | store 16 | salt 16 | check 16 | frames | last frame
      frame        length 4 | sealed: JSON [type, id] | content, one record each
      last frame   length 4 | sealed: the number of records

Each frame is bound to the file's beginning, its number, and whether it is the last (after the STREAM
construction of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015), so frames cannot be changed, left out,
moved or cut off unnoticed.
"""

import hmac
import json
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from palate.client.vault.format import Name
from palate.client.vault.sealing import (
    SALT_BYTES,
    SealBrokenError,
    bind,
    derive_key,
    derive_subkey,
    pad,
    seal,
    unpad,
    unseal,
)
from palate.client.vault.store import Change
from palate.client.vault.vault import Vault
from palate.shared import durable
from palate.shared.errors import (
    OptionError,
    VaultDamagedError,
    VaultError,
    WrongPassphraseError,
)

MAGIC, VERSION = b"PALATEVX", 1
_START = struct.Struct(f">8sB16s{SALT_BYTES}s16s")
_LENGTH = struct.Struct(">I")
_LARGEST_FRAME_BYTES = 1 << 30


def export_records(
    vault: Vault, path: Path | str, passphrase: str, extra: Mapping[Name, bytes] = MappingProxyType({})
) -> tuple[Name, ...]:
    """Write all records of `vault` into one sealed file; return their names.

    The file appears whole or not at all, and never in place of another one.

    Args:
        vault: what is exported; it may lie on a disk that cannot be written.
        path: a new file.
        passphrase: seals the file.
        extra: records that are written too, where the vault has none of that name.

    Raises:
        OptionError: `path` exists, or the passphrase is empty.
        StorageError: the file cannot be written.
        VaultDamagedError: a damaged record.
    """
    path = Path(path)
    salt, file_id = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(16)
    key = derive_key(passphrase, salt)
    start = _START.pack(MAGIC, VERSION, file_id, salt, derive_subkey(key, "export check", salt, 16))
    frame_key = derive_subkey(key, "export frames", salt)
    beside = durable.name_beside(path)
    if path.exists():
        raise OptionError(f"{path} exists already; name a new file for the export")
    try:
        with vault.snapshot() as snapshot:  # so that the copy is of one moment
            names = [(type_, id_) for type_ in vault.types() for id_ in snapshot.list(type_)]
            extra = {name: content for name, content in extra.items() if not snapshot.has(*name)}
            try:
                with os.fdopen(durable.create_file(beside), "wb") as file:
                    file.write(start)
                    for number, name in enumerate([*names, *extra]):
                        content = extra[name] if name in extra else snapshot.get(*name)
                        plain = json.dumps(name).encode() + b"\n" + content
                        _write_frame(file, frame_key, start, number, False, plain)
                    count = len(names) + len(extra)
                    _write_frame(file, frame_key, start, count, True, str(count).encode())
                    file.flush()
                    os.fsync(file.fileno())
                durable.rename(beside, path)
                durable.sync_folder(path.absolute().parent)
                durable.clear_beside(path, durable.LEFTOVER_SECONDS)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise durable.storage_error(error, path, "nothing was exported") from error
    return tuple(names)


def read_export(path: Path | str, passphrase: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (type, id, content) of every record in an exported file, each checked before it is yielded.

    Only when the iterator has ended is it known that none is missing: take over nothing before that.

    Raises:
        OptionError: there is no such file.
        WrongPassphraseError: the passphrase does not open it.
        VaultDamagedError: the file was changed or cut short.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            yield from _read_frames(file, path, passphrase)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"the exported file {path} cannot be read ({reason})") from error


def import_records(
    vault: Vault, path: Path | str, passphrase: str, settle: Callable[[Change], None]
) -> tuple[Name, ...]:
    """Take over all records of an exported file into an empty vault, in one step; return their names.

    `settle` is called at the end of that step. What it, `read_export` and `Vault.transaction` raise goes on.

    Raises:
        VaultError: the vault holds records already.
    """
    records = list(read_export(path, passphrase))
    with vault.transaction() as change:
        if vault.types():
            raise VaultError(
                f"the vault in {vault.home} holds records already; import into an empty one "
                "(`palate erase` and `palate init`, or another --home)"
            )
        for type_, id_, content in records:
            change.put(type_, id_, content)
        settle(change)
    return tuple((type_, id_) for type_, id_, _ in records)


def _write_frame(file: BinaryIO, key: bytes, start: bytes, number: int, last: bool, plain: bytes) -> None:
    sealed = seal(key, pad(plain), _bind_frame(start, number, last))
    file.write(_LENGTH.pack(len(sealed)) + sealed)


def _read_frames(file: BinaryIO, path: Path, passphrase: str) -> Iterator[tuple[str, str, bytes]]:
    start = file.read(_START.size)
    if len(start) < _START.size or not start.startswith(MAGIC):
        raise VaultDamagedError(f"{path} is not an exported vault of Palate (or is cut short)")
    _, version, _, salt, check = _START.unpack(start)
    if version != VERSION:
        raise VaultDamagedError(
            f"{path} has format version {version}, and this Palate reads version {VERSION}"
        )
    key = derive_key(passphrase, salt)
    if not hmac.compare_digest(check, derive_subkey(key, "export check", salt, 16)):
        raise WrongPassphraseError(f"the passphrase does not open {path} (or its beginning was changed)")
    key = derive_subkey(key, "export frames", salt)
    damaged = VaultDamagedError(
        f"{path} was changed or cut short; nothing was imported; use another copy of it"
    )
    number = 0
    try:
        while True:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            if length > _LARGEST_FRAME_BYTES:
                raise damaged
            sealed = file.read(length)
            try:
                plain = unpad(unseal(key, sealed, _bind_frame(start, number, False)))
            except SealBrokenError:
                plain = unpad(unseal(key, sealed, _bind_frame(start, number, True)))
                if int(plain) != number or file.read(1):
                    raise damaged from None
                return
            name, _, content = plain.partition(b"\n")
            type_, id_ = json.loads(name)
            yield type_, id_, content
            number += 1
    except (SealBrokenError, struct.error):
        raise damaged from None


def _bind_frame(start: bytes, number: int, last: bool) -> bytes:
    return bind("palate export frame", start, number, int(last))
