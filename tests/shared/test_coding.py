"""Levels of a change and the coded encoder: hostile input, the exact bound, unbiased rounding, rings,
vectors."""

import hashlib
import json
import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from palate.shared import coding
from palate.shared.coding import (
    VOTE,
    decode_model,
    encode_model,
    finest_step,
    from_levels,
    model_bytes,
    ring_bits_needed,
    sensitivity_of,
    to_levels,
)
from palate.shared.encoder import (
    SHARED_SHAPES,
    SHARED_WEIGHTS,
    EncoderWeights,
    encoder_hash,
    flatten,
    load_encoder,
    unflatten,
)
from palate.shared.errors import ModelError, OptionError, UpdateError
from palate.shared.rotation import rotated, rotated_back, window_of

VECTORS = json.loads(
    (Path(__file__).parent.parent / "data" / "coding_vectors.json").read_text(encoding="utf-8")
)
SEED = b"round 1"
ROWS = 256 + 1 + 64 + 1 + 64 + 1
HEAD = 65


@cache
def base() -> EncoderWeights:
    return load_encoder()


@cache
def trained() -> EncoderWeights:
    """The release with a change that is a whole number over a power of two in every weight, some rows without
    any."""
    flat = (((40503 * np.arange(SHARED_WEIGHTS) + 7) % 65536 - 32768) / 2**21).astype(np.float32)
    flat[:432] = 0
    return base().with_shared(unflatten(flatten(base().tensors) + flat))


def reason_of(data: bytes, release: EncoderWeights | None = None) -> str:
    with pytest.raises(UpdateError) as caught:
        decode_model(data, base() if release is None else release)
    return caught.value.reason


def changed(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


# --- the coded encoder: hostile input first -----------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 6, 32])
def test_two_thousand_mutations_of_a_coded_encoder_are_all_refused(bits: int) -> None:
    data, rng = encode_model(trained(), base(), bits), random.Random(bits)
    for _ in range(2000 if bits == 6 else 300):
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(HEAD + 4 * ROWS)
        kind = rng.randrange(3)
        if kind == 0:
            bad = changed(data, place, bytes([data[place] ^ 1 << rng.randrange(8)]))
        elif kind == 1:
            bad = data[:place]
        else:
            bad = data + rng.randbytes(rng.randrange(1, 9))
        reason_of(bad)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x08", b"\x07" * 98253, None, "text", 5])
def test_what_is_no_coded_encoder_is_refused(data: object) -> None:
    assert reason_of(data) in ("number", "size")  # type: ignore[arg-type]


def test_an_encoder_over_another_release_is_refused() -> None:
    assert reason_of(encode_model(base(), trained(), 8)) == "base"


@pytest.mark.parametrize("bits", [8, 6])
def test_scales_that_no_sender_writes_are_refused(bits: int) -> None:
    data = encode_model(trained(), base(), bits)
    row = HEAD + 4 * 100
    for scale, reason in (
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-0.001, "size"),
        (0.0, "size"),  # codes without a scale
        (1e-41, "tensors"),  # too small to have all its digits
        (3e38, "finite"),  # runs over
    ):
        assert reason_of(changed(data, row, np.float32(scale).tobytes())) == reason
    still = HEAD  # the first row has no difference: its scale is +0 and nothing else
    assert reason_of(changed(data, still, np.float32(-0.0).tobytes())) == "tensors"
    assert reason_of(changed(data, still, np.float32(0.5).tobytes())) == "size"
    silent = data[: HEAD + 4 * ROWS] + bytes([2 ** (bits - 1) - 1]) * (len(data) - HEAD - 4 * ROWS)
    assert reason_of(silent) == "tensors"  # a scale, but not the largest code anywhere


def test_a_code_beyond_the_limit_is_refused() -> None:
    data = encode_model(trained(), base(), 8)
    assert reason_of(changed(data, HEAD + 4 * ROWS + 500, b"\xff")) == "tensors"


def test_a_code_that_still_has_the_form_but_is_not_what_was_sent_is_refused() -> None:
    data = encode_model(trained(), base(), 8)
    place = HEAD + 4 * ROWS + 60_000
    assert 0 < data[place] < 253
    assert reason_of(changed(data, place, bytes([data[place] + 1]))) == "damaged"


def test_weights_that_are_not_finite_are_refused() -> None:
    data = encode_model(trained(), base(), 32)
    assert reason_of(changed(data, HEAD + 400, np.float32(math.nan).tobytes())) == "finite"


def test_a_difference_that_overflows_is_not_coded() -> None:
    far = {name: np.full(shape, 3e38, np.float32) for name, shape in SHARED_SHAPES.items()}
    near = {name: np.full(shape, -3e38, np.float32) for name, shape in SHARED_SHAPES.items()}
    with pytest.raises(ModelError):
        encode_model(base().with_shared(far), base().with_shared(near), 8)


