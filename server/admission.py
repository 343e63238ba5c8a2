"""Which devices a server takes: those whose public key was admitted, if it was started to take no others.

Where it stands in the flow: `palate server start --admitted-only` has Flower ask every device for a signature, and `palate server admit`
writes a device's public key into Flower's books, where it outlives a restart. Flower signs the time of a request and not its content,
so this proves who a device is only inside TLS that ends at the server itself, and it is refused without.

A key says which device speaks, and so that nobody is two of them. It is not what secure aggregation relies on: there devices check
each other (`registrar`), because a server that lies may admit whom it likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from palate.server.federation import ServerFolder
from palate.server.processes import CONNECTION, call_flower, running
from palate.shared.durable import write_atomically
from palate.shared.errors import FederationError, OptionError

MAX_NAME: Final = 60
MAX_BYTES: Final = 10_000
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
ADMITTED_ALREADY: Final = "already in use"  # as Flower puts it


@dataclass(frozen=True)
class Admitted:
    """A device whose key a server knows."""

    node: str  # its number in Flower, the same whenever it joins
    name: str


def admit(folder: ServerFolder, key: Path, name: str = "") -> Admitted:
    """Let the device with this public key join the server that runs on a folder; `name` is for the people who run it.

    Raises OptionError for a file that is no public key of the kind, or a name out of range, and FederationError when no server runs,
    when it was not started to ask for keys, or when it has admitted this key before.
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise OptionError(f"a device's name has at most {MAX_NAME} characters, all of them printable")
    public = read_device_key(key)
    server = running(folder)
    if server is None:
        raise FederationError(
            f"no server runs on {folder.home}; start it with: palate server start --admitted-only"
        )
    if not server.address.admitted_only:
        raise FederationError(
            "this server takes every device, with or without a key; stop it, and start it with --admitted-only"
        )
    # Flower reads the OpenSSH form alone, and should read exactly what was checked here.
    copy = folder.home / "flower" / "admitted.pub"
    write_atomically(copy, public, consequence="nothing was admitted")
    options = ["--name", name] if name else []
    answer = call_flower(
        folder, "supernode", "register", str(copy), CONNECTION, *options, "--format", "json", may_fail=True
    )
    if answer.get("success") and answer.get("node-id"):
        return Admitted(str(answer["node-id"]), name)
    why = " ".join(str(answer.get("error-message", "it does not say why")).split())
    if ADMITTED_ALREADY in why:
        raise FederationError(f"the key in {key} was admitted before; the device may join")
    raise FederationError(f"the server did not admit the key in {key}: {why[:200]}")


def read_device_key(path: Path) -> bytes:
    """Return a device's public key in OpenSSH form, without its comment; raises OptionError for anything else.

    It is one on a NIST curve, as Flower takes, in OpenSSH or PEM form. A private key is refused before it goes anywhere.
    """
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror})") from None
    if b"PRIVATE KEY" in data:
        raise OptionError(
            f"{path} is a private key, which never leaves its device; admit the file that ends in .pub"
        )
    load = load_pem_public_key if b"-----BEGIN" in data else load_ssh_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise OptionError(
            f"{path} is no public key for a device; make one there with: ssh-keygen -t ecdsa -b 256 -N '' -f palate-key"
        )
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"
