"""`palate server certify`: vouches for devices, so that nobody can make up the others of a round.

Where it stands in the flow: `cli` registers it beside its own commands. Devices that pin the registrar's key take part only with devices that it
has certified (`shared.masks`), and as soon as there is a registrar the server takes no others into masked rounds, and counts on the noise
of half of those in a sum (`shared.sum_noise`). A registrar that is somebody else than the server's operator protects against the operator too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.server import shell
from palate.server.shell import Home, Json
from palate.shared.errors import MaskError, OptionError

if TYPE_CHECKING:
    from palate.server.federation import ServerFolder

_IDENTITY = re.compile(r"[0-9a-f]{64}")


def certify(
    identity: Annotated[
        str, typer.Argument(metavar="IDENTITY", help="What `palate outbox --terms` shows on the device.")
    ],
    home: Home = None,
    json: Json = False,
) -> None:
    """Vouch for a device; the first time, make the registrar's key. Give the certificate to the device's owner.

    The owner joins with `palate join SERVER --registrar KEY --certificate TEXT`. Make sure that the identity is that of a device
    that you know: a certificate cannot be taken back.

    A certificate says: behind this identity is a device that others may count on. From the first one on this server takes no other devices
    into masked rounds, and both it and the devices count on half of those in a sum to add their noise (honest_share in [privacy],
    palate join --honest-share); before, on none but a person's own. It says nothing of what the device sends.

    Example:

        palate server certify 4f1c...
    """
    from palate.server import signing
    from palate.shared.masks import certify as vouch
    from palate.shared.masks import check_identity
    from palate.shared.release import write_key

    text = identity.strip().lower()
    if not _IDENTITY.fullmatch(text):
        raise OptionError(
            "the identity is no 64 hexadecimal digits; the device shows it with palate outbox --terms"
        )
    try:
        check_identity(bytes.fromhex(text))
    except MaskError as error:
        raise OptionError(f"the identity is none: {error}") from None
    path, passphrase = registrar_path(shell.folder_of(home)), signing.passphrase_given()
    key = signing.read_key(path, passphrase)
    if key is None:
        key = signing.make_key(path, passphrase)
        shell.say(f"a new registrar key is in {path}; keep a copy of that file, and keep it secret")
    certificate = vouch(bytes.fromhex(text), key).hex()
    public = write_key(key.public_key().public_bytes_raw())
    if json:
        shell.print_json({"identity": text, "certificate": certificate, "registrar": public})
        return
    shell.out(f"certificate: {certificate}")
    shell.out(f"registrar:   {public}")


def registrar_path(folder: ServerFolder) -> Path:
    """Returns where a registrar's key lies."""
    return folder.home / "registrar.key"


def registrar_of(folder: ServerFolder) -> str:
    """Returns the registrar's public key in 64 hexadecimal digits, empty where there is none."""
    from palate.server import signing

    public = signing.read_public(registrar_path(folder))
    return "" if public is None else public.hex()
