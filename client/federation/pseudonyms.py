"""This device's pseudonyms: asked for in batches, kept sealed in the vault, each used once.

Where it stands in the flow: `palate pseudonyms` makes a request and takes the registrar's answer
(`shared.secure_sum.pseudonym` says what is in them). `masked_answers` uses one pseudonym for each round.
Without a pinned registrar, a pseudonym is a fresh key without a certificate.

**Nothing is lost, nothing is used twice.** The secrets of a request are in the vault before the request
leaves. A request that waits for its answer is given out again, the same bytes, when it is made again. The
answer becomes pseudonyms in the same transaction that forgets the request. A pseudonym is gone from the vault
before anybody sees it, and with it those of earlier slots: a round that is started again, or one before it,
finds none. A restored vault could show a pseudonym again, to those who saw it before.

    slot keys   id "SERVER REGISTRAR FIRST"   the registrar's file
    request     id "SERVER REGISTRAR"         length 4 | the request's file |
                                              for each slot: secret key 32, what unblinds 256
    pseudonyms  id "SERVER REGISTRAR FIRST"   for each slot that is left:
                                              slot 4, secret key 32, certificate 256
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.client.vault.json_records import readable
from palate.client.vault.store import Records, Store
from palate.shared.errors import FileFormatError, MaskError, OptionError, VaultDamagedError
from palate.shared.secure_sum.blind_signature import MODULUS_BYTES, blind, unblind
from palate.shared.secure_sum.pseudonym import (
    CERTIFICATE_BYTES,
    Pseudonym,
    SlotKey,
    SlotKeys,
    certified_content,
    decode_answer,
    decode_request,
    decode_slot_keys,
    encode_request,
)

SLOT_KEYS, REQUEST, PSEUDONYMS = "slot keys", "pseudonym request", "pseudonyms"  # types of records

_LENGTH = struct.Struct("<I")
_SECRET = struct.Struct(f"<32s{MODULUS_BYTES}s")
_ENTRY = struct.Struct(f"<I32s{CERTIFICATE_BYTES}s")


def fresh_pseudonym(_slot: int) -> Pseudonym:
    """Return a pseudonym for a federation without a registrar: a new key, whatever the slot."""
    return Pseudonym(Ed25519PrivateKey.generate())


def make_request(
    store: Store,
    terms: Terms,
    file: bytes,
    slots: range | None = None,
    *,
    asked: Callable[[int], None] | None = None,
) -> tuple[bytes, range]:
    """Return a request for the registrar and its slots; the same one as long as it waits for its answer.

    Args:
        store: the open vault.
        terms: what was agreed to with the server; they must pin the registrar.
        file: the registrar's slot keys.
        slots: which of them, by default all for which this device has no pseudonym.
        asked: called with the number of blinded values made so far, for a progress bar.

    Raises:
        OptionError: no registrar is pinned, or the slots are not those of the file.
        FileFormatError: the file is not slot keys of the pinned registrar.
    """
    registrar = terms.registrar_bytes()
    if registrar is None:
        raise OptionError(
            f"no registrar is pinned for {terms.server}, so its rounds ask for no certificate; pin one with "
            "palate join --registrar"
        )
    holder = _holder(terms)
    if store.has(REQUEST, holder):
        waiting, _ = _read_request(store, holder)
        found = decode_request(waiting)
        return waiting, range(found.first, found.first + len(found.blinded))
    keys = decode_slot_keys(file, registrar)
    held = slots_left(store, terms)
    wanted = range(max([keys.first, *(slot + 1 for slot in held)]), keys.last + 1) if slots is None else slots
    if not wanted or not keys.first <= wanted[0] <= wanted[-1] <= keys.last:
        raise OptionError(
            f"the file has keys for the slots {keys.first} to {keys.last}; there is nothing to ask for, or "
            "not with this file"
        )
    if not set(held).isdisjoint(wanted):
        raise OptionError(f"this device has pseudonyms up to slot {held[-1]}; ask for later ones")
    blinded, secrets = [], []
    for slot in wanted:
        key, value, secret = _blinded(slot, keys.moduli[slot - keys.first])
        blinded.append(value)
        secrets.append(_SECRET.pack(key.private_bytes_raw(), secret.to_bytes(MODULUS_BYTES, "big")))
        if asked is not None:
            asked(len(blinded))
    request = encode_request(own_identity(store, terms), keys, wanted[0], blinded)
    with store.transaction() as change:
        if change.has(REQUEST, holder):  # another process asked meanwhile
            raise OptionError("another request was made at the same moment; ask again to get that one")
        change.put(REQUEST, holder, _LENGTH.pack(len(request)) + request + b"".join(secrets))
        change.put(SLOT_KEYS, _id(holder, keys.first), file)
    return request, wanted


def take_answer(store: Store, terms: Terms, file: bytes) -> range:
    """Turn a registrar's answer to the request that waits into pseudonyms, and keep them; return their slots.

    Raises `OptionError` where no request waits, and `FileFormatError` unless the file answers that request in
    full, with signatures that fit. Nothing is changed then.
    """
    holder = _holder(terms)
    if not store.has(REQUEST, holder):
        raise OptionError(
            f"no request to {terms.server}'s registrar waits for an answer; make one with palate pseudonyms "
            "request"
        )
    waiting, secrets = _read_request(store, holder)
    request = decode_request(waiting)
    answered, signed = decode_answer(file)
    if answered != request.hash or len(signed) != len(request.blinded):
        raise FileFormatError("the file answers another request than the one that waits here")
    keys = _slot_keys_of(store, holder, request.first, len(signed))
    entries = []
    for place, ((secret_key, unblinding), answer) in enumerate(zip(secrets, signed, strict=True)):
        slot = request.first + place
        public = Ed25519PrivateKey.from_private_bytes(secret_key).public_key().public_bytes_raw()
        inverse = int.from_bytes(unblinding, "big")
        try:
            content = certified_content(public, slot)
            certificate = unblind(content, answer, inverse, keys.moduli[slot - keys.first])
        except MaskError:
            raise FileFormatError(
                f"what the registrar signed for slot {slot} is no certificate; nothing was taken, so ask it "
                "for the answer again"
            ) from None
        entries.append((slot, secret_key, certificate))
    with store.transaction() as change:
        if not change.has(REQUEST, holder):
            raise OptionError("the answer was taken by another process at the same moment")
        change.put(PSEUDONYMS, _id(holder, request.first), b"".join(_ENTRY.pack(*one) for one in entries))
        change.delete(REQUEST, holder)
    return range(request.first, request.first + len(entries))


def drop_request(store: Store, terms: Terms) -> bool:
    """Forget a request that waits for its answer; return whether there was one.

    The registrar will not answer another request for its slots.
    """
    with store.transaction() as change:
        there = change.has(REQUEST, _holder(terms))
        if there:
            change.delete(REQUEST, _holder(terms))
    return there


def use_pseudonym(store: Store, terms: Terms, slot: int) -> Pseudonym | None:
    """Return the pseudonym for a slot, or None.

    When this returns, it and those of earlier slots are gone from the vault.
    """
    holder = _holder(terms)
    if slot not in slots_left(store, terms):
        return None
    found: Pseudonym | None = None
    with store.transaction() as change:
        for id_ in _ids(change, PSEUDONYMS, holder):
            kept = []
            for entry in _entries(change, id_):
                if entry[0] == slot:
                    found = Pseudonym(
                        Ed25519PrivateKey.from_private_bytes(entry[1]),
                        entry[2],
                        _slot_key(change, holder, slot),
                    )
                elif entry[0] > slot:
                    kept.append(_ENTRY.pack(*entry))
            if kept:
                change.put(PSEUDONYMS, id_, b"".join(kept))
            else:
                change.delete(PSEUDONYMS, id_)
        for id_ in _ids(change, SLOT_KEYS, holder):
            if decode_slot_keys(change.get(SLOT_KEYS, id_)).last < slot:
                change.delete(SLOT_KEYS, id_)
    return found


def slots_left(records: Records, terms: Terms) -> list[int]:
    """Return the slots of a server and its registrar for which this device has a pseudonym, in order."""
    ids = _ids(records, PSEUDONYMS, _holder(terms))
    return sorted(slot for id_ in ids for slot, _, _ in _entries(records, id_))


def waiting_slots(records: Records, terms: Terms) -> range | None:
    """Return the slots of the request that waits for its answer, None if none waits."""
    if not records.has(REQUEST, _holder(terms)):
        return None
    found = decode_request(_read_request(records, _holder(terms))[0])
    return range(found.first, found.first + len(found.blinded))


def _blinded(slot: int, modulus: int) -> tuple[Ed25519PrivateKey, int, int]:
    """Return a new key that can be certified, its blinded value, and what unblinds the answer."""
    while True:
        key = Ed25519PrivateKey.generate()
        try:
            content = certified_content(key.public_key().public_bytes_raw(), slot)
            return key, *blind(content, modulus)
        except MaskError:
            continue  # it has a common factor with a dishonest modulus


def _slot_keys_of(records: Records, holder: str, first: int, count: int) -> SlotKeys:
    for id_ in _ids(records, SLOT_KEYS, holder):
        keys = decode_slot_keys(records.get(SLOT_KEYS, id_))
        if keys.first <= first and first + count - 1 <= keys.last:
            return keys
    raise VaultDamagedError("the slot keys of a request for pseudonyms are missing")


def _slot_key(records: Records, holder: str, slot: int) -> SlotKey:
    for id_ in _ids(records, SLOT_KEYS, holder):
        key = decode_slot_keys(records.get(SLOT_KEYS, id_)).key(slot)
        if key is not None:
            return key
    raise VaultDamagedError(f"the registrar's key of slot {slot} is missing")


def _read_request(records: Records, holder: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the request that waits, and for each of its slots the secret key and what unblinds."""
    data = records.get(REQUEST, holder)
    with readable("a request for pseudonyms"):
        (length,) = _LENGTH.unpack_from(data)
        rest = data[_LENGTH.size + length :]
        return data[_LENGTH.size : _LENGTH.size + length], list(_SECRET.iter_unpack(rest))


def _entries(records: Records, id_: str) -> list[tuple[int, bytes, bytes]]:
    """Return slot, secret key and certificate of each pseudonym in a record."""
    with readable("a record of pseudonyms"):
        return list(_ENTRY.iter_unpack(records.get(PSEUDONYMS, id_)))


def _holder(terms: Terms) -> str:
    return f"{terms.server} {terms.registrar}"


def _ids(records: Records, type_: str, holder: str) -> list[str]:
    return [id_ for id_ in records.list(type_) if id_.rpartition(" ")[0] == holder]


def _id(holder: str, first: int) -> str:
    return f"{holder} {first}"
