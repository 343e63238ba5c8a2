"""A change of nothing in place of a failure, one order of book, note, train and send, and classes of time."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from palate.client.federation import local_training
from palate.client.federation.contribution import (
    FIRST_CLASS_SECONDS,
    begin_class,
    contribute,
    learned_or_nothing,
    no_class,
    nothing_learned,
    time_left,
)
from palate.client.federation.declined import Declined
from palate.client.federation.local_training import Labels, train_locally
from palate.client.federation.outbox import Cover, read_outbox, what_leaves
from palate.client.privacy import book_round, read_spent
from palate.client.vault.store import MemoryStore
from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.errors import PrivacyBudgetError, StorageError
from palate.shared.reasons import DeclineReason
from palate.shared.update import LocalSettings
from palate.shared.wire import Task
from tests.client.federation.test_member import labels

OWN = load_encoder()


def test_what_was_learned_is_what_training_gives() -> None:
    update, count = learned_or_nothing(OWN, labels, LocalSettings(), round=2, seed=5)
    assert count == 8
    assert update == train_locally(OWN, labels(), LocalSettings(), round=2, seed=5)


@pytest.mark.parametrize("error", [RuntimeError("diverged"), OSError("gone"), MemoryError(), ValueError()])
def test_what_fails_is_a_change_of_nothing_and_told_here_alone(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    lines: list[str] = []
    monkeypatch.setattr(local_training, "train_locally", fail)
    found = learned_or_nothing(OWN, labels, LocalSettings(), round=2, seed=5, tell=lines.append)
    assert found == (nothing_learned(OWN, 2), 0)
    assert lines == ["local training came to nothing; the round goes on with a change of nothing"]


def test_labels_that_cannot_be_read_or_are_too_few_are_a_change_of_nothing() -> None:
    def broken() -> Labels:
        raise OSError("gone")

    for read in (lambda: None, broken, lambda: labels(2)):
        assert learned_or_nothing(OWN, read, LocalSettings(), round=2, seed=5)[1] == 0


def test_a_change_of_nothing_is_an_update_like_any_other() -> None:
    nothing = nothing_learned(OWN, 3)
    assert (nothing.base, nothing.round, nothing.norm) == (encoder_hash(OWN), 3, 0.0)
    assert not np.any(nothing.vector)


@settings(deadline=None)
@given(some.floats(0, 1_000))
def test_the_end_of_a_class_depends_on_the_class_alone(seconds: float) -> None:
    end = seconds + time_left(seconds)
    assert end >= FIRST_CLASS_SECONDS
    doubled = np.log2(end / FIRST_CLASS_SECONDS)
    assert doubled == pytest.approx(round(doubled), abs=1e-6)
    assert end == pytest.approx(FIRST_CLASS_SECONDS) or end <= 2 * seconds * (1 + 1e-9)


def test_two_answers_of_one_class_leave_at_the_same_time() -> None:
    for worked in (0.004, 0.012, 0.049):
        now, slept = [10.0], list[float]()
        wait = begin_class(lambda now=now: now[0], slept.append)  # type: ignore[misc]
        now[0] += worked
        wait()
        assert worked + slept[0] == pytest.approx(FIRST_CLASS_SECONDS)


# --- book, note, train, send --------------------------------------------------------------------------------

TASK = Task.for_encoder(OWN, round=3, settings=LocalSettings(steps=2), seed=11)
MASK = Cover(what_leaves(9, 32), lambda _: bytes(what_leaves(9, 32).bytes_up), clip=1.0, noise=2.0)
with_and_without_masks = pytest.mark.parametrize("cover", [None, MASK], ids=["unmasked", "masked"])


class Filling(MemoryStore):
    """A store on a disk that is full after so many transactions."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def transaction(self) -> AbstractContextManager[MemoryStore]:
        if not self.room:
            raise StorageError("the disk is full")
        self.room -= 1
        return super().transaction()


@with_and_without_masks
def test_a_round_is_booked_and_noted_before_a_label_is_read_and_read_before_anything_leaves(
    cover: Cover | None,
) -> None:
    store, seen = MemoryStore(), list[object]()

    def read() -> None:
        seen.append(("read", read_spent(store).rounds, [note.sent for note in read_outbox(store)]))

    contribute(
        TASK,
        OWN,
        read,
        lambda wire: seen.append(("sent", len(wire))),
        pause=lambda: seen.append("paused"),
        store=store,
        server="a",
        cover=cover,
        book=lambda change: book_round(change, 5.0, now=datetime.now(UTC)),
    )
    (note,) = read_outbox(store)
    assert seen == [("read", 1, [False]), "paused", ("sent", note.bytes_up)]
    assert note.sent


@with_and_without_masks
def test_a_round_beyond_the_budget_is_declined_and_nothing_is_read_noted_or_sent(cover: Cover | None) -> None:
    def refuse(_: object) -> None:
        raise PrivacyBudgetError("it would pass your budget")

    store, lines = MemoryStore(), list[str]()
    with pytest.raises(Declined) as refused:
        contribute(
            TASK, OWN, pytest.fail, pytest.fail, pause=pytest.fail, store=store, server="a",
            tell=lines.append, cover=cover, book=refuse,
        )  # fmt: skip
    masked = DeclineReason.MASKS_REFUSED
    assert refused.value.reason is (DeclineReason.UNMASKED if cover is None else masked)
    assert "it would pass your budget" in lines[0]
    assert read_outbox(store) == []


@with_and_without_masks
@pytest.mark.parametrize(("room", "reads"), [(0, 0), (1, 1)], ids=["the first note", "the note of the bytes"])
def test_what_cannot_be_noted_is_not_sent(cover: Cover | None, room: int, reads: int) -> None:
    store, read = Filling(room), list[None]()
    with pytest.raises(Declined) as refused:
        contribute(
            TASK, OWN, lambda: read.append(None), pytest.fail, pause=pytest.fail, store=store, server="a",
            cover=cover,
        )  # fmt: skip
    assert refused.value.reason is DeclineReason.NOT_NOTED
    assert len(read) == reads


@with_and_without_masks
def test_what_was_sent_and_not_noted_as_sent_is_told_to_the_owner_alone(cover: Cover | None) -> None:
    store, sent, lines = Filling(2), list[bytes](), list[str]()
    contribute(
        TASK, OWN, lambda: None, sent.append, pause=no_class(), store=store, server="a",
        tell=lines.append, cover=cover,
    )  # fmt: skip
    assert len(sent) == 1
    assert lines == ["round 3: sent, but the outbox could not note that it went"]
    assert [note.sent for note in read_outbox(store)] == [False]