@pytest.mark.parametrize("bits", [0, 7, 16, 33, -8])
def test_other_bits_per_weight_are_refused(bits: int) -> None:
    with pytest.raises(OptionError, match="bits"):
        encode_model(base(), base(), bits)


# --- the coded encoder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "size", "error"), [(8, 98_253 - 432, 0.008), (6, 74_093 - 324, 0.032), (32, 386_625, 0.0)]
)
def test_a_coded_encoder_is_short_and_near(bits: int, size: int, error: float) -> None:
    data = encode_model(trained(), base(), bits)
    assert len(data) == model_bytes(bits, SHARED_WEIGHTS - 432) == size  # two rows are as in the release
    found = decode_model(data, base())
    wanted = flatten(trained().tensors) - flatten(base().tensors)
    missed = flatten(found.tensors) - flatten(trained().tensors)
    assert np.linalg.norm(missed) <= error * np.linalg.norm(wanted)
    assert found.release == base().release
    assert data[33:65].hex() == encoder_hash(found)


@pytest.mark.parametrize("bits", [8, 6, 32])
def test_the_release_itself_is_coded_exactly(bits: int) -> None:
    data = encode_model(base(), base(), bits)
    assert encoder_hash(decode_model(data, base())) == encoder_hash(base())
    assert len(data) == model_bytes(bits, 0)
    assert bits == 32 or len(data) == HEAD + 4 * ROWS


def test_each_weight_is_within_half_a_step_of_its_row() -> None:
    found = decode_model(encode_model(trained(), base(), 6), base())
    for name, tensor in found.tensors.items():
        if name in SHARED_SHAPES:
            rows = np.atleast_2d(trained().tensors[name] - base().tensors[name])
            missed = np.atleast_2d(tensor - trained().tensors[name])
            step = np.abs(rows).max(1, keepdims=True) / 31
            assert (np.abs(missed) <= step * 0.5001 + 1e-6).all()


def test_rows_as_in_the_release_take_no_codes() -> None:
    shared = base().shared()
    shared["picture.taste.weight"][3] += 0.25
    moved = base().with_shared(shared)
    data = encode_model(moved, base(), 8)
    assert len(data) == model_bytes(8, 256) == HEAD + 4 * ROWS + 256
    found = decode_model(data, base())
    for name in SHARED_SHAPES:
        still = np.ones(found.tensors[name].shape, bool)
        if name == "picture.taste.weight":
            still[3] = False
        assert (found.tensors[name][still] == base().tensors[name][still]).all()
    assert np.allclose(found.tensors["picture.taste.weight"][3], shared["picture.taste.weight"][3], atol=2e-3)


def test_every_row_has_a_multiple_of_four_weights() -> None:
    assert (coding._row_sizes() % 4 == 0).all()  # so codes of six bits leave no bits over


def test_coded_encoders_are_those_of_the_vectors() -> None:
    for one in VECTORS["models"]:
        data = encode_model(trained(), base(), one["bits"])
        assert hashlib.sha256(data).hexdigest() == one["sha256"]
        assert encoder_hash(decode_model(data, base())) == one["encoder"]


# --- levels: hostile input first ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [np.full(5, np.nan), np.array([1.0, np.inf]), np.zeros((2, 3)), np.float64(3)]
)
def test_a_change_that_is_no_finite_vector_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(OptionError, match="finite vector"):
        to_levels(bad, step=0.1, clip=1.0, seed=SEED, rng=np.random.default_rng(1))


@pytest.mark.parametrize(
    ("step", "clip"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)]
)
def test_a_grid_that_is_none_is_refused(step: float, clip: float) -> None:
    with pytest.raises(OptionError, match="above 0"):
        to_levels(np.ones(4), step=step, clip=clip, seed=SEED, rng=np.random.default_rng(1))


def test_steps_so_fine_that_lengths_would_run_over_are_refused() -> None:
    with pytest.raises(OptionError, match="at most"):
        to_levels(np.ones(4), step=1e-12, clip=1.0, seed=SEED, rng=np.random.default_rng(1))
    levels = to_levels(np.ones(4), step=2.0**-30, clip=1.0, seed=SEED, rng=np.random.default_rng(1))
    assert 0 < int(levels @ levels) <= sensitivity_of(1.0, 2.0**-30, 4) ** 2


