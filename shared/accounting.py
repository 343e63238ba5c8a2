"""How much privacy rounds of noisy sums spend: epsilon and delta, counted per person.

Where it stands in the flow: `server.ledger` and `client.privacy.ledger` call this before a round; experiments
call it to learn which noise a wanted epsilon takes. Nothing here draws noise or touches data. The counting is
done by Google's `dp-accounting`, imported when it is first needed. A second accountant checks it in the tests
and in `benchmarks/ledger.py`. A device must answer at once, so it uses the closed forms at the end, which
need the standard library alone.

**What epsilon and delta mean here.** Compare two worlds: in one a person's device contributes, in the other
its contribution is zero in every round ("zero-out": who is there, and how many, is the same in both; Kairouz,
Liu, Steinke 2021, section 2). An observer who sees the noised sums of all rounds, and does anything with
them, cannot tell the worlds apart better than (epsilon, delta) allows. A noise multiplier is the noise's
standard deviation over the L2 sensitivity, the longest contribution of one device.

**With sampling or without.** A round that draws each device independently and in secret with probability q
(Poisson) spends less than one that takes everybody. The gain holds only against those who do not learn who
was drawn, so not against the server and not on one's own device. A cohort of fixed size, drawn without
replacement, has no such gain under this relation, so its rounds are counted with `sampling=None`.

**Why the devices' discrete noise is covered.** Each device adds a discrete Gaussian of deviation sigma to
whole numbers.

1. One discrete Gaussian hides a whole-number shift as well as the continuous one does: the Rényi divergence
   of order alpha is at most alpha · shift² / (2 sigma²) (Canonne, Kamath, Steinke 2020, proposition 5). For
   whole alpha it is equal: the sum over the grid that occurs is the normalising sum at a whole-number offset,
   which is the same sum. Sampled rounds are counted at whole orders only. So all moments in the formula of
   Mironov, Talwar and Zhang (2019) are those of the continuous Gaussian, and the mirror image that their
   theorem 5 needs stays on the grid.
2. The sum of n devices' noise is within a factor e^tau, per weight, of one discrete Gaussian of deviation
   sigma · sqrt(n) (Kairouz, Liu, Steinke 2021, theorem 1, for sigma from 1/2). That costs no more than
   raising 1 / multiplier by tau · sqrt(d), at every order, and `noise_multiplier` counts it. For 96,640
   weights and 50 devices it takes off a seventh at sigma = 1, and less than 10^-12 from sigma = 2 on.
3. So the Rényi figure is proven for the discrete noise. The PLD figure is the continuous Gaussian's. On a
   grid, delta differs from it by at most about t² / (12 s²) of itself (a sum against an integral), where s is
   the deviation of the sum in levels and t, about 5, how many deviations out delta is decided. A test
   measures it.

**Who adds it.** If at least `devices` survive, the sum carries at least `devices` shares of noise; every
further survivor adds noise that is not counted. So devices that drop out cost no privacy, as long as a sum of
fewer is never unmasked. Devices that lie and add no noise do cost it: `honest_share` is the part of the
shares that is counted on, and the person's own share always is. With a share of 0 the noise of one device is
left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from palate.shared.checks import check_number, check_whole
from palate.shared.errors import OptionError
from palate.shared.noise import distance_of_sum

if TYPE_CHECKING:
    from collections.abc import Callable

Curve = NDArray[np.float64]
"""The Rényi divergence that has been spent at each of `ORDERS`."""

ORDERS: Final = (*range(2, 65), 72, 80, 96, 128, 192, 256, 384, 512, 1024)
"""Whole orders only; see above."""

MOST_ROUNDS: Final = 10_000_000

_MOST_ROOM = 100_000

LEAST_MULTIPLIER: Final = 1e-3
MOST_MULTIPLIER: Final = 1e9

_DIGITS = 2**9
_BILLIONTH = 1e-9


@dataclass(frozen=True)
class Budget:
    """What may be spent in all.

    Raises:
        OptionError: unless epsilon is finite and above 0, and delta between 0 and 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, 0.0, math.inf, above=True)
        check_delta(self.delta)
        object.__setattr__(self, "epsilon", float(self.epsilon))
        object.__setattr__(self, "delta", float(self.delta))


@dataclass(frozen=True)
class Cost:
    """What a round costs: a Gaussian of this noise multiplier, on everybody or on a Poisson sample.

    `sampling` is the probability with which each device was drawn, None where the cohort was chosen in any
    other way (and 1 becomes None).

    Raises:
        OptionError: a multiplier or probability outside its range; NaN is outside every range.
    """

    noise_multiplier: float  # 0.001 to 10^9; with less there is nothing to count
    sampling: float | None = None  # 10^-9 to 1

    def __post_init__(self) -> None:
        check_number("noise_multiplier", self.noise_multiplier, LEAST_MULTIPLIER, MOST_MULTIPLIER)
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))
        if self.sampling is not None:
            check_number("sampling", self.sampling, 1e-9, 1.0)
            object.__setattr__(self, "sampling", None if self.sampling == 1 else float(self.sampling))

    def on_grid(self) -> Cost:
        """Return the next cost, not below this one, whose numbers have nine binary digits, so there are few.

        Rounds that differ by a fifth of a percent then count as equal ones, which keeps the counting quick.
        (What lies within a billionth of such a number is that number, so that a last bit lost in a formula
        costs nothing.)
        """
        sampling = (
            None if self.sampling is None else min(1.0, _digits(self.sampling * (1 - _BILLIONTH), math.ceil))
        )
        multiplier = _digits(self.noise_multiplier * (1 + _BILLIONTH), math.floor)
        return Cost(max(multiplier, LEAST_MULTIPLIER), sampling)


