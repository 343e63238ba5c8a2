"""One identity for each server and registrar, and the one of an earlier version where it was certified."""

import hashlib
import itertools

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.identity import IDENTITY, own_identity
from palate.client.vault.store import ONLY, MemoryStore, Store


def name(store: Store, terms: Terms) -> bytes:
    return own_identity(store, terms).public_key().public_bytes_raw()


def old_vault() -> tuple[MemoryStore, Ed25519PrivateKey]:
    """A vault with the one identity of an earlier version."""
    store, key = MemoryStore(), Ed25519PrivateKey.generate()
    store.put(IDENTITY, ONLY, key.private_bytes_raw())
    return store, key


def test_two_servers_or_two_registrars_see_two_identities_and_each_sees_the_same_again() -> None:
    store = MemoryStore()
    places = [
        Terms(server, registrar=key) for server, key in itertools.product("ab", ("", "ab" * 32, "cd" * 32))
    ]
    names = [name(store, one) for one in places]
    assert len(set(names)) == len(places)
    assert [name(store, one) for one in places] == names
    assert name(MemoryStore(), places[0]) != names[0]


def test_the_secret_of_all_identities_is_none_of_them() -> None:
    store, lasting = old_vault()
    assert name(store, Terms("a")) != lasting.public_key().public_bytes_raw()


def test_a_server_whose_registrar_certified_the_identity_of_an_earlier_version_keeps_it() -> None:
    store, lasting = old_vault()
    old, registrar = lasting.public_key().public_bytes_raw(), Ed25519PrivateKey.generate()
    certificate = registrar.sign(hashlib.sha256(b"palate certificate 1\0" + old).digest()).hex()
    public = registrar.public_key().public_bytes_raw().hex()
    kept = Terms("a", registrar=public, certificate=certificate)
    assert name(store, kept) == old
    assert name(store, Terms("a", registrar=public)) != old
    assert (
        name(store, Terms("a", registrar="ab" * 32, certificate=certificate)) != old
    )  # another registrar since
    assert name(store, Terms("b", registrar=public, certificate="00" * 64)) != old
