"""`palate join`, `leave`, `outbox`: taking part in a federation, ending that, and seeing what was sent."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.errors import FederationError, OptionError, PalateError

if TYPE_CHECKING:
    from palate.client.device import Device
    from palate.client.vault.vault import Vault

TERMS = "Terms, kept for this server"


def join(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="HOST or HOST:PORT of the server.")],
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            "--root-certificates",
            help="PEM file of who vouches for the server.",
            show_default="those the system trusts",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Private key that the server knows this device by.", show_default=False),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without encryption; only for a server on this machine.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Leave after one round.")] = False,
    when: Annotated[
        str | None,
        typer.Option(
            "--when",
            metavar="always|idle|charging|idle+charging",
            help="Idle: under half a load per core. Charging: plugged in, or a battery at 80 % or more.",
            rich_help_panel=TERMS,
            show_default="always",
        ),
    ] = None,
    in_doubt: Annotated[
        bool | None,
        typer.Option(
            "--in-doubt/--not-in-doubt",
            help="Take part also when load or battery cannot be read.",
            rich_help_panel=TERMS,
            show_default="not",
        ),
    ] = None,
    rounds_a_day: Annotated[
        int | None,
        typer.Option("--rounds-a-day", help="At most so many.", rich_help_panel=TERMS, show_default="24"),
    ] = None,
    least_devices: Annotated[
        int | None,
        typer.Option(
            "--least-devices",
            help="Fewest devices whose sum the server may open; without --registrar it can invent them.",
            rich_help_panel=TERMS,
            show_default="10",
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon", help="Privacy budget over all rounds.", rich_help_panel=TERMS, show_default="8"
        ),
    ] = None,
    honest_share: Annotated[
        float | None,
        typer.Option(
            "--honest-share",
            help="With --registrar: part of the devices counted on to add noise.",
            rich_help_panel=TERMS,
            show_default="0.5",
        ),
    ] = None,
    allow_unmasked: Annotated[
        bool | None,
        typer.Option(
            "--allow-unmasked/--only-masked",
            help="Let the server see this device's update alone.",
            rich_help_panel=TERMS,
            show_default="only masked",
        ),
    ] = None,
    release_key: Annotated[
        str | None,
        typer.Option(
            "--release-key",
            metavar="FILE_OR_TEXT",
            help="Text that palate server key prints: releases and invitations must rest on this key.",
            rich_help_panel=TERMS,
            show_default=False,
        ),
    ] = None,
    registrar: Annotated[
        str | None,
        typer.Option(
            "--registrar",
            metavar="FILE_OR_TEXT",
            help="Public key of who vouches for devices; others do not count. The word none removes it.",
            rich_help_panel=TERMS,
            show_default=False,
        ),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Show what would leave now, and ask before joining.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Answer the question of --ask with yes.")] = False,
    home: Home = None,
) -> None:
    """Take part in a federation: improve the shared encoder with what you said, and send nothing else.

    Runs until Ctrl-C or `palate leave`. In each round this device trains the shared encoder on its labels and
    sends the change; comments, pictures, profile and your own model stay here. Other palate commands work
    meanwhile. A key for --key is made with: ssh-keygen -t ecdsa -b 256 -N "" -f palate-key

    Without --registrar this server can make up all the other devices of a sum, so this device's own noise
    alone is counted; with it, that of half of the devices.

    Joining is agreeing to the terms that are shown. They are kept in the vault for this server; terms that
    are not given again stay as they were. palate outbox --preview shows what would leave, palate outbox
    --terms what was agreed to and when.

    Examples:

        palate join palate.example.org --root-certificates ca.crt --key palate-key

        palate join palate.example.org --root-certificates ca.crt --when idle+charging --least-devices 50
        --ask

        palate join 127.0.0.1:8000 --insecure
    """
    from palate.client.federation.server_address import check_address, read_server

    address = check_address(server, insecure=insecure)
    given = _given_terms(
        release_key,
        registrar,
        when=when,
        in_doubt=in_doubt,
        rounds_a_day=rounds_a_day,
        least_devices=least_devices,
        epsilon=epsilon,
        honest_share=honest_share,
        allow_unmasked=allow_unmasked,
    )
    if ask and not yes and not _is_terminal():
        raise OptionError("--ask has no terminal to ask on; add --yes if you mean yes, and nothing was sent")
    place = shell.home_of(home)
    # Flower reports its use to its makers and looks for updates unless told otherwise before it is loaded.
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    try:
        from palate.client.federation import app
    except ImportError:
        raise FederationError(
            "joining needs Flower; install it with: pip install 'palate[device,federate]'"
        ) from None
    from palate.client.device import Device
    from palate.client.federation.lock import membership
    from palate.client.federation.member import Member
    from palate.client.privacy import remember

    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what there is to say is said here
    where = read_server(address, root_certificates, key, insecure)
    with _ended_by_signals(), contextlib.ExitStack() as held:
        device = held.enter_context(shell.open_device(home))
        held.enter_context(membership(place))
        known = remember(device.vault)
        _terms_to_join_on(device, address, given, ask=ask, yes=yes)
        held.callback(_note_leaving, device.vault, address)
        member = Member(device, server=address, tell=shell.say)
        shell.say(f"{member.count_labels()} labels; reaching {address} ...")
        for line in known:
            shell.say(f"privacy: {line}")
        app.run_node(
            member,
            where,
            tell=shell.say,
            keep_on=lambda: member.ended is None and Device.exists(place) and not (once and member.rounds),
        )
        if member.ended is not None:
            raise FederationError(member.ended)
        shell.say("left the federation")


def leave(home: Home = None, json: Json = False) -> None:
    """End `palate join` of this vault, wherever it runs on this machine; needs no passphrase.

    Example:

        palate leave
    """
    from palate.client.federation.lock import leave as end_member

    place = shell.home_of(home)
    process = end_member(place)
    if json:
        shell.print_json({"left": process is not None})
    elif process is None:
        shell.tell(f"the device in {place} has joined no federation")
    else:
        shell.tell(f"the device in {place} has left the federation")


def outbox(
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what would leave if a round came now; sends nothing.")
    ] = False,
    terms: Annotated[
        bool, typer.Option("--terms", help="Show what you agreed to, and each change of it.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show what was sent to federations: when, to whom, how many bytes, and what they are.

    With --preview, the same of what would leave now, and what stays here: this device trains as in a round
    and shows the change, the noise, which of your comments moves it most, and what is not protected. In JSON,
    comments are named by their ids, and updates that are no longer kept one by one come first, as one entry
    with the id "earlier" that counts them in "updates".

    Examples:

        palate outbox

        palate outbox --preview

        palate outbox --json
    """
    if preview and terms:
        raise OptionError("--preview and --terms show different things; give one of them")
    with shell.open_device(home) as device:
        if preview:
            _show_preview(device, json)
        elif terms:
            _show_terms(device, json)
        else:
            _show_notes(device, json)


