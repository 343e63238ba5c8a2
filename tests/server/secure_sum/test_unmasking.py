"""The sum of a masked round: exact to the bit, whoever drops out and whatever devices send.

Or no sum at all.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from palate.client.federation.masked_round import MaskedRound, MaskRules
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.errors import MaskError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum import messages as wire
from palate.shared.secure_sum.shamir import PRIME, SHARE_BYTES
from tests.shared.mask_cases import COUNT, Round, identity, invitation, settings, stream
from tests.shared.pseudonym_cases import certificate, slot_key


def failure(work: Callable[[], Any]) -> str:
    with pytest.raises(MaskError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value.reason


def tampered(data: bytes, at: int) -> bytes:
    """A message with one bit turned and no new signature."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def signed_anew(data: bytes, device: int, at: int, new: bytes) -> bytes:
    """A message with some bytes replaced by the device that signs it."""
    content = data[: at % len(data)] + new + data[at % len(data) + len(new) :]
    return content[:-64] + masks.sign(content[:-64], identity(device))


# --- exact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 11, 16, 20, 32])
@pytest.mark.parametrize("devices", [2, 3, 7])
def test_the_sum_is_that_of_the_plain_levels(bits: int, devices: int) -> None:
    r = Round(devices, mask_settings=settings(ring_bits=bits))
    r.vectors //= 4  # so that sums fit into 8 bits
    total, count = r.go()
    assert total.dtype == np.int64
    assert count == devices
    assert (total == r.plain()).all()


def test_a_sum_that_leaves_the_ring_wraps_around() -> None:
    r = Round(3, mask_settings=settings(ring_bits=6))
    total, _ = r.go()
    assert (total == (r.plain() + 32) % 64 - 32).all()


@pytest.mark.parametrize(
    "gone",
    [
        ((0, 1, 2),),
        ((), (0, 3, 9)),
        ((), (), (0, 3, 9)),
        ((), (), (), (1, 2, 9)),
        ((0,), (1,), (2,), (3,)),
        ((), (5,), (6,), (7,)),
    ],
)
def test_drop_outs_in_every_phase_are_survived(gone: tuple[tuple[int, ...], ...]) -> None:
    """Ten devices, of which the threshold lets three go after the roster is there."""
    r = Round(10)
    total, count = r.go(*gone)
    before = [device for phase in gone[:3] for device in phase]
    assert count == 10 - len(before)
    assert (total == r.plain(*before)).all()


@pytest.mark.parametrize(
    "gone",
    [
        (tuple(range(9)),),
        ((), (0, 1, 2, 3)),
        ((), (), (0, 1, 2, 3)),
        ((), (), (), (0, 1, 2, 3)),
        ((), (0, 1), (2,), (3,)),
        ((), (), tuple(range(10))),
        ((), (), (), tuple(range(10))),
    ],
)
def test_below_the_threshold_the_round_fails_without_a_sum(gone: tuple[tuple[int, ...], ...]) -> None:
    r = Round(10)
    assert failure(lambda: r.go(*gone)) == "few"
    for step in (r.server.adverts, r.server.shares, r.server.masked, r.server.revealed):
        assert failure(lambda s=step: s({})) == "order"  # type: ignore[misc]


def test_below_the_least_number_of_devices_the_round_fails() -> None:
    many = settings(least=8)
    assert failure(lambda: Round(10, mask_settings=many).go((0, 1, 2))) == "few"
    assert failure(lambda: Round(10, mask_settings=many).go((), (0, 1, 2))) == "few"
    assert failure(lambda: Round(10, mask_settings=many).go((), (0,), (1, 2))) == "few"
    assert Round(10, mask_settings=many).go((), (0,), (1,))[1] == 8


def test_a_sparse_cohort_sums_exactly() -> None:
    r = Round(70, mask_settings=settings(threshold_share=0.51), count=5)
    assert masks.degree(70, 0.51) < 69
    gone = (3, 14, 15, 9, 26)
    total, count = r.go((), (53,), gone)
    assert count == 64
    assert (total == r.plain(53, *gone)).all()


def test_a_device_with_too_few_living_holders_is_left_out() -> None:
    r = Round(10)
    r.advertise()
    r.server._thresholds[r.server._places[4]] = 11  # as if it had ten holders and needed one more
    r.share()
    assert r.refused["shares"] == {4: "few"}
    assert sorted(r.deliveries) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    r.mask()
    assert (r.reveal()[0] == r.plain(4)).all()


def test_a_sparse_cohort_in_which_neighbours_are_gone_together_fails_cleanly() -> None:
    """Half the neighbours of one device are half of its neighbours' neighbours, too: nobody is left to hold
    shares."""
    r = Round(70, mask_settings=settings(threshold_share=0.51), count=5)
    r.advertise()
    assert failure(lambda: r.share(gone=range(1, 37))) == "few"


