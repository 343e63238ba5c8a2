"""The sealed store: everything personal on this device, as records that only the person's passphrase opens.

It stands under all of the device: comments, pictures, mentions, edits, evaluator and adapter are records here, and
nothing personal is on the disk anywhere else, not even for a moment (records are sealed in memory before the first byte
is written). The envelope design follows DESIGN.md: passphrase -> key -> one data key per record (`sealing` has the
primitives, `vault_format` the bytes, `durable` the order of writing).

    with Vault.create(home, "correct horse") as vault:
        with vault.transaction() as change:
            change.put("comment", "a1", b"...")
            change.put("picture", "9f", b"...")
        vault.get("comment", "a1")

**All or nothing.** New records go into new files; then one rename puts a new head in place, and that rename is the
change. Killed before it, the old state opens and the new files are cleared away; killed after it, the new state opens.

**Two processes** may have one vault open. A transaction holds a lock of the operating system and starts from the
newest state; whoever comes second waits a few seconds and then gets `VaultBusyError`. Reading takes no lock.

**Forgetting** removes the record's data key: it existed only in the head, and the old head is overwritten with zeros,
as far as the disk lets itself be overwritten. Flash, snapshots and backups may keep an old head, and whoever has that
*and* the passphrase (or key) of its time can open what it names, if the record's old file survived too.

**What is noticed.** Every changed, swapped or shortened byte; a record's older file; a missing file; an older head put
back alone. With a passphrase, the note of the last head lies in the same folder (`vault.witness`), so **a whole older
folder put back in place of the newer one is not noticed**: nothing outside the folder remembers that there was a newer
one. With the key in the system's keyring the note lies in the keyring, and a whole older folder is noticed too (unless
the keyring was put back as well). Not noticed in either case is that the very last change was undone, if the power
failed between that change and its note. Damage to a record's content shows when it is read, or at `verify`.
What rounds of training spent is remembered apart from all this, with any lock, where there is a keyring (`spent_note`).

**What is not protected.** Whoever can read this process's memory has the keys while it runs (`close` drops them, but
Python may have left copies). The number, the rounded sizes and the times of records are visible.
"""

import contextlib
import errno
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from palate.client.vault import folder as vault_folder
from palate.client.vault import format as vault_format
from palate.client.vault.folder import HEAD, LOCK, NEXT_STEP, RECORDS, WAIT_SECONDS
from palate.client.vault.format import Entry, Head, Keys, Name, Witness
from palate.client.vault.keyrings import KeyStore, SystemKeyring
from palate.client.vault.sealing import SALT_BYTES, SealBrokenError, derive_key, new_key
from palate.client.vault.transaction import Transaction
from palate.client.vault.witness import LastChange
from palate.shared import durable
from palate.shared.errors import (
    OptionError,
    StorageError,
    VaultBusyError,
    VaultDamagedError,
    VaultError,
    WrongPassphraseError,
)


