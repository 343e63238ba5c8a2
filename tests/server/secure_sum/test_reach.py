"""How far devices are taken to agree: by the last rounds, through their noise, and not raised fast
by a liar."""

import math

import numpy as np
import pytest

from palate.server.secure_sum.reach import (
    AGREED,
    CEILING_IN_SUBSPACE,
    GROWTH,
    ROOM,
    longest_of_honest,
    remembered,
    share_of,
)

D, CLIP, NOISE = 4096, 0.1, 1.5e-4


def mean_of(agreed: float, rng: np.random.Generator, noise: float = NOISE) -> np.ndarray:
    way = rng.standard_normal(D)
    return (agreed * CLIP * way / np.linalg.norm(way) + noise * rng.standard_normal(D)).astype(np.float32)


def after(rounds: list[float], memory: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    memory = memory or {}
    for agreed in rounds:
        mean = mean_of(agreed, rng)
        memory = remembered(memory, mean, clip=CLIP, noise=NOISE, ceiling=CEILING_IN_SUBSPACE)
    return memory


@pytest.mark.parametrize("known", [[], [0.0, 0.1], [math.nan, 0.1], [-1.0], [0.9]])
def test_a_memory_that_says_nothing_of_use_leaves_the_ceiling(known: list[float]) -> None:
    assert share_of({AGREED: np.array(known, np.float32)}, 0.2) == 0.2
    assert share_of({}, 0.2) == 0.2


def test_six_devices_may_all_be_the_same_and_nine_hundred_may_not() -> None:
    assert longest_of_honest(6, 0.5, 0.1) == 3.0
    assert longest_of_honest(900, 0.1, 0.08) == pytest.approx(0.1 * math.hypot(72, 75))
    assert longest_of_honest(900, 0.1, 1.0) == 90.0


@pytest.mark.parametrize("agreed", [0.05, 0.08])
def test_what_devices_agree_on_is_seen_through_noise_that_is_as_long(agreed: float) -> None:
    memory = after([agreed] * 5)
    assert NOISE * math.sqrt(D) > agreed * CLIP
    assert share_of(memory, CEILING_IN_SUBSPACE) == pytest.approx(ROOM * agreed, rel=0.1)


def test_two_rounds_are_too_few_to_go_by() -> None:
    assert share_of(after([0.05, 0.05]), CEILING_IN_SUBSPACE) == CEILING_IN_SUBSPACE


def test_a_liar_in_every_round_raises_the_bound_by_two_percent_a_round_and_never_above_the_ceiling() -> None:
    memory = after([0.05] * 5)
    start = share_of(memory, CEILING_IN_SUBSPACE)
    shares = []
    for _ in range(20):
        memory = after([share_of(memory, CEILING_IN_SUBSPACE) * 3], memory)
        shares.append(share_of(memory, CEILING_IN_SUBSPACE))
    assert shares[-1] <= start * GROWTH**20 * (1 + 1e-5)
    for _ in range(200):
        memory = after([1.0], memory)
    assert share_of(memory, CEILING_IN_SUBSPACE) <= CEILING_IN_SUBSPACE


def test_one_odd_round_changes_little_and_the_bound_falls_at_once_with_the_devices() -> None:
    memory = after([0.08] * 5)
    start = share_of(memory, CEILING_IN_SUBSPACE)
    assert share_of(after([0.2], memory), CEILING_IN_SUBSPACE) == pytest.approx(start, rel=0.05)
    assert share_of(after([0.03] * 5, memory), CEILING_IN_SUBSPACE) == pytest.approx(ROOM * 0.03, rel=0.2)
