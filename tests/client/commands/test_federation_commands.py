"""`palate join`, `leave`, `outbox`: one line for each mistake, one joined process per vault, a polite end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

pytest.importorskip("flwr")

from palate.client.commands import federation
from palate.client.commands.cli import app
from palate.client.device import Device
from palate.client.federation import app as node
from palate.client.federation import outbox
from palate.client.federation.consent import Terms
from palate.client.federation.lock import LOCK, NOTE, birth_of, find_member, leave, membership
from palate.client.federation.server_address import check_address
from palate.shared.errors import FederationError, OptionError
from palate.shared.releases.message import write_key
from tests.client.federation.test_outbox import give
from tests.client.federation.test_outbox import update as lengths

SERVER = "127.0.0.1:8000"
NOWHERE = "127.0.0.1:9"  # the discard port, where nothing listens
HOLD = "import sys, time; from pathlib import Path; from palate.client.federation.lock import membership\n"
HOLD += "with membership(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def vault(taught_vault: Path) -> Path:
    """A vault with two comments, where PALATE_HOME points."""
    return Path(shutil.copytree(taught_vault, os.environ["PALATE_HOME"]))


def palate(*arguments: str, status: int = 0) -> Result:
    """Run the command line in this process and check how it ends."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def complaint(*arguments: str) -> str:
    """The one line that a command ends with, at status 1."""
    done = palate(*arguments, status=1)
    *before, line = done.stderr.strip().splitlines()
    assert line.startswith("palate: ")
    said = ("labels; reaching", "terms: ", "       ", "privacy: ")
    assert not [other for other in before if not any(word in other for word in said)]
    return line


@pytest.fixture
def holder(vault: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has joined from the vault."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(vault)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


# --- where the server is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("127.0.0.1", "127.0.0.1:8000"),
        ("127.8.8.8:80", "127.8.8.8:80"),
        ("localhost:0443", "localhost:443"),
        ("[::1]:9000", "[::1]:9000"),
        ("[::1]", "[::1]:8000"),
    ],
)
def test_addresses_of_this_machine_may_be_insecure(given: str, address: str) -> None:
    assert check_address(given, insecure=True) == address


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "0.0.0.0", "example.org", "localhost.example.org", "[::]", "[2001:db8::1]"],  # noqa: S104
)
def test_insecure_is_for_this_machine_only(host: str) -> None:
    with pytest.raises(OptionError, match="only for this machine"):
        check_address(f"{host}:8000", insecure=True)
    assert check_address(f"{host}:8000", insecure=False) == f"{host}:8000"


@pytest.mark.parametrize(
    "given",
    ["", ":8000", "host:", "host:port", "host:0", "host:70000", "http://host:80", "host:80/path", "a@b:80",
     "a b:80",
     "::1", "host\n:80", "127.0.0.1#:80", "x" * 300, "h%20:80", "host:８０"],
)  # fmt: skip
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match="the server"):
        check_address(given, insecure=False)


# --- join ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["join", "leave", "outbox"])
def test_help_teaches_with_an_example(command: str) -> None:
    shown = palate(command, "--help").stdout
    assert "Example" in shown
    assert f"palate {command}" in shown


def test_a_server_that_is_not_there_is_one_clear_line(vault: Path) -> None:
    line = complaint("join", NOWHERE, "--insecure")
    assert line == f"palate: {NOWHERE} cannot be reached (nothing listens there)"
    assert not {LOCK, NOTE} & {path.name for path in vault.iterdir()}


