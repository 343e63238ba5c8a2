"""How much noise a sum is sure to carry, by how many of the devices in it add their share.

Where it stands in the flow: with this the server books what a round costs (`server.ledger`), and each device
for itself (`client.privacy.ledger`). A device sees its own noise and nobody else's. So each round has three
noise multipliers:

    counted   a part of the devices in the smallest sum, `honest_share`, add their noise: this is booked and
              held to a budget
    all_add   all of them do: what the round costs if nobody lies
    alone     none of the others does, or they are invented: only the person's own share, which holds
              no matter who the others are

Noise in shares is that of Kairouz, Liu and Steinke (ICML 2021). Invented devices add none, which voids every
sum that rests on the noise of others. Only somebody who vouches for devices makes a share above 0 worth
anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from palate.shared.accounting import noise_multiplier
from palate.shared.checks import check_number
from palate.shared.errors import OptionError

VOUCHED_SHARE: Final = 0.5
"""The default part of the devices in a sum whose noise is counted on where a registrar vouches for them.

At half, masks and robust rules end as well: a server that works with more of a cohort opens smaller sums, and
no rule over groups holds.
"""


@dataclass(frozen=True)
class SumNoise:
    """The noise multipliers of one sum.

    Raises:
        OptionError: unless 0 <= alone <= counted <= all_add, and all are finite.
    """

    counted: float
    all_add: float
    alone: float

    def __post_init__(self) -> None:
        for name in ("counted", "all_add", "alone"):
            value = getattr(self, name)
            check_number("noise_multiplier", value, 0.0, math.inf)
            object.__setattr__(self, name, float(value))
        if not self.alone <= self.counted <= self.all_add:
            raise OptionError(
                f"the noise multipliers are {self.alone:g} alone, {self.counted:g} counted and "
                f"{self.all_add:g} of all; more devices must not have less noise"
            )

    @classmethod
    def of_one(cls, multiplier: float) -> SumNoise:
        """Return the noise of a sum that is counted the same no matter who the others are."""
        return cls(multiplier, multiplier, multiplier)


def honest_devices(honest_share: float, devices: int) -> int:
    """Return how many of so many devices are counted on to add noise: at least 1, a person's own."""
    return max(1, math.floor(honest_share * devices + 1e-9))


def sum_noise(
    device_noise: float, *, devices: int, sensitivity: float, dimension: int, honest_share: float
) -> SumNoise:
    """Return the noise multipliers of a sum of at least `devices` that should each add noise.

    Args:
        device_noise: the standard deviation of one device's noise, in levels.
        devices: the smallest number of devices in the sum.
        sensitivity: the longest contribution (L2), in levels.
        dimension: how many numbers the sum has.
        honest_share: the part of the devices whose noise is counted on, 0 to 1.

    Returns:
        The multipliers of `accounting.noise_multiplier`; all are 0 where one device's noise is below half a
        level.

    Raises:
        OptionError: a value is outside its range.

    Reference:
        Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism", ICML 2021.
    """

    def of(share: float) -> float:
        return noise_multiplier(
            device_noise, devices=devices, sensitivity=sensitivity, dimension=dimension, honest_share=share
        )

    alone = of(0.0)
    counted = max(alone, of(honest_share))  # near half a level, tau can take more than a second share gives
    return SumNoise(counted, max(counted, of(1.0)), alone)
