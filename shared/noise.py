"""Noise that hides one person in a sum: the discrete Gaussian, drawn from a cryptographic source.

Where it stands in the flow: a device clips, rotates and rounds its change to whole levels (`coding`), adds
its share of noise from here (`client.federation.privatize`), and masks the result. The server never sees a
sum without noise. The noise is in whole numbers for two reasons: masks work on a ring, and floats sampled in
the usual way give the true value away in their last bits (Mironov, CCS 2012).

    P(k) is proportional to exp(-k² / (2 sigma²)), k whole   (Canonne, Kamath, Steinke, NeurIPS 2020)

It hides a sum as well as a Gaussian of the same sigma does. The sum of many devices' shares is not exactly
one discrete Gaussian, but nearly (Kairouz, Liu, Steinke, ICML 2021); `distance_of_sum` bounds the difference.

**How it is drawn.** The distribution function is computed in whole numbers with 256 bits behind the point and
kept with 128. A draw takes 64 random bits and finds the values of the function between which they lie. In the
rare case (less than once in 2^47 draws) that 64 bits do not decide, it takes 64 more. So each value comes
with its true probability up to 2^-128, and the total variation distance from the true distribution is below
`DISTANCE` per draw: for 10^5 weights, 10^6 rounds and any sigma allowed, below 2^-70. The time of a look-up
depends on the machine's caches and so, faintly, on the noise. This module does not keep out an attacker who
can time instructions on the device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.shared.arrays import Levels
from palate.shared.errors import OptionError

Source = Callable[[int], bytes]
"""Return so many random bytes: `os.urandom`, or `stream_of` a key where a run must be repeatable."""


MOST_SIGMA: Final = 16_384.0
LEAST_SIGMA: Final = 0.1
DISTANCE: Final = 2.0**-109
"""More than the total variation distance of one draw from the true distribution.

There are at most 2^18.8 values, each wrong by at most 2^-128 in the distribution function, and tails of less
than 2^-128 are left out.
"""

_POINT = 256  # bits behind the point while the distribution function is summed up
_KEPT = 128
_TAIL = 13.5  # standard deviations; beyond lies less than 2^-128


def stream_of(key: bytes) -> Source:
    """Return a source whose bytes are the AES-256-CTR key stream of a 32-byte key, from its beginning.

    For tests, vectors and simulations. A device takes `os.urandom`.

    Raises:
        OptionError: a key of another length.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    if len(key) != 32:
        raise OptionError(f"the key has {len(key)} bytes; it must have 32")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda count: encryptor.update(bytes(count))


def discrete_gaussian(sigma: float, count: int, source: Source = os.urandom) -> Levels:
    """Return `count` independent draws, whole levels with standard deviation about `sigma`.

    Args:
        sigma: 0 for zeros, or 0.1 to 16,384. From 1 on the standard deviation is `sigma` to eight digits;
            below it is smaller.
        count: how many.
        source: gives random bytes.

    Raises:
        OptionError: a sigma out of range.

    Reference:
        Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020.
    """
    if check_sigma(sigma) == 0:
        return np.zeros(count, np.int64)
    high, low = _distribution(sigma)
    words = np.frombuffer(source(8 * count), "<u8")
    places = np.searchsorted(high, words, side="right")
    # Where the 64 bits equal those of a value of the function, the draw lies on either side of it: look at 64
    # bits more.
    for row in np.flatnonzero((places > 0) & (high[places - 1] == words)):
        more = int.from_bytes(source(8), "little")
        first = int(np.searchsorted(high, words[row], side="left"))
        places[row] = first + sum(bound <= more for bound in low[first : places[row]].tolist())
    return np.asarray(places - len(high) // 2, dtype=np.int64)


def check_sigma(sigma: float) -> float:
    """Return the standard deviation; raises OptionError unless it is 0 or from 0.1 to 16,384."""
    if not (sigma == 0 or LEAST_SIGMA <= sigma <= MOST_SIGMA):
        raise OptionError(
            f"the noise's sigma is {sigma!r} levels; it must be 0 or a number from {LEAST_SIGMA} to "
            f"{MOST_SIGMA:,.0f}"
        )
    return float(sigma)


def distance_of_sum(sigma: float, devices: int) -> float:
    """Return how far the sum of so many devices' draws is from one discrete Gaussian, per weight, at most.

    The tau of Kairouz, Liu and Steinke (ICML 2021): the largest logarithm of the ratio of the two
    probabilities. It falls very fast: 5 · 10^-4 for a sigma of 1, below 10^-16 from a sigma of 2 on.
    """
    check_sigma(sigma)
    if devices < 2 or sigma == 0:
        return 0.0
    terms = np.arange(1, devices, dtype=np.float64)
    return float(10 * np.exp(-2 * math.pi**2 * sigma**2 * terms / (terms + 1)).sum())


@lru_cache(maxsize=4)
def _distribution(sigma: float) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """P(X <= k) in units of 2^-128, upper and lower 64 bits, for k from -K to K - 1; P(X <= K) is all."""
    last = math.ceil(_TAIL * sigma)
    exact = Fraction(sigma)
    with localcontext() as context:
        context.prec = 120
        square = 2 * exact * exact
        power = (Decimal(-square.denominator) / Decimal(square.numerator)).exp()  # exp(-1 / (2 sigma²))
        first = int(power * 2**_POINT)
    # exp(-k² / (2 sigma²)) from its neighbour: times exp(-(2k - 1) / (2 sigma²)), which itself grows by a
    # constant factor.
    weights, ratio, twice = [1 << _POINT], first, first * first >> _POINT
    for _ in range(last):
        weights.append(weights[-1] * ratio >> _POINT)
        ratio = ratio * twice >> _POINT
    weights = [weight for weight in weights if weight]  # the tails of a small sigma fall below the last bit
    both_sides = weights[:0:-1] + weights
    sums = list(accumulate(both_sides))
    total = sums[-1]
    bounds = [(value << _KEPT) // total for value in sums[:-1]]
    words = np.frombuffer(b"".join(bound.to_bytes(16, "little") for bound in bounds), "<u8").reshape(-1, 2)
    return words[:, 1].astype(np.uint64), words[:, 0].astype(np.uint64)
