"""The messages of a masked round: test vectors, exact reading, and ten thousand mutations of each that
nothing survives."""

import dataclasses
import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from palate.shared.errors import MaskError, MaskReason
from palate.shared.secure_sum import agreement, masks
from palate.shared.secure_sum import messages as wire
from palate.shared.secure_sum.messages import Advert, Invitation
from palate.shared.secure_sum.ring import mask_of, pack, unpack
from palate.shared.secure_sum.shamir import encode_share, split_secret
from palate.shared.update import LocalSettings
from palate.shared.wire import CHECKSUM_BYTES, add_checksum
from tests.shared.mask_cases import Round, identity, invitation, settings, stream
from tests.shared.pseudonym_cases import certificate, slot_key

DATA = Path(__file__).parents[2] / "data" / "mask_vectors.json"
VECTORS = json.loads(DATA.read_text(encoding="utf-8"))
SERVERS = ("invitation", "roster", "delivery", "unmask", "agreement")
DEVICES = ("advert", "shares", "masked", "revealed", "endorsement")
MUTATIONS = 10_000


@cache
def vector_round() -> Round:
    done = Round(devices=4, mask_settings=settings(ring_bits=13), count=21)
    done.total, _ = done.go((), (), (VECTORS["dropped_out"],))  # type: ignore[attr-defined]
    return done


@cache
def roster() -> wire.Roster:
    r = vector_round()
    return wire.decode_roster(r.roster, context=r.of[0].context)


def place(device: int) -> int:
    name = identity(device).public_key().public_bytes_raw()
    return next(i for i, one in enumerate(roster().adverts) if one.identity == name)


def request() -> bytes:
    return hashlib.sha256(vector_round().unmask).digest()


def endorsed_by(*devices: int) -> dict[int, bytes]:
    """Signatures under the request, by place."""
    return {place(n): agreement.encode_endorsement(request(), identity(n))[-64:] for n in devices}


@cache
def valid(kind: str) -> bytes:
    r = vector_round()
    return {
        "invitation": r.invited,
        "advert": r.adverts[0],
        "roster": r.roster,
        "shares": r.shares[0],
        "delivery": r.deliveries[0],
        "masked": r.masked[0],
        "unmask": r.unmask,
        "revealed": r.revealed[0],
        "endorsement": agreement.encode_endorsement(request(), identity(0)),
        "agreement": agreement.encode_agreement(request(), endorsed_by(0, 1, 3), 4),
    }[kind]


def reader(kind: str) -> Callable[[Any], Any]:
    """Read a message of device 0, or to it, as the receiver would."""
    context, session = vector_round().of[0].context, bytes.fromhex(VECTORS["session"])
    name = identity(0).public_key().public_bytes_raw()
    return {
        "invitation": wire.decode_invitation,
        "advert": lambda data: wire.decode_advert(data, context=context),
        "roster": lambda data: wire.decode_roster(data, context=context),
        "shares": lambda data: wire.decode_shares(data, roster(), place(0), 3),
        "delivery": lambda data: wire.decode_delivery(data, roster(), place(0)),
        "masked": lambda data: wire.decode_masked(
            data, session=session, identity=name, count=21, ring_bits=13
        ),
        "unmask": lambda data: wire.decode_unmask(data, session=session, alive=frozenset(range(4)), count=4),
        "revealed": lambda data: wire.decode_revealed(data, request=request(), identity=name, count=4),
        "endorsement": lambda data: agreement.decode_endorsement(data, request=request(), identity=name),
        "agreement": lambda data: agreement.decode_agreement(data, request=request(), roster=roster()),
    }[kind]


