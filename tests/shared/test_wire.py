"""The bytes between server and device: test vectors, exact reading, and ten thousand mutations that nothing
survives."""

import hashlib
import json
import math
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.shared import wire
from palate.shared.encoder import FIXED_SHAPES, SHARED_SHAPES, EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import UpdateError, UpdateReason
from palate.shared.update import MAX_NORM, EncoderUpdate, LocalSettings
from palate.shared.wire import (
    CHECKSUM_BYTES,
    TASK_BYTES,
    UPDATE_BYTES,
    Task,
    add_checksum,
    decode_task,
    decode_update,
    encode_task,
    encode_update,
    fixed_hash,
)

VECTORS = json.loads(
    (Path(__file__).parent.parent / "data" / "wire_vectors.json").read_text(encoding="utf-8")
)
BASE = VECTORS["update"]["base"]
ROUND = VECTORS["update"]["round"]
COUNT = sum(math.prod(shape) for shape in SHARED_SHAPES.values())
UPDATE_HEADER, TASK_HEADER = 76, 124  # bytes before the tensors, as the wire form says


def vector_tensors() -> dict[str, Any]:
    """The tensors of the vectors: weight k of all, counted in the declared order, is ((40503 k + 7) mod 65536
    - 32768) / 2^21.

    Each is a whole number over a power of two, so float32 holds it exactly, on every machine.
    """
    flat = (((40503 * np.arange(COUNT) + 7) % 65536 - 32768) / 2**21).astype(np.float32)
    tensors, start = {}, 0
    for name, shape in SHARED_SHAPES.items():
        tensors[name] = flat[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    return tensors


@cache
def vector_update() -> EncoderUpdate:
    return EncoderUpdate(BASE, ROUND, vector_tensors())


@cache
def vector_task() -> Task:
    fields = VECTORS["task"]
    return Task(
        fields["round"],
        fields["release"],
        fields["fixed"],
        vector_tensors(),
        LocalSettings(**fields["settings"]),
        fields["seed"],
    )


@cache
def update_bytes() -> bytes:
    return encode_update(vector_update())


@cache
def task_bytes() -> bytes:
    return encode_task(vector_task())


def decode(kind: str, data: Any, **wanted: Any) -> EncoderUpdate | Task:
    if kind == "update":
        return decode_update(data, **{"base": BASE, "round": ROUND, **wanted})
    return decode_task(data)


def encode(value: EncoderUpdate | Task) -> bytes:
    return encode_update(value) if isinstance(value, EncoderUpdate) else encode_task(value)


def valid(kind: str) -> bytes:
    return update_bytes() if kind == "update" else task_bytes()


def patched(data: bytes, offset: int, new: bytes, *, checksum: bool = True) -> bytes:
    """The message with some bytes replaced, and with the checksum that fits them unless told otherwise."""
    content = data[:offset] + new + data[offset + len(new) :]
    return add_checksum(content[:-CHECKSUM_BYTES]) if checksum else content


def refusal(kind: str, data: Any, **wanted: Any) -> UpdateError:
    """The error for these bytes, after a check that it is one short line."""
    with pytest.raises(UpdateError) as caught:
        decode(kind, data, **wanted)
    assert caught.value.reason in get_args(UpdateReason)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return caught.value


# --- vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["task", "update"])
def test_the_vectors_are_the_bytes_of_version_1(kind: str) -> None:
    wanted = VECTORS[kind]
    data = valid(kind)
    header = bytes.fromhex(wanted["header"])
    assert data[: len(header)] == header
    assert data[len(header) : len(header) + 32] == bytes.fromhex(wanted["first_eight_weights"])
    assert len(data) == wanted["bytes"]
    assert hashlib.sha256(data).hexdigest() == wanted["sha256"]
    assert decode(kind, data) == (vector_update() if kind == "update" else vector_task())


def test_the_update_packed_by_hand_is_the_same() -> None:
    weights = b"".join(struct.pack(f"<{t.size}f", *t.ravel()) for t in vector_tensors().values())
    start = b"PALATE" + bytes([2, 1])
    content = start + bytes.fromhex(VECTORS["shapes"] + BASE) + ROUND.to_bytes(4, "little") + weights
    assert update_bytes() == content + zlib.crc32(content).to_bytes(4, "little")


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_the_hostile_vectors_are_refused_for_their_reason(case: dict[str, Any]) -> None:
    data = valid(case["of"])[: case.get("cut")]
    for offset, new in case["patches"]:
        data = patched(data, offset, bytes.fromhex(new), checksum=case["checksum"])
    assert refusal(case["of"], data).reason == case["reason"]


def test_messages_are_as_long_as_announced_and_small() -> None:
    print(f"task {len(task_bytes()):,} bytes, update {len(update_bytes()):,} bytes")
    assert (len(task_bytes()), len(update_bytes())) == (TASK_BYTES, UPDATE_BYTES) == (386_688, 386_640)
    assert TASK_BYTES < 450_000, f"a task has {TASK_BYTES:,} bytes"
    assert UPDATE_BYTES < 450_000, f"an update has {UPDATE_BYTES:,} bytes"
    assert TASK_BYTES + UPDATE_BYTES < 2_500_000  # the bar for a device and round, both ways


# --- there and back -----------------------------------------------------------------------------------------


@given(
    base=st.binary(min_size=32, max_size=32),
    round_=st.integers(1, 2**32 - 1),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-45, 1e-20, 1e-3, 0.05]),
)
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_every_update_comes_back_bit_for_bit(base: bytes, round_: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    tensors = {n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in SHARED_SHAPES.items()}
    update = EncoderUpdate(base.hex(), round_, tensors)
    data = encode_update(update)
    assert decode_update(data, base=base.hex(), round=round_) == update
    assert data == encode_update(EncoderUpdate(base.hex(), round_, dict(reversed(tensors.items()))))


@given(
    round_=st.integers(1, 2**32 - 1),
    release=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**64 - 1),
    chosen=st.builds(
        LocalSettings,
        steps=st.integers(1, 100),
        learning_rate=st.floats(0, 10, exclude_min=True),
        proximal=st.floats(1e-300, 10),
        query_share=st.floats(0.2, 0.8),
        alignment=st.floats(0.0, 10).map(abs),
    ),
)
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_every_task_comes_back_bit_for_bit(
    round_: int, release: int, seed: int, chosen: LocalSettings
) -> None:
    task = Task(round_, release, BASE, vector_tensors(), chosen, seed)
    again = decode_task(encode_task(task))
    assert again == task
    assert again.settings == chosen
    assert hash(again) == hash(task)


