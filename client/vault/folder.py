"""The vault's folder on the disk: which files there are, how the head is found, how all is erased.

`vault` works on this folder with the keys in hand; what stands here needs no key.

    vault.head      the list of all records, sealed; replacing it is what commits a change
    vault.witness   which head was seen last (in the keyring instead, if the keyring holds the key)
    vault.lock      empty; locked by the operating system while someone changes the vault
    records/        one sealed file per record, under random names
    vault.erased    only while a vault is being erased
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from palate.client.vault.format import LOCKED_BY_KEYRING, ClearHead, read_clear_head
from palate.client.vault.keyrings import KeyStore, SystemKeyring
from palate.shared import durable
from palate.shared.errors import (
    OptionError,
    StorageError,
    VaultDamagedError,
    VaultError,
    VaultMissingError,
    WrongPassphraseError,
)

HEAD, WITNESS, LOCK, RECORDS, ERASED = "vault.head", "vault.witness", "vault.lock", "records", "vault.erased"
WAIT_SECONDS = 5.0
LARGEST_FILE_BYTES = 1 << 30
RECORD_FILE = re.compile(r"[0-9a-f]{32}\.rec")
NEXT_STEP = "restore it from a backup, or start anew with `palate erase` and `palate import`"


def read_lock(home: Path | str) -> ClearHead:
    """Read, without a key, what locks the vault in `home`.

    `.lock` is `LOCKED_BY_PASSPHRASE` or `LOCKED_BY_KEYRING`.

    Raises `VaultMissingError` if there is no vault, `VaultDamagedError` if what is there is none of this
    version.
    """
    home = Path(home)
    try:
        while True:
            data = read_head(home)
            try:
                with naming(home):
                    return read_clear_head(data)
            except VaultDamagedError:
                # A head that is replaced while it is read may show zeros; the new one is in place by then.
                if read_head(home) == data:
                    raise
    except OSError as error:
        raise durable.storage_error(error, home, "the vault was not opened") from error


def read_head(home: Path) -> bytes:
    """Return the bytes of the head; raises `VaultMissingError`, `VaultDamagedError` or `OSError`."""
    try:
        return durable.read_file(home / HEAD, LARGEST_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        refuse_missing(home)
        raise
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP):
            raise VaultDamagedError(f"{home / HEAD} is not a vault of Palate; {NEXT_STEP}") from None
        raise


def refuse_missing(home: Path) -> None:
    """Raise `VaultMissingError` if there is no vault, `VaultDamagedError` if one has lost its head."""
    if (home / HEAD).exists():
        return
    if not (home / ERASED).exists():
        refuse_records_without_head(home)
    raise VaultMissingError(f"there is no vault in {home}; make one with `palate init`")


def refuse_records_without_head(home: Path) -> None:
    """Raise `VaultDamagedError` for records without a head: a vault that was never finished has none."""
    if any(_record_files(home)):
        raise VaultDamagedError(f"the vault in {home} has records and no {HEAD}; {NEXT_STEP}")


def erase_vault(home: Path, keyring: KeyStore | None) -> None:
    """Do what `Vault.erase` promises."""
    if not any((home / name).exists() for name in (HEAD, WITNESS, RECORDS, ERASED)):
        raise VaultMissingError(f"there is no vault in {home}, so nothing was erased")
    try:
        with durable.locked(home / LOCK, WAIT_SECONDS, f"the vault in {home}"):
            _forget_keyring(home, keyring)
            if (home / HEAD).exists():
                durable.rename(home / HEAD, home / ERASED)
                durable.sync_folder(home)
            finish_erasing(home)
            with contextlib.suppress(PermissionError):  # Windows keeps a file that is open; this one is empty
                durable.remove(home / LOCK)
    except OSError as error:
        raise durable.storage_error(error, home, "the vault may be erased in part; erase it again") from error
    durable.remove_folder(home)


def finish_erasing(home: Path) -> None:
    """Remove all that is the vault's: the keys first, the mark of an erased vault last."""
    if (home / ERASED).exists():
        with durable.holding(home / ERASED) as scrub:
            scrub()
    durable.remove(home / WITNESS)
    clear_beside(home)
    for path in list(_record_files(home)):
        durable.remove(path)
    durable.remove_folder(home / RECORDS)
    durable.sync_folder(home)
    durable.remove(home / ERASED)


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove files that nothing names any more; one that will not go is left to the next time."""
    for path in paths:
        with contextlib.suppress(OSError):
            durable.remove(path)


def clear_beside(home: Path) -> None:
    """Remove what killed processes left next to the head and the note; only while the lock is held."""
    for name in (HEAD, WITNESS):
        durable.clear_beside(home / name)


def close_to_others(home: Path, *, new: bool = False) -> tuple[str, ...]:
    """Take from others what they may do in the vault's folder; return a line on what was mended, if it was.

    Raises `OSError` if the folder is another user's, who could undo that; root may open such a vault, and not
    make one.
    """
    mended = durable.make_private(home, ours=new, through_link=True)
    for place in (home / RECORDS, home / HEAD, home / WITNESS):
        with contextlib.suppress(FileNotFoundError):
            durable.make_private(place)
    if mended is None:
        return ()
    before, now = mended
    if now & 0o077:
        return (
            f"others may use the folder {home} (mode {now:04o}), and this disk does not let that be changed",
        )
    return (f"others could use the folder {home} (mode {before:04o}); now only you can (mode {now:04o})",)


def record_sizes(home: Path) -> dict[str, int]:
    """Return the names and sizes in bytes of what lies in the folder of records."""
    try:
        with os.scandir(home / RECORDS) as folder:
            return {item.name: item.stat(follow_symlinks=False).st_size for item in folder}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def stat_head(home: Path) -> tuple[int, ...]:
    """Return what changes whenever another head is put in place; raises `FileNotFoundError`."""
    status = (home / HEAD).stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def key_name(store: bytes) -> str:
    """Return the name under which a keyring holds a vault's key."""
    return f"vault {store.hex()} key"


