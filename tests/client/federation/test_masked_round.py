"""What a device refuses in a masked round, phase by phase, and that it never gives both shares of anybody."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from palate.client.federation.masked_round import MaskedRound, MaskRules
from palate.shared.errors import MaskError, OptionError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum import messages as wire
from palate.shared.secure_sum.messages import decode_roster
from palate.shared.secure_sum.ring import centred, mask_of, unpack
from palate.shared.secure_sum.shamir import recover_secret
from palate.shared.wire import CHECKSUM_BYTES, add_checksum
from tests.shared.mask_cases import COUNT, Round, identity, invitation, settings, stream

LEVELS = np.zeros(COUNT, np.int64)


def refusal(work: Callable[[], Any]) -> str:
    """The word with which a step refuses."""
    with pytest.raises(MaskError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def begun(devices: int = 5, **changed: Any) -> Round:
    r = Round(devices, **changed)
    r.advertise()
    return r


def shared(devices: int = 5, **changed: Any) -> Round:
    r = begun(devices, **changed)
    r.share()
    return r


def masked(devices: int = 5, gone: tuple[int, ...] = (), **changed: Any) -> Round:
    r = shared(devices, **changed)
    r.mask(gone)
    return r


def place_of(r: Round, device: int) -> int:
    roster = decode_roster(r.roster, context=r.of[device].context)
    name = identity(device).public_key().public_bytes_raw()
    return next(i for i, one in enumerate(roster.adverts) if one.identity == name)


def places(r: Round, *devices: int) -> set[int]:
    return {place_of(r, device) for device in devices}


def unmask_request(r: Round, survivors: set[int], dropouts: set[int]) -> bytes:
    return wire.encode_unmask(r.of[0]._session, survivors, dropouts, r.devices)


# --- rules and invitation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"least_devices": 1},
        {"least_devices": 1_001},
        {"least_devices": 2.0},
        {"certificate": b"short"},
    ],
)
def test_rules_outside_their_range_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        MaskRules(**changed)


def test_an_invitation_that_cannot_be_read_is_refused() -> None:
    assert refusal(lambda: MaskedRound(b"", identity=identity(0))) == "size"
    assert refusal(lambda: MaskedRound(invitation()[:-1] + b"x", identity=identity(0))) == "damaged"


def test_keys_are_new_in_every_round_and_the_same_whenever_asked() -> None:
    one, other = (MaskedRound(invitation(), identity=identity(0)) for _ in range(2))
    assert one.advert() == one.advert()
    assert one.advert()[72:136] != other.advert()[72:136]  # mask key and share key


# --- the roster ---------------------------------------------------------------------------------------------


def test_a_roster_without_this_device_is_refused() -> None:
    r = begun()
    r.server = type(r.server)(r.invited, r.mask_settings, r.count)
    assert refusal(lambda: r.of[0].shares(r.advertise(gone=[0]))) == "absent"


def test_a_roster_with_this_device_under_other_keys_is_refused() -> None:
    """An older advert of this device for the same invitation, replayed: signed by it, and yet not what it
    said."""
    r = begun()
    twin = MaskedRound(r.invited, identity=identity(0))
    assert refusal(lambda: twin.shares(r.roster)) == "absent"


def test_a_roster_with_this_device_twice_is_refused() -> None:
    r = begun()
    found = list(decode_roster(r.roster, context=r.of[0].context).adverts)
    twin = MaskedRound(r.invited, identity=identity(0))
    again = wire.decode_advert(twin.advert(), context=twin.context)
    assert refusal(lambda: r.of[0].shares(wire.encode_roster([*found, again]))) == "duplicate"


def test_a_roster_of_too_few_devices_is_refused() -> None:
    assert refusal(begun(3, rules=MaskRules(least_devices=4)).share) == "few"


def test_a_roster_in_which_a_server_could_get_a_smaller_sum_is_refused() -> None:
    """Ten devices are enough for a minimum of six, but not if a server that lies could split them."""
    rules = MaskRules(least_devices=6)
    assert refusal(begun(10, rules=rules, mask_settings=settings(threshold_share=0.51)).share) == "few"
    r = shared(10, rules=rules, mask_settings=settings(threshold_share=0.66))
    assert r.of[0].smallest_sum == 6


def test_the_smallest_sum_can_be_below_the_least_number_of_survivors() -> None:
    """Each device accepts few drop-outs, but not all need be told the same ones.

    The device says which noise counts.
    """
    assert shared(10, mask_settings=settings(least=8)).of[0].smallest_sum == 8
    assert shared(20, mask_settings=settings(least=16)).of[0].smallest_sum == 15


def test_a_roster_of_another_round_or_model_is_refused() -> None:
    r = begun()
    for other in (invitation(round=4), invitation(model=b"another model")):
        device = MaskedRound(other, identity=identity(0), source=stream("device 0"))
        assert refusal(lambda d=device: d.shares(r.roster)) == "context"  # type: ignore[misc]


def test_a_second_roster_is_refused_and_a_refused_one_changes_nothing() -> None:
    r = begun()
    assert refusal(lambda: r.of[0].shares(r.roster[:-1])) == "damaged"
    message = r.of[0].shares(r.roster)
    assert refusal(lambda: r.of[0].shares(r.roster)) == "order"
    r.shares = {0: message} | {n: r.of[n].shares(r.roster) for n in range(1, 5)}
    r.deliveries, refused = r.server.shares(r.shares)
    assert not refused
    r.mask()
    assert (r.reveal()[0] == r.plain()).all()


# --- the delivery -------------------------------------------------------------------------------------------


def test_a_delivery_too_early_is_refused() -> None:
    r = shared()
    late = MaskedRound(r.invited, identity=identity(0))
    assert refusal(lambda: late.accept_delivery(r.deliveries[0])) == "order"
    assert refusal(lambda: late.mask(LEVELS)) == "order"
    assert refusal(lambda: late.revealed(b"")) == "order"


def test_a_delivery_for_another_device_or_roster_is_refused() -> None:
    r = shared()
    assert refusal(lambda: r.of[0].accept_delivery(r.deliveries[1])) == "identity"
    other = shared(4)
    assert refusal(lambda: r.of[0].accept_delivery(other.deliveries[0])) == "roster"


def delivery_with(r: Round, alive: set[int], sealed: int) -> bytes:
    roster = decode_roster(r.roster, context=r.of[0].context)
    return wire.encode_delivery(roster, place_of(r, 0), alive, [bytes(wire.SEALED_BYTES)] * sealed)


def test_a_delivery_without_this_device_or_with_too_few_is_refused() -> None:
    r = shared()
    everyone = set(range(5))
    own = place_of(r, 0)
    device = r.of[0]
    assert refusal(lambda: device.accept_delivery(delivery_with(r, everyone - {own}, 4))) == "absent"
    assert refusal(lambda: device.accept_delivery(delivery_with(r, {own}, 0))) == "few"
    three = {own, *sorted(everyone - {own})[:2]}
    assert refusal(lambda: device.accept_delivery(delivery_with(r, three, 2))) == "few"  # 4 of 5 hold
    for wrong in (3, 5):
        assert refusal(lambda n=wrong: device.accept_delivery(delivery_with(r, everyone, n))) == "size"  # type: ignore[misc]
    device.accept_delivery(r.deliveries[0])  # the right one can still come
    assert refusal(lambda: device.accept_delivery(r.deliveries[0])) == "order"


def test_sealed_shares_that_do_not_open_are_as_good_as_none() -> None:
    """One neighbour's, tampered with on the way: the round goes on, since others hold shares too."""
    r = shared()
    data = r.deliveries[0]
    at = len(data) - CHECKSUM_BYTES - 10  # in the last neighbour's pair
    r.deliveries[0] = add_checksum(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 : -CHECKSUM_BYTES])
    r.mask()
    total, count = r.reveal()
    assert count == 5
    assert (total == r.plain()).all()
    assert len(r.revealed[0]) == len(r.revealed[1]) - 33


