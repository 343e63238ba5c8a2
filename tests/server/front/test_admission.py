"""Which devices a server takes: keys that are none, the list of those admitted, and a real server
over TLS."""

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

from palate.client.commands.cli import app
from palate.server.front.admission import admit, dismiss, list_admitted, read_admitted, read_device_key
from palate.server.processes import deployed
from palate.server.processes.deployed import Address, Running
from palate.server.rounds.run import ServerFolder
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


# --- keys ---------------------------------------------------------------------------------------------------


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
        assert "mara" not in read
        assert load_ssh_public_key(read.encode()) == key.public_key()


# --- the server ---------------------------------------------------------------------------------------------


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


# --- who is admitted ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerFolder:
    """A folder that the environment names, on which no server runs."""
    monkeypatch.setenv("PALATE_SERVER_HOME", str(tmp_path / "server"))
    return ServerFolder(tmp_path / "server")


@pytest.fixture
def public(tmp_path: Path, key: Any) -> Path:
    path = tmp_path / "palate-key.pub"
    path.write_bytes(public_form(key) + b" mara@laptop")
    return path


def test_a_device_is_admitted_listed_and_dismissed_without_a_server(
    folder: ServerFolder, public: Path, key: Any
) -> None:
    done = json.loads(palate("admit", str(public), "--name", "Mara's laptop", "--json").stdout)
    assert (done["name"], done["admitted"]) == ("Mara's laptop", True)
    assert "mara@laptop" not in folder.admitted.read_text()
    assert load_ssh_public_key(done["key"].encode()) == key.public_key()
    (listed,) = json.loads(palate("admit", "--list", "--json").stdout)["devices"]
    assert (listed["name"], listed["key"]) == ("Mara's laptop", done["key"])
    assert "Mara's laptop  since 20" in palate("admit", "--list").stdout
    assert read_admitted(folder.admitted) == {public_form(key, Encoding.PEM): "Mara's laptop"}
    assert "0 admitted devices are called 'Boris'" in palate("admit", "--remove", "Boris", status=1).stderr
    assert "may join no more" in palate("admit", "--remove", "Mara's laptop").stdout
    assert read_admitted(folder.admitted) == {}
    assert palate("admit", "--list").stdout == "no device is admitted yet\n"


def test_a_key_is_admitted_once_whatever_its_form(folder: ServerFolder, public: Path, key: Any) -> None:
    admit(folder, public, "first")
    before = folder.admitted.read_bytes()
    assert "was admitted before" in palate("admit", str(public), status=1).stderr
    public.write_bytes(public_form(key, Encoding.PEM))
    with pytest.raises(FederationError, match="was admitted before"):
        admit(folder, public, "second")
    assert folder.admitted.read_bytes() == before


def test_two_devices_of_one_name_are_not_told_apart(folder: ServerFolder, tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / f"{number}.pub"
        path.write_bytes(public_form(ec.generate_private_key(ec.SECP256R1())))
        admit(folder, path, "laptop")
    with pytest.raises(OptionError, match="2 admitted devices are called 'laptop'"):
        dismiss(folder, "laptop")
    assert len(list_admitted(folder.admitted)) == 2


@pytest.mark.parametrize("name", ["two\nlines", "x" * 61, "\x1b[31mred"])
def test_a_name_out_of_range_admits_nobody(folder: ServerFolder, public: Path, name: str) -> None:
    with pytest.raises(OptionError, match="at most 60 characters"):
        admit(folder, public, name)
    assert not folder.home.exists()


@pytest.mark.parametrize(
    "given", [[], ["{key}", "--list"], ["--list", "--remove", "x"], ["{key}", "--remove", "x"]]
)
def test_one_thing_is_done_at_a_time(folder: ServerFolder, public: Path, given: list[str]) -> None:
    done = palate("admit", *(word.format(key=public) for word in given), status=1)
    assert "name a public key to admit, or take --list, or --remove NAME" in done.stderr
    assert not folder.admitted.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "devices": []}',
        '{"version": 1, "devices": {"a": 1}}',
        '{"version": 1, "devices": [{"name": "a", "when": ""}]}',
        '{"version": 1, "devices": [{"name": "a", "key": "no key", "when": ""}]}',
        '{"version": 1, "devices": [{"name": "a", "key": "ssh-dss AAAA", "when": ""}]}',
    ],
)
def test_a_list_that_is_damaged_is_one_line_and_is_not_written_over(
    folder: ServerFolder, public: Path, content: str
) -> None:
    folder.home.mkdir()
    folder.admitted.write_text(content)
    for command in ([str(public)], ["--list"], ["--remove", "a"]):
        done = palate("admit", *command, status=1)
        assert "is no list of admitted devices; put back a copy" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert folder.admitted.read_text() == content


