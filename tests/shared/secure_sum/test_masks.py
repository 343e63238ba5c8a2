"""What masks are made of: settings, neighbours, keys.

And an attack that opens stock 32-bit masks and not these.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from palate.shared.errors import MaskError, OptionError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.masks import (
    MaskSettings,
    degree,
    holders_at,
    holders_of,
    is_sparse,
    smallest_sum,
    spare,
    threshold_of,
)
from palate.shared.secure_sum.ring import centred, mask_of, to_ring

FIELD = 2**255 - 19
SMALL_X = sorted(masks._SMALL_X25519)
ROSTER_HASH = hashlib.sha256(b"a roster").digest()


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"ring_bits": 1},
        {"ring_bits": 33},
        {"ring_bits": 8.0},
        {"ring_bits": True},
        {"least": 1},
        {"least": 1_001},
        {"step": 0.0},
        {"step": float("nan")},
        {"clip": -1.0},
        {"clip": float("inf")},
        {"noise": -0.0},
        {"noise": -1},
        {"threshold_share": 0.49},
        {"threshold_share": 0.91},
        {"threshold_share": "0.6"},
    ],
)
def test_settings_outside_their_range_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(changed))):
        MaskSettings(**changed)  # type: ignore[arg-type]


# --- neighbours ---------------------------------------------------------------------------------------------


def test_small_cohorts_are_complete_and_large_ones_sparse() -> None:
    assert [degree(n, 0.66) for n in (1, 2, 3, 50, 64)] == [0, 1, 2, 49, 63]
    assert degree(1_000, 0.5) < 90
    assert degree(1_000, 0.9) == 999


@pytest.mark.parametrize(("count", "share"), [(2, 0.66), (9, 0.5), (65, 0.66), (200, 0.5), (1_000, 0.5)])
def test_neighbours_are_mutual_and_as_many_as_said(count: int, share: float) -> None:
    holders = holders_of(ROSTER_HASH, count, share)
    near = degree(count, share)
    assert all(len(one) == near + 1 and list(one) == sorted(set(one)) for one in holders)
    assert all(place in holders[other] for place, one in enumerate(holders) for other in one)
    assert all(place in one for place, one in enumerate(holders))
    assert 2 * threshold_of(near + 1, share) > near + 1


@pytest.mark.parametrize("share", [0.51, 0.55, 0.6, 0.66, 0.7])
def test_no_ring_can_be_cut_by_naming_drop_outs(share: float) -> None:
    """A gap as wide as a device reaches leaves its neighbour one side, which must be less than the
    threshold."""
    sparse = [count for count in range(2, 1_001) if is_sparse(count, share)]
    for count in sparse:
        assert spare(degree(count, share), share) >= 1
    assert sparse


@pytest.mark.parametrize("share", [0.6, 0.66, 0.7])
@pytest.mark.parametrize("count", [65, 66, 70, 100, 128, 200, 325, 400, 600, 1_000])
def test_fewer_neighbours_lose_no_more_rounds_than_was_said(count: int, share: float) -> None:
    """Exactly: a fifth is gone, drawn without replacement, and more of a device's holders are among them than
    it can spare."""
    holders = degree(count, share) + 1
    spared = holders - threshold_of(holders, share)
    gone = count - math.floor(0.8 * count)
    ways = sum(
        math.comb(gone, out) * math.comb(count - gone, holders - out)
        for out in range(spared + 1, min(gone, holders) + 1)
    )
    assert count * Fraction(ways, math.comb(count, holders)) <= Fraction(1, 1_000)


@pytest.mark.parametrize("share", [0.6, 0.66, 0.7])
def test_fewer_neighbours_are_taken_only_where_no_tenth_of_the_cohort_can_cut_the_ring(share: float) -> None:
    fewer = 0
    for count in range(65, 1_001):
        near, bound = degree(count, share), math.ceil(math.log(1_000 * count) / (4 * (0.8 - share) ** 2))
        assert near <= min(count - 1, 2 * bound)
        if near < min(count - 1, 2 * bound):
            fewer += 1
            # Two gaps, each with as many colluders as the device beside it needs beyond one side of its
            # holders.
            assert 2 * spare(near, share) > count / 10
            # So many open no secret by their shares alone, and agree to no two requests.
            assert threshold_of(near + 1, share) > count / 10
            assert 2 * threshold_of(count, share) - count > count / 10
    assert fewer > 100
    assert share != 0.66 or fewer == 1_000 - 64  # the usual share: in every sparse cohort


def test_one_place_has_the_holders_that_all_places_have() -> None:
    for count, share in ((9, 0.66), (70, 0.6), (200, 0.66)):
        found = holders_of(ROSTER_HASH, count, share)
        assert [holders_at(ROSTER_HASH, count, share, place) for place in range(count)] == found


def test_another_roster_has_other_neighbours() -> None:
    assert holders_of(ROSTER_HASH, 200, 0.5) != holders_of(bytes(32), 200, 0.5)


def test_a_sparse_cohort_survives_that_a_fifth_drops_out() -> None:
    count, share = 300, 0.5
    rng = np.random.default_rng(1)
    holders = holders_of(ROSTER_HASH, count, share)
    threshold = threshold_of(len(holders[0]), share)
    for _ in range(30):
        there = set(rng.permutation(count)[: int(count * 0.8)].tolist())
        assert min(len(there.intersection(one)) for one in holders) >= threshold


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("share", [0.51, 0.66, 0.8])
@pytest.mark.parametrize("least", [2, 3, 4])
def test_no_server_that_lies_gets_a_smaller_sum_than_is_said(count: int, share: float, least: int) -> None:
    """Every way of telling devices who is alive and who dropped out, tried: which sets of keys can come
    together?

    The server wants the sum of `few` devices. It tells these, all alike, that `unseen` others never shared
    anything, so that they have no masks with them, and must bring together the keys of all others. A device
    goes on when the threshold of its holders and `least` of all are left of both kinds, and is never told of
    itself. A key takes the threshold of shares; greedy choice is not enough, so it is a flow.
    """
    settings = MaskSettings(least=least, threshold_share=share)
    threshold = threshold_of(count, share)
    each = max(0, min(count - threshold, count - least))
    possible = [
        few
        for few in range(1, count + 1)
        for unseen in range(min(each, count - few) + 1)
        if can_be_summed(few, unseen, count - few - unseen, each, threshold)
    ]
    assert smallest_sum(count, settings) == min(possible)


def can_be_summed(few: int, unseen: int, dropped: int, each: int, threshold: int) -> bool:
    """Whether the keys of the dropped (the first places) can come together.

    Then come those in the sum, then the unseen.
    """
    rooms = [each] * dropped + [each - unseen] * few + [each] * unseen
    pairs = [(teller, key) for teller in range(len(rooms)) for key in range(dropped) if teller != key]
    return max_flow(pairs, rooms, dropped, threshold) == dropped * threshold


def max_flow(pairs: list[tuple[int, int]], rooms: list[int], keys: int, threshold: int) -> int:
    """The most shares that tellers (each gives as many as it has room for, one per key) can bring to keys."""
    given = [0] * len(rooms)
    got: list[set[int]] = [set() for _ in range(keys)]

    def place(key: int, seen: set[int]) -> bool:
        for teller, wanted in pairs:
            if wanted != key or teller in got[key] or teller in seen:
                continue
            seen.add(teller)
            if given[teller] < rooms[teller]:
                given[teller] += 1
                got[key].add(teller)
                return True
            for other in range(keys):  # move one of this teller's shares to another teller
                if teller in got[other] and other != key:
                    got[other].remove(teller)
                    if place(other, seen):
                        got[key].add(teller)
                        return True
                    got[other].add(teller)
        return False

    return sum(place(key, set()) for key in range(keys) for _ in range(threshold))


def test_a_complete_cohort_cannot_be_split_below_so_many() -> None:
    assert smallest_sum(50, MaskSettings()) == 24
    assert smallest_sum(3, MaskSettings()) == 2
    assert smallest_sum(3, MaskSettings(least=3)) == 3
    assert smallest_sum(5, MaskSettings(threshold_share=0.51)) == 1
    assert smallest_sum(64, MaskSettings(least=60)) == 59


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*SMALL_X, FIELD, FIELD + 1, 2**255 + 9, 2**256 - 1])
def test_exchange_keys_of_small_order_or_of_a_second_form_are_refused(value: int) -> None:
    with pytest.raises(MaskError) as caught:
        masks.check_exchange_key(value.to_bytes(32, "little"))
    assert caught.value.reason == "key"


@pytest.mark.parametrize("value", SMALL_X)
def test_the_points_of_small_order_are_those_that_agree_on_nothing(value: int) -> None:
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(value.to_bytes(32, "little")))
    with pytest.raises(MaskError):
        masks.agree(X25519PrivateKey.generate(), value.to_bytes(32, "little"))


def test_the_identities_of_small_order_are_points_of_order_eight() -> None:
    d = -121665 * pow(121666, -1, FIELD) % FIELD
    root = pow(2, (FIELD - 1) // 4, FIELD)  # of -1

    def point(y: int) -> tuple[int, int]:
        square = (y * y - 1) * pow(d * y * y + 1, -1, FIELD) % FIELD
        x = pow(square, (FIELD + 3) // 8, FIELD)
        if x * x % FIELD != square:
            x = x * root % FIELD
        assert x * x % FIELD == square
        return x, y

    def double(one: tuple[int, int]) -> tuple[int, int]:
        x, y = one
        both = d * x * x * y * y % FIELD
        return (
            2 * x * y * pow(1 + both, -1, FIELD) % FIELD,
            (y * y + x * x) * pow(1 - both, -1, FIELD) % FIELD,
        )

    for y in masks._SMALL_ED25519:
        assert double(double(double(point(y)))) == (0, 1)
        for sign in (0, 1):
            with pytest.raises(MaskError):
                masks.check_identity((y | sign << 255).to_bytes(32, "little"))


def test_honest_keys_pass() -> None:
    for _ in range(20):
        masks.check_exchange_key(X25519PrivateKey.generate().public_key().public_bytes_raw())
        masks.check_identity(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


def test_certificates_of_earlier_versions_and_signatures_hold_for_one_content_and_one_signer() -> None:
    one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    named = other.public_key().public_bytes_raw()
    certificate = one.sign(hashlib.sha256(b"palate certificate 1\0" + named).digest())
    masks.check_certificate(certificate, named, one.public_key().public_bytes_raw())
    for wrong in ((bytes(64), named, one), (certificate, bytes(32), one), (certificate, named, other)):
        with pytest.raises(MaskError) as caught:
            masks.check_certificate(wrong[0], wrong[1], wrong[2].public_key().public_bytes_raw())
        assert caught.value.reason == "certificate"
    # A certificate is no signature of a message, and the other way round.
    with pytest.raises(MaskError):
        masks.verify(certificate, named, one.public_key().public_bytes_raw(), "this")
    with pytest.raises(MaskError):
        masks.check_certificate(masks.sign(named, one), named, one.public_key().public_bytes_raw())


def test_each_key_depends_on_everything_it_is_bound_to() -> None:
    a, b = b"a" * 32, b"b" * 32
    session = masks.session_of(b"c" * 32, b"r" * 32, {0, 1}, 3)
    keys = [
        masks.pair_mask_key(b"x" * 32, session, a, b),
        masks.pair_mask_key(b"y" * 32, session, a, b),
        masks.pair_mask_key(b"x" * 32, session, a, a),
        masks.pair_mask_key(b"x" * 32, masks.session_of(b"c" * 32, b"r" * 32, {0, 2}, 3), a, b),
        masks.pair_mask_key(b"x" * 32, masks.session_of(b"d" * 32, b"r" * 32, {0, 1}, 3), a, b),
        masks.pair_mask_key(b"x" * 32, masks.session_of(b"c" * 32, b"s" * 32, {0, 1}, 3), a, b),
        masks.own_mask_key(b"x" * 32, session, a),
        masks.own_mask_key(b"x" * 32, session, b),
        masks.share_key(b"x" * 32, session, a, b),
        masks.share_key(b"x" * 32, session, b, a),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == masks.pair_mask_key(b"x" * 32, session, b, a)


def test_bitmaps_come_back_and_others_are_refused() -> None:
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(9), n) for n in (0, 1, 4, 9)):
        assert masks.read_bitmap(masks.bitmap(chosen, 9), 9) == frozenset(chosen)
    for data, reason in ((b"", "size"), (bytes(3), "size"), (b"\0\2", "padding")):
        with pytest.raises(MaskError) as caught:
            masks.read_bitmap(data, 9)
        assert caught.value.reason == reason


# --- the attack on stock masks ------------------------------------------------------------------------------

UNKNOWN_BITS = 12
SMALL = 1_000  # levels of an update lie within so much of 0; a wrong mask leaves numbers all over the ring


def open_masked(
    masked: NDArray[np.int64],
    guesses: Iterable[int],
    mask: Callable[[int, int], NDArray[np.int64]],
    ring: int,
) -> NDArray[np.int64] | None:
    """Return the update under a mask: that which a guess leaves small, tried on the first six
    values alone."""
    half = ring // 2
    for guess in guesses:
        tried = (masked[:6] - mask(guess, 6) + half) % ring - half
        if (np.abs(tried) <= SMALL).all():
            return np.asarray((masked - mask(guess, len(masked)) + half) % ring - half)
    return None


def an_update() -> NDArray[np.int64]:
    return np.random.default_rng(4).integers(-SMALL, SMALL + 1, 2_000, dtype=np.int64)


def fold(key: bytes) -> int:
    """All that stock masks keep of a key: its 32-bit words, added without carry."""
    return int(np.bitwise_xor.reduce(np.frombuffer(key, "<u4")))


def stock_mask(key: bytes, count: int) -> NDArray[np.int64]:
    secaggplus = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_utils")
    return np.asarray(secaggplus.pseudo_rand_gen(key, 2**32, [(count,)])[0])


def test_stock_32_bit_masks_are_opened_by_trying_seeds() -> None:
    """A device's update is recovered from its mask by Flower 1.42, though the key under it has 256 bits.

    Stock SecAgg+ folds the agreed key to 32 bits and seeds a Mersenne twister with them. To take a second,
    not days, the search is told the upper 20 of the 32 bits and tries the other 12; without them the same
    loop has 2^20 times as much to do, which is what a 32-bit seed is worth.
    """
    key = hashlib.sha256(b"agreed by two devices").digest()
    update = an_update()
    masked = (update + stock_mask(key, len(update))) % 2**32
    assert not np.array_equal(masked, update % 2**32)
    known = fold(key) >> UNKNOWN_BITS << UNKNOWN_BITS
    found = open_masked(
        masked,
        range(known, known + 2**UNKNOWN_BITS),
        lambda guess, count: stock_mask(guess.to_bytes(4, "little"), count),
        2**32,
    )
    assert found is not None
    assert np.array_equal(found, update)


def ours(key: bytes, count: int) -> NDArray[np.int64]:
    return mask_of(key, count, 32).astype(np.int64)


def test_the_same_attack_fails_on_ours() -> None:
    """The same search with all that it is told, and even the whole 32-bit seed, finds nothing: the mask is no
    function of it."""
    key = masks.pair_mask_key(b"agreed".ljust(32), b"session".ljust(32), b"a" * 32, b"b" * 32)
    update = an_update()
    masked = (update + ours(key, len(update))) % 2**32
    known = fold(key) >> UNKNOWN_BITS << UNKNOWN_BITS
    guesses = range(known, known + 2**UNKNOWN_BITS)
    assert fold(key) in guesses
    assert open_masked(masked, guesses, lambda g, n: ours(g.to_bytes(32, "little"), n), 2**32) is None
    assert open_masked(masked, guesses, lambda g, n: stock_mask(g.to_bytes(4, "little"), n), 2**32) is None
    # Another key of the same 32-bit seed makes the same stock mask, and quite another one here.
    twin = bytearray(key)
    twin[0] ^= 1
    twin[4] ^= 1
    assert fold(bytes(twin)) == fold(key)
    assert np.array_equal(stock_mask(bytes(twin), 9), stock_mask(key, 9))
    assert (ours(bytes(twin), 2_000) == ours(key, 2_000)).sum() == 0


def test_the_attack_itself_would_open_ours_if_so_little_of_the_key_were_unknown() -> None:
    """The positive control: told 244 of the 256 bits it succeeds, so what protects is that nobody is."""
    key = masks.pair_mask_key(b"agreed".ljust(32), b"session".ljust(32), b"a" * 32, b"b" * 32)
    update = an_update()
    masked = (to_ring(update, 32) + mask_of(key, len(update), 32)).astype(np.int64)
    known = int.from_bytes(key, "little") >> UNKNOWN_BITS << UNKNOWN_BITS
    guesses = range(known, known + 2**UNKNOWN_BITS)
    found = open_masked(masked, guesses, lambda g, n: ours(g.to_bytes(32, "little"), n), 2**32)
    assert found is not None
    assert np.array_equal(found, update)
    assert np.array_equal(centred(to_ring(update, 32), 32), update)