@pytest.mark.parametrize("step", [1e-4, 0.01, 0.1, 1.0, 7.0])
@pytest.mark.parametrize("size", [0.0, 0.5, 1.0, 1e30])
def test_no_vector_gives_levels_longer_than_the_sensitivity(step: float, size: float) -> None:
    rng = np.random.default_rng(2)
    for count in (1, 7, 300):
        vector = rng.normal(size=count) * size
        for _ in range(20):
            levels = to_levels(vector, step=step, clip=1.0, seed=SEED, rng=rng)
            assert levels.dtype == np.int64
            assert levels.shape == (count + 1,)
            assert math.sqrt(int(levels @ levels)) <= sensitivity_of(1.0, step, count)


def test_rounding_that_is_always_too_long_ends_and_stays_within_the_bound() -> None:
    class AlwaysUp(np.random.Generator):
        def random(self, size: int) -> np.ndarray:  # type: ignore[override]
            return np.zeros(size)

    vector = np.full(5000, 1.0)
    levels = to_levels(vector, step=1.0, clip=1.0, seed=SEED, rng=AlwaysUp(np.random.PCG64(1)))
    assert math.sqrt(int(levels @ levels)) <= 1.0 * math.hypot(1, VOTE)


# --- levels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 100, 4096, 70_000, SHARED_WEIGHTS + 1])
def test_a_rotation_keeps_lengths_and_can_be_turned_back(count: int) -> None:
    vectors = np.random.default_rng(count).normal(size=(2, count))
    turned = rotated(vectors, SEED)
    assert turned.shape == vectors.shape
    assert np.allclose(turned @ turned.T, vectors @ vectors.T)
    assert np.allclose(rotated_back(turned, SEED), vectors)
    assert count == 1 or not np.allclose(turned, rotated(vectors, b"round 2"))


@pytest.mark.parametrize("place", [0, 31_104, 31_105, 50_000, 65_535, 65_536, SHARED_WEIGHTS])
def test_one_weight_alone_is_spread_over_all(place: int) -> None:
    spike = np.zeros(SHARED_WEIGHTS + 1)
    spike[place] = 1.0
    turned = rotated(spike, SEED) * math.sqrt(SHARED_WEIGHTS + 1)
    assert np.abs(turned).max() < 6.5
    for part in np.array_split(turned, 20):
        assert 0.5 < np.square(part).mean() < 1.6


@pytest.mark.parametrize(
    ("count", "window"), [(1, 1), (2, 2), (3, 2), (SHARED_WEIGHTS + 1, 65_536), (65_536, 65_536)]
)
def test_the_window_is_the_largest_power_of_two_that_fits(count: int, window: int) -> None:
    assert window_of(count) == window


def test_rounding_is_right_on_average() -> None:
    rng = np.random.default_rng(3)
    vector = rng.normal(size=63)
    vector /= 2 * np.linalg.norm(vector)
    total = sum(to_levels(vector, step=0.1, clip=1.0, seed=SEED, rng=rng) for _ in range(20_000))
    mean, below = from_levels(np.asarray(total), 20_000, step=0.1, clip=1.0, seed=SEED)
    assert np.abs(mean - vector).max() < 5 * 0.05 / math.sqrt(20_000)
    assert abs(below - 1) < 0.01


def test_a_long_change_is_clipped_and_votes_so() -> None:
    rng = np.random.default_rng(4)
    vector = rng.normal(size=1000) * 50
    levels = to_levels(vector, step=1e-5, clip=2.0, seed=SEED, rng=rng)
    mean, below = from_levels(levels, 1, step=1e-5, clip=2.0, seed=SEED)
    assert np.allclose(mean, vector * 2 / np.linalg.norm(vector), atol=1e-4)
    assert abs(below) < 1e-3


def test_the_share_of_votes_is_the_share_of_short_changes() -> None:
    rng = np.random.default_rng(5)
    sizes = [0.1] * 7 + [30.0] * 3
    vectors = [rng.normal(size=1000) * size / math.sqrt(1000) for size in sizes]
    total = sum(to_levels(v, step=1e-4, clip=1.0, seed=SEED, rng=rng) for v in vectors)
    _, below = from_levels(np.asarray(total), 10, step=1e-4, clip=1.0, seed=SEED)
    assert abs(below - 0.7) < 0.01


def test_the_sum_taken_in_a_ring_gives_the_mean_of_the_clipped_changes() -> None:
    rng = np.random.default_rng(6)
    common = rng.normal(size=SHARED_WEIGHTS)
    vectors = [common + 2 * rng.normal(size=SHARED_WEIGHTS) for _ in range(20)]
    step, _ = finest_step(10, 20, clip=600.0)
    levels = [to_levels(v, step=step, clip=600.0, seed=SEED, rng=rng) for v in vectors]
    ring = np.mod(np.sum(levels, 0), 2**10)  # what masks leave of the sum
    centred = np.where(ring >= 2**9, ring - 2**10, ring)
    mean, _ = from_levels(centred, 20, step=step, clip=600.0, seed=SEED)
    clipped = np.mean([v * 600 / np.linalg.norm(v) for v in vectors], 0)
    assert np.linalg.norm(mean - clipped) / np.linalg.norm(clipped) < 0.12
    narrow = np.mod(np.sum(levels, 0) + 2**3, 2**4) - 2**3  # the control: a ring too narrow
    wrong, _ = from_levels(narrow, 20, step=step, clip=600.0, seed=SEED)
    assert np.linalg.norm(wrong - clipped) / np.linalg.norm(clipped) > 0.5


