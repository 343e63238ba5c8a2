"""Sparse cohorts: nothing is revealed before enough of the roster were asked the same, and a server that lies
gets no small sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from palate.shared.errors import MaskError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.agreement import decode_endorsement, encode_agreement, encode_endorsement
from palate.shared.secure_sum.messages import (
    decode_revealed,
    decode_roster,
    decode_shares,
    encode_delivery,
    encode_roster,
    encode_unmask,
)
from palate.shared.secure_sum.ring import centred, mask_of, to_ring, unpack
from palate.shared.secure_sum.shamir import recover_secret
from tests.shared.mask_cases import Round, identity, settings, stream

SHARE = 0.51
COUNT = 70  # of the devices; each has one that is no neighbour
NEEDED = masks.threshold_of(COUNT, SHARE)


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(MaskError) as caught:
        work()
    return caught.value.reason


def masked(devices: int = COUNT, gone: tuple[int, ...] = (), **changed: Any) -> Round:
    r = Round(devices, mask_settings=settings(threshold_share=SHARE, **changed), count=5)
    r.advertise()
    r.share()
    r.mask(gone)
    return r


@pytest.fixture
def r() -> Round:
    return masked(gone=(4,))


# --- a device -----------------------------------------------------------------------------------------------


def test_a_sparse_cohort_reveals_nothing_before_it_agreed(r: Round) -> None:
    assert refusal(lambda: r.of[0].revealed(r.unmask)) == "order"
    r.of[0].endorsed(r.unmask)
    assert refusal(lambda: r.of[0].revealed(r.unmask)) == "kind"
    assert refusal(lambda: r.of[0].endorsed(r.unmask)) == "order"
    assert r.of[0]._held


def test_a_device_endorses_no_request_that_it_would_not_answer(r: Round) -> None:
    everyone, own = r.of[0]._alive, r.of[0]._place
    assert refusal(lambda: r.of[0].endorsed(request(r, 0, everyone - {own}))) == "absent"
    few = frozenset(sorted(everyone)[:30]) | {own}
    assert refusal(lambda: r.of[0].endorsed(request(r, 0, few))) == "few"
    r.of[0].endorsed(r.unmask)


def test_a_complete_cohort_endorses_nothing() -> None:
    r = Round(5)
    r.advertise()
    r.share()
    r.mask()
    assert refusal(lambda: r.of[0].endorsed(r.unmask)) == "order"
    assert refusal(lambda: r.server.endorsed({})) == "order"


def test_an_agreement_takes_more_than_half_of_the_whole_roster(r: Round) -> None:
    r.of[0].endorsed(r.unmask)
    signatures = signed(r, r.unmask, [n for n in r.masked if n])
    few = dict(list(signatures.items())[: NEEDED - 1])
    hash_ = masks.digest_of(r.unmask)
    assert refusal(lambda: r.of[0].revealed(encode_agreement(hash_, few, COUNT))) == "few"
    assert refusal(lambda: r.of[0].revealed(encode_agreement(bytes(32), signatures, COUNT))) == "roster"
    dropped = signed(r, r.unmask, [4])
    assert refusal(lambda: r.of[0].revealed(encode_agreement(hash_, few | dropped, COUNT))) == "sets"
    assert r.of[0]._held  # nothing has left
    enough = dict(list(signatures.items())[:NEEDED])
    r.of[0].revealed(encode_agreement(hash_, enough, COUNT))
    assert not r.of[0]._held


def test_endorsements_of_another_request_count_for_nothing(r: Round) -> None:
    other = request(r, 1, r.of[1]._alive - {r.of[0]._place})
    r.of[0].endorsed(r.unmask)
    mixed = signed(r, r.unmask, range(5, 9)) | signed(r, other, range(9, 60))
    agreement = encode_agreement(masks.digest_of(r.unmask), mixed, COUNT)
    assert refusal(lambda: r.of[0].revealed(agreement)) == "signature"


# --- the server ---------------------------------------------------------------------------------------------


def test_a_round_survives_that_some_endorse_nothing_or_wrongly(r: Round) -> None:
    endorsed = {n: r.of[n].endorsed(r.unmask) for n in r.masked if n not in (7, 8)}
    endorsed[3] = encode_endorsement(bytes(32), identity(3))
    endorsed[4] = encode_endorsement(masks.digest_of(r.unmask), identity(4))  # it dropped out
    endorsed[5] = endorsed[5][:-1]
    endorsed[6] = endorsed[2]
    agreement, refused = r.server.endorsed(endorsed)
    assert refused == {3: "roster", 4: "absent", 5: "size", 6: "identity"}
    total, count = r.server.revealed({n: r.of[n].revealed(agreement) for n in endorsed.keys() - {4}})
    assert count == COUNT - 1
    assert (total == r.plain(4)).all()


def test_with_too_few_to_agree_the_round_fails() -> None:
    r = masked()
    endorsed = {n: r.of[n].endorsed(r.unmask) for n in range(NEEDED - 1)}
    assert refusal(lambda: r.server.endorsed(endorsed)) == "few"
    assert refusal(lambda: r.server.revealed({})) == "order"


def test_where_too_few_vectors_came_to_agree_nobody_is_asked_to_unmask() -> None:
    """By their neighbours alone these could be unmasked: the holders of each, but not the roster, are
    there."""
    r = Round(COUNT, mask_settings=settings(threshold_share=SHARE), count=5)
    r.advertise()
    r.share()
    r.server._thresholds = [2] * COUNT
    assert refusal(lambda: r.mask(gone=range(NEEDED - 1, COUNT))) == "few"


# --- a server that tells each device something else, in a complete cohort -----------------------------------


@pytest.mark.parametrize("counted", [True, False])
def test_a_server_that_lies_about_who_is_alive_gets_no_single_vector(
    counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five devices, three of whom must be left to each: they do not begin, since the server could have the
    bare vector of one.

    With lies about drop-outs alone two devices seem the least, and they begin (the control). Then one hears
    that two others never shared anything, so it has masks with the last two only. Those are dropped: the two
    unseen ones are told so of both, and they of each other, which makes three shares of each key.
    """
    r = Round(5, mask_settings=settings(threshold_share=0.51), count=5)
    r.advertise()
    if counted:
        assert refusal(r.share) == "few"
        return
    monkeypatch.setattr(masks, "smallest_sum", lambda count, settings: 2)
    r.share()
    one, unseen, dropped = 0, (1, 2), (3, 4)
    roster, place = r.of[one]._roster, {n: r.of[n]._place for n in r.of}
    pairs = {n: decode_shares(r.shares[n], roster, place[n], 4).sealed for n in dropped}
    sealed = {place[n]: pairs[n][place[one] - (place[one] > place[n])] for n in dropped}
    alive = {place[one], *sealed}
    r.deliveries[one] = encode_delivery(roster, place[one], alive, [sealed[at] for at in sorted(sealed)])
    r.masked = {n: r.of[n].masked(r.deliveries[n], r.vectors[n]) for n in r.of}
    told = {n: frozenset(dropped) - {n} for n in (*unseen, *dropped)}
    everyone = frozenset(place.values())
    requests = {n: request(r, n, everyone - {place[m] for m in told[n]}) for n in told}
    answers = {n: r.of[n].revealed(requests[n]) for n in told}
    keys, seeds = revealed_shares(r, answers, requests, told)
    total = sum_of_arc(r, [one], dropped, keys, seeds, 3)
    assert (total == r.vectors[one]).all()


