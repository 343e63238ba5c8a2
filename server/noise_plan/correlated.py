"""Noise for fleets that cannot sample: correlated over the rounds, so that it cancels in the model.

No round is without noise.

Where it stands in the flow: in a run with a noise plan the server adds it to each round's sum (`planned`),
for fleets whose devices take part as they please, so that nothing is gained by sampling. What training uses
is the sum of all rounds so far (the model is its start plus all changes). Independent noise adds up in it as
the rounds do; noise that takes back in later rounds a part of what it added in earlier ones does not, and
privacy depends on the rounds together. (DP-FTRL: Kairouz et al. 2021; as matrix factorisation: Denisov et al.
2022, Choquette-Choo et al. 2023; with a few bands: Choquette-Choo et al. 2023, "(Amplified) Banded Matrix
Factorization".)

    A = B C        A: the prefix sums, ones on and below the diagonal (steps, steps)
                   C: the square root of A, a Toeplitz matrix with 1, 1/2, 3/8, 5/16, ..., `bands` of them
    released       x + C^-1 z, which is C^-1 (C x + z): a plain Gaussian mechanism on C x, and arithmetic on
                   what it released

The square root and its bands: Kalinin and Lampert 2024 ("Banded Square Root Matrix Factorization"), who also
give the sensitivity: for a Toeplitz C whose entries are not negative and do not increase, a device that takes
part at most k times, never sooner than `separation` steps after the last time, moves C x the most when it
takes part at steps 0, separation, 2 separation, ...

**On whole numbers, exactly.** x are sums of levels. C's entries are multiples of 1/256, so C x lies on that
grid, and so does z, a discrete Gaussian on it: C x + z costs what the continuous Gaussian does
(`shared.accounting`). The noise of a step is

    y[t] = round(z[t] - sum over j of c[j] y[t - j])

in whole numbers. Rounding commutes with adding x[t], so x + y is still a function of C x + z alone, bit for
bit the same on every machine, and nothing is lost to the last bits of floats (Mironov 2012).

**Who is trusted.** The server sees the sum before it adds noise: masks keep single devices from it, this
noise keeps them from those who get the releases. The devices' own shares of noise are there as well, and keep
the server from more than they allow.

**What makes it cancel.** Levels, their size, the rotation of changes and what a sum is divided by must be the
same in all rounds of a plan.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.shared.arrays import Levels
from palate.shared.checks import check_whole, check_wholes, keep_numbers
from palate.shared.errors import OptionError
from palate.shared.noise import MOST_SIGMA, Source, discrete_gaussian, stream_of

GRID: Final = 256
"""Parts of a level in which C and z are counted."""

MOST_STEPS: Final = 100_000

WIDEST: Final = MOST_SIGMA**2 / 4 / GRID
"""The largest standard deviation of a plan's noise, in levels."""

_MOST_LEVELS = 2**40  # of noise or of a sum; 2^40 · 256 · bands stays far below 2^63


