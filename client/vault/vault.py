"""The sealed store: everything personal on this device, as records that only the person's passphrase opens.

All of the device stands on it: comments, pictures, mentions, edits and adapter are records here, and nothing
personal is on the disk anywhere else, not even for a moment (records are sealed in memory before the first
byte is written). The passphrase gives a key, and the key wraps one data key per record (`sealing` has the
primitives, `format` the bytes, `shared.durable` the order of writing).

    >>> with Vault.create(home, "correct horse") as vault:
    ...     with vault.transaction() as change:
    ...         change.put("comment", "a1", b"lovely mist")
    ...         change.put("picture", "9f", b"...")
    ...     vault.get("comment", "a1")
    b'lovely mist'

**All or nothing.** New records go into new files; then one rename puts a new head in place, and that rename
is the change. Killed before it, the old state opens and the new files are cleared away; killed after it, the
new state opens.

**Two processes** may have one vault open. A transaction holds a lock of the operating system and starts from
the newest state; the second one waits a few seconds, then gets `VaultBusyError`. Reading takes no lock.

What forgetting means, what is noticed and what is not protected stands with the room (`__init__`).
"""

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from palate.client.vault import folder as vault_folder
from palate.client.vault import format as vault_format
from palate.client.vault import record_files
from palate.client.vault.folder import HEAD, LOCK, NEXT_STEP, RECORDS, WAIT_SECONDS
from palate.client.vault.format import Entry, Head, Keys, Name, Witness
from palate.client.vault.keyrings import KeyStore, SystemKeyring
from palate.client.vault.sealing import SALT_BYTES, derive_key, new_key
from palate.client.vault.store import Records
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
        """What was put right about the folder when the vault was made or opened, in lines for the person."""

    # --- making, opening, closing ---------------------------------------------------------------------------

    @classmethod
    def create(
        cls, home: Path | str, passphrase: str | None = None, *, keyring: KeyStore | None = None
    ) -> "Vault":
        """Make an empty vault in `home` and open it.

        Args:
            home: a folder, made if it is not there.
            passphrase: locks the vault; or
            keyring: keeps a random key that locks it.

        Raises:
            OptionError: not exactly one of the two, or an empty passphrase.
            VaultError: there is a vault already.
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
                # The note comes first here: a vault without its note is a damaged one, so there must be no
                # such moment.
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
        key: bytes | None = None,
        keyring: KeyStore | None = None,
        wait_seconds: float = WAIT_SECONDS,
        unsafe_accept_loss: "Callable[[Vault], None] | None" = None,
    ) -> "Vault":
        """Open the vault in `home`; from a disk that cannot be written too, to read it.

        Args:
            home: folder of the vault.
            passphrase: opens a vault that was made with one.
            key: what `derive_key` made of the passphrase earlier, in place of it (`agent`).
            keyring: where the key of a vault without a passphrase lies; None for the system's keyring.
            wait_seconds: how long to wait for another process that changes the vault.
            unsafe_accept_loss: opens a vault that was rolled back or lacks record files, for a person who
                restored an incomplete backup and knows it; called with the vault, it settles what that means
                (`privacy.rollback.settle_loss`: the privacy budget counts as spent).

        Raises:
            VaultMissingError: there is none.
            WrongPassphraseError: neither passphrase nor key opens it.
            VaultDamagedError: it was changed, cut short or rolled back.
            VaultBusyError: another process changes it for longer than `wait_seconds`.
            StorageError: it cannot be read.
        """
        home = Path(home)
        clear = vault_folder.read_lock(home)
        if clear.lock == vault_format.LOCKED_BY_KEYRING:
            keyring = SystemKeyring() if keyring is None else keyring
            key = keyring.get(vault_folder.key_name(clear.store))
            if key is None:
                raise WrongPassphraseError(
                    f"the system's keyring holds no key for the vault in {home}; "
                    "open it as the person who made it"
                )
        else:
            keyring = None
            if key is None:
                if not passphrase:
                    raise WrongPassphraseError(
                        f"the vault in {home} needs its passphrase, and none was given"
                    )
                key = derive_key(passphrase, clear.salt)
        vault = cls(home, Keys.derive(key, clear.lock, clear.store, clear.salt), keyring)
        try:
            vault.mended = vault_folder.close_to_others(home)
            with vault_folder.holding_lock(home, wait_seconds, needed=False) as locked:
                vault._load_head()
                seen: Witness | None = None
                lost = False
                try:
                    seen = vault._check()
                except VaultDamagedError:
                    if unsafe_accept_loss is None:
                        raise
                    lost = True
                if locked:
                    # A full disk must not keep a person from reading; the next change will ask again.
                    with contextlib.suppress(OSError, StorageError):
                        vault._note_head(seen)
                    record_files.clear_leftovers(home, vault._head.entries.values())
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

    # --- reading --------------------------------------------------------------------------------------------

    def get(self, type_: str, id_: str) -> bytes:
        """Return a record's content; raises `KeyError`, or `VaultDamagedError` if it was changed."""
        with self._guard, self._reading():
            self._refresh()
            while True:
                entry = self._head.entries.get((type_, id_))
                if entry is None:
                    raise KeyError((type_, id_))
                try:
                    return record_files.read_record(self.home, entry, self._keys_now())
                except VaultDamagedError:
                    # Another process may have replaced the record since its place was looked up: then look
                    # again.
                    if self._changing or not self._load_head():
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
        """Read every record and return how many there are; raises `VaultDamagedError` at a changed one."""
        with self._guard:
            self._refresh()
            for name in sorted(self._head.entries):
                self.get(*name)
            return len(self._head.entries)

    @contextlib.contextmanager
    def snapshot(self, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[Records]:
        """Give the records of one moment: what others change while the block runs is not seen in it.

        Holds the vault's lock; on a disk that cannot be written it does without.

        Raises:
            VaultBusyError: another process changes the vault.
            VaultDamagedError: the vault was changed from outside.
        """
        with self._held(wait_seconds, to_read=True) as locked:
            try:
                yield self
            except VaultDamagedError:
                if not locked and self._load_head():
                    raise VaultBusyError(
                        f"the vault in {self.home} was changed while it was read; try again"
                    ) from None
                raise

    # --- changing -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[Transaction]:
        """Collect changes in the block and make all of them at its end, in one step; an exception makes none.

        Holds the vault's lock for as long as the block runs, so long computations belong before it.

        Raises:
            VaultBusyError: another process changes the vault for longer than `wait_seconds`.
            StorageError: the disk is full or refuses; nothing is changed.
            VaultDamagedError: the vault was changed from outside meanwhile.
        """
        with self._held(wait_seconds):
            change = Transaction(self)
            try:
                yield change
            finally:
                change.done = True
            if change.puts or change.deletes:
                self._commit(change.puts, change.deletes)

    def watch(self, type_: str, id_: str, tell: Callable[[bytes], None]) -> None:
        """Call `tell` with each new content of a record before the change; if it raises, nothing changes."""
        self._watched[type_, id_] = tell

    def change_passphrase(self, new_passphrase: str) -> None:
        """Lock the vault by another passphrase from now on: wrap all data keys anew, in one step.

        Record files and data keys stay as they are. A copy of the old head still opens with the old
        passphrase, and with it the records that it names.

        Raises:
            OptionError: the system's keyring locks the vault, or the passphrase is empty.
        """
        old = self._keys_now()
        if old.clear.lock != vault_format.LOCKED_BY_PASSPHRASE:
            raise OptionError(
                f"the vault in {self.home} is locked by the system's keyring and has no passphrase"
            )
        salt = secrets.token_bytes(SALT_BYTES)
        new = Keys.derive(derive_key(new_passphrase, salt), old.clear.lock, old.clear.store, salt)
        with self._held(WAIT_SECONDS):
            entries = record_files.rewrap(self.home, self._head.entries, old, new)
            with self._storage("nothing was changed"):
                head, head_data, beside = self._prepare_head(entries, new)
            self._put_in_place(head, head_data, beside, new)

    @staticmethod
    def erase(home: Path | str, *, keyring: KeyStore | None = None) -> None:
        """Destroy the vault in `home` for good: first its keys, then its files; needs no passphrase.

        One rename decides: before it the vault is whole, after it the vault is gone, and what a kill leaves
        behind is unreadable and cleared away by the next `erase` or `create`. Files that are not the vault's
        are left alone. (A key in the keyring is forgotten even before the rename.)

        Raises:
            VaultMissingError: there is nothing of a vault.
            StorageError: the disk refuses.
        """
        vault_folder.erase_vault(Path(home), keyring)

    # --- inside ---------------------------------------------------------------------------------------------

    def _keys_now(self) -> Keys:
        if self._keys is None:
            raise VaultError(f"the vault in {self.home} was closed; open it again")
        return self._keys

    @contextlib.contextmanager
    def _held(self, wait_seconds: float, *, to_read: bool = False) -> Iterator[bool]:
        """Hold the lock and start from the newest head; give whether it is held (a reader may do without)."""
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
                    lock = vault_folder.holding_lock(self.home, wait_seconds, needed=not to_read)
                    locked = held.enter_context(lock)
                    self._load_head()
                    if not to_read:
                        self._note_head(self._note.check(self._head, self._head_hash))
                self._changing = True
                try:
                    yield locked
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
                    entries[name] = record_files.write_record(self.home, keys, name, revision, content)
                    written.append(self.home / RECORDS / entries[name].file)
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
        """Write the next head into a file of its own; return it with its bytes and where it lies."""
        head = Head(self._head.counter + 1, self._head_hash, self._head.witness_key, entries)
        data = vault_format.encode_head(head, keys)
        return head, data, durable.write_beside(self.home / HEAD, data)

    def _put_in_place(self, head: Head, data: bytes, beside: Path, keys: Keys) -> None:
        """Put the prepared head in place of the present one: the one point at which a change happens.

        If the disk fails here, it alone knows which head is in place: new files stay until the next opening,
        which clears away those that the head in place does not name.
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
        # The change is made. What follows is caught up with at the next opening, so a failure here is not the
        # person's business: the note of the last head may be one behind, and files that no key opens may lie
        # about.
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
        """Read and check the head; return whether it is another one than before. Raises `OSError`."""
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
                        f"the passphrase of the vault in {self.home} was changed meanwhile; "
                        "open it with the new one"
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

    def _note_head(self, seen: Witness | None) -> None:
        """Bring the note of the last head up to date; before a change, so that it is never two behind."""
        now = Witness(self._head.counter, self._head_hash)
        if seen != now:
            self._note.write(now, self._head.witness_key)

    def _check(self) -> Witness:
        """Check head, note and files against each other; return the note."""
        # Without the lock others may change them in between: then look again.
        while True:
            try:
                seen = self._note.check(self._head, self._head_hash)
                record_files.check_files(self.home, self._head.entries.values())
                return seen
            except VaultDamagedError:
                if not self._load_head():
                    raise
