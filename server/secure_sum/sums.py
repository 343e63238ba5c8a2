"""From masked sums to one change: what the server believes of them, as it cannot look at a single device.

Where it stands in the flow: `rounds.masked` has revealed one sum for each group. This module takes the means
out of the ring's levels and throws away what honest devices cannot have sent (`reach`, `groups.drop_long`).
It scales down what is longer than lately, combines what is left, and moves the clip by the votes
(`clipping`). The result goes through the server's optimizer and is held near the last release
(`trust_region`). These are plain functions of the sums and of what the checkpoint remembers;
`benchmarks.one_liar` runs them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from palate.server.secure_sum.clipping import ENOUGH, ClipRule, median_share, next_clip, share_is_sound
from palate.server.secure_sum.groups import CENTRE, centred_clipping, drop_long, scale_down
from palate.server.secure_sum.privacy import Privacy
from palate.server.secure_sum.reach import CEILING, CEILING_IN_SUBSPACE, remembered, share_of
from palate.shared.arrays import Float32s, Levels
from palate.shared.coding import from_levels
from palate.shared.secure_sum.masks import MaskSettings

TOTAL: Final = "total"
"""Under this name a checkpoint's memory keeps the sum of the means since the last release."""
TOTALS: Final = "totals"
"""The name of three numbers: that release, the squared length of that sum's noise, and its rounds' clips."""


@dataclass
class Believed:
    """What a round's sums come to."""

    mean: Float32s | None = None  # (d,); None where no sum was kept
    counts: list[int] = field(default_factory=list)  # devices in each sum that was kept
    clip: float = 0.0  # of the next round
    memory: dict[str, Float32s] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)  # for the round's metrics


def believe(
    sums: Sequence[tuple[Levels, int]],
    masks: MaskSettings,
    privacy: Privacy,
    memory: Mapping[str, Float32s],
    *,
    clip: float,
    rotation: bytes,
    release: int,
    planned: float = 0.0,
    lasting: float = 0.0,
) -> Believed:
    """Return the change that the sums of a round's groups stand for, and what to remember of them.

    Args:
        sums: of each group the sum of levels (d + 1,), and over how many devices.
        masks: the mask settings of the round.
        privacy: the run's privacy settings.
        memory: what the checkpoint before remembers, by name.
        clip: the longest change of a device (L2).
        rotation: the seed that all changes were rotated by.
        release: the number of the encoder that the run grew from.
        planned: the standard deviation of a noise plan's noise in each coordinate of the (one) sum, in
            levels.
        lasting: that of independent noise which leaves as much in the sum of all rounds, in levels.
    """
    found = Believed(clip=clip)
    if not sums:
        return found
    counts = [count for _, count in sums]
    pairs = [from_levels(total, n, step=masks.step, clip=clip, seed=rotation) for total, n in sums]
    means = np.stack([mean for mean, _ in pairs])

    def noise_of(more: float) -> float:
        """Return the noise of each device in a coordinate, rounding and its part of the plan's included."""
        return masks.step * math.sqrt(masks.noise**2 + more**2 / counts[0] + 0.25)

    noise, kept_noise = noise_of(planned), noise_of(lasting)
    ceiling = CEILING if privacy.directions is None else CEILING_IN_SUBSPACE
    kept = drop_long(means, counts, clip=clip, noise=noise, share=ceiling)
    if not kept.all():
        found.refused["long"] = int((~kept).sum())
    if not kept.any():
        return found
    found.counts = counts = [count for count, keep in zip(counts, kept, strict=True) if keep]
    share = share_of(memory, ceiling)
    means, scaled = scale_down(means[kept], counts, clip=clip, noise=noise, share=share)
    mean = means[0]
    if privacy.group_size:
        known = {n: m for n, m in memory.items() if n == CENTRE and m.shape == means.shape[1:]}
        mean, found.memory = centred_clipping(means, counts, known)
    in_mean = noise / math.sqrt(sum(counts))
    found.memory |= remembered(memory, mean, clip=clip, noise=in_mean, ceiling=ceiling)
    found.memory |= _summed_up(memory, mean, release, kept_noise / math.sqrt(sum(counts)), clip)
    votes = [vote for (_, vote), keep in zip(pairs, kept, strict=True) if keep]
    found.clip = _clip_after(votes, counts, privacy, clip, noise, found)
    found.mean = mean
    found.told |= {
        "scaled": scaled,
        "mean_norm": float(np.linalg.norm(mean.astype(np.float64))),
        "noise_norm": in_mean * math.sqrt(len(mean)),
        **told_of(found.memory, release),
    }
    return found


def told_of(memory: Mapping[str, Float32s], release: int) -> dict[str, float]:
    """Return how long the noise in the means since a release is, and how long what devices agreed on.

    The result is empty where nothing is known.

    The latter is at most what clipped changes can come to. All are lengths (L2) in the coordinates that
    devices send.
    """
    total, numbers = memory.get(TOTAL), memory.get(TOTALS)
    if total is None or numbers is None or int(numbers[0]) != release:
        return {}
    squared, noise, clips = (
        float(np.square(total.astype(np.float64)).sum()),
        float(numbers[1]),
        float(numbers[2]),
    )
    return {
        "total_noise_norm": math.sqrt(noise),
        "total_signal_norm": min(clips, math.sqrt(max(0.0, squared - noise))),
    }


def _summed_up(
    memory: Mapping[str, Float32s], mean: Float32s, release: int, noise: float, clip: float
) -> dict[str, Float32s]:
    total, numbers = memory.get(TOTAL), memory.get(TOTALS)
    if total is None or numbers is None or total.shape != mean.shape or int(numbers[0]) != release:
        total, numbers = np.zeros_like(mean), np.array([release, 0.0, 0.0], np.float32)
    more = np.array([0.0, noise**2 * len(mean), clip], np.float32)
    return {TOTAL: total + mean, TOTALS: numbers + more}


def _clip_after(
    votes: Sequence[float],
    counts: Sequence[int],
    privacy: Privacy,
    clip: float,
    noise: float,
    found: Believed,
) -> float:
    """Return the clip of the next round; votes that no devices could have cast count for nothing."""
    sound = [
        (v, n) for v, n in zip(votes, counts, strict=True) if share_is_sound(v, n, clip=clip, noise=noise)
    ]
    if len(sound) < len(votes):
        found.refused["vote"] = len(votes) - len(sound)
    if not sound:
        return clip
    share = median_share(*zip(*sound, strict=True))
    found.told["share_below"] = round(share, 4)  # by which an operator sees where the clip should be
    if not privacy.clip_rate:
        return clip
    rule = privacy.clip_rule if len(sound) >= ENOUGH else ClipRule.near(privacy.clip, privacy.clip_rate)
    return next_clip(clip, share, rule)
