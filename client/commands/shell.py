"""What every command shares: the two consoles, where the vault lies, its passphrase, JSON, progress and polite ends.

Results go to stdout; everything else (questions, progress, errors) goes to stderr, so that `--json` output can be piped
into another program as it stands. A person's own words may hold anything, terminal control codes included, so they
are shown through `plain`, never as markup.
"""

import contextlib
import errno
import getpass
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from palate.client.commands.extras import explain_missing
from palate.client.runtime.progress import Progress
from palate.shared import hardening
from palate.shared.errors import OptionError, PalateError, StorageError, WrongPassphraseError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from palate.client.device import Device

PASSPHRASE_VARIABLE = "PALATE_PASSPHRASE"  # noqa: S105 - a name, not a passphrase
STOPPED = 130  # what shells report for a program that Ctrl-C ended

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", envvar="PALATE_HOME", help="Folder of the vault.", show_default="the platform's data folder"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]


class PoliteGroup(TyperGroup):
    """A group of commands whose failures are one line and an exit status, never a traceback for a person's mistake."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a `PalateError` ends with status 1, Ctrl-C with 130, a full disk with one line too."""
        try:
            return super().invoke(ctx)
        except PalateError as error:
            message = str(error)
        except ModuleNotFoundError as error:
            message = explain_missing(error)
        except KeyboardInterrupt:
            complain("stopped; everything that was finished before is kept")
            raise typer.Exit(STOPPED) from None
        except BrokenPipeError:
            raise  # the reader of our output went away; nobody is left to tell
        except OSError as error:
            message = str(_storage_error(error))
        complain(message)
        raise typer.Exit(1)


def home_of(home: Path | None) -> Path:
    """Return the folder of the vault: the one given, or the platform's folder for such data."""
    if home is not None:
        return home
    import platformdirs

    return platformdirs.user_data_path("palate", appauthor=False)


def open_device(home: Path | None) -> "Device":
    """Open the person's device, asking for the passphrase if the vault has one."""
    from palate.client.device import Device

    place = home_of(home)
    passphrase = (
        ask_passphrase(f"Passphrase of the vault in {place}")
        if Device.is_locked_by_passphrase(place)
        else None
    )
    return with_notices(Device.open(place, passphrase))


def with_notices(device: "Device") -> "Device":
    """Tell the person what was put right about the vault's folder, and return the device."""
    for line in device.vault.mended:
        say(line)
    return device


def ask_passphrase(question: str, *, twice: bool = False, variable: str = PASSPHRASE_VARIABLE) -> str:
    """Return the passphrase from the environment or, if nobody set it there, from the keyboard.

    Raises `WrongPassphraseError` where there is no keyboard, and `OptionError` if the repetition differs.
    """
    given = hardening.given(variable)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise WrongPassphraseError(
            f"the vault needs its passphrase, and there is no terminal to ask on; set {variable}"
        )
    try:
        passphrase = getpass.getpass(f"{question}: ", stream=sys.stderr)
        if twice and getpass.getpass("The same again: ", stream=sys.stderr) != passphrase:
            raise OptionError("the two passphrases differ; nothing was done, so try again")
    except EOFError:
        raise WrongPassphraseError("no passphrase was given; nothing was done") from None
    return passphrase


def confirm(question: str, yes: bool) -> None:
    """Ask before what cannot be undone; raises `OptionError` where nobody can be asked, ends politely at a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise OptionError(f"{question} There is no terminal to ask on; add --yes if you mean it")
    if not typer.confirm(question, err=True):
        complain("nothing was done")
        raise typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=not readable, allow_nan=False) + "\n")


def out() -> "Console":
    """Return the console for results."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def err() -> "Console":
    """Return the console for everything else."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def complain(message: str) -> None:
    """Say in one line on stderr what went wrong."""
    from rich.text import Text

    line = " ".join(plain(message).plain.split())
    err().print(Text("palate: ", style="bold red") + Text(line), soft_wrap=True)


def say(message: str) -> None:
    """Say something that is not the result, on stderr."""
    err().print(plain(message), soft_wrap=True)


def plain(words: str, style: str = "") -> "Text":
    """Return words as they stand: no markup, no control characters."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in words), style=style)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show on stderr how far a longer job is, if there is a terminal and it takes longer than a moment."""
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = err()
    bars = Bars(
        SpinnerColumn(finished_text=" "),  # a bar may stand still for seconds
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield report


def _storage_error(error: OSError) -> StorageError:
    place = error.filename or "a file"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return StorageError(f"the disk is full: {place} cannot be written; free some room and try again")
    return StorageError(f"{place} cannot be used ({error.strerror or type(error).__name__})")
