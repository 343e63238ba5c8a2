"""The command line `palate`: puts the commands together; `main` is what the installed command calls.

Only typer is loaded to read the arguments; each command loads what it needs when it runs, so that a question about the
profile does not wait for the libraries that make pictures.
"""

import sys

import typer

from palate.client.commands import about, federation, keeping, making, pseudonyms, releases, taste
from palate.client.commands.guests import HospitableGroup
from palate.shared.hardening import harden

app = typer.Typer(
    name="palate",
    cls=HospitableGroup,
    help=(
        "Learns your visual taste from what you say about pictures, on this device, and makes pictures that fit it.\n\n"
        "Start with: palate init, then palate teach PICTURE --comment TEXT, then palate create PROMPT. "
        "To see it at work at once: palate demo."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

TASTE, PICTURES, KEEPING = "Your taste", "Pictures", "Your vault"
FEDERATION, ABOUT = "Learning together", "About Palate"

app.command("init", rich_help_panel=KEEPING)(keeping.init)
app.command("teach", rich_help_panel=TASTE)(taste.teach)
app.add_typer(taste.profile_app, name="profile", rich_help_panel=TASTE)
app.command("comments", rich_help_panel=TASTE)(taste.comments)
app.command("forget", rich_help_panel=TASTE)(taste.forget)
app.command("create", rich_help_panel=PICTURES)(making.create)
app.command("score", rich_help_panel=PICTURES)(making.score)
app.command("export", rich_help_panel=KEEPING)(keeping.export)
app.command("import", rich_help_panel=KEEPING)(keeping.import_)
app.command("erase", rich_help_panel=KEEPING)(keeping.erase)
app.command("join", rich_help_panel=FEDERATION)(federation.join)
app.command("leave", rich_help_panel=FEDERATION)(federation.leave)
app.command("outbox", rich_help_panel=FEDERATION)(federation.outbox)
app.add_typer(pseudonyms.pseudonyms_app, name="pseudonyms", rich_help_panel=FEDERATION)
app.add_typer(releases.release_app, name="release", rich_help_panel=FEDERATION)
app.command("demo", rich_help_panel=ABOUT)(about.demo)
app.command("doctor", rich_help_panel=ABOUT)(about.doctor)


def main() -> None:
    """Run the command line; ends the process with 0, 1 (it could not be done), 2 (misused) or 130 (Ctrl-C)."""
    harden()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that knows fewer signs than we draw gets question marks, not a traceback.
            stream.reconfigure(errors="replace")
    app()
