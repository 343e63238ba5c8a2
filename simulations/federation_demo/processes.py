"""The processes of the federation's demonstration.

`palate` commands, device nodes and a server, all ended at the end.

Where it stands in the flow: `story` says what happens, this module starts, kills and ends. Every process is a
real one, started through the `palate` command; passphrases reach it through its environment. What was started
is ended whatever happens: nodes as children of this process, the server and whatever it left behind by the
folder that they were started for.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palate.server.metrics import read_metrics
from palate.server.rounds.run import ServerFolder, read_note
from palate.shared.errors import FederationError

COMMAND_SECONDS = 180.0
END_SECONDS = 10.0
SAMPLE_SECONDS = 1.0  # the lists are slow to read
LEAST_DEVICES = 2  # whose sum a device lets be opened: the demonstration has three, real federations many

_PROGRAM = "import sys; from palate.client.commands.cli import main; sys.argv[0] = 'palate'; main()"


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Node:
    """A device: its vault, the passphrase that opens it, and the process that has joined."""

    name: str
    home: Path
    log: Path
    passphrase: str = field(repr=False)
    process: subprocess.Popen[bytes] | None = None

    def said(self) -> str:
        """Return all that its processes have printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def joined(self) -> int:
        """Return how often it has joined or found its server again."""
        return self.said().count("waiting for rounds")


