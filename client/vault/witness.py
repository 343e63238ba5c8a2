"""The note of the vault's last change, against which an older head that was put back is noticed.

Kept apart from the head: in the keyring if the keyring holds the vault's key, else in `vault.witness` next to
the head (what that means for rolling back stands in `vault`). Written just after each change, so after a
crash it may be one behind; every head holds the hash of the one before, which is how "one behind" is told
from "rolled back".
"""

from pathlib import Path

from palate.client.vault.folder import NEXT_STEP, WITNESS, naming, witness_name
from palate.client.vault.format import Head, Witness, decode_witness, encode_witness
from palate.client.vault.keyrings import KeyStore
from palate.shared import durable
from palate.shared.errors import VaultDamagedError


class LastChange:
    """The place where one vault's note is kept."""

    def __init__(self, home: Path, store: bytes, key_store: KeyStore | None) -> None:
        """Keep the note in `key_store`, or, without one, in the folder `home`."""
        self._home, self._store, self._key_store = home, store, key_store

    def check(self, head: Head, head_hash: bytes) -> Witness:
        """Return the note if it is of this head or the one before; otherwise raise `VaultDamagedError`."""
        with naming(self._home, "the note of its last change"):
            data = self._read()
            if data is None:
                raise VaultDamagedError("is missing")
            seen = decode_witness(data, self._store, head.witness_key)
        if seen not in (Witness(head.counter, head_hash), Witness(head.counter - 1, head.previous)):
            raise VaultDamagedError(
                f"the vault in {self._home} was rolled back to an older state; {NEXT_STEP}"
            )
        return seen

    def write(self, witness: Witness, witness_key: bytes) -> None:
        """Replace the note; raises `OSError`, or `StorageError` from the keyring."""
        data = encode_witness(witness, self._store, witness_key)
        if self._key_store is not None:
            self._key_store.set(witness_name(self._store), data)
        else:
            durable.write_atomically(self._home / WITNESS, data)

    def _read(self) -> bytes | None:
        if self._key_store is not None:
            return self._key_store.get(witness_name(self._store))
        try:
            return durable.read_file(self._home / WITNESS, 4096)
        except FileNotFoundError:
            return None
