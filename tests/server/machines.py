"""A server without the release key, the machine where that key lies, and the folder that goes between them:
for the server's tests."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from server_fakes import SHIPPED, settings
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.server.checkpoints import Checkpoint, write_checkpoint
from palate.server.releases import sealed_keys
from palate.server.releases.folder import read_log
from palate.server.rounds.run import ServerFolder

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)


def state(round_: int) -> Checkpoint:
    """Where a federation could stand after so many rounds."""
    share = np.float32(1 - round_ / 4096)
    weights = SHIPPED.with_shared({name: tensor * share for name, tensor in SHIPPED.shared().items()})
    return Checkpoint(round_, weights, settings(), updates=3 * round_)


class Machines:
    """A server without keys, a signing machine without a server, and the folder that goes between them."""

    def __init__(self, place: Path) -> None:
        self.server, self.signer, self.folder = place / "server", place / "signer", place / "carried"
        self.train(1)
        self.key = json.loads(self.on_signer("key", "--json").stdout)["key"]

    def train(self, round_: int) -> None:
        write_checkpoint(ServerFolder(self.server).checkpoint, state(round_))

    def on_server(self, *arguments: str, status: int = 0) -> Result:
        return palate(*arguments, "--home", str(self.server), status=status)

    def on_signer(self, *arguments: str, status: int = 0) -> Result:
        return palate(*arguments, "--home", str(self.signer), status=status)

    def prepare(self, *more: str, status: int = 0) -> Result:
        return self.on_server("prepare", str(self.folder), *more, status=status)

    def sign(self, *more: str, status: int = 0) -> Result:
        return self.on_signer("sign", str(self.folder), "--yes", *more, status=status)

    def take(self, *more: str, status: int = 0) -> Result:
        return self.on_server("take", str(self.folder), "--yes", *more, status=status)

    def carry(self) -> None:
        for step in (self.prepare, self.sign, self.take):
            step()

    def log(self, home: Path | None = None) -> Any:
        return read_log((home or self.server) / "releases")


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["server", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    assert "Traceback" not in done.stderr
    if status:
        assert len(done.stderr.strip().splitlines()) == 1 or "nothing was" in done.stderr
    return done


def set_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the release key's passphrase, and plain output."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    # Argon2id is tested with the key's file; here it would only take time.
    monkeypatch.setattr(sealed_keys, "_derive", lambda passphrase, salt: passphrase.encode().ljust(32, b"\0"))