def _show_notes(device: "Device", json: bool) -> None:
    from palate.client.commands.federation_views import outbox_json, spent_line, view_outbox
    from palate.client.federation.outbox import read_earlier, read_outbox
    from palate.client.privacy import read_spent

    notes, earlier = read_outbox(device.vault), read_earlier(device.vault)
    if json:
        shell.print_json(outbox_json(notes, earlier))
    elif not notes:
        shell.say("nothing was sent so far")
    else:
        shell.out().print(view_outbox(notes, earlier))
        shell.tell(spent_line(read_spent(device.vault)))


def _show_preview(device: "Device", json: bool) -> None:
    from palate.client.commands.federation_views import view_preview
    from palate.client.federation.consent import Terms, newest_terms
    from palate.client.federation.preview import NO_SERVER, preview_device

    seen = preview_device(device, newest_terms(device.vault) or Terms(NO_SERVER), datetime.now(UTC))
    if json:
        shell.print_json(seen.to_json())
    else:
        shell.show(view_preview(seen))


def _show_terms(device: "Device", json: bool) -> None:
    from dataclasses import asdict

    from palate.client.commands.federation_views import view_terms
    from palate.client.federation.consent import read_all_terms, read_history
    from palate.client.federation.identity import own_identity
    from palate.client.federation.pseudonyms import slots_left
    from palate.client.privacy import read_spent, remember

    for line in remember(device.vault):
        shell.say(f"privacy: {line}")
    held, (dropped, events) = read_all_terms(device.vault), read_history(device.vault)
    spent = read_spent(device.vault)
    pinned = [one for one in held if one.registrar]
    identities = {
        one.server: own_identity(device.vault, one).public_key().public_bytes_raw().hex() for one in pinned
    }
    left = {one.server: len(slots_left(device.vault, one)) for one in pinned}
    if json:
        entries = [asdict(one) for one in events]
        shell.print_json(
            {
                "terms": [asdict(one) for one in held],
                "history": entries,
                "dropped": dropped,
                "privacy": spent.to_json(),
                "identities": identities,
                "pseudonyms": left,
            }
        )
    else:
        shell.show(view_terms(held, events, dropped, spent, identities, left))