def noise_multiplier(
    device_noise: float, *, devices: int, sensitivity: float, dimension: int, honest_share: float = 1.0
) -> float:
    """Return the noise multiplier that a round guarantees when each device adds a discrete Gaussian.

    The tau of the module's docstring is counted. Below half a level the theorem says nothing, so the result
    is 0.

    Args:
        device_noise: the standard deviation of one device's noise, in levels; 0 for none.
        devices: the smallest number of survivors that is ever unmasked.
        sensitivity: the longest contribution (L2), in levels.
        dimension: the number of weights.
        honest_share: the part of the devices whose noise is counted on, 0 to 1.

    Raises:
        OptionError: a value is outside its range.

    Reference:
        Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism", ICML 2021.
    """
    check_number("device_noise", device_noise, 0.0, math.inf)
    check_number("sensitivity", sensitivity, 0.0, math.inf, above=True)
    check_number("honest_share", honest_share, 0.0, 1.0)
    for name, value in (("devices", devices), ("dimension", dimension)):
        check_whole(name, value, 1, 10**9)
    if device_noise < 0.5:
        return 0.0
    honest = max(1, math.floor(honest_share * devices + 1e-9))  # the person's own device is one of them
    per_deviation = sensitivity / (device_noise * math.sqrt(honest))
    tau = _tau(device_noise, honest)
    return 1.0 / (per_deviation + tau * math.sqrt(dimension))