class Vault:
    """An open vault; make one with `create` or `open`, and `close` it, best by `with`."""

    def __init__(self, home: Path, keys: Keys, key_store: KeyStore | None) -> None:
        """Use `Vault.create` or `Vault.open` instead; they check what this takes for granted."""
        self.home = home
        self._keys: Keys | None = keys
        self._note = LastChange(home, keys.clear.store, key_store)
        self._head = Head(-1, b"", b"")
        self._head_hash = b""
        self._head_stat: tuple[int, ...] | None = None
        self._guard = threading.RLock()
        self._changing = False
        self.key_store = key_store  # where the key lies; None for a passphrase
        self.store = keys.clear.store  # the random id that the vault got when it was made
        self._watched: dict[Name, Callable[[bytes], None]] = {}
        self.mended: tuple[str, ...] = ()
        """What was put right about the folder when the vault was made or opened, a line each, to be told to the person."""

    # --- making, opening, closing -------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, home: Path | str, passphrase: str | None = None, *, keyring: KeyStore | None = None
    ) -> "Vault":
        """Make an empty vault in the folder `home` and open it, locked by a passphrase or by a key in `keyring`.

        Raises `OptionError` unless exactly one of the two is given, `VaultError` if there is a vault already, and
        `StorageError` if the folder cannot be written.
        """
        home = Path(home)
        if (passphrase is None) == (keyring is None):
            raise OptionError(
                "a vault is locked by a passphrase or by the system's keyring; give exactly one of them"
            )
        store, salt = secrets.token_bytes(vault_format.STORE_BYTES), secrets.token_bytes(SALT_BYTES)
        key = new_key() if passphrase is None else derive_key(passphrase, salt)
        lock = vault_format.LOCKED_BY_KEYRING if keyring is not None else vault_format.LOCKED_BY_PASSPHRASE
        vault = cls(home, Keys.derive(key, lock, store, salt), keyring)
        try:
            durable.make_folder(home)
            vault.mended = vault_folder.close_to_others(home, new=True)
            with durable.locked(home / LOCK, WAIT_SECONDS, f"the vault in {home}"):
                if (home / vault_folder.ERASED).exists():
                    vault_folder.finish_erasing(home)
                if (home / HEAD).exists():
                    raise VaultError(
                        f"there is a vault in {home} already; use it, or remove it with `palate erase`"
                    )
                vault_folder.refuse_records_without_head(home)
                durable.make_folder(home / RECORDS)
                if keyring is not None:
                    keyring.set(vault_folder.key_name(store), key)
                head = Head(0, bytes(32), new_key())
                data = vault_format.encode_head(head, vault._keys_now())
                # The note comes first here: a vault without its note is a damaged one, so there must be no such moment.
                vault._note.write(Witness(0, vault_format.hash_head(data)), head.witness_key)
                durable.write_atomically(home / HEAD, data)
                vault._load_head()
        except OSError as error:
            raise durable.storage_error(error, home, "no vault was made") from error
        return vault

    @classmethod
    def open(
        cls,
        home: Path | str,
        passphrase: str | None = None,
        *,
        keyring: KeyStore | None = None,
        wait_seconds: float = WAIT_SECONDS,
        unsafe_accept_loss: "Callable[[Vault], None] | None" = None,
    ) -> "Vault":
        """Open the vault in `home`; a vault locked by the keyring finds its key there by itself.

        `unsafe_accept_loss` opens a vault that was rolled back or that lacks record files (those stay unreadable): a
        last resort for a person who restored an incomplete backup and knows it. It is called with the opened vault and
        settles what the loss means (`privacy.rollback.settle_loss`: the privacy budget counts as spent).

        Raises `VaultMissingError`, `WrongPassphraseError`, `VaultDamagedError`, `VaultBusyError` or `StorageError`.
        """
        home = Path(home)
        clear = vault_folder.read_lock(home)
        key: bytes | None
        if clear.lock == vault_format.LOCKED_BY_KEYRING:
            keyring = SystemKeyring() if keyring is None else keyring
            key = keyring.get(vault_folder.key_name(clear.store))
            if key is None:
                raise WrongPassphraseError(
                    f"the system's keyring holds no key for the vault in {home}; open it as the person who made it"
                )
        else:
            keyring = None
            if not passphrase:
                raise WrongPassphraseError(f"the vault in {home} needs its passphrase, and none was given")
            key = derive_key(passphrase, clear.salt)
        vault = cls(home, Keys.derive(key, clear.lock, clear.store, clear.salt), keyring)
        try:
            vault.mended = vault_folder.close_to_others(home)
            with durable.locked(home / LOCK, wait_seconds, f"the vault in {home}"):
                vault._load_head()
                seen: Witness | None = None
                lost = False
                try:
                    seen = vault._note.check(vault._head, vault._head_hash)
                    vault._check_files()
                except VaultDamagedError:
                    if unsafe_accept_loss is None:
                        raise
                    lost = True
                # A full disk must not keep a person from reading; the next change will ask again.
                with contextlib.suppress(OSError, StorageError):
                    vault._note_head(seen)
                vault._clear_leftovers()
        except OSError as error:
            raise durable.storage_error(error, home, "the vault was not opened") from error
        if lost and unsafe_accept_loss is not None:
            unsafe_accept_loss(vault)
        return vault

    def close(self) -> None:
        """Drop the keys; nothing can be read or written through this object afterwards."""
        with self._guard:
            self._keys = None
            self._head = Head(-1, b"", b"")

    def __enter__(self) -> "Vault":
        """Give the open vault to a `with` block, at whose end it is closed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the vault."""
        self.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def get(self, type_: str, id_: str) -> bytes:
        """Return a record's content; raises `KeyError` if there is none, `VaultDamagedError` if it was changed."""
        with self._guard, self._reading():
            self._refresh()
            while True:
                entry = self._head.entries.get((type_, id_))
                if entry is None:
                    raise KeyError((type_, id_))
                try:
                    return self._read_record(entry)
                except VaultDamagedError:
                    # Another process may have replaced the record since its place was looked up: then look again.
                    if not self._load_head():
                        raise

    def has(self, type_: str, id_: str) -> bool:
        """Say whether there is such a record."""
        with self._guard:
            self._refresh()
            return (type_, id_) in self._head.entries

    def list(self, type_: str) -> tuple[str, ...]:
        """Return the ids of all records of one type, sorted."""
        with self._guard:
            self._refresh()
            return tuple(sorted(id_ for kind, id_ in self._head.entries if kind == type_))

    def types(self) -> tuple[str, ...]:
        """Return the types of which there are records, sorted."""
        with self._guard:
            self._refresh()
            return tuple(sorted({kind for kind, _ in self._head.entries}))

    def verify(self) -> int:
        """Read every record and return how many there are; raises `VaultDamagedError` at the first that was changed."""
        with self._guard:
            self._refresh()
            names = sorted(self._head.entries)
            for name in names:
                self.get(*name)
            return len(names)

    # --- changing -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[Transaction]:
        """Collect changes in the block and make all of them at its end, in one step; an exception makes none.

        Holds the vault's lock for as long as the block runs, so long computations belong before it. Raises
        `VaultBusyError` if another process changes the vault for longer than `wait_seconds`, `StorageError` if the disk
        is full or refuses (then nothing is changed), `VaultDamagedError` if the vault was tampered with meanwhile.
        """
        with self._writing(wait_seconds):
            change = Transaction(self)
            try:
                yield change
            finally:
                change.done = True
            if change.puts or change.deletes:
                self._commit(change.puts, change.deletes)

    def watch(self, type_: str, id_: str, tell: Callable[[bytes], None]) -> None:
        """Call `tell` with each new content of a record before the change is made; what it raises keeps the change from being made."""
        self._watched[type_, id_] = tell

    def change_passphrase(self, new_passphrase: str) -> None:
        """Lock the vault by another passphrase from now on: wraps all data keys anew, in one step.

        Record files stay as they are. Whoever copied the old head earlier and knows the old passphrase can still open
        the records that were in it. Raises `OptionError` for a vault that the system's keyring locks.
        """
        old = self._keys_now()
        if old.clear.lock != vault_format.LOCKED_BY_PASSPHRASE:
            raise OptionError(
                f"the vault in {self.home} is locked by the system's keyring and has no passphrase"
            )
        salt = secrets.token_bytes(SALT_BYTES)
        new = Keys.derive(derive_key(new_passphrase, salt), old.clear.lock, old.clear.store, salt)
        with self._writing(WAIT_SECONDS):
            entries = {}
            for name, entry in self._head.entries.items():
                data_key = self._data_key(entry)
                wrapped = vault_format.wrap_data_key(data_key, new, name, entry.revision)
                entries[name] = replace(entry, wrapped=wrapped)
            with self._storage("nothing was changed"):
                head, head_data, beside = self._prepare_head(entries, new)
            self._put_in_place(head, head_data, beside, new)

    @staticmethod
    def erase(home: Path | str, *, keyring: KeyStore | None = None) -> None:
        """Destroy the vault in `home` for good: first its keys, then its files; needs no passphrase.

        One rename decides: before it the vault is whole, after it the vault is gone, and what a kill leaves behind is
        unreadable and cleared away by the next `erase` or `create`. Files that are not the vault's are left alone.
        (A key in the keyring is forgotten even before the rename.) Raises `VaultMissingError` if there is nothing of a
        vault, `VaultBusyError` or `StorageError`.
        """
        vault_folder.erase_vault(Path(home), keyring)

    # --- inside -------------------------------------------------------------------------------------------------

    def _keys_now(self) -> Keys:
        if self._keys is None:
            raise VaultError(f"the vault in {self.home} was closed; open it again")
        return self._keys

    @contextlib.contextmanager
    def _writing(self, wait_seconds: float) -> Iterator[None]:
        """Hold the lock and start from the newest head."""
        if not self._guard.acquire(timeout=wait_seconds):
            raise VaultBusyError(
                f"another part of this program is changing the vault in {self.home}; try again"
            )
        try:
            if self._changing:
                raise RuntimeError("a transaction cannot be begun inside another one")
            self._keys_now()
            vault_folder.refuse_missing(self.home)
            with contextlib.ExitStack() as held:
                with self._storage("nothing was changed"):
                    held.enter_context(
                        durable.locked(self.home / LOCK, wait_seconds, f"the vault in {self.home}")
                    )
                    self._load_head()
                    self._note_head(self._note.check(self._head, self._head_hash))
                self._changing = True
                try:
                    yield
                finally:
                    self._changing = False
        finally:
            self._guard.release()

    @contextlib.contextmanager
    def _storage(self, consequence: str) -> Iterator[None]:
        """Turn what the operating system refuses into one line."""
        try:
            yield
        except OSError as error:
            raise durable.storage_error(error, self.home, consequence) from error

    def _commit(self, puts: Mapping[Name, bytes], deletes: set[Name]) -> None:
        keys, revision = self._keys_now(), self._head.counter + 1
        entries = {name: entry for name, entry in self._head.entries.items() if name not in deletes}
        written: list[Path] = []
        try:
            with self._storage("nothing was changed"):
                for name, content in puts.items():
                    data_key, file = new_key(), f"{secrets.token_hex(16)}.rec"
                    data = vault_format.encode_record(data_key, keys.clear.store, name, revision, content)
                    wrapped = vault_format.wrap_data_key(data_key, keys, name, revision)
                    written.append(self.home / RECORDS / file)
                    durable.write_file(written[-1], data)
                    entries[name] = Entry(*name, revision, file, len(data), wrapped)
                if written:
                    durable.sync_folder(self.home / RECORDS)
                for name, tell in self._watched.items():
                    if name in puts:
                        tell(puts[name])
                head, head_data, beside = self._prepare_head(entries, keys)
        except BaseException:
            vault_folder.remove_leftovers(written)
            raise
        self._put_in_place(head, head_data, beside, keys)

    def _prepare_head(self, entries: Mapping[Name, Entry], keys: Keys) -> tuple[Head, bytes, Path]:
        """Write the next head beside the present one, and return it with its bytes and where it lies."""
        head = Head(self._head.counter + 1, self._head_hash, self._head.witness_key, entries)
        data = vault_format.encode_head(head, keys)
        return head, data, durable.write_beside(self.home / HEAD, data)

    def _put_in_place(self, head: Head, data: bytes, beside: Path, keys: Keys) -> None:
        """Put the prepared head in place of the present one: the one point at which a change happens.

        If the disk fails here, it alone knows which head is in place: new files stay until the next opening, which
        clears away those that the head in place does not name.
        """
        old = self._head
        with self._storage("open the vault again to see whether the change was kept"):
            with durable.holding(self.home / HEAD) as scrub_old_head:
                self._head_stat = None
                durable.rename(beside, self.home / HEAD)
                self._keys = keys
                durable.sync_folder(self.home)
                with contextlib.suppress(OSError):
                    scrub_old_head()
            self._remember(data, head)
        # The change is made. What follows is caught up with at the next opening, so a failure here is not the person's
        # business: the note of the last head may be one behind, and files that no key opens may lie about.
        with contextlib.suppress(OSError, StorageError):
            self._note_head(None)
        kept = {entry.file for entry in head.entries.values()}
        vault_folder.remove_leftovers(
            self.home / RECORDS / e.file for e in old.entries.values() if e.file not in kept
        )

    def _refresh(self) -> None:
        """Read the head again if another process has replaced it."""
        self._keys_now()
        if self._changing:
            return
        vault_folder.refuse_missing(self.home)
        with self._reading():
            if self._head_stat != vault_folder.stat_head(self.home):
                self._load_head()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StorageError(f"the vault in {self.home} cannot be read ({reason})") from error

    def _load_head(self) -> bool:
        """Read and check the head from the disk; returns whether it is another one than before. Raises `OSError`."""
        while True:
            vault_folder.refuse_missing(self.home)
            found = vault_folder.stat_head(self.home)
            data = vault_folder.read_head(self.home)
            if vault_format.hash_head(data) == self._head_hash:
                self._head_stat = found
                return False
            try:
                with vault_folder.naming(self.home):
                    head = vault_format.decode_head(data, self._keys_now())
                break
            except (VaultDamagedError, WrongPassphraseError) as error:
                # A head that is replaced while it is read may show zeros; the new one is in place by then.
                if vault_folder.read_head(self.home) != data:
                    continue
                if isinstance(error, WrongPassphraseError) and self._head.counter >= 0:
                    raise WrongPassphraseError(
                        f"the passphrase of the vault in {self.home} was changed meanwhile; open it with the new one"
                    ) from None
                raise
        if head.counter <= self._head.counter:
            raise VaultDamagedError(
                f"the vault in {self.home} was rolled back while it was open; {NEXT_STEP}"
            )
        self._remember(data, head)
        self._head_stat = found
        return True

    def _remember(self, data: bytes, head: Head) -> None:
        self._head, self._head_hash = head, vault_format.hash_head(data)
        self._head_stat = vault_folder.stat_head(self.home)

    def _read_record(self, entry: Entry) -> bytes:
        name = (entry.type, entry.id)
        try:
            data = durable.read_file(self.home / RECORDS / entry.file, vault_folder.LARGEST_FILE_BYTES)
            store = self._keys_now().clear.store
            return vault_format.decode_record(data, self._data_key(entry), store, name, entry.revision)
        except SealBrokenError:
            reason = "was changed"
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP):
                raise
            reason = "is missing or no longer a file"
        raise VaultDamagedError(f"a record ({entry.type}) of the vault in {self.home} {reason}; {NEXT_STEP}")

    def _data_key(self, entry: Entry) -> bytes:
        try:
            name = (entry.type, entry.id)
            return vault_format.unwrap_data_key(entry.wrapped, self._keys_now(), name, entry.revision)
        except SealBrokenError:
            raise VaultDamagedError(
                f"a data key of the vault in {self.home} was changed; {NEXT_STEP}"
            ) from None

    def _note_head(self, seen: Witness | None) -> None:
        """Bring the note of the last head up to date; before a change begins, for it must not fall two behind."""
        now = Witness(self._head.counter, self._head_hash)
        if seen != now:
            self._note.write(now, self._head.witness_key)

    def _check_files(self) -> None:
        """Check that every record's file is there and of the right length."""
        there = vault_folder.record_sizes(self.home)
        entries = self._head.entries.values()
        lost = sum(there.get(entry.file) != entry.size_bytes for entry in entries)
        if lost:
            raise VaultDamagedError(
                f"the vault in {self.home}: {lost} of its {len(entries)} records are missing or cut short; {NEXT_STEP}"
            )

    def _clear_leftovers(self) -> None:
        """Remove what a crash left: files that the head does not name, and half-written ones."""
        kept = {entry.file for entry in self._head.entries.values()}
        files = [
            f
            for f in vault_folder.record_sizes(self.home)
            if f not in kept and vault_folder.RECORD_FILE.fullmatch(f)
        ]
        vault_folder.remove_leftovers(self.home / RECORDS / file for file in files)
        vault_folder.clear_beside(self.home)