def test_a_server_that_runs_is_told_and_one_that_asks_for_no_keys_is_remarked(
    folder: ServerFolder, public: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(deployed, "ask_server", lambda server, call: calls.append(call))
    strict = Running(4711, Address(tls=str(certificates), admitted_only=True), "socket")
    monkeypatch.setattr(deployed, "running", lambda folder: strict)
    assert palate("admit", str(public), "--name", "laptop").stderr == ""
    palate("admit", "--remove", "laptop")
    palate("admit", "--list")
    assert calls == ["admit", "admit"]
    monkeypatch.setattr(deployed, "running", lambda folder: Running(1, Address(), "socket"))
    assert "it asks for keys with --admitted-only" in palate("admit", str(public)).stderr


# --- a real server ------------------------------------------------------------------------------------------


def test_control_codes_in_a_list_that_came_from_elsewhere_reach_no_terminal(
    folder: ServerFolder, public: Path
) -> None:
    palate("admit", str(public), "--name", "laptop")
    written = folder.admitted.read_text()
    folder.admitted.write_text(written.replace("laptop", "laptop\\u001b[2J"))
    assert list_admitted(folder.admitted)[0].name == "laptop\x1b[2J"
    shown = palate("admit", "--list").stdout
    assert "\x1b" not in shown
    assert "laptop�[2J" in shown


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX")
def test_a_real_server_takes_admitted_devices_and_no_others(tmp_path: Path, key: Any) -> None:
    pytest.importorskip("flwr")
    from palate.client.federation.fleet import Fleet, ForgottenError, NotTakenError
    from palate.client.federation.server_address import Server
    from palate.simulations.federation_demo.certificates import make_certificates
    from tests.server.processes.test_deployed import Deployment

    make_certificates(tmp_path / "tls")
    (tmp_path / "server").mkdir()
    (tmp_path / "key.pub").write_bytes(public_form(key))
    trusted = (tmp_path / "tls" / "ca.crt").read_text()
    deployed = Deployment(tmp_path / "server")

    def enter(own: ec.EllipticCurvePrivateKey | None) -> int:
        fleet = Fleet(Server(f"127.0.0.1:{deployed.port}", root_certificates=trusted, key=own))
        try:
            fleet.enter()
            assert fleet.take(0.1) is None  # it is let in, and there is nothing to do
            return fleet.node_id
        finally:
            fleet.close()

    try:
        deployed.start("--tls", str(tmp_path / "tls"), "--admitted-only")
        with pytest.raises(NotTakenError, match="only devices whose key it knows"):
            enter(None)
        with pytest.raises(ForgottenError, match="have it admitted there"):
            enter(key)
        assert deployed.palate("admit", str(tmp_path / "key.pub"), "--name", "Mara's laptop")["admitted"]
        assert "was admitted before" in deployed.palate("admit", str(tmp_path / "key.pub"), status=1)
        node = enter(key)
        assert enter(key) == node  # at once: it had said goodbye
        with pytest.raises(ForgottenError):  # another device's key is still unknown
            enter(ec.generate_private_key(ec.SECP384R1()))
        deployed.palate("stop")
        deployed.start("--tls", str(tmp_path / "tls"), "--admitted-only")
        assert enter(key) == node  # what was admitted outlives a restart
        deployed.palate("admit", "--remove", "Mara's laptop")
        with pytest.raises(ForgottenError, match="have it admitted there"):
            enter(key)
    finally:
        deployed.close()
