"""The clip follows the median length of changes, by noised votes alone."""

import math

import numpy as np
import pytest

from palate.server.secure_sum.clipping import ClipRule, median_share, next_clip, share_is_sound
from palate.shared.coding import VOTE, from_levels, to_levels
from palate.shared.errors import OptionError


@pytest.mark.parametrize(
    "bad",
    [
        {"target": 0.0},
        {"target": 1.0},
        {"rate": -0.1},
        {"rate": 3.0},
        {"least": 0.0},
        {"least": 2.0, "most": 1.0},
        {"target": math.nan},
        {"rate": math.nan},
        {"most": math.inf},
    ],
)
def test_a_rule_outside_its_ranges_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        ClipRule(**bad)


@pytest.mark.parametrize(
    ("clip", "share"), [(0.0, 0.5), (-1.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (1.0, math.nan)]
)
def test_a_clip_or_share_that_is_none_is_refused(clip: float, share: float) -> None:
    with pytest.raises(OptionError):
        next_clip(clip, share, ClipRule())


@pytest.mark.parametrize("share", [-1e9, -0.2, 1.3, math.inf, -math.inf])
def test_noise_moves_the_clip_by_a_bounded_factor(share: float) -> None:
    assert math.exp(-0.2) <= next_clip(1.0, share, ClipRule()) <= math.exp(0.2)


def test_the_clip_stays_within_its_bounds() -> None:
    rule = ClipRule(least=0.9, most=1.1, rate=2.0)
    assert next_clip(1.0, 0.0, rule) == 1.1
    assert next_clip(1.0, 1.0, rule) == 0.9


def test_a_rate_of_zero_keeps_the_clip() -> None:
    assert next_clip(0.7, 1.0, ClipRule(rate=0.0)) == 0.7


@pytest.mark.parametrize("start", [0.02, 40.0])
def test_the_clip_comes_to_the_median_through_noised_sums_of_votes(start: float) -> None:
    rng = np.random.default_rng(1)
    rule, clip = ClipRule(rate=0.5, most=100.0), start
    for number in range(60):
        lengths = rng.lognormal(0.0, 0.5, size=200)
        seed = number.to_bytes(4, "little")
        directions = rng.normal(size=(200, 31))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        step = clip / 200
        total = sum(
            to_levels(v * n, step=step, clip=clip, seed=seed, rng=rng)
            for v, n in zip(directions, lengths, strict=True)
        )
        noised = np.asarray(total) + np.rint(rng.normal(size=32) * 200).astype(np.int64)  # a multiplier of 1
        _, share = from_levels(noised, 200, step=step, clip=clip, seed=seed)
        clip = next_clip(clip, share, rule)
    assert 0.8 < clip < 1.25


@pytest.mark.parametrize("share", [math.nan, math.inf, -math.inf, 1.2, -0.2, 1e9])
def test_a_share_that_no_devices_could_have_voted_is_found_out(share: float) -> None:
    assert not share_is_sound(share, 900, clip=0.1, noise=0.0)


def test_an_honest_share_with_its_noise_is_sound() -> None:
    rng = np.random.default_rng(5)
    spread = 1.21 * 0.1 / math.sqrt(810)  # of each device, in a coordinate
    for honest in (0.0, 0.5, 1.0):
        votes = 900 * VOTE * 0.1 * (2 * honest - 1) + rng.normal(size=1_000) * spread * math.sqrt(900)
        shares = (votes / (900 * VOTE * 0.1) + 1) / 2
        assert all(share_is_sound(float(share), 900, clip=0.1, noise=spread) for share in shares)


@pytest.mark.parametrize(
    ("shares", "counts", "median"),
    [
        ([0.3], [5], 0.3),
        ([0.1, 0.9, 0.4], [3, 3, 3], 0.4),
        ([0.1, 0.9], [3, 3], 0.5),
        ([0.1, 0.9], [3, 4], 0.9),
    ],
)
def test_the_median_share_weighs_groups_by_their_devices(
    shares: list[float], counts: list[int], median: float
) -> None:
    assert median_share(shares, counts) == pytest.approx(median)


def test_a_rule_that_stays_near_the_settings_stays_in_its_range_too() -> None:
    assert ClipRule.near(0.1, 0.2).most == pytest.approx(0.12)
    assert ClipRule.near(25.0, 0.2).most == 25.0
    assert ClipRule.near(1e-4, 0.2).least == 1e-4
