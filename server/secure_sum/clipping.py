"""Adaptive clipping: the length at which devices clip follows the median of their changes.

Where it stands in the flow: with each masked sum comes the share of devices whose change was shorter than the
clip (`shared.coding.from_levels`; each device adds a vote to its levels). This module moves the clip of the
next round. Nobody's length is ever seen, only a noised count. The votes are under the same noise as the
change, so they spend nothing beyond the round.

    clip ← clip · exp(-rate · (share - target))        Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021

Half the devices above the clip is a good target: clipping costs bias against long changes, and noise costs
less with a shorter clip.

**Devices that lie.** A vote is a number under a mask, and one device can set the count of one sum to
anything. A count that no devices could have given is found out (`share_is_sound`), a possible one is not. So
with one sum, or few, the clip stays within `ROOM` of the run's settings, whatever the votes are. Only the
median over `ENOUGH` groups or more may carry it farther: each group has its own count, and one liar spoils
one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from palate.shared.coding import VOTE
from palate.shared.errors import OptionError

ROOM: Final = 1.2  # times longer or shorter than the settings say
ENOUGH: Final = 5  # groups
_DEVIATIONS: Final = 6.0  # of noise, which an honest count passes once in 10^9


@dataclass(frozen=True)
class ClipRule:
    """How the clip follows the devices; a `rate` of 0 keeps it fixed. Raises OptionError outside the ranges.

    The share is cut to [0, 1] before it is used, so that noise moves the clip by a factor of at most
    exp(rate) in a round.
    """

    target: float = 0.5  # share of devices that are to be shorter, above 0 and below 1
    rate: float = 0.2  # 0 to 2
    least: float = 1e-4  # the clip stays from here
    most: float = 25.0  # to here

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise OptionError(f"target is {self.target!r}; it must be a number above 0 and below 1")
        if not 0 <= self.rate <= 2:
            raise OptionError(f"rate is {self.rate!r}; it must be a number from 0 to 2")
        if not 0 < self.least <= self.most < math.inf:
            raise OptionError(
                f"least is {self.least!r} and most {self.most!r}; they must be above 0 and in order"
            )

    @classmethod
    def near(cls, clip: float, rate: float) -> ClipRule:
        """Return the rule that keeps the clip within `ROOM` of this one: where one device can decide."""
        return cls(rate=rate, least=max(cls.least, clip / ROOM), most=min(cls.most, clip * ROOM))


def share_is_sound(share: float, devices: int, *, clip: float, noise: float) -> bool:
    """Return whether so many honest devices could have voted this share.

    Each adds `noise` of its own to a coordinate of the sum.
    """
    spread = noise * math.sqrt(devices) / (2 * VOTE * clip * devices)
    beyond = _DEVIATIONS * spread + 1e-9
    return -beyond <= share <= 1 + beyond  # no number is not


def median_share(shares: Sequence[float], counts: Sequence[int]) -> float:
    """Return the median of the groups' shares, a group weighing as many devices as are in it.

    The median of one group is its share.
    """
    pairs = sorted(zip(shares, counts, strict=True))
    half, below = sum(counts) / 2, 0
    for place, (share, count) in enumerate(pairs):
        below += count
        if below == half:
            return (share + pairs[place + 1][0]) / 2
        if below > half:
            return share
    raise ValueError("there must be a share at least, of one device or more")


def next_clip(clip: float, share_below: float, rule: ClipRule) -> float:
    """Return the clip of the next round, from that of this one and the noised share of shorter changes.

    Raises:
        OptionError: a clip that is not above 0, or a share that is no number.
    """
    if not 0 < clip < math.inf or math.isnan(share_below):
        raise OptionError(
            f"clip is {clip!r} and the share below it {share_below!r}; they must be numbers, the clip above 0"
        )
    share = min(1.0, max(0.0, share_below))
    return min(rule.most, max(rule.least, clip * math.exp(-rule.rate * (share - rule.target))))