def test_sensitivities_are_those_of_the_paper() -> None:
    """By hand: clip 1, 400 coordinates with the vote, 1,000 levels per clip."""
    length = 1000 * math.hypot(1, VOTE)
    assert sensitivity_of(1.0, 1e-3, 399) == pytest.approx(math.sqrt(length**2 + 100 + length + 10))
    assert sensitivity_of(1.0, 1e3, 399) == pytest.approx(
        math.sqrt(1e-6 * 1.01 + 100 + 1e-3 * 1.005 + 10), abs=1e-3
    )
    assert 1.012 < sensitivity_of(1.0, 1e-3) / length < 1.014


# --- rings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 20.0])
@pytest.mark.parametrize("devices", [2, 50])
def test_sums_of_changes_that_all_agree_stay_within_the_ring(devices: int, noise: float) -> None:
    rng = np.random.default_rng(7)
    for trial in range(5):
        vector = np.zeros(SHARED_WEIGHTS)
        vector[rng.integers(SHARED_WEIGHTS, size=1 + 1000 * trial)] = 1.0  # worst: few weights hold all
        vector /= np.linalg.norm(vector)
        seed = rng.bytes(32)
        one = to_levels(vector, step=1 / 300, clip=1.0, seed=seed, rng=rng)
        total = devices * one + np.rint(rng.normal(size=len(one)) * noise * math.sqrt(devices))
        bits = ring_bits_needed(devices, clip=1.0, step=1 / 300, noise=noise)
        assert np.abs(total).max() < 2 ** (bits - 1)


def test_a_ring_is_not_much_wider_than_it_must_be() -> None:
    rng = np.random.default_rng(8)
    vector = rng.normal(size=SHARED_WEIGHTS)
    levels = 50 * to_levels(vector, step=1 / 300, clip=1.0, seed=SEED, rng=rng)
    bits = ring_bits_needed(50, clip=1.0, step=1 / 300)
    assert np.abs(levels).max() >= 2 ** (bits - 3)


@pytest.mark.parametrize(
    ("bits", "devices", "multiplier", "agreement"),
    [(8, 50, 0.0, 1.0), (6, 50, 0.0, 0.3), (16, 1000, 2.0, 1.0)],
)
def test_the_finest_step_fits_and_a_finer_one_does_not(
    bits: int, devices: int, multiplier: float, agreement: float
) -> None:
    step, noise = finest_step(bits, devices, clip=3.0, noise_multiplier=multiplier, agreement=agreement)
    assert noise * math.sqrt(devices) == pytest.approx(multiplier * sensitivity_of(3.0, step))
    fits = {"clip": 3.0, "agreement": agreement}
    assert ring_bits_needed(devices, step=step, noise=noise, **fits) == bits
    finer = step * 0.99
    more = multiplier * sensitivity_of(3.0, finer) / math.sqrt(devices)
    assert ring_bits_needed(devices, step=finer, noise=more, **fits) == bits + 1


def test_a_ring_that_is_too_narrow_for_any_step_is_refused() -> None:
    with pytest.raises(OptionError, match="wider ring"):
        finest_step(4, 1000, clip=1.0, noise_multiplier=5.0)


@pytest.mark.parametrize(
    "bad", [{"devices": 0}, {"agreement": 0.0}, {"agreement": 1.5}, {"failure": 0.0}, {"noise": -1.0}]
)
def test_questions_about_rings_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    asked = {"devices": 5, "clip": 1.0, "step": 0.1, **bad}
    with pytest.raises(OptionError):
        ring_bits_needed(**asked)  # type: ignore[arg-type]


def test_levels_are_those_of_the_vectors() -> None:
    one = VECTORS["levels"]
    vector = np.arange(one["count"], dtype=np.float64) - one["count"] / 2
    seed = bytes.fromhex(one["seed"])
    assert np.round(rotated(vector, seed), 6).tolist() == pytest.approx(one["rotated"], abs=2e-6)
    rng = np.random.Generator(np.random.PCG64(one["rng"]))
    assert to_levels(vector, step=one["step"], clip=one["clip"], seed=seed, rng=rng).tolist() == one["levels"]
