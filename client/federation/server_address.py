"""Where a federation's server is, and how device and server prove to each other who they are.

Where it stands in the flow: `palate join` makes a `Server` of what was typed, and `app` connects to it. The
server proves itself by a certificate (TLS). Where the server asks for it, the device proves itself by a key
that was registered there.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from palate.shared.errors import OptionError

FLOWER_PORT = 8000
LONGEST_ADDRESS = 200  # characters


@dataclass(frozen=True)
class Server:
    """Where the server is and how to talk to it.

    `root_certificates` is PEM text, None for those that the system trusts. `key` proves which device this is;
    with None, this process makes a fresh one. Raises `OptionError` for a key or certificates without
    encryption, where they would prove nothing, and for text that is no certificate.
    """

    address: str  # HOST:PORT
    insecure: bool = False
    root_certificates: str | None = field(default=None, repr=False)
    key: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.insecure and (self.key is not None or self.root_certificates is not None):
            raise OptionError("--insecure goes neither with --key nor with --root-certificates; leave it out")
        self.context()

    def context(self) -> ssl.SSLContext | bool:
        """Return what httpx takes to verify the server: False without encryption."""
        if self.insecure:
            return False
        try:
            return ssl.create_default_context(cadata=self.root_certificates)
        except (ssl.SSLError, ValueError):
            raise OptionError(
                "the root certificates are no PEM certificates; name the server's ca.crt"
            ) from None


def check_address(server: str, *, insecure: bool) -> str:
    """Return HOST:PORT, with Flower's port 8000 where none is given.

    Raises `OptionError` for anything else, and for `insecure` with a host that is not this machine: without
    encryption, everybody on the way can read each update.
    """
    bracketed, _, rest = server.rpartition("]")
    host, _, port = server.rpartition(":") if ":" in rest else (server, "", str(FLOWER_PORT))
    bare = host[1:-1] if bracketed and host.startswith("[") and host.endswith("]") else host
    odd = set(bare) & set("/@?#[]\\%") or any(c.isspace() or not c.isprintable() for c in bare)
    wrong = not bare or odd or not bare.isascii() or (":" in bare) != (bare != host)
    if wrong or not (port.isascii() and port.isdigit()) or len(server) > LONGEST_ADDRESS:
        raise OptionError(
            f"the server is {server[:LONGEST_ADDRESS]!r}; name it as HOST or HOST:PORT, such as "
            "127.0.0.1:8000"
        )
    if not 0 < int(port) < 65536:
        raise OptionError(f"the server's port is {port}; it must be from 1 to 65535")
    if insecure and not _is_this_machine(bare):
        raise OptionError(
            f"--insecure sends without encryption and is only for this machine (127.0.0.1), not for {bare}; "
            "leave it out, and name the server's certificate with --root-certificates if it has its own"
        )
    return f"{host}:{int(port)}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_server(address: str, certificates: Path | None, key: Path | None, insecure: bool) -> Server:
    """Return where the server is, with certificates and key read from their files.

    Raises `OptionError` for files that are not what they should be, and `OSError`.
    """
    text, private = None, None
    if certificates is not None:
        text = certificates.expanduser().read_bytes().decode("ascii", errors="replace")
    if key is not None:
        data = key.expanduser().read_bytes()
        load = load_ssh_private_key if b"OPENSSH" in data[:60] else load_pem_private_key
        try:
            found = load(data, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            found = None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise OptionError(
                f"{key} is no private key for --key; make one with: ssh-keygen -t ecdsa -b 256 -N '' -f {key}"
            )
        private = found
    return Server(address, insecure, text, private)
