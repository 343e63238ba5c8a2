"""Against devices that lie, under masks: groups with a sum each, and centred clipping over their means.

Where it stands in the flow: with masks the server never sees one device's change, so no rule can look at
single devices. Instead `make_groups` cuts the roster into small groups, each with its own masked sum.
`drop_long` throws away a sum that is too long for its devices. `centred_clipping` combines the means that are
left, and the server's optimizer (`strategy.server_step`) treats the result like a plain mean. The idea is
bucketing (Karimireddy, He, Jaggi, ICLR 2022), with a masked sum instead of the bucket.

**What bounds a single liar.** Without masks the server measures each change (`max_norm` in
`shared.wire.decode_update`). With masks it cannot: one device may put anything into each coordinate of the
ring. Alone it can move a group's sum by half the ring's width, `step * 2 ** (ring_bits - 1)`, in every
coordinate; clipping on the device binds honest devices only. After unmasking, `drop_long` throws away a sum
that is longer than honest sums are, noise included, and `scale_down` shortens one that is longer than those
of the last rounds (`reach`).

**What remains:**

- One liar speaks for its whole group: it can put the group's mean anywhere within the clip. In a group of
  three it is as strong as three liars in a round without masks. What counts is the share of groups with at
  least one liar, 1 - (1 - p)**size for a share p of liars: 10 % of liars spoil 27 % of groups of three. No
  rule holds once half of the groups are spoiled: with groups of two above 29 % of liars, of three above 20 %,
  of five above 13 %.
- Some attacks get through this and through Flower's rules too: liars who all push the same way in every
  round, no farther off than people differ (min-max, ALIE), or a backdoor hidden like that.
  `benchmarks.many_liars` says by how much. Within one round they cannot be told from people of another taste.
  What all rounds together may do is bounded (`trust_region`), and the encoder is tried before it becomes a
  release (`acceptance`).
- A liar can silence its group by a sum that is too long. That costs a group and does not harm the encoder.
- Small groups cost privacy. Each group has only its own devices' noise: with the same noise per device, the
  noise multiplier of what is released falls by sqrt(size / cohort) against one sum over the cohort. The
  accountant must know the group's size, and devices must hold the group, not the cohort, against their own
  minimum.
- A server that chooses both seed and roster, with devices of its own, can put a victim into a group of liars.
  Signed rosters and a registrar stand against that, not this file.

All functions are plain: the same groups give the same bits in any order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.server.secure_sum.reach import longest_of_honest
from palate.shared.arrays import Float32s, Float64s
from palate.shared.errors import OptionError

Counts = NDArray[np.int64]

TAIL: Final = 20.0  # honest noise is longer than `longest_sum` with a probability below exp(-TAIL), 2e-9
CENTRE: Final = "centre"  # what centred clipping remembers
_SMALLEST: Final = 1e-12
_STEPS: Final = 3


def make_groups(members: Sequence[bytes], size: int, seed_bytes: bytes) -> list[tuple[bytes, ...]]:
    """Cut a roster into groups of at least `size`, as small as possible, by the seed and the roster alone.

    Everybody who knows the roster and the seed gets the same groups, so a device can check its own.

    Args:
        members: distinct identity keys, in any order.
        size: the least number of devices in a group, from 2.
        seed_bytes: the round's seed.

    Returns:
        `len(members) // size` groups, each sorted; their sizes differ by one at most.

    Raises:
        OptionError: a size below 2 (a group of one is no sum), too few members for one group, or a duplicate.
    """
    if type(size) is not int or size < 2:
        raise OptionError(f"the group size is {size!r}; it must be a whole number from 2")
    if len(set(members)) != len(members):
        raise OptionError("the roster has a member twice; each identity key may be there once")
    if len(members) < size:
        raise OptionError(f"the roster has {len(members)} members; one group needs {size}")
    roster = hashlib.sha256()
    for member in sorted(members):
        roster.update(len(member).to_bytes(4, "little") + member)
    key = hashlib.sha256(b"palate groups 1\0" + seed_bytes).digest() + roster.digest()
    drawn = sorted(members, key=lambda member: (hashlib.sha256(key + member).digest(), member))
    count = len(members) // size
    return [tuple(sorted(drawn[place::count])) for place in range(count)]


def longest_sum(count: int, *, clip: float, noise: float, coordinates: int, share: float = 1.0) -> float:
    """Return the L2 length that the sum of `count` honest devices exceeds with a probability below 2e-9.

    Args:
        count: the number of devices.
        clip: the longest change of each (L2).
        noise: the standard deviation that each adds to a coordinate, noise and rounding together, in the same
            unit: with the round's `MaskSettings`, step * hypot(noise, 1/2).
        coordinates: how many numbers the sum has.
        share: how far devices are taken to agree (`reach.longest_of_honest`).

    Reference:
        Laurent and Massart, Annals of Statistics, 2000, for the tail of the noise's own length; its part
        along the changes is Gaussian.
    """
    reach = longest_of_honest(count, clip, share)
    spread = noise * math.sqrt(count)
    squared = reach**2 + 2 * reach * spread * math.sqrt(2 * TAIL)
    squared += spread**2 * (coordinates + 2 * math.sqrt(coordinates * TAIL) + 2 * TAIL)
    return math.sqrt(squared)


def drop_long(
    means: Float32s, counts: Sequence[int] | Counts, *, clip: float, noise: float = 0.0, share: float = 1.0
) -> NDArray[np.bool_]:
    """Return which groups are kept, (groups,): those whose sum is finite and no longer than `longest_sum`.

    Where noise is small, this stops a liar at what honest devices of such a group could do together. Where it
    is large, a liar can hide in what the length of the noise varies by.

    Args:
        means: the mean of each group, (groups, d).
        counts: how many devices survived in each, (groups,).
        clip: the longest change of a device (L2).
        noise: as in `longest_sum`.
        share: as in `longest_sum`.
    """
    points, weights = _checked(means, counts, finite=False)
    kept = []
    for point, count in zip(points, weights, strict=True):
        bound = longest_sum(int(count), clip=clip, noise=noise, coordinates=points.shape[1], share=share)
        kept.append(bool(np.isfinite(point).all() and float(count) * _length(point) <= bound * (1 + 1e-6)))
    return np.array(kept, dtype=np.bool_)


def scale_down(
    means: Float32s, counts: Sequence[int] | Counts, *, clip: float, noise: float, share: float
) -> tuple[Float32s, int]:
    """Return the groups' means (groups, d) and how many were scaled down.

    A mean is scaled down where its sum is longer than `longest_sum`.
    """
    points, weights = _checked(np.array(means, dtype=np.float64), counts, finite=True)
    scaled = 0
    for row, count in enumerate(weights):
        bound = longest_sum(int(count), clip=clip, noise=noise, coordinates=points.shape[1], share=share)
        length = float(count) * _length(points[row])
        if length > bound:
            points[row] *= bound / length
            scaled += 1
    return points.astype(np.float32), scaled


def centred_clipping(
    means: Float32s, counts: Sequence[int] | Counts, memory: Mapping[str, Float32s]
) -> tuple[Float32s, dict[str, Float32s]]:
    """Return one change from the means of groups, in which no group pulls farther than the median one.

    From the centre v, the last round's result, this takes three steps of v + sum of share * (x - v) * min(1,
    radius / |x - v|). The radius is the median distance of the groups from v, so nothing has to be tuned. The
    result is the same to the bit for the same groups in any order.

    Args:
        means: a mean for each group, (groups, d).
        counts: how many devices survived in each group, (groups,); a group weighs as many.
        memory: what the round before returned, by name; empty at first.

    Returns:
        The change (d,) and what to remember.

    Raises:
        ValueError: there is no group, counts do not fit, or a value is not finite (`drop_long` keeps those
            out).

    Reference:
        Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, section
        4.
    """
    points, weights = _checked(means, counts, finite=True)
    order = sorted(range(len(points)), key=lambda row: (points[row].tobytes(), weights[row]))
    points, weights = points[order], weights[order]
    share = weights / weights.sum()
    centre = memory.get(CENTRE, np.zeros(points.shape[1], np.float32)).astype(np.float64)
    if centre.shape != points.shape[1:]:
        raise ValueError(f"the remembered centre has the shape {centre.shape}, the means have {points.shape}")
    for _ in range(_STEPS):
        distances = np.sqrt(np.square(points - centre).sum(1))
        pull = share * np.minimum(1.0, float(np.median(distances)) / np.maximum(distances, _SMALLEST))
        centre = centre + pull @ points - pull.sum() * centre
    found = centre.astype(np.float32)
    return found, {CENTRE: found}


def _checked(means: Float32s, counts: Sequence[int] | Counts, *, finite: bool) -> tuple[Float64s, Float64s]:
    points, weights = np.asarray(means, dtype=np.float64), np.asarray(counts)
    if points.ndim != 2 or not points.size or weights.shape != points.shape[:1]:
        raise ValueError(
            f"means have the shape {points.shape} and counts {weights.shape}; (groups, d) and (groups,) are "
            "due"
        )
    if not np.issubdtype(weights.dtype, np.integer) or (weights < 1).any():
        raise ValueError("counts must be whole numbers from 1: a group that nobody survived has no mean")
    if finite and not np.isfinite(points).all():
        raise ValueError("means hold values that are not finite; leave out what drop_long does not keep")
    return points, weights.astype(np.float64)


def _length(vector: Float64s) -> float:
    """L2 length that squares cannot overflow."""
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(float(np.square(vector / largest).sum()))