# --- a server that tells each device something else ---------------------------------------------------------


@pytest.mark.parametrize("agreeing", [False, True])
def test_a_lying_server_cuts_off_no_arc_of_the_ring(agreeing: bool) -> None:
    """It wants the sum of 30 neighbours in the ring of 120, where 80 are the least, and says to each device
    something else.

    The 35 on either side of the arc are named drop-outs, but to none more than it accepts: each of the 35
    hears that the other 34 are gone, and three devices on each end of the rest hear of half. Without the
    agreement (the control) that gives all keys of the 70, the seeds of the 30, and their sum.
    """
    devices, arc, side = 120, 30, 35
    r = masked(devices, least=80)
    assert masks.degree(devices, SHARE) == 2 * side
    ring = ring_of(r)
    inside, right, left = ring[:arc], ring[arc : arc + side], ring[-side:]
    rest = ring[arc + side : -side]
    told = {n: frozenset[int]() for n in ring}  # whom each is told to have dropped out
    for near, ends in ((right, (inside[-3:], rest[:3])), (left, (rest[-3:], inside[:3]))):
        for n in near:
            told[n] = frozenset(near) - {n}
        halves = (near[:18], near[18:])
        for tellers, gone in zip(ends, halves, strict=True):
            for n in tellers:
                told[n] |= frozenset(gone)
    place = {n: r.of[n]._place for n in ring}
    everyone = frozenset(place.values())
    requests = {n: request(r, n, everyone - {place[m] for m in told[n]}) for n in ring}
    if agreeing:
        endorsed = {n: (requests[n], r.of[n].endorsed(requests[n])[-64:]) for n in ring}
        for n in ring:
            same = {place[m]: signature for m, (asked, signature) in endorsed.items() if asked == requests[n]}
            agreement = encode_agreement(masks.digest_of(requests[n]), same, devices)
            assert refusal(lambda n=n, a=agreement: r.of[n].revealed(a)) == "few"  # type: ignore[misc]
        return
    for one in r.of.values():
        one.sparse = False
    answers = {n: r.of[n].revealed(requests[n]) for n in ring}
    keys, seeds = revealed_shares(r, answers, requests, told)
    total = sum_of_arc(r, inside, (*left, *right), keys, seeds, masks.threshold_of(2 * side + 1, SHARE))
    assert (total == r.vectors[inside].sum(0)).all()


