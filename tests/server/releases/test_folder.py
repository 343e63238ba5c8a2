"""Releases: numbered, signed, logged; refused when anything about them does not fit."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from server_fakes import SHIPPED, settings
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.client.releases.accepted import adopt, federation_encoder, read_source
from palate.client.vault.store import MemoryStore
from palate.server.checkpoints import Checkpoint, write_checkpoint
from palate.server.releases import figures as release_figures
from palate.server.releases import folder as releases
from palate.server.releases.folder import (
    keep_release,
    list_releases,
    make_release,
    message_path,
    newest_encoder,
    newest_message,
    next_release,
    read_log,
    read_release,
    release_path,
)
from palate.server.rounds.run import ServerFolder
from palate.shared.encoder import (
    EncoderWeights,
    encoder_from_bytes,
    encoder_hash,
    encoder_to_bytes,
    shapes_hash,
)
from palate.shared.errors import OptionError, ReleaseError, StorageError
from palate.shared.releases.check import Pinned, Trust, check_release
from palate.shared.releases.message import (
    BACKBONE_HASH,
    LOG_NAME,
    SHIPPED_HASH,
    Acceptance,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    decode_release,
    encode_release,
    read_key,
)
from palate.shared.wire import fixed_hash

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
KEY, OTHER, RECOVERY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
PIN = RECOVERY.public_key().public_bytes_raw()
WHEN = int(NOW.timestamp())


def state(round_: int) -> Checkpoint:
    """Where a federation could stand after so many rounds."""
    share = np.float32(1 - round_ / 4096)
    weights = SHIPPED.with_shared({name: tensor * share for name, tensor in SHIPPED.shared().items()})
    return Checkpoint(round_, weights, settings(), updates=3 * round_)


def release(folder: Path, round_: int, **changed: Any) -> Any:
    if read_log(folder) is None:
        keep_release(folder, ReleaseLog.begin(KEY, RECOVERY, WHEN), b"")
    return make_release(folder, state(round_), NOW, **{"key": KEY, **changed})


def test_releases_are_numbered_and_say_what_they_are(tmp_path: Path) -> None:
    first = release(tmp_path, 1)
    second = release(tmp_path, 2, privacy=PrivacySpent(0.5, 1e-6, "gaussian", 1.0, 2.0))
    assert (first.release, first.parent, first.round, first.updates) == (1, SHIPPED_HASH, 1, 3)
    assert (second.release, second.parent, second.round, second.updates) == (2, first.hash, 2, 6)
    assert first.hash == encoder_hash(state(1).encoder)
    assert (first.shapes, first.fixed, first.backbone) == (shapes_hash(), fixed_hash(SHIPPED), BACKBONE_HASH)
    assert (first.privacy, second.privacy) == (None, PrivacySpent(0.5, 1e-6, "gaussian", 1.0, 2.0))
    assert list_releases(tmp_path) == [first, second]
    assert encoder_hash(newest_encoder(tmp_path)) == second.hash
    assert read_release(tmp_path, 1).release == 1


def test_what_is_made_is_what_a_device_takes(tmp_path: Path) -> None:
    release(tmp_path, 1)
    release(tmp_path, 2)
    for number in (1, 2):
        data = message_path(tmp_path, number).read_bytes()
        checked = check_release(decode_release(data), Trust(PIN), Pinned.by(SHIPPED))
        assert (checked.card.release, checked.encoder.release) == (number, number)
        assert checked.entry.time == "2026-11-21T05:00:00+00:00"
    assert newest_message(tmp_path) == data
    message_path(tmp_path, 2).unlink()  # a kill before it was written
    assert newest_message(tmp_path) == data


def test_a_device_can_read_the_file_as_it_stands(tmp_path: Path) -> None:
    release(tmp_path, 1)
    encoder = encoder_from_bytes(release_path(tmp_path, 1).read_bytes())
    assert encoder_hash(encoder) == encoder_hash(state(1).encoder)


def test_without_a_release_the_shipped_encoder_is_the_newest(tmp_path: Path) -> None:
    assert newest_encoder(tmp_path / "none") is newest_encoder(tmp_path)
    assert encoder_hash(newest_encoder(tmp_path)) == encoder_hash(SHIPPED)
    assert newest_message(tmp_path) is None
    assert read_log(tmp_path) is None


def test_before_the_first_release_devices_get_the_log_and_with_it_the_keys(tmp_path: Path) -> None:
    log = ReleaseLog.begin(KEY, RECOVERY, WHEN)
    keep_release(tmp_path, log, b"")
    data = newest_message(tmp_path)
    assert data is not None
    assert decode_release(data) == SignedRelease(log, b"")
    assert encode_release(SignedRelease(log, b"")) == data
    assert list_releases(tmp_path) == []


def test_without_a_log_there_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="palate server key"):
        make_release(tmp_path, state(1), NOW, key=KEY)


def test_a_release_says_for_how_long_the_log_is_good_and_carries_the_test(tmp_path: Path) -> None:
    found = Acceptance(500, 0.9, 0.99, 0.5)
    card = release(tmp_path, 1, acceptance=found, days=30)
    log = read_log(tmp_path)
    assert log is not None
    assert (card.acceptance, log.statement.until) == (found, WHEN + 30 * 86_400)


def test_nothing_new_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is that of release 0"):
        next_release(ReleaseLog.begin(KEY, RECOVERY, WHEN), Checkpoint(0, SHIPPED, settings()))
    release(tmp_path, 1)
    with pytest.raises(OptionError, match="is that of release 1"):
        release(tmp_path, 1)
    assert len(list_releases(tmp_path)) == 1


def test_an_encoder_that_no_device_would_take_is_not_released(tmp_path: Path) -> None:
    rigged = EncoderWeights(
        0, {**SHIPPED.tensors, "feature.scale": SHIPPED.tensors["feature.scale"] + np.float32(1)}
    )
    huge = SHIPPED.with_shared({name: tensor * np.float32(100) for name, tensor in SHIPPED.shared().items()})
    log = ReleaseLog.begin(KEY, RECOVERY, WHEN)
    keep_release(tmp_path, log, b"")
    for weights, reason in ((rigged, "fixed"), (huge, "norm")):
        with pytest.raises(ReleaseError) as caught:
            make_release(tmp_path, Checkpoint(1, weights, settings()), NOW, key=KEY)
        assert caught.value.reason == reason
    assert read_log(tmp_path) == log


def test_an_encoder_without_an_entry_in_the_log_does_not_count(tmp_path: Path) -> None:
    release(tmp_path, 1)
    (tmp_path / LOG_NAME).unlink()
    assert list_releases(tmp_path) == []
    assert release(tmp_path, 2).release == 1


def test_a_disk_that_refuses_the_log_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(tmp_path, 1)
    write = releases.write_atomically

    def refuse(path: Path, data: bytes, *, consequence: str) -> None:
        if path.name == LOG_NAME:
            raise StorageError(f"the disk is full; {consequence}")
        write(path, data, consequence=consequence)

    monkeypatch.setattr(releases, "write_atomically", refuse)
    with pytest.raises(StorageError, match="the log of releases stays as it was"):
        release(tmp_path, 2)
    monkeypatch.undo()
    assert len(list_releases(tmp_path)) == 1
    assert release(tmp_path, 3).release == 2


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    release(tmp_path, 1)
    path = release_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    for read in (newest_encoder, newest_message):
        with pytest.raises(ReleaseError) as caught:
            read(tmp_path)
        assert caught.value.reason == "encoder"


def test_the_encoder_of_another_release_is_refused(tmp_path: Path) -> None:
    release(tmp_path, 1)
    release(tmp_path, 2)
    release_path(tmp_path, 1).write_bytes(encoder_to_bytes(state(2).encoder))
    with pytest.raises(ReleaseError, match="not the encoder of release 1"):
        read_release(tmp_path, 1)
    assert read_release(tmp_path, 2).release == 2


def test_a_release_that_there_is_not_is_one_line(tmp_path: Path) -> None:
    release(tmp_path, 1)
    for number in (-1, 0, 2):
        with pytest.raises(OptionError, match="the newest is 1"):
            read_release(tmp_path, number)
    release_path(tmp_path, 1).unlink()
    with pytest.raises(StorageError):
        newest_encoder(tmp_path)


def test_no_changed_byte_of_the_log_goes_unnoticed(tmp_path: Path) -> None:
    release(tmp_path, 1)
    path = tmp_path / LOG_NAME
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ReleaseError) as caught:
            read_log(tmp_path)
        assert str(path) in str(caught.value)
    for size in (0, 1, 40, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ReleaseError):
            read_log(tmp_path)


def test_another_key_cannot_go_on_with_the_log(tmp_path: Path) -> None:
    release(tmp_path, 1)
    with pytest.raises(OptionError, match="this is another key"):
        release(tmp_path, 2, key=OTHER)


# --- on the command line ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's folder, named by the environment, with a checkpoint after round 1."""
    monkeypatch.setenv("PALATE_SERVER_HOME", str(tmp_path / "server"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    write_checkpoint(ServerFolder(tmp_path / "server").checkpoint, state(1))
    return tmp_path / "server"


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["server", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_the_first_release_makes_the_keys_and_says_how_devices_take_it(home: Path) -> None:
    done = palate("release")
    text = palate("key").stdout.strip()
    message = message_path(home / "releases", 1)
    assert "a new release key is in" in done.stderr
    assert f"palate release adopt {message} --key {text}" in done.stdout
    assert "the log is good until" in done.stdout
    assert "test: on 640 public pictures" in done.stdout
    checked = check_release(decode_release(message.read_bytes()), Trust(read_key(text)), Pinned.by(SHIPPED))
    assert checked.card.round == 1
    device = MemoryStore()
    assert adopt(device, read_source(home / "releases"), key=text).release == 1
    assert encoder_hash(federation_encoder(device)) == encoder_hash(state(1).encoder)


def test_a_release_needs_the_passphrase_and_the_keys_text_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = palate("key").stdout
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE")
    assert palate("key").stdout == text
    done = palate("release", status=1)
    assert done.stderr == f"palate: the key {home / 'release.key'} is sealed; set PALATE_RELEASE_PASSPHRASE\n"
    assert list_releases(home / "releases") == []
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    assert json.loads(palate("release", "--json").stdout)["key"] == text.strip()


def test_the_acceptance_test_is_made_before_a_release_is_signed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def test(parent: EncoderWeights, encoder: EncoderWeights, memory: Any) -> Acceptance:
        asked.append((encoder_hash(parent), encoder_hash(encoder)))
        return Acceptance(50, 0.99, 0.99, 128.0)

    monkeypatch.setattr(release_figures, "TEST", test)
    done = palate("release", status=1)
    assert "noise is 128 times as long" in done.stderr
    assert list_releases(home / "releases") == []
    assert asked == [(SHIPPED_HASH, encoder_hash(state(1).encoder))]
    done = palate("release", "--anyway")
    assert "warning: the test refuses it" in done.stdout
    card = list_releases(home / "releases")[0]
    assert card.acceptance == Acceptance(50, 0.99, 0.99, 128.0)


def test_status_asks_for_the_log_to_be_renewed_when_it_is_nearly_over(home: Path) -> None:
    palate("release", "--days", "5")
    done = palate("status")
    assert "palate server key --renew" in done.stdout
    palate("key", "--renew")
    assert "--renew" not in palate("status").stdout
    assert json.loads(palate("status", "--json").stdout)["good_until"] > NOW.isoformat()
