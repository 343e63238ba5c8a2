"""A change of nothing in place of a failure, and answers that leave at the end of a class of time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from palate.client.federation import local_training
from palate.client.federation.contribution import (
    FIRST_CLASS_SECONDS,
    begin_class,
    learned_or_nothing,
    nothing_learned,
    time_left,
)
from palate.client.federation.local_training import Labels, train_locally
from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.update import LocalSettings
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