def test_sealed_shares_in_another_order_do_not_open() -> None:
    r = shared()
    data = r.deliveries[0]
    start = 8 + 64 + 1
    pieces = [data[i : i + 82] for i in range(start, len(data) - 32, 82)]
    r.of[0].accept_delivery(add_checksum(data[:start] + b"".join(reversed(pieces))))
    r.of[0].mask(LEVELS)
    message = r.of[0].revealed(unmask_request(r, set(range(5)), set()))
    assert (len(message) - (8 + 64 + 1 + 64)) // 33 == 1  # its own share alone


# --- the vector ---------------------------------------------------------------------------------------------


def test_a_vector_is_masked_once() -> None:
    r = shared()
    r.of[0].masked(r.deliveries[0], LEVELS)
    assert refusal(lambda: r.of[0].mask(LEVELS)) == "order"


def test_levels_of_another_type_are_refused_and_change_nothing() -> None:
    r = shared()
    r.of[0].accept_delivery(r.deliveries[0])
    for wrong in (np.zeros(COUNT), np.zeros((3, 7), np.int64)):
        with pytest.raises(ValueError, match="int64"):
            r.of[0].mask(wrong)
    r.of[0].mask(LEVELS)


def test_a_masked_vector_of_zeros_looks_like_any_other() -> None:
    r = Round(3, count=20_000, mask_settings=settings(ring_bits=8))
    r.advertise()
    r.share()
    message = r.of[0].masked(r.deliveries[0], np.zeros(r.count, np.int64))
    seen = np.bincount(unpack(message[72:-64], r.count, 8), minlength=256)
    expected = r.count / 256
    assert abs(float(((seen - expected) ** 2 / expected).sum()) - 255) < 6 * (2 * 255) ** 0.5


