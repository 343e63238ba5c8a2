"""Releases: numbered, hashed, refused when anything about them does not fit."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from server_fakes import SHIPPED, Clock, FakeDevices, settings

from palate.server.checkpoints import Checkpoint
from palate.server.releases import list_releases, make_release, newest_encoder, read_release, release_path
from palate.server.rounds import run_rounds
from palate.server.strategy import average
from palate.shared.encoder import encoder_from_bytes, encoder_hash, encoder_to_bytes
from palate.shared.errors import FileFormatError, ModelError, OptionError

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def states() -> list[Checkpoint]:
    """Two rounds."""
    start = Checkpoint(0, SHIPPED, settings(rounds=2))
    return list(run_rounds(FakeDevices(), start, average=average, patience=Clock().patience()))


def test_releases_are_numbered_and_say_what_they_are(tmp_path: Path, states: list[Checkpoint]) -> None:
    first, second = (make_release(tmp_path, state, NOW) for state in states)
    assert (first.release, first.parent, first.round, first.updates) == (1, 0, 1, 3)
    assert (second.release, second.round, second.updates) == (2, 2, 6)
    assert first.hash == encoder_hash(states[0].encoder)
    assert first.when == "2026-11-21T05:00:00+00:00"
    assert [card.release for card in list_releases(tmp_path)] == [1, 2]
    assert encoder_hash(newest_encoder(tmp_path)) == encoder_hash(states[1].encoder)
    assert read_release(tmp_path, 1).release == 1


def test_a_device_can_read_the_file_as_it_stands(tmp_path: Path, states: list[Checkpoint]) -> None:
    make_release(tmp_path, states[0], NOW)
    encoder = encoder_from_bytes(release_path(tmp_path, 1).read_bytes())
    assert encoder_hash(encoder) == encoder_hash(states[0].encoder)


def test_without_a_release_the_shipped_encoder_is_the_newest(tmp_path: Path) -> None:
    assert newest_encoder(tmp_path / "none") is newest_encoder(tmp_path)
    assert encoder_hash(newest_encoder(tmp_path)) == encoder_hash(SHIPPED)


def test_nothing_new_is_no_release(tmp_path: Path, states: list[Checkpoint]) -> None:
    with pytest.raises(OptionError, match="is that of release 0"):
        make_release(tmp_path, Checkpoint(0, SHIPPED, settings()), NOW)
    make_release(tmp_path, states[0], NOW)
    with pytest.raises(OptionError, match="is that of release 1"):
        make_release(tmp_path, states[0], NOW)
    assert len(list_releases(tmp_path)) == 1


def test_a_file_without_a_card_does_not_count(tmp_path: Path, states: list[Checkpoint]) -> None:
    make_release(tmp_path, states[0], NOW)
    (tmp_path / "release-00001.json").unlink()
    assert list_releases(tmp_path) == []
    assert make_release(tmp_path, states[1], NOW).release == 1


def test_a_changed_file_is_refused(tmp_path: Path, states: list[Checkpoint]) -> None:
    make_release(tmp_path, states[0], NOW)
    path = release_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="not the file that its card speaks of"):
        newest_encoder(tmp_path)


def change_card(folder: Path, **changed: object) -> None:
    card = folder / "release-00001.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | changed))


def test_a_release_that_does_not_match_the_pinned_shapes_is_refused(
    tmp_path: Path, states: list[Checkpoint]
) -> None:
    make_release(tmp_path, states[0], NOW)
    change_card(tmp_path, shapes="0" * 64)
    with pytest.raises(ModelError, match="use the version that made it"):
        read_release(tmp_path, 1)


def test_an_encoder_of_other_shapes_is_refused_even_if_the_card_lies(
    tmp_path: Path, states: list[Checkpoint]
) -> None:
    import hashlib

    from safetensors.numpy import load, save

    make_release(tmp_path, states[0], NOW)
    data = encoder_to_bytes(states[0].encoder)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load(data) | {"picture.hidden.bias": np.zeros(255, np.float32)}
    other = save(tensors, header)
    release_path(tmp_path, 1).write_bytes(other)
    change_card(tmp_path, sha256=hashlib.sha256(other).hexdigest())
    with pytest.raises(ModelError, match="must be float32"):
        read_release(tmp_path, 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"release": 1, "more": 2}'])
def test_a_card_that_is_none_is_refused(tmp_path: Path, states: list[Checkpoint], text: str) -> None:
    make_release(tmp_path, states[0], NOW)
    (tmp_path / "release-00001.json").write_text(text)
    with pytest.raises(FileFormatError):
        list_releases(tmp_path)


def test_a_card_of_another_release_is_refused(tmp_path: Path, states: list[Checkpoint]) -> None:
    make_release(tmp_path, states[0], NOW)
    change_card(tmp_path, hash="1" * 64)
    with pytest.raises(ModelError, match="not the encoder that its card speaks of"):
        read_release(tmp_path, 1)
