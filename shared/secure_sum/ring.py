"""Vectors of whole numbers modulo 2^ring_bits: the arithmetic in which masks cancel, and its bytes.

Where it stands in the flow: a device's update has become whole levels, `masks` says which keys mask them,
this module adds the key streams and packs the result; the server unpacks, adds up, and takes out what is left
of the masks.

A ring vector is held in the smallest unsigned type with room for ring_bits, and wraps around there. Since
2^ring_bits divides what the type wraps at, its upper bits may hold anything until the end: they are cut off
when it is packed.

Packed, value i takes the bits i * ring_bits to (i + 1) * ring_bits of one long number, written little endian;
the bits of the last byte that are left over are zero. A key stream is AES-256 in counter mode over zeros, the
counter starting at zero (each key makes one stream only); value i of a mask is the i-th little-endian number
of 1, 2 or 4 bytes in it, modulo 2^ring_bits. It is uniform and depends on all 256 bits of its key, which is
what hides the sum under it (Bonawitz et al., CCS 2017).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from palate.shared.arrays import Levels
from palate.shared.errors import MaskError

Ring = NDArray[np.unsignedinteger[Any]]
"""A vector modulo 2^ring_bits, in uint8, uint16 or uint32; bits above ring_bits mean nothing."""


LEAST_BITS: Final = 2
MOST_BITS: Final = 32
_LANES = 8  # so many values fill exactly ring_bits bytes
_BLOCK = 16


def ring_type(ring_bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the smallest unsigned type that holds ring_bits, little endian.

    Raises:
        ValueError: outside 2 to 32 bits.
    """
    if type(ring_bits) is not int or not LEAST_BITS <= ring_bits <= MOST_BITS:
        raise ValueError(f"ring_bits is {ring_bits!r}; it must be from {LEAST_BITS} to {MOST_BITS}")
    return np.dtype("<u1" if ring_bits <= 8 else "<u2" if ring_bits <= 16 else "<u4")


def to_ring(levels: Levels, ring_bits: int) -> Ring:
    """Return int64 levels (d,) as a new ring vector (d,): modulo 2^ring_bits, negative ones from the top.

    Raises:
        ValueError: another type or shape.
    """
    if not isinstance(levels, np.ndarray) or levels.dtype != np.int64 or levels.ndim != 1:
        raise ValueError("levels must be a vector of int64")
    return levels.astype(ring_type(ring_bits))  # which keeps the low bits


def centred(values: Ring, ring_bits: int) -> Levels:
    """Return a ring vector (d,) as int64 from -2^(ring_bits - 1) to 2^(ring_bits - 1) - 1."""
    half = 1 << (ring_bits - 1)
    low = values.astype(np.int64) & ((1 << ring_bits) - 1)
    return (low ^ half) - half


def packed_bytes(count: int, ring_bits: int) -> int:
    """Return how many bytes `count` values take: count times ring_bits bits, rounded up to a byte once."""
    return -(-count * ring_bits // 8)


def pack(values: Ring, ring_bits: int) -> bytes:
    """Return the low ring_bits bits of each value (d,), one after the other without gaps."""
    dtype = ring_type(ring_bits)
    count = len(values)
    if ring_bits == 8 * dtype.itemsize:
        return np.ascontiguousarray(values, dtype).tobytes()
    groups = -(-count // _LANES)
    padded = np.zeros(groups * _LANES, np.uint32)
    np.bitwise_and(values, dtype.type((1 << ring_bits) - 1), out=padded[:count], casting="unsafe")
    lanes = np.ascontiguousarray(padded.reshape(groups, _LANES).T)  # (8, groups)
    packed = np.empty((groups, ring_bits), np.uint8)
    for byte in range(ring_bits):
        column = np.zeros(groups, np.uint32)
        for lane in range(8 * byte // ring_bits, (8 * byte + 7) // ring_bits + 1):
            shift = lane * ring_bits - 8 * byte
            column |= lanes[lane] << np.uint32(shift) if shift >= 0 else lanes[lane] >> np.uint32(-shift)
        packed[:, byte] = column  # the low 8 bits
    return packed.tobytes()[: packed_bytes(count, ring_bits)]


def unpack(data: bytes, count: int, ring_bits: int) -> Ring:
    """Return the `count` values that were packed.

    Raises:
        MaskError: another length, or bits set behind the last value.
    """
    dtype = ring_type(ring_bits)
    size = packed_bytes(count, ring_bits)
    if len(data) != size:
        raise MaskError(
            f"{count:,} values of {ring_bits} bits take {size:,} bytes, not {len(data):,}", "size"
        )
    left = 8 * size - count * ring_bits
    if left and data[-1] >> (8 - left):
        raise MaskError("bits behind the last value are set; they must be zero", "padding")
    if ring_bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype).copy()
    groups = -(-count // _LANES)
    padded = np.zeros(groups * ring_bits, np.uint8)
    padded[:size] = np.frombuffer(data, np.uint8)
    columns = np.ascontiguousarray(padded.reshape(groups, ring_bits).T).astype(np.uint32)
    values = np.empty((groups, _LANES), dtype)
    low = np.uint32((1 << ring_bits) - 1)
    for lane in range(_LANES):
        value = np.zeros(groups, np.uint32)
        for byte in range(lane * ring_bits // 8, ((lane + 1) * ring_bits - 1) // 8 + 1):
            shift = 8 * byte - lane * ring_bits
            value |= columns[byte] << np.uint32(shift) if shift >= 0 else columns[byte] >> np.uint32(-shift)
        values[:, lane] = value & low
    return values.reshape(-1)[:count].copy()


def add_masks(total: Ring, keys: Iterable[tuple[bytes, bool]]) -> None:
    """Add masks to a ring vector (d,) in place: the stream of each 32-byte key, subtracted where flagged."""
    size = total.nbytes
    zeros, spare = bytes(size), bytearray(size + _BLOCK)
    stream: Ring = np.frombuffer(spare, total.dtype, len(total))
    for key, negative in keys:
        # A counter from zero is sound because no key ever makes a second stream of another content.
        Cipher(AES256(key), CTR(bytes(_BLOCK))).encryptor().update_into(zeros, spare)
        (np.subtract if negative else np.add)(total, stream, out=total)


def mask_of(key: bytes, count: int, ring_bits: int) -> Ring:
    """Return the mask (count,) that a 32-byte key stands for, modulo 2^ring_bits."""
    total: Ring = np.zeros(count, ring_type(ring_bits))
    add_masks(total, [(key, False)])
    return total & total.dtype.type((1 << ring_bits) - 1)
