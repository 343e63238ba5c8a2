"""The two keys: sealed unless asked otherwise, changed by the recovery key alone, whole after a kill at any
step."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.server.commands import keys as key_cli
from palate.server.releases import folder as releases
from palate.server.releases import release_keys, sealed_keys
from palate.server.releases.folder import read_log
from palate.server.releases.release_keys import (
    KeyFiles,
    Passphrases,
    begin_log,
    change_keys,
    current_key,
    renew,
)
from palate.shared.errors import OptionError, WrongPassphraseError
from palate.shared.releases.message import ReleaseLog, read_key, write_key

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
OPEN = Passphrases(None, None)


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    """Where keys lie, without any yet."""
    return KeyFiles(tmp_path / "home")


def log_of(files: KeyFiles) -> ReleaseLog:
    log = read_log(files.releases)
    assert log is not None
    return log


def test_both_keys_are_named_by_the_first_entry(files: KeyFiles) -> None:
    log = begin_log(files, NOW, OPEN)
    assert log == log_of(files) == begin_log(files, NOW, OPEN)
    keys = log.keys[0]
    assert sealed_keys.read_public(files.release_file) == keys.release
    assert sealed_keys.read_public(files.recovery_file) == keys.recovery
    key = current_key(files, None)
    assert key is not None
    assert key.public_key().public_bytes_raw() == keys.release


def test_a_release_key_is_changed_without_the_one_before(files: KeyFiles) -> None:
    before = begin_log(files, NOW, OPEN).keys[-1]
    files.release_file.unlink()  # lost
    with pytest.raises(OptionError, match="palate server prepare FOLDER"):
        current_key(files, None)
    log = change_keys(files, NOW, OPEN)
    assert log == log_of(files)
    assert (log.keys[-1].recovery, len(log.entries)) == (before.recovery, 2)
    assert log.keys[-1].release != before.release
    assert sealed_keys.read_public(files.release_file) == log.keys[-1].release


def test_without_the_recovery_key_nothing_is_changed(files: KeyFiles, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no release key to change"):
        change_keys(files, NOW, OPEN)
    log = begin_log(files, NOW, OPEN)
    stick = tmp_path / "stick.key"
    files.recovery_file.rename(stick)
    with pytest.raises(OptionError, match="--recovery FILE"):
        change_keys(files, NOW, OPEN)
    sealed_keys.make_key(files.recovery_file, None)  # a thief's own
    with pytest.raises(OptionError, match="is another key"):
        change_keys(files, NOW, OPEN)
    assert log_of(files) == log
    changed = change_keys(KeyFiles(files.home, stick), NOW, OPEN, release=True, recovery=True)
    assert sealed_keys.read_public(stick) == changed.keys[-1].recovery != log.keys[-1].recovery


def test_a_renewed_log_is_good_for_longer_and_has_no_more_entries(files: KeyFiles) -> None:
    with pytest.raises(OptionError, match="no log of releases to renew"):
        renew(files, NOW, None)
    log = begin_log(files, NOW, OPEN, days=10)
    renewed = renew(files, NOW, None, days=100)
    assert renewed.entries == log.entries
    assert log_of(files) == renewed
    assert renewed.statement.until - log.statement.until == 90 * 86_400


STEPS = (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("step", STEPS)
def test_a_change_that_was_cut_short_is_finished_or_never_was(
    files: KeyFiles, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before = begin_log(files, NOW, OPEN)
    done = 0

    def cut(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal done
            done += 1
            if done == step:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(sealed_keys, "move_key", cut(sealed_keys.move_key))
        patch.setattr(releases, "write_atomically", cut(releases.write_atomically))
        cut_short = False
        try:
            change_keys(files, NOW, OPEN, release=True, recovery=True)
        except KeyboardInterrupt:
            cut_short = True
    assert cut_short is (step <= 5)  # two keys are made, the log is written, two keys are moved
    key = current_key(files, None)
    log = log_of(files)
    assert key is not None
    assert key.public_key().public_bytes_raw() == log.keys[-1].release
    assert sealed_keys.read_public(files.recovery_file) == log.keys[-1].recovery
    assert len(log.entries) == (1 if step <= 3 else 2)
    again = change_keys(files, NOW, OPEN, release=True, recovery=True)
    assert again.keys[0] == before.keys[0]
    assert len(again.entries) == len(log.entries) + 1


def test_another_key_in_its_place_is_one_line(files: KeyFiles) -> None:
    begin_log(files, NOW, OPEN)
    sealed_keys.make_key(files.release_file, None)
    with pytest.raises(OptionError, match="is not that key"):
        current_key(files, None)


def test_keys_that_were_made_before_a_kill_are_used(files: KeyFiles) -> None:
    made = sealed_keys.make_key(files.release_file, None)
    assert begin_log(files, NOW, OPEN).keys[0].release == made.public_key().public_bytes_raw()


# --- on the command line ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of a server, named by the environment, where no passphrase is."""
    monkeypatch.setenv("PALATE_SERVER_HOME", str(tmp_path / "server"))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("PALATE_RELEASE_PASSPHRASE", "PALATE_RECOVERY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "server"


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["server", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_a_key_is_sealed_or_it_is_not_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = palate("key", status=1)
    assert "set PALATE_RELEASE_PASSPHRASE" in refused.stderr
    assert "--unsealed" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (home / "release.key").exists()
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    palate("key")
    for name in ("release.key", "recovery.key"):
        assert sealed_keys.is_sealed(home / name)
        with pytest.raises(WrongPassphraseError):
            sealed_keys.read_key(home / name, "wrong horse")


def test_an_unsealed_key_is_asked_for_and_warned_of(home: Path) -> None:
    done = palate("key", "--unsealed")
    assert "warning: both keys are unsealed: anybody who reads these files can sign" in done.stderr
    assert not sealed_keys.is_sealed(home / "release.key")


def test_on_a_terminal_the_passphrase_is_asked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def ask(what: str, *, new: bool) -> str:
        asked.append((what, new))
        return "typed horse"

    monkeypatch.setattr(key_cli, "_ask", ask)
    palate("key")
    assert asked == [("a passphrase to seal new keys with", True)]
    for name in ("release.key", "recovery.key"):
        assert sealed_keys.read_key(home / name, "typed horse") is not None
    palate("key", "--renew")
    assert asked[1:] == [(f"passphrase of the release key {home / 'release.key'}", False)]


def test_the_keys_are_made_once_and_the_text_is_printed_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    first = palate("key")
    assert "keep it secret" in first.stderr
    assert "move it off this machine" in first.stderr
    text = first.stdout.strip()
    assert read_key(text) == sealed_keys.read_public(home / "recovery.key")
    again = palate("key")
    assert (again.stdout.strip(), again.stderr) == (text, "")
    found = json.loads(palate("key", "--json").stdout)
    assert (found["key"], found["new"]) == (text, False)
    assert read_key(found["release_key"]) == sealed_keys.read_public(home / "release.key")


def test_the_text_stays_when_the_release_key_changes_and_not_when_the_recovery_key_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("PALATE_RECOVERY_PASSPHRASE", "other horse")
    assert "no release key to change" in palate("key", "--rotate", status=1).stderr
    before = json.loads(palate("key", "--json").stdout)
    rotated = json.loads(palate("key", "--rotate", "--json").stdout)
    assert rotated["key"] == before["key"]
    assert rotated["release_key"] != before["release_key"]
    assert sealed_keys.read_key(home / "recovery.key", "other horse") is not None
    assert sealed_keys.read_key(home / "release.key", "correct horse") is not None
    changed = json.loads(palate("key", "--rotate-recovery", "--json").stdout)
    assert changed["key"] != before["key"]
    assert changed["release_key"] == rotated["release_key"]
    assert "leave --renew away" in palate("key", "--rotate", "--renew", status=1).stderr


def test_a_recovery_key_on_a_stick_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    palate("key")
    (home / "recovery.key").rename(tmp_path / "stick.key")
    assert "--recovery FILE" in palate("key", "--rotate", status=1).stderr
    palate("key", "--rotate", "--recovery", str(tmp_path / "stick.key"))
    log = read_log(home / "releases")
    assert log is not None
    assert sealed_keys.read_public(home / release_keys.RELEASE_KEY) == log.keys[-1].release
    assert palate("key").stdout.strip() == write_key(log.keys[0].recovery)
