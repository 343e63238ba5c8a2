"""`palate release`: which encoder this device uses, newer and older ones, what others were shown."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from palate.client.releases import Standing

release_app = typer.Typer(
    help=(
        "Take over newer releases of the shared encoder: each is signed, checked, tried on your verdicts.\n\n"
        "Start with: palate release adopt FILE --key TEXT, with the text that the server's owner gave you."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@release_app.command()
def show(home: Home = None, json: Json = False) -> None:
    """Show which release this device uses and why, whose key is pinned, and how long the log is good.

    Devices that were shown the same log have the same head: compare it with somebody, or see palate release
    witness.

    Example:

        palate release show
    """
    from palate.client.releases import read_standing, why_not_good

    with shell.open_device(home) as device:
        standing = read_standing(device.vault)
        stale = why_not_good(device.vault, datetime.now(UTC))
    if stale:
        shell.say(f"warning: {stale}; until then it stays out of rounds")
    if json:
        shell.print_json({**standing.to_json(), "good": not stale})
    else:
        shell.out().print(_view(standing))


@release_app.command()
def adopt(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE_OR_FOLDER",
            help="A .palate file, or a server's folder of releases.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", help="Text of the server's release key; needed the first time.", show_default=False
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Use the newest release even if it does worse on your verdicts.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Check a release and accept it; anything that is not signed, newer and fitting is refused.

    It is then tried on your own verdicts: where it does worse for you, your scores stay with the release from
    before. Only you hear of that; in rounds your device takes part as every other.

    Examples:

        palate release adopt release-00001.palate --key palate1...

        palate release adopt release-00002.palate

        palate release adopt --anyway
    """
    from palate.client.releases import adopt as adopt_release
    from palate.client.releases import read_source, read_standing
    from palate.client.releases.own_encoder import decide, describe_choice

    if source is None and not anyway:
        raise OptionError("name the file or folder of a release, or use the newest one with --anyway")
    release = read_source(source) if source is not None else None
    with shell.open_device(home) as device:
        adopted = None if release is None else adopt_release(device.vault, release, key=key)
        if anyway:
            decide(device.vault, "new")
        elif adopted is not None and adopted.release:
            with shell.progress_bar() as progress:
                device.evaluator(adapt=False, progress=progress)
        standing = read_standing(device.vault)
    if json:
        new = adopted is not None and adopted.new
        shell.print_json(
            {"release": standing.release, "hash": standing.hash, "new": new, "used": standing.used}
        )
        return
    if adopted is not None and not adopted.release:
        shell.tell("the server's log is accepted; it holds no release yet")
    elif adopted is not None:
        now = "is accepted" if adopted.new else "was accepted already"
        shell.tell(f"release {adopted.release} {now} (encoder {adopted.hash[:12]})")
    if standing.choice is not None:
        shell.tell(describe_choice(standing.choice, standing.release))


@release_app.command()
def back(home: Home = None, json: Json = False) -> None:
    """Use the release from before the newest one for your own scores again.

    Rounds start from the newest one in either case.

    It stays so until another release comes. The other way: palate release adopt --anyway.

    Example:

        palate release back
    """
    from palate.client.releases.own_encoder import decide, describe_choice

    with shell.open_device(home) as device:
        choice, newest = decide(device.vault, "before")
    if json:
        shell.print_json({"release": newest, "used": choice.before})
    else:
        shell.tell(describe_choice(choice, newest))


@release_app.command()
def witness(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the text.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Write what this device saw of the server's log into a small text, for somebody else to compare.

    Nothing in it is about you: hashes, the server's key, numbers of releases. Send it by any way that the
    server does not control.

    Example:

        palate release witness mine.txt
    """
    from palate.client.releases import read_accepted
    from palate.shared import durable
    from palate.shared.releases.witness import witness_of, write_witness

    with shell.open_device(home) as device:
        seen = witness_of(read_accepted(device.vault))
    try:
        file.write_text(write_witness(seen), encoding="ascii")
    except OSError as error:
        raise durable.storage_error(error, file, "no witness was written") from None
    if json:
        shell.print_json({"file": str(file), "entries": len(seen.entries), "head": seen.head})
    else:
        shell.tell(
            f"{len(seen.entries)} entries, {seen.releases} of them releases, head {seen.head[:16]}: "
            f"written to {file}"
        )


@release_app.command()
def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A witness that another device wrote.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Say whether another device saw the same log, more or less of it, or another history: a FORK.

    Ends with 1 at a fork, and for the log of another server.

    Example:

        palate release compare hers.txt
    """
    from palate.client.releases import read_accepted
    from palate.shared import durable
    from palate.shared.releases.witness import (
        MOST_WITNESS_BYTES,
        compare_witnesses,
        read_witness,
        witness_of,
    )

    try:
        with file.open("rb") as source:
            text = source.read(MOST_WITNESS_BYTES + 1).decode("utf-8", "replace")
    except OSError as error:
        raise durable.storage_error(error, file, "nothing was compared") from None
    other = read_witness(text)
    with shell.open_device(home) as device:
        found = compare_witnesses(witness_of(read_accepted(device.vault)), other)
    if json:
        shell.print_json({"verdict": found.verdict, "entry": found.entry, "words": found.words})
    else:
        shell.tell(found.words)
    if found.verdict in ("fork", "other"):
        raise typer.Exit(1)


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
        "warning: nothing is pinned any more; "
        "the next key you give is trusted with any release, older ones too"
    )
    if json:
        shell.print_json({"release": 0, "before": before})
    else:
        shell.tell(f"release 0 is in use, the encoder that ships with Palate (before: release {before})")


def _view(standing: "Standing") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table

    from palate.client.releases.own_encoder import describe_choice
    from palate.shared.releases.message import time_of

    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row(
        "in use", f"release {standing.used}" + (" (the one that ships)" if not standing.used else "")
    )
    if standing.choice is not None:
        facts.add_row("why", describe_choice(standing.choice, standing.release))
    facts.add_row("rounds start from", f"release {standing.release} (encoder {standing.hash[:12]})")
    facts.add_row(
        "pinned key", standing.key or "none yet; give it with: palate release adopt FILE --key TEXT"
    )
    facts.add_row("accepted", f"{standing.entries} entries of the server's log")
    if standing.head and standing.release_key:
        facts.add_row("head", standing.head)
        facts.add_row("release key", standing.release_key)
        facts.add_row("good until", time_of(standing.until)[:10])
    if not standing.history:
        return facts
    table = Table(box=None, pad_edge=False)
    for name in ("release", "made (UTC)", "round", "updates", "encoder"):
        table.add_column(name, justify="right" if name in ("release", "round", "updates") else "left")
    for entry, card in standing.history:
        when = entry.time[:19].replace("T", " ")
        table.add_row(str(card.release), when, str(card.round), f"{card.updates:,}", card.hash[:12])
    card = standing.history[-1][1]
    said = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    said.add_column(style="bold")
    said.add_column(overflow="fold")
    said.add_row("privacy", card.privacy.describe() if card.privacy else "not said")
    said.add_row("test", card.acceptance.describe() if card.acceptance else "none was made")
    return Group(facts, "", table, "", f"what the server says of release {card.release}:", said)
