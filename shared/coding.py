"""Few bits both ways: a change as whole levels for a masked sum, an encoder as a short difference.

Where it stands in the flow: `client.federation.privatize` makes levels of a change and adds noise and masks
to them. The server gets their sum, and `from_levels` makes the mean change of it. The other way, the server
sends `encode_model` and each device reads it with `decode_model`. That encoder, the same to the last bit
everywhere, is the one that is trained.

**Levels** (Kairouz, Liu, Steinke, ICML 2021, "The distributed discrete Gaussian mechanism", algorithm 1). The
change is clipped to an L2 length and gets a vote at its end (below). The whole is rotated (`rotation`),
divided by the size of a level, and rounded up or down at random so that the mean is right. Rounding may
lengthen a vector, so it is repeated until the result is no longer than `sensitivity_of`. That is checked on
the whole numbers themselves, so the bound that privacy rests on holds exactly, whatever floats do. It holds
for adding or removing a device. The randomness of rounding need not be secret.

**The vote** says whether the change was shorter than the clip. It travels as one coordinate of ±`VOTE` clips,
noised and masked with the rest. With it the server follows the median length (`server.secure_sum.clipping`)
at half a percent of the privacy's price.

**The ring.** Sums are taken modulo 2^bits, and come back right as long as no coordinate reaches half of that.
`ring_bits_needed` and `finest_step` say how wide a ring must be, or how fine levels may be, with a stated
chance of failure.

**The encoder** travels as a difference to a release that both sides have: for each row a float32 scale, and a
whole number per weight.

    bits 1 (8, 6 or 32) | encoder_hash of the release 32 | encoder_hash of the result 32 | a scale per row
    | codes of the rows whose scale is not 0, packed

A code c of b bits stands for c - (2^(b-1) - 1), and a weight is release + scale · code, one float32 product
and one float32 sum. Rows with the scale 0 are as in the release and have no codes. A row's largest code is
plus or minus the limit. No bits are left over, since rows have multiples of four weights. With 32 bits the
tensors follow in float32 instead. The hash of the result shows whether it was read as it was meant; anything
else is refused. `tests/data/coding_vectors.json` holds test vectors.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.shared.arrays import Float32s, Levels
from palate.shared.encoder import (
    SHARED_SHAPES,
    SHARED_WEIGHTS,
    EncoderWeights,
    encoder_hash,
    flatten,
    unflatten,
)
from palate.shared.errors import OptionError, UpdateError
from palate.shared.noise import MOST_SIGMA, check_sigma
from palate.shared.rotation import rotated, rotated_back, window_of
from palate.shared.secure_sum.ring import pack, ring_type, unpack

VOTE: Final = 0.1  # in clips; the noise on the count of votes is then about 5 noise multipliers of devices
FAILURE: Final = 1e-6  # chance per round that a coordinate of the sum does not fit the ring

NOISE_PARTS: Final = 1_000  # of a level, to which a device's noise is rounded up
MOST_LEVELS: Final = 2**30  # of a clip: squares of lengths then fit 64 bits

_TRIES = 64  # each succeeds with a chance of 0.39 at the least
_MODEL_BITS: Final = (8, 6, 32)
_HEAD_BYTES = 1 + 32 + 32
_SMALLEST = float(np.finfo(np.float32).tiny)


# --- a change as levels -------------------------------------------------------------------------------------


def to_levels(
    vector: NDArray[np.floating], *, step: float, clip: float, seed: bytes, rng: np.random.Generator
) -> Levels:
    """Return a change (d,) as whole levels (d + 1,) of size `step`: clipped (L2), rotated, rounded.

    The mean over `rng` is the clipped and rotated change, except for what the bound on the length cuts off
    (almost nothing).

    Args:
        vector: the change, (d,).
        step: the size of a level.
        clip: the longest change (L2).
        seed: what the rotation follows from.
        rng: rounds at random.

    Returns:
        Levels with an L2 length of at most `sensitivity_of(clip, step, d)`; the last one is a vote.

    Raises:
        OptionError: a step or clip that is not above 0, more than 2^30 steps to a clip, or a vector that is
            not finite.
    """
    _check_grid(clip, step)
    given = np.asarray(vector, dtype=np.float64)
    if given.ndim != 1 or not np.isfinite(given).all():
        raise OptionError(f"a change of the shape {given.shape} must be one finite vector")
    norm = float(np.linalg.norm(given))
    below = norm <= clip
    voted = np.append(given if below else given * (clip / norm), VOTE * clip if below else -VOTE * clip)
    grid = rotated(voted, seed) / step
    lower = np.floor(grid)
    most = sensitivity_of(clip, step, len(given)) ** 2
    for _ in range(_TRIES):
        levels = (lower + (rng.random(len(grid)) < grid - lower)).astype(np.int64)
        if int(levels @ levels) <= most:
            return np.asarray(levels)
    return np.asarray(np.trunc(grid), dtype=np.int64)  # not longer than the vector itself


def from_levels(
    total: Levels, devices: int, *, step: float, clip: float, seed: bytes
) -> tuple[Float32s, float]:
    """Return the mean change (d,) of a sum of levels (d + 1,), and the share of changes below the clip.

    With noise in the sum there is noise in both, and the share may lie outside [0, 1].

    Raises:
        OptionError: a step or clip that is not above 0 and fewer than one device.
    """
    _check_grid(clip, step)
    if devices < 1:
        raise OptionError(f"devices is {devices}; a mean needs at least one")
    mean = rotated_back(np.asarray(total, dtype=np.float64) * (step / devices), seed)
    return mean[:-1].astype(np.float32), float((mean[-1] / (VOTE * clip) + 1) / 2)


def sensitivity_of(clip: float, step: float, count: int = SHARED_WEIGHTS) -> float:
    """Return the longest that the levels of one device's change of `count` weights can be, in levels (L2).

    By Kairouz, Liu and Steinke (2021), with beta = exp(-1/2): a round of rounding stays below with a chance
    of 0.39 at least. It is `clip / step` times sqrt(1 + VOTE²) and a little more: 1.3 % at 1,000 levels per
    clip, 5 % at 500, 60 % at 125.
    """
    _check_grid(clip, step)
    length, places = clip * math.hypot(1.0, VOTE) / step, count + 1
    likely = length**2 + places / 4 + length + math.sqrt(places) / 2
    return math.sqrt(min((length + math.sqrt(places)) ** 2, likely))


# --- how wide a ring ----------------------------------------------------------------------------------------


def ring_bits_needed(
    devices: int,
    *,
    clip: float,
    step: float,
    noise: float = 0.0,
    agreement: float = 1.0,
    count: int = SHARED_WEIGHTS,
    failure: float = FAILURE,
) -> int:
    """Return how many bits a ring needs for the sum of so many devices' levels with `noise` levels each.

    A coordinate of the rotated sum is sub-Gaussian: its parameter squared is at most (length of the sum)² /
    window for what is summed, 1/4 per device for rounding and `noise`² per device. By the union bound over
    all coordinates none reaches half the ring, except with a chance of `failure` over the rotation's seed. A
    sum that does not fit comes back wrong by the ring's size in that coordinate, and cannot be told from a
    right one.

    Args:
        devices: how many levels are summed.
        clip: the longest change of each (L2).
        step: the size of a level.
        noise: the standard deviation of each device's noise, in levels.
        agreement: the length of the sum of the clipped changes over `devices` times the clip. 1 holds for any
            changes. Devices differ, so the figure of earlier rounds, with room above it, may be given.
        count: how many numbers a change has.
        failure: the chance that some coordinate does not fit.
    """
    reach = _reach(devices, clip, step, noise, agreement, count, failure)
    return math.ceil(math.log2(2 * (reach + 1)))


def finest_step(
    ring_bits: int,
    devices: int,
    *,
    clip: float,
    noise_multiplier: float = 0.0,
    agreement: float = 1.0,
    count: int = SHARED_WEIGHTS,
    failure: float = FAILURE,
) -> tuple[float, float]:
    """Return the smallest level that fits a ring and the noise's sampler, and each device's noise in levels.

    Args:
        ring_bits: the width of the ring.
        devices: how many levels are summed.
        clip: the longest change of each (L2).
        noise_multiplier: the standard deviation of the noise of `devices` together, over the sensitivity.
            With fewer devices in the sum there is less, so give the smallest number that is accepted.
        agreement: as in `ring_bits_needed`.
        count: how many numbers a change has.
        failure: as in `ring_bits_needed`.

    Raises:
        OptionError: no step fits.
    """

    def noise_at(step: float) -> float:
        # Rounded up, since the same ratio comes out with another last bit for another clip, and devices make
        # a table for each new one.
        exact = noise_multiplier * sensitivity_of(clip, step, count) / math.sqrt(devices)
        return math.ceil(exact * NOISE_PARTS) / NOISE_PARTS

    def fits(step: float) -> bool:
        noise = noise_at(step)
        if noise > MOST_SIGMA:  # a wider ring would hold it, the sampler does not
            return False
        return _reach(devices, clip, step, noise, agreement, count, failure) + 1 <= 2.0 ** (ring_bits - 1)

    coarse, fine = clip, clip / MOST_LEVELS
    if not fits(coarse):
        raise OptionError(
            f"{ring_bits} bits are too few for {devices:,} devices with a noise multiplier of "
            f"{noise_multiplier:g}; take a wider ring or fewer devices"
        )
    for _ in range(60):
        middle = math.sqrt(coarse * fine)
        coarse, fine = (middle, fine) if fits(middle) else (coarse, middle)
    step = coarse * (1 + 1e-9)  # so that it fits whichever way it is computed
    return step, check_sigma(noise_at(step))


def _reach(
    devices: int, clip: float, step: float, noise: float, agreement: float, count: int, failure: float
) -> float:
    """Return what a coordinate of the sum exceeds with the chance `failure` at most, in levels."""
    _check_grid(clip, step)
    if devices < 1 or not 0 < agreement <= 1 or not 0 < failure < 1 or not noise >= 0:
        raise OptionError(
            f"devices {devices!r}, agreement {agreement!r}, failure {failure!r}, noise {noise!r}: "
            "there must be a device, the others must be from 0 to 1, and noise at least 0"
        )
    # Each device's vote is a coordinate of the vector too; all may vote the same.
    longest = devices * clip * math.hypot(agreement, VOTE) / step
    square = longest**2 / window_of(count + 1) + devices / 4 + devices * noise**2
    return math.sqrt(2 * math.log(2 * (count + 1) / failure) * square)


def _check_grid(clip: float, step: float) -> None:
    for name, value in (("clip", clip), ("step", step)):
        if not 0 < value < math.inf:
            raise OptionError(f"{name} is {value!r}; it must be a number above 0")
    if clip > MOST_LEVELS * step:
        raise OptionError(f"clip is {clip!r} and step {step!r}; a clip has at most {MOST_LEVELS:,} steps")


# --- the encoder as a difference ----------------------------------------------------------------------------


def model_bytes(bits: int, weights: int = SHARED_WEIGHTS) -> int:
    """Return how long an encoder is in so many bits for each weight, with so many weights in changed rows.

    All of them take 98,253 bytes with 8 bits, 74,093 with 6 and 386,625 with 32.

    Raises:
        OptionError: other bits.
    """
    if bits not in _MODEL_BITS:
        raise OptionError(f"bits is {bits!r}; it must be one of {', '.join(map(str, _MODEL_BITS))}")
    if bits == 32:
        return _HEAD_BYTES + 4 * SHARED_WEIGHTS
    return _HEAD_BYTES + 4 * len(_row_sizes()) + (weights * bits + 7) // 8


def encode_model(encoder: EncoderWeights, base: EncoderWeights, bits: int = 8) -> bytes:
    """Return the encoder as a difference from the release `base`, in 8, 6 or 32 bits for each weight.

    What travels is the nearest encoder that can be written: take `decode_model` of the bytes for the one that
    devices train.

    Raises:
        OptionError: other bits.
        ModelError: the difference overflows.
    """
    model_bytes(bits)
    if bits == 32:
        body = b"".join(
            np.ascontiguousarray(encoder.tensors[n], dtype="<f4").tobytes() for n in SHARED_SHAPES
        )
        return _head(bits, base, base.with_shared(encoder.shared())) + body
    limit = _limit(bits)
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite, which the encoder refuses
        difference = flatten(encoder.tensors) - flatten(base.tensors)
        scales = (np.maximum.reduceat(np.abs(difference), _row_starts()) / limit).astype(np.float32)
        scales[scales < _SMALLEST] = 0
        spread = np.repeat(scales, _row_sizes())
        nearest = np.rint(np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0))
        codes = np.clip(nearest, -limit, limit).astype(np.int64)
        result = base.with_shared(unflatten(_moved(base, scales, codes)))
    packed = pack((codes + limit)[spread > 0].astype(ring_type(bits)), bits)
    return _head(bits, base, result) + scales.astype("<f4").tobytes() + packed


def decode_model(data: bytes, base: EncoderWeights) -> EncoderWeights:
    """Return the encoder of these bytes, over the release that is installed here, the same bits everywhere.

    Raises:
        UpdateError: unless the bytes are exactly what `encode_model` returns for that encoder and this
            release: `number` for bits that are none of ours, `size`, `base` for another release, `tensors`
            for scales or codes of another form, `finite`, and `damaged` when what was read is not what was
            meant.
    """
    if not isinstance(data, bytes) or not data or data[0] not in _MODEL_BITS:
        raise UpdateError("the encoder does not begin with its bits per weight, 8, 6 or 32", "number")
    bits = data[0]
    _check_size(data, bits, model_bytes(bits, 0), model_bytes(bits))
    if data[1:33].hex() != encoder_hash(base):
        raise UpdateError(
            f"the encoder is a difference to the release {data[1:33].hex()[:12]}, not to that which is "
            "installed here; install the release that the server uses",
            "base",
        )
    if bits == 32:
        weights = np.frombuffer(data, "<f4", SHARED_WEIGHTS, _HEAD_BYTES).astype(np.float32)
        if not np.isfinite(weights).all():
            raise UpdateError("the encoder holds values that are not finite", "finite")
        result = base.with_shared(unflatten(weights))
    else:
        result = _read_difference(data, base, bits)
    if data[33:65].hex() != encoder_hash(result):
        raise UpdateError("the encoder is not the one that was sent; ask for it again", "damaged")
    return result


def _check_size(data: bytes, bits: int, least: int, most: int) -> None:
    if not least <= len(data) <= most:
        size = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        raise UpdateError(
            f"the encoder has {len(data):,} bytes; with {bits} bits per weight it has {size}", "size"
        )


def _read_difference(data: bytes, base: EncoderWeights, bits: int) -> EncoderWeights:
    rows, limit = len(_row_sizes()), _limit(bits)
    scales = np.frombuffer(data, "<f4", rows, _HEAD_BYTES).astype(np.float32)
    if not np.isfinite(scales).all():
        raise UpdateError("the encoder's scales are not finite", "finite")
    differing = np.repeat(scales > 0, _row_sizes())
    count = int(differing.sum())
    _check_size(data, bits, model_bytes(bits, count), model_bytes(bits, count))
    packed = data[_HEAD_BYTES + 4 * rows :]
    codes = np.zeros(SHARED_WEIGHTS, np.int64)
    codes[differing] = unpack(packed, count, bits).astype(np.int64) - limit
    largest = np.maximum.reduceat(np.abs(codes), _row_starts())
    whole = np.where(scales > 0, (largest == limit) & (scales >= _SMALLEST), largest == 0)
    if np.signbit(scales).any() or not whole.all() or codes.max() > limit:
        raise UpdateError(
            "the encoder's scales and codes do not have the form that they must have", "tensors"
        )
    weights = _moved(base, scales, codes)
    if not np.isfinite(weights).all():
        raise UpdateError("the encoder holds values that are not finite", "finite")
    return base.with_shared(unflatten(weights))


def _moved(base: EncoderWeights, scales: Float32s, codes: Levels) -> Float32s:
    """Return the weights of the result.

    Where the code is 0 they are the release's own, the sign of a zero included.
    """
    start = flatten(base.tensors)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return np.where(codes == 0, start, start + np.repeat(scales, _row_sizes()) * codes.astype(np.float32))


def _head(bits: int, base: EncoderWeights, result: EncoderWeights) -> bytes:
    return bytes([bits]) + bytes.fromhex(encoder_hash(base)) + bytes.fromhex(encoder_hash(result))


def _limit(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


def _row_sizes() -> NDArray[np.int64]:
    """How many weights each row has: those of matrices by themselves, and each bias as one."""
    sizes = [[shape[-1]] * (math.prod(shape) // shape[-1]) for shape in SHARED_SHAPES.values()]
    return np.concatenate([np.array(rows, dtype=np.int64) for rows in sizes])


def _row_starts() -> NDArray[np.int64]:
    sizes = _row_sizes()
    return np.cumsum(sizes) - sizes