def writer(kind: str) -> Callable[[Any], bytes]:
    """Write what the reader read."""
    session, me = bytes.fromhex(VECTORS["session"]), identity(0)
    return {
        "invitation": wire.encode_invitation,
        "advert": lambda a: wire.encode_advert(a.context, me, a.mask_key, a.share_key, a.certificate),
        "roster": lambda found: wire.encode_roster(found.adverts),
        "shares": lambda found: wire.encode_shares(roster(), me, found),
        "delivery": lambda found: wire.encode_delivery(roster(), place(0), found.alive, found.sealed),
        "masked": lambda values: wire.encode_masked(session, me, values, 13),
        "unmask": lambda found: wire.encode_unmask(session, found.survivors, found.dropouts, 4),
        "revealed": lambda shares: wire.encode_revealed(request(), me, shares, 4),
        "endorsement": lambda signature: agreement.encode_endorsement(request(), me)[:-64] + signature,
        "agreement": lambda found: agreement.encode_agreement(request(), found, 4),
    }[kind]


def close(kind: str, content: bytes) -> bytes:
    """The content with the checksum or the signature that fits it."""
    return add_checksum(content) if kind in SERVERS else content + masks.sign(content, identity(0))


def opened(kind: str, data: bytes) -> bytes:
    return data[:-CHECKSUM_BYTES] if kind in SERVERS else data[:-64]


def refusal(kind: str, data: Any, **_: Any) -> str:
    with pytest.raises(MaskError) as caught:
        reader(kind)(data)
    assert caught.value.reason in get_args(MaskReason)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return caught.value.reason


# --- vectors ------------------------------------------------------------------------------------------------


def test_the_parts_give_the_vectors_too() -> None:
    parts = VECTORS["parts"]
    agreed, session = bytes.fromhex(parts["agreed"]), bytes.fromhex(parts["session"])
    one, other = (bytes.fromhex(name) for name in parts["identities"])
    assert masks.pair_mask_key(agreed, session, one, other).hex() == parts["pair_mask_key"]
    assert masks.own_mask_key(agreed, session, one).hex() == parts["own_mask_key"]
    assert masks.share_key(agreed, session, one, other).hex() == parts["share_key_first_to_second"]
    assert masks.commitment_to(agreed, session, one).hex() == parts["commitment"]
    found = masks.session_of(agreed, session, {0, 2}, 5).hex()
    assert found == parts["session_of_context_agreed_roster_session_alive_0_2_of_5"]
    for bits, values in parts["masks"].items():
        mask = mask_of(agreed, 5, int(bits))
        assert mask.tolist() == values
        assert pack(mask, int(bits)).hex() == parts["packed"][bits]
    split = parts["split"]
    drawn = bytes.fromhex(split["drawn"])
    shares = split_secret(bytes.fromhex(split["secret"]), range(1, 6), 3, lambda size: drawn[:size])
    assert {str(x): encode_share(share).hex() for x, share in shares.items()} == split["shares"]
    ring = parts["holders"]
    held = masks.holders_of(bytes.fromhex(ring["roster_hash"]), ring["count"], ring["threshold_share"])
    assert list(held[0]) == ring["of_place_0"]


def test_an_advert_packed_by_hand_is_the_same() -> None:
    draw = stream("device 1")
    keys = masks.public_key(draw(32)) + masks.public_key(draw(32))
    name = identity(1).public_key().public_bytes_raw()
    content = b"PALATE\4\1" + bytes.fromhex(VECTORS["context"]) + name + keys + bytes(256)
    signed = identity(1).sign(hashlib.sha256(b"palate signed 1\0" + content).digest())
    assert vector_round().adverts[1] == content + signed


def test_an_agreement_packed_by_hand_is_the_same() -> None:
    signatures = {}
    for n in (0, 1, 3):
        content = b"PALATE\13\1" + request() + identity(n).public_key().public_bytes_raw()
        signatures[place(n)] = identity(n).sign(hashlib.sha256(b"palate signed 1\0" + content).digest())
    bits = sum(1 << at for at in signatures)
    data = b"PALATE\14\1" + request() + bytes([bits]) + b"".join(signatures[at] for at in sorted(signatures))
    assert valid("agreement") == data + zlib.crc32(data).to_bytes(4, "little")


def test_an_agreement_with_one_signature_for_another_request_is_refused() -> None:
    other = agreement.encode_endorsement(bytes(32), identity(3))[-64:]
    data = agreement.encode_agreement(request(), endorsed_by(0, 1) | {place(3): other}, 4)
    assert refusal("agreement", data) == "signature"


