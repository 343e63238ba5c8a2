"""`palate server certify` and `slots`: vouch for devices, so that nobody can invent the others.

Where it stands in the flow: `cli` registers them next to its own commands. Devices that pin the registrar's
key take part only with devices that it has certified, under pseudonyms that it cannot tell apart
(`registrar`), and as soon as there is a registrar the server takes no others into masked rounds, and counts
on the noise of half of those in a sum (`shared.sum_noise`). A registrar that is somebody else than the
server's operator protects against the operator too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.server.commands import console
from palate.server.commands.console import Home, Json
from palate.shared.checks import is_hex
from palate.shared.errors import MaskError, OptionError

if TYPE_CHECKING:
    from palate.server.registrar import Done, Registrar
    from palate.server.rounds.run import ServerFolder

MOST_KEYS = 4_096  # `pseudonym.MOST_SLOTS`, which is not loaded only to read the arguments


def certify(
    device: Annotated[
        str,
        typer.Argument(
            metavar="IDENTITY_OR_FILE",
            help="What `palate outbox --terms` shows on the device, or the request that it made.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the answer.", show_default="FILE.answer"),
    ] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Stop answering this identity.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Register a device's identity; or answer a request for pseudonyms of a device that is registered.

    Make sure that an identity is that of a device that you know, and of one that is not registered yet. The
    registrar's key is made the first time; owners pin it with palate join SERVER --registrar KEY. A request
    comes from palate pseudonyms request, and the answer goes back to palate pseudonyms take. For each slot a
    device is answered once. What was certified for a device cannot be taken back; with --withdraw it ends
    with the slots that it has.

    To register says: behind this identity is a device that others may count on. From the first one on this
    server takes no other devices into masked rounds, and both it and the devices count on half of those in a
    sum to add their noise (honest_share in [privacy], palate join --honest-share); before, on none but a
    person's own. It says nothing of what the device sends.

    For example:

        palate server certify 4f1c...

        palate server certify wren.request -o wren.answer
    """
    folder, text = console.folder_of(home), device.strip().lower()
    if is_hex(text):
        _register(folder, text, withdraw, json)
    elif withdraw or not Path(device).expanduser().is_file():
        raise OptionError(
            "the identity is no 64 hexadecimal digits, and no file; the device shows it with palate outbox "
            "--terms, and palate pseudonyms request writes such a file"
        )
    else:
        _answer(folder, Path(device).expanduser(), output, json)


def slots(
    count: Annotated[
        int, typer.Option("--count", min=1, max=MOST_KEYS, help="How many rounds the keys are for.")
    ] = 200,
    take: Annotated[
        Path | None,
        typer.Option("--take", help="Take the slot keys of another party's registrar into this server."),
    ] = None,
    registrar: Annotated[
        str | None,
        typer.Option(
            "--registrar",
            metavar="KEY",
            help="The registrar whose slot keys --take reads.",
            show_default="any",
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make the registrar's keys for the next slots: the masked rounds to come.

    Give the file to the devices' owners.

    Each masked round takes the next slot, also one that fails. Where the registrar is another party, it gives
    the file to the server's operator as well.

    For example:

        palate server slots --count 500

        palate server slots --take registrar.slots --registrar palate1...
    """
    from palate.server.registrar import slots_folder, take_slot_keys
    from palate.shared.releases.message import read_key, write_key

    folder = console.folder_of(home)
    if take is not None:
        data = _read(take)
        keys = take_slot_keys(folder.home, data, None if registrar is None else read_key(registrar))
        path = slots_folder(folder.home)
    else:
        with _progress("slot keys", count) as done:
            keys, path = _open(folder).make_slots(count, done)
    found = {
        "first": keys.first,
        "last": keys.last,
        "file": str(path),
        "hash": keys.hash.hex(),
        "registrar": write_key(keys.registrar),
    }
    if json:
        console.print_json(found)
        return
    console.out(f"slots {keys.first} to {keys.last}, in {path}")
    console.out(f"hash, for comparing: {keys.hash.hex()}")
    console.out(f"registrar:           {found['registrar']}")


def registrar_path(folder: ServerFolder) -> Path:
    """Return where a registrar's key lies."""
    return folder.home / "registrar.key"


def registrar_of(folder: ServerFolder) -> str:
    """Return the registrar's public key in 64 hexadecimal digits, empty where there is none."""
    from palate.server.releases import sealed_keys

    public = sealed_keys.read_public(registrar_path(folder))
    return "" if public is None else public.hex()


def _open(folder: ServerFolder) -> Registrar:
    """Return the registrar of a folder; its key is made if there is none."""
    from palate.server.registrar import Registrar
    from palate.server.releases import sealed_keys

    path, passphrase = registrar_path(folder), sealed_keys.passphrase_given()
    key = sealed_keys.read_key(path, passphrase)
    if key is None:
        key = sealed_keys.make_key(path, passphrase)
        console.say(f"a new registrar key is in {path}; keep a copy of that file, and keep it secret")
    return Registrar(folder.home, key)


def _register(folder: ServerFolder, text: str, withdraw: bool, json: bool) -> None:
    from palate.shared.releases.message import write_key
    from palate.shared.secure_sum.masks import check_identity

    try:
        check_identity(bytes.fromhex(text))
    except MaskError as error:
        raise OptionError(f"the identity is none: {error}") from None
    registrar = _open(folder)
    change = registrar.withdraw if withdraw else registrar.register
    change(bytes.fromhex(text))
    public = write_key(registrar.public)
    if json:
        console.print_json({"identity": text, "registered": not withdraw, "registrar": public})
        return
    console.out(f"{'withdrawn' if withdraw else 'registered'}: {text}")
    console.out(f"registrar:  {public}")


def _answer(folder: ServerFolder, request: Path, output: Path | None, json: bool) -> None:
    from palate.shared.durable import write_atomically

    place = request.with_name(request.name + ".answer") if output is None else output.expanduser()
    with _progress("certificates", None) as done:
        answer, identity, slots = _open(folder).answer(_read(request), done)
    write_atomically(place, answer, consequence="ask again for the same answer")
    found = {"identity": identity.hex(), "first": slots[0], "last": slots[-1], "file": str(place)}
    if json:
        console.print_json(found)
        return
    console.out(f"certified for slots {slots[0]} to {slots[-1]}: {identity.hex()}")
    console.out(f"answer: {place}")


def _read(path: Path) -> bytes:
    from palate.shared.secure_sum.pseudonym import MOST_FILE_BYTES

    try:
        with path.expanduser().open("rb") as file:
            return file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror})") from None


@contextmanager
def _progress(what: str, count: int | None) -> Iterator[Done]:
    """Show on a terminal how many are done."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(what) as status:
        yield lambda done: status.update(f"{what}: {done:,}" + (f" of {count:,}" if count else ""))
