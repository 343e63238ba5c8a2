"""`palate server prepare | sign | take`: releases by a key that does not lie on the server.

The request and the answer are carried between the two machines in a folder.

Where it stands in the flow: `cli` registers these next to its own commands; `carrying` says what lies in the
folder and who checks what.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.server.commands import console
from palate.server.commands import keys as key_cli
from palate.server.commands import releases as release_cli
from palate.server.commands.console import Home, Json
from palate.server.commands.keys import Days
from palate.server.commands.releases import Anyway
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.server.releases.carrying import Asked

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that is carried.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def prepare(
    folder: Folder,
    renew: Annotated[
        bool, typer.Option("--renew", help="Ask for more time for the log only, and for no release.")
    ] = False,
    anyway: Anyway = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """On the server: write into a folder what the signing machine is to sign.

    To kill or to repeat this does no harm.

    The folder holds the encoder, its card and the log; where nothing new was learned, the log
    alone. Then:

        palate server prepare FOLDER     on the server

        palate server sign FOLDER        on the signing machine, where palate server key made the keys

        palate server take FOLDER        on the server again
    """
    from palate.server.releases import carrying
    from palate.server.releases.figures import spent_for_card
    from palate.server.releases.folder import list_releases
    from palate.shared.encoder import encoder_hash
    from palate.shared.releases.message import SHIPPED_HASH, card_to_json

    server = console.folder_of(home)
    kept = None if renew else release_cli.trained(server)
    if kept is not None:
        newest = [card.hash for card in list_releases(server.releases)][-1:] or [SHIPPED_HASH]
        if encoder_hash(kept.encoder) == newest[0]:
            kept = None
    done = carrying.prepare(
        server.home,
        folder,
        kept,
        datetime.now(UTC),
        privacy=spent_for_card(server.ledger) if kept else None,
        acceptance=release_cli.tested(server, kept, anyway=anyway) if kept else None,
    )
    if json:
        card = card_to_json(done.card) if done.card else None
        console.print_json({"folder": str(folder), "card": card, "errands": list(done.errands)})
        return
    if done.card is None:
        console.out(
            f"{folder} asks for more time for the log" + ("" if renew else "; nothing new was learned")
        )
    else:
        console.out(f"{folder} asks for a signature on release {done.card.release}")
        for line in release_cli.card_lines(done.card):
            console.out(line)
    for name in done.errands:
        console.out(f"and for a {name}")
    console.out(f"carry it to the signing machine, and there: palate server sign {folder}")


def sign(
    folder: Folder,
    anyway: Anyway = False,
    days: Days = 90,
    yes: Yes = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Check on the signing machine what a folder asks for, show it, and sign it.

    The release key must lie on this machine.

    Checked are the log (it must continue what was signed here before), the encoder, its card, and the test's
    figures. No server runs on this machine, and nothing of it is needed but the keys: palate server key.

    For example:

        palate server sign /media/stick/release
    """
    from palate.server.releases import carrying, release_keys, sealed_keys

    files = release_keys.KeyFiles(console.folder_of(home).home)
    public = sealed_keys.read_public(files.release_file)
    if public is None:
        raise OptionError(f"there is no release key in {files.home}; make the keys with: palate server key")
    asked = carrying.read_asked(files.home, folder, public)
    if asked.card is not None and asked.parent is not None:
        _test_again(asked, anyway=anyway)
    lines = _what_is_asked(asked)
    for line in lines:
        console.say(line)
    if not yes and not typer.confirm("Sign it?", err=True):
        console.say("nothing was signed")
        raise typer.Exit(1)
    key = release_keys.current_key(files, key_cli.open_release_key(files))
    if key is None:
        raise OptionError(f"{files.release_file} is not there any more; nothing was signed")
    log = carrying.sign(files.home, folder, asked, datetime.now(UTC), key, days=days)
    if json:
        console.print_json(_signed_to_json(asked, log, folder))
        return
    console.out(f"signed; carry {folder} back to the server, and there: palate server take {folder}")


