"""The process that runs the rounds of one run.

`serve` starts it as `python -m palate.server.processes.round_process HOME SOCKET RUN`.

Where it stands in the flow: `serve` gives it the run's settings on standard input, which stays open; it runs
`rounds.run.federate` with the devices behind the server's own socket, and ends with status 0 when the run is
over. It is a process of its own because the arithmetic of a large round would keep devices waiting. When
standard input closes, the server is gone, and so is this process at once: what was not kept is done again by
the next one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path

from palate.server.checkpoints import Checkpoint
from palate.server.front.control import ControlClient, ControlDevices
from palate.server.rounds.exchange import Patience
from palate.server.rounds.run import ServerFolder, federate
from palate.server.settings import RunSettings
from palate.shared.errors import PalateError
from palate.shared.hardening import harden


def main() -> int:
    """Run the rounds; return the exit status."""
    harden()
    from palate.server.strategy import average

    home, socket, run = sys.argv[1:]
    folder = ServerFolder(Path(home))
    settings = RunSettings.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    try:
        # A run whose server is gone has not ended: whatever notices it first, nothing may be noted of it.
        with contextlib.closing(ControlClient(Path(socket), gone=lambda: os._exit(2))) as client:
            federate(
                ControlDevices(client),
                folder,
                settings,
                average=average,
                run=run,
                patience=Patience(poll_seconds=0.0),  # a call for replies waits itself
                on_round=lambda state: _log(folder, _line(state)),
            )
    except Exception as error:  # noqa: BLE001 - the last place where it can be written down
        _log(folder, f"the run ended: {error}" if isinstance(error, PalateError) else traceback.format_exc())
        return 1
    return 0


def _end_with_the_server() -> None:
    sys.stdin.read()
    os._exit(2)


def _line(state: Checkpoint) -> str:
    """Say what a round was like."""
    metrics = state.metrics
    refused = ", ".join(f"{count} {reason}" for reason, count in metrics["refused"].items())
    line = (
        f"round {state.round}: {metrics['used']} of {metrics['asked']} updates in {metrics['seconds']:.2f} s"
    )
    return line + (f" ({refused})" if refused else "")


def _log(folder: ServerFolder, text: str) -> None:
    """Add to the runs' log; a full disk is no reason to end a run here."""
    with contextlib.suppress(OSError):
        place = folder.home / "logs" / "runs.log"
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")


if __name__ == "__main__":
    sys.exit(main())
