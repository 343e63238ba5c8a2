"""The right to invite comes to a server without the release key in the folder that is carried.

A run says so where it is missing.
"""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from machines import Machines, set_passphrase

from palate.server.processes import deployed
from palate.server.releases import round_key, sealed_keys
from palate.server.rounds.run import ServerFolder
from palate.server.settings import RunSettings
from palate.shared.delegation import VALID, make_delegation, open_signed_message


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    set_passphrase(monkeypatch)
    return Machines(tmp_path)


@pytest.fixture
def runs(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """The runs that were submitted; a server runs, and nobody's passphrase is there."""
    seen: list[RunSettings] = []

    def submit(folder: ServerFolder, wanted: RunSettings) -> str:
        seen.append(wanted)
        return "7"

    monkeypatch.setattr(deployed, "running", lambda folder: SimpleNamespace(address=deployed.Address()))
    monkeypatch.setattr(deployed, "submit", submit)
    return seen


def test_a_server_without_the_release_key_gets_the_right_to_invite_on_the_same_way(
    machines: Machines, runs: list[RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    (
        machines.server / "checkpoint.safetensors"
    ).unlink()  # before the first round: there is nothing to release
    assert "delegation" in machines.prepare("--renew").stdout
    assert "the right to invite devices to rounds for 30 days" in machines.sign().stderr
    assert "may invite devices for 30 days" in machines.take().stdout
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE")
    machines.on_server("run", "--unmasked", "--detach")
    assert len(runs) == 1
    public = sealed_keys.read_public(machines.signer / "release.key")
    signed = round_key.signer(machines.server)(b"an invitation")
    opened = open_signed_message(signed, trusted=public, now=datetime.now(UTC))
    assert opened.message == b"an invitation"
    assert [path.name for path in machines.server.glob("*.key")] == ["round.key"]
    assert "and for a delegation" not in machines.prepare("--renew").stdout  # it holds for long enough


def test_a_run_says_in_one_line_how_the_right_to_invite_is_fetched(
    machines: Machines, runs: list[RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE")
    for step in ("before the first folder came back", "after the right has ended"):
        said = machines.on_server("run", "--unmasked", "--detach", status=1).stderr
        assert "palate server prepare FOLDER" in said, step
        assert not runs
        assert not (machines.server / "release.key").exists()
        with monkeypatch.context() as patch:
            patch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
            machines.carry()
        (machines.server / round_key.DELEGATIONS).unlink()


def test_a_right_that_ends_soon_is_said_and_holds_up_no_run(
    machines: Machines, runs: list[RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.carry()
    key = sealed_keys.read_key(machines.signer / "release.key", "correct horse")
    assert key is not None
    begun = datetime.now(UTC) - VALID * 2 / 3
    old = make_delegation(key, round_key.round_public(machines.server), now=begun)
    (machines.server / round_key.DELEGATIONS).write_bytes(old)
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE")
    said = machines.on_server("run", "--unmasked", "--detach").stderr
    assert f"may invite devices until {(begun + VALID).date()}" in said
    assert "palate server prepare FOLDER" in said
    assert len(runs) == 1
