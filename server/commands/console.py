"""What the commands of `palate server` share: which folder they work on, and how they print.

Where it stands in the flow: every module of this folder prints through it. Results go to stdout, everything
else to stderr. What came from outside (the name of a device, a line in a carried file) may hold control codes
of a terminal, so every line is cleaned.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.shared.terminal import printable

if TYPE_CHECKING:
    from palate.server.rounds.run import ServerFolder

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="PALATE_SERVER_HOME",
        help="Folder of the server.",
        show_default="the platform's data folder",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]


def folder_of(home: Path | None) -> ServerFolder:
    """Return the server's folder: the one that is named, or the platform's."""
    from palate.server.rounds.run import ServerFolder

    if home is None:
        import platformdirs

        home = platformdirs.user_data_path("palate-server", appauthor=False)
    return ServerFolder(home.expanduser().resolve())


@contextlib.contextmanager
def dots(what: str) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    from rich.console import Console

    terminal = Console(file=sys.stderr, highlight=False)
    if not terminal.is_terminal:
        yield
        return
    with terminal.status(what):
        yield


def out(line: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(printable(line) + "\n")


def say(line: str) -> None:
    """Print a line that is no result."""
    sys.stderr.write(printable(line) + "\n")


def print_json(value: Any) -> None:
    """Print JSON."""
    sys.stdout.write(jsonlib.dumps(value, indent=2, allow_nan=False) + "\n")