# --- the request to unmask ----------------------------------------------------------------------------------


def test_a_request_that_counts_this_device_out_is_refused() -> None:
    r = masked()
    own = place_of(r, 0)
    rest = set(range(5)) - {own}
    assert refusal(lambda: r.of[0].revealed(unmask_request(r, rest, {own}))) == "absent"


def test_requests_that_overlap_or_name_too_few_survivors_are_refused() -> None:
    r = masked()
    own = place_of(r, 0)
    everyone = set(range(5))
    other, another = sorted(everyone - {own})[:2]
    assert refusal(lambda: r.of[0].revealed(unmask_request(r, everyone, {other}))) == "sets"
    assert refusal(lambda: r.of[0].revealed(unmask_request(r, everyone - {other}, set()))) == "sets"
    two = {other, another}
    assert refusal(lambda: r.of[0].revealed(unmask_request(r, everyone - two, two))) == "few"
    r.of[0].revealed(unmask_request(r, everyone, set()))


def test_survivors_below_this_devices_own_minimum_are_refused() -> None:
    r = masked(10, rules=MaskRules(least_devices=6), mask_settings=settings(threshold_share=0.66))
    own = place_of(r, 0)
    gone = set(sorted(set(range(10)) - {own})[:3])
    r.of[0].revealed(unmask_request(r, set(range(10)) - gone, gone))  # seven are enough
    r = masked(5, rules=MaskRules(least_devices=5), mask_settings=settings(least=5))
    own = place_of(r, 0)
    gone = {sorted(set(range(5)) - {own})[0]}
    assert refusal(lambda: r.of[0].revealed(unmask_request(r, set(range(5)) - gone, gone))) == "few"


def test_a_second_request_is_refused_so_nobody_gets_both_shares() -> None:
    r = masked()
    own = place_of(r, 0)
    other = min(set(range(5)) - {own})
    first = r.of[0].revealed(unmask_request(r, set(range(5)), set()))
    second = unmask_request(r, set(range(5)) - {other}, {other})
    for request in (second, unmask_request(r, set(range(5)), set())):
        assert refusal(lambda q=request: r.of[0].revealed(q)) == "order"  # type: ignore[misc]
    assert not r.of[0]._held
    assert len(first) == 8 + 64 + 1 + 5 * 33 + 64


def test_a_request_of_another_round_roster_or_set_of_the_living_is_refused() -> None:
    r, other = masked(), masked(4)
    assert refusal(lambda: r.of[0].revealed(other.unmask)) == "roster"
    forged = wire.encode_unmask(bytes(32), set(range(5)), set(), 5)
    assert refusal(lambda: r.of[0].revealed(forged)) == "roster"