def test_tasks_differ_by_every_field() -> None:
    encoder = load_encoder()
    one = Task.for_encoder(encoder, round=1, settings=LocalSettings(), seed=0)
    shared = encoder.shared()
    shared["picture.taste.bias"][0] += 1
    others = [
        Task.for_encoder(encoder, round=2, settings=LocalSettings(), seed=0),
        Task.for_encoder(encoder, round=1, settings=LocalSettings(steps=6), seed=0),
        Task.for_encoder(encoder, round=1, settings=LocalSettings(), seed=1),
        Task.for_encoder(encoder.with_shared(shared), round=1, settings=LocalSettings(), seed=0),
        Task.for_encoder(EncoderWeights(1, encoder.tensors), round=1, settings=LocalSettings(), seed=0),
    ]
    assert len({encode_task(task) for task in (one, *others)}) == 6
    assert one not in others
    assert one != "task"


def test_non_contiguous_and_big_values_are_written_row_by_row() -> None:
    tensors = vector_tensors()
    name = "picture.taste.weight"
    tensors[name] = np.asfortranarray(tensors[name])
    assert encode_update(EncoderUpdate(BASE, ROUND, tensors)) == update_bytes()


# --- the task and the installed release ---------------------------------------------------------------------


def test_a_device_puts_the_encoder_together_from_task_and_release() -> None:
    installed = load_encoder()
    shared = installed.shared()
    shared["picture.taste.bias"][:] += 0.25
    newer = installed.with_shared(shared, release=4)
    task = decode_task(encode_task(Task.for_encoder(newer, round=9, settings=LocalSettings(), seed=3)))
    encoder = task.encoder(installed)
    assert encoder.release == 4
    assert encoder_hash(encoder) == encoder_hash(newer) != encoder_hash(installed)


