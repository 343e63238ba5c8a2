"""What the commands of `palate server` have in common: which folder they work on, and how they print.

Where it stands in the flow: `cli` and `release_cli` use it. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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

    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def out(line: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(line + "\n")


def say(line: str) -> None:
    """Print a line that is no result."""
    sys.stderr.write(line + "\n")


def print_json(value: Any) -> None:
    """Print JSON."""
    sys.stdout.write(jsonlib.dumps(value, indent=2, allow_nan=False) + "\n")
