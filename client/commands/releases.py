"""`palate release`: which encoder this device uses, taking a newer one over, and going back to the one that ships with Palate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from palate.client.releases import Standing

release_app = typer.Typer(
    help=(
        "Take over newer releases of the shared encoder, each one signed and checked.\n\n"
        "Start with: palate release adopt FILE --key TEXT, with the text that the person who runs the server gave you."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@release_app.command()
def show(home: Home = None, json: Json = False) -> None:
    """Show which release this device uses, whose key is pinned, and how far the server's log was accepted.

    Devices that were shown the same log have the same head: compare it with somebody.

    Example:

        palate release show
    """
    from palate.client.releases import read_standing

    with shell.open_device(home) as device:
        standing = read_standing(device.vault)
    if json:
        shell.print_json(standing.to_json())
    else:
        shell.out().print(_view(standing))


@release_app.command()
def adopt(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE_OR_FOLDER", help="A .palate file, or a server's folder of releases."),
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="Text of the server's release key; needed the first time.", show_default=False
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Check a release and use it from now on; anything that is not signed, newer and fitting is refused.

    Examples:

        palate release adopt release-00001.palate --key palate1...

        palate release adopt release-00002.palate
    """
    from palate.client.releases import adopt as adopt_release
    from palate.client.releases import read_source

    release = read_source(source)
    with shell.open_device(home) as device:
        adopted = adopt_release(device.vault, release, key=key)
    if json:
        shell.print_json({"release": adopted.release, "hash": adopted.hash, "new": adopted.new})
    else:
        now = "is in use from now on" if adopted.new else "was in use already"
        shell.out().print(f"release {adopted.release} {now} (encoder {adopted.hash[:12]})")


@release_app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Go back to the encoder that ships with Palate, and forget the pinned key and the accepted log.

    Example:

        palate release reset
    """
    from palate.client.releases import reset as reset_releases

    shell.confirm(
        "Forget the adopted release, the pinned key and what was accepted of the server's log?", yes
    )
    with shell.open_device(home) as device:
        before = reset_releases(device.vault)
    shell.say(
        "warning: nothing is pinned any more, so the next key you give is trusted with any release, older ones too"
    )
    if json:
        shell.print_json({"release": 0, "before": before})
    else:
        shell.out().print(
            f"release 0 is in use, the encoder that ships with Palate (before: release {before})"
        )


def _view(standing: "Standing") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table

    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("in use", f"release {standing.release} (encoder {standing.hash[:12]})")
    facts.add_row(
        "pinned key", standing.key or "none yet; give it with: palate release adopt FILE --key TEXT"
    )
    facts.add_row("accepted", f"{standing.entries} entries of the server's log")
    if standing.head:
        facts.add_row("head", standing.head)
    if not standing.history:
        return facts
    table = Table(box=None, pad_edge=False)
    for name in ("release", "made (UTC)", "round", "updates", "encoder", "privacy spent"):
        table.add_column(name, justify="right" if name in ("release", "round", "updates") else "left")
    for entry, card in standing.history:
        spent = "not said"
        if card.privacy is not None:
            spent = f"epsilon {card.privacy.epsilon:.3g}, delta {card.privacy.delta:.3g}, {card.privacy.mechanism}"
        when = entry.time[:19].replace("T", " ")
        table.add_row(str(card.release), when, str(card.round), f"{card.updates:,}", card.hash[:12], spent)
    return Group(facts, "", table)
