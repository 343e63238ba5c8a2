"""Discrete Gaussian noise: hostile settings, the exact distribution, the rare second look, sums of shares."""

import inspect
import itertools
import json
import math
import os
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest

from palate.shared.errors import OptionError
from palate.shared.noise import _distribution, discrete_gaussian, distance_of_sum, stream_of

VECTORS = json.loads(
    (Path(__file__).parent.parent / "data" / "coding_vectors.json").read_text(encoding="utf-8")
)
KEY = bytes(range(32))


def true_probabilities(sigma: float, last: int) -> dict[int, Decimal]:
    """The discrete Gaussian by its definition, in 100 decimal digits."""
    with localcontext() as context:
        context.prec = 100
        weights = {k: (-Decimal(k * k) / (2 * Decimal(sigma) ** 2)).exp() for k in range(-last, last + 1)}
        total = sum(weights.values())
        return {k: weight / total for k, weight in weights.items()}


def drawn_probabilities(sigma: float) -> dict[int, int]:
    """The probability of each value that can be drawn, in units of 2^-128."""
    high, low = _distribution(sigma)
    bounds = [(int(upper) << 64) + int(lower) for upper, lower in zip(high, low, strict=True)]
    steps = [b - a for a, b in itertools.pairwise([0, *bounds, 1 << 128])]
    return {place - len(bounds) // 2: step for place, step in enumerate(steps)}


@pytest.mark.parametrize("sigma", [-1.0, 0.01, math.nan, math.inf, -math.inf, 20_000.0])
def test_a_sigma_outside_the_range_is_refused(sigma: float) -> None:
    with pytest.raises(OptionError, match="sigma"):
        discrete_gaussian(sigma, 3)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(OptionError, match="32"):
        stream_of(bytes(length))


def test_no_sigma_is_no_noise_and_takes_no_randomness() -> None:
    def broken(count: int) -> bytes:
        raise AssertionError("asked for randomness")

    assert discrete_gaussian(0.0, 5, broken).tolist() == [0] * 5


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 7.0])
def test_every_value_has_its_probability_to_128_bits(sigma: float) -> None:
    drawn = drawn_probabilities(sigma)
    with localcontext() as context:
        context.prec = 100
        for k, probability in true_probabilities(sigma, 200).items():
            assert abs(Decimal(drawn.get(k, 0)) - probability * 2**128) <= 2


@pytest.mark.parametrize("sigma", [1.0, 100.0])
def test_draws_follow_the_distribution(sigma: float) -> None:
    count = 200_000
    draws = discrete_gaussian(sigma, count, stream_of(KEY))
    assert abs(draws.mean()) < 5 * sigma / math.sqrt(count)
    assert abs(draws.std() / sigma - 1) < 5 / math.sqrt(2 * count)
    edges = [-1e9, *(k * sigma - 0.5 for k in (-2, -1, 0, 1, 2)), 1e9]
    truth = true_probabilities(sigma, math.ceil(14 * sigma))
    wanted = np.array(
        [float(sum(p for k, p in truth.items() if a <= k < b)) for a, b in itertools.pairwise(edges)]
    )
    found = np.histogram(draws, edges)[0]
    assert ((found - wanted * count) ** 2 / (wanted * count)).sum() < 30  # chi-square, 5 degrees of freedom


def test_a_word_on_a_boundary_is_decided_by_64_bits_more() -> None:
    high, low = _distribution(2.0)
    place = len(high) // 2  # the boundary between 0 and 1
    words = [int(high[place]).to_bytes(8, "little")]
    for more, value in ((int(low[place]) - 1, 0), (int(low[place]), 1), (int(low[place]) + 1, 1)):
        answers = iter([*words, more.to_bytes(8, "little")])
        assert discrete_gaussian(2.0, 1, lambda count, answers=answers: next(answers)).tolist() == [value]


def test_the_first_and_the_last_word_give_the_ends_of_the_tails() -> None:
    high, low = _distribution(2.0)
    last = len(high) // 2
    assert discrete_gaussian(2.0, 1, lambda count: bytes(count)).tolist() == [-last if low[0] else -last + 1]
    assert discrete_gaussian(2.0, 1, lambda count: b"\xff" * count).tolist() == [last]


def test_the_same_key_gives_the_draws_of_the_vectors() -> None:
    for one in VECTORS["noise"]:
        found = discrete_gaussian(one["sigma"], len(one["draws"]), stream_of(bytes.fromhex(one["key"])))
        assert found.tolist() == one["draws"]


def test_noise_comes_from_the_operating_system_unless_told_otherwise() -> None:
    assert inspect.signature(discrete_gaussian).parameters["source"].default is os.urandom
    assert discrete_gaussian(1000.0, 50).tolist() != discrete_gaussian(1000.0, 50).tolist()


@pytest.mark.parametrize(("sigma", "devices"), [(0.7, 3), (1.0, 2), (1.0, 5)])
def test_the_sum_of_shares_is_as_near_to_one_gaussian_as_claimed(sigma: float, devices: int) -> None:
    single = np.array([float(p) for p in true_probabilities(sigma, 40).values()])
    summed = single
    for _ in range(devices - 1):
        summed = np.convolve(summed, single)
    reach = len(summed) // 2
    k = np.arange(-reach, reach + 1)
    one = np.exp(-(k**2) / (2 * devices * sigma**2))
    one /= one.sum()
    inner = np.abs(k) < 5 * sigma * math.sqrt(devices)  # further out float64 has no digits left
    largest = np.abs(np.log(summed[inner] / one[inner])).max()
    assert 0 < largest <= distance_of_sum(sigma, devices)


def test_the_distance_of_sums_falls_fast() -> None:
    assert distance_of_sum(1.0, 1000) < 6e-4
    assert distance_of_sum(2.0, 1000) < 1e-16 * 10
    assert distance_of_sum(3.0, 1) == 0.0
