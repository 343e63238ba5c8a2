"""A population in a folder.

Every person as they were, nobody else's labels, and clear words when it is not there.
"""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from palate.client.federation.declined import Declined
from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.errors import FileFormatError, OptionError, StorageError
from palate.shared.reasons import DeclineReason
from palate.shared.update import LocalSettings
from palate.shared.wire import UPDATE_BYTES, Task, decode_update, encode_task
from palate.simulations.engine.virtual_people import (
    POPULATION_VARIABLE,
    VirtualPerson,
    find_participant,
    read_person,
    write_population,
)
from tests.made_up import make_labels
from tests.signed import signed

PEOPLE = [make_labels(count) for count in (9, 0, 6, 30)]


@pytest.fixture
def population(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_population(tmp_path / "people", PEOPLE, load_encoder().with_shared({}, release=4))
    monkeypatch.setenv(POPULATION_VARIABLE, str(tmp_path / "people"))
    return tmp_path / "people"


@pytest.mark.usefixtures("population")
def test_every_person_comes_back_as_they_were() -> None:
    for number, labels in enumerate(PEOPLE):
        person = find_participant(number, len(PEOPLE), {})
        assert isinstance(person, VirtualPerson)
        for name in ("features", "liked", "phrases"):
            assert np.array_equal(getattr(person.labels, name), getattr(labels, name))
            assert getattr(person.labels, name).dtype == getattr(labels, name).dtype
        assert person.own.release == 4
        assert encoder_hash(person.own) == encoder_hash(load_encoder())


@pytest.mark.usefixtures("population")
def test_a_simulated_person_answers_a_task_and_one_with_few_labels_sends_a_change_of_nothing() -> None:
    asked = Task.for_encoder(
        load_encoder().with_shared({}, release=4), round=1, settings=LocalSettings(steps=1), seed=1
    )
    task = signed(encode_task(asked))
    sent: list[bytes] = []
    for number in range(len(PEOPLE)):
        find_participant(number, len(PEOPLE), {}).take_part(task, sent.append)
    assert [len(wire) for wire in sent] == [UPDATE_BYTES] * 4
    updates = [decode_update(wire, base=encoder_hash(load_encoder()), round=1) for wire in sent]
    assert [bool(update.norm) for update in updates] == [True, False, True, True]


@pytest.mark.usefixtures("population")
def test_a_simulated_person_wants_a_signature_too() -> None:
    task = encode_task(Task.for_encoder(load_encoder(), round=1, settings=LocalSettings(), seed=1))
    with pytest.raises(Declined) as refused:
        find_participant(0, len(PEOPLE), {}).take_part(task, lambda _: pytest.fail("sent"))
    assert refused.value.reason is DeclineReason.UNSIGNED


def test_the_entry_point_is_the_one_that_the_devices_app_asks() -> None:
    (entry,) = entry_points(group="palate.participants")
    assert entry.load() is find_participant


@pytest.mark.usefixtures("population")
@pytest.mark.parametrize(("number", "count"), [(4, 4), (-1, 4), (0, 3), (0, 5)])
def test_a_population_of_another_size_is_refused(number: int, count: int) -> None:
    with pytest.raises(OptionError, match=f"person {number} of {count} is asked; the population has 4"):
        find_participant(number, count, {})


def test_without_a_population_the_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(POPULATION_VARIABLE, raising=False)
    with pytest.raises(OptionError, match="palate simulate --engine ray"):
        find_participant(0, 1, {})
    with pytest.raises(FileFormatError, match="holds no population"):
        read_person(tmp_path, 0, 1)
    (tmp_path / "population.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(FileFormatError, match="holds no population"):
        read_person(tmp_path, 0, 1)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="the population cannot be written"):
        write_population(tmp_path / "file" / "people", PEOPLE, load_encoder())