class Stage:
    """Where the processes run; a `with` block at whose end all are ended."""

    def __init__(self, folder: Path) -> None:
        """Use a folder for everything that the processes write."""
        self.folder = folder
        self.server = ServerFolder(folder / "server")
        self.nodes: list[Node] = []
        self.tls: Path | None = None
        """Folder of certificates, where the server speaks TLS."""
        self.release_passphrase = secrets.token_hex(16)
        for name in ("devices", "logs", "empty"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process that was started here; a second Ctrl-C waits until that is done."""
        with _undisturbed():
            for node in self.nodes:
                self.end(node)
            if self.server.home.exists():
                with contextlib.suppress(FederationError):
                    self.palate("server", "stop", "--home", str(self.server.home), "--json")
            end_processes_of(self.server.home)
            shutil.rmtree(self.folder / "bytecode", ignore_errors=True)

    # --- commands -------------------------------------------------------------------------------------------

    def palate(self, *arguments: str, node: Node | None = None, status: int = 0, columns: int = 100) -> str:
        """Run a `palate` command to its end and return what it prints; raises FederationError if it fails.

        With a status other than 0 that end is the expected one, and the last line of its complaint is
        returned.
        """
        try:
            done = subprocess.run(
                [*_palate(), *arguments],
                cwd=self.folder / "empty",
                env=self._environment(node) | {"COLUMNS": str(columns)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FederationError(
                f"`palate {' '.join(arguments[:2])}` took more than {COMMAND_SECONDS:g} s"
            ) from None
        said = (done.stderr.strip() or "it does not say why").splitlines()[-1]
        if done.returncode != status:
            raise FederationError(
                f"`palate {' '.join(arguments[:2])}` ended with status {done.returncode}: {said}"
            )
        return done.stdout if status == 0 else said

    def serve(self, *arguments: str) -> Any:
        """Run a `palate server` command and return its JSON."""
        return json.loads(self.palate("server", *arguments, "--home", str(self.server.home), "--json"))

    def add(self, name: str, passphrase: str) -> Node:
        """Make the vault of a new device."""
        node = Node(name, self.folder / "devices" / name, self.folder / "logs" / f"{name}.log", passphrase)
        self.palate("init", "--home", str(node.home), node=node)
        self.nodes.append(node)
        return node

    def join(self, node: Node, address: str, *command: str, extra: Sequence[str] = ()) -> None:
        """Start a device's long-lived process.

        `palate join` with `extra` options, or another command in its place.
        """
        joined = command or (
            *(*_palate(), "join", address, *self._how_to_trust(), "--home", str(node.home)),
            *("--least-devices", str(LEAST_DEVICES), *extra),
        )
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                joined,
                cwd=self.folder / "empty",
                env=self._environment(node),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _how_to_trust(self) -> tuple[str, ...]:
        return ("--insecure",) if self.tls is None else ("--root-certificates", str(self.tls / "ca.crt"))

    def kill(self, node: Node) -> None:
        """Kill a device's process, which gets no chance to say goodbye."""
        if node.process is not None:
            node.process.kill()
            node.process.wait()

    def leave(self, node: Node) -> None:
        """Let a device leave; raises FederationError unless its process then ends well."""
        self.palate("leave", "--home", str(node.home))
        with contextlib.suppress(subprocess.TimeoutExpired):
            if node.process is None or node.process.wait(END_SECONDS) == 0:
                return
        raise FederationError(f"the device {node.name} did not leave as it should; see {node.log}")

    def end(self, node: Node) -> None:
        """End a device's process, politely if it lets itself be asked."""
        if node.process is None or node.process.poll() is not None:
            return
        node.process.terminate()
        try:
            node.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill(node)

    # --- waiting --------------------------------------------------------------------------------------------

    def until(self, what: str, found: Callable[[], bool], seconds: float = COMMAND_SECONDS) -> None:
        """Wait until something is so.

        Raises FederationError when it is not after so long, or a device ended meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not found():
            for node in self.nodes:
                if node.process is not None and node.process.poll():
                    last = (node.said().strip() or "it does not say why").splitlines()[-1]
                    raise FederationError(f"the device {node.name} ended by itself: {last}; see {node.log}")
            if time.monotonic() >= deadline:
                raise FederationError(
                    f"{what}: not so after {seconds:g} s; see {self.folder / 'logs'} and "
                    f"{self.server.home / 'logs'}"
                )
            time.sleep(0.05)

    def round(self) -> int:
        """Return the last round that the server has finished."""
        lines = read_metrics(self.server.rounds)
        return int(lines[-1]["round"]) if lines else 0

    def how_run_ended(self) -> dict[str, Any] | None:
        """Return how the run that was last submitted ended, None while it goes on."""
        ended, run = read_note(self.server.ended), read_note(self.server.home / "run.json").get("run")
        return ended if run and ended.get("run") == run else None

    def _environment(self, node: Node | None) -> dict[str, str]:
        """Return this process's environment for a child.

        With the passphrase that it needs, and without our user's own settings.
        """
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PALATE_", "FLWR_"))
        }
        kept |= {"OMP_NUM_THREADS": "1"}  # many processes share a few cores
        # Made-up people leave nothing in the keyring of the person who looks on.
        kept |= {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
        if kept.pop(
            "PYTHONDONTWRITEBYTECODE", None
        ):  # some thirty processes would compile every library again
            kept["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")
        if node is not None:
            return kept | {"PALATE_PASSPHRASE": node.passphrase}
        return kept | {"PALATE_RELEASE_PASSPHRASE": self.release_passphrase}


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls side by side and return their results in order.

    Raises the first error, after all have ended.
    """
    with ThreadPoolExecutor(len(calls)) as pool:
        return [one.result() for one in [pool.submit(call) for call in calls]]


def end_processes_of(home: Path) -> list[int]:
    """End whatever still runs for a server's folder, by the command line that it was started with.

    Returns what it ended.

    Needed when the server was killed: what it had started ends by itself within a second or so, and is not
    waited for there.
    """
    ended: list[int] = []
    for entry in Path("/proc").glob("[0-9]*") if Path("/proc/self/cmdline").exists() else ():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ours = any(word.startswith(b"palate.server.") for word in words) and str(home).encode() in words
            if ours and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
                ended.append(int(entry.name))
    return ended


class Peers:
    """Watches which ports the nodes' processes are connected to, once a second; by Linux's own lists."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Watch these devices."""
        self.seen: set[str] = set()
        self.samples = 0
        self._nodes = nodes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers")

    @staticmethod
    def can_watch() -> bool:
        """Says whether this system has the lists."""
        return Path("/proc/net/tcp").exists() and Path("/proc/self/fd").exists()

    def __enter__(self) -> Self:
        if self.can_watch():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            at_work = [one.process.pid for one in self._nodes if one.process and one.process.poll() is None]
            found = find_peers(at_work)
            self.seen |= found
            self.samples += bool(found)


def find_peers(processes: Sequence[int]) -> set[str]:
    """Return the remote ends of these processes' sockets.

    HOST:PORT for IPv4, what the system writes for the others.
    """
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for one in Path(f"/proc/{process}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(one))
    found = set()
    for name in ("tcp", "tcp6", "udp", "udp6") if any(one.startswith("socket:") for one in sockets) else ():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                row = line.split()
                if f"socket:[{row[9]}]" in sockets:
                    host, _, port = row[2].partition(":")
                    ip = (
                        ".".join(str(int(host[i : i + 2], 16)) for i in (6, 4, 2, 0))
                        if len(host) == 8
                        else host
                    )
                    found.add(f"{ip}:{int(port, 16)}")
    return found


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no signal that ends this process interrupt the block, in the thread that gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _palate() -> list[str]:
    script = Path(sys.executable).parent / "palate"
    return [str(script)] if script.exists() else [sys.executable, "-c", _PROGRAM]
