"""The bytes between server and devices in a masked round: eight messages, each of a known length.

    invitation  start 3 | shapes 32 | fixed 32 | release 4 | round 4 | slot 4 | seed 8
                | steps 4 | learning rate 8 | proximal 8 | query share 8 | alignment 8
                | ring bits 4 | least 4 | step 8 | clip 8 | noise 8 | threshold share 8 | subspace 32
                | length 4 | model | rotation 32, step 4, rest 4, or nothing | checksum 4
    advert      start 4 | context 32 | identity 32 | mask key 32 | share key 32 | certificate 256
                | signature 64
    roster      start 5 | context 32 | count 2 | certified 1
                | for each device: identity 32, mask key 32, share key 32, certificate 256 if certified,
                signature 64 | checksum 4
    shares      start 6 | roster 32 | identity 32 | commitment 32 | for each neighbour: sealed shares 82
                | signature 64
    delivery    start 7 | roster 32 | identity 32 | alive
                | for each neighbour that is alive: sealed shares 82 | checksum 4
    masked      start 8 | session 32 | identity 32 | packed ring vector | signature 64
    unmask      start 9 | session 32 | survivors | drop-outs | checksum 4
    revealed    start 10 | request 32 | identity 32 | owners | for each owner: share 33 | signature 64

`start` is that of `secure_sum.frame`. Two more messages, of sparse cohorts only, are in `agreement`. Numbers
are little endian: whole ones unsigned, others IEEE 754 of 8 bytes; only shares are big endian. `alive`,
`survivors`, `drop-outs` and `owners` are bitmaps over the roster (`masks.bitmap`), which is sorted by
identity. What is there for each of several devices has that order. An identity here is a pseudonym: a key
that a device has for this round alone. Its certificate is the registrar's, for it and the round's slot
(`pseudonym`). `context` is the SHA-256 of the invitation, `roster` and `request` that of the roster and of
the unmask message. `certified` is 1 if some certificate is not zeros. An invitation goes out inside a signed
message (`delegation`). `context` is of the invitation itself, so its signer changes nothing in the round.

Reading is strict: what decodes is encoded to the very same bytes again. Everything else is refused with a
`MaskError` whose `reason` is one word. `tests/data/mask_vectors.json` holds test vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.encoder import shapes_hash
from palate.shared.errors import MaskError, OptionError, UpdateError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.frame import (
    ADVERT,
    DELIVERY,
    HASH_BYTES,
    INVITATION,
    MASKED,
    REVEALED,
    ROSTER,
    SHARES,
    START_BYTES,
    UNMASK,
    check_sender,
    open_checked,
    open_signed,
    pieces,
    signed,
    start_of,
)
from palate.shared.secure_sum.masks import MOST_DEVICES, SIGNATURE_BYTES, MaskSettings
from palate.shared.secure_sum.pseudonym import (
    CERTIFICATE_BYTES,
    LAST_SLOT,
    NO_CERTIFICATE,
    SlotKey,
    check_certificate,
)
from palate.shared.secure_sum.ring import Ring, pack, packed_bytes, unpack
from palate.shared.secure_sum.shamir import SHARE_BYTES, decode_share, encode_share
from palate.shared.update import MAX_ROUND, LocalSettings, check_hash, check_number
from palate.shared.wire import add_checksum

SEALED_BYTES: Final = 2 * SHARE_BYTES + 16  # both shares and the tag of AES-GCM
MOST_MODEL_BYTES: Final = 4_000_000
NO_SUBSPACE: Final = bytes(32)
_MAX_RELEASE = 2**32 - 1
_MAX_SEED = 2**64 - 1

_INVITATION = struct.Struct("<32s32sIIIQIddddIIdddd32sI")
_PLAN = struct.Struct("<32sII")
_ADVERT = struct.Struct(f"<32s32s32s32s{CERTIFICATE_BYTES}s")
_ROSTER = struct.Struct("<32sHB")
_KEYS = struct.Struct("<32s32s32s")


@dataclass(frozen=True)
class Invitation:
    """What the server sends every device of a masked round: the encoder, how to train, and how to mask.

    `model` holds the federated tensors in a form that is not this module's business (`coding`). `subspace` is
    the hash of the subspace in which the change is sent, empty where all weights are (on the wire: zeros).
    `rotation` is the seed by which changes are rotated in all rounds of a noise plan, so that the noise of
    one can cancel in the next; empty where each round rotates by its own context. `step` is then how many
    steps of the plan are done, and `rest` how many more must be before a device that sent its change takes
    part again. `slot` is a number that no other round of the federation has, also not the same round begun
    anew.

    Raises:
        MaskError: values outside their range.
    """

    round: int  # from 1
    release: int  # that the encoder grew from, or is
    fixed: str  # `fixed_hash` of the encoder
    seed: int  # 0 to 2^64 - 1
    settings: LocalSettings
    masks: MaskSettings
    model: bytes = field(repr=False)
    subspace: str = ""
    rotation: bytes = b""
    slot: int = 1
    step: int = 0
    rest: int = 0

    def __post_init__(self) -> None:
        try:
            check_number("round", self.round, 1, MAX_ROUND)
            check_number("release", self.release, 0, _MAX_RELEASE)
            check_number("seed", self.seed, 0, _MAX_SEED)
            check_number("slot", self.slot, 1, LAST_SLOT)
            for name, most in (("step", MAX_ROUND), ("rest", MAX_ROUND)):
                check_number(name, getattr(self, name), 0, most if self.rotation else 0)
            check_hash("fixed", self.fixed)
            if self.subspace:
                check_hash("subspace", self.subspace)
        except UpdateError as error:
            reason = "hash" if error.reason == "hash" else "number"
            raise MaskError(f"the invitation's {error}", reason) from None  # type: ignore[arg-type]
        if not isinstance(self.model, bytes) or len(self.model) > MOST_MODEL_BYTES:
            raise MaskError(f"the invitation's model must be at most {MOST_MODEL_BYTES:,} bytes", "size")
        if not isinstance(self.rotation, bytes) or len(self.rotation) not in (0, HASH_BYTES):
            raise MaskError(f"the invitation's rotation must have {HASH_BYTES} bytes, or none", "size")


@dataclass(frozen=True)
class Advert:
    """A device's keys for one round (32 bytes each), a certificate (256) and a signature (64)."""

    context: bytes
    identity: bytes
    mask_key: bytes
    share_key: bytes
    certificate: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Roster:
    """All devices of a round (or of a group of it), by identity ascending.

    `hash` is the SHA-256 of its bytes.
    """

    adverts: tuple[Advert, ...]
    hash: bytes

    def __len__(self) -> int:
        return len(self.adverts)

    def identity(self, place: int) -> bytes:
        """Return the identity at a place."""
        return self.adverts[place].identity


