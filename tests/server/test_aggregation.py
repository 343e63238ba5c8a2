"""What becomes of a single reply: every bad one costs itself, and is named by one word."""

import dataclasses
import struct

import numpy as np
import pytest
from server_fakes import SHIPPED, change, honest

from palate.server.aggregation import BATCH, Reply, Sound, check_replies, check_reply, in_fixed_order, moved
from palate.shared.encoder import SHARED_SHAPES, encoder_hash, flatten, unflatten
from palate.shared.errors import ModelError
from palate.shared.update import EncoderUpdate, LocalSettings
from palate.shared.wire import CHECKSUM_BYTES, UPDATE_BYTES, Task, add_checksum, encode_task, encode_update

TASK = Task.for_encoder(SHIPPED, round=5, settings=LocalSettings(), seed=9)
BASE = encoder_hash(SHIPPED)
HEADER = UPDATE_BYTES - CHECKSUM_BYTES - 4 * sum(int(np.prod(shape)) for shape in SHARED_SHAPES.values())


def checked(wire: bytes | None, **how: object) -> Sound | str:
    reply = Reply("q", wire, str(how.pop("reason", "")))
    return check_reply(reply, **{"base": BASE, "round": 5, "max_norm": 25.0, **how})  # type: ignore[arg-type]


def with_first_weight(value: float) -> bytes:
    """An honest update whose first weight is another, with a checksum that fits."""
    content = bytearray(honest(TASK, 1)[:-CHECKSUM_BYTES])
    struct.pack_into("<f", content, HEADER, value)
    return add_checksum(bytes(content))


def test_an_honest_reply_becomes_its_update() -> None:
    found = checked(honest(TASK, 1))
    assert isinstance(found, Sound)
    assert found.update == change(TASK, 1)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "empty"),
        (None, "content"),
        (b"\x00" * UPDATE_BYTES, "magic"),
        (b"PALATE", "size"),
        (honest(TASK, 1)[:-1], "size"),
        (honest(TASK, 1) + b"\x00", "size"),
        (honest(TASK, 1) * 50, "size"),
        (encode_task(TASK), "kind"),
        (honest(TASK, 1)[:-1] + b"\x00", "damaged"),
        (with_first_weight(float("nan")), "finite"),
        (with_first_weight(float("inf")), "finite"),
        (with_first_weight(1e30), "norm"),
        (with_first_weight(26.0), "norm"),
        (honest(dataclasses.replace(TASK, round=4), 1), "round"),
        (honest(dataclasses.replace(TASK, round=6), 1), "round"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_reply_is_named_by_one_word(wire: bytes | None, reason: str) -> None:
    assert checked(wire) == reason


def test_the_reply_to_another_encoder_is_named_so() -> None:
    assert checked(honest(TASK, 1), base="0" * 64) == "base"


def test_a_reply_of_other_shapes_is_named_so() -> None:
    content = bytearray(honest(TASK, 1)[:-CHECKSUM_BYTES])
    content[8:40] = bytes(32)  # the hash of the shapes that the device has
    assert checked(add_checksum(bytes(content))) == "shapes"


def test_what_the_transport_says_of_a_lost_reply_is_kept() -> None:
    assert checked(None, reason="gone") == "gone"


def test_something_that_is_not_bytes_is_refused_without_an_exception() -> None:
    assert checked("PALATE") == "size"  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 2, BATCH, BATCH + 1])
def test_replies_that_are_checked_side_by_side_come_out_as_one_by_one_and_in_their_order(count: int) -> None:
    kinds = [
        honest(TASK, 1),
        b"",
        honest(TASK, 2)[:-1],
        with_first_weight(float("nan")),
        None,
        honest(TASK, 3),
    ]
    replies = [Reply(str(place), kinds[place % len(kinds)]) for place in range(count)]
    how = {"base": encoder_hash(SHIPPED), "round": TASK.round, "max_norm": 25.0}
    found = list(check_replies(iter(replies), **how))
    assert found == [(reply, check_reply(reply, **how)) for reply in replies]


def test_the_order_of_updates_depends_on_their_content_alone() -> None:
    found = [checked(honest(TASK, device)) for device in range(6)]
    sound = [one for one in found if isinstance(one, Sound)]
    assert in_fixed_order(sound) == in_fixed_order(sound[::-1]) == in_fixed_order(sound[3:] + sound[:3])


def test_flattening_and_back_loses_nothing() -> None:
    update = change(TASK, 3)
    back = unflatten(flatten(update.tensors))
    assert EncoderUpdate(update.base, update.round, back) == update


def test_a_change_that_overflows_the_encoder_is_refused() -> None:
    vector = flatten(SHIPPED.shared())
    assert np.array_equal(flatten(moved(SHIPPED, np.zeros_like(vector)).shared()), vector)
    with pytest.raises(ModelError):
        moved(moved(SHIPPED, np.full_like(vector, 3e38)), np.full_like(vector, 3e38))


def test_an_update_encodes_to_the_same_bytes_for_the_same_seed() -> None:
    assert encode_update(change(TASK, 2)) == honest(TASK, 2)