def test_the_masked_vectors_undone_by_hand_give_the_levels() -> None:
    """From the vectors alone: take away the masks that the drawn secrets make, and the levels are there."""
    session = bytes.fromhex(VECTORS["session"])
    drawn = [(draw(32), draw(32), draw(32)) for draw in (stream(f"device {n}") for n in range(4))]
    names = [identity(n).public_key().public_bytes_raw() for n in range(4)]
    for n in (0, 1, 3):
        vector = unpack(bytes.fromhex(VECTORS["masked"][str(n)])[72:-64], 21, 13).astype(np.int64)
        vector -= mask_of(masks.own_mask_key(drawn[n][2], session, names[n]), 21, 13)
        for peer in {0, 1, 2, 3} - {n}:
            agreed = masks.agree(
                masks.X25519PrivateKey.from_private_bytes(drawn[n][0]), masks.public_key(drawn[peer][0])
            )
            mask = mask_of(masks.pair_mask_key(agreed, session, names[n], names[peer]), 21, 13).astype(
                np.int64
            )
            vector += mask if names[peer] < names[n] else -mask
        assert ((vector + 4096) % 8192 - 4096).tolist() == VECTORS["levels"][n]


# --- exact reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*SERVERS, *DEVICES])
def test_what_decodes_is_encoded_to_the_same_bytes(kind: str) -> None:
    assert writer(kind)(reader(kind)(valid(kind))) == valid(kind)


@pytest.mark.parametrize("kind", [*SERVERS, *DEVICES])
@pytest.mark.parametrize("data", [b"", b"PALATE", None, 7, "PALATE", bytearray(200), bytes(200)])
def test_what_is_no_message_is_refused(kind: str, data: Any) -> None:
    assert refusal(kind, data) in ("size", "magic")


@pytest.mark.parametrize("kind", [*SERVERS, *DEVICES])
def test_every_cut_of_a_message_is_refused(kind: str) -> None:
    data = valid(kind)
    for size in range(len(data)):
        refusal(kind, data[:size])


@pytest.mark.parametrize("kind", [*SERVERS, *DEVICES])
def test_a_message_of_another_kind_or_version_is_refused(kind: str) -> None:
    for other in {*SERVERS, *DEVICES} - {kind}:
        assert refusal(kind, valid(other)) == "kind"
    content = opened(kind, valid(kind))
    assert refusal(kind, close(kind, content[:7] + b"\2" + content[8:])) == "version"
    assert refusal(kind, close(kind, content[:6] + b"\xff" + content[7:])) == "kind"


@pytest.mark.parametrize("kind", [*SERVERS, *DEVICES])
def test_a_message_with_something_behind_it_is_refused(kind: str) -> None:
    refusal(kind, valid(kind) + b"\0")
    refusal(kind, close(kind, opened(kind, valid(kind)) + b"\0"))


