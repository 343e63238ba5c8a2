"""Rules over groups' means: values by hand, order, groups, lengths, and what each rule holds against."""

import math

import numpy as np
import pytest

from palate.server.secure_sum.groups import RULES, RobustRule, combine, drop_long, longest_sum, make_groups
from palate.shared.errors import OptionError

KEYS = [bytes([place]) * 32 for place in range(47)]
ROBUST = [name for name in RULES if name != "mean"]


def combined(means: object, name: str, counts: object = None, **more: float) -> np.ndarray:
    points = np.asarray(means, np.float32)
    weights = np.full(len(points), 3) if counts is None else np.asarray(counts)
    return combine(points, weights, RobustRule(name, **more), {})[0]


# --- hostile input ------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("name", RULES)
def test_groups_that_cannot_be_combined_are_refused(name: str, means: np.ndarray, counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"means|counts"):
        combine(means.astype(np.float32), np.array(counts), RobustRule(name), {})


def test_a_remembered_centre_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="remembered centre"):
        combine(
            np.zeros((2, 4), np.float32),
            [1, 1],
            RobustRule("centred clipping"),
            {"centre": np.zeros(3, np.float32)},
        )


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "krum"},
        {"trim": 0.5},
        {"trim": -0.1},
        {"trim": math.nan},
        {"radius": -1.0},
        {"radius": math.inf},
        {"radius": math.nan},
    ],
)
def test_a_rule_outside_its_range_is_one_line(bad: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        RobustRule(**bad)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


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


# --- groups -------------------------------------------------------------------------------------------------------


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


# --- lengths ------------------------------------------------------------------------------------------------------


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


# --- rules --------------------------------------------------------------------------------------------------------


def test_the_mean_weighs_each_device_the_same() -> None:
    assert combined([[0.0, 4.0], [3.0, 1.0]], "mean", [1, 2]) == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize(
    ("values", "counts", "median"),
    [
        ([1, 9, 2], [1, 1, 1], 2),
        ([1, 9, 2, 4], [1, 1, 1, 1], 3),
        ([1, 9, 2], [1, 5, 1], 9),
        ([1, 2, 9], [1, 1, 2], 5.5),
    ],
)
def test_the_median_by_hand(values: list[float], counts: list[int], median: float) -> None:
    assert combined([[v] for v in values], "median", counts) == pytest.approx([median])


@pytest.mark.parametrize(
    ("values", "counts", "trim", "wanted"),
    [
        ([0, 1, 2, 100], [1, 1, 1, 1], 0.25, 1.5),
        ([0, 1, 2, 101], [1, 1, 1, 1], 0.0, 26.0),
        ([0, 3, 6, 9, 100], [1, 1, 1, 1, 1], 0.3, (0.1 * 3 + 0.2 * 6 + 0.1 * 9) / 0.4),
        ([0, 10, 100], [1, 2, 1], 0.25, 10.0),
    ],
)
def test_the_trimmed_mean_by_hand(values: list[float], counts: list[int], trim: float, wanted: float) -> None:
    assert combined([[v] for v in values], "trimmed mean", counts, trim=trim) == pytest.approx([wanted])


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    found = combined([[0, 0], [4, 0], [2, 2 * math.sqrt(3)]], "geometric median")
    assert found == pytest.approx([2, 2 / math.sqrt(3)], abs=1e-4)


def test_the_geometric_median_stays_on_the_group_where_most_of_the_weight_is() -> None:
    found = combined([[1, 1], [9, 0], [0, 7]], "geometric median", [10, 1, 1])
    assert found == pytest.approx([1, 1], abs=1e-3)


def test_centred_clipping_by_hand_from_nothing_remembered() -> None:
    # Steps of 1/2 (1 + 10 cut to 1), then from 1: the first pulls 0, the other at most 1, and so on.
    found, memory = combine(
        np.array([[1.0], [10.0]], np.float32), [1, 1], RobustRule("centred clipping", radius=1.0), {}
    )
    assert found == pytest.approx([1.0 + 0.5 + 0.25])
    assert memory["centre"] == pytest.approx(found)


def test_centred_clipping_starts_where_the_last_round_ended() -> None:
    rule = RobustRule("centred clipping", radius=0.5)
    means = np.array([[10.0], [10.0]], np.float32)
    first, memory = combine(means, [1, 1], rule, {})
    second, _ = combine(means, [1, 1], rule, memory)
    assert first == pytest.approx([1.5])
    assert second == pytest.approx([3.0])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_the_same_bits_in_whatever_order_groups_come(name: str) -> None:
    rng = np.random.default_rng(5)
    means = (rng.standard_normal((11, 300)) * 10.0 ** rng.integers(-3, 3, (11, 300))).astype(np.float32)
    counts = rng.integers(1, 6, 11)
    means[4] = means[7]
    memory = {"centre": means[0] / 2}
    first = combine(means, counts, RobustRule(name), memory)[0].tobytes()
    for _ in range(5):
        order = rng.permutation(11)
        assert combine(means[order], counts[order], RobustRule(name), memory)[0].tobytes() == first


@pytest.mark.parametrize("name", RULES)
def test_groups_that_agree_are_taken_as_they_are(name: str) -> None:
    point = np.linspace(-1, 1, 50, dtype=np.float32)
    found = combined(np.repeat(point[None], 5, 0), name, [1, 2, 3, 4, 5])
    assert found == pytest.approx(point, abs=1e-6)


def honest_and_spoiled(far: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(9)
    honest = 1.0 + 0.1 * rng.standard_normal((9, 200))
    return honest, np.concatenate([honest, np.full((3, 200), -far)]).astype(np.float32)


@pytest.mark.parametrize("name", ROBUST)
def test_a_quarter_of_spoiled_groups_moves_a_robust_rule_by_little(name: str) -> None:
    honest, all_of_them = honest_and_spoiled(1e4)
    rule = RobustRule(name, trim=0.3)
    memory = {"centre": honest.mean(0).astype(np.float32)} if name == "centred clipping" else {}
    found, _ = combine(all_of_them, [3] * 12, rule, memory)
    spread = np.linalg.norm(honest - honest.mean(0), axis=1).max()
    assert np.linalg.norm(found - honest.mean(0)) < 3 * spread


def test_the_same_groups_decide_the_plain_mean() -> None:
    honest, all_of_them = honest_and_spoiled(1e4)
    found, _ = combine(all_of_them, [3] * 12, RobustRule("mean"), {})
    assert np.linalg.norm(found - honest.mean(0)) > 1000 * np.linalg.norm(honest[0])


def test_memory_goes_in_and_out_and_is_not_changed_in_place() -> None:
    centre = np.ones(4, np.float32)
    means = np.zeros((3, 4), np.float32)
    _, memory = combine(means, [1, 1, 1], RobustRule("centred clipping"), {"centre": centre})
    assert (centre == 1).all()
    assert memory["centre"].dtype == np.float32
    assert combine(means, [1, 1, 1], RobustRule("median"), {"centre": centre})[1] == {}
