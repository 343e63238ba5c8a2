"""Rules over groups' means: values by hand, order, groups, lengths, and what each rule holds against."""

import math

import numpy as np
import pytest

from palate.server.secure_sum.groups import CENTRE, centred_clipping, drop_long, longest_sum, make_groups
from palate.shared.errors import OptionError

KEYS = [bytes([place]) * 32 for place in range(47)]


# --- hostile input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "counts"),
    [
        (np.zeros((0, 4)), []),
        (np.zeros(4), [1]),
        (np.zeros((2, 0)), [1, 1]),
        (np.zeros((2, 4)), [1]),
        (np.zeros((2, 4)), [1, 0]),
        (np.zeros((2, 4)), [1, -3]),
        (np.zeros((2, 4)), [1.0, 2.0]),
        (np.full((2, 4), np.nan), [1, 1]),
        (np.array([[0.0, np.inf], [0.0, 0.0]]), [1, 1]),
    ],
)
def test_groups_that_cannot_be_combined_are_refused(means: np.ndarray, counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"means|counts"):
        centred_clipping(means.astype(np.float32), np.array(counts), {})


def test_a_remembered_centre_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="remembered centre"):
        centred_clipping(np.zeros((2, 4), np.float32), [1, 1], {CENTRE: np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    ("members", "size"),
    [(KEYS, 1), (KEYS, 0), (KEYS, 2.0), (KEYS[:2], 3), ([], 2), ([*KEYS, KEYS[3]], 3)],
)
def test_a_roster_that_cannot_be_cut_is_refused(members: list[bytes], size: int) -> None:
    with pytest.raises(OptionError):
        make_groups(members, size, b"seed")


def test_a_sum_that_is_not_finite_or_too_long_costs_its_group() -> None:
    means = np.array([[0.9, 0.0], [0.0, 1.0], [0.8, 0.8], [np.nan, 0.0], [np.inf, 0.0], [3e38, 3e38]])
    kept = drop_long(means.astype(np.float32), [3, 3, 3, 3, 3, 3], clip=1.0)
    assert kept.tolist() == [True, True, False, False, False, False]


# --- groups -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5, 46, 47])
def test_groups_hold_everybody_once_and_none_is_too_small(size: int) -> None:
    groups = make_groups(KEYS, size, b"seed")
    assert sorted(key for group in groups for key in group) == sorted(KEYS)
    lengths = [len(group) for group in groups]
    assert size <= min(lengths) <= max(lengths) <= min(lengths) + 1
    assert len(groups) == len(KEYS) // size


def test_groups_follow_from_seed_and_roster_and_not_from_the_order() -> None:
    groups = make_groups(KEYS, 3, b"seed")
    assert make_groups(KEYS[::-1], 3, b"seed") == groups
    assert make_groups(KEYS, 3, b"sees") != groups
    fewer = make_groups(KEYS[:-1], 3, b"seed")
    assert not set(fewer) <= set(groups)


def test_pairs_meet_in_groups_as_often_as_chance_has_it() -> None:
    met = 0
    rounds = 400
    for number in range(rounds):
        groups = make_groups(KEYS[:24], 4, number.to_bytes(8, "little"))
        met += any(KEYS[0] in group and KEYS[1] in group for group in groups)
    share = met / rounds
    expected = 3 / 23
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / rounds)


# --- lengths ------------------------------------------------------------------------------------------------


def test_without_noise_the_longest_sum_is_all_clips_in_one_direction() -> None:
    assert longest_sum(7, clip=0.5, noise=0.0, coordinates=100) == pytest.approx(3.5)


