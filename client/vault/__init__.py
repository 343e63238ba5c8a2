"""The vault: everything personal on this device, sealed on the disk.

Records come in and go out as bytes, by type and id; what they mean is known by those who call. Any room may
call it. Other rooms take a `Store`, so that virtual people and trials can give a `MemoryStore` in place of an
open `Vault`. The vault knows none of them.
"""

from palate.client.vault.store import ONLY, Change, MemoryStore, Records, Store
from palate.client.vault.vault import Vault

__all__ = ["ONLY", "Change", "MemoryStore", "Records", "Store", "Vault"]