# --- bad messages cost the device that sends them -----------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "size"),
        (None, "size"),
        (bytes(264), "magic"),
        (MaskedRound(invitation(round=4), identity=identity(1)).advert(), "context"),
        (MaskedRound(invitation(model=b"x"), identity=identity(1)).advert(), "context"),
    ],
)
def test_a_bad_advert_costs_its_device(data: Any, reason: str) -> None:
    r = Round(5)
    r.of[1].advert = lambda: data  # type: ignore[method-assign]
    r.advertise()
    assert r.refused["adverts"] == {1: reason}
    r.of.pop(1)
    r.adverts.pop(1)
    r.share()
    r.mask()
    assert (r.reveal()[0] == r.plain(1)).all()


def test_an_advert_that_was_tampered_with_or_replayed_costs_its_device() -> None:
    r = Round(4)
    adverts = {n: one.advert() for n, one in r.of.items()}
    adverts[1] = tampered(adverts[1], 80)
    adverts[2] = adverts[0]  # device 0's, replayed
    adverts[7] = MaskedRound(r.invited, identity=identity(3)).advert()  # device 3 a second time
    assert r.server.adverts(adverts)[1] == {1: "signature", 2: "duplicate", 7: "duplicate"}


def test_an_advert_without_the_registrars_certificate_costs_its_device() -> None:
    r = Round(4)
    r.server = MaskedSum(r.invited, r.mask_settings, r.count, slot_key=slot_key(1))
    assert failure(r.advertise) == "few"
    with pytest.raises(MaskError):
        MaskedSum(r.invited, r.mask_settings, r.count, slot_key=slot_key(2))


def test_a_certificate_that_comes_twice_is_in_the_roster_once() -> None:
    """Shown again by its device under another number, or with another device's keys: neither gets
    in twice."""
    r = Round(3)
    for n in range(3):
        rules = MaskRules(certificate=certificate(identity(n).public_key().public_bytes_raw(), 1))
        r.of[n] = MaskedRound(r.invited, identity=identity(n), rules=rules)
    stolen = MaskRules(certificate=r.of[0]._rules.certificate)
    r.of[3] = MaskedRound(r.invited, identity=identity(0), rules=r.of[0]._rules)
    r.of[4] = MaskedRound(r.invited, identity=identity(4), rules=stolen)
    r.server = MaskedSum(r.invited, r.mask_settings, r.count, slot_key=slot_key(1))
    _, refused = r.server.adverts({n: one.advert() for n, one in r.of.items()})
    assert refused == {3: "duplicate", 4: "certificate"}


@pytest.mark.parametrize("phase", ["shares", "masked", "revealed"])
def test_bad_messages_of_later_phases_cost_their_devices(phase: str) -> None:
    """Forged, cut, of another device, of another round, of a stranger: each is refused, and the sum is that
    of the others."""
    r, other = Round(20), Round(20)
    other.invited = invitation(round=9)
    other.of = {n: MaskedRound(other.invited, identity=identity(n)) for n in range(20)}
    other.server = MaskedSum(other.invited, other.mask_settings, other.count)
    for one in (r, other):
        one.advertise()
        one.share()
        if phase != "shares":
            one.mask()
        if phase == "revealed":
            one.reveal()
    good: dict[int, bytes] = dict(getattr(r, phase))
    bad = {
        **good,
        0: tampered(good[0], -70),
        1: good[1][:-1],
        2: good[3],
        4: getattr(other, phase)[4],
        5: b"",
        77: good[6],
    }
    cut = "signature" if phase == "revealed" else "size"  # which has no one length
    wanted = {0: "signature", 1: cut, 2: "identity", 4: "roster", 5: "size", 77: "absent"}
    # Play the round again with the same secrets, up to this phase.
    r = Round(20)
    r.advertise()
    if phase == "shares":
        assert {n: one.shares(r.roster) for n, one in r.of.items()} == good
        r.deliveries, refused = r.server.shares(bad)
        assert refused == wanted
        r.mask()
        assert (r.reveal()[0] == r.plain(0, 1, 2, 4, 5)).all()
        return
    r.share()
    if phase == "masked":
        r.mask()
        r.server._due = 3  # the server's step once more, now with bad messages
        r.unmask, refused = r.server.masked(bad)
        assert refused == wanted
        r.masked = {n: data for n, data in good.items() if n not in wanted}
        assert (r.reveal()[0] == r.plain(0, 1, 2, 4, 5)).all()
        return
    r.mask()
    total, count = r.server.revealed(bad)
    assert r.server.refused == wanted
    assert count == 20
    assert (total == r.plain()).all()