@pytest.mark.parametrize("name", list(FIXED_SHAPES))
def test_a_task_for_a_release_with_other_fixed_tensors_is_refused(name: str) -> None:
    installed = load_encoder()
    other = installed.tensors[name].copy()
    other.flat[-1] += 1
    task = Task.for_encoder(
        EncoderWeights(2, {**installed.tensors, name: other}), round=1, settings=LocalSettings(), seed=0
    )
    with pytest.raises(UpdateError, match="the task is for release 2") as caught:
        task.encoder(installed)
    assert caught.value.reason == "fixed"


def test_the_fixed_hash_depends_on_no_federated_tensor() -> None:
    installed = load_encoder()
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHARED_SHAPES.items()}
    assert fixed_hash(installed.with_shared(zeros)) == fixed_hash(installed)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"round": 0}, "number"),
        ({"round": 2**32}, "number"),
        ({"release": -1}, "number"),
        ({"release": 2**32}, "number"),
        ({"seed": -1}, "number"),
        ({"seed": 2**64}, "number"),
        ({"seed": 0.5}, "number"),
        ({"fixed": "too gloomy"}, "hash"),
        ({"tensors": {}}, "tensors"),
        ({"tensors": {"head": np.zeros(65, np.float32)}}, "tensors"),
    ],
)
def test_a_task_outside_its_ranges_is_refused_when_it_is_made(wrong: dict[str, Any], reason: str) -> None:
    fields = {"round": 1, "release": 0, "fixed": BASE, "seed": 0, "settings": LocalSettings()}
    with pytest.raises(UpdateError) as caught:
        Task(**{**fields, "tensors": vector_tensors(), **wrong})
    assert caught.value.reason == reason


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["task", "update"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "size"),
        (b"PALATE", "size"),
        (b"not of this federation", "magic"),
        (b"\x80\x04\x95" + b"pickle" * 40, "magic"),
        (b"\x93NUMPY\x01\x00", "magic"),
        (None, "size"),
        ("PALATE\x02\x01", "size"),
        (bytearray(UPDATE_BYTES), "size"),
        (7, "size"),
        ([1.0, 2.0], "size"),
    ],
)
def test_what_is_no_message_is_refused(kind: str, data: Any, reason: str) -> None:
    assert refusal(kind, data).reason == reason


@pytest.mark.parametrize("kind", ["task", "update"])
def test_a_message_of_another_length_is_refused(kind: str) -> None:
    data = valid(kind)
    for other in (data[:8], data[:-1], data[:-CHECKSUM_BYTES], data + b"\0", data + data, add_checksum(data)):
        assert refusal(kind, other).reason == "size"


