"""`palate server certify` and `palate server slots`: registering, answering, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.client.federation.pseudonyms import make_request, take_answer
from palate.client.vault.store import MemoryStore
from palate.server.commands.cli import app
from palate.server.commands.registrar import MOST_KEYS, registrar_of, registrar_path
from palate.server.rounds.run import ServerFolder
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.releases.message import read_key
from palate.shared.secure_sum.pseudonym import MOST_SLOTS

IDENTITY = Ed25519PrivateKey.generate().public_key().public_bytes_raw()


def server(home: Path, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*words, "--home", str(home), "--json"], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_registrar_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first, again = (
        server(tmp_path, "certify", IDENTITY.hex()),
        server(tmp_path, "certify", IDENTITY.hex().upper()),
    )
    assert first == again
    assert first["registered"] is True
    folder = ServerFolder(tmp_path)
    assert registrar_of(folder) == read_key(first["registrar"]).hex()
    assert registrar_path(folder).stat().st_mode & 0o077 == 0
    assert registrar_of(ServerFolder(tmp_path / "none")) == ""


@pytest.mark.parametrize("identity", ["", "ab" * 31, "zz" * 32, "00" * 32, "ff" * 32])
def test_what_is_no_identity_is_refused_and_makes_no_key(tmp_path: Path, identity: str) -> None:
    with pytest.raises(OptionError):
        server(tmp_path, "certify", identity)
    assert not registrar_path(ServerFolder(tmp_path)).exists()


def test_from_slot_keys_to_pseudonyms_by_files_alone(tmp_path: Path) -> None:
    home, log = tmp_path / "registrar", MemoryStore()
    keys = server(home, "slots", "--count", "3")
    assert (keys["first"], keys["last"]) == (1, 3)
    terms = Terms("a:1", registrar=read_key(keys["registrar"]).hex())
    identity = own_identity(log, terms).public_key().public_bytes_raw().hex()
    request, slots = make_request(log, terms, Path(keys["file"]).read_bytes())
    (tmp_path / "wren.request").write_bytes(request)
    with pytest.raises(OptionError, match="is not registered here"):
        server(home, "certify", str(tmp_path / "wren.request"))
    server(home, "certify", identity)
    found = server(home, "certify", str(tmp_path / "wren.request"))
    assert found == {
        "identity": identity,
        "first": 1,
        "last": 3,
        "file": str(tmp_path / "wren.request.answer"),
    }
    elsewhere = tmp_path / "answer"
    server(home, "certify", str(tmp_path / "wren.request"), "-o", str(elsewhere))
    assert elsewhere.read_bytes() == Path(found["file"]).read_bytes()
    assert take_answer(log, terms, elsewhere.read_bytes()) == slots
    assert server(home, "certify", "--withdraw", identity)["registered"] is False
    with pytest.raises(OptionError, match="is not registered here"):
        server(home, "certify", str(tmp_path / "wren.request"))
    # A server beside it takes the public half.
    taken = server(tmp_path / "server", "slots", "--take", keys["file"], "--registrar", keys["registrar"])
    assert (taken["hash"], taken["last"]) == (keys["hash"], 3)
    with pytest.raises(FileFormatError):
        server(tmp_path / "server", "slots", "--take", str(elsewhere))


def test_as_many_slots_as_fit_into_a_file_can_be_asked_for() -> None:
    assert MOST_KEYS == MOST_SLOTS


def test_files_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="and no file"):
        server(tmp_path, "certify", str(tmp_path / "none"))
    with pytest.raises(OptionError, match="cannot be read"):
        server(tmp_path, "slots", "--take", str(tmp_path / "none"))
