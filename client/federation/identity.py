"""The key by which a registrar knows this device: another one for each server and registrar.

Where it stands in the flow: `pseudonyms` signs requests for certificates with it, and `palate outbox --terms`
shows it. It does not appear in rounds: there a device has a pseudonym for one round only. All identities come
from one secret, made once and kept sealed in the vault. Without that secret, none of them says anything about
another.

Earlier versions had one identity for all servers: the secret's own public key. A server for which a registrar
has certified that identity keeps it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from palate.client.federation.consent import Terms
from palate.client.vault.store import ONLY, Store
from palate.shared.errors import MaskError, VaultDamagedError
from palate.shared.secure_sum.masks import check_certificate

IDENTITY = "federation identity"  # type of record
_KEY_BYTES = 32


def own_identity(store: Store, terms: Terms) -> Ed25519PrivateKey:
    """Return this device's Ed25519 key for the server and the registrar of these terms.

    The secret is made at the first call and kept in `store`. Raises what the vault raises.
    """
    lasting = _lasting(store)
    if _was_certified(lasting, terms):
        return lasting
    named = terms.registrar.encode() + b"\0" + terms.server.encode()
    derived = HKDF(SHA256(), _KEY_BYTES, None, b"palate identity 1\0" + named)
    return Ed25519PrivateKey.from_private_bytes(derived.derive(lasting.private_bytes_raw()))


def _was_certified(lasting: Ed25519PrivateKey, terms: Terms) -> bool:
    """Return whether the registrar of these terms certified the identity of earlier versions."""
    registrar, certificate = terms.registrar_bytes(), terms.certificate_bytes()
    if registrar is None or certificate is None:
        return False
    try:
        check_certificate(certificate, lasting.public_key().public_bytes_raw(), registrar)
    except MaskError:
        return False
    return True


def _lasting(store: Store) -> Ed25519PrivateKey:
    """Return the secret, as the key that it was in earlier versions; make it where there is none."""
    if not store.has(IDENTITY, ONLY):
        key = Ed25519PrivateKey.generate()
        with store.transaction() as change:
            if not change.has(IDENTITY, ONLY):  # unless another process made one meanwhile
                change.put(IDENTITY, ONLY, key.private_bytes_raw())
    kept = store.get(IDENTITY, ONLY)
    if len(kept) != _KEY_BYTES:
        raise VaultDamagedError("the secret of this device's identities cannot be read")
    return Ed25519PrivateKey.from_private_bytes(kept)
