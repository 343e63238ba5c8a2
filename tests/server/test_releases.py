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

from palate.client.cli import app
from palate.client.outbox import MemoryLog
from palate.client.releases import adopt, own_encoder, read_source
from palate.server import releases, signing
from palate.server.checkpoints import Checkpoint, write_checkpoint
from palate.server.federation import ServerFolder
from palate.server.releases import (
    current_key,
    current_public,
    list_releases,
    make_release,
    message_path,
    newest_encoder,
    newest_message,
    read_log,
    read_release,
    release_path,
    rotate_key,
)
from palate.shared.encoder import (
    EncoderWeights,
    encoder_from_bytes,
    encoder_hash,
    encoder_to_bytes,
    shapes_hash,
)
from palate.shared.errors import OptionError, PalateError, ReleaseError, StorageError
from palate.shared.release import (
    BACKBONE_HASH,
    LOG_NAME,
    SHIPPED_HASH,
    PrivacySpent,
    decode_release,
    read_key,
)
from palate.shared.release_check import Pinned, Trust, check_release
from palate.shared.wire import fixed_hash

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
PUBLIC = KEY.public_key().public_bytes_raw()


def state(round_: int) -> Checkpoint:
    """Where a federation could stand after so many rounds."""
    share = np.float32(1 - round_ / 4096)
    weights = SHIPPED.with_shared({name: tensor * share for name, tensor in SHIPPED.shared().items()})
    return Checkpoint(round_, weights, settings(), updates=3 * round_)


def release(folder: Path, round_: int, **changed: Any) -> Any:
    return make_release(folder, state(round_), NOW, **{"key": KEY, **changed})


def test_releases_are_numbered_and_say_what_they_are(tmp_path: Path) -> None:
    first = release(tmp_path, 1)
    second = release(tmp_path, 2, privacy=PrivacySpent(0.5, 1e-6, "gaussian"))
    assert (first.release, first.parent, first.round, first.updates) == (1, SHIPPED_HASH, 1, 3)
    assert (second.release, second.parent, second.round, second.updates) == (2, first.hash, 2, 6)
    assert first.hash == encoder_hash(state(1).encoder)
    assert (first.shapes, first.fixed, first.backbone) == (shapes_hash(), fixed_hash(SHIPPED), BACKBONE_HASH)
    assert (first.privacy, second.privacy) == (None, PrivacySpent(0.5, 1e-6, "gaussian"))
    assert list_releases(tmp_path) == [first, second]
    assert encoder_hash(newest_encoder(tmp_path)) == second.hash
    assert read_release(tmp_path, 1).release == 1


def test_what_is_made_is_what_a_device_takes(tmp_path: Path) -> None:
    release(tmp_path, 1)
    release(tmp_path, 2)
    for number in (1, 2):
        data = message_path(tmp_path, number).read_bytes()
        checked = check_release(decode_release(data), Trust(PUBLIC), Pinned.by(SHIPPED))
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


def test_nothing_new_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is that of release 0"):
        make_release(tmp_path, Checkpoint(0, SHIPPED, settings()), NOW, key=KEY)
    release(tmp_path, 1)
    with pytest.raises(OptionError, match="is that of release 1"):
        release(tmp_path, 1)
    assert len(list_releases(tmp_path)) == 1


def test_an_encoder_that_no_device_would_take_is_not_released(tmp_path: Path) -> None:
    rigged = EncoderWeights(
        0, {**SHIPPED.tensors, "feature.scale": SHIPPED.tensors["feature.scale"] + np.float32(1)}
    )
    huge = SHIPPED.with_shared({name: tensor * np.float32(100) for name, tensor in SHIPPED.shared().items()})
    for weights, reason in ((rigged, "fixed"), (huge, "norm")):
        with pytest.raises(ReleaseError) as caught:
            make_release(tmp_path, Checkpoint(1, weights, settings()), NOW, key=KEY)
        assert caught.value.reason == reason
    assert not (tmp_path / LOG_NAME).exists()


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
    with pytest.raises(StorageError, match="release 2 was not made"):
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
    rotate_key_to(tmp_path, tmp_path)
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


# --- changing the key -----------------------------------------------------------------------------------------------


def key_of(home: Path) -> Path:
    return home / "release.key"


def rotate_key_to(folder: Path, home: Path) -> bytes:
    """Change the key of a folder whose log `KEY` began."""
    key_of(home).write_bytes(signing._encode(KEY, None))
    key_of(home).chmod(0o600)
    return rotate_key(folder, NOW, key_path=key_of(home), passphrase=None)


