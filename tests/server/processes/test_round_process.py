"""The process of a run: what it notes, and what it leaves unsaid when its server is gone."""

import subprocess
import sys
from pathlib import Path

import pytest
from server_fakes import settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX")


def test_a_run_whose_server_is_gone_has_not_ended(tmp_path: Path) -> None:
    """Or it would not be taken up at the next start: a server that is killed while a call is at work is
    noticed by the call first."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "palate.server.processes.round_process",
            str(tmp_path),
            str(tmp_path / "none.sock"),
            "7",
        ],
        stdin=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(settings(rounds=2).to_json().replace("\n", " ").encode() + b"\n")
        process.stdin.flush()  # and left open, as a server would that is not gone
        assert process.wait(120) == 2
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "ended.json").exists()
