"""A random rotation of a vector, the same on both sides: no coordinate is much larger than another.

Where it stands in the flow: `coding` rotates a clipped change before it rounds it to levels, and turns the
mean of many back. A coarse grid costs least when all coordinates are about equally large, which a random
rotation makes of any vector. (Suresh et al., ICML 2017; as used with secure sums and noise by Kairouz, Liu
and Steinke, ICML 2021.)

A pass multiplies a window of the vector by random signs and applies the Hadamard transform, both orthonormal,
to it. The window is the largest power of two that fits, 65,536 of 96,641, first at the beginning, then at the
end, then at the beginning again, so that the vector need not be padded to 131,072: what is sent and what is
noised are as many numbers as there were. After three passes a weight from anywhere is spread over everything,
each coordinate holding between half and one and a half times its share.

The signs come from SHAKE-256 of a seed that all devices of a round share (the hash of its invitation). They
are public; they need only be independent of the vectors. No coordinate of a rotated vector of length L is
likely to be much above L / sqrt(window): it is sub-Gaussian with that parameter, whatever the vector
(`coding.ring_bits_needed` builds on this).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating]

PASSES: Final = 3


def window_of(count: int) -> int:
    """Return the largest power of two that is at most `count`, which is at least 1."""
    if count < 1:
        raise ValueError(f"count is {count}; there must be at least one coordinate")
    return 1 << (count.bit_length() - 1)


def rotated(vectors: Reals, seed: bytes) -> Reals:
    """Return vectors (..., d) rotated by what the seed says, of the same shape and type.

    Lengths stay as they are.
    """
    turned = np.array(vectors, order="C")
    for start, signs in _passes(turned.shape[-1], seed):
        window = turned[..., start : start + len(signs)]
        window *= signs.astype(turned.dtype)
        _hadamard(window)
    return turned


def rotated_back(vectors: Reals, seed: bytes) -> Reals:
    """Return what `rotated` with the same seed made these vectors (..., d) of, except for rounding."""
    turned = np.array(vectors, order="C")
    for start, signs in reversed(_passes(turned.shape[-1], seed)):
        window = turned[..., start : start + len(signs)]
        _hadamard(window)
        window *= signs.astype(turned.dtype)
    return turned


@lru_cache(maxsize=4)
def _passes(count: int, seed: bytes) -> list[tuple[int, NDArray[np.int8]]]:
    """Where each pass's window begins, and its signs, +1 or -1."""
    size = window_of(count)
    passes = []
    for number in range(PASSES):
        head = b"palate rotation 1" + number.to_bytes(1, "little") + count.to_bytes(8, "little")
        stream = hashlib.shake_256(head + seed).digest((size + 7) // 8)
        bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")[:size]
        passes.append((0 if number % 2 == 0 else count - size, (1 - 2 * bits.astype(np.int8))))
    return passes


def _hadamard(window: Reals) -> None:
    """Apply the orthonormal Walsh-Hadamard transform to the last axis (..., a power of two), in place."""
    size = window.shape[-1]
    # H of 2^(a+b) is the Kronecker product of H of 2^a and H of 2^b: two products with small matrices instead
    # of a + b sweeps.
    wide = 1 << (size.bit_length() // 2)
    grid = window.reshape(*window.shape[:-1], size // wide, wide)
    window[...] = (_matrix(size // wide, window.dtype.str) @ grid @ _matrix(wide, window.dtype.str)).reshape(
        window.shape
    )


@lru_cache(maxsize=8)
def _matrix(size: int, kind: str) -> Reals:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), dtype=kind)
