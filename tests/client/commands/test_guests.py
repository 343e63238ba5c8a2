"""Commands that other parts bring along: found when called or when help is asked, and never in the way."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from palate.client.commands import guests
from palate.client.commands.cli import app


def loaded_after(*arguments: str) -> str:
    """What a fresh process has loaded after a command."""
    code = (
        "import sys; from palate.client.commands.cli import app\n"
        f"try: app({list(arguments)!r})\n"
        "except SystemExit: pass\n"
        "names = 'palate.server.commands.cli', 'importlib.metadata', 'flwr', 'torch'\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()[-1]


def test_the_server_is_among_the_commands_that_help_shows() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "Run the common side of a federation." in shown.stdout


def test_the_servers_commands_have_help_of_their_own() -> None:
    shown = CliRunner().invoke(app, ["server", "start", "--help"])
    assert shown.exit_code == 0
    assert "palate server start --host 0.0.0.0 --tls certificates" in shown.stdout


def test_our_own_commands_do_not_look_for_guests() -> None:
    assert loaded_after("profile", "--help") == "[]"


def test_a_guest_is_loaded_when_it_is_called_and_nothing_heavy_with_it() -> None:
    assert "palate.server.commands.cli" in loaded_after("server", "--help")
    assert "flwr" not in loaded_after("server", "--help")


def test_a_guest_cannot_take_the_name_of_our_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def stolen() -> dict[str, object]:
        raise AssertionError("a guest was looked for")

    monkeypatch.setattr(guests, "_guests", stolen)
    assert CliRunner().invoke(app, ["profile", "--help"]).exit_code == 0


def test_a_name_that_nobody_has_is_misuse() -> None:
    done = CliRunner().invoke(app, ["serfer"])
    assert done.exit_code == 2
    assert "No such command" in done.stderr