def test_the_wrong_passphrase_and_no_vault_are_one_clear_line(
    vault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no vault" in complaint("join", SERVER, "--insecure", "--home", str(tmp_path / "none"))
    monkeypatch.setenv("PALATE_PASSPHRASE", "wrong")
    assert "passphrase" in complaint("join", SERVER, "--insecure")


def test_certificates_and_keys_that_are_none_are_one_clear_line(vault: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert "cannot be used" in complaint("join", SERVER, "--key", str(file))
    file.write_text("nothing of the kind")
    assert "is no private key" in complaint("join", SERVER, "--key", str(file))
    assert "no PEM certificates" in complaint("join", SERVER, "--root-certificates", str(file))


def watched(monkeypatch: pytest.MonkeyPatch, do: Any) -> list[Any]:
    """Have `do` called instead of the node; returns what it is called with."""
    calls: list[Any] = []

    def run(member: Any, server: Any, **options: Any) -> None:
        calls.append((member, server, options))
        do(member, options)

    monkeypatch.setattr(node, "run_node", run)
    return calls


def test_joining_holds_the_vault_open_and_says_so_in_two_small_files(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def look(member: Any, options: Any) -> None:
        seen["labels"], seen["on"] = member.count_labels(), options["keep_on"]()
        seen["note"], seen["found"] = (vault / NOTE).read_text(), find_member(vault)
        seen["second"] = complaint("join", SERVER, "--insecure")
        seen["taught"] = palate("profile", "set", "neon", "-0.5").stdout  # other commands work meanwhile
        member.rounds = 1
        seen["after"] = options["keep_on"]()

    calls = watched(monkeypatch, look)
    done = palate("join", SERVER, "--insecure", "--once")
    ((_, server, _),) = calls
    assert (server.address, server.insecure, server.key) == (SERVER, True, None)
    assert (seen["labels"], seen["on"], seen["after"], seen["found"]) == (2, True, False, os.getpid())
    assert json.loads(seen["note"]) == {"process": os.getpid(), "born": birth_of(os.getpid())}
    assert "has joined a federation already" in seen["second"]
    terms, protection, cohorts, cost, reaching = done.stderr.splitlines()[:5]
    assert terms == "terms: at any time, at most 24 rounds a day"
    assert "budget epsilon 8 at delta 1e-05, counting this device's own noise alone; never" in protection
    assert "this server can make all the others up" in cohorts
    assert (
        "counts epsilon 1.01; if the other devices also add their noise: 0.291; your budget holds 39" in cost
    )
    assert reaching == f"2 labels; reaching {SERVER} ..."
    assert not {LOCK, NOTE} & {path.name for path in vault.iterdir()}


def test_a_key_made_by_ssh_or_in_pem_proves_who_this_is(
    vault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    calls = watched(monkeypatch, lambda *_: None)
    made = ec.generate_private_key(ec.SECP384R1())
    for form in (serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8):
        data = made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (tmp_path / "key").write_bytes(data)
        palate("join", SERVER, "--key", str(tmp_path / "key"))
        assert calls[-1][1].key.private_numbers() == made.private_numbers()
        assert "--insecure goes neither" in complaint(
            "join", SERVER, "--insecure", "--key", str(tmp_path / "key")
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_politely(vault: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    watched(monkeypatch, interrupt)
    before = signal.getsignal(signal.SIGTERM)
    done = palate("join", SERVER, "--insecure")
    assert done.stderr.splitlines()[-1] == "left the federation; what was sent is in `palate outbox`"
    assert not {LOCK, NOTE} & {path.name for path in vault.iterdir()}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_vault_that_is_erased_meanwhile_ends_it(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on: list[bool] = []

    def erase(_: Any, options: Any) -> None:
        on.append(options["keep_on"]())
        Device.erase(vault)
        on.append(options["keep_on"]())

    watched(monkeypatch, erase)
    palate("join", SERVER, "--insecure")
    assert on == [True, False]


def test_a_member_that_cannot_go_on_says_why(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(member: Any, options: Any) -> None:
        member.ended = "the vault's passphrase was changed meanwhile"
        assert not options["keep_on"]()

    watched(monkeypatch, end)
    assert "passphrase was changed" in complaint("join", SERVER, "--insecure")


# --- the terms ----------------------------------------------------------------------------------------------

KEY = "ab" * 32
RELEASE_KEY = write_key(bytes.fromhex(KEY))


def agreed(vault: Path) -> tuple[list[Terms], list[str]]:
    """The terms that hold, and what happened, in words."""
    found = json.loads(palate("outbox", "--terms", "--json").stdout)
    return [Terms(**one) for one in found["terms"]], [one["what"] for one in found["history"]]


def test_joining_is_agreeing_and_what_is_not_said_again_stays(
    vault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, lambda *_: None)
    (tmp_path / "registrar.pub").write_text(KEY + "\n")
    assert agreed(vault) == ([], [])
    asked = ["--when", "idle+charging", "--least-devices", "50", "--epsilon", "0.5", "--allow-unmasked"]
    done = palate("join", SERVER, "--insecure", *asked, "--registrar", str(tmp_path / "registrar.pub"))
    assert f"no pseudonyms for {SERVER}, so it stays out" in done.stderr
    mine = Terms(SERVER, "idle+charging", 24, 50, 0.5, allow_unmasked=True, registrar=KEY)
    assert agreed(vault) == ([mine], ["agreed", "left"])
    identity = json.loads(palate("outbox", "--terms", "--json").stdout)["identities"][SERVER]
    assert f"the registrar of {SERVER} knows this device as {identity}" in palate("outbox", "--terms").stdout
    palate("join", SERVER, "--insecure")
    assert agreed(vault) == ([mine], ["agreed", "left", "joined", "left"])
    changes = ["--only-masked", "--registrar", "none", "--release-key", RELEASE_KEY, "--rounds-a-day", "3"]
    palate("join", SERVER, "--insecure", *changes, "--in-doubt")
    mine = Terms(SERVER, "idle+charging", 3, 50, 0.5, in_doubt=True, release_key=KEY)
    assert agreed(vault)[0] == [mine]
    assert json.loads(palate("release", "show", "--json").stdout)["key"] == RELEASE_KEY
    privacy = json.loads(palate("outbox", "--terms", "--json").stdout)["privacy"]
    assert (privacy["budget"], privacy["unprotected_allowed"], privacy["rounds"]) == (0.5, False, 0)
    palate("join", "127.0.0.1:8001", "--insecure")  # another server, other terms
    held, history = agreed(vault)
    assert held == [mine, Terms("127.0.0.1:8001")]
    assert history[-4:] == ["changed", "left", "agreed", "left"]
    shown = palate("outbox", "--terms").stdout
    assert (
        f"{SERVER}: only when idle and charging (or when that cannot be read), at most 3 rounds a day"
        in shown
    )
    assert f"pinned: release key {RELEASE_KEY}" in shown
    assert re.search(rf"20..-..-.. ..:..:.. +{SERVER} +changed +only when idle", shown)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--when", "sometimes"], "nothing here knows 'sometimes'; there are charging, idle"),
        (["--when", "idle,charging"], "it must be always, idle, charging or idle+charging"),
        (["--least-devices", "1"], "least devices is 1; it must be a whole number from 2"),
        (["--rounds-a-day", "0"], "rounds a day is 0"),
        (["--epsilon", "0"], "epsilon is 0.0"),
        (["--epsilon", "nan"], "epsilon is nan"),
        (["--release-key", "secret"], "--release-key is no Ed25519 public key"),
        (["--release-key", "none"], "--release-key is no Ed25519 public key"),
        (["--registrar", "."], "--registrar is no Ed25519 public key"),
        (["--ask"], "--ask has no terminal to ask on; add --yes"),
    ],
)
def test_terms_that_cannot_be_are_one_line_and_nothing_is_agreed_to(
    vault: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    calls = watched(monkeypatch, lambda *_: None)
    assert says in complaint("join", SERVER, "--insecure", *options)
    assert (calls, agreed(vault)) == ([], ([], []))


@pytest.mark.parametrize("answer", ["n", "", "\n", "maybe\nno\n"])
def test_a_no_is_kept_and_nothing_is_reached(
    vault: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    calls = watched(monkeypatch, lambda *_: None)
    palate("join", SERVER, "--insecure")
    monkeypatch.setattr(federation, "_is_terminal", lambda: True)
    done = CliRunner().invoke(app, ["join", SERVER, "--insecure", "--ask"], input=answer)
    assert done.exit_code == 1
    assert "a change of nothing: 2 labels, and to learn from them takes 6" in done.stderr
    if answer:  # without one, the input has ended: nobody said anything
        assert "palate: you said no; nothing was sent" in done.stderr.splitlines()[-1]
        assert agreed(vault) == ([], ["agreed", "left", "refused"])
    assert len(calls) == 1
    assert not {LOCK, NOTE} & {path.name for path in vault.iterdir()}


@pytest.mark.parametrize("yes", [True, False])
def test_a_yes_joins(vault: Path, monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    calls = watched(monkeypatch, lambda *_: None)
    monkeypatch.setattr(federation, "_is_terminal", lambda: not yes)
    done = CliRunner().invoke(
        app, ["join", SERVER, "--insecure", "--ask", *["--yes"] * yes], input=None if yes else "y\n"
    )
    assert done.exit_code == 0, done.stderr
    assert ("Take part with" in done.stderr) is not yes
    assert "a change of nothing: 2 labels" in done.stderr
    assert (len(calls), agreed(vault)[1]) == (1, ["agreed", "left"])


# --- leave --------------------------------------------------------------------------------------------------


def test_leaving_without_having_joined_says_so(vault: Path) -> None:
    assert "has joined no federation" in palate("leave").stdout
    assert json.loads(palate("leave", "--json").stdout) == {"left": False}
    assert not (vault / LOCK).exists()


def test_leaving_ends_the_joined_process_and_needs_no_passphrase(
    vault: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PALATE_PASSPHRASE")
    assert find_member(vault) == holder.pid
    assert json.loads(palate("leave", "--json").stdout) == {"left": True}
    assert holder.wait(10) == -signal.SIGTERM
    assert find_member(vault) is None


def test_a_process_that_is_not_the_joined_one_gets_no_signal(
    vault: Path, holder: subprocess.Popen[str]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as innocent:
        try:
            for born in (birth_of(holder.pid) + "1", ""):
                (vault / NOTE).write_text(json.dumps({"process": innocent.pid, "born": born}))
                assert "which one cannot be told" in complaint("leave")
            for note in (
                "",
                "{}",
                "[]",
                '{"process": 1, "born": ""}',
                '{"process": "1", "born": ""}',
                "x" * 5000,
            ):
                (vault / NOTE).write_text(note)
                with pytest.raises(FederationError, match="cannot be told"):
                    leave(vault)
            time.sleep(0.2)
            assert innocent.poll() is holder.poll() is None
        finally:
            innocent.kill()


def test_what_a_killed_process_left_behind_is_no_hindrance(
    vault: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    assert {LOCK, NOTE} <= {path.name for path in vault.iterdir()}
    assert find_member(vault) is None
    assert "has joined no federation" in palate("leave").stdout
    with membership(vault):
        assert find_member(vault) == os.getpid()


def test_a_process_that_does_not_leave_is_told_of(vault: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HOLD
    with subprocess.Popen(
        [sys.executable, "-c", code, str(vault)], stdout=subprocess.PIPE, text=True
    ) as stubborn:
        try:
            assert stubborn.stdout is not None
            stubborn.stdout.readline()
            with pytest.raises(FederationError, match=f"process {stubborn.pid} .* still runs after 0.3 s"):
                leave(vault, wait_seconds=0.3)
        finally:
            stubborn.kill()


# --- outbox -------------------------------------------------------------------------------------------------


def put_update(vault: Path, round_: int) -> None:
    update = lengths(round_)
    when = datetime(2026, 3, 1, 12, round_, tzinfo=UTC)
    with Device.open(vault, "correct horse") as device:
        give(device.vault, update, send=lambda _: None, server=SERVER, release=0, now=when)


def test_an_empty_outbox_says_so(vault: Path) -> None:
    done = palate("outbox")
    assert (done.stdout, done.stderr.strip()) == ("", "nothing was sent so far")
    assert json.loads(palate("outbox", "--json").stdout) == []


def test_the_outbox_shows_when_which_release_how_many_bytes_and_which_tensors(vault: Path) -> None:
    put_update(vault, 1)
    put_update(vault, 2)
    first, second = json.loads(palate("outbox", "--json").stdout)
    assert (first["round"], second["round"], first["release"], first["server"]) == (1, 2, 0, SERVER)
    assert {tensor["name"]: tensor["norm"] for tensor in first["tensors"]}["picture.hidden.bias"] == 3.0
    shown = palate("outbox").stdout
    assert re.search(
        rf"2026-03-01 12:01:00 +{SERVER} +0 +1 +{first['bytes_up']:,} +{first['sha256'][:12]} +without masks",
        shown,
    )
    assert re.search(r"picture\.hidden\.weight +256 × 216 +0\b", shown)
    assert f"2 updates, {2 * first['bytes_up']:,} bytes" in shown
    assert (
        f"\nthe newest: {first['bytes_up']:,} bytes: an update as it is, 96,640 numbers of 32 bits" in shown
    )
    assert f"\nSHA-256 {second['sha256']}\n" in shown
    assert "\nits tensors, and how long each is\n" in shown


def test_what_was_summed_up_comes_first_as_an_entry_like_the_others(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "KEPT", 2)
    for round_ in range(1, 6):
        put_update(vault, round_)
    earlier, fourth, fifth = json.loads(palate("outbox", "--json").stdout)
    assert [one["round"] for one in (earlier, fourth, fifth)] == [None, 4, 5]
    assert (earlier["id"], earlier["updates"], earlier["tensors"]) == ("earlier", 3, [])
    assert earlier["when"] == "2026-03-01T12:03:00.000000+00:00"
    assert earlier.keys() == fourth.keys() == fifth.keys()
    assert sum(one["updates"] for one in (earlier, fourth, fifth)) == 5
    assert sum(one["bytes_up"] for one in (earlier, fourth, fifth)) == 5 * fifth["bytes_up"]
    assert f"before them 3 updates, {3 * fifth['bytes_up']:,} bytes" in palate("outbox").stdout


def test_a_narrow_terminal_does_not_wrap_headings(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_update(vault, 1)
    monkeypatch.setenv("COLUMNS", "80")
    assert "\nits tensors, and how long each is\n" in palate("outbox").stdout
