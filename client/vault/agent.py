"""Keeps a vault's key in memory for a while, so that not every command asks for the passphrase.

`palate unlock --for 15m` starts it (`start_agent`), every command asks it (`ask_key`), `palate lock` ends it
(`end_agent`). It is a process of its own, with a Unix socket in a folder that only its owner can enter:

    request   magic "PALATEAG" | version 1 | "k" (the key) or "e" (end) | store 16 | salt 16
    answer    the key, 32 bytes, or "e"; nothing to a request for another vault or another passphrase,
              or by another user

**When the key is gone.** After its time, by the clock on the wall and by the one that runs while the machine
sleeps, whichever is first; at `palate lock`; within a second when the vault is erased, moved or locked by
another passphrase; when another agent takes the socket's place; when the process is killed. The key never
touches the disk: it comes through a pipe and lies in one page of memory that is kept out of the swap where
the system lets us, and is overwritten at the end.

**Who gets it.** Every process of the same user, which is what "unlocked" means; nobody else: the folder
(0700) and the socket (0600) must belong to the user, links are not followed, and on Linux each side checks
the other's user (SO_PEERCRED). The process is closed to debuggers and core dumps (`shared.hardening`). A
socket that somebody else managed to put there learns two random numbers from us, and a key that it sends must
open the vault. Root can read all of this.

Windows has no such sockets in Python; there `palate init --keyring` does the same job.
"""

import contextlib
import ctypes
import json
import mmap
import os
import secrets
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from palate.client.vault import folder as vault_folder
from palate.client.vault.format import STORE_BYTES, ClearHead
from palate.client.vault.sealing import KEY_BYTES, SALT_BYTES
from palate.shared import durable, hardening
from palate.shared.errors import OptionError, PalateError, StorageError

MAGIC, VERSION = b"PALATEAG", 1
KEY, END = b"k", b"e"
LONGEST_SECONDS = 24 * 3600.0
_REQUEST = struct.Struct(f">8sBc{STORE_BYTES}s{SALT_BYTES}s")
_LENGTH = struct.Struct(">I")
_ANSWER_SECONDS = 5.0  # longer than the agent waits for a peer that says nothing
_PEER_SECONDS = 1.0
_START_SECONDS = 30.0
_WATCH_SECONDS = 1.0


def start_agent(home: Path, clear: ClearHead, key: bytes, seconds: float) -> None:
    """Keep the key of the vault in `home` for so many seconds in a process of its own; one from before ends.

    Args:
        home: folder of the vault; the agent ends when the vault is gone from it.
        clear: the clear part of the vault's head, which names vault and passphrase.
        key: what `derive_key` made of the passphrase.
        seconds: from 1 to a day.

    Raises:
        OptionError: a time out of range, or a system without Unix sockets.
        StorageError: the socket cannot be made, or its place is not the user's alone.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OptionError("this system has no sockets that keep a key; use `palate init --keyring` instead")
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise OptionError(f"a vault is unlocked for 1 second to 24 hours, not for {seconds:g} s")
    folder = _folder()
    try:
        durable.make_folder(folder)
    except OSError as error:
        raise durable.storage_error(error, folder, "the vault stays locked") from error
    if not _is_ours_alone(folder):
        raise StorageError(f"{folder} is not a folder that only you can enter, so no key is kept there")
    end_agent(clear)
    told = {"home": str(home.absolute()), "seconds": seconds}
    header = json.dumps(told | {"store": clear.store.hex(), "salt": clear.salt.hex()}).encode()
    command = [sys.executable, "-P", "-m", "palate.client.vault.agent"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            answer, _ = process.communicate(_LENGTH.pack(len(header)) + header + key, timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            answer = b"it did not answer"
    if answer != b"ready":
        reason = answer.decode(errors="replace") or "it ended at once"
        raise StorageError(f"no process could be started that keeps the key ({reason})")


def ask_key(clear: ClearHead) -> bytes | None:
    """Return the key that an agent keeps for this vault and passphrase, None if there is none.

    Whether it opens the vault is for the vault to say.
    """
    answer = _ask(clear, KEY)
    return answer if len(answer) == KEY_BYTES else None


def end_agent(clear: ClearHead) -> bool:
    """End the agent of this vault and passphrase; return whether there was one."""
    return _ask(clear, END) == END


def _folder() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):
        return Path(base) / "palate"
    return Path(tempfile.gettempdir()) / f"palate-{os.geteuid()}"


def _socket_of(store: bytes) -> Path:
    # A socket's whole path has at most 104 bytes on some systems.
    return _folder() / f"{store.hex()[:16]}.sock"


def _is_ours_alone(path: Path) -> bool:
    """Say whether a folder or socket is the user's and closed to others; a link is neither."""
    try:
        status = path.lstat()
    except OSError:
        return False
    kind = stat.S_ISDIR(status.st_mode) or stat.S_ISSOCK(status.st_mode)
    return kind and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _is_ours(peer: socket.socket) -> bool:
    """Say whether the other side is a process of this user, where the system can tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.geteuid())


def _ask(clear: ClearHead, what: bytes) -> bytes:
    """Return an agent's answer, empty if there is no agent or it has none for this vault."""
    if not hasattr(socket, "AF_UNIX"):
        return b""
    path = _socket_of(clear.store)
    if not (_is_ours_alone(path.parent) and _is_ours_alone(path)):
        return b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(_ANSWER_SECONDS)
        asked.connect(os.fspath(path))
        if _is_ours(asked):
            asked.sendall(_REQUEST.pack(MAGIC, VERSION, what, clear.store, clear.salt))
            return _receive(asked, KEY_BYTES)
    return b""


