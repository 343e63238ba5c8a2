"""`palate unlock`, `lock` and `passphrase`, and how a passphrase is chosen."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palate.client.commands import locking
from palate.client.commands.cli import app
from palate.client.vault.agent import ask_key, end_agent
from palate.client.vault.folder import read_lock
from palate.shared.errors import OptionError

OLD, NEW = "correct horse", "lantern gravel otter mural"
sockets = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Unix sockets")


@pytest.fixture(autouse=True)
def vault(taught_vault: Path, remembered_keys: None) -> Iterator[Path]:
    """A vault with two comments, and no agent afterwards."""
    home = Path(shutil.copytree(taught_vault, os.environ["PALATE_HOME"]))
    yield home
    if home.exists():
        end_agent(read_lock(home))


def palate(*arguments: str, status: int = 0, passphrase: str | None = None, new: str | None = None) -> Result:
    environment = {"PALATE_PASSPHRASE": passphrase, "PALATE_NEW_PASSPHRASE": new}
    done = CliRunner().invoke(app, list(arguments), env=environment)
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


@sockets
def test_after_unlock_no_command_asks_and_after_lock_each_does(vault: Path) -> None:
    assert "no terminal to ask on" in palate("comments", status=1).stderr
    told = json.loads(palate("unlock", "--for", "1h", "--json", passphrase=OLD).stdout)
    assert told["home"] == str(vault)
    assert len(json.loads(palate("comments", "--json").stdout)) == 2
    palate("profile", "set", "bold outlines", "1")
    assert json.loads(palate("lock", "--json").stdout)["ended"] is True
    assert json.loads(palate("lock", "--json").stdout)["ended"] is False
    assert "no terminal to ask on" in palate("comments", status=1).stderr


@sockets
def test_a_wrong_passphrase_unlocks_nothing(vault: Path) -> None:
    assert "does not open the vault" in palate("unlock", status=1, passphrase="wrong").stderr
    assert ask_key(read_lock(vault)) is None


@sockets
def test_a_passphrase_that_is_given_beats_the_key_that_is_kept() -> None:
    palate("unlock", passphrase=OLD)
    assert "does not open the vault" in palate("comments", status=1, passphrase="wrong").stderr


@sockets
def test_a_kept_key_that_does_not_fit_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.client.vault.agent.ask_key", lambda clear: bytes(32))
    assert "no terminal to ask on" in palate("comments", status=1).stderr


@sockets
def test_erasing_ends_what_keeps_the_key(vault: Path) -> None:
    palate("unlock", passphrase=OLD)
    clear = read_lock(vault)
    palate("erase", "--yes")
    assert ask_key(clear) is None


@pytest.mark.parametrize("text", ["15", "m", "1d", "-5m", "1.5h", "", "90 s", "9999999s", "٣m"])
def test_times_that_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--for is"):
        locking.read_time(text)


def test_times_that_are_read() -> None:
    assert [locking.read_time(text) for text in ("90s", "15m", "8h")] == [90, 900, 28800]
    assert "24 hours" in palate("unlock", "--for", "25h", status=1, passphrase=OLD).stderr


def change(old: str, new: str, status: int = 0) -> Result:
    return palate("passphrase", status=status, passphrase=old, new=new)


def test_the_passphrase_is_changed_and_everything_is_kept() -> None:
    before = palate("comments", "--json", passphrase=OLD).stdout
    done = change(OLD, NEW)
    assert "still open with the old one" in done.stdout
    assert done.stderr == ""
    assert "does not open the vault" in palate("comments", status=1, passphrase=OLD).stderr
    assert palate("comments", "--json", passphrase=NEW).stdout == before


def test_a_wrong_present_passphrase_changes_nothing() -> None:
    assert "does not open the vault" in change("wrong", NEW, status=1).stderr
    palate("comments", passphrase=OLD)


def test_without_a_terminal_the_new_passphrase_must_be_given() -> None:
    line = palate("passphrase", status=1, passphrase=OLD).stderr
    assert "PALATE_NEW_PASSPHRASE" in line
    palate("comments", passphrase=OLD)


@sockets
def test_the_key_that_is_kept_neither_changes_the_passphrase_nor_outlives_it(vault: Path) -> None:
    palate("unlock", passphrase=OLD)
    clear = read_lock(vault)
    assert "no terminal to ask on" in palate("passphrase", status=1, new=NEW).stderr
    change(OLD, NEW)
    assert ask_key(clear) is None
    assert ask_key(read_lock(vault)) is None


def test_what_was_spent_of_the_privacy_is_remembered_through_a_new_passphrase(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keyring's note goes by the vault's own id, which stays."""
    from palate.client.device import Device
    from palate.client.privacy import rollback
    from palate.client.privacy.budget import PRIVACY_SPENT, encode_spent, read_spent
    from palate.client.vault.store import ONLY

    kept: dict[str, bytes] = {}

    class Memory:
        get, set = kept.get, kept.__setitem__

    monkeypatch.setattr(rollback, "find_keyring", Memory)
    with Device.open(vault, OLD) as device:
        rollback.remember(device.vault)
        with device.vault.transaction() as change_:
            rollback.count_as_spent(change_, now=rollback.datetime.now(rollback.UTC), spent=2.5)
        spent = read_spent(device.vault)
    assert spent.epsilon == pytest.approx(2.5)
    change(OLD, NEW)
    with Device.open(vault, NEW) as device:
        rollback.remember(device.vault)
        assert read_spent(device.vault) == spent
        with device.vault.transaction() as change_:  # the account is undone, as by an older copy
            change_.put(PRIVACY_SPENT, ONLY, encode_spent(type(spent)(spent.budget)))
        device.vault.change_passphrase(OLD)
        lines = rollback.remember(device.vault)
        assert any("knows of more spent privacy" in line for line in lines)
        assert read_spent(device.vault).epsilon == pytest.approx(2.5)


