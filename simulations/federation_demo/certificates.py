"""A root and a server's certificate for loopback, as the person who runs a server makes them.

For demonstrations and tests.

Where it stands in the flow: `federation_demo` runs its server over TLS with these, good for a day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def make_certificates(folder: Path) -> Path:
    """Write ca.crt, server.pem and server.key into a new folder and return it."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("root", "server")]

    def certificate(number: int, extension: x509.ExtensionType) -> bytes:
        return (
            x509.CertificateBuilder(names[0], names[number], keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=number == 0)
            .sign(keys[0], hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificate(0, x509.BasicConstraints(ca=True, path_length=None)))
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    (folder / "server.pem").write_bytes(certificate(1, here))
    key = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(key)
    return folder
