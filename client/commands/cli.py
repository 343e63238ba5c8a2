"""The command line `palate`: puts the commands together; `main` is what the installed command calls.

Only typer is loaded to read the arguments. Each command loads what it needs when it runs, so a question about
the profile does not wait for the libraries that make pictures.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from palate.client.commands import (
    about,
    config,
    federation,
    keeping,
    locking,
    making,
    pseudonyms,
    releases,
    taste,
)
from palate.client.commands.guests import HospitableGroup
from palate.shared.hardening import harden

app = typer.Typer(
    name="palate",
    cls=HospitableGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"palate {version('palate')}")
        raise typer.Exit


@app.callback()
def palate(
    context: typer.Context,
    named: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar=config.VARIABLE,
            help="Another config file; see palate config.",
            show_default="the platform's config folder",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Learn your taste from what you say about pictures, on your own device, and make pictures that fit it.

    Start with: palate init, then palate teach PICTURE --comment TEXT, then palate create PROMPT.
    To see it at work at once: palate demo.

    The TAB key completes commands and options in your shell after: palate --install-completion.
    """
    place = config.default_place() if named is None else Path(os.path.expanduser(named))
    if context.invoked_subcommand == "config":
        context.obj = place
    elif isinstance(context.command, HospitableGroup):
        values = config.read_config(place, missing_ok=named is None)
        context.default_map = config.defaults_for(context.command, values)


TASTE, PICTURES, KEEPING = "Your taste", "Pictures", "Your vault"
FEDERATION, ABOUT = "Learning together", "About Palate"

app.command("init", rich_help_panel=KEEPING)(keeping.init)
app.command("teach", rich_help_panel=TASTE)(taste.teach)
app.add_typer(taste.profile_app, name="profile", rich_help_panel=TASTE)
app.add_typer(taste.comments_app, name="comments", rich_help_panel=TASTE)
app.command("forget", rich_help_panel=TASTE)(taste.forget)
app.command("create", rich_help_panel=PICTURES)(making.create)
app.command("score", rich_help_panel=PICTURES)(making.score)
app.command("unlock", rich_help_panel=KEEPING)(locking.unlock)
app.command("lock", rich_help_panel=KEEPING)(locking.lock)
app.command("passphrase", rich_help_panel=KEEPING)(locking.passphrase)
app.command("export", rich_help_panel=KEEPING)(keeping.export)
app.command("import", rich_help_panel=KEEPING)(keeping.import_)
app.command("erase", rich_help_panel=KEEPING)(keeping.erase)
app.add_typer(config.config_app, name="config", rich_help_panel=KEEPING)
app.command("join", rich_help_panel=FEDERATION)(federation.join)
app.command("leave", rich_help_panel=FEDERATION)(federation.leave)
app.command("outbox", rich_help_panel=FEDERATION)(federation.outbox)
app.add_typer(pseudonyms.pseudonyms_app, name="pseudonyms", rich_help_panel=FEDERATION)
app.add_typer(releases.release_app, name="release", rich_help_panel=FEDERATION)
app.command("demo", rich_help_panel=ABOUT)(about.demo)
app.command("doctor", rich_help_panel=ABOUT)(about.doctor)


def main() -> None:
    """Run the command line; end with 0, 1 (it could not be done), 2 (misused) or 130 (Ctrl-C)."""
    harden()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that knows fewer signs than we draw gets question marks, not a traceback.
            stream.reconfigure(errors="replace")
    app()
