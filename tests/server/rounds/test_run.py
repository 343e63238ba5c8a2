"""Whole runs on a folder: a run that was cut short anywhere ends with the bits of one that was not."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from server_fakes import SHIPPED, Clock, FakeDevices, settings

from palate.server.checkpoints import Checkpoint, checkpoint_to_bytes, read_checkpoint
from palate.server.metrics import read_metrics
from palate.server.rounds.exchange import Devices
from palate.server.rounds.run import ServerFolder, federate, read_note, standing
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared import durable
from palate.shared.encoder import encoder_hash
from palate.shared.errors import FederationError, FileFormatError, StorageError

FEDAVG = settings(rounds=5)
FEDADAM = settings(rounds=5, strategy="fedadam", server_learning_rate=0.01)


class Killed(BaseException):
    """Stands for SIGKILL."""


def run(home: Path, how: RunSettings, devices: Devices | None = None, **options: object) -> Checkpoint:
    return federate(
        devices or FakeDevices(count=6), ServerFolder(home), how,
        average=average, patience=Clock().patience(), **options,  # type: ignore[arg-type]
    )  # fmt: skip


def weights(state: Checkpoint) -> tuple[str, dict[str, bytes], int]:
    """All that a round leaves for the next, without the clock."""
    return encoder_hash(state.encoder), {n: m.tobytes() for n, m in state.memory.items()}, state.updates


class DyingDevices(FakeDevices):
    """Devices whose server dies in the middle of a round."""

    die_in = 0

    def replies(self, questions):
        for count, reply in enumerate(super().replies(questions)):
            if self.tasks and self.tasks[-1].round == self.die_in and count == 1:
                raise Killed
            yield reply


@pytest.mark.parametrize("how", [FEDAVG, FEDADAM], ids=lambda how: how.strategy)
def test_a_run_that_was_killed_in_any_round_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, how: RunSettings
) -> None:
    whole = run(tmp_path / "whole", how)
    for number in range(1, 6):
        home = tmp_path / f"cut-{number}"
        devices = DyingDevices(count=6)
        devices.die_in = number
        with pytest.raises(Killed):
            run(home, how, devices)
        assert standing(ServerFolder(home), how).round == number - 1
        assert weights(run(home, how)) == weights(whole)
        assert [line["round"] for line in read_metrics(ServerFolder(home).rounds)] == [1, 2, 3, 4, 5]


def test_a_kill_between_checkpoint_and_metrics_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", FEDADAM)
    from palate.server.metrics import MetricsLog

    with pytest.MonkeyPatch.context() as patch:

        def dies(self: MetricsLog, metrics: dict[str, object]) -> None:
            raise Killed

        patch.setattr(MetricsLog, "record", dies)
        with pytest.raises(Killed):
            run(tmp_path / "cut", FEDADAM)
    assert weights(run(tmp_path / "cut", FEDADAM)) == weights(whole)
    assert [line["round"] for line in read_metrics(ServerFolder(tmp_path / "cut").rounds)] == [1, 2, 3, 4, 5]


def test_a_run_in_pieces_ends_with_the_bits_of_one_in_one_piece(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", FEDADAM)
    for rounds in range(1, 6):
        piece = run(
            tmp_path / "pieces", settings(rounds=rounds, strategy="fedadam", server_learning_rate=0.01)
        )
    assert weights(piece) == weights(whole)


def test_a_run_that_is_over_does_nothing_more(tmp_path: Path) -> None:
    done = run(tmp_path, FEDAVG)
    devices = FakeDevices(count=0)
    assert checkpoint_to_bytes(run(tmp_path, FEDAVG, devices)) == checkpoint_to_bytes(done)
    assert devices.tasks == []


def test_another_strategy_starts_without_the_memory_of_the_one_before(tmp_path: Path) -> None:
    run(tmp_path, settings(rounds=2, strategy="fedadam", server_learning_rate=0.01))
    assert standing(ServerFolder(tmp_path), FEDAVG).memory == {}
    assert set(standing(ServerFolder(tmp_path), FEDADAM).memory) == {"m", "v"}
    assert run(tmp_path, settings(rounds=3)).round == 3


def test_a_full_disk_ends_the_run_in_one_line_and_a_later_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", FEDAVG)
    home = tmp_path / "cut"
    real = durable.write_file

    def full(path: Path, data: bytes, *, lasting: bool = True) -> None:
        if path.name.startswith("checkpoint.safetensors.") and (home / "checkpoint.safetensors").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data, lasting=lasting)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", full)
        with pytest.raises(StorageError, match="the disk is full") as caught:
            run(home, FEDAVG, run="r1")
    assert "\n" not in str(caught.value)
    assert read_note(home / "ended.json") == {"run": "r1", "ended": "failed", "reason": str(caught.value)}
    assert standing(ServerFolder(home), FEDAVG).round == 1
    assert weights(run(home, FEDAVG)) == weights(whole)


def test_how_it_ended_is_noted(tmp_path: Path) -> None:
    run(tmp_path, FEDAVG, run="r1")
    assert read_note(tmp_path / "ended.json") == {"run": "r1", "ended": "finished", "round": 5}
    assert not (tmp_path / "now.json").exists()
    with pytest.raises(FederationError):
        run(tmp_path, settings(rounds=9), FakeDevices(count=1), run="r2")
    note = read_note(tmp_path / "ended.json")
    assert (note["run"], note["ended"]) == ("r2", "failed")
    assert "1 of at least 2 devices" in note["reason"]


def test_what_it_is_doing_is_noted_while_it_does_it(tmp_path: Path) -> None:
    seen = []

    class Watching(FakeDevices):
        def replies(self, questions):
            for reply in super().replies(questions):
                if reply.wire:  # not the answer to an offered log
                    seen.append(read_note(tmp_path / "now.json"))
                yield reply

    run(tmp_path, settings(rounds=1), Watching(delays={102: 1, 103: 2}), run="r1")
    assert [note["done"] for note in seen] == [0, 1, 2]
    assert seen[0] == {"run": "r1", "doing": "training", "round": 1, "rounds": 1, "done": 0, "wanted": 3}


def test_two_runs_on_one_folder_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.server.rounds import run as federation

    monkeypatch.setattr(federation, "LOCK_SECONDS", 0.1)
    with (
        durable.locked(tmp_path / "lock", 0, "the server folder"),
        pytest.raises(StorageError, match="in use by another process"),
    ):
        run(tmp_path, FEDAVG)


def test_a_damaged_checkpoint_is_one_line_and_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, settings(rounds=1))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileFormatError, match="move it away to start from the latest release"):
        run(tmp_path, FEDAVG)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"damaged"


def test_a_first_run_starts_from_the_newest_release(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from palate.server.releases.folder import keep_release, make_release
    from palate.shared.releases.message import ReleaseLog

    folder = ServerFolder(tmp_path)
    assert encoder_hash(standing(folder, FEDAVG).encoder) == encoder_hash(SHIPPED)
    done = run(tmp_path, settings(rounds=1))
    key = Ed25519PrivateKey.generate()
    keep_release(folder.releases, ReleaseLog.begin(key, Ed25519PrivateKey.generate(), 1), b"")
    make_release(folder.releases, done, datetime(2026, 11, 21, tzinfo=UTC), key=key)
    folder.checkpoint.unlink()
    fresh = standing(folder, FEDAVG)
    assert (fresh.round, fresh.encoder.release) == (0, 1)
    assert encoder_hash(fresh.encoder) == encoder_hash(done.encoder)


def test_updates_that_came_while_a_release_was_signed_elsewhere_are_counted_for_the_next(
    tmp_path: Path,
) -> None:
    from datetime import UTC, datetime

    from palate.server.releases.folder import keep_release, make_release
    from palate.shared.releases.message import ReleaseLog

    folder, key = ServerFolder(tmp_path), Ed25519PrivateKey.generate()
    first = run(tmp_path, settings(rounds=1))
    second = run(tmp_path, settings(rounds=2))
    keep_release(folder.releases, ReleaseLog.begin(key, Ed25519PrivateKey.generate(), 1), b"")
    make_release(folder.releases, first, datetime(2026, 11, 21, tzinfo=UTC), key=key)
    state = standing(folder, settings(rounds=3))
    assert (state.encoder.release, state.updates) == (1, second.updates - first.updates)
    assert state.updates > 0


def test_a_first_run_can_start_from_any_encoder_and_a_later_one_goes_on_from_the_checkpoint(
    tmp_path: Path,
) -> None:
    weak = SHIPPED.with_shared({name: 0.5 * tensor for name, tensor in SHIPPED.shared().items()})
    folder = ServerFolder(tmp_path)
    assert encoder_hash(standing(folder, FEDAVG, weak).encoder) == encoder_hash(weak)
    done = run(tmp_path, settings(rounds=1), first=weak)
    assert encoder_hash(standing(folder, FEDAVG, weak).encoder) == encoder_hash(done.encoder)


CHILD = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from server_fakes import FakeDevices, settings
from palate.server.rounds.run import ServerFolder, federate
from palate.server.rounds.exchange import Patience
from palate.server.strategy import average
how = settings(rounds=400, strategy="fedadam", server_learning_rate=0.01)
federate(FakeDevices(), ServerFolder(Path(sys.argv[2])), how, average=average, patience=Patience(0.001))
"""


@pytest.mark.slow
def test_a_process_killed_again_and_again_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    home = tmp_path / "killed"
    before = 0
    for kills in range(6):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), str(home)])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with_rounds = len(read_metrics(home / "rounds.jsonl"))
            if with_rounds >= before + 3:
                break
            time.sleep(0.01)
        time.sleep(0.007 * kills)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kept = read_checkpoint(home / "checkpoint.safetensors")
        assert kept is not None
        assert kept.round > before
        before = kept.round
    whole = run(
        tmp_path / "whole",
        settings(rounds=before, strategy="fedadam", server_learning_rate=0.01),
        FakeDevices(),
    )
    assert weights(kept) == weights(whole)


def test_a_note_that_is_half_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "now.json").write_text('{"run": ')
    assert read_note(tmp_path / "now.json") == {}
    (tmp_path / "now.json").write_text(json.dumps([1]))
    assert read_note(tmp_path / "now.json") == {}