def _receive(peer: socket.socket, length: int) -> bytes:
    """Return what the other side sends until it closes, at most `length` bytes."""
    received = b""
    while len(received) < length and (part := peer.recv(length - len(received))):
        received += part
    return received


# --- the process that keeps the key -------------------------------------------------------------------------


class _Agent:
    """One vault's key, the socket that gives it out, and the reasons to end."""

    def __init__(self, home: Path, store: bytes, salt: bytes, seconds: float) -> None:
        self._home, self._store, self._salt = home, store, salt
        self._path = _socket_of(store)
        self._ends = [(clock, time.clock_gettime(clock) + seconds) for clock in _clocks()]
        self._head: tuple[int, ...] | None = None
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._named: os.stat_result | None = None

    def listen(self) -> None:
        """Put the socket in its place, in one step; raises `OSError`."""
        beside = self._path.with_name(secrets.token_hex(8))
        before = os.umask(0o177)
        try:
            self._listener.bind(os.fspath(beside))
        finally:
            os.umask(before)
        self._listener.listen(16)
        self._named = beside.lstat()
        os.replace(beside, self._path)

    def take_key(self, source: int) -> bool:
        """Read the key into memory that is not swapped; return whether it came whole."""
        with contextlib.suppress(OSError, AttributeError):
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
            ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE))
        done = 0
        with memoryview(self._page) as page:
            while done < KEY_BYTES and (read := os.readv(source, [page[done:KEY_BYTES]])):
                done += read
        return done == KEY_BYTES

    def serve(self) -> None:
        """Answer until there is a reason to end."""
        self._listener.settimeout(_WATCH_SECONDS)
        ended = False
        while not ended and self._is_wanted():
            with contextlib.suppress(OSError):  # a peer that says nothing, or goes away
                peer, _ = self._listener.accept()
                with peer:
                    ended = self._answer(peer)

    def _answer(self, peer: socket.socket) -> bool:
        """Answer one request; return whether it was to end."""
        peer.settimeout(_PEER_SECONDS)
        if not _is_ours(peer):
            return False
        request = _receive(peer, _REQUEST.size)
        if not self._is_wanted():  # the time may have ended while a slow peer spoke
            return True
        if request == _REQUEST.pack(MAGIC, VERSION, END, self._store, self._salt):
            self.forget()
            peer.sendall(END)
            return True
        if request == _REQUEST.pack(MAGIC, VERSION, KEY, self._store, self._salt):
            with memoryview(self._page) as page:
                peer.sendall(page[:KEY_BYTES])
        return False

    def _is_wanted(self) -> bool:
        """Say whether there is time left, the socket is in its place, and the vault locked by this key."""
        if any(time.clock_gettime(clock) >= end for clock, end in self._ends):
            return False
        try:
            if self._named is None or not os.path.samestat(self._path.lstat(), self._named):
                return False
            head = vault_folder.stat_head(self._home)
            if head != self._head:
                clear = vault_folder.read_lock(self._home)
                if (clear.store, clear.salt) != (self._store, self._salt):
                    return False
                self._head = head
        except (OSError, PalateError):
            return False
        return True

    def forget(self) -> None:
        """Overwrite the key and take the socket away, if it is still ours."""
        self._page[:] = bytes(len(self._page))
        self._listener.close()
        with contextlib.suppress(OSError):
            if self._named is not None and os.path.samestat(self._path.lstat(), self._named):
                self._path.unlink()


def _clocks() -> tuple[int, ...]:
    # The first goes on while the machine sleeps, the second cannot be set back unnoticed by the first.
    return (getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC), time.CLOCK_REALTIME)


def _read_header(source: int) -> dict[str, str]:
    (length,) = _LENGTH.unpack(os.read(source, _LENGTH.size))
    text = b""
    while len(text) < length and (part := os.read(source, length - len(text))):
        text += part
    header: dict[str, str] = json.loads(text)
    return header


def main() -> None:
    """Be the agent: read what to keep from stdin, say "ready" on stdout, and go on in the background."""
    hardening.harden()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    header = _read_header(0)
    agent = _Agent(
        Path(header["home"]),
        bytes.fromhex(header["store"]),
        bytes.fromhex(header["salt"]),
        float(header["seconds"]),
    )
    if os.fork():  # the caller waits for this process only; what is locked into memory is not inherited
        os._exit(0)
    try:
        agent.listen()
    except OSError as error:
        os.write(1, (error.strerror or str(error)).encode())
        sys.exit(1)
    try:
        if agent.take_key(0):
            os.write(1, b"ready")
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            agent.serve()
    finally:
        agent.forget()


if __name__ == "__main__":
    main()
