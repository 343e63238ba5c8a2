"""The vault: everything personal on this device, sealed on the disk.

Records come in and go out as bytes, by type and id; what they mean is known by those who call. Any room may
call it. Other rooms take a `Store`, so that virtual people and trials can give a `MemoryStore` in place of an
open `Vault`. The vault knows none of them.

**Forgetting** removes the record's data key: it existed only in the head, and the old head is overwritten
with zeros, as far as the disk allows. Flash, snapshots and backups may keep an old head. With that head *and*
the passphrase (or key) of its time, what it names can be opened, if the record's old file survived too.

**What is noticed.** Every changed, swapped or shortened byte; a record's older file; a missing file; an older
head put back alone. With a passphrase, the note of the last head lies in the same folder (`vault.witness`),
so **a whole older folder put back in place of the newer one is not noticed**: nothing outside the folder
remembers that there was a newer one. With the key in the system's keyring the note lies in the keyring, and a
whole older folder is noticed too (unless the keyring was put back as well). Not noticed in either case is
that the very last change was undone, if the power failed between that change and its note. Damage to a
record's content shows when it is read, or at `verify`. What rounds of training spent is remembered apart from
all this, with any lock, where there is a keyring (`privacy.rollback`).

**What is not protected.** Whoever can read this process's memory has the keys while it runs (`close` drops
them, but Python may have left copies). The number, the rounded sizes and the times of records are visible.
"""

from palate.client.vault.store import ONLY, Change, MemoryStore, Records, Store
from palate.client.vault.vault import Vault

__all__ = ["ONLY", "Change", "MemoryStore", "Records", "Store", "Vault"]