@pytest.mark.parametrize("in_each_gap", [3, 4])
def test_two_gaps_with_too_few_colluders_cut_no_ring(in_each_gap: int) -> None:
    """One story for all, agreed to by all: two gaps of drop-outs around an arc, among them devices that help
    the server.

    These claim to have stayed and reveal what they hold. Beside each gap a device keeps one side of its
    holders and itself, and needs `spare` more; with four in each gap (the control: more than the tenth that
    is withstood) the server has the arc's sum.
    """
    devices, arc, share = 70, 18, 0.6
    r = Round(devices, mask_settings=settings(threshold_share=share), count=5)
    r.advertise()
    r.share()
    r.mask()
    side = masks.degree(devices, share) // 2
    needed = masks.spare(2 * side, share)
    assert needed == 4
    assert 2 * (needed - 1) <= devices // 10 < 2 * needed
    ring = ring_of(r, share)
    inside, right, left = ring[:arc], ring[arc : arc + side], ring[-side:]
    colluding = [*right[1 : 1 + in_each_gap], *left[1 : 1 + in_each_gap]]
    dropped = tuple(n for n in (*left, *right) if n not in colluding)
    place = {n: r.of[n]._place for n in ring}
    story = request(r, ring[0], frozenset(place.values()) - {place[n] for n in dropped})
    staying = [n for n in ring if n not in dropped]
    accepted, reasons = [], []
    for n in staying:
        try:
            r.of[n].endorsed(story)
            accepted.append(n)
        except MaskError as error:
            reasons.append(error.reason)
    assert set(reasons) <= {"few"}
    if in_each_gap < needed:
        assert inside[0] not in accepted
        assert inside[-1] not in accepted
        return
    assert accepted == staying
    agreement = encode_agreement(masks.digest_of(story), signed(r, story, staying), devices)
    answers = {n: r.of[n].revealed(agreement) for n in staying}
    told = {n: frozenset(dropped) for n in staying}
    keys, seeds = revealed_shares(r, answers, dict.fromkeys(staying, story), told)
    of_colluders = {r.of[n]._place: n for n in colluding}
    total = sum_of_arc(r, inside, dropped, keys, seeds, masks.threshold_of(2 * side + 1, share))
    for n in inside:  # what the colluders' masks with the arc were, they say themselves
        for at in set(r.of[n]._holders).intersection(of_colluders):
            total += mask_between(r, n, of_colluders[at])
    assert (centred(to_ring(total, 16), r.mask_settings.ring_bits) == r.vectors[inside].sum(0)).all()


def test_the_neighbours_of_a_device_refuse_a_roster_that_gives_it_other_keys() -> None:
    """Who is no neighbour of it does not look; without its neighbours and itself there is nobody to agree."""
    share = 0.6
    r = Round(COUNT, mask_settings=settings(threshold_share=share), count=5)
    r.advertise()
    found = list(decode_roster(r.roster, context=r.of[0].context).adverts)
    forged = replace(found[7], mask_key=masks.public_key(b"7" * 32))
    roster = encode_roster([*found[:7], forged, *found[8:]])
    holders = masks.holders_of(masks.digest_of(roster), COUNT, share)
    for one in r.of.values():
        at = next(i for i, advert in enumerate(found) if advert.identity == one._name)
        if at in holders[7]:
            assert refusal(lambda one=one: one.shares(roster)) == "signature"  # type: ignore[misc]
        else:
            one.shares(roster)
    assert COUNT - len(holders[7]) < masks.threshold_of(COUNT, share)


