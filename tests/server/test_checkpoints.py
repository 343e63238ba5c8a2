"""Checkpoints: there and back, damage, a kill at every step of writing, a full disk."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from server_fakes import SHIPPED, Clock, FakeDevices, settings

from palate.server.checkpoints import (
    Checkpoint,
    checkpoint_from_bytes,
    checkpoint_to_bytes,
    read_checkpoint,
    write_checkpoint,
)
from palate.server.rounds.loop import run_rounds
from palate.server.strategy import average
from palate.shared import durable
from palate.shared.encoder import encoder_hash
from palate.shared.errors import FileFormatError, StorageError


@pytest.fixture(scope="module")
def states() -> list[Checkpoint]:
    """Two rounds of FedAdam."""
    start = Checkpoint(0, SHIPPED, settings(rounds=2, strategy="fedadam", server_learning_rate=0.01))
    return list(run_rounds(FakeDevices(), start, average=average, patience=Clock().patience()))


def same(one: Checkpoint, two: Checkpoint) -> bool:
    """Whether two checkpoints are equal bit for bit."""
    return checkpoint_to_bytes(one) == checkpoint_to_bytes(two) and encoder_hash(one.encoder) == encoder_hash(
        two.encoder
    )


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, states: list[Checkpoint]) -> None:
    write_checkpoint(tmp_path / "checkpoint", states[1])
    back = read_checkpoint(tmp_path / "checkpoint")
    assert back is not None
    assert same(back, states[1])
    assert back.settings == states[1].settings
    assert dict(back.metrics) == dict(states[1].metrics)
    assert set(back.memory) == {"m", "v"}
    assert all(np.array_equal(back.memory[name], states[1].memory[name]) for name in ("m", "v"))


def test_no_checkpoint_is_none_and_no_error(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "checkpoint") is None


@pytest.mark.parametrize("where", [0, 8, 100, 3000, 100_000, -1])
def test_a_changed_byte_is_noticed(where: int, states: list[Checkpoint]) -> None:
    data = bytearray(checkpoint_to_bytes(states[0]))
    data[where] ^= 0x41
    with pytest.raises(FileFormatError) as caught:
        checkpoint_from_bytes(bytes(data), "checkpoint")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 500, 100_000, -1])
def test_a_checkpoint_that_was_cut_short_is_noticed(length: int, states: list[Checkpoint]) -> None:
    with pytest.raises(FileFormatError, match="no sound checkpoint"):
        checkpoint_from_bytes(checkpoint_to_bytes(states[0])[:length], "checkpoint")


def test_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    from palate.shared.encoder import encoder_to_bytes

    for data in (b"", b"\xff" * 1000, encoder_to_bytes(SHIPPED)):
        (tmp_path / "checkpoint").write_bytes(data)
        with pytest.raises(FileFormatError):
            read_checkpoint(tmp_path / "checkpoint")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program may catch it and tidy up."""


CALLS = ("open", "write", "fsync", "replace")


def count_calls(monkeypatch: pytest.MonkeyPatch, die_at: int | None) -> list[str]:
    """Count the calls to the operating system and die before the `die_at`th; a write dies half-way."""
    seen: list[str] = []

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            seen.append(name)
            if die_at is not None and len(seen) > die_at:
                if name == "write" and len(seen) == die_at + 1:
                    descriptor, data = arguments
                    real(descriptor, bytes(data)[: len(data) // 2])  # type: ignore[arg-type]
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(durable.os, name, call)

    for name in CALLS:
        wrap(name)
    return seen


def test_a_kill_at_any_step_of_writing_leaves_the_old_or_the_new(
    tmp_path: Path, states: list[Checkpoint]
) -> None:
    path = tmp_path / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        steps = count_calls(patch, None)
        write_checkpoint(path, states[0])
    assert steps[-1] == "fsync"
    assert steps.index("fsync") < steps.index("replace")
    found = []
    for step in range(len(steps)):
        with pytest.MonkeyPatch.context() as patch:
            # A kill cannot tidy up: keep the half-written file where it is.
            patch.setattr(durable.os, "unlink", lambda path: None)
            count_calls(patch, step)
            with pytest.raises(Killed):
                write_checkpoint(path, states[1])
        back = read_checkpoint(path)
        assert back is not None
        assert same(back, states[0]) or same(back, states[1])
        found.append(back.round)
        write_checkpoint(path, states[0])
    assert set(found) == {1, 2}


def test_a_full_disk_is_one_clear_line_and_the_old_checkpoint_stays(
    tmp_path: Path, states: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    write_checkpoint(path, states[0])
    real = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) < 300_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:200_000])

    monkeypatch.setattr(durable.os, "write", full)
    with pytest.raises(
        StorageError, match=r"the disk is full.*round 2 is lost and the checkpoint before it stays"
    ) as caught:
        write_checkpoint(path, states[1])
    assert "\n" not in str(caught.value)
    back = read_checkpoint(path)
    assert back is not None
    assert same(back, states[0])
    assert [one.name for one in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_disk_that_is_really_full_is_told_so(
    tmp_path: Path, states: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def open_full(path: object, flags: int, mode: int = 0o777) -> int:
        return real("/dev/full", os.O_WRONLY) if str(path).endswith(".new") else real(str(path), flags, mode)

    monkeypatch.setattr(durable.os, "open", open_full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_checkpoint(tmp_path / "checkpoint", states[0])
    assert not (tmp_path / "checkpoint").exists()


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path, states: list[Checkpoint]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="round 1 is lost"):
        write_checkpoint(tmp_path / "file" / "checkpoint", states[0])


def test_the_checkpoint_of_other_shapes_is_refused(
    monkeypatch: pytest.MonkeyPatch, states: list[Checkpoint]
) -> None:
    from palate.shared import encoder

    data = checkpoint_to_bytes(states[0])
    monkeypatch.setattr(encoder, "SHARED_SHAPES", {**encoder.SHARED_SHAPES, "picture.hidden.bias": (255,)})
    with pytest.raises(FileFormatError, match=r"must be float32 \(255,\)"):
        checkpoint_from_bytes(data, "checkpoint")


def test_the_settings_of_another_version_are_refused_with_the_key(states: list[Checkpoint]) -> None:
    data = checkpoint_to_bytes(replace(states[0]))
    with pytest.raises(FileFormatError, match="unknown key 'quorom'"):
        checkpoint_from_bytes(data.replace(b"quorum", b"quorom"), "checkpoint")