def _terms_to_join_on(device: "Device", address: str, given: dict[str, Any], *, ask: bool, yes: bool) -> None:
    """Show the terms, ask if that is wanted, and write them down; ends the program at a no."""
    from dataclasses import replace

    from palate.client.federation.consent import Terms, agree, read_terms, refuse
    from palate.client.federation.preview import describe_usual_cost
    from palate.client.federation.pseudonyms import slots_left
    from palate.client.privacy import OwnBudget, write_budget
    from palate.client.releases import pin_key
    from palate.shared.releases.message import write_key

    before = read_terms(device.vault, address)
    terms = replace(before or Terms(address), **given)
    if given.get("honest_share") and not terms.registrar:
        raise OptionError(
            "--honest-share counts on other devices, and without a registrar a server can make them up; "
            "pin one with --registrar, or leave the option away"
        )
    for number, line in enumerate((*terms.describe(), describe_usual_cost(terms))):
        shell.say(f"terms: {line}" if not number else f"       {line}")
    if ask:
        from palate.client.federation.preview import preview_device
        from palate.client.federation.preview_words import describe_shortly

        for line in describe_shortly(preview_device(device, terms, datetime.now(UTC))):
            shell.say(line)
        if not yes and not typer.confirm(f"Take part with {address} on these terms?", err=True):
            refuse(device.vault, address, datetime.now(UTC))
            shell.complain("you said no; nothing was sent, and nothing will be until you join")
            raise typer.Exit(1)
    if terms.release_key:
        pin_key(device.vault, write_key(bytes.fromhex(terms.release_key)))
    write_budget(device.vault, OwnBudget(terms.epsilon, terms.delta, unprotected=terms.allow_unmasked))
    agree(device.vault, terms, datetime.now(UTC))
    if terms.registrar and not slots_left(device.vault, terms):
        shell.complain(
            f"this device has no pseudonyms for {address}, so it stays out of rounds; "
            f"palate pseudonyms show {address} says what to give to the registrar"
        )


def _given_terms(release_key: str | None, registrar: str | None, **others: Any) -> dict[str, Any]:
    """Return the terms that were given as options, checked as far as they can be without the vault."""
    from palate.client.federation.consent import Terms, read_pinned_key
    from palate.client.federation.machine import check_conditions

    keys = {"release_key": release_key, "registrar": registrar}
    found = {name: value for name, value in others.items() if value is not None}
    for name, text in keys.items():
        if text == "none" and name == "registrar":
            found[name] = ""
        elif text is not None:
            found[name] = read_pinned_key(text, name.replace("_", "-"))
    Terms("any", **found)
    if "when" in found:
        check_conditions(found["when"])
    return found


def _note_leaving(vault: "Vault", address: str) -> None:
    """Write down that this device left; one that cannot write it (the vault may be gone) leaves too."""
    from palate.client.federation.consent import note_leaving

    with contextlib.suppress(PalateError):
        note_leaving(vault, address, datetime.now(UTC))


def _is_terminal() -> bool:
    return sys.stdin.isatty()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block at Ctrl-C and at `palate leave` (SIGTERM); what it holds is closed, the status is 0."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        shell.say("left the federation; what was sent is in `palate outbox`")
    finally:
        signal.signal(signal.SIGTERM, before)
