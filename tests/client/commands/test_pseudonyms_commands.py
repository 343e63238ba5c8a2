"""`palate pseudonyms`: from slot keys to pseudonyms by files, and one clear line for each mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.client.device import Device
from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.server.registrar import Registrar
from palate.shared.releases.message import write_key
from tests.shared.pseudonym_cases import registrar_in

SERVER = "palate.example.org"
ADDRESS = f"{SERVER}:8000"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("PALATE_HOME", str(tmp_path / "vault"))
    monkeypatch.setenv("COLUMNS", "160")
    Device.init(tmp_path / "vault", "correct horse").close()


@pytest.fixture
def registrar(tmp_path: Path) -> Registrar:
    found, file = registrar_in(tmp_path / "registrar", 3)
    (tmp_path / "keys.slots").write_bytes(file)
    return found


def palate(*words: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["pseudonyms", *words])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def said(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(palate(*words, "--json").stdout)
    return found


def complaint(*words: str) -> str:
    (line,) = palate(*words, status=1).stderr.strip().splitlines()
    return line


def test_a_device_gets_pseudonyms_by_three_files(tmp_path: Path, registrar: Registrar) -> None:
    key = ("--registrar", write_key(registrar.public))
    before = said("show", SERVER, *key)
    assert before["server"] == ADDRESS
    assert (before["slots"], before["waiting"]) == ([], None)
    with Device.open(tmp_path / "vault", "correct horse") as device:
        terms = Terms(ADDRESS, registrar=registrar.public.hex())
        identity = own_identity(device.vault, terms).public_key().public_bytes_raw()
    assert before["identity"] == identity.hex()
    registrar.register(identity)
    asked = said("request", SERVER, str(tmp_path / "keys.slots"), "-o", str(tmp_path / "request"), *key)
    assert (asked["first"], asked["last"]) == (1, 3)
    assert said("show", SERVER, *key)["waiting"] == [1, 3]
    assert "waits for the registrar's answer" in palate("show", SERVER, *key).stdout
    first = (tmp_path / "request").read_bytes()
    palate("request", SERVER, str(tmp_path / "keys.slots"), "-o", str(tmp_path / "again"), *key)
    assert (tmp_path / "again").read_bytes() == first  # killed after the vault was written: nothing is lost
    assert (tmp_path / "request").stat().st_mode & 0o077 == 0
    (tmp_path / "answer").write_bytes(registrar.answer(first)[0])
    assert said("take", SERVER, str(tmp_path / "answer"), *key) == {"first": 1, "last": 3}
    after = said("show", SERVER, *key)
    assert (after["slots"], after["waiting"], after["identity"]) == ([1, 2, 3], None, identity.hex())
    assert "pseudonyms for 3 rounds, slots 1 to 3" in palate("show", SERVER, *key).stdout


def test_some_slots_can_be_asked_for_and_a_request_forgotten(tmp_path: Path, registrar: Registrar) -> None:
    words = ["request", SERVER, str(tmp_path / "keys.slots"), "--registrar", registrar.public.hex()]
    found = said(*words, "-o", str(tmp_path / "one"), "--slots", "2-3")
    assert (found["first"], found["last"]) == (2, 3)
    assert said(*words, "-o", str(tmp_path / "two"), "--slots", "1-1")["first"] == 2  # it still waits
    assert said(*words, "-o", str(tmp_path / "two"), "--slots", "1-1", "--anew")["last"] == 1


def test_each_mistake_is_one_clear_line(tmp_path: Path, registrar: Registrar) -> None:
    keys, key = str(tmp_path / "keys.slots"), ("--registrar", registrar.public.hex())
    to = ("-o", str(tmp_path / "request"))
    (tmp_path / "picture").write_bytes(b"a holiday picture")
    assert "no registrar is pinned" in complaint("show", SERVER)
    assert "--registrar is no Ed25519 public key" in complaint("show", SERVER, "--registrar", "x")
    assert "cannot be read" in complaint("request", SERVER, str(tmp_path / "none"), *to, *key)
    assert "is not slot keys" in complaint("request", SERVER, str(tmp_path / "picture"), *to, *key)
    assert "another registrar" in complaint("request", SERVER, keys, *to, "--registrar", "ab" * 32)
    for slots in ("3", "a-b", "1-2-3", "-", "²-3"):
        assert "--slots is two numbers" in complaint("request", SERVER, keys, *to, *key, "--slots", slots)
    for slots in ("3-9", "0-1", "3-2"):
        assert "slots 1 to 3" in complaint("request", SERVER, keys, *to, *key, "--slots", slots)
    assert "cannot be" in complaint("request", SERVER, keys, "-o", str(tmp_path / "none" / "x"), *key)
    assert "due is a registrar's answer" in complaint("take", SERVER, keys, *key)
    assert "no request to other:8000" in complaint("take", "other", keys, *key)
