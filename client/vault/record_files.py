"""The records' files: one sealed file for each record, under a random name that only the head knows.

`vault` decides when a record is written or read, and `format` says what the bytes mean. Here a record and its
file come together, and what is wrong with a file becomes a line for the person.
"""

import errno
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from palate.client.vault import folder as vault_folder
from palate.client.vault import format as vault_format
from palate.client.vault.folder import NEXT_STEP, RECORDS
from palate.client.vault.format import Entry, Keys, Name
from palate.client.vault.sealing import SealBrokenError, new_key
from palate.shared import durable
from palate.shared.errors import VaultDamagedError


def write_record(home: Path, keys: Keys, name: Name, revision: int, content: bytes) -> Entry:
    """Seal a record under a data key of its own, write it into a new file, and return its entry.

    The file's name is not lasting before the folder is forced to the disk. Raises `OSError`.
    """
    data_key, file = new_key(), f"{secrets.token_hex(16)}.rec"
    data = vault_format.encode_record(data_key, keys.clear.store, name, revision, content)
    wrapped = vault_format.wrap_data_key(data_key, keys, name, revision)
    durable.write_file(home / RECORDS / file, data)
    return Entry(*name, revision, file, len(data), wrapped)


def read_record(home: Path, entry: Entry, keys: Keys) -> bytes:
    """Return a record's content; raises `VaultDamagedError` for a changed or missing file, or `OSError`."""
    try:
        data = durable.read_file(home / RECORDS / entry.file, vault_folder.LARGEST_FILE_BYTES)
        data_key = unwrap_data_key(home, entry, keys)
        name = (entry.type, entry.id)
        return vault_format.decode_record(data, data_key, keys.clear.store, name, entry.revision)
    except SealBrokenError:
        reason = "was changed"
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP):
            raise
        reason = "is missing or no longer a file"
    raise VaultDamagedError(f"a record ({entry.type}) of the vault in {home} {reason}; {NEXT_STEP}")


def unwrap_data_key(home: Path, entry: Entry, keys: Keys) -> bytes:
    """Return the data key of a record; raises `VaultDamagedError`."""
    try:
        return vault_format.unwrap_data_key(entry.wrapped, keys, (entry.type, entry.id), entry.revision)
    except SealBrokenError:
        raise VaultDamagedError(f"a data key of the vault in {home} was changed; {NEXT_STEP}") from None


def rewrap(home: Path, entries: Mapping[Name, Entry], old: Keys, new: Keys) -> dict[Name, Entry]:
    """Return the entries with their data keys wrapped anew; raises `VaultDamagedError`."""
    return {
        name: replace(
            entry,
            wrapped=vault_format.wrap_data_key(unwrap_data_key(home, entry, old), new, name, entry.revision),
        )
        for name, entry in entries.items()
    }


def check_files(home: Path, entries: Collection[Entry]) -> None:
    """Raise `VaultDamagedError` unless every record's file is there and of the right length."""
    there = vault_folder.record_sizes(home)
    lost = sum(there.get(entry.file) != entry.size_bytes for entry in entries)
    if lost:
        raise VaultDamagedError(
            f"the vault in {home}: {lost} of its {len(entries)} records are missing or cut short; {NEXT_STEP}"
        )


def clear_leftovers(home: Path, entries: Collection[Entry]) -> None:
    """Remove what a crash left: files that the head does not name, and half-written ones."""
    kept = {entry.file for entry in entries}
    files = (
        file
        for file in vault_folder.record_sizes(home)
        if file not in kept and vault_folder.RECORD_FILE.fullmatch(file)
    )
    vault_folder.remove_leftovers(home / RECORDS / file for file in files)
    vault_folder.clear_beside(home)
