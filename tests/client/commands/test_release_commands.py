"""`palate release`: accept, show, refuse, go back, compare what others were shown, and forget."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.shared.releases.message import ReleaseLog, SignedRelease, encode_release
from palate.shared.releases.witness import witness_of, write_witness
from tests.client.releases.test_accepted import (
    FIRST,
    FORKED,
    KEY,
    KEY_TEXT,
    RECOVERY,
    SECOND,
    TEXT,
    folder,
    make,
    strangers,
    vault,
)

__all__ = ["folder", "vault"]  # fixtures


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["release", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_the_commands_adopt_show_refuse_and_reset(vault: Path, folder: Path) -> None:
    assert "none yet" in palate("show").stdout
    assert palate("adopt", str(folder.parent / "1.palate"), status=1).stderr.startswith(
        "palate: no release key is pinned"
    )
    done = palate("adopt", str(folder.parent / "1.palate"), "--key", TEXT).stdout
    assert "release 1 is accepted" in done
    assert "release 1 is in use for you: 2 verdicts are too few to try it on" in done
    assert "release 1 was accepted already" in palate("adopt", str(folder.parent / "1.palate")).stdout
    found = json.loads(palate("adopt", str(folder), "--json").stdout)
    assert found == {"release": 2, "hash": SECOND.log.releases[1][1].hash, "new": True, "used": 2}
    shown = palate("show")
    for words in (
        "release 2", TEXT, KEY_TEXT, SECOND.log.head, "2026-11-21 00:00:00", "2027-02-19", "epsilon 1.25",
        "3.5 against those",
        "40 if the other", "500 public pictures",
    ):  # fmt: skip
        assert words in " ".join(shown.stdout.split())
    assert json.loads(palate("show", "--json").stdout)["history"][0]["round"] == 10
    refusal = palate("adopt", str(folder.parent / "1.palate"), status=1)
    assert (refusal.stdout, len(refusal.stderr.strip().splitlines())) == ("", 1)
    assert "add --yes" in palate("reset", status=1).stderr
    done = palate("reset", "--yes")
    assert done.stderr.startswith("warning: nothing is pinned any more")
    assert "before: release 2" in done.stdout
    assert "none yet" in palate("show").stdout


def test_the_owner_goes_back_and_on_again(vault: Path, folder: Path) -> None:
    assert "there is none to choose" in palate("back", status=1).stderr
    assert "name the file" in palate("adopt", status=1).stderr
    palate("adopt", str(folder.parent / "1.palate"), "--key", TEXT)
    palate("adopt", str(folder))
    assert "release 1 is in use for you, as you decided" in palate("back").stdout
    shown = json.loads(palate("show", "--json").stdout)
    assert (shown["release"], shown["used"]) == (2, 1)
    assert "release 2 is in use for you, as you decided" in palate("adopt", "--anyway").stdout
    assert json.loads(palate("back", "--json").stdout) == {"release": 2, "used": 1}


def test_two_devices_compare_what_they_were_shown(vault: Path, folder: Path, tmp_path: Path) -> None:
    mine, forked = tmp_path / "mine.txt", tmp_path / "forked.txt"
    assert "no release log" in palate("witness", str(mine), status=1).stderr
    palate("adopt", str(folder.parent / "1.palate"), "--key", TEXT)
    assert "2 entries, 1 of them releases" in palate("witness", str(mine)).stdout
    assert "both saw the same log" in palate("compare", str(mine)).stdout
    palate("adopt", str(folder))
    assert "this device is 1 entry ahead" in palate("compare", str(mine)).stdout
    forked.write_text(write_witness(witness_of(FORKED.log)))
    done = palate("compare", str(forked), status=1)
    assert done.stdout.startswith("FORK: the logs part at entry 2")
    assert json.loads(palate("compare", str(forked), "--json", status=1).stdout)["verdict"] == "fork"
    other = tmp_path / "other.txt"
    other.write_text(write_witness(witness_of(strangers().log)))
    assert "two servers" in palate("compare", str(other), status=1).stdout
    other.write_bytes(b"\xff" * 50)
    assert "no witness" in palate("compare", str(other), status=1).stderr
    assert palate("compare", str(tmp_path / "none"), status=1).stdout == ""
    assert palate("witness", str(tmp_path / "none" / "file"), status=1).stdout == ""


def test_a_log_that_is_not_good_any_more_is_said_by_show_and_by_the_doctor(
    vault: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(ReleaseLog.begin(KEY, RECOVERY, 1_000_000_000)).log.with_statement(1_000_000_000, KEY)
    path = folder.parent / "old.palate"
    path.write_bytes(encode_release(SignedRelease(old, FIRST.encoder)))
    palate("adopt", str(path), "--key", TEXT)
    assert "was good until 2001-12-08 only" in palate("show").stderr
    assert not json.loads(palate("show", "--json").stdout)["good"]
    done = CliRunner().invoke(app, ["doctor", "--no-measure"])
    assert "was good until 2001-12-08 only" in done.stderr
    monkeypatch.delenv("PALATE_PASSPHRASE")
    assert (
        "was good until" not in CliRunner().invoke(app, ["doctor", "--no-measure"]).stderr
    )  # nobody is asked


@pytest.mark.parametrize("command", ["show", "adopt", "back", "witness", "compare", "reset"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert f"palate release {command}" in palate(command, "--help").stdout
