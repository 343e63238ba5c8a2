"""What may leave a device: a type without room for anything else, and settings within their ranges."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.shared.encoder import (
    FIXED_SHAPES,
    SHARED_SHAPES,
    SHARED_WEIGHTS,
    EncoderWeights,
    encoder_hash,
    load_encoder,
)
from palate.shared.errors import OptionError, PalateError, UpdateError
from palate.shared.update import MAX_NORM, EncoderUpdate, LocalSettings, SharedTensors, norm_of
from palate.shared.wire import decode_update, encode_update

BASE = "0123456789abcdef" * 4
HUGE = pytest.param(10**5000, id="huge")  # too long to be written out
LONG = pytest.param("x" * 1_000_000, id="long")
FIRST = next(iter(SHARED_SHAPES))


def change(value: float = 0.0) -> dict[str, Any]:
    return {name: np.full(shape, value, np.float32) for name, shape in SHARED_SHAPES.items()}


def refusal(**fields: Any) -> UpdateError:
    """The error for an update with these fields, after a check that it is one short line."""
    with pytest.raises(UpdateError) as caught:
        EncoderUpdate(**{"base": BASE, "round": 1, "tensors": change(), **fields})
    assert isinstance(caught.value, PalateError)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    return caught.value


# --- the update ---------------------------------------------------------------------------------------------


def test_an_update_has_room_for_the_declared_tensors_a_round_and_a_hash() -> None:
    assert [field.name for field in dataclasses.fields(EncoderUpdate)] == ["base", "round", "tensors"]
    update = EncoderUpdate(BASE, 1, change())
    assert list(update.tensors) == list(SHARED_SHAPES)
    assert {tensor.dtype for tensor in update.tensors.values()} == {np.dtype(np.float32)}
    assert not hasattr(update.tensors, "__setitem__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        update.base = "too gloomy"  # type: ignore[misc]


@pytest.mark.parametrize(
    "base",
    [
        "I love misty mornings by the sea, and I cannot stand neon light.",  # 64 characters of a comment
        BASE.upper(),
        BASE[:-1],
        BASE + "0",
        BASE + "\n",
        BASE[:-1] + "٣",  # a digit, but not of ours
        LONG,
        bytes(32),
        None,
        "",
    ],
)
def test_a_base_that_is_no_hash_is_refused(base: Any) -> None:
    assert refusal(base=base).reason == "hash"


@pytest.mark.parametrize("number", [0, -1, 2**32, HUGE, 1.0, True, "1", None, np.int64(1), math.nan])
def test_a_round_that_is_no_round_is_refused(number: Any) -> None:
    assert refusal(round=number).reason == "number"


@pytest.mark.parametrize("number", [1, 2**32 - 1])
def test_the_first_and_the_last_round_are_rounds(number: int) -> None:
    assert EncoderUpdate(BASE, number, change()).round == number


@pytest.mark.parametrize("name", list(SHARED_SHAPES))
def test_every_tensor_must_be_there(name: str) -> None:
    tensors = change()
    del tensors[name]
    error = refusal(tensors=tensors)
    assert error.reason == "tensors"
    assert name in str(error)


@pytest.mark.parametrize("name", ["head", "comment: too gloomy", LONG, 7, ("a", "b")])
def test_nothing_else_may_be_there(name: Any) -> None:
    assert refusal(tensors={**change(), name: np.zeros(3, np.float32)}).reason == "tensors"


def test_a_million_names_are_refused_in_one_short_line() -> None:
    many = dict.fromkeys(map(str, range(1_000_000)))
    assert refusal(tensors=many).reason == "tensors"
    many.update(change())
    assert refusal(tensors=many).reason == "tensors"


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3), np.float32),
        np.zeros(SHARED_SHAPES[FIRST][::-1], np.float32),
        np.zeros(math.prod(SHARED_SHAPES[FIRST]), np.float32),
        np.zeros(SHARED_SHAPES[FIRST], np.float64),
        np.zeros(SHARED_SHAPES[FIRST], ">f4"),
        np.zeros(SHARED_SHAPES[FIRST], np.int32),
        np.full(SHARED_SHAPES[FIRST], "too gloomy"),
        np.full(SHARED_SHAPES[FIRST], None),
        [[0.0, 1.0], [2.0]],
        "too gloomy",
        None,
    ],
)
def test_a_tensor_of_another_shape_or_type_is_refused(wrong: Any) -> None:
    assert refusal(tensors={**change(), FIRST: wrong}).reason == "tensors"


@pytest.mark.parametrize("tensors", [None, [], "weights", 3, list(SHARED_SHAPES)])
def test_tensors_without_names_are_refused(tensors: Any) -> None:
    assert refusal(tensors=tensors).reason == "tensors"


@pytest.mark.parametrize("name", list(SHARED_SHAPES))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_refused(name: str, value: float) -> None:
    tensors = change()
    tensors[name].flat[-1] = value
    assert refusal(tensors=tensors).reason == "finite"


def test_an_update_cannot_be_changed_from_outside() -> None:
    tensors = change()
    update = EncoderUpdate(BASE, 1, tensors)
    tensors[FIRST][:] = 1
    assert not update.tensors[FIRST].any()
    with pytest.raises(ValueError, match="read-only"):
        update.tensors[FIRST][0, 0] = 1


def test_what_is_read_from_a_message_is_not_copied_and_what_merely_cannot_be_written_is() -> None:
    data = encode_update(EncoderUpdate(BASE, 1, change(0.01)))
    for tensor in decode_update(data, base=BASE, round=1).tensors.values():
        assert np.shares_memory(tensor, np.frombuffer(data, np.uint8))
        with pytest.raises(ValueError, match="WRITEABLE"):
            tensor.flags.writeable = True
    memory = np.zeros(SHARED_SHAPES[FIRST], np.float32)
    locked = memory.view()
    locked.flags.writeable = False
    copied = EncoderUpdate(BASE, 1, change() | {FIRST: locked}).tensors[FIRST]
    memory[:] = 1
    assert not copied.any()
    turned = np.zeros(SHARED_SHAPES[FIRST][::-1], np.float32).T
    assert EncoderUpdate(BASE, 1, change() | {FIRST: turned}).tensors[FIRST].flags.c_contiguous


def test_the_vector_is_all_tensors_one_after_the_other() -> None:
    numbers = np.arange(SHARED_WEIGHTS, dtype=np.float32)
    tensors = SharedTensors(numbers)
    assert list(tensors) == list(SHARED_SHAPES)
    assert len(tensors) == len(SHARED_SHAPES)
    assert {name: tensor.shape for name, tensor in tensors.items()} == SHARED_SHAPES
    assert np.array_equal(np.concatenate([t.ravel() for t in tensors.values()]), np.arange(SHARED_WEIGHTS))
    update = EncoderUpdate(BASE, 1, tensors)
    assert update.vector is numbers
    assert update == EncoderUpdate(BASE, 1, dict(tensors))
    with pytest.raises(ValueError, match="read-only"):
        numbers[0] = 1
    for wrong in (np.zeros(SHARED_WEIGHTS - 1, np.float32), np.zeros(SHARED_WEIGHTS)):
        with pytest.raises(ValueError, match="float32"):
            SharedTensors(wrong)


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-12, 1e-9, 1.0, 1e12, 1e16, 1e30, 3e37])
@pytest.mark.parametrize("size", [1, 4_095, 4_096, 4_097, 96_640])
def test_a_norm_is_that_of_float64_for_values_of_any_size(scale: float, size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(np.float64)
    values[-1] = 5.0  # in the last piece
    tensor = (values * scale).astype(np.float32)
    wanted = math.sqrt(math.fsum(float(one) ** 2 for one in tensor))
    assert norm_of(tensor) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("place", [0, 4_096, -1])
@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001])
def test_a_norm_is_not_finite_if_one_value_is_not(place: int, bits: int) -> None:
    """Also for a NaN that signals, of which no warning is made."""
    tensor = np.ones(10_000, np.float32)
    tensor.view(np.uint32)[place] = bits
    assert not math.isfinite(norm_of(tensor))
    assert norm_of(np.zeros(10_000, np.float32)) == 0


def test_the_norm_is_the_length_of_all_weights_together() -> None:
    tensors = change()
    tensors["picture.hidden.bias"][0] = 3
    tensors["sentence.taste.weight"][5, 7] = -4
    assert EncoderUpdate(BASE, 1, tensors).norm == 5
    count = sum(math.prod(shape) for shape in SHARED_SHAPES.values())
    assert EncoderUpdate(BASE, 1, change(0.5)).norm == pytest.approx(0.5 * math.sqrt(count), rel=1e-6)
    # Squares of these would overflow in float32.
    assert EncoderUpdate(BASE, 1, change(1e30)).norm == pytest.approx(
        float(np.float32(1e30)) * math.sqrt(count)
    )


def test_updates_are_equal_bit_for_bit() -> None:
    one = EncoderUpdate(BASE, 1, change(0.0))
    assert one == EncoderUpdate(BASE, 1, change(0.0))
    assert hash(one) == hash(EncoderUpdate(BASE, 1, change(0.0)))
    assert one != EncoderUpdate(BASE, 2, change(0.0))
    assert one != EncoderUpdate(BASE[::-1], 1, change(0.0))
    assert one != EncoderUpdate(BASE, 1, change(-0.0))
    assert one != "update"


def test_the_weights_are_not_in_the_text_of_an_update() -> None:
    assert "0.125" not in repr(EncoderUpdate(BASE, 1, change(0.125)))


# --- the difference of two encoders -------------------------------------------------------------------------


def test_the_difference_is_what_training_changed() -> None:
    before = load_encoder()
    trained = before.shared()
    trained[FIRST][2, 3] += 0.5
    update = EncoderUpdate.difference(before, before.with_shared(trained), 7)
    assert (update.base, update.round) == (encoder_hash(before), 7)
    assert {name for name, tensor in update.tensors.items() if tensor.any()} == {FIRST}
    assert update.norm == pytest.approx(0.5, rel=1e-4)
    again = {name: before.tensors[name] + update.tensors[name] for name in SHARED_SHAPES}
    assert all(np.allclose(again[name], trained[name], atol=1e-7) for name in SHARED_SHAPES)


@pytest.mark.parametrize("name", list(FIXED_SHAPES))
def test_a_difference_in_what_training_must_not_change_is_refused(name: str) -> None:
    before = load_encoder()
    other = before.tensors[name].copy()
    other.flat[0] += 1
    with pytest.raises(UpdateError, match="must not change") as caught:
        EncoderUpdate.difference(before, EncoderWeights(0, {**before.tensors, name: other}), 1)
    assert caught.value.reason == "fixed"


def test_training_that_ran_away_is_refused() -> None:
    before = load_encoder()
    low, high = change(-3e38), change(3e38)
    with pytest.raises(UpdateError) as caught:
        EncoderUpdate.difference(before.with_shared(low), before.with_shared(high), 1)
    assert caught.value.reason == "finite"


def test_the_bound_on_norms_lies_far_above_release_0_moved_by_a_hundredth() -> None:
    weights = load_encoder()
    moved = {name: (0.01 * np.abs(tensor)).astype(np.float32) for name, tensor in weights.shared().items()}
    assert 100 * EncoderUpdate(BASE, 1, moved).norm > MAX_NORM > 10 * EncoderUpdate(BASE, 1, moved).norm


# --- settings -----------------------------------------------------------------------------------------------

LIMITS = {"proximal": (0, 10), "query_share": (0.2, 0.8), "alignment": (0, 10)}


def test_settings_out_of_the_box_are_within_their_ranges() -> None:
    default = LocalSettings()
    assert (default.steps, default.proximal, default.query_share) == (1, 0.0, 0.5)


@pytest.mark.parametrize("steps", [0, -1, 101, 5.0, True, "5", None, math.nan, HUGE])
def test_steps_outside_1_to_100_are_refused(steps: Any) -> None:
    with pytest.raises(OptionError, match=r"^steps is .*; it must be a whole number from 1 to 100$"):
        LocalSettings(steps=steps)


@pytest.mark.parametrize("steps", [1, 100])
def test_steps_at_the_limits_are_taken(steps: int) -> None:
    assert LocalSettings(steps=steps).steps == steps


@pytest.mark.parametrize("name", ["learning_rate", *LIMITS])
@pytest.mark.parametrize("value", [-1, -1e-9, -0.0, 10.5, math.inf, math.nan, True, "1", None, HUGE, [0.5]])
def test_a_setting_outside_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^{name} is .*; it must be a number ") as caught:
        LocalSettings(**{name: value})
    assert len(str(caught.value)) < 200


@given(name=st.sampled_from(list(LIMITS)), value=st.floats(-1, 12))
@settings(deadline=None, derandomize=True, database=None)
def test_a_setting_is_taken_exactly_within_its_range(name: str, value: float) -> None:
    low, high = LIMITS[name]
    if low <= value <= high and str(value) != "-0.0":
        assert getattr(LocalSettings(**{name: value}), name) == value
    else:
        with pytest.raises(OptionError):
            LocalSettings(**{name: value})


def test_a_learning_rate_is_above_zero_and_at_most_ten() -> None:
    assert LocalSettings(learning_rate=5e-324).learning_rate == 5e-324
    assert LocalSettings(learning_rate=10).learning_rate == 10.0
    for wrong in (0, 0.0, 10.000001):
        with pytest.raises(OptionError, match="above 0, at most 10"):
            LocalSettings(learning_rate=wrong)


def test_whole_numbers_become_fractions_so_that_equal_settings_are_the_same_bytes() -> None:
    assert type(LocalSettings(proximal=1).proximal) is float
    assert LocalSettings(proximal=1) == LocalSettings(proximal=1.0)
