"""Counting privacy: against a second accountant, against formulas and exact sums, and whatever is
no number."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.shared.accounting import (
    Budget,
    Cost,
    calibrate,
    epsilon_by_pld,
    epsilon_by_rdp,
    epsilon_of_rho,
    noise_multiplier,
    rho_of,
    rounds_within,
)
from palate.shared.errors import OptionError

NOT_A_NUMBER = (math.nan, math.inf, -math.inf, -1.0, "1", None, True)


def delta_of_gaussian(epsilon: float, mu: float) -> float:
    """The exact delta of a Gaussian of multiplier 1 / mu (Balle and Wang 2018, theorem 8)."""

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


# --- hostile input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0, 0.0, -0.0, *NOT_A_NUMBER])
def test_a_budget_needs_a_finite_epsilon_above_nothing(epsilon: float) -> None:
    with pytest.raises(OptionError, match="epsilon is"):
        Budget(epsilon, 1e-5)


@pytest.mark.parametrize("delta", [0, 0.0, 1, 1.0, 2.0, *NOT_A_NUMBER])
def test_a_budget_needs_a_delta_between_0_and_1(delta: float) -> None:
    with pytest.raises(OptionError, match="delta is"):
        Budget(1.0, delta)
    with pytest.raises(OptionError, match="delta is"):
        epsilon_of_rho(1.0, delta)
    with pytest.raises(OptionError, match="delta is"):
        epsilon_by_rdp([(Cost(1.0), 1)], delta)


@pytest.mark.parametrize("value", [0.0, 1e-4, 1e10, *NOT_A_NUMBER])
def test_a_cost_needs_a_noise_multiplier(value: float) -> None:
    with pytest.raises(OptionError, match="noise_multiplier is"):
        Cost(value)


@pytest.mark.parametrize("value", [0.0, 1.1, *(one for one in NOT_A_NUMBER if one is not None)])
def test_a_sampling_probability_lies_between_0_and_1(value: float) -> None:
    with pytest.raises(OptionError, match="sampling is"):
        Cost(1.0, value)


@pytest.mark.parametrize("rounds", [0, -1, 1.0, True, 10**8, None])
def test_rounds_are_counted_in_whole_numbers(rounds: int) -> None:
    with pytest.raises(OptionError, match="rounds is"):
        epsilon_by_pld([(Cost(1.0), rounds)], 1e-5)


@pytest.mark.parametrize("rho", [math.nan, -1.0, -math.inf])
def test_what_was_spent_is_never_negative(rho: float) -> None:
    with pytest.raises(OptionError, match="rho is"):
        epsilon_of_rho(rho, 1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("device_noise", one) for one in (-1.0, math.nan, math.inf, "3")),
        *(("sensitivity", one) for one in (0.0, -1.0, math.nan)),
        *(("devices", one) for one in (0, -3, 2.0, True)),
        *(("dimension", one) for one in (0, None)),
        *(("honest_share", one) for one in (-0.1, 1.1, math.nan)),
    ],
)
def test_a_round_is_described_in_numbers_that_make_sense(name: str, value: object) -> None:
    given_: dict[str, object] = {"devices": 10, "sensitivity": 30.0, "dimension": 100, "honest_share": 1.0}
    noise = 5.0
    if name == "device_noise":
        noise = value  # type: ignore[assignment]
    else:
        given_[name] = value
    with pytest.raises(OptionError, match=f"{name} is"):
        noise_multiplier(noise, **given_)  # type: ignore[arg-type]


# --- two accountants ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multiplier", "sampling", "rounds"),
    [(1.0, 0.05, 100), (2.0, 0.05, 100), (0.7, 0.02, 200), (1.3, 0.1, 50)],
)
def test_two_accountants_agree_within_two_percent_on_sampled_rounds(
    multiplier: float, sampling: float, rounds: int
) -> None:
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

    delta = 1e-5
    other = PRVAccountant(
        PoissonSubsampledGaussianMechanism(noise_multiplier=multiplier, sampling_probability=sampling),
        max_self_compositions=rounds,
        eps_error=0.01,
        delta_error=delta / 1000,
    )
    low, _, high = other.compute_epsilon(delta, [rounds])
    ours = epsilon_by_pld([(Cost(multiplier, sampling), rounds)], delta)
    assert low <= ours <= 1.02 * high
    assert high <= 1.02 * ours + 0.02
    assert ours <= epsilon_by_rdp([(Cost(multiplier, sampling), rounds)], delta) <= 1.3 * ours


@pytest.mark.parametrize(("multiplier", "rounds"), [(0.5, 1), (1.0, 1), (5.0, 20), (30.0, 1000)])
def test_rounds_without_sampling_cost_what_the_exact_formula_says(multiplier: float, rounds: int) -> None:
    epsilon = epsilon_by_pld([(Cost(multiplier), rounds)], 1e-6)
    assert delta_of_gaussian(epsilon, math.sqrt(rounds) / multiplier) == pytest.approx(1e-6, rel=1e-6)


def test_unlike_rounds_add_up_and_sampled_ones_join_them() -> None:
    alone = epsilon_by_pld([(Cost(3.0), 4)], 1e-5)
    assert epsilon_by_pld([(Cost(3.0), 1), (Cost(3.0), 3)], 1e-5) == pytest.approx(alone)
    both = epsilon_by_pld([(Cost(3.0), 4), (Cost(1.0, 0.01), 50)], 1e-5)
    assert alone < both < alone + epsilon_by_pld([(Cost(1.0, 0.01), 50)], 1e-5) + 1e-9
    assert both <= epsilon_by_rdp([(Cost(3.0), 4), (Cost(1.0, 0.01), 50)], 1e-5)


def test_nothing_spent_is_nothing() -> None:
    assert epsilon_by_pld([], 1e-5) == epsilon_by_rdp([], 1e-5) == 0


def test_sampling_is_only_cheaper_where_it_is_counted() -> None:
    with_, without = (epsilon_by_pld([(Cost(1.0, q), 10)], 1e-5) for q in (0.1, None))
    assert with_ < 0.25 * without
    assert Cost(1.0, 1.0) == Cost(1.0)  # everybody is no sample


# --- the device's closed form -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(-6, 3), st.floats(-12, -1))
def test_the_closed_form_lies_between_the_exact_figure_and_googles(log_rho: float, log_delta: float) -> None:
    import dp_accounting

    rho, delta = 10**log_rho, 10**log_delta
    ours = epsilon_of_rho(rho, delta)
    exact = dp_accounting.get_epsilon_gaussian((2 * rho) ** -0.5, delta)
    google = dp_accounting.rdp.RdpAccountant()
    google.compose(dp_accounting.ZCDpEvent(rho))
    assert ours >= exact - 1e-9
    assert ours <= google.get_epsilon(delta) * (1 + 1e-6) + 1e-2 * (
        rho < 1e-3
    )  # theirs has a second bound for next to nothing


def test_the_closed_form_agrees_with_googles_to_a_thousandth_where_budgets_lie() -> None:
    import dp_accounting

    for rho in (0.01, 0.1, 0.5, 1.0, 2.0):
        google = dp_accounting.rdp.RdpAccountant(np.linspace(1.02, 200, 100_000))
        google.compose(dp_accounting.ZCDpEvent(rho))
        assert epsilon_of_rho(rho, 1e-5) == pytest.approx(google.get_epsilon(1e-5), rel=1e-3)


def test_the_ends_of_the_closed_form() -> None:
    assert epsilon_of_rho(0.0, 1e-5) == 0
    assert math.isinf(epsilon_of_rho(math.inf, 1e-5))
    assert math.isinf(rho_of(0.0))
    assert math.isinf(rho_of(5e-324))
    assert rho_of(1e300) == 0.0
    assert rho_of(2.0) == 0.125


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-9, 100), st.floats(1e-9, 100))
def test_more_rounds_never_cost_less(one: float, two: float) -> None:
    assert epsilon_of_rho(one + two, 1e-5) >= epsilon_of_rho(one, 1e-5) * (1 - 1e-9)


# --- the noise of many devices ------------------------------------------------------------------------------


def discrete(sigma: float, reach: int, shift: int = 0) -> np.ndarray:
    """A discrete Gaussian's probabilities from -reach to reach, moved by a shift."""
    weights = np.exp(-((np.arange(-reach, reach + 1.0) - shift) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


def divergence_of_shift(sigma: float, shift: int, order: float) -> float:
    """The Rényi divergence of a discrete Gaussian from itself after a shift, summed term by term."""
    grid = np.arange(-400, 401.0)
    log_terms = -(order * (grid - shift) ** 2 + (1 - order) * grid**2) / (2 * sigma**2)
    log_total = np.log(np.exp(-(grid**2) / (2 * sigma**2)).sum())
    most = log_terms.max()
    return float((most + np.log(np.exp(log_terms - most).sum()) - log_total) / (order - 1))


@pytest.mark.parametrize("shift", [1, 3, 7])
@pytest.mark.parametrize("sigma", [0.4, 1.3, 5.0])
def test_whole_orders_cost_on_the_grid_exactly_what_the_continuous_noise_costs(
    sigma: float, shift: int
) -> None:
    for order in (2, 3, 5, 12):
        assert divergence_of_shift(sigma, shift, order) == pytest.approx(
            order * shift**2 / (2 * sigma**2), rel=1e-9
        )


def test_orders_between_cost_no_more_than_the_continuous_noise() -> None:
    below = []
    for order in (1.3, 1.5, 2.5, 3.7):
        for sigma in (0.3, 0.6, 2.0):
            bound = order / (2 * sigma**2)
            assert divergence_of_shift(sigma, 1, order) <= bound * (1 + 1e-12)
            below.append(divergence_of_shift(sigma, 1, order) < 0.99 * bound)
    assert any(below)  # so the two are not the same by mistake


@pytest.mark.parametrize(("sigma", "devices"), [(0.7, 2), (0.8, 5), (1.0, 4)])
def test_the_sum_of_devices_costs_no_more_than_is_counted(sigma: float, devices: int) -> None:
    one = total = discrete(sigma, 14)
    for _ in range(devices - 1):
        total = np.convolve(total, one)
    shift, order = 1, 4
    p, q = total[shift:], total[:-shift]
    seen = (p > 1e-90) & (q > 1e-90)  # what lies beyond adds nothing
    divergence = np.log((q[seen] ** order * p[seen] ** (1.0 - order)).sum()) / (order - 1)
    counted = noise_multiplier(sigma, devices=devices, sensitivity=float(shift), dimension=1)
    assert divergence <= order / (2 * counted**2)
    assert divergence > 0.9 * order * shift**2 / (2 * devices * sigma**2)
    assert counted < sigma * math.sqrt(devices)


@pytest.mark.parametrize("levels", [8, 20])
def test_on_a_grid_delta_differs_from_the_continuous_one_as_little_as_is_said(levels: int) -> None:
    reach = 12 * levels
    for shift in (1, levels // 2, levels):
        mu = shift / levels
        epsilon = epsilon_by_pld([(Cost(levels / shift), 1)], 1e-6)
        q = discrete(levels, reach, shift)
        exact = np.maximum(q - math.exp(epsilon) * discrete(levels, reach), 0).sum()
        assert abs(exact / delta_of_gaussian(epsilon, mu) - 1) <= 25 / (12 * levels**2)


def test_survivors_beyond_the_least_only_add_noise_and_liars_take_it_away() -> None:
    def of(devices: int, honest_share: float = 1.0) -> float:
        return noise_multiplier(
            3.0, devices=devices, sensitivity=60.0, dimension=96_640, honest_share=honest_share
        )

    assert of(100) == pytest.approx(3.0 * 10 / 60)
    assert of(144) > of(100)
    assert of(100, 0.5) == pytest.approx(of(50))
    assert of(100, 0.0) == of(1) == pytest.approx(0.05)  # what is left is one's own noise


def test_noise_that_is_too_fine_for_the_grid_counts_as_little_or_none() -> None:
    def share(sigma: float) -> float:
        # 1 if nothing were lost
        return noise_multiplier(sigma, devices=50, sensitivity=sigma * math.sqrt(50), dimension=96_640)

    assert noise_multiplier(0.0, devices=50, sensitivity=1.0, dimension=1) == 0
    assert share(0.49) == 0
    assert share(0.5) < 0.01
    assert 0.84 < share(1.0) < 0.87
    assert share(2.0) == pytest.approx(1, abs=1e-12)
    assert [share(s) for s in (0.5, 0.8, 1.0, 1.5)] == sorted(share(s) for s in (0.5, 0.8, 1.0, 1.5))


# --- the other way round ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "rounds", "sampling"), [(2.0, 100, 0.05), (1.0, 20, None), (8.0, 1, None)]
)
def test_calibrated_noise_stays_within_the_budget_and_wastes_little(
    epsilon: float, rounds: int, sampling: float | None
) -> None:
    budget = Budget(epsilon, 1e-5)
    multiplier = calibrate(budget, rounds, sampling)
    assert 0.99 * epsilon < epsilon_by_pld([(Cost(multiplier, sampling), rounds)], 1e-5) <= epsilon
    assert Cost(multiplier, sampling).on_grid().noise_multiplier == multiplier
    assert rounds <= rounds_within(budget, Cost(multiplier, sampling).on_grid()) <= math.ceil(1.02 * rounds)


def test_rounds_within_a_budget_count_what_is_spent() -> None:
    budget, cost = Budget(3.0, 1e-5), Cost(5.0)
    all_ = rounds_within(budget, cost)
    assert all_ > 5
    assert rounds_within(budget, cost, [(cost, 4)]) == all_ - 4
    assert rounds_within(budget, cost, [(cost, all_)]) == 0
    assert rounds_within(budget, Cost(0.1)) == 0


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1e-9, 1.0))
def test_the_grid_never_makes_a_cost_smaller(multiplier: float, sampling: float) -> None:
    cost = Cost(multiplier, sampling)
    rough = cost.on_grid()
    assert 0.995 * multiplier <= rough.noise_multiplier <= multiplier * (1 + 1e-9)
    before, after = cost.sampling or 1.0, rough.sampling or 1.0
    assert before * (1 - 1e-9) <= after <= 1.005 * before
    assert rough.on_grid() == rough
