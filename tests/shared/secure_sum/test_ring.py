"""Ring vectors: packing without a wasted bit, wrap-around sums, and masks that depend on all of their key."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.shared.errors import MaskError
from palate.shared.secure_sum.ring import (
    add_masks,
    centred,
    mask_of,
    pack,
    packed_bytes,
    ring_type,
    to_ring,
    unpack,
)

BITS = list(range(2, 33))


def random_values(count: int, bits: int) -> np.ndarray:
    return np.random.default_rng(bits).integers(0, 1 << bits, count).astype(ring_type(bits))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 101])
def test_packed_values_are_one_long_number_without_gaps(bits: int, count: int) -> None:
    values = random_values(count, bits)
    number = sum(int(value) << (i * bits) for i, value in enumerate(values))
    packed = pack(values, bits)
    assert packed == number.to_bytes(-(-count * bits // 8), "little")
    assert (unpack(packed, count, bits) == values).all()


def test_twelve_bits_take_a_byte_and_a_half() -> None:
    assert packed_bytes(75_000, 12) == 112_500
    assert len(pack(random_values(75_000, 12), 12)) == 112_500


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 32), st.binary(max_size=80), st.integers(0, 100))
def test_any_bytes_are_refused_or_pack_to_themselves(bits: int, data: bytes, count: int) -> None:
    try:
        values = unpack(data, count, bits)
    except MaskError:
        assert len(data) != packed_bytes(count, bits) or int.from_bytes(data, "little") >> count * bits
    else:
        assert pack(values, bits) == data


def test_bits_behind_the_last_value_are_refused() -> None:
    with pytest.raises(MaskError, match="behind the last") as caught:
        unpack(b"\x80", 1, 7)
    assert caught.value.reason == "padding"


@pytest.mark.parametrize("bits", [2, 7, 8, 12, 16, 31, 32])
def test_sums_wrap_around_and_come_back_centred(bits: int) -> None:
    half = 1 << (bits - 1)
    ends = np.array([-half, -1, 0, 1, half - 1], np.int64)
    assert (centred(to_ring(ends, bits), bits) == ends).all()
    over = to_ring(ends, bits) + to_ring(np.ones(5, np.int64), bits)
    assert centred(over, bits).tolist() == [-half + 1, 0, 1, 2 - (1 << bits if bits == 2 else 0), -half]


@pytest.mark.parametrize("bits", [5, 8, 12, 16, 20, 32])
def test_a_mask_that_is_added_and_taken_away_leaves_nothing(bits: int) -> None:
    values = random_values(1_000, bits)
    total = values.copy()
    add_masks(total, [(b"k" * 32, False)])
    assert (total != values).mean() > 0.9 * (1 - 0.5**bits)
    add_masks(total, [(b"k" * 32, True)])
    assert (total == values).all()


def test_the_key_stream_is_the_encryption_of_counters_from_zero() -> None:
    key = bytes(range(32))
    blocks = b"".join(number.to_bytes(16, "big") for number in range(4))
    by_hand = Cipher(AES256(key), ECB()).encryptor().update(blocks)  # noqa: S305 - block by block, to compare
    assert mask_of(key, 64, 8).tobytes() == by_hand
    assert by_hand[:16].hex() == "f29000b62a499fd0a9f39a6add2e7780"
    assert mask_of(key, 32, 12).tolist() == [n & 0xFFF for n in np.frombuffer(by_hand, "<u2")]
    assert mask_of(key, 16, 17).tolist() == [n & 0x1FFFF for n in np.frombuffer(by_hand, "<u4")]


@pytest.mark.parametrize("bits", [4, 8, 11])
def test_a_mask_is_uniform_over_the_ring(bits: int) -> None:
    count = 1 << (bits + 7)
    seen = np.bincount(mask_of(b"u" * 32, count, bits), minlength=1 << bits)
    assert len(seen) == 1 << bits
    freedom = len(seen) - 1
    chi = float(((seen - 128.0) ** 2 / 128.0).sum())
    assert abs(chi - freedom) < 6 * (2 * freedom) ** 0.5


def test_every_bit_of_the_key_changes_the_mask() -> None:
    plain = mask_of(bytes(32), 64, 16)
    for bit in range(256):
        other = mask_of((1 << bit).to_bytes(32, "little"), 64, 16)
        assert (other == plain).sum() < 4


@pytest.mark.parametrize("bits", [0, 1, 33, -1, True, 8.0])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="ring_bits"):
        ring_type(bits)


@pytest.mark.parametrize("levels", [np.zeros(3), np.zeros((2, 2), np.int64), np.zeros(3, np.int32), [1, 2]])
def test_levels_of_another_type_are_refused(levels: object) -> None:
    with pytest.raises(ValueError, match="int64"):
        to_ring(levels, 8)  # type: ignore[arg-type]
