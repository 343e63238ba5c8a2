"""`palate join`: on whose noise a device counts, and what its owner is told of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

pytest.importorskip("flwr")

from palate.client.commands.cli import app
from palate.client.federation import app as node

SERVER = "127.0.0.1:8000"


@pytest.fixture(autouse=True)
def device(taught_vault: Path, monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> None:
    """A vault where PALATE_HOME points, and a network that is none."""
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(node, "run_node", lambda *_, **options: None)
    shutil.copytree(taught_vault, os.environ["PALATE_HOME"])


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_others_are_counted_on_only_with_a_registrar() -> None:
    refused = palate("join", SERVER, "--insecure", "--honest-share", "0.5", status=1).stderr
    assert refused.startswith("palate: --honest-share counts on other devices")
    assert refused.count("\n") == 1
    pinned = ("join", SERVER, "--insecure", "--once", "--registrar", "ab" * 32)
    said = palate(*pinned, "--honest-share", "0.25").stderr
    assert "sums over at least 10 devices that the registrar vouches for" in said
    assert "counting on the noise of 25% of the devices" in said
    assert "if none of them does:" in said
    (terms,) = json.loads(palate("outbox", "--terms", "--json").stdout)["terms"]
    assert terms["honest_share"] == 0.25
