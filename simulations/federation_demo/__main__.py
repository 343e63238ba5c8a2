"""The command of the federation's demonstration (`story`), which `make federation-demo` runs.

    python -m palate.simulations.federation_demo [--out DIR] [--rounds 3] [--json]

Ends with status 0 if all was as it should be, 1 if not, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from palate.shared.errors import PalateError
from palate.simulations.federation_demo.story import Step, run_demo

if TYPE_CHECKING:
    from rich.console import Console


def main() -> None:
    """Read the arguments, run the demonstration, show how it went, and end the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out/federation"), help="a new folder, or an earlier one"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how many rounds")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, and nothing else there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    from rich.console import Console

    err = Console(file=sys.stderr, highlight=False)
    try:
        report = run_demo(arguments.out, arguments.rounds, _stepper(err))
    except PalateError as error:
        err.print(f"federation demo: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; every process that was started is ended", markup=False)
        sys.exit(130)
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=2, allow_nan=False) + "\n")
    else:
        from palate.simulations.federation_demo.report import show_report

        show_report(Console(file=sys.stdout, highlight=False), report)
    sys.exit(0 if report["as_it_should_be"] else 1)


def _leave(*_: object) -> None:
    raise KeyboardInterrupt


def _stepper(console: Console) -> Step:
    """Return what shows steps.

    At work with a spinner and the time on a terminal, and done with the time it took.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    @contextlib.contextmanager
    def step(what: str) -> Iterator[None]:
        began = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            bars.add_task(what, total=None)
            yield
        console.print(f"{time.monotonic() - began:6.1f} s  {what}", markup=False, soft_wrap=True)

    return step


if __name__ == "__main__":
    main()
