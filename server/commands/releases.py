"""`palate server privacy | release`: what the person who runs a server publishes, and what that has cost.

Where it stands in the flow: `cli` registers these next to its own commands; `commands.keys` and
`commands.carry` are their neighbours.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.server.commands import console
from palate.server.commands import keys as key_cli
from palate.server.commands.console import Home, Json
from palate.server.commands.keys import Days
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.server.checkpoints import Checkpoint
    from palate.server.rounds.run import ServerFolder
    from palate.shared.releases.message import Acceptance, Card, ReleaseLog

Anyway = Annotated[
    bool, typer.Option("--anyway", help="Release an encoder that the acceptance test refuses.")
]


def privacy(home: Home = None, json: Json = False) -> None:
    """Say what the rounds so far have spent of the privacy budget, and check the ledger.

    A ledger that was changed is an error.

    Next to what is booked it shows what holds if all devices add their noise, against those who know who took
    part in which round (with --json also by how many rounds somebody was in), and if all other devices are
    silent or made up.

    For example:

        palate server privacy
    """
    from palate.server.ledger.booking import read_spent

    folder = console.folder_of(home)
    if not folder.ledger.exists():
        raise OptionError(f"no round with noise was run in {folder.home} yet, so there is no privacy ledger")
    spent = read_spent(folder.ledger)
    if json:
        console.print_json(spent.to_json())
        return
    for line in spent.describe():
        console.out(line)


def release(anyway: Anyway = False, days: Days = 90, home: Home = None, json: Json = False) -> None:
    """Make a numbered, signed release of the encoder as it stands, for devices to adopt.

    The first time, make the keys too.

    It is tested on public pictures first: one that forgot what the release before knew, or is more noise than
    signal, is refused. Where the release key lies on another machine, carry a folder there instead: palate
    server prepare FOLDER.

    For example:

        palate server release
    """
    from palate.server.releases import folder as releases_folder
    from palate.server.releases import release_keys, round_key
    from palate.server.releases.figures import spent_for_card
    from palate.shared.releases.message import write_key

    folder = console.folder_of(home)
    kept = trained(folder)
    files, now = release_keys.KeyFiles(folder.home), datetime.now(UTC)
    log = releases_folder.read_log(files.releases) or key_cli.make_keys(files, now, unsealed=False, days=days)
    key = release_keys.current_key(files, key_cli.open_release_key(files))
    if key is None:  # taken away between the two readings
        raise OptionError(f"{files.release_file} is not there any more; nothing was signed")
    card = releases_folder.make_release(
        folder.releases,
        kept,
        now,
        key=key,
        privacy=spent_for_card(folder.ledger),
        acceptance=tested(folder, kept, anyway=anyway),
        days=days,
    )
    log = releases_folder.read_log(files.releases) or log
    round_key.delegate(folder.home, key, now)
    file, message = (
        name(folder.releases, card.release)
        for name in (releases_folder.release_path, releases_folder.message_path)
    )
    if json:
        text = write_key(log.keys[-1].recovery)
        console.print_json({**card_of(card, log), "file": str(file), "message": str(message), "key": text})
        return
    console.out(f"release {card.release} is {file}")
    for line in card_lines(card):
        console.out(line)
    say_how_to_adopt(log, str(message))


def trained(folder: ServerFolder) -> Checkpoint:
    """Return the checkpoint to make a release of; raise OptionError where there is none."""
    from palate.server.checkpoints import read_checkpoint

    kept = read_checkpoint(folder.checkpoint)
    if kept is None:
        raise OptionError(f"nothing was trained in {folder.home} yet; train first: palate server run")
    return kept


def tested(folder: ServerFolder, kept: Checkpoint, *, anyway: bool) -> Acceptance | None:
    """Return what the acceptance test found of a checkpoint's encoder.

    Raise OptionError for one that it refuses.

    The encoder of the release before is not tested again: `next_release` says that nothing was learned since.
    """
    from palate.server.releases import figures as release_figures
    from palate.server.releases.folder import list_releases, newest_encoder
    from palate.shared.encoder import encoder_hash

    if encoder_hash(kept.encoder) in [card.hash for card in list_releases(folder.releases)][-1:]:
        return None
    with console.dots("testing the encoder on public pictures"):
        return release_figures.accept(
            newest_encoder(folder.releases), kept.encoder, kept.memory, anyway=anyway
        )


def card_lines(card: Card) -> list[str]:
    """Return a card in lines for a person."""
    from palate.server.releases.figures import why_refused

    lines = [
        f"encoder {card.hash[:12]}, {card.updates:,} updates up to round {card.round}, on {card.parent[:12]}",
        "privacy: "
        f"{card.privacy.describe() if card.privacy else 'no noise was booked, so nothing is promised'}",
        f"test: {card.acceptance.describe() if card.acceptance else 'none was made'}",
    ]
    wrong = why_refused(card.acceptance) if card.acceptance else ""
    return [*lines, f"warning: the test refuses it: {wrong}"] if wrong else lines


def card_of(card: Card, log: ReleaseLog) -> dict[str, Any]:
    """Return a card and until when its log is good, for JSON."""
    from palate.shared.releases.message import card_to_json, time_of

    return {**card_to_json(card), "good_until": time_of(log.statement.until)}


def say_how_to_adopt(log: ReleaseLog, message: str) -> None:
    """Print what the owner of a device types, and until when."""
    from palate.shared.releases.message import time_of, write_key

    console.out(
        f"devices take it over with: palate release adopt {message} --key {write_key(log.keys[-1].recovery)}"
    )
    console.out(
        f"the log is good until {time_of(log.statement.until)[:10]}; a newer release or palate server key "
        "--renew makes it longer"
    )