@pytest.mark.parametrize(("clip", "noise"), [(1.0, 0.001), (1.0, 0.05), (0.1, 1.0)])
def test_honest_sums_with_noise_are_kept_and_the_bound_is_not_loose(clip: float, noise: float) -> None:
    rng = np.random.default_rng(3)
    d, count = 5000, 4
    direction = rng.standard_normal(d)
    direction /= np.linalg.norm(direction)
    sums = count * clip * direction + noise * math.sqrt(count) * rng.standard_normal((200, d))
    assert drop_long((sums / count).astype(np.float32), [count] * 200, clip=clip, noise=noise).all()
    bound = longest_sum(count, clip=clip, noise=noise, coordinates=d)
    assert bound < 1.15 * np.linalg.norm(sums, axis=1).mean() + 0.1 * clip * count
    longer = sums * (1.2 * bound / np.linalg.norm(sums, axis=1, keepdims=True))
    assert not drop_long((longer / count).astype(np.float32), [count] * 200, clip=clip, noise=noise).any()


# --- centred clipping ---------------------------------------------------------------------------------------


def test_centred_clipping_by_hand_from_nothing_remembered() -> None:
    # The radius is 5.5, so from 0 the step is (1 + 5.5) / 2 = 3.25; from there the distances are 2.25 and
    # 6.75 and the radius 4.5, so it is (-2.25 + 4.5) / 2 = 1.125; from 4.375 they are 3.375 and 5.625, and it
    # is (-3.375 + 4.5) / 2.
    found, memory = centred_clipping(np.array([[1.0], [10.0]], np.float32), [1, 1], {})
    assert found == pytest.approx([3.25 + 1.125 + 0.5625])
    assert memory[CENTRE] == pytest.approx(found)


def test_a_group_weighs_as_many_devices_as_are_in_it() -> None:
    means = np.array([[1.0], [-1.0]], np.float32)  # equally far from 0, so nobody is clipped
    assert centred_clipping(means, [3, 1], {})[0] > 0.4
    assert centred_clipping(means, [1, 3], {})[0] < -0.4


def test_centred_clipping_starts_where_the_last_round_ended() -> None:
    means = np.array([[1.0], [10.0]], np.float32)
    first, memory = centred_clipping(means, [1, 1], {})
    second, _ = centred_clipping(means, [1, 1], memory)
    assert first < second < 5.5


def test_groups_give_the_same_bits_in_whatever_order_they_come() -> None:
    rng = np.random.default_rng(5)
    means = (rng.standard_normal((11, 300)) * 10.0 ** rng.integers(-3, 3, (11, 300))).astype(np.float32)
    counts = rng.integers(1, 6, 11)
    means[4] = means[7]
    memory = {CENTRE: means[0] / 2}
    first = centred_clipping(means, counts, memory)[0].tobytes()
    for _ in range(5):
        order = rng.permutation(11)
        assert centred_clipping(means[order], counts[order], memory)[0].tobytes() == first


@pytest.mark.parametrize("groups", [1, 5])
def test_groups_that_agree_are_taken_as_they_are(groups: int) -> None:
    point = np.linspace(-1, 1, 50, dtype=np.float32)
    found, _ = centred_clipping(np.repeat(point[None], groups, 0), range(1, groups + 1), {})
    assert found == pytest.approx(point, abs=1e-6)


def test_a_quarter_of_spoiled_groups_moves_it_by_little_and_the_plain_mean_by_much() -> None:
    rng = np.random.default_rng(9)
    honest = 1.0 + 0.1 * rng.standard_normal((9, 200))
    everyone = np.concatenate([honest, np.full((3, 200), -1e4)]).astype(np.float32)
    wanted = honest.mean(0)
    found, _ = centred_clipping(everyone, [3] * 12, {CENTRE: wanted.astype(np.float32)})
    assert np.linalg.norm(found - wanted) < 3 * np.linalg.norm(honest - wanted, axis=1).max()
    assert np.linalg.norm(everyone.mean(0) - wanted) > 1000 * np.linalg.norm(honest[0])  # the control


def test_memory_goes_in_and_out_and_is_not_changed_in_place() -> None:
    centre = np.ones(4, np.float32)
    _, memory = centred_clipping(np.zeros((3, 4), np.float32), [1, 1, 1], {CENTRE: centre})
    assert (centre == 1).all()
    assert memory[CENTRE].dtype == np.float32
