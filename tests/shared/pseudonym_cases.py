"""A registrar for tests, with keys for a few slots that are made once.

And how devices get pseudonyms from it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.client.federation.pseudonyms import make_request, take_answer
from palate.client.vault.store import Store
from palate.server.registrar import Registrar
from palate.shared.secure_sum.blind_signature import (
    SigningKey,
    blind,
    make_signing_key,
    sign_blinded,
    unblind,
)
from palate.shared.secure_sum.pseudonym import SlotKey, certified_content

SLOTS = 8


@cache
def signing_key(slot: int) -> SigningKey:
    """A signing key for a slot, the same in all tests of one run: making one takes a twentieth of
    a second."""
    return make_signing_key()


def slot_key(slot: int) -> SlotKey:
    """Its public half."""
    return SlotKey(slot, signing_key(slot).modulus)


def certificate(pseudonym: bytes, slot: int) -> bytes:
    """A certificate for a pseudonym in a slot, by the key of that slot."""
    content, key = certified_content(pseudonym, slot), signing_key(slot)
    blinded, secret = blind(content, key.modulus)
    return unblind(content, sign_blinded(blinded, key), secret, key.modulus)


def registrar_in(home: Path, count: int = SLOTS) -> tuple[Registrar, bytes]:
    """A registrar in a folder, with keys for the first slots; and the file of these."""
    registrar = Registrar(home, Ed25519PrivateKey.generate())
    _, path = registrar.make_slots(count)
    return registrar, path.read_bytes()


def equip(log: Store, terms: Terms, registrar: Registrar, file: bytes) -> tuple[bytes, bytes]:
    """Register a device, and get it a pseudonym for every slot.

    Returns the request and the answer, as the registrar saw them.
    """
    registrar.register(own_identity(log, terms).public_key().public_bytes_raw())
    request, _ = make_request(log, terms, file)
    answer, _, _ = registrar.answer(request)
    take_answer(log, terms, answer)
    return request, answer
