"""One identity for each server and registrar, and the one of an earlier version where it was certified."""

import hashlib
import itertools

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.identity import IDENTITY, own_identity
from palate.client.vault.store import ONLY, MemoryStore, Store


def name(log: Store, terms: Terms) -> bytes:
    return own_identity(log, terms).public_key().public_bytes_raw()


def old_vault() -> tuple[MemoryStore, Ed25519PrivateKey]:
    """A vault with the one identity of an earlier version."""
    log, key = MemoryStore(), Ed25519PrivateKey.generate()
    log.put(IDENTITY, ONLY, key.private_bytes_raw())
    return log, key


def test_two_servers_or_two_registrars_see_two_identities_and_each_sees_the_same_again() -> None:
    log = MemoryStore()
    places = [
        Terms(server, registrar=key) for server, key in itertools.product("ab", ("", "ab" * 32, "cd" * 32))
    ]
    names = [name(log, one) for one in places]
    assert len(set(names)) == len(places)
    assert [name(log, one) for one in places] == names
    assert name(MemoryStore(), places[0]) != names[0]


def test_the_secret_of_all_identities_is_none_of_them() -> None:
    log, lasting = old_vault()
    assert name(log, Terms("a")) != lasting.public_key().public_bytes_raw()


def test_a_server_whose_registrar_certified_the_identity_of_an_earlier_version_keeps_it() -> None:
    log, lasting = old_vault()
    old, registrar = lasting.public_key().public_bytes_raw(), Ed25519PrivateKey.generate()
    certificate = registrar.sign(hashlib.sha256(b"palate certificate 1\0" + old).digest()).hex()
    public = registrar.public_key().public_bytes_raw().hex()
    kept = Terms("a", registrar=public, certificate=certificate)
    assert name(log, kept) == old
    assert name(log, Terms("a", registrar=public)) != old
    assert (
        name(log, Terms("a", registrar="ab" * 32, certificate=certificate)) != old
    )  # another registrar since
    assert name(log, Terms("b", registrar=public, certificate="00" * 64)) != old