@pytest.mark.parametrize("kind", DEVICES)
def test_a_message_signed_by_another_device_is_refused(kind: str) -> None:
    content = opened(kind, valid(kind))
    assert refusal(kind, content + masks.sign(content, identity(1))) == "signature"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The message with a few bits turned, bytes set, a piece cut out, doubled, swapped or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, size = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 32, 33, 64, 82))
        what = rng.randrange(6)
        if what == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            changed[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
        elif what == 2:
            del changed[at : at + size]
        elif what == 3:
            changed[at:at] = changed[at : at + size]
        elif what == 4:
            other = rng.randrange(len(changed) + 1)
            one, two = changed[at : at + size], changed[other : other + size]
            changed[at : at + size], changed[other : other + size] = two, one
        else:
            changed[at:at] = rng.randbytes(size)
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("kind", [*SERVERS, *DEVICES])
def test_ten_thousand_mutations_are_refused_or_equal(kind: str) -> None:
    """Half of them get the checksum or the signature that fits, so that what is inside is reached, too."""
    rng, read, write = random.Random(kind), reader(kind), writer(kind)
    data = valid(kind)
    refused, reasons = 0, set[str]()
    for number in range(MUTATIONS):
        again = number % 2 == 0
        changed = close(kind, mutated(opened(kind, data), rng)) if again else mutated(data, rng)
        try:
            found = read(changed)
        except MaskError as error:
            reasons.add(error.reason)
            refused += 1
        else:
            assert write(found) == changed
            assert again or changed == data
    assert refused > MUTATIONS / 4
    assert len(reasons) > 2
    assert reasons <= set(get_args(MaskReason))


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "new", "reason"),
    [
        (8, b"\1", "shapes"),
        (76, struct.pack("<I", 0), "number"),  # round
        (80, struct.pack("<I", 0), "number"),  # slot
        (92, struct.pack("<I", 0), "settings"),  # steps
        (96, struct.pack("<d", float("nan")), "settings"),  # learning rate
        (128, struct.pack("<I", 33), "settings"),  # ring bits
        (132, struct.pack("<I", 1), "settings"),  # least
        (136, struct.pack("<d", 0.0), "settings"),  # step
        (152, struct.pack("<d", -0.0), "settings"),  # noise
        (160, struct.pack("<d", 0.2), "settings"),  # threshold share
        (200, struct.pack("<I", 6), "size"),  # length of the model
    ],
)
def test_an_invitation_with_a_value_out_of_range_is_refused(offset: int, new: bytes, reason: str) -> None:
    content = opened("invitation", valid("invitation"))
    content = content[:offset] + new + content[offset + len(new) :]
    assert refusal("invitation", add_checksum(content)) == reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"round": 0}, "number"),
        ({"round": True}, "number"),
        ({"release": -1}, "number"),
        ({"seed": 2**64}, "number"),
        ({"fixed": "AB" * 32}, "hash"),
        ({"model": "text"}, "size"),
        ({"model": bytes(wire.MOST_MODEL_BYTES + 1)}, "size"),
        ({"rotation": bytes(31)}, "size"),
        ({"rotation": "ab" * 16}, "size"),
        ({"slot": 0}, "number"),
        ({"slot": 2**32}, "number"),
        ({"step": 1}, "number"),  # of no plan
        ({"rest": 1}, "number"),
        ({"rotation": bytes(32), "step": -1}, "number"),
    ],
)
def test_an_invitation_that_cannot_be_is_not_made(changed: dict[str, Any], reason: str) -> None:
    good = Invitation(1, 0, "ab" * 32, 7, LocalSettings(), settings(), b"")
    with pytest.raises(MaskError) as caught:
        dataclasses.replace(good, **changed)
    assert caught.value.reason == reason


def test_an_invitation_names_what_is_rotated_by_or_nothing() -> None:
    plain = Invitation(1, 0, "ab" * 32, 7, LocalSettings(), settings(), b"a model")
    named = dataclasses.replace(plain, rotation=bytes(range(32)), step=3, rest=7)
    for one in (plain, named):
        assert wire.decode_invitation(wire.encode_invitation(one)) == one
    assert len(wire.encode_invitation(named)) == len(wire.encode_invitation(plain)) + 40
    assert wire.context_of(wire.encode_invitation(named)) != wire.context_of(wire.encode_invitation(plain))
    content = opened("invitation", wire.encode_invitation(named))
    assert refusal("invitation", add_checksum(content[:-1])) == "size"
    assert refusal("invitation", add_checksum(content + b"\0")) == "size"


def test_any_change_of_the_invitation_is_another_context() -> None:
    contexts = {
        wire.context_of(one)
        for one in (
            invitation(),
            invitation(round=4),
            invitation(model=b"another"),
            invitation(settings(ring_bits=14)),
            invitation(settings(noise=1.0)),
        )
    }
    assert len(contexts) == 5


def adverts() -> list[Advert]:
    return list(roster().adverts)


def readvert(device: int, **changed: bytes) -> Advert:
    """A device's advert with other keys, signed by it."""
    r = vector_round()
    old = wire.decode_advert(r.adverts[device], context=r.of[0].context)
    new = dataclasses.replace(old, **changed)
    data = wire.encode_advert(new.context, identity(device), new.mask_key, new.share_key, new.certificate)
    return dataclasses.replace(new, signature=data[-64:])


