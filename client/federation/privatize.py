"""Makes a device's change private before masks are put on it: clipped, rotated, rounded to levels, noised.

Where it stands in the flow: the device trains (`local_training`). This module turns the change into whole
numbers in which one person cannot be told from nobody, once enough devices' numbers are summed.
`masked_round` adds the masks, and the outbox sends the result. The noise comes in shares (Kairouz, Liu,
Steinke, "The distributed discrete Gaussian mechanism", ICML 2021): each device adds a little, the sum has
enough, and nobody, not even the server, sees a sum with less. A device that leaves its share out weakens the
protection of all. So each share is sized for the smallest number of survivors that a round accepts, and the
shares of honest devices alone must be enough.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from palate.shared.arrays import Levels
from palate.shared.coding import to_levels
from palate.shared.noise import Source, discrete_gaussian
from palate.shared.subspace import Subspace
from palate.shared.update import EncoderUpdate


class ClipAndNoise(Protocol):
    """The part of a round's mask settings that says how a change becomes levels."""

    @property
    def step(self) -> float:
        """The size of one level, in the units of weights."""

    @property
    def clip(self) -> float:
        """The clipping norm: L2 over all tensors."""

    @property
    def noise(self) -> float:
        """The standard deviation, in levels, of the noise that this device adds to each coordinate."""


def privatize(
    update: EncoderUpdate,
    settings: ClipAndNoise,
    rotation: bytes,
    source: Source = os.urandom,
    subspace: Subspace | None = None,
) -> Levels:
    """Return the levels of a change with this device's share of the noise: what may go under masks.

    Args:
        update: the change, in the units of weights.
        settings: step, clipping norm and noise of the round.
        rotation: the seed by which all devices of the round rotate: the hash of its invitation, or what that
            names.
        source: gives the random bytes of noise and rounding; they must be secret except in tests.
        subspace: the directions in which the change is sent, None for all weights; the rest of the change
            stays here.

    Returns:
        int64 (d + 1,), with d the number of weights or of coordinates in the subspace; the last level says
        whether it was cut.

    Raises:
        OptionError: a step, clip or noise outside its range.
    Reference:
        Kairouz, Liu and Steinke, "The distributed discrete Gaussian mechanism for federated learning with
        secure aggregation", ICML 2021.
    """
    rng = np.random.default_rng(int.from_bytes(source(32), "little"))
    vector = update.vector if subspace is None else subspace.coordinates(update.tensors)
    levels = to_levels(vector, step=settings.step, clip=settings.clip, seed=rotation, rng=rng)
    return levels + discrete_gaussian(settings.noise, len(levels), source)
