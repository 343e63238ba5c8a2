"""How long the sum of a round may be: as far as honest devices agree, not as far as they could.

Where it stands in the flow: `sums` holds each masked sum to `groups.longest_sum`, and computes here how far
devices agree. The changes of n honest people, each cut to the clip, sum up to far less than n clips, since
people differ. With a share a in common and the rest at random, the sum is hypot(a n, b sqrt(n)) clips long.
Virtual people of the recommended private run have a = .04 to .09 in the public subspace, up to .12 where
comments count more, and .15 to .18 in all weights.

There are two bounds. `CEILING` is what every honest round is taken to stay below; a longer sum is thrown
away. Below it lies what the last rounds agreed on, with their noise taken out: `ROOM` times the median of the
last `KEPT` rounds. It rises by at most `GROWTH` a round, so a liar who is there each time cannot raise it
fast. A sum beyond that is scaled down and not thrown away: honest devices may agree more than lately, and a
run must not stop for that.

One device can still add what hides in the noise and in what honest sums vary by. In a private sum of 900 with
the recommended settings that is some hundred times the clip; without the bounds it would be nine hundred
times. `trust_region` bounds what it can do with that over the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from palate.shared.arrays import Float32s

CEILING_IN_SUBSPACE: Final = 0.2
CEILING: Final = 0.5  # of all weights
# Clips by the square root of the number of devices: what sums vary by; six devices may all be the same
STRAY: Final = 2.5
ROOM: Final = 1.25
GROWTH: Final = 1.02  # a round
KEPT: Final = 5  # rounds
LEAST_ROUNDS: Final = 3  # before which there is nothing to go by

AGREED: Final = "agreed"
"""The name in a checkpoint's memory of the share in force (0: none yet) and those of the last rounds."""


def longest_of_honest(count: int, clip: float, share: float) -> float:
    """Return how long the sum of `count` changes may be without noise (L2)."""
    return clip * min(float(count), math.hypot(share * count, STRAY * math.sqrt(count)))


def share_of(memory: Mapping[str, Float32s], ceiling: float) -> float:
    """Return how much devices are taken to agree by what the last rounds did: above 0, at most `ceiling`."""
    known = memory.get(AGREED)
    if known is None or not len(known) or not 0 < known[0] < ceiling:
        return ceiling
    return float(known[0])


def remembered(
    memory: Mapping[str, Float32s], mean: Float32s, *, clip: float, noise: float, ceiling: float
) -> dict[str, Float32s]:
    """Return what to remember after a round; `noise` is that of a coordinate of its mean.

    The noise's own length is taken out of the mean's; what is left is how far the devices agreed.
    """
    squared = float(np.square(mean.astype(np.float64)).sum()) - len(mean) * noise**2
    seen = min(1.0, math.sqrt(max(0.0, squared)) / clip)
    known = memory.get(AGREED)
    before, last = (0.0, []) if known is None or not len(known) else (float(known[0]), known[1:].tolist())
    last = [*last, seen][-KEPT:]
    share = 0.0
    if len(last) >= LEAST_ROUNDS:
        share = min(ceiling, ROOM * float(np.median(last)))
        share = max(1e-3, min(share, before * GROWTH) if before else share)
    return {AGREED: np.array([share, *last], np.float32)}
