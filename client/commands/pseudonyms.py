"""`palate pseudonyms`: ask a registrar for pseudonyms, take its answer, see how many are left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.client.federation.consent import Terms
    from palate.client.vault.vault import Vault

pseudonyms_app = typer.Typer(
    help=(
        "Appear under another name in each round, so that nobody can tell which rounds you were in.\n\n"
        "Only for servers with a registrar; without one each round has a fresh name anyway. Begin with: "
        "palate pseudonyms show SERVER --registrar KEY, and give the identity to the registrar."
    ),
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Server = Annotated[str, typer.Argument(metavar="SERVER", help="HOST or HOST:PORT, as for palate join.")]
Registrar = Annotated[
    str | None,
    typer.Option(
        "--registrar",
        metavar="FILE_OR_TEXT",
        help="The registrar's public key.",
        show_default="the one that is pinned for this server",
    ),
]


@pseudonyms_app.command()
def show(server: Server, registrar: Registrar = None, home: Home = None, json: Json = False) -> None:
    """Show by which identity a server's registrar knows this device, and how many pseudonyms are left.

    Each server and registrar gets another identity, which nobody but the registrar sees.

    Example:

        palate pseudonyms show palate.example.org
    """
    from palate.client.federation.identity import own_identity
    from palate.client.federation.pseudonyms import slots_left, waiting_slots

    with shell.open_device(home) as device:
        terms = _terms(device.vault, server, registrar)
        identity = own_identity(device.vault, terms).public_key().public_bytes_raw().hex()
        left, waiting = slots_left(device.vault, terms), waiting_slots(device.vault, terms)
    if json:
        asked = None if waiting is None else [waiting[0], waiting[-1]]
        shell.print_json({"server": terms.server, "identity": identity, "slots": left, "waiting": asked})
        return
    lines = [f"identity at {terms.server}: {identity}"]
    lines.append(
        f"pseudonyms for {len(left):,} rounds, slots {left[0]} to {left[-1]}" if left else "no pseudonyms"
    )
    if waiting is not None:
        lines.append(f"a request for slots {waiting[0]} to {waiting[-1]} waits for the registrar's answer")
    for line in lines:
        shell.tell(line)


@pseudonyms_app.command()
def request(
    server: Server,
    slot_keys: Annotated[Path, typer.Argument(metavar="FILE", help="The registrar's slot keys.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the request.")],
    slots: Annotated[
        str | None,
        typer.Option(
            "--slots",
            metavar="A-B",
            help="The rounds to ask for.",
            show_default="all of the file that come after those at hand",
        ),
    ] = None,
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Forget a request that waits; the registrar answers once for a slot."),
    ] = False,
    registrar: Registrar = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Write a request for pseudonyms into a file, for the registrar.

    Until its answer comes the request stays the same.

    The registrar signs with palate server certify FILE, and does not see what it signs: it learns which
    device asked, and can tell of no pseudonym whose it is. Compare the hash of its slot keys with others:
    devices with other slot keys never meet.

    Example:

        palate pseudonyms request palate.example.org registrar.slots -o wren.request
    """
    from palate.client.federation.pseudonyms import drop_request, make_request
    from palate.shared import durable
    from palate.shared.secure_sum.pseudonym import decode_request

    wanted = _range(slots)
    with shell.open_device(home) as device:
        terms = _terms(device.vault, server, registrar)
        if anew:
            drop_request(device.vault, terms)
        with _progress() as asked:
            data, named = make_request(device.vault, terms, _read(slot_keys), wanted, asked=asked)
    place = output.expanduser()
    try:
        durable.write_atomically(place, data)
    except OSError as error:
        raise durable.storage_error(error, place, "the request is kept; ask for it again") from error
    found = decode_request(data)
    keys = found.slot_keys.hex()
    if json:
        shell.print_json({"first": named[0], "last": named[-1], "file": str(place), "slot_keys": keys})
        return
    shell.tell(f"asked for slots {named[0]} to {named[-1]}, in {place}")
    shell.tell(f"hash of the slot keys, for comparing: {keys}")


@pseudonyms_app.command()
def take(
    server: Server,
    answer: Annotated[Path, typer.Argument(metavar="FILE", help="The registrar's answer.")],
    registrar: Registrar = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Take the registrar's answer: this device has a pseudonym for each round that it asked for.

    Example:

        palate pseudonyms take palate.example.org wren.answer
    """
    from palate.client.federation.pseudonyms import take_answer

    with shell.open_device(home) as device:
        taken = take_answer(device.vault, _terms(device.vault, server, registrar), _read(answer))
    if json:
        shell.print_json({"first": taken[0], "last": taken[-1]})
        return
    line = f"pseudonyms for {len(taken):,} rounds, slots {taken[0]} to {taken[-1]}"
    shell.tell(line)


def _terms(vault: "Vault", server: str, registrar: str | None) -> "Terms":
    """Return the terms with a server, or new ones before joining, with the registrar that is named here."""
    from dataclasses import replace

    from palate.client.federation.consent import Terms, read_pinned_key, read_terms
    from palate.client.federation.server_address import check_address

    address = check_address(server, insecure=False)
    held = read_terms(vault, address) or Terms(address)
    if registrar is None:
        if not held.registrar:
            raise OptionError(f"no registrar is pinned for {address}; name its key with --registrar")
        return held
    return replace(held, registrar=read_pinned_key(registrar, "registrar"))


def _range(text: str | None) -> range | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()) or len(text) > 40:
        raise OptionError("--slots is two numbers with a dash, as 201-400")
    return range(int(first), int(last) + 1)


def _read(path: Path) -> bytes:
    from palate.shared import durable
    from palate.shared.secure_sum.pseudonym import MOST_FILE_BYTES

    try:
        return durable.read_file(path.expanduser(), MOST_FILE_BYTES)
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror})") from None


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many blinded values are made."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _made: None
        return
    with console.status("blinding") as status:
        yield lambda made: status.update(f"blinding: {made:,}")