def rdp_curve(cost: Cost, rounds: int = 1) -> Curve:
    """Return the Rényi divergence at `ORDERS` that so many equal rounds spend.

    Mironov (2017), and with sampling Mironov, Talwar and Zhang (2019).
    """
    check_rounds(rounds)
    if cost.sampling is None:
        return rounds * np.array(ORDERS) / (2 * cost.noise_multiplier**2)
    dp = _library()
    accountant = dp.rdp.RdpAccountant(ORDERS, dp.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(_event(cost), 1)
    return rounds * np.asarray(accountant.rdp, np.float64)


def epsilon_of_curve(curve: Curve, delta: float) -> float:
    """Return epsilon for a Rényi curve at `ORDERS` (Canonne, Kamath, Steinke 2020, proposition 12)."""
    check_delta(delta)
    return float(_library().rdp.compute_epsilon(ORDERS, curve, delta)[0])


def epsilon_by_rdp(costs: Iterable[tuple[Cost, int]], delta: float) -> float:
    """Return epsilon after these rounds (each a cost and how many), by Rényi divergences.

    Quick, and proven for discrete noise; 8 % to 35 % above the tight figure in the benchmark, more where
    sampling is rarer.
    """
    rounds = list(costs)
    check_delta(delta)
    if all(cost.sampling is None for cost, _ in rounds):
        return epsilon_of_rho(sum(count * rho_of(cost.noise_multiplier) for cost, count in rounds), delta)
    return epsilon_of_curve(
        sum((rdp_curve(cost, count) for cost, count in rounds), np.zeros(len(ORDERS))), delta
    )


def epsilon_by_pld(
    costs: Iterable[tuple[Cost, int]], delta: float, *, interval: float | None = None
) -> float:
    """Return epsilon after these rounds by privacy loss distributions: tight, and slower (0.02 to 1 s).

    Rounds without sampling together are one Gaussian, whose epsilon is exact (Balle and Wang 2018). With
    sampled rounds the distributions are discretised pessimistically (Doroshenko et al. 2022), so every
    `interval` gives an upper bound; the default suits the rounds.
    """
    check_delta(delta)
    rounds = _grouped(costs)
    inverse_square = math.fsum(
        count / cost.noise_multiplier**2 for cost, count in rounds if cost.sampling is None
    )
    sampled = [(cost, count) for cost, count in rounds if cost.sampling is not None]
    dp = _library()
    if not sampled:
        return float(dp.get_epsilon_gaussian(inverse_square**-0.5, delta)) if inverse_square else 0.0
    rarest = min(cost.sampling for cost, _ in sampled if cost.sampling is not None)
    accountant = dp.pld.PLDAccountant(
        dp.NeighboringRelation.REPLACE_SPECIAL, interval or (1e-3 if rarest >= 0.01 else 1e-4)
    )
    for cost, count in sampled:
        accountant.compose(_event(cost), count)
    if inverse_square:
        accountant.compose(_event(Cost(inverse_square**-0.5)))
    return float(accountant.get_epsilon(delta))


def rounds_within(budget: Budget, cost: Cost, spent: Iterable[tuple[Cost, int]] = ()) -> int:
    """Return how many rounds of this cost the budget holds after what is spent, by the tight figure.

    The result is at most 100,000.

    Exact up to 128 rounds; beyond, up to a sixty-fourth fewer than there is room for, which saves most of the
    time.
    """
    before = list(spent)

    def fits(count: int) -> bool:
        return epsilon_by_pld([*before, (cost, count)], budget.delta) <= budget.epsilon

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < _MOST_ROOM and fits(high):
        low, high = high, 2 * high
    if high >= _MOST_ROOM:
        if fits(_MOST_ROOM):
            return _MOST_ROOM
        high = _MOST_ROOM
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def calibrate(budget: Budget, rounds: int, sampling: float | None = None) -> float:
    """Return the smallest noise multiplier, to half a percent, that keeps so many rounds in the budget.

    The tight figure decides. What is returned is on the ledger's grid (`Cost.on_grid`) and within the budget,
    so a run with it gets all its rounds.

    Raises:
        OptionError: a value is outside its range.
    """
    check_rounds(rounds)

    def fits(multiplier: float) -> bool:
        return (
            epsilon_by_pld([(Cost(multiplier, sampling).on_grid(), rounds)], budget.delta) <= budget.epsilon
        )

    high = 1.0
    while not fits(high):
        high *= 2
    low = high / 2
    while low > 2 * LEAST_MULTIPLIER and fits(low):
        low, high = low / 2, low
    while high / low > 1.002:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return _digits(high * (1 + _BILLIONTH), math.floor)


def rho_of(multiplier: float) -> float:
    """Return the zero-concentrated privacy, rho, of one unsampled round.

    It is infinite for a multiplier of 0 (Bun and Steinke 2016).
    """
    inverse = math.inf if multiplier == 0 else 1 / multiplier
    return 0.5 * inverse * inverse


def epsilon_of_rho(rho: float, delta: float) -> float:
    """Return the epsilon of rho zero-concentrated privacy.

    This needs no library (Canonne, Kamath, Steinke 2020, proposition 12).

    The smallest value of alpha · rho + log(1 - 1/alpha) - log(alpha · delta) / (alpha - 1) over alpha above
    1. The bound holds at every alpha, so a search that stopped early would still be right, only less tight.

    Raises:
        OptionError: a rho below 0, or NaN.
    """
    check_delta(delta)
    if not rho >= 0:
        raise OptionError(f"rho is {rho!r}; it must be 0 or more")
    if rho == 0 or math.isinf(rho):
        return rho

    def bound(log_excess: float) -> float:
        excess = math.exp(log_excess)  # alpha - 1
        alpha = 1 + excess
        return alpha * rho + math.log(excess / alpha) - (math.log(alpha) + math.log(delta)) / excess

    # A coarse look first, so that nothing depends on the bound having one valley only.
    guess = min((0.5 * step for step in range(-40, 81)), key=bound)
    low, high = guess - 0.5, guess + 0.5
    for _ in range(60):
        third = (high - low) / 3
        low, high = (low, high - third) if bound(low + third) < bound(high - third) else (low + third, high)
    return max(0.0, min(bound(guess), bound((low + high) / 2)))


def rounds_by_rho(budget: Budget, multiplier: float) -> int:
    """Return how many unsampled rounds of this noise multiplier a budget holds, as a device counts them."""

    def fits(count: int) -> bool:
        return epsilon_of_rho(count * rho_of(multiplier), budget.delta) <= budget.epsilon

    low, high = 0, 1
    while high < MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_delta(delta: float) -> None:
    """Raise OptionError unless delta is a number between 0 and 1, and neither."""
    check_number("delta", delta, 0.0, 1.0, above=True, below=True)


def check_rounds(rounds: int) -> None:
    """Raise OptionError unless rounds is a whole number from 1 to ten million."""
    check_whole("rounds", rounds, 1, MOST_ROUNDS)


def _digits(value: float, direction: Callable[[float], int]) -> float:
    """Return a number above 0 with nine binary digits, rounded in the given direction."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(direction(mantissa * _DIGITS) / _DIGITS, exponent)


def _tau(device_noise: float, devices: int) -> float:
    return distance_of_sum(min(device_noise, 1e3), devices)  # it is 0 long before a thousand levels


def _grouped(costs: Iterable[tuple[Cost, int]]) -> list[tuple[Cost, int]]:
    counts: dict[Cost, int] = {}
    for cost, count in costs:
        check_rounds(count)
        counts[cost] = counts.get(cost, 0) + count
    return list(counts.items())


def _event(cost: Cost) -> Any:
    dp = _library()
    event = dp.GaussianDpEvent(cost.noise_multiplier)
    return event if cost.sampling is None else dp.PoissonSampledDpEvent(cost.sampling, event)


def _library() -> Any:
    """Google's accountant; it takes two seconds to load, which is why it is not at the top."""
    import dp_accounting

    return dp_accounting