def test_nothing_behind_the_first_bytes_is_read_of_a_message_of_another_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = update_bytes()[:8] + bytes(10_000_000)

    def refuse(*_: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(wire.zlib, "crc32", refuse)
    monkeypatch.setattr(wire.np, "frombuffer", refuse)
    assert refusal("update", long).reason == "size"
    with pytest.raises(AssertionError, match="it was read"):  # the watch itself works
        decode("update", update_bytes())


def test_a_reply_of_another_round_is_refused() -> None:
    error = refusal("update", update_bytes(), round=ROUND + 1)
    assert error.reason == "round"
    assert str(error) == f"the update is of round {ROUND}; this is round {ROUND + 1}"


def test_a_change_of_another_encoder_is_refused() -> None:
    assert refusal("update", update_bytes(), base=BASE[::-1]).reason == "base"


def test_a_base_that_is_no_hash_is_the_caller_s_fault_and_said() -> None:
    assert refusal("update", update_bytes(), base="release 0").reason == "hash"


def test_a_norm_above_the_bound_is_refused_and_one_at_the_bound_is_not() -> None:
    norm = vector_update().norm
    assert decode_update(update_bytes(), base=BASE, round=ROUND, max_norm=norm) == vector_update()
    error = refusal("update", update_bytes(), max_norm=math.nextafter(norm, 0))
    assert error.reason == "norm"
    assert refusal("update", update_bytes(), max_norm=math.nan).reason == "norm"


def test_a_norm_of_1e38_is_refused_unless_told_otherwise() -> None:
    huge = EncoderUpdate(BASE, ROUND, {n: np.full(s, 3e38, np.float32) for n, s in SHARED_SHAPES.items()})
    assert refusal("update", encode_update(huge)).reason == "norm"
    assert decode_update(encode_update(huge), base=BASE, round=ROUND, max_norm=math.inf) == huge
    long = {n: np.full(s, 1.001 * MAX_NORM / math.sqrt(COUNT), np.float32) for n, s in SHARED_SHAPES.items()}
    assert refusal("update", encode_update(EncoderUpdate(BASE, ROUND, long))).reason == "norm"


@pytest.mark.parametrize("kind", ["task", "update"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, COUNT // 2, COUNT - 1])
def test_a_weight_that_is_not_finite_is_refused(kind: str, value: float, place: int) -> None:
    header = UPDATE_HEADER if kind == "update" else TASK_HEADER
    data = patched(valid(kind), header + 4 * place, struct.pack("<f", value))
    assert refusal(kind, data).reason == "finite"


@pytest.mark.parametrize("kind", ["task", "update"])
def test_another_encoder_s_shapes_are_refused(kind: str) -> None:
    assert refusal(kind, patched(valid(kind), 8, bytes(32))).reason == "shapes"


# --- ten thousand mutations ---------------------------------------------------------------------------------

BATCH = 100
MUTATION = st.tuples(
    st.sampled_from(["flip", "write", "write", "cut", "add", "remove", "swap"]),
    st.booleans(),  # in the header, where every byte means something, or anywhere
    st.integers(0, 2**32 - 1),
    st.binary(min_size=1, max_size=8),
)
MANY = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def mutate(data: bytes, mutation: tuple[str, bool, int, bytes]) -> bytes:
    how, in_header, number, new = mutation
    place = number % (TASK_HEADER if in_header else len(data))
    before, after = data[:place], data[place:]
    if how == "flip":
        return before + bytes([after[0] ^ (1 << number % 8)]) + after[1:]
    if how == "write":
        return before + new[: len(after)] + after[len(new) :]
    if how == "cut":
        return before
    if how == "add":
        return before + new + after
    if how == "remove":
        return before + after[len(new) :]
    return before + after[: len(new)][::-1] + after[len(new) :]


@given(st.sampled_from(["task", "update"]), st.lists(MUTATION, min_size=BATCH, max_size=BATCH))
@MANY
def test_a_damaged_message_is_refused(kind: str, mutations: list[tuple[str, bool, int, bytes]]) -> None:
    for mutation in mutations:
        data = mutate(valid(kind), mutation)
        if data != valid(kind):
            refusal(kind, data)
        else:
            assert encode(decode(kind, data)) == data


@given(st.sampled_from(["task", "update"]), st.lists(MUTATION, min_size=BATCH, max_size=BATCH))
@MANY
def test_a_rewritten_message_is_refused_or_says_exactly_what_its_bytes_say(
    kind: str, mutations: list[tuple[str, bool, int, bytes]]
) -> None:
    """With a checksum that fits, as a hostile sender would make it."""
    for mutation in mutations:
        data = add_checksum(mutate(valid(kind)[:-CHECKSUM_BYTES], mutation))
        try:
            value = decode(kind, data)
        except UpdateError:
            continue
        assert encode(value) == data


@pytest.mark.parametrize("kind", ["task", "update"])
def test_a_message_with_other_weights_and_a_checksum_that_fits_is_another_message(kind: str) -> None:
    """What the test above allows does happen."""
    for number in range(1, 101):
        last = len(valid(kind)) - 32 - 4 * number  # the lowest byte of a weight
        data = patched(valid(kind), last, bytes([valid(kind)[last] ^ 1]))
        assert data != valid(kind)
        assert encode(decode(kind, data)) == data