def take(folder: Folder, yes: Yes = False, home: Home = None, json: Json = False) -> None:
    """On the server: check what the signing machine signed, and append it to the log.

    Taking it twice does no harm.

    For example:

        palate server take /media/stick/release
    """
    from palate.server.releases import carrying
    from palate.server.releases.folder import message_path
    from palate.shared.releases.message import card_to_json, time_of, write_key

    server = console.folder_of(home)
    signed, first = carrying.read_signed(server.home, folder)
    text = write_key(signed.log.keys[-1].recovery)
    if first:
        console.say(f"this server has no log yet; from now on its releases are those of {text}")
        if not yes and not typer.confirm(
            "Is that what palate server key prints on your signing machine?", err=True
        ):
            console.say("nothing was taken")
            raise typer.Exit(1)
    done = carrying.take(server.home, folder, signed)
    good = time_of(done.log.statement.until)
    if json:
        card = card_to_json(done.card) if done.card else None
        console.print_json(
            {
                "card": card,
                "entries": done.entries,
                "good_until": good,
                "key": text,
                "errands": list(done.lines),
            }
        )
        return
    for line in done.lines:
        console.out(line)
    if done.card is None:
        what = (
            f"{done.entries} change{'s' if done.entries > 1 else ''} of keys"
            if done.entries
            else "no new release"
        )
        console.out(f"{what}; the log is good until {good[:10]}")
        return
    console.out(f"release {done.card.release} is taken")
    release_cli.say_how_to_adopt(done.log, str(message_path(server.releases, done.card.release)))


def _test_again(asked: Asked, *, anyway: bool) -> None:
    """Make the acceptance test here too.

    Raise OptionError where it refuses, or the card says something else.
    """
    from palate.server.releases import figures as release_figures
    from palate.shared.releases.check import read_encoder

    card, parent = asked.card, asked.parent
    if card is None or parent is None:
        return
    found = release_figures.accept(parent, read_encoder(asked.encoder, card), None, anyway=anyway)
    said = card.acceptance
    wrong = release_figures.why_refused(said) if said else ""
    if wrong and not anyway:  # of the noise only the card knows
        raise OptionError(f"this encoder is not signed: {wrong}; sign it with --anyway, and the card says so")
    differs = said is None or any(
        abs(getattr(found, name) - getattr(said, name)) > 0.01
        for name in ("least_correlation", "mean_correlation")
    )
    if differs and not anyway:
        raise OptionError(
            f"the card says: {said.describe() if said else 'no test was made'}; the test here says: "
            f"{found.describe()}; nothing was signed"
        )


def _what_is_asked(asked: Asked) -> list[str]:
    """Return in lines what is about to be signed."""
    lines = []
    if asked.foreign:
        lines.append(
            f"note: {asked.foreign} entries of the server's log are unknown to this machine; they are "
            "signed by its keys"
        )
    if asked.again is not None:
        lines.append(
            f"release {asked.again.release} was signed here before and is not on the server: it is given "
            "again as it is, and nothing else is signed; take it there, then prepare anew"
        )
        lines += release_cli.card_lines(asked.again)
    elif asked.card is not None:
        lines.append(f"release {asked.card.release}, after {len(asked.log.releases)} others:")
        lines += release_cli.card_lines(asked.card)
    else:
        lines.append("no release; more time for the log as it is")
    return lines + [f"{errand.name}: {errand.describe(request)}" for errand, request in asked.errands]


def _signed_to_json(asked: Asked, log: Any, folder: Path) -> dict[str, Any]:
    from palate.shared.releases.message import card_to_json, time_of

    card = asked.card or asked.again
    return {
        "folder": str(folder),
        "card": card_to_json(card) if card else None,
        "again": asked.again is not None,
        "errands": [errand.name for errand, _ in asked.errands],
        "head": log.head,
        "good_until": time_of(log.statement.until),
    }