@dataclass(frozen=True)
class Shares:
    """What a device shares: a commitment to its seed, and a sealed pair for each neighbour in order."""

    commitment: bytes
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class Delivery:
    """Which places in the roster are alive, and what the receiver's neighbours have sealed for it."""

    alive: frozenset[int]
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class Unmask:
    """Whose vectors came, and whose did not: places in the roster. `hash` is the SHA-256 of its bytes."""

    survivors: frozenset[int]
    dropouts: frozenset[int]
    hash: bytes


# --- the server's messages ----------------------------------------------------------------------------------


def encode_invitation(invitation: Invitation) -> bytes:
    """Return the bytes of an invitation; their SHA-256 is the round's context."""
    s, m = invitation.settings, invitation.masks
    header = _INVITATION.pack(
        bytes.fromhex(shapes_hash()),
        bytes.fromhex(invitation.fixed),
        *(invitation.release, invitation.round, invitation.slot, invitation.seed),
        *(s.steps, s.learning_rate, s.proximal, s.query_share, s.alignment),
        *(m.ring_bits, m.least, m.step, m.clip, m.noise, m.threshold_share),
        bytes.fromhex(invitation.subspace) or NO_SUBSPACE,
        len(invitation.model),
    )
    plan = _PLAN.pack(invitation.rotation, invitation.step, invitation.rest) if invitation.rotation else b""
    return add_checksum(start_of(INVITATION) + header + invitation.model + plan)


