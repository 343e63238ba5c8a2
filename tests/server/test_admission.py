"""Which devices a server takes: keys that are none, servers that do not ask for any, and a real SuperLink over TLS."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
from typer.testing import CliRunner

from palate.client.cli import app
from palate.server import admission
from palate.server.admission import admit, read_device_key
from palate.server.federation import ServerFolder
from palate.server.processes import Address, Running
from palate.shared.errors import FederationError, OptionError


def public_form(key: Any, encoding: Encoding = Encoding.OpenSSH) -> bytes:
    form = PublicFormat.OpenSSH if encoding is Encoding.OpenSSH else PublicFormat.SubjectPublicKeyInfo
    data: bytes = key.public_key().public_bytes(encoding, form)
    return data


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with the files that TLS needs; they are not opened here."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("ca.crt", "server.pem", "server.key"):
        (folder / name).write_text(name)
    return folder


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["server", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_help_teaches_with_an_example() -> None:
    assert "palate server admit palate-key.pub" in palate("admit", "--help").stdout


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_private_key_is_refused_before_it_goes_anywhere(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "palate-key"
    for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8):
        secret = key.private_bytes(Encoding.PEM, form, NoEncryption())
        path.write_bytes(secret)
        with pytest.raises(OptionError, match="never leaves its device") as caught:
            read_device_key(path)
        assert secret.decode().splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ecdsa-sha2-nistp384 AAAA",
        b"\x00" * 50_000,
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        public_form(Ed25519PrivateKey.generate()),
        public_form(rsa.generate_private_key(65537, 2048)),
        public_form(ec.generate_private_key(ec.SECP256K1()), Encoding.PEM),
    ],
    ids=["empty", "cut", "zeros", "PEM of nothing", "Ed25519", "RSA", "another curve"],
)
def test_what_is_no_key_for_a_device_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(content)
    with pytest.raises(
        OptionError, match="is no public key for a device; make one there with: ssh-keygen"
    ) as caught:
        read_device_key(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.pub cannot be read"):
        read_device_key(tmp_path / "none.pub")


def test_both_forms_give_the_same_key_without_its_comment(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "key.pub"
    for data in (public_form(key) + b" mara@laptop\n", public_form(key, Encoding.PEM)):
        path.write_bytes(data)
        read = read_device_key(path)
        assert b"mara" not in read
        assert load_ssh_public_key(read) == key.public_key()


# --- the server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--admitted-only"], "devices can prove who they are only over TLS"),
        (["--certificate", "{tls}/server.pem"], "--root-certificates is missing"),
        (["--tls", "{tls}", "--key", "{tls}/other.key"], "--key is .*; other.key is missing there"),
        (["--host", "0.0.0.0"], "name a folder with ca.crt"),  # noqa: S104 - refused
    ],
)
def test_what_needs_tls_says_so(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    home = certificates.parent / "server"
    monkeypatch.setenv("PALATE_SERVER_HOME", str(home))
    done = palate("start", *(word.format(tls=certificates) for word in options), status=1)
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search(says, done.stderr)
    assert not home.exists()


def test_files_are_named_one_by_one_or_by_their_folder(certificates: Path) -> None:
    names = [str(certificates / name) for name in ("ca.crt", "server.pem", "server.key")]
    by_folder = Address(tls=str(certificates))
    by_name = Address(root_certificates=names[0], certificate=names[1], key=names[2], admitted_only=True)
    assert by_folder.certificates == by_name.certificates == tuple(map(Path, names))
    other = certificates / "other.pem"
    shutil.copy(names[1], other)
    assert Address(tls=str(certificates), certificate=str(other)).certificates[1] == other
    assert not Address().encrypted
    written = json.loads(json.dumps(by_name.__dict__))
    assert Address(**written) == by_name
    assert (
        Address(**json.loads('{"host": "127.0.0.1", "port": 8000, "tls": ""}')) == Address()
    )  # as noted by an earlier version


class Books:
    """Flower's register, as its command answers."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.calls = list(answers), []  # type: list[dict[str, Any]], list[tuple[str, ...]]

    def __call__(self, folder: ServerFolder, *arguments: str, may_fail: bool = False) -> dict[str, Any]:
        self.calls.append(arguments)
        return self.answers.pop(0)


