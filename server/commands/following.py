"""A run as its owner watches it: a progress bar, and a line for each round.

Where it stands in the flow: `cli` calls `show` after it has submitted a run, and `stay` for a server in the
foreground.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from palate.shared.errors import FederationError
from palate.shared.terminal import printable

if TYPE_CHECKING:
    from palate.server.rounds.run import ServerFolder


def counted_rounds(folder: ServerFolder, before: int) -> int:
    """Return how many rounds after `before` moved the encoder.

    The others count for numbers and seeds, and for nothing else.
    """
    from palate.server.metrics import read_metrics

    rounds = {line["round"]: bool(line["counted"]) for line in read_metrics(folder.rounds)}
    return sum(counted for number, counted in rounds.items() if number > before)


def show(folder: ServerFolder, number: str, before: int) -> dict[str, Any]:
    """Show the run's progress until it ends; return how it ended."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from palate.server.metrics import read_metrics
    from palate.server.processes import deployed

    terminal = Console(file=sys.stderr, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bars = Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)
    shown = before
    with bars:
        bar = bars.add_task("waiting for the run to start", total=None)
        for now in deployed.follow(folder, number):
            for line in read_metrics(folder.rounds):
                if line["round"] > shown:
                    shown = line["round"]
                    terminal.print(printable(round_line(line)), markup=False)
            if "ended" in now:
                return now
            words = (
                "waiting for devices"
                if now["doing"] == "waiting"
                else f"round {now['round']} of {now['rounds']}"
            )
            bars.update(bar, description=words, completed=now["done"], total=now["wanted"])
    raise FederationError("the run is gone; see palate server status")


def round_line(metrics: dict[str, Any]) -> str:
    """Return a line on a round for a person."""
    refused = ", ".join(f"{count} {reason}" for reason, count in metrics["refused"].items())
    line = (
        f"round {metrics['round']}: {metrics['used']} of {metrics['asked']} updates in "
        f"{metrics['seconds']:.1f} s"
    )
    line += f" ({refused})" if refused else ""
    return line if metrics["counted"] else line + ": too few, the encoder stays"


def stay(folder: ServerFolder) -> None:
    """Wait until the server ends; Ctrl-C and SIGTERM end it."""
    from palate.server.processes import deployed

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    try:
        while (server := deployed.running(folder)) is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(server.pid, os.WNOHANG)
            time.sleep(0.5)
    except KeyboardInterrupt:
        deployed.stop(folder)
        raise
    raise FederationError("the server ended; start it again and the run goes on")