def witness_name(store: bytes) -> str:
    """Return the name under which a keyring holds the note of a vault's last change."""
    return f"vault {store.hex()} last change"


@contextlib.contextmanager
def holding_lock(home: Path, wait_seconds: float, *, needed: bool) -> Iterator[bool]:
    """Hold the vault's lock and give True; give False if the disk refuses and the lock is not `needed`.

    Raises `VaultBusyError` or `OSError`.
    """
    with contextlib.ExitStack() as held:
        locked = True
        try:
            held.enter_context(durable.locked(home / LOCK, wait_seconds, f"the vault in {home}"))
        except OSError as error:
            if needed or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            locked = False
        yield locked


@contextlib.contextmanager
def naming(home: Path, what: str = f"its list of records ({HEAD})") -> Iterator[None]:
    """Complete the bare reasons of `format` to a line that says where and what to do."""
    try:
        yield
    except VaultDamagedError as error:
        raise VaultDamagedError(f"the vault in {home}: {what} {error}; {NEXT_STEP}") from None
    except WrongPassphraseError as error:
        raise WrongPassphraseError(
            f"{error} in {home}; try again, or name another vault with --home"
        ) from None


def _record_files(home: Path) -> Iterator[Path]:
    if (home / RECORDS).is_dir():
        yield from (path for path in (home / RECORDS).iterdir() if RECORD_FILE.fullmatch(path.name))


def _forget_keyring(home: Path, keyring: KeyStore | None) -> None:
    # A damaged head cannot say whose key to forget, and a keyring that is gone cannot forget; neither may
    # keep a person from erasing the files.
    with contextlib.suppress(VaultError, OptionError, StorageError):
        clear = read_lock(home)
        if clear.lock == LOCKED_BY_KEYRING:
            keyring = SystemKeyring() if keyring is None else keyring
            keyring.delete(key_name(clear.store))
            keyring.delete(witness_name(clear.store))