def test_what_is_revealed_is_the_seed_of_who_stayed_and_the_key_of_who_dropped_out() -> None:
    r = masked(gone=(3,))
    dropped = place_of(r, 3)
    for device in (0, 1, 2, 4):
        held = dict(r.of[device]._held)
        message = r.of[device].revealed(r.unmask)
        request = masks.digest_of(r.unmask)
        name = identity(device).public_key().public_bytes_raw()
        shares = wire.decode_revealed(message, request=request, identity=name, count=5)
        assert shares == {owner: pair[0 if owner == dropped else 1] for owner, pair in held.items()}


@pytest.mark.parametrize("colluders", [0, 3, 4])
def test_both_secrets_of_a_device_take_as_many_colluders_as_is_said(colluders: int) -> None:
    """A server tells some that a device stayed and others that it dropped out, and has colluders who tell it
    everything.

    Of 10 holders 7 are needed: 2 * 7 - 10 = 4 colluders are enough, with 3 no split gives both.
    """
    opened = False
    for told_stayed in range(10 - colluders):
        r = masked(10)
        target = place_of(r, 9)  # honest, and told that it stayed
        name = r.of[9]._roster.identity(target)
        seeds: dict[int, int] = {}
        keys: dict[int, int] = {}
        everyone = set(range(10))
        for device in range(10):
            one = r.of[device]
            if device < colluders:
                keys[one._place + 1], seeds[one._place + 1] = one._held[target]
                continue
            stayed = device == 9 or device - colluders < told_stayed
            request = unmask_request(
                r, everyone if stayed else everyone - {target}, set() if stayed else {target}
            )
            found = wire.decode_revealed(
                one.revealed(request),
                request=masks.digest_of(request),
                identity=identity(device).public_key().public_bytes_raw(),
                count=10,
            )
            (seeds if stayed else keys)[one._place + 1] = found[target]

        public = r.of[9]._public[0]
        commitment = r.shares[9][72:104]
        opened |= recovered(keys, lambda k, p=public: masks.public_key(k) == p) and recovered(  # type: ignore[misc]
            seeds,
            lambda s, c=commitment, x=r.of[9].context, n=name: masks.commitment_to(s, x, n) == c,  # type: ignore[misc]
        )
    assert opened == (colluders == 4)


def recovered(shares: dict[int, int], fits: Callable[[bytes], bool]) -> bool:
    """Says whether seven of ten shares are there and give the secret."""
    try:
        recover_secret(shares, 7, fits)
    except MaskError:
        return False
    return True


# --- a server that shows two things -------------------------------------------------------------------------


def assert_noise(vectors: list[np.ndarray], bits: int, truth: np.ndarray) -> None:
    """Assert that whichever vectors a server adds up, the sum is uniform, and no sum of some of the devices'
    levels."""
    expected = truth.shape[1] / (1 << bits)
    subsets = [[i for i in range(len(truth)) if chosen >> i & 1] for chosen in range(1, 1 << len(truth))]
    for added in subsets:
        total = centred(sum((vectors[i] for i in added[1:]), vectors[added[0]]), bits)
        seen = np.bincount(total + (1 << (bits - 1)), minlength=1 << bits)
        chi = float(((seen - expected) ** 2 / expected).sum())
        assert abs(chi - (len(seen) - 1)) < 6 * (2 * len(seen)) ** 0.5
        for partial in subsets:
            assert (total == truth[partial].sum(0)).mean() < 0.01  # by chance one in 256


def without_own_mask(r: Round, device: int, delivery: bytes) -> np.ndarray:
    """A device's masked vector with its own mask taken away, as a server would that has every seed."""
    one, seed = r.of[device], r.of[device]._seed
    message = one.masked(delivery, r.vectors[device])
    name = identity(device).public_key().public_bytes_raw()
    own = mask_of(masks.own_mask_key(seed, one._session, name), r.count, 8)
    return unpack(message[72:-64], r.count, 8) - own


