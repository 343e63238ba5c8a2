"""A population in a folder: every person as they were, nobody else's labels, and clear words when it is not there."""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from palate.client.federation.declined import Declined
from palate.client.federation.local_training import Labels
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES, encoder_hash, load_encoder
from palate.shared.errors import FileFormatError, OptionError, StorageError
from palate.shared.reasons import Reason
from palate.shared.update import LocalSettings
from palate.shared.wire import UPDATE_BYTES, Task, decode_update, encode_task
from palate.simulations.engine.lending import (
    POPULATION_VARIABLE,
    VirtualPerson,
    lend_person,
    read_person,
    write_population,
)
from tests.signed import signed


def make_labels(count: int) -> Labels:
    rng = np.random.default_rng(count)
    t = load_encoder().tensors
    features = t["feature.mean"] + t["feature.scale"] * rng.standard_normal((count, PICTURE_FEATURES))
    phrases = rng.standard_normal((count, SENTENCE_FEATURES))
    return Labels(features.astype(np.float32), rng.random(count) < 0.5, phrases.astype(np.float32))


PEOPLE = [make_labels(count) for count in (9, 0, 6, 30)]


@pytest.fixture
def population(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_population(tmp_path / "people", PEOPLE, load_encoder().with_shared({}, release=4))
    monkeypatch.setenv(POPULATION_VARIABLE, str(tmp_path / "people"))
    return tmp_path / "people"


def test_every_person_comes_back_as_they_were(population: Path) -> None:
    for number, labels in enumerate(PEOPLE):
        person = lend_person(number, len(PEOPLE), {})
        assert isinstance(person, VirtualPerson)
        for name in ("features", "liked", "phrases"):
            assert np.array_equal(getattr(person.labels, name), getattr(labels, name))
            assert getattr(person.labels, name).dtype == getattr(labels, name).dtype
        assert person.own.release == 4
        assert encoder_hash(person.own) == encoder_hash(load_encoder())


def test_a_lent_person_answers_a_task_and_one_with_few_labels_sends_a_change_of_nothing(
    population: Path,
) -> None:
    asked = Task.for_encoder(
        load_encoder().with_shared({}, release=4), round=1, settings=LocalSettings(steps=1), seed=1
    )
    task = signed(encode_task(asked))
    sent: list[bytes] = []
    for number in range(len(PEOPLE)):
        lend_person(number, len(PEOPLE), {}).take_part(task, sent.append)
    assert [len(wire) for wire in sent] == [UPDATE_BYTES] * 4
    updates = [decode_update(wire, base=encoder_hash(load_encoder()), round=1) for wire in sent]
    assert [bool(update.norm) for update in updates] == [True, False, True, True]


def test_a_lent_person_wants_a_signature_too(population: Path) -> None:
    task = encode_task(Task.for_encoder(load_encoder(), round=1, settings=LocalSettings(), seed=1))
    with pytest.raises(Declined) as refused:
        lend_person(0, len(PEOPLE), {}).take_part(task, lambda _: pytest.fail("sent"))
    assert refused.value.reason is Reason.UNSIGNED


def test_the_entry_point_is_the_one_that_the_devices_app_asks() -> None:
    (entry,) = entry_points(group="palate.participants")
    assert entry.load() is lend_person


@pytest.mark.parametrize(("number", "count"), [(4, 4), (-1, 4), (0, 3), (0, 5)])
def test_a_population_of_another_size_is_refused(population: Path, number: int, count: int) -> None:
    with pytest.raises(OptionError, match=f"person {number} of {count} is asked; the population has 4"):
        lend_person(number, count, {})


def test_without_a_population_the_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(POPULATION_VARIABLE, raising=False)
    with pytest.raises(OptionError, match="palate simulate --engine ray"):
        lend_person(0, 1, {})
    with pytest.raises(FileFormatError, match="holds no population"):
        read_person(tmp_path, 0, 1)
    (tmp_path / "population.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(FileFormatError, match="holds no population"):
        read_person(tmp_path, 0, 1)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="the population cannot be written"):
        write_population(tmp_path / "file" / "people", PEOPLE, load_encoder())
