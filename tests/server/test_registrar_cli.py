"""`palate server certify`: certificates that devices believe, and what it refuses."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from palate.server.cli import app
from palate.server.federation import ServerFolder
from palate.server.registrar_cli import registrar_of, registrar_path
from palate.shared.errors import MaskError, OptionError
from palate.shared.masks import check_certificate
from palate.shared.release import read_key

IDENTITY = Ed25519PrivateKey.generate().public_key().public_bytes_raw()


def certify(home: Path, identity: str) -> dict[str, str]:
    done = CliRunner().invoke(
        app, ["certify", identity, "--home", str(home), "--json"], catch_exceptions=True
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_certificate_holds_for_its_device_and_registrar_alone(tmp_path: Path) -> None:
    one = certify(tmp_path, IDENTITY.hex())
    registrar, paper = read_key(one["registrar"]), bytes.fromhex(one["certificate"])
    check_certificate(paper, IDENTITY, registrar)
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(MaskError):
        check_certificate(paper, other, registrar)
    with pytest.raises(MaskError):
        check_certificate(paper, IDENTITY, other)


def test_the_registrar_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first, again = certify(tmp_path, IDENTITY.hex()), certify(tmp_path, IDENTITY.hex().upper())
    assert first == again
    folder = ServerFolder(tmp_path)
    assert registrar_of(folder) == read_key(first["registrar"]).hex()
    assert registrar_path(folder).stat().st_mode & 0o077 == 0
    assert registrar_of(ServerFolder(tmp_path / "none")) == ""


@pytest.mark.parametrize("identity", ["", "ab" * 31, "zz" * 32, "00" * 32, "ff" * 32])
def test_what_is_no_identity_is_refused_and_makes_no_key(tmp_path: Path, identity: str) -> None:
    with pytest.raises(OptionError):
        certify(tmp_path, identity)
    assert not registrar_path(ServerFolder(tmp_path)).exists()