def test_after_a_change_of_the_key_the_new_one_signs_and_devices_follow(tmp_path: Path) -> None:
    release(tmp_path / "r", 1)
    public = rotate_key_to(tmp_path / "r", tmp_path)
    key = current_key(tmp_path / "r", key_of(tmp_path), None)
    assert key is not None
    assert key.public_key().public_bytes_raw() == public == current_public(tmp_path / "r", key_of(tmp_path))
    assert public != PUBLIC
    with pytest.raises(OptionError):
        release(tmp_path / "r", 2)
    release(tmp_path / "r", 2, key=key)
    data = newest_message(tmp_path / "r")
    assert data is not None
    checked = check_release(decode_release(data), Trust(PUBLIC), Pinned.by(SHIPPED))
    assert (checked.card.release, checked.trust.key) == (2, public)


def test_a_change_of_the_key_that_was_cut_short_is_finished_or_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r"
    release(folder, 1)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # before the log names the new key
        patch.setattr(releases, "write_atomically", cut)
        with pytest.raises(KeyboardInterrupt):
            rotate_key_to(folder, tmp_path)
    assert current_public(folder, key_of(tmp_path)) == PUBLIC
    with monkeypatch.context() as patch:  # after that, before its file is in place
        move = signing.move_key
        patch.setattr(signing, "move_key", lambda a, b: cut() if b == key_of(tmp_path) else move(a, b))
        with pytest.raises(KeyboardInterrupt):
            rotate_key_to(folder, tmp_path)
    assert signing.read_public(key_of(tmp_path)) == PUBLIC
    key = current_key(folder, key_of(tmp_path), None)
    assert key is not None
    assert key.public_key().public_bytes_raw() == signing.read_public(key_of(tmp_path)) != PUBLIC
    assert release(folder, 2, key=key).release == 2


def test_a_lost_key_is_one_line(tmp_path: Path) -> None:
    release(tmp_path / "r", 1)
    with pytest.raises(OptionError, match="restore it from a backup"):
        current_key(tmp_path / "r", key_of(tmp_path), None)
    signing.make_key(key_of(tmp_path), None)
    with pytest.raises(OptionError, match="is not that key"):
        current_key(tmp_path / "r", key_of(tmp_path), None)


def test_without_a_key_there_is_none_to_change(tmp_path: Path) -> None:
    assert current_key(tmp_path / "r", key_of(tmp_path), None) is None
    with pytest.raises(PalateError, match="no release key to change"):
        rotate_key(tmp_path / "r", NOW, key_path=key_of(tmp_path), passphrase=None)


# --- on the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's folder, named by the environment, with a checkpoint after round 1."""
    monkeypatch.setenv("PALATE_SERVER_HOME", str(tmp_path / "server"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE", raising=False)
    write_checkpoint(ServerFolder(tmp_path / "server").checkpoint, state(1))
    return tmp_path / "server"


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["server", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_the_key_is_made_once_and_printed_alone(home: Path) -> None:
    first = palate("key")
    assert "keep it secret" in first.stderr
    text = first.stdout.strip()
    assert read_key(text) == signing.read_public(home / "release.key")
    again = palate("key")
    assert (again.stdout.strip(), again.stderr) == (text, "")
    assert json.loads(palate("key", "--json").stdout) == {
        "key": text, "file": str(home / "release.key"), "new": False
    }  # fmt: skip


def test_the_first_release_makes_the_key_and_says_how_devices_take_it(home: Path) -> None:
    done = palate("release")
    text = palate("key").stdout.strip()
    message = message_path(home / "releases", 1)
    assert "a new release key is in" in done.stderr
    assert f"palate release adopt {message} --key {text}" in done.stdout
    checked = check_release(decode_release(message.read_bytes()), Trust(read_key(text)), Pinned.by(SHIPPED))
    assert checked.card.round == 1
    device = MemoryLog()
    assert adopt(device, read_source(home / "releases"), key=text).release == 1
    assert encoder_hash(own_encoder(device)) == encoder_hash(state(1).encoder)


def test_a_sealed_key_needs_its_passphrase_for_a_release_and_not_to_be_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    text = palate("key").stdout
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE")
    assert palate("key").stdout == text
    done = palate("release", status=1)
    assert (
        done.stderr
        == f"palate: the release key {home / 'release.key'} is sealed; set PALATE_RELEASE_PASSPHRASE\n"
    )
    assert not (home / "releases" / LOG_NAME).exists()
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    assert json.loads(palate("release", "--json").stdout)["key"] == text.strip()


def test_a_change_of_the_key_prints_the_new_one(home: Path) -> None:
    palate("key", "--rotate", status=1)
    palate("release")
    before = palate("key").stdout
    after = palate("key", "--rotate").stdout
    assert after != before
    assert palate("key").stdout == after
    write_checkpoint(ServerFolder(home).checkpoint, state(2))
    assert json.loads(palate("release", "--json").stdout)["key"] == after.strip()
    assert json.loads(palate("status", "--json").stdout)["releases"] == [1, 2]
