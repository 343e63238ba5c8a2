"""Tasks that a device declines, each with one of a few constant reasons, and training that runs away."""

from typing import Any

import numpy as np
import pytest

from palate.client.federation.declined import Declined
from palate.client.federation.local_training import Labels
from palate.client.federation.member import answer_task, read_task
from palate.client.federation.outbox import read_outbox
from palate.client.vault.store import MemoryStore
from palate.shared.encoder import SHARED_SHAPES, EncoderWeights, encoder_hash, load_encoder
from palate.shared.reasons import DeclineReason
from palate.shared.update import EncoderUpdate
from palate.shared.wire import CHECKSUM_BYTES, add_checksum, decode_update
from tests.client.federation.test_member import SERVER, labels, make_task


def declined(data: bytes, own: EncoderWeights | None = None) -> DeclineReason:
    """Why a task is declined, before anybody's labels are asked for."""

    def never() -> Labels:
        raise AssertionError("labels were asked for")

    with pytest.raises(Declined) as caught:
        answer_task(data, never, lambda _: pytest.fail("sent"), store=MemoryStore(), server=SERVER, own=own)
    return caught.value.reason


def test_bytes_that_are_no_task_are_declined() -> None:
    good = make_task()
    flipped = bytearray(good)
    flipped[200] ^= 1
    for bad in (
        b"",
        b"\x00" * 10,
        good[:-1],
        good + b"\x00",
        bytes(flipped),
        good.replace(b"PALATE", b"PALETE"),
    ):
        assert declined(bad) is DeclineReason.UNREADABLE_TASK


def test_a_task_with_nan_is_declined() -> None:
    data = bytearray(make_task()[:-CHECKSUM_BYTES])
    data[-4:] = np.array([np.nan], "<f4").tobytes()
    assert declined(add_checksum(bytes(data))) is DeclineReason.UNREADABLE_TASK


def test_a_task_with_other_shapes_is_declined() -> None:
    data = bytearray(make_task()[:-CHECKSUM_BYTES])
    data[8:40] = bytes(32)
    assert declined(add_checksum(bytes(data))) is DeclineReason.OTHER_ENCODER


def test_a_task_for_other_fixed_tensors_is_declined() -> None:
    own = load_encoder()
    other = EncoderWeights(0, {**own.tensors, "taste.usual": own.tensors["taste.usual"] + np.float32(0.1)})
    assert declined(make_task(other)) is DeclineReason.OTHER_ENCODER


def test_a_task_for_an_older_release_is_declined() -> None:
    own = load_encoder()
    newer = own.with_shared(own.shared(), release=2)
    assert declined(make_task(own), own=newer) is DeclineReason.OLDER_RELEASE
    assert read_task(make_task(newer), own)[0].release == 2


def test_a_task_with_a_huge_encoder_is_declined() -> None:
    own = load_encoder()
    huge = own.with_shared({name: np.full(shape, 1e30, np.float32) for name, shape in SHARED_SHAPES.items()})
    assert declined(make_task(huge)) is DeclineReason.ENCODER_TOO_LARGE


@pytest.mark.parametrize("size", [1.0, np.inf])
def test_training_that_runs_away_is_answered_with_a_change_of_nothing(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_away(encoder: EncoderWeights, *_: Any, **given: Any) -> EncoderUpdate:
        change = {name: np.full(shape, size, np.float32) for name, shape in SHARED_SHAPES.items()}
        return EncoderUpdate(encoder_hash(encoder), given["round"], change)

    monkeypatch.setattr("palate.client.federation.local_training.train_locally", run_away)
    store, out = MemoryStore(), list[bytes]()
    answer_task(make_task(load_encoder()), labels, out.append, store=store, server=SERVER)
    assert decode_update(out[0], base=encoder_hash(load_encoder()), round=3).norm == 0
    assert [note.sent for note in read_outbox(store)] == [True]
