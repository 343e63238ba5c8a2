"""What is done to a device's change before masks are put on it: clipped, rotated, rounded to levels, and noised.

Where it stands in the flow: the device trains (`reconstruction`), this module makes whole numbers of the change in which one person
can no longer be told from nobody once they are summed with those of enough others, `client.masking` adds the masks, the outbox
sends the result. Noise in shares (Kairouz, Liu, Steinke, ICML 2021): each device adds a little, the sum has enough, and nobody,
the server included, ever sees a sum with less. A device that leaves its share out weakens the protection of all, so the share is
reckoned for the smallest number of survivors that a round accepts, and honest devices' shares alone must do.
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


class Grid(Protocol):
    """The part of a round's mask settings that says how a change becomes levels."""

    @property
    def step(self) -> float:
        """The size of one level, in the units of weights."""

    @property
    def clip(self) -> float:
        """The longest change that counts in full: L2 over all tensors."""

    @property
    def noise(self) -> float:
        """The standard deviation, in levels, of the noise that this device adds to each coordinate."""


def shield(
    update: EncoderUpdate,
    settings: Grid,
    rotation: bytes,
    source: Source = os.urandom,
    subspace: Subspace | None = None,
) -> Levels:
    """Return the levels (d + 1,) of a change, with this device's share of the noise: what may go under masks.

    `rotation` is the seed by which all devices of the round rotate: the hash of its invitation, or what that names. `source`
    gives the randomness of noise and of rounding. With a `subspace` d is its number of coordinates instead of all weights, and the rest of the change
    stays here. Raises OptionError for a grid or noise outside its range.
    """
    rng = np.random.default_rng(int.from_bytes(source(32), "little"))
    vector = update.vector if subspace is None else subspace.coordinates(update.tensors)
    levels = to_levels(vector, step=settings.step, clip=settings.clip, seed=rotation, rng=rng)
    return levels + discrete_gaussian(settings.noise, len(levels), source)