def test_a_vault_of_the_keyring_has_no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.client.device import Device

    monkeypatch.setattr(Device, "is_locked_by_passphrase", staticmethod(lambda home: False))
    for command in ("unlock", "passphrase"):
        assert "locked by the system's keyring" in palate(command, status=1).stderr


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_in_a_new_passphrase_are_refused(end: str, vault: Path, tmp_path: Path) -> None:
    said = "holds a line end, which nobody can type"
    elsewhere = ["--home", str(tmp_path / "new")]
    assert said in palate("init", *elsewhere, status=1, passphrase=NEW + end).stderr
    assert not (tmp_path / "new" / "vault.head").exists()
    assert said in change(OLD, NEW + end, status=1).stderr
    file = str(tmp_path / "a.palate")
    palate("export", file, passphrase=OLD)
    done = CliRunner().invoke(
        app,
        ["import", file, *elsewhere],
        env={"PALATE_PASSPHRASE": NEW + end, "PALATE_EXPORT_PASSPHRASE": OLD},
    )
    assert (done.exit_code, said in done.stderr) == (1, True)
    done = CliRunner().invoke(
        app,
        ["export", str(tmp_path / "b.palate"), "--other-passphrase"],
        env={"PALATE_PASSPHRASE": OLD, "PALATE_EXPORT_PASSPHRASE": NEW + end},
    )
    assert (done.exit_code, said in done.stderr) == (1, True)


@pytest.mark.parametrize("command", [["comments"], ["unlock"], ["passphrase"], ["export", "new.palate"]])
def test_a_line_end_in_a_passphrase_that_does_not_open_is_hinted_at(command: list[str]) -> None:
    line = palate(*command, status=1, passphrase=OLD + "\n").stderr
    assert "does not open the vault" in line
    assert "what is in PALATE_PASSPHRASE holds a line end" in line
    assert "line end" not in palate("comments", status=1, passphrase="wrong").stderr


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            "hunter2",
            "(this is a very common password): a program that has your files would guess it in less than",
        ),
        ("Ann 1987", "would guess it in"),
        ("aaaaaaaaaaaaaaaaaaaaaaaa" * 8, "would guess it in less than a second"),
    ],
)
def test_a_weak_passphrase_is_named_and_a_better_one_described(
    chosen: str, said: str, tmp_path: Path
) -> None:
    done = palate("init", "--home", str(tmp_path / "new"), passphrase=chosen)
    assert "warning: this passphrase is weak" in done.stderr
    assert said in done.stderr
    assert "four or more words picked at random" in done.stderr
    assert "warning" in change(OLD, chosen).stderr


@pytest.mark.parametrize("chosen", [NEW, "Ζαχαρένια βρύση κοιμάται αργά", "kP2#zR9w!mQ4" + "x" * 100])
def test_a_good_passphrase_is_not_criticised(chosen: str) -> None:
    assert locking.describe_weakness(chosen) == ""


def test_an_empty_passphrase_is_left_to_the_vault() -> None:
    assert locking.describe_weakness("") == ""