def mask_between(r: Round, one: int, other: int) -> NDArray[np.int64]:
    """What takes the mask with another device out of one's vector."""
    secret = stream(f"device {other}")(32)  # what it drew first
    agreed = masks.agree(X25519PrivateKey.from_private_bytes(secret), r.of[one]._public[0])
    key = masks.pair_mask_key(agreed, r.of[one]._session, r.of[one]._name, r.of[other]._name)
    mask = mask_of(key, r.count, r.mask_settings.ring_bits).astype(np.int64)
    return mask if r.of[other]._place < r.of[one]._place else -mask


def ring_of(r: Round, share: float = SHARE) -> list[int]:
    """The devices in the order of the ring of neighbours, from any one on."""
    holders = masks.holders_of(r.of[0]._roster.hash, r.devices, share)
    at = {one._place: n for n, one in r.of.items()}
    left, order = set(range(r.devices)), [0]
    left.discard(0)
    while left:  # next is who shares most neighbours with the last one
        last = set(holders[order[-1]])
        order.append(max(left, key=lambda p: len(last.intersection(holders[p]))))
        left.discard(order[-1])
    return [at[p] for p in order]


def request(r: Round, device: int, survivors: frozenset[int]) -> bytes:
    one = r.of[device]
    return encode_unmask(one._session, survivors, one._alive - survivors, r.devices)


def signed(r: Round, unmask: bytes, devices: Any) -> dict[int, bytes]:
    hash_ = masks.digest_of(unmask)
    found = {}
    for n in devices:
        name = identity(n).public_key().public_bytes_raw()
        data = encode_endorsement(hash_, identity(n))
        found[r.of[n]._place] = decode_endorsement(data, request=hash_, identity=name)
    return found


Points = dict[int, dict[int, int]]


def revealed_shares(
    r: Round, answers: dict[int, bytes], requests: dict[int, bytes], told: dict[int, frozenset[int]]
) -> tuple[Points, Points]:
    """Shares of mask keys and of seeds, by the device that they belong to."""
    device_at = {one._place: n for n, one in r.of.items()}
    keys: Points = {n: {} for n in r.of}
    seeds: Points = {n: {} for n in r.of}
    for n, data in answers.items():
        found = decode_revealed(
            data,
            request=masks.digest_of(requests[n]),
            identity=identity(n).public_key().public_bytes_raw(),
            count=r.devices,
        )
        for place, share in found.items():
            owner = device_at[place]
            (keys if owner in told[n] else seeds)[owner][r.of[n]._place + 1] = share
    return keys, seeds


def sum_of_arc(
    r: Round, arc: list[int], beside: tuple[int, ...], keys: Points, seeds: Points, threshold: int
) -> NDArray[np.int64]:
    """What a server makes of the shares: the arc's vectors without their own masks and those towards its
    neighbours."""
    session, bits = r.of[0]._session, r.mask_settings.ring_bits
    name = {n: identity(n).public_key().public_bytes_raw() for n in r.of}
    total = np.zeros(r.count, np.int64)
    for n in arc:
        seed = recover_secret(
            seeds[n],
            threshold,
            lambda s, n=n: masks.commitment_to(s, r.of[n].context, name[n]) == r.shares[n][72:104],  # type: ignore[misc]
        )
        total += unpack(r.masked[n][72:-64], r.count, bits).astype(np.int64)
        total -= mask_of(masks.own_mask_key(seed, session, name[n]), r.count, bits).astype(np.int64)
    for gone in beside:
        advert = r.of[gone]._public[0]
        secret = recover_secret(keys[gone], threshold, lambda k, a=advert: masks.public_key(k) == a)  # type: ignore[misc]
        private = X25519PrivateKey.from_private_bytes(secret)
        for n in set(arc).intersection(neighbours(r, gone)):
            agreed = masks.agree(private, r.of[n]._public[0])
            mask = mask_of(masks.pair_mask_key(agreed, session, name[n], name[gone]), r.count, bits).astype(
                np.int64
            )
            total += mask if r.of[gone]._place < r.of[n]._place else -mask
    half = 1 << (bits - 1)
    return np.asarray((total + half) % (1 << bits) - half)


def neighbours(r: Round, device: int) -> list[int]:
    at = {one._place: n for n, one in r.of.items()}
    return [at[place] for place in r.of[device]._holders if place != r.of[device]._place]