def with_advert(device: int, advert: Advert) -> bytes:
    found = adverts()
    found[place(device)] = advert
    return wire.encode_roster(found)


def test_a_roster_with_a_device_twice_is_refused() -> None:
    assert refusal("roster", wire.encode_roster([*adverts(), adverts()[0]])) == "duplicate"


def test_a_roster_with_a_key_twice_is_refused() -> None:
    first = adverts()[place(0)]
    for changed in (
        {"mask_key": first.mask_key},
        {"share_key": first.share_key},
        {"mask_key": first.share_key},
    ):
        assert refusal("roster", with_advert(1, readvert(1, **changed))) == "duplicate"
    both = readvert(1, mask_key=adverts()[place(1)].share_key)
    assert refusal("roster", with_advert(1, both)) == "duplicate"


@pytest.mark.parametrize("value", sorted(masks._SMALL_X25519))
@pytest.mark.parametrize("name", ["mask_key", "share_key"])
def test_a_roster_with_a_key_of_small_order_is_refused(value: int, name: str) -> None:
    assert refusal("roster", with_advert(1, readvert(1, **{name: value.to_bytes(32, "little")}))) == "key"


def test_a_roster_with_an_identity_of_small_order_is_refused() -> None:
    forged = dataclasses.replace(adverts()[0], identity=bytes(32))
    assert refusal("roster", wire.encode_roster([forged, *adverts()[1:]])) == "key"


def test_a_roster_with_a_forged_advert_is_refused() -> None:
    other = dataclasses.replace(adverts()[place(1)], mask_key=masks.public_key(bytes(32)))
    assert refusal("roster", with_advert(1, other)) == "signature"


def test_a_roster_out_of_order_is_refused() -> None:
    body = valid("roster")[:43], valid("roster")[43:-CHECKSUM_BYTES]
    entries = [body[1][i : i + 160] for i in range(0, len(body[1]), 160)]
    assert refusal("roster", add_checksum(body[0] + b"".join(reversed(entries)))) == "sorted"


def test_a_roster_that_says_more_or_fewer_devices_is_refused() -> None:
    content = valid("roster")[:-CHECKSUM_BYTES]
    for count, reason in ((0, "many"), (3, "size"), (5, "size"), (1_001, "many"), (65_535, "many")):
        assert (
            refusal("roster", add_checksum(content[:40] + struct.pack("<H", count) + content[42:])) == reason
        )
    assert refusal("roster", add_checksum(content[:42] + b"\2" + content[43:])) == "padding"
    assert refusal("roster", add_checksum(content[:42] + b"\1" + content[43:])) == "size"


def test_a_roster_of_another_invitation_is_refused() -> None:
    with pytest.raises(MaskError) as caught:
        wire.decode_roster(valid("roster"), context=bytes(32))
    assert caught.value.reason == "context"


def test_certificates_travel_only_if_there_are_any() -> None:
    own = certificate(identity(1).public_key().public_bytes_raw(), 1)
    data = with_advert(1, readvert(1, certificate=own))
    assert len(data) == len(valid("roster")) + 4 * 256
    found = wire.decode_roster(data, context=vector_round().of[0].context)
    assert [one.certificate == own for one in found.adverts] == [i == place(1) for i in range(4)]
    assert wire.encode_roster(found.adverts) == data
    with pytest.raises(MaskError) as caught:  # the others have none
        wire.decode_roster(
            data,
            context=vector_round().of[0].context,
            slot_key=slot_key(1),
        )
    assert caught.value.reason == "certificate"


@pytest.mark.parametrize(
    ("survivors", "dropouts"),
    [
        ({0, 1, 2, 3}, {3}),
        ({0, 1, 2}, set()),
        ({0, 1, 2, 3}, {0, 1, 2, 3}),
        (set(), set()),
    ],
)
def test_unmask_requests_that_overlap_or_leave_somebody_out_are_refused(
    survivors: set[int], dropouts: set[int]
) -> None:
    data = wire.encode_unmask(bytes.fromhex(VECTORS["session"]), survivors, dropouts, 4)
    assert refusal("unmask", data) == "sets"
