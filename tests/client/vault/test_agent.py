"""The process that keeps a vault's key: who gets it, when it ends, what an attacker finds."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from palate.client.vault import agent
from palate.client.vault.folder import read_lock
from palate.client.vault.format import ClearHead
from palate.client.vault.sealing import derive_key
from palate.client.vault.vault import Vault
from palate.shared.errors import OptionError, StorageError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Unix sockets")
as_root = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root, to be somebody else")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> Iterator[Path]:
    """A short folder for sockets; agents that a test leaves behind are ended."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    yield tmp_path / "run" / "palate"
    for process in agents(tmp_path):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A vault with the passphrase "pw" and one record."""
    with Vault.create(tmp_path / "vault", "pw") as vault, vault.transaction() as change:
        change.put("comment", "a", b"too gloomy")
    return tmp_path / "vault"


def start(home: Path, seconds: float = 600.0) -> tuple[ClearHead, bytes]:
    clear = read_lock(home)
    key = derive_key("pw", clear.salt)
    agent.start_agent(home, clear, key, seconds)
    return clear, key


def agents(tmp_path: Path) -> list[int]:
    """The processes behind the sockets in the test's own folder."""
    found = []
    for path in (tmp_path / "run" / "palate").glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(str(path))
            except OSError:
                continue
            found.append(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    return found


def until(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return what()


def request(clear: ClearHead, what: bytes = agent.KEY) -> bytes:
    return struct.pack(">8sBc16s16s", b"PALATEAG", 1, what, clear.store, clear.salt)


def ask_raw(path: Path, sent: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(sent)
        try:
            return peer.recv(64)
        except ConnectionResetError:  # closed without reading all that was sent
            return b""


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """A socket at `path`, the user's own and closed to others, that gives one peer this answer."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)

    def serve() -> None:
        with contextlib.suppress(OSError):
            peer, _ = server.accept()
            with peer:
                peer.recv(64)
                peer.sendall(answer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(1)
        server.settimeout(20)
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def test_the_key_that_is_kept_opens_the_vault(home: Path, place: Path) -> None:
    clear, key = start(home)
    assert agent.ask_key(clear) == key
    with Vault.open(home, key=key) as vault:
        assert vault.get("comment", "a") == b"too gloomy"
    (path,) = place.iterdir()
    assert (place.stat().st_mode & 0o777, path.lstat().st_mode & 0o777) == (0o700, 0o600)
    assert agent.end_agent(clear)
    assert agent.ask_key(clear) is None
    assert not agent.end_agent(clear)
    assert until(lambda: not list(place.iterdir()))


def test_the_bytes_of_a_request() -> None:
    clear = ClearHead(1, bytes(range(16)), bytes(range(16, 32)), bytes(16))
    assert request(clear).hex() == (
        "50414c4154454147016b000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    )


def test_the_key_is_on_no_disk_in_no_argument_and_no_environment(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "pw-of-the-environment")
    _, key = start(home)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert key not in file.read_bytes()
            assert key.hex().encode() not in file.read_bytes()
    (process,) = agents(tmp_path)
    about = Path(f"/proc/{process}")
    if about.exists():
        assert str(home).encode() not in about.joinpath("cmdline").read_bytes()
        assert (
            "VmLck:\t       0" not in about.joinpath("status").read_text()
        )  # its page is kept from the swap
        assert os.path.realpath(about / "fd" / "0") == os.devnull
        if os.geteuid() == 0:
            assert b"pw-of-the-environment" not in about.joinpath("environ").read_bytes()


def test_it_ends_when_the_vault_is_erased(home: Path, place: Path) -> None:
    clear, _ = start(home)
    Vault.erase(home)
    assert agent.ask_key(clear) is None
    assert until(lambda: not list(place.iterdir()))


def test_it_ends_when_the_passphrase_is_changed(home: Path, place: Path) -> None:
    clear, _ = start(home)
    with Vault.open(home, "pw") as vault:
        vault.change_passphrase("another")
    assert agent.ask_key(clear) is None
    assert agent.ask_key(read_lock(home)) is None
    assert until(lambda: not list(place.iterdir()))


def test_it_goes_on_through_changes_of_the_vault(home: Path) -> None:
    clear, key = start(home)
    with Vault.open(home, "pw") as vault, vault.transaction() as change:
        change.put("comment", "b", b"lovely")
    assert agent.ask_key(clear) == key


def test_it_ends_after_its_time(home: Path, place: Path) -> None:
    start(home, 1.0)
    assert until(lambda: not list(place.iterdir()))


@pytest.mark.parametrize("number", [0, 1])
def test_either_clock_ends_it(number: int, home: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept, or the clock on the wall was put forward: both are time."""
    passed = [0.0, 0.0]
    clocks = agent._clocks()
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1000.0 + passed[clocks.index(clock)])
    place.mkdir(parents=True, mode=0o700)
    clear = read_lock(home)
    kept = agent._Agent(home, clear.store, clear.salt, 60.0)
    kept.listen()
    passed[number] = 59.0
    assert kept._is_wanted()
    passed[number] = 60.0
    assert not kept._is_wanted()
    kept.forget()
    assert not list(place.iterdir())


def test_an_agent_answers_for_its_own_vault_alone(home: Path, tmp_path: Path, place: Path) -> None:
    clear, _ = start(home)
    (path,) = place.iterdir()
    other = ClearHead(clear.lock, bytes(16), clear.salt, clear.check)
    assert ask_raw(path, request(other)) == b""
    assert ask_raw(path, request(ClearHead(clear.lock, clear.store, bytes(16), clear.check))) == b""
    assert ask_raw(path, request(clear)[:-1] + b"\x00") == b""
    assert ask_raw(path, bytes(42)) == b""
    Vault.create(tmp_path / "second", "pw").close()
    assert agent.ask_key(read_lock(tmp_path / "second")) is None


def test_a_peer_that_says_nothing_keeps_nobody_out(home: Path, place: Path) -> None:
    clear, key = start(home)
    (path,) = place.iterdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert agent.ask_key(clear) == key


def test_a_second_agent_takes_the_place_of_the_first(home: Path, tmp_path: Path) -> None:
    clear, key = start(home)
    first = agents(tmp_path)
    start(home)
    assert agent.ask_key(clear) == key
    assert len(agents(tmp_path)) == 1
    assert agents(tmp_path) != first


def test_what_a_killed_agent_leaves_is_no_hindrance(home: Path, tmp_path: Path, place: Path) -> None:
    clear, _ = start(home)
    (process,) = agents(tmp_path)
    os.kill(process, signal.SIGKILL)
    assert until(lambda: not agents(tmp_path))
    assert list(place.iterdir())
    assert agent.ask_key(clear) is None
    assert not agent.end_agent(clear)
    _, key = start(home)
    assert agent.ask_key(clear) == key


def test_it_ends_politely_when_it_is_told_to(home: Path, tmp_path: Path, place: Path) -> None:
    start(home)
    (process,) = agents(tmp_path)
    os.kill(process, signal.SIGTERM)
    assert until(lambda: not list(place.iterdir()))


def test_links_and_files_in_the_sockets_place_are_not_followed(home: Path, place: Path) -> None:
    clear, key = read_lock(home), bytes(32)
    path = place / f"{clear.store.hex()[:16]}.sock"
    with answering(place / "another.sock", key):
        path.symlink_to(place / "another.sock")
        assert agent.ask_key(clear) is None
        path.unlink()
        os.link(place / "another.sock", path)
        assert agent.ask_key(clear) == key  # in place of the link, the socket itself would have been asked
    path.unlink()
    path.write_bytes(key)
    path.chmod(0o600)
    assert agent.ask_key(clear) is None


def test_a_link_or_an_open_folder_in_the_folders_place_is_refused(
    home: Path, tmp_path: Path, place: Path
) -> None:
    clear, key = start(home)
    place.chmod(0o755)
    assert agent.ask_key(clear) is None
    with pytest.raises(StorageError, match="is not a folder that only you can enter"):
        start(home)
    place.chmod(0o700)
    assert agent.ask_key(clear) == key
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert agent.ask_key(clear) is None
    with pytest.raises(StorageError, match="is not a folder that only you can enter"):
        start(home)


@pytest.fixture
def everybody_enters(place: Path) -> Iterator[None]:
    """The way to the sockets' folder is open to others for as long as a test runs."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    above = [one for one in place.parents if one.stat().st_uid == 0 and len(one.parts) > 2]
    modes = [one.stat().st_mode for one in above]
    for one, mode in zip(above, modes, strict=True):
        one.chmod(mode | 0o055)
    yield
    for one, mode in zip(above, modes, strict=True):
        one.chmod(mode)


AS_NOBODY = """
import os, socket, sys
os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
try:
    peer.connect(sys.argv[1])
except PermissionError:
    sys.exit("not let in")
try:
    peer.sendall(bytes.fromhex(sys.argv[2]))
    sys.stdout.buffer.write(peer.recv(64))
except OSError:
    pass
"""


@as_root
def test_another_user_gets_nothing(home: Path, place: Path, everybody_enters: None) -> None:
    clear, key = start(home)
    (path,) = place.iterdir()

    def stolen() -> tuple[bytes, bytes]:
        command = [sys.executable, "-I", "-c", AS_NOBODY, str(path), request(clear).hex()]
        done = subprocess.run(command, capture_output=True, check=False, cwd="/")
        return done.stdout, done.stderr

    place.chmod(0o700)
    assert stolen() == (b"", b"not let in\n")  # the folder lets nobody in
    place.chmod(0o777)
    path.chmod(0o666)
    assert stolen() == (b"", b"")  # and who gets in is not the owner
    assert ask_raw(path, request(clear)) == key  # the same request by the owner: the attack itself works


IMPOSTOR = """
import os, socket, sys
os.setuid(65534)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen(1)
print("ready", flush=True)
peer, _ = server.accept()
sys.stdout.write(peer.recv(64).hex())
"""


@as_root
def test_somebody_elses_agent_is_told_nothing(home: Path, place: Path, everybody_enters: None) -> None:
    clear = read_lock(home)
    place.chmod(0o777)
    path = place / f"{clear.store.hex()[:16]}.sock"
    command = [sys.executable, "-I", "-c", IMPOSTOR, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as impostor:
        assert impostor.stdout is not None
        assert impostor.stdout.readline() == "ready\n"
        place.chmod(0o700)
        assert agent.ask_key(clear) is None  # the socket is another user's
        os.chown(path, 0, 0)
        path.chmod(0o600)
        assert agent.ask_key(clear) is None  # it looks like ours, and who listens is not
        assert impostor.stdout.read() == ""


def test_an_answer_of_another_length_is_no_key(home: Path, place: Path) -> None:
    clear = read_lock(home)
    for answer in (b"short", b"", bytes(31)):
        with answering(place / f"{clear.store.hex()[:16]}.sock", answer):
            assert agent.ask_key(clear) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.5, 24 * 3600.0 + 1, float("nan"), float("inf")])
def test_a_time_out_of_range_is_refused(seconds: float, home: Path) -> None:
    with pytest.raises(OptionError, match="for 1 second to 24 hours"):
        start(home, seconds)


def test_a_socket_that_cannot_be_made_is_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 40)))
    with pytest.raises(StorageError, match="no process could be started that keeps the key"):
        start(home)
