"""What every command shares: consoles, the vault's place, its passphrase, JSON, progress, how commands end.

Results go to stdout. Everything else (questions, progress, errors) goes to stderr, so that `--json` output
can be piped into another program as it stands. A person's own words may hold anything, terminal control codes
included, so they are shown through `plain`, never as markup. Lines are wrapped at words on a terminal, and
left whole in a file or a pipe.
"""

import contextlib
import errno
import getpass
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from palate.client.commands.extras import explain_missing
from palate.client.runtime.progress import Progress
from palate.shared import hardening
from palate.shared.errors import OptionError, PalateError, StorageError, WrongPassphraseError
from palate.shared.terminal import printable

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
    """A group of commands in which a person's mistake is one line and an exit status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a `PalateError` or a full disk ends with a line and status 1, Ctrl-C with 130."""
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
            raise  # the reader of our output is gone; nobody is left to tell
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
    """Open the person's device; ask for the passphrase, unless `palate unlock` keeps the key."""
    from palate.client.device import Device
    from palate.client.vault.agent import ask_key
    from palate.client.vault.folder import read_lock
    from palate.client.vault.vault import Vault

    place = home_of(home)
    if not Device.is_locked_by_passphrase(place):
        return _up_to_date(Device.open(place))
    if hardening.given(PASSPHRASE_VARIABLE) is None and (key := ask_key(read_lock(place))) is not None:
        with contextlib.suppress(WrongPassphraseError):  # a key that does not fit is no key
            return _up_to_date(Device(Vault.open(place, key=key)))
    passphrase = ask_passphrase(f"Passphrase of the vault in {place}")
    with hinting(passphrase):
        device = Device.open(place, passphrase)
    return _up_to_date(device)


def _up_to_date(device: "Device") -> "Device":
    """Read anew what an earlier reader read, tell the person of what was done, and return the device."""
    with_notices(device)
    with contextlib.suppress(PalateError), progress_bar() as progress:  # then the old readings stay
        count = device.read_anew(progress)
        if count:
            say(f"{count} comments were read anew by this version's reader; your corrections stay")
    return device


@contextlib.contextmanager
def hinting(passphrase: str, variable: str = PASSPHRASE_VARIABLE) -> Iterator[None]:
    """Say of a wrong passphrase that it holds a line end, if it does."""
    try:
        yield
    except WrongPassphraseError as error:
        if "\n" not in passphrase and "\r" not in passphrase:
            raise
        raise WrongPassphraseError(f"{error} (what is in {variable} holds a line end; take it out)") from None


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
    if not is_terminal():
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
    """Ask before what cannot be undone; raises `OptionError` where nobody can be asked, ends at a no."""
    if yes:
        return
    if not is_terminal():
        raise OptionError(f"{question} There is no terminal to ask on; add --yes if you mean it")
    if not typer.confirm(question, err=True):
        complain("nothing was done")
        raise typer.Exit(1)


def choose(question: str, letters: str) -> str | None:
    """Ask for one of some letters, on stderr; anything else, or nothing, is None."""
    answer = typer.prompt(question, default="", show_default=False, err=True)
    return next((letter for letter in letters if answer.strip().lower().startswith(letter)), None)


def name_unreadable(reasons: Sequence[str]) -> None:
    """Name on stderr the pictures that were left out, if there are any, and end the command with 1."""
    for reason in reasons:
        complain(reason)
    if reasons:
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


def tell(line: str) -> None:
    """Print one line of the result."""
    _print(out(), plain(line))


def show(page: Any) -> None:
    """Print a page of the result: text and tables."""
    _print(out(), page)


def say(line: str) -> None:
    """Print one line that is not the result, on stderr."""
    _print(err(), plain(line))


def complain(message: str) -> None:
    """Print in one line on stderr what went wrong."""
    from rich.text import Text

    _print(err(), Text.assemble(("palate: ", "bold red"), " ".join(plain(message).plain.split())))


def plain(words: str, style: str = "") -> "Text":
    """Return words as they stand: no markup, no control characters."""
    from rich.text import Text

    return Text(printable(words), style=style)


def _print(console: "Console", what: Any) -> None:
    # A terminal would break a long line inside a word; in a file or a pipe one message stays one line.
    console.print(what, soft_wrap=not console.is_terminal)


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


def is_terminal() -> bool:
    """Say whether somebody can be asked."""
    return sys.stdin.isatty()


def _storage_error(error: OSError) -> StorageError:
    place = error.filename or "a file"
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return StorageError(f"the disk is full: {place} cannot be written; free some room and try again")
    return StorageError(f"{place} cannot be used ({error.strerror or type(error).__name__})")