@dataclass(frozen=True)
class NoisePlan:
    """Noise over a number of rounds; raises OptionError outside the ranges.

    `separation` is the least number of steps from one participation of a device to its next, `bands` how many
    rounds the noise reaches back (1: independent noise), `sensitivity` the longest contribution to one sum
    (L2, in levels), `noise_multiplier` the noise over the sensitivity of all rounds together: what the
    ledger's `book_plan` is given.
    """

    steps: int
    separation: int
    bands: int
    noise_multiplier: float
    sensitivity: float

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, MOST_STEPS)
        check_wholes(self, {"separation": (1, self.steps), "bands": (1, self.steps)})
        keep_numbers(self, {"noise_multiplier": (0.0, 1e6), "sensitivity": (0.0, 1e9)}, above=True)
        if not self.sigma <= WIDEST:
            raise OptionError(
                f"the plan's noise has a standard deviation of {self.sigma:,.0f} levels; take coarser levels"
            )

    @cached_property
    def column(self) -> Levels:
        """C's first column in parts of a level: `bands` whole numbers, the first of them 256."""
        return np.rint(square_root(self.bands) * GRID).astype(np.int64)

    @property
    def participations(self) -> int:
        """How often a device can take part at most."""
        return -(-self.steps // self.separation)

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of z, in levels."""
        spread = sensitivity_of_column(self.column / GRID, self.steps, self.separation)
        return self.noise_multiplier * self.sensitivity * spread

    @cached_property
    def hash(self) -> str:
        """The plan's name in the ledger: SHA-256 of all that it says."""
        return hashlib.sha256(json.dumps(["palate noise plan 1", GRID, asdict(self)]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class NoiseState:
    """Where a plan stands: how many steps are done, the noise of the last ones, and who took part when.

    `past` holds the noise of the last `bands` - 1 steps, the newest last, (up to bands - 1, weights): as
    secret as what it covers. `took_part` names, for each of the last `separation` - 1 steps, those who were
    in it; older steps are forgotten.
    """

    step: int = 0
    past: Levels = field(default_factory=lambda: np.zeros((0, 0), np.int64), repr=False)
    took_part: Mapping[int, tuple[str, ...]] = field(default_factory=dict, repr=False)


def add_noise(
    plan: NoisePlan, state: NoiseState, total: Levels, devices: Collection[str], seed: bytes
) -> tuple[Levels, NoiseState]:
    """Return the sum of a step with noise, (weights,), and the state after it.

    The state must be kept before the sum is used. The noise depends on seed, step and total alone: the same
    step with the same sum gives the same bits on any machine. A step that is done again with another sum gets
    other noise, since the same noise on two sums would give their difference away.

    Args:
        plan: the noise plan.
        state: the state after the step before.
        total: the sum of the contributions of `devices`, in levels.
        devices: names of the devices in the sum, of any kind that stays with a device.
        seed: the 32 secret bytes of the plan.

    Raises:
        OptionError: all steps are done, a device is in the sum sooner than `separation` allows, or the sum
            has another type or shape than before.
    """
    if state.step >= plan.steps:
        raise OptionError(f"all {plan.steps:,} steps of the noise plan are done; begin another plan")
    names = sorted(set(devices))
    early = set(names) & resting(plan, state)
    if early or len(names) != len(devices):
        raise OptionError(
            f"{len(early) or len(devices) - len(names)} of {len(devices)} devices took part less than "
            f"{plan.separation} steps ago; leave out those that `resting` names"
        )
    if (
        total.ndim != 1
        or total.dtype != np.int64
        or (state.past.size and total.shape != state.past.shape[1:])
    ):
        raise OptionError(
            f"the sum is {total.dtype} {total.shape}; it must be a vector of int64, as long as in the steps "
            "before"
        )
    if np.abs(total).max(initial=0) > _MOST_LEVELS or total.min(initial=0) == np.iinfo(np.int64).min:
        raise OptionError("the sum holds more than 2^40 levels")
    fresh = wide_gaussian(plan.sigma * GRID, total.size, stream_of(_step_key(plan, state.step, total, seed)))
    parts = fresh
    for back, coefficient in enumerate(plan.column[1 : len(state.past) + 1].tolist(), start=1):
        parts = parts - coefficient * state.past[-back]
    noise = (
        parts + GRID // 2
    ) // GRID  # rounds half up: floor(x + 1/2), which commutes with adding whole numbers
    reach = plan.bands - 1
    past = np.concatenate([state.past.reshape(-1, total.size), noise[None]])[-reach:] if reach else state.past
    kept = {step: who for step, who in state.took_part.items() if step > state.step - plan.separation + 1}
    if plan.separation > 1:
        kept[state.step] = tuple(names)
    after = NoiseState(state.step + 1, past, kept)
    return total + noise, after


def resting(plan: NoisePlan, state: NoiseState) -> set[str]:
    """Return the devices that must not take part in the next step."""
    recent = range(state.step - plan.separation + 1, state.step)
    return {name for step, names in state.took_part.items() if step in recent for name in names}


def square_root(bands: int) -> NDArray[np.float64]:
    """Return the first column of the square root of the prefix sums, cut to so many bands.

    It begins 1, 1/2, 3/8, 5/16.
    """
    steps = np.arange(1, bands, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])


def sensitivity_of_column(column: NDArray[np.float64], steps: int, separation: int) -> float:
    """Return how far one device can move C x (L2), if each of its contributions has length 1 at most.

    `column` is C's first column: not negative, not increasing (Kalinin and Lampert 2024, theorem 2).

    Raises:
        ValueError: any other.
    """
    if column[0] <= 0 or (column < 0).any() or (np.diff(column) > 0).any():
        raise ValueError("the column must begin above 0, not increase, and not be negative")
    moved = np.zeros(steps)
    for start in range(0, steps, separation):
        reach = min(len(column), steps - start)
        moved[start : start + reach] += column[:reach]
    return math.sqrt(math.fsum((moved * moved).tolist()))  # the same bits on every machine


def prefix_error(plan: NoisePlan) -> float:
    """Return the noise in the prefix sums for one weight, in levels: root mean square over the steps."""
    sums = np.cumsum(_inverse_column(plan))  # first column of A C^-1, which is Toeplitz too
    return plan.sigma * math.sqrt(float(np.cumsum(sums**2).mean()))


def step_error(plan: NoisePlan) -> float:
    """Return the largest standard deviation of a step's noise, in levels: that of the last step."""
    return plan.sigma * float(np.linalg.norm(_inverse_column(plan)))


def _inverse_column(plan: NoisePlan) -> NDArray[np.float64]:
    """Return the first column of C^-1, which is a Toeplitz matrix as C is: (steps,)."""
    inverse = np.zeros(plan.steps)
    column = plan.column / GRID
    inverse[0] = 1 / column[0]
    for t in range(1, plan.steps):
        reach = min(len(column) - 1, t)
        inverse[t] = -(column[1 : reach + 1] @ inverse[t - reach : t][::-1]) / column[0]
    return inverse


def best_bands(steps: int, separation: int) -> int:
    """Return how many bands give the least noise in the prefix sums at equal privacy."""
    tried = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, separation, 2 * separation, steps}
    usable = sorted(bands for bands in tried if bands <= min(steps, 512))
    return min(usable, key=lambda bands: prefix_error(NoisePlan(steps, separation, bands, 1.0, 1.0)))


def wide_gaussian(sigma: float, count: int, source: Source) -> Levels:
    """Return discrete Gaussian draws of a deviation up to 2^26, more than `discrete_gaussian` takes.

    A wide one is a sum: width times one, plus another of three widths. That is one discrete Gaussian except
    for a factor below 1 + 10^-75, since what is summed over sees a deviation of nearly 3 (Peikert 2010,
    theorem 3.1; 2 pi² · 9 = 177).
    """
    if sigma <= MOST_SIGMA:
        return discrete_gaussian(sigma, count, source)
    width = 2
    while width * MOST_SIGMA < sigma:
        width *= 2
    coarse = discrete_gaussian(math.sqrt(sigma**2 - (3 * width) ** 2) / width, count, source)
    return width * coarse + discrete_gaussian(3.0 * width, count, source)


def _step_key(plan: NoisePlan, step: int, total: Levels, seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(seed) != 32:
        raise OptionError(f"the seed of a noise plan has {len(seed)} bytes; it must have 32, and be secret")
    digest = hashlib.sha256(np.ascontiguousarray(total, "<i8").tobytes()).digest()
    info = b"palate correlated noise" + bytes.fromhex(plan.hash) + step.to_bytes(8, "little") + digest
    return HKDF(SHA256(), 32, salt=None, info=info).derive(seed)
