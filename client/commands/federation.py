"""`palate join`, `leave`, `outbox`: taking part in a federation, ending that, and seeing what was sent."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.errors import FederationError

if TYPE_CHECKING:
    from palate.client.outbox import Earlier, Sent


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
    once: Annotated[bool, typer.Option("--once", help="Leave after answering one task.")] = False,
    home: Home = None,
) -> None:
    """Take part in a federation: improve the shared encoder with what you said, and send nothing else.

    Runs until Ctrl-C or `palate leave`. In each round this device trains the shared encoder on its labels and sends the
    change; comments, pictures, profile and your own model stay here. Other palate commands work meanwhile. A key for
    --key is made with: ssh-keygen -t ecdsa -b 384 -N "" -f palate-key

    Examples:

        palate join palate.example.org --root-certificates ca.crt --key palate-key

        palate join 127.0.0.1:8000 --insecure
    """
    from palate.client.server_address import check_address, read_server

    address = check_address(server, insecure=insecure)
    place = shell.home_of(home)
    # Flower reports its use to its makers and looks for updates unless told otherwise before it is loaded.
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    try:
        from palate.client import app
    except ImportError:
        raise FederationError(
            "joining needs Flower; install it with: pip install 'palate[device,federate]'"
        ) from None
    from palate.client.device import Device
    from palate.client.joining import Member
    from palate.client.membership import membership

    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what there is to say is said here
    where = read_server(address, root_certificates, key, insecure)
    with _ended_by_signals(), contextlib.ExitStack() as held:
        device = held.enter_context(shell.open_device(home))
        held.enter_context(membership(place))
        member = Member(device, server=address, tell=shell.say)
        shell.say(f"{member.count_labels()} labels; reaching {address} ...")
        app.run_node(
            member,
            where,
            tell=shell.say,
            once=once,
            keep_on=lambda: member.ended is None and Device.exists(place),
        )
        if member.ended is not None:
            raise FederationError(member.ended)
        shell.say("left the federation")


def leave(home: Home = None, json: Json = False) -> None:
    """End `palate join` of this vault, wherever it runs on this machine; needs no passphrase.

    Example:

        palate leave
    """
    from palate.client.membership import leave as end_member

    place = shell.home_of(home)
    process = end_member(place)
    if json:
        shell.print_json({"left": process is not None})
    elif process is None:
        shell.out().print(shell.plain(f"the device in {place} has joined no federation"), soft_wrap=True)
    else:
        shell.out().print(shell.plain(f"the device in {place} has left the federation"), soft_wrap=True)


def outbox(home: Home = None, json: Json = False) -> None:
    """Show what was sent to federations: when, to whom, which release, how many bytes, which tensors, how long each is.

    Examples:

        palate outbox

        palate outbox --json
    """
    from palate.client.outbox import read_earlier, read_outbox

    with shell.open_device(home) as device:
        notes, earlier = read_outbox(device.vault), read_earlier(device.vault)
    if json:
        shell.print_json([note.to_json() for note in notes])
        return
    if not notes:
        shell.say("nothing was sent so far")
        return
    shell.out().print(view_outbox(notes, earlier))


def view_outbox(notes: "list[Sent]", earlier: "Earlier") -> Any:
    """Return a table with a row per update, and below it the tensors of the newest."""
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, side in (
        ("when (UTC)", "left"),
        ("server", "left"),
        ("release", "right"),
        ("round", "right"),
        ("bytes", "right"),
        ("norm", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify="right" if side == "right" else "left")
    for note in notes:
        went = "sent" if note.sent else "cut short: it may have left"
        when = note.when[:19].replace("T", " ")
        row = (
            when,
            note.server,
            str(note.release),
            str(note.round),
            f"{note.bytes_up:,}",
            f"{note.norm:.4g}",
            went,
        )
        table.add_row(*(shell.plain(cell) for cell in row))
    last = notes[-1]
    tensors = Table(
        box=None, pad_edge=False, title="tensors of the newest, and how long each is", title_justify="left"
    )
    for name in ("tensor", "shape", "norm"):
        tensors.add_column(name, justify="right" if name == "norm" else "left")
    for one in last.tensors:
        cells = (one.name, " × ".join(map(str, one.shape)), f"{one.norm:.4g}")
        tensors.add_row(*(shell.plain(cell) for cell in cells))
    total = f"{len(notes)} updates, {sum(note.bytes_up for note in notes):,} bytes"
    if earlier.updates:
        total += f"; before them {earlier.updates:,} updates, {earlier.bytes_up:,} bytes, the last at {earlier.last[:19]}"
    return Group(table, "", tensors, "", shell.plain(total))


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block politely at Ctrl-C and at `palate leave` (SIGTERM): it closes what it holds, and the process ends with 0."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        shell.say("left the federation; what was sent is in `palate outbox`")
    finally:
        signal.signal(signal.SIGTERM, before)
