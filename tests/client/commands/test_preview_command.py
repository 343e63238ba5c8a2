"""`palate outbox --preview`: what would leave this device, shown to its owner."""

import json
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from palate.client.demo.showcase import demo_folder
from palate.client.device import Device
from palate.shared.wire import UPDATE_BYTES
from tests.client.commands import test_federation_commands as commands
from tests.client.commands.test_federation_commands import KEY, SERVER, complaint, palate, watched

vault, passphrase = commands.vault, commands.passphrase
pytestmark = getattr(commands, "pytestmark", [])


def test_a_preview_of_too_few_labels_says_so(vault: Path) -> None:
    assert "a change of nothing: 2 labels" in palate("outbox", "--preview").stdout
    assert json.loads(palate("outbox", "--preview", "--json").stdout)["learned"] is False


def test_preview_and_terms_are_two_questions(vault: Path) -> None:
    assert "give one of them" in complaint("outbox", "--preview", "--terms")


def test_a_preview_follows_the_terms_that_were_joined_on_last(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Device.open(vault, "correct horse") as device:
        device.teach_file(demo_folder() / "mara.json")
    watched(monkeypatch, lambda *_: None)
    palate("join", SERVER, "--insecure", "--least-devices", "50", "--allow-unmasked", "--registrar", KEY)
    seen = json.loads(palate("outbox", "--preview", "--json").stdout)
    told = (seen["labels"], seen["noise"]["devices"], seen["leaving_unmasked"]["bytes_up"])
    assert told == (14, 50, UPDATE_BYTES)
    assert len(seen["influences"]) == 8
    assert not any("registrar" in line for line in seen["unprotected"])
    shown = palate("outbox", "--preview").stdout
    assert "sum over at least 50 devices" in shown
    assert "without masks, which you allow" in shown
    assert "seasick" in shown  # a word of a comment's
