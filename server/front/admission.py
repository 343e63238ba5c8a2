"""Which devices a server takes: those whose public key was admitted, if it was started to take no others.

Where it stands in the flow: `palate server admit` writes a device's public key into `admitted.json` in the
server's folder, and a server that was started with --admitted-only (`serve`) lets only these keys join.
Flower's signature is over the time of a request and not over its content, so it proves who a device is only
inside TLS that ends at the server itself; it is refused without.

    admitted.json   {"version": 1, "devices": [{"name": text, "key": public key in OpenSSH form, "when": ISO
                    8601}, ...]}

A key says which device speaks, and so that nobody is two of them. It is not what secure aggregation relies
on: there devices check each other (`registrar`), because a server that lies may admit whom it likes.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
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

from palate.server.rounds.run import ServerFolder
from palate.shared.durable import locked, make_folder, write_atomically
from palate.shared.errors import FederationError, FileFormatError, OptionError, StorageError

MAX_NAME: Final = 60
MAX_BYTES: Final = 10_000
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
LOCK_SECONDS: Final = 10.0
_VERSION = 1


@dataclass(frozen=True)
class Admitted:
    """A device whose key a server knows."""

    name: str
    key: str  # OpenSSH form, without its comment
    when: str  # ISO 8601, UTC

    @property
    def pem(self) -> bytes:
        """The key as Flower names a device by it."""
        public = load_ssh_public_key(self.key.encode())
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def admit(folder: ServerFolder, key: Path, name: str = "") -> Admitted:
    """Let the device with this public key join; `name` is for the people who run the server.

    Raises:
        OptionError: a file that is no public key of the kind, or a name out of range.
        FederationError: this key was admitted before.
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise OptionError(f"a device's name has at most {MAX_NAME} characters, all of them printable")
    public = read_device_key(key)
    with _locked(folder):
        devices = list_admitted(folder.admitted)
        if any(one.key == public for one in devices):
            raise FederationError(f"the key in {key} was admitted before; the device may join")
        found = Admitted(name, public, datetime.now(UTC).isoformat(timespec="seconds"))
        _write(folder.admitted, [*devices, found])
    return found


def dismiss(folder: ServerFolder, name: str) -> Admitted:
    """Take back the admission of the device with this name.

    Raises:
        OptionError: there is not exactly one.
    """
    with _locked(folder):
        devices = list_admitted(folder.admitted)
        named = [one for one in devices if one.name == name]
        if len(named) != 1:
            raise OptionError(
                f"{len(named)} admitted devices are called {name!r}; see them with: palate server admit "
                "--list"
            )
        _write(folder.admitted, [one for one in devices if one is not named[0]])
    return named[0]


def list_admitted(path: Path) -> list[Admitted]:
    """Return the admitted devices, the first admitted first.

    The list is empty where there is no file. Raises FileFormatError.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError("unknown version")
        devices = [
            Admitted(str(one["name"]), str(one["key"]), str(one["when"])) for one in content["devices"]
        ]
        for one in devices:
            one.pem  # noqa: B018 - raises for a key that is none
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        raise FileFormatError(
            f"{path} is no list of admitted devices; put back a copy, or move it away"
        ) from None
    return devices


def read_admitted(path: Path) -> dict[bytes, str]:
    """Return the names of the admitted devices by their keys (PEM); raises FileFormatError."""
    return {one.pem: one.name for one in list_admitted(path)}


def read_device_key(path: Path) -> str:
    """Return a device's public key in OpenSSH form, without its comment.

    Raises OptionError for anything else.

    It is one on a NIST curve, as Flower takes, in OpenSSH or PEM form. A private key is refused before it
    goes anywhere.
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
            f"{path} is no public key for a device; make one there with: ssh-keygen -t ecdsa -b 256 -N '' "
            "-f palate-key"
        )
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _locked(folder: ServerFolder) -> AbstractContextManager[None]:
    make_folder(folder.home)
    owner = f"the list of admitted devices in {folder.home}"
    return locked(folder.home / "admitted.lock", LOCK_SECONDS, owner, busy=StorageError)


def _write(path: Path, devices: list[Admitted]) -> None:
    content = {"version": _VERSION, "devices": [asdict(one) for one in devices]}
    write_atomically(path, json.dumps(content, indent=2).encode(), consequence="nothing was changed")