def decode_invitation(data: bytes) -> Invitation:
    """Return the invitation of these bytes.

    Raises:
        MaskError: unless they are what `encode_invitation` returns for one.
    """
    most = _INVITATION.size + MOST_MODEL_BYTES + _PLAN.size
    body = open_checked(data, INVITATION, least=_INVITATION.size, most=most)
    shapes, fixed, release, round_, slot, seed, *numbers, subspace, length = _INVITATION.unpack_from(body)
    end = _INVITATION.size + length
    if len(body) - end not in (0, _PLAN.size):
        raise MaskError("the invitation's model is not as long as it says", "size")
    if shapes != bytes.fromhex(shapes_hash()):
        raise MaskError(
            "the invitation is of an encoder with other tensors; use the same version of Palate on both "
            "sides",
            "shapes",
        )
    ring_bits, least, step, clip, noise, threshold_share = numbers[5:]
    try:
        local = LocalSettings(*numbers[:5])
        mask_settings = MaskSettings(ring_bits, step, clip, noise, least, threshold_share)
    except OptionError as error:
        raise MaskError(f"the invitation's {error}", "settings") from None
    model = bytes(body[_INVITATION.size : end])
    plan = _PLAN.unpack(body[end:]) if len(body) > end else (b"", 0, 0)
    within = "" if subspace == NO_SUBSPACE else subspace.hex()
    rotation, step, rest = plan
    where = (round_, release, fixed.hex(), seed)
    return Invitation(*where, local, mask_settings, model, within, rotation, slot, step, rest)


def encode_roster(adverts: Collection[Advert]) -> bytes:
    """Return the bytes of a roster of adverts of one context, sorted."""
    ordered = sorted(adverts, key=lambda one: one.identity)
    certified = any(one.certificate != NO_CERTIFICATE for one in ordered)
    entries = [
        one.identity + one.mask_key + one.share_key + (one.certificate if certified else b"") + one.signature
        for one in ordered
    ]
    header = _ROSTER.pack(ordered[0].context, len(ordered), certified)
    return add_checksum(b"".join((start_of(ROSTER), header, *entries)))


def decode_roster(
    data: bytes,
    *,
    context: bytes,
    slot_key: SlotKey | None = None,
    whose: Callable[[Roster], Collection[int]] = lambda roster: range(len(roster)),
) -> Roster:
    """Return the roster of these bytes, every key checked, and the adverts' signatures at places `whose`.

    Raises MaskError: for another context, more than 1,000 devices, devices out of order, a key that is there
    twice or is not usable, such an advert that its identity did not sign, and, where the key of the slot is
    given, any without a certificate for it.
    """
    adverts = _read_adverts(open_checked(data, ROSTER, least=_ROSTER.size), context)
    _check_distinct(adverts)
    for one in adverts:
        check_keys(one)
        if slot_key is not None:
            check_certificate(one.certificate, one.identity, slot_key)
    roster = Roster(tuple(adverts), masks.digest_of(data))
    for place in whose(roster):
        check_signature(adverts[place])
    return roster


def _read_adverts(body: memoryview, context: bytes) -> list[Advert]:
    """Return the adverts of a roster's body, their keys not checked yet."""
    found, count, certified = _ROSTER.unpack_from(body)
    if found != context:
        raise MaskError("the roster is of another invitation", "context")
    if not 1 <= count <= MOST_DEVICES:
        raise MaskError(f"the roster has {count:,} devices; at most {MOST_DEVICES:,} are allowed", "many")
    if certified > 1:
        raise MaskError("whether there are certificates must be 0 or 1", "padding")
    each = _KEYS.size + SIGNATURE_BYTES + CERTIFICATE_BYTES * certified
    if len(body) != _ROSTER.size + count * each:
        raise MaskError("the roster is not as long as it says", "size")
    adverts = []
    for start in range(_ROSTER.size, len(body), each):
        identity, mask_key, share_key = _KEYS.unpack_from(body, start)
        rest = bytes(body[start + _KEYS.size : start + each])
        certificate = rest[:CERTIFICATE_BYTES] if certified else NO_CERTIFICATE
        adverts.append(Advert(context, identity, mask_key, share_key, certificate, rest[-SIGNATURE_BYTES:]))
    if certified and all(one.certificate == NO_CERTIFICATE for one in adverts):
        raise MaskError("the roster says that there are certificates, and there are none", "padding")
    return adverts


