"""The key by which other devices of a federation know this one: made once, kept sealed in the vault, personal to nobody else.

Where it stands in the flow: `masked_answers` signs with it what this device says in a masked round. It says nothing about the person; it is
the same in all rounds, so that a registrar can vouch for it, and the server can tell that the same device took part again.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.outbox import Log
from palate.client.records import ONLY
from palate.shared.errors import VaultDamagedError

IDENTITY = "federation identity"  # type of record
_KEY_BYTES = 32


def own_identity(log: Log) -> Ed25519PrivateKey:
    """Return this device's Ed25519 key, made at the first call; raises what the vault raises, and VaultDamagedError."""
    if not log.has(IDENTITY, ONLY):
        key = Ed25519PrivateKey.generate()
        with log.transaction() as change:
            if not change.has(IDENTITY, ONLY):  # unless another process made one meanwhile
                change.put(IDENTITY, ONLY, key.private_bytes_raw())
    kept = log.get(IDENTITY, ONLY)
    if len(kept) != _KEY_BYTES:
        raise VaultDamagedError("the key by which other devices know this one cannot be read")
    return Ed25519PrivateKey.from_private_bytes(kept)