def test_steps_out_of_order_or_twice_are_refused() -> None:
    r = Round(3)
    assert failure(lambda: r.server.revealed({})) == "order"
    assert failure(lambda: r.server.masked({})) == "order"
    r.advertise()
    assert failure(lambda: r.server.adverts(r.adverts)) == "order"
    r.share()
    r.mask()
    r.reveal()
    for step in (r.server.adverts, r.server.shares, r.server.masked, r.server.revealed):
        assert failure(lambda s=step: s({})) == "order"  # type: ignore[misc]


def test_a_server_refuses_settings_that_are_not_those_of_the_invitation() -> None:
    assert failure(lambda: MaskedSum(invitation(), settings(noise=1.0), COUNT)) == "settings"
    assert failure(lambda: MaskedSum(b"", settings(), COUNT)) == "size"
    with pytest.raises(ValueError, match="count"):
        MaskedSum(invitation(), settings(), 0)


# --- shares that a device tampered with ---------------------------------------------------------------------


def lie(message: bytes, device: int, devices: int, owner: int) -> bytes:
    """A device's revealed shares with another number for one owner, properly signed."""
    at = 8 + 64 + -(-devices // 8) + SHARE_BYTES * owner
    return signed_anew(message, device, at, random.Random(device).randrange(PRIME).to_bytes(33, "big"))


@pytest.mark.parametrize("liars", [(1,), (1, 2), (0, 5, 9)])
@pytest.mark.parametrize("gone", [(), (4,), (4, 8)])
def test_wrong_shares_of_some_do_not_change_the_sum(liars: tuple[int, ...], gone: tuple[int, ...]) -> None:
    r = Round(12, mask_settings=settings(threshold_share=0.51, least=8))
    r.advertise()
    r.share()
    r.mask(gone)
    revealed = {n: r.of[n].revealed(r.unmask) for n in r.masked}
    owners = len(r.masked) + len(gone)
    for liar in liars if 12 - len(gone) - 7 >= 2 * len(liars) else liars[:1]:
        for owner in range(owners):
            revealed[liar] = lie(revealed[liar], liar, 12, owner)
    total, count = r.server.revealed(revealed)
    assert count == 12 - len(gone)
    assert (total == r.plain(*gone)).all()


@pytest.mark.parametrize("owner_stays", [True, False])
def test_too_many_wrong_shares_fail_the_round_never_change_the_sum(owner_stays: bool) -> None:
    r = Round(10)
    r.advertise()
    r.share()
    r.mask(() if owner_stays else (9,))
    owner = r.server._places[0 if owner_stays else 9]
    revealed = {n: r.of[n].revealed(r.unmask) for n in r.masked}
    for liar in (1, 2, 3, 4, 5):
        revealed[liar] = lie(revealed[liar], liar, 10, owner)
    assert failure(lambda: r.server.revealed(revealed)) == "shares"
    assert failure(lambda: r.server.revealed(revealed)) == "order"


def test_shares_dealt_wrong_fail_the_round() -> None:
    """A device that shares another seed than it committed to: its mask cannot be taken out, so there is no
    sum."""
    r = Round(5)
    r.advertise()
    r.of[2]._seed, kept = bytes(32), r.of[2]._seed
    message = r.of[2].shares(r.roster)
    r.of[2]._seed = kept
    honest = masks.commitment_to(kept, r.of[2].context, identity(2).public_key().public_bytes_raw())
    r.shares = {n: r.of[n].shares(r.roster) for n in (0, 1, 3, 4)}
    r.shares[2] = signed_anew(message, 2, 8 + 64, honest)
    r.deliveries, refused = r.server.shares(r.shares)
    assert not refused
    r.mask()
    assert failure(r.reveal) == "shares"


def test_a_key_dealt_wrong_fails_the_round_when_its_device_drops_out() -> None:
    r = Round(5)
    r.advertise()
    real = r.of[2]._mask_secret
    # The advert stands for the real key; what is dealt is another.
    split = r.of[2]._split
    r.of[2]._split = lambda: _with_key(r.of[2], bytes(32), split)  # type: ignore[method-assign]
    r.share()
    assert r.of[2]._mask_secret == real
    r.mask(gone=(2,))
    assert failure(r.reveal) == "shares"


def _with_key(device: MaskedRound, key: bytes, split: Callable[[], bytes]) -> bytes:
    kept, device._mask_secret = device._mask_secret, key
    message = split()
    device._mask_secret = kept
    return message


def test_shares_outside_the_field_cost_their_device() -> None:
    r = Round(5)
    r.advertise()
    r.share()
    r.mask()
    revealed = {n: r.of[n].revealed(r.unmask) for n in r.masked}
    revealed[1] = signed_anew(revealed[1], 1, 8 + 64 + 1, b"\xff" * 33)
    total, _ = r.server.revealed(revealed)
    assert r.server.refused == {1: "shares"}
    assert (total == r.plain()).all()


def test_shares_of_devices_that_are_no_neighbours_cost_their_device() -> None:
    r = Round(70, mask_settings=settings(threshold_share=0.51), count=5)
    r.advertise()
    r.share()
    r.mask()
    agreement = r.endorse()
    revealed = {n: r.of[n].revealed(agreement) for n in r.masked}
    request = masks.digest_of(r.unmask)
    revealed[1] = wire.encode_revealed(request, identity(1), dict.fromkeys(range(70), 1), 70)
    total, _ = r.server.revealed(revealed)
    assert r.server.refused == {1: "sets"}
    assert (total == r.plain()).all()


# --- whatever comes -----------------------------------------------------------------------------------------


def test_whatever_devices_send_there_is_the_exact_sum_or_none() -> None:
    """Rounds in which messages of every phase are tampered with, cut, swapped, replayed, signed anew, or
    missing."""
    done = failed = 0
    for seed in range(150):
        rng = random.Random(seed)
        r = Round(6, count=3, mask_settings=settings(threshold_share=0.6))

        def worn(messages: dict[int, bytes], rng: random.Random = rng) -> dict[int, bytes]:
            found = dict(messages)
            for device in rng.sample(sorted(found), rng.choice((0, 0, 1, 1, 2))):
                data = found[device]
                what = rng.randrange(5)
                if what == 0:
                    found[device] = tampered(data, rng.randrange(len(data)))
                elif what == 1:
                    found[device] = data[: rng.randrange(len(data))]
                elif what == 2:
                    found[device] = found[rng.choice(sorted(found))]
                elif what == 3:
                    del found[device]
                else:  # not the vector itself: with that every device may do what it likes
                    at = rng.randrange(8, len(data) - 64 if data[6] != wire.MASKED else 72)
                    found[device] = signed_anew(data, device, at, rng.randbytes(1))
            return found

        try:
            r.adverts = worn({n: one.advert() for n, one in r.of.items()})
            r.roster, refused = r.server.adverts(r.adverts)
            members = [n for n in r.adverts if n not in refused]
            r.shares = {}
            for n in members:
                try:
                    r.shares[n] = r.of[n].shares(r.roster)
                except MaskError:
                    assert r.adverts[n] != r.of[n].advert()
            r.deliveries, refused = r.server.shares(worn(r.shares))
            r.masked = {n: r.of[n].masked(data, r.vectors[n]) for n, data in r.deliveries.items()}
            sent = worn(r.masked)
            r.unmask, refused = r.server.masked(sent)
            survivors = [n for n in sent if n not in refused]
            total, count = r.server.revealed(worn({n: r.of[n].revealed(r.unmask) for n in survivors}))
        except MaskError:
            failed += 1
            continue
        done += 1
        assert count == len(survivors)
        assert (total == r.vectors[survivors].sum(0)).all()
    assert done > 30
    assert failed > 5


def test_fifty_devices_with_thirty_percent_gone_are_exact_and_within_the_bytes() -> None:
    """The bar of the project: bit-equal, and at most 1.25 times the bytes of the same vectors sent
    unmasked."""
    bits, count = 12, 75_000
    r = Round(50, count=count, mask_settings=settings(ring_bits=bits))
    gone = tuple(random.Random(1).sample(range(50), 15))
    total, survivors = r.go((), (), gone)
    assert survivors == 35
    assert (total == r.plain(*gone)).all()
    up = sum(len(data) for sent in (r.adverts, r.shares, r.masked, r.revealed) for data in sent.values())
    down = 50 * len(r.roster) + sum(map(len, r.deliveries.values())) + 35 * len(r.unmask)
    plain = 35 * (count * bits // 8)
    print(f"{up:,} bytes up, {down:,} down, {(up + down) / plain:.3f} of the plain {plain:,}")
    assert up + down <= 1.25 * plain


def test_the_source_of_vectors_is_no_source_of_secrets() -> None:
    """Rounds draw their secrets from the operating system unless told otherwise."""
    drawn = {MaskedRound(invitation(), identity=identity(0))._seed for _ in range(20)}
    assert len(drawn) == 20
    assert stream("a")(32) == stream("a")(32)


def test_who_took_part_are_those_whose_vectors_are_in_the_sum() -> None:
    r = Round(10)
    r.go((0,), (1,), (2,), (3,))
    assert r.server.took_part() == frozenset(range(3, 10))