def _check_distinct(adverts: Sequence[Advert]) -> None:
    """Raise MaskError unless identities are in order, and no key is there twice."""
    identities = [one.identity for one in adverts]
    if len(set(identities)) < len(adverts):
        raise MaskError("the roster names a device twice", "duplicate")
    if any(one > other for one, other in pairwise(identities)):
        raise MaskError("the roster is not in the order of its identities", "sorted")
    exchange = [key for one in adverts for key in (one.mask_key, one.share_key)]
    if len(set(exchange)) < len(exchange):
        raise MaskError("the roster has a key twice", "duplicate")


def encode_delivery(roster: Roster, receiver: int, alive: Collection[int], sealed: Sequence[bytes]) -> bytes:
    """Return the bytes of a delivery to the device at a place in the roster."""
    header = roster.hash + roster.identity(receiver) + masks.bitmap(alive, len(roster))
    return add_checksum(b"".join((start_of(DELIVERY), header, *sealed)))


def decode_delivery(data: bytes, roster: Roster, receiver: int) -> Delivery:
    """Return the delivery of these bytes; how many sealed shares there must be is for the caller to check.

    Raises:
        MaskError: another roster or receiver, and bytes that `encode_delivery` does not return.
    """
    fixed = 2 * HASH_BYTES + -(-len(roster) // 8)
    body = open_checked(data, DELIVERY, least=fixed)
    _check_roster(body, roster)
    if body[HASH_BYTES : 2 * HASH_BYTES] != roster.identity(receiver):
        raise MaskError("the delivery is for another device", "identity")
    alive = masks.read_bitmap(bytes(body[2 * HASH_BYTES : fixed]), len(roster))
    return Delivery(alive, pieces(body[fixed:], SEALED_BYTES))


def encode_unmask(session: bytes, survivors: Collection[int], dropouts: Collection[int], count: int) -> bytes:
    """Return the bytes of a request to unmask."""
    sets = masks.bitmap(survivors, count) + masks.bitmap(dropouts, count)
    return add_checksum(start_of(UNMASK) + session + sets)


def decode_unmask(data: bytes, *, session: bytes, alive: frozenset[int], count: int) -> Unmask:
    """Return the request of these bytes.

    Raises:
        MaskError: unless survivors and drop-outs make up the living exactly once.
    """
    width = -(-count // 8)
    body = open_checked(data, UNMASK, least=HASH_BYTES + 2 * width, most=HASH_BYTES + 2 * width)
    if body[:HASH_BYTES] != session:
        raise MaskError("the unmask request is of another round, roster or set of the living", "roster")
    survivors = masks.read_bitmap(bytes(body[HASH_BYTES : HASH_BYTES + width]), count)
    dropouts = masks.read_bitmap(bytes(body[HASH_BYTES + width :]), count)
    if survivors & dropouts or survivors | dropouts != alive:
        raise MaskError("survivors and drop-outs are not all the living, each named once", "sets")
    return Unmask(survivors, dropouts, masks.digest_of(data))


# --- the devices' messages ----------------------------------------------------------------------------------


def encode_advert(
    context: bytes,
    identity: Ed25519PrivateKey,
    mask_key: bytes,
    share_key: bytes,
    certificate: bytes = NO_CERTIFICATE,
) -> bytes:
    """Return the bytes of a device's advert, signed."""
    public = identity.public_key().public_bytes_raw()
    return signed(ADVERT, _ADVERT.pack(context, public, mask_key, share_key, certificate), identity)


def decode_advert(data: bytes, *, context: bytes, slot_key: SlotKey | None = None) -> Advert:
    """Return the advert of these bytes.

    Raises:
        MaskError: unless it is of this context and its keys and signatures are good.
    """
    body, signature = open_signed(data, ADVERT, _ADVERT.size)
    found, identity, mask_key, share_key, certificate = _ADVERT.unpack(body)
    advert = Advert(found, identity, mask_key, share_key, certificate, signature)
    if advert.context != context:
        raise MaskError("the advert is for another invitation", "context")
    check_keys(advert)
    check_signature(advert)
    if slot_key is not None:
        check_certificate(advert.certificate, advert.identity, slot_key)
    return advert


def check_keys(advert: Advert) -> None:
    """Raise MaskError (`key`) unless all keys of an advert are in their canonical form and of full order."""
    masks.check_identity(advert.identity)
    masks.check_exchange_key(advert.mask_key)
    masks.check_exchange_key(advert.share_key)


def check_signature(advert: Advert) -> None:
    """Raise MaskError (`signature`) unless the identity that an advert names has signed it."""
    keys = (advert.identity, advert.mask_key, advert.share_key)
    content = start_of(ADVERT) + _ADVERT.pack(advert.context, *keys, advert.certificate)
    masks.verify(advert.signature, content, advert.identity, "an advert")


def encode_shares(roster: Roster, identity: Ed25519PrivateKey, shares: Shares) -> bytes:
    """Return the bytes of a device's shares, signed."""
    header = roster.hash + identity.public_key().public_bytes_raw() + shares.commitment
    return signed(SHARES, b"".join((header, *shares.sealed)), identity)


def decode_shares(data: bytes, roster: Roster, sender: int, neighbours: int) -> Shares:
    """Return what the device at this place of the roster shares with so many neighbours; raises MaskError."""
    body, signature = open_signed(data, SHARES, 3 * HASH_BYTES + neighbours * SEALED_BYTES)
    _check_roster(body, roster)
    check_sender(data, body, signature, roster.identity(sender))
    return Shares(bytes(body[2 * HASH_BYTES : 3 * HASH_BYTES]), pieces(body[3 * HASH_BYTES :], SEALED_BYTES))


def encode_masked(session: bytes, identity: Ed25519PrivateKey, values: Ring, ring_bits: int) -> bytes:
    """Return the bytes of a masked vector, signed."""
    header = session + identity.public_key().public_bytes_raw()
    return signed(MASKED, header + pack(values, ring_bits), identity)


def masked_bytes(count: int, ring_bits: int) -> int:
    """Return how long a masked vector of `count` values is on the wire."""
    return START_BYTES + 2 * HASH_BYTES + packed_bytes(count, ring_bits) + SIGNATURE_BYTES


def decode_masked(data: bytes, *, session: bytes, identity: bytes, count: int, ring_bits: int) -> Ring:
    """Return the masked vector (count,) that this identity sent in this session; raises MaskError."""
    body, signature = open_signed(data, MASKED, 2 * HASH_BYTES + packed_bytes(count, ring_bits))
    if body[:HASH_BYTES] != session:
        raise MaskError("the vector was masked for another round, roster or set of the living", "roster")
    check_sender(data, body, signature, identity)
    return unpack(bytes(body[2 * HASH_BYTES :]), count, ring_bits)


def encode_revealed(request: bytes, identity: Ed25519PrivateKey, shares: dict[int, int], count: int) -> bytes:
    """Return the bytes of the shares that a device reveals, by the place of their owner, signed."""
    header = request + identity.public_key().public_bytes_raw() + masks.bitmap(shares, count)
    return signed(
        REVEALED, header + b"".join(encode_share(shares[place]) for place in sorted(shares)), identity
    )


def decode_revealed(data: bytes, *, request: bytes, identity: bytes, count: int) -> dict[int, int]:
    """Return the shares by the place of their owner.

    Raises MaskError. Whose they may be is for the caller to check.
    """
    fixed = 2 * HASH_BYTES + -(-count // 8)
    body, signature = open_signed(data, REVEALED, fixed, at_least=True)
    if body[:HASH_BYTES] != request:
        raise MaskError("the shares were revealed for another request", "roster")
    check_sender(data, body, signature, identity)
    owners = sorted(masks.read_bitmap(bytes(body[2 * HASH_BYTES : fixed]), count))
    found = pieces(body[fixed:], SHARE_BYTES)
    if len(found) != len(owners):
        raise MaskError(f"{len(found)} shares are revealed of {len(owners)} devices", "size")
    return {owner: decode_share(piece) for owner, piece in zip(owners, found, strict=True)}


def context_of(invitation: bytes) -> bytes:
    """Return the context of a round: the SHA-256 of its invitation's bytes."""
    return masks.digest_of(invitation)


def _check_roster(body: memoryview, roster: Roster) -> None:
    if body[:HASH_BYTES] != roster.hash:
        raise MaskError("the message is for another roster", "roster")