def test_devices_that_were_shown_two_models_refuse_each_others_roster() -> None:
    """The server's roster for both halves is refused by all: each advert is signed for one model."""
    r = Round(4)
    for device in (2, 3):
        r.of[device] = MaskedRound(invitation(model=b"another model"), identity=identity(device))
    refused = r.server.adverts({n: one.advert() for n, one in r.of.items()})[1]
    assert refused == {2: "context", 3: "context"}
    found = [wire.decode_advert(one.advert(), context=one.context) for one in r.of.values()]
    for shown in (r.of[0].context, r.of[2].context):
        both = wire.encode_roster([dataclasses.replace(one, context=shown) for one in found])
        for device in r.of.values():
            wanted = "signature" if device.context == shown else "context"
            assert refusal(lambda d=device, data=both: d.shares(data)) == wanted  # type: ignore[misc]


@pytest.mark.parametrize("split", [False, True])
def test_masks_of_two_models_do_not_cancel(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even devices that check no signature give noise: their masks are bound to what each was shown.

    The control, one model for all, gives the sum with the same code.
    """
    monkeypatch.setattr(wire, "check_signature", lambda advert: None)
    r = Round(4, count=20_000, mask_settings=settings(ring_bits=8))
    r.vectors = np.random.default_rng(1).integers(-20, 21, (4, r.count), dtype=np.int64)
    shown = [
        r.invited,
        r.invited,
        *[invitation(r.mask_settings, model=b"another") if split else r.invited] * 2,
    ]
    r.of = {n: MaskedRound(shown[n], identity=identity(n)) for n in range(4)}
    adverts = [wire.decode_advert(one.advert(), context=one.context) for one in r.of.values()]
    rosters = {
        n: wire.encode_roster([dataclasses.replace(a, context=one.context) for a in adverts])
        for n, one in r.of.items()
    }
    vectors = []
    for n, one in r.of.items():
        one.shares(rosters[n])
        roster = decode_roster(rosters[n], context=one.context)
        sealed = [bytes(wire.SEALED_BYTES)] * 3
        delivery = wire.encode_delivery(roster, one._place, range(4), sealed)
        vectors.append(without_own_mask(r, n, delivery))
    if split:
        assert_noise(vectors, 8, r.vectors)
    else:
        assert (centred(sum(vectors[1:], vectors[0]), 8) == r.plain()).all()


@pytest.mark.parametrize("split", [False, True])
def test_masks_of_two_sets_of_the_living_do_not_cancel(split: bool) -> None:
    """A server that tells half the devices that one of them died learns no sum either.

    With one story it does.
    """
    r = Round(6, count=20_000, mask_settings=settings(ring_bits=8))
    r.vectors = np.random.default_rng(2).integers(-20, 21, (6, r.count), dtype=np.int64)
    r.advertise()
    r.share()
    roster = decode_roster(r.roster, context=r.of[0].context)
    dead = place_of(r, 5)
    sealed = [bytes(wire.SEALED_BYTES)]
    vectors = []
    for n in range(5):
        alive = set(range(6)) - ({dead} if split and n >= 2 else set())
        data = wire.encode_delivery(roster, r.of[n]._place, alive, sealed * (len(alive) - 1))
        vectors.append(without_own_mask(r, n, data))
    if not split:
        vectors.append(without_own_mask(r, 5, r.deliveries[5]))
        assert (centred(sum(vectors[1:], vectors[0]), 8) == r.plain()).all()
    else:
        assert_noise(vectors, 8, r.vectors[:5])


def test_mutated_messages_never_break_a_device() -> None:
    """Hundreds of tampered rosters, deliveries and requests, checksums mended: refused, or taken for what
    they say."""
    rng = random.Random(6)
    for _ in range(150):
        r = Round(3, count=3)
        r.advertise()
        for step in range(3):
            device = r.of[0]
            work, data = (
                (device.shares, r.roster),
                (device.accept_delivery, getattr(r, "deliveries", {0: b""})[0]),
                (device.revealed, getattr(r, "unmask", b"")),
            )[step]
            changed = bytearray(data[:-CHECKSUM_BYTES])
            for _ in range(rng.choice((1, 2, 8))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            try:
                work(add_checksum(bytes(changed)))
            except MaskError:
                pass
            else:
                break  # it was taken: a sealed pair that does not open
            if step == 0:
                r.share()
            elif step == 1:
                r.mask()
