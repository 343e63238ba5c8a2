"""A canary's audit of privacy figures.

How well does the best guess tell whether one device's change is in a sum?

Where it stands in the flow: nowhere; it attacks what `server.ledger` and `client.privacy.budget` promise. One
device, the canary, sends the longest change that it may. Whoever guesses knows everything else: its change,
the rotation, the changes of all others, and in rounds that were sampled who took part. What is left is noise,
made by the device's own code (`to_levels`, `discrete_gaussian`) at what a server's settings make of it
(`mask_settings` with fewer numbers, so that thousands of sums take seconds). Masks cancel exactly and are
left out. Devices that are silent send their part without noise, as made-up ones would.

The guess is the sum's projection on the canary's levels, above a threshold or below. The threshold is chosen
on one half of the sums and judged on the other: with a confidence of 95 % epsilon is at least log((hits -
delta) / false alarms), by Clopper and Pearson's bounds on both (Jagielski, Ullman and Oprea, "Auditing
differentially private machine learning", NeurIPS 2020). A figure that is shown and lies below that is wrong.
That the audit can find something is seen where a figure counts on noise that is not there.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.client.federation.masked_answers import guaranteed
from palate.client.privacy.budget import OwnBudget, OwnSpent, book_round, write_budget
from palate.client.vault.store import MemoryStore
from palate.server.secure_sum.privacy import Privacy, more_noise
from palate.shared.arrays import Float64s
from palate.shared.coding import finest_step, to_levels
from palate.shared.noise import Source, discrete_gaussian, stream_of
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.sum_noise import SumNoise

COUNT: Final = 31  # numbers of a change, next to the vote
CLIP: Final = 0.15
DELTA: Final = 1e-5
CONFIDENCE: Final = 0.95
_CHUNK = 1_000  # sums at a time


@dataclass(frozen=True)
class Case:
    """One sum of `devices`, `adding` of which add noise, and `rounds` of it that the canary is in."""

    name: str
    privacy: Privacy
    devices: int
    adding: int
    rounds: int = 1


def masks_of(privacy: Privacy, devices: int) -> MaskSettings:
    """Return what an invitation to a sum of so many devices says, for changes of `COUNT` numbers."""
    multiplier = privacy.noise_multiplier * more_noise(privacy, least=devices, most=devices)
    step, noise = finest_step(privacy.ring_bits, devices, clip=CLIP, noise_multiplier=multiplier, count=COUNT)
    return MaskSettings(ring_bits=privacy.ring_bits, step=step, clip=CLIP, noise=noise, least=devices)


def noise_of(case: Case) -> SumNoise:
    """Return what a device on its usual terms is sure of in such a sum."""
    return guaranteed(masks_of(case.privacy, case.devices), COUNT, share=case.privacy.counted_share)


def booked(case: Case) -> OwnSpent:
    """Return what a device books for the rounds of a case, and shows its owner."""
    store = MemoryStore()
    write_budget(store, OwnBudget(1e6, DELTA))
    sure, spent = noise_of(case), OwnSpent(OwnBudget(1e6, DELTA))
    for _ in range(case.rounds):
        spent = book_round(store, sure, now=datetime(2026, 11, 30, tzinfo=UTC))
    return spent


def guesses(case: Case, sums: int, seed: int = 1) -> tuple[Float64s, Float64s]:
    """Return the projections of so many noised sums with the canary and without, added up over the rounds."""
    masks = masks_of(case.privacy, case.devices)
    source = stream_of(hashlib.sha256(f"palate canary {case.name} {seed}".encode()).digest())
    rng = np.random.default_rng(seed)
    rotation = hashlib.sha256(b"palate canary rotation").digest()
    vector = np.zeros(COUNT)
    vector[0] = CLIP  # the longest, and under a rotation all directions are one

    def levels() -> NDArray[np.int64]:
        return to_levels(vector, step=masks.step, clip=masks.clip, seed=rotation, rng=rng)

    direction = np.mean([levels() for _ in range(200)], axis=0)
    direction /= np.linalg.norm(direction)
    without, within = np.zeros(sums), np.zeros(sums)
    for _ in range(case.rounds):
        without += _noise(masks, case.adding, sums, source, direction)
        mine = np.array([levels() @ direction for _ in range(sums)])
        within += _noise(masks, case.adding, sums, source, direction) + mine
    return within, without


def audit(within: Float64s, without: Float64s, delta: float = DELTA) -> float:
    """Return the least epsilon, with a confidence of 95 %, that explains these guesses; 0 or more.

    Args:
        within: projections of sums with the canary, (sums,).
        without: of sums without it, (sums,).
        delta: the chance that goes with epsilon.

    Reference:
        Clopper and Pearson (Biometrika 1934) for the interval.
    """
    half = len(within) // 2
    ordered = np.sort(np.concatenate([within[:half], without[:half]]))
    best = max(
        (bound, threshold, sign)
        for threshold in ordered[:: max(1, len(ordered) // 400)]
        for sign in (1, -1)
        for bound in [_bound(within[:half], without[:half], threshold, sign, delta)]
    )
    return max(0.0, _bound(within[half:], without[half:], best[1], best[2], delta))


def _bound(within: Float64s, without: Float64s, threshold: float, sign: int, delta: float) -> float:
    """Return the lower bound on epsilon from one threshold; with -1 the guess is made below it."""
    right, wrong = (within, without) if sign > 0 else (without, within)
    hits, alarms = (int((sign * one > sign * threshold).sum()) for one in (right, wrong))
    likely, rarely = _interval(hits, len(right))[0], _interval(alarms, len(wrong))[1]
    return math.log((likely - delta) / rarely) if likely > delta else 0.0


def _interval(found: int, tries: int) -> tuple[float, float]:
    """Clopper and Pearson's interval, each side with half of the doubt that is left to one of two rates."""
    from scipy.stats import beta

    doubt = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(doubt, found, tries - found + 1)) if found else 0.0
    high = float(beta.ppf(1 - doubt, found + 1, tries - found)) if found < tries else 1.0
    return low, high


def _noise(masks: MaskSettings, adding: int, sums: int, source: Source, direction: Float64s) -> Float64s:
    """Return the projections of so many sums of the noise of `adding` devices."""
    found = []
    for begin in range(0, sums, _CHUNK):
        shape = (min(_CHUNK, sums - begin), COUNT + 1)
        total = np.zeros(shape, np.int64)
        for _ in range(adding):
            total += discrete_gaussian(masks.noise, shape[0] * shape[1], source).reshape(shape)
        found.append(total @ direction)
    return np.concatenate(found)