@pytest.fixture
def folder(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> ServerFolder:
    """A folder on which a server seems to run that asks for keys."""
    monkeypatch.setenv("PALATE_SERVER_HOME", str(tmp_path / "server"))
    address = Address(tls=str(certificates), admitted_only=True)
    monkeypatch.setattr(admission, "running", lambda folder: Running(4711, address))
    return ServerFolder(tmp_path / "server")


def test_an_admitted_device_gets_a_number_that_stays(
    folder: ServerFolder, tmp_path: Path, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(
        {"success": True, "node-id": 1234567890123456789}, {"success": False, "error-message": "no room"}
    )
    monkeypatch.setattr(admission, "call_flower", books)
    path = tmp_path / "palate-key.pub"
    path.write_bytes(public_form(key) + b" mara@laptop")
    done = palate("admit", str(path), "--name", "Mara's laptop", "--json")
    assert json.loads(done.stdout) == {"node": "1234567890123456789", "name": "Mara's laptop"}
    ((*command, given, connection, option, name, _, _),) = books.calls
    assert (command, connection, option, name) == (
        ["supernode", "register"],
        "palate",
        "--name",
        "Mara's laptop",
    )
    assert load_ssh_public_key(Path(given).read_bytes()) == key.public_key()
    with pytest.raises(FederationError, match=r"did not admit the key in .*: no room"):
        admit(folder, path)


def test_a_key_is_admitted_once(
    folder: ServerFolder, tmp_path: Path, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"success": False, "error-message": "[code: 23] Public key\n already in use"}
    monkeypatch.setattr(admission, "call_flower", Books(said))
    (tmp_path / "key.pub").write_bytes(public_form(key))
    assert "was admitted before" in palate("admit", str(tmp_path / "key.pub"), status=1).stderr


def test_without_a_server_that_asks_for_keys_nothing_is_admitted(
    folder: ServerFolder, tmp_path: Path, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pub").write_bytes(public_form(key))
    with pytest.raises(OptionError, match="at most 60 characters"):
        admit(folder, tmp_path / "key.pub", "two\nlines")
    for found, says in (
        (None, "no server runs on"),
        (Running(1, Address()), "start it with --admitted-only"),
    ):
        monkeypatch.setattr(admission, "running", lambda folder, found=found: found)
        assert says in palate("admit", str(tmp_path / "key.pub"), status=1).stderr
    assert not folder.home.exists()


# --- a real SuperLink ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX")
def test_a_real_server_takes_admitted_devices_and_no_others(tmp_path: Path, key: Any) -> None:
    pytest.importorskip("flwr")
    from test_processes import Deployment, make_certificates

    from palate.client.app import Fleet, ForgottenError, NotTakenError
    from palate.client.server_address import Server

    make_certificates(tmp_path / "tls")
    (tmp_path / "server").mkdir()
    (tmp_path / "key.pub").write_bytes(public_form(key))
    trusted = (tmp_path / "tls" / "ca.crt").read_text()
    deployed = Deployment(tmp_path / "server")

    def enter(own: ec.EllipticCurvePrivateKey | None) -> int:
        fleet = Fleet(Server(f"127.0.0.1:{deployed.port}", root_certificates=trusted, key=own))
        try:
            fleet.enter()
            assert fleet.pull() is None  # it is let in, and there is nothing to do
            return fleet.node_id
        finally:
            fleet.close()

    try:
        deployed.start("--tls", str(tmp_path / "tls"), "--admitted-only")
        with pytest.raises(NotTakenError, match="only devices whose key it knows"):
            enter(None)
        with pytest.raises(ForgottenError, match="have it registered there"):
            enter(key)
        node = int(deployed.palate("admit", str(tmp_path / "key.pub"), "--name", "Mara's laptop")["node"])
        assert "was admitted before" in deployed.palate("admit", str(tmp_path / "key.pub"), status=1)
        assert enter(key) == node
        with pytest.raises(ForgottenError):  # another device's key is still unknown
            enter(ec.generate_private_key(ec.SECP384R1()))
        deployed.palate("stop")
        deployed.start("--tls", str(tmp_path / "tls"), "--admitted-only")
        assert enter(key) == node  # what was admitted outlives a restart
    finally:
        deployed.close()
