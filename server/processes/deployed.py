"""The deployed server: starts and stops its process, submits runs, and resumes what a kill cut short.

Where it stands in the flow: the commands of `cli` call this; the process is `serve`, which is reached by its
own socket (`control`). No telemetry and no question about updates leaves; Flower's own files lie in the
server's folder, not in the home folder; passphrases are not handed on. What must outlive a kill lies in the
server's folder, and devices join anew.

Whether the server runs is asked of the operating system: its process inherits a lock, which ends with it,
however it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from palate.server.checkpoints import read_checkpoint
from palate.server.front.control import SOCKET_NAME, ControlClient
from palate.server.rounds.run import ServerFolder, read_note
from palate.server.settings import RunSettings
from palate.shared.durable import storage_error, take_lock, write_atomically
from palate.shared.errors import FederationError, OptionError

START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 10.0
LONGEST_SOCKET: Final = 100  # characters that a path to a socket may have on every system
LARGEST_LOG: Final = 20_000_000
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

Folder = ServerFolder


@dataclass(frozen=True)
class Address:
    """Where a server listens, how it proves itself (TLS), and whether devices must prove themselves.

    `tls` is a folder with ca.crt, server.pem and server.key; each of these can be named by itself as well.
    Without any of them it is plain HTTP. With `admitted_only` no device joins whose key was not admitted
    (`admission`).

    Raises:
        OptionError: a port out of range, files that are missing, and what needs TLS without it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tls: str = ""
    root_certificates: str = ""
    certificate: str = ""
    key: str = ""
    admitted_only: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise OptionError(f"port is {self.port}; it must be from 1 to 65535")
        if self.host not in LOOPBACK and not self.encrypted:
            raise OptionError(
                f"host is {self.host}, which others can reach: name a folder with ca.crt, server.pem and "
                "server.key by --tls"
            )
        if self.admitted_only and not self.encrypted:
            raise OptionError(
                "devices can prove who they are only over TLS: name a folder with ca.crt, server.pem and "
                "server.key by --tls"
            )
        for option, (given, path) in self._files().items():
            if not given and not self.tls:
                raise OptionError(
                    f"TLS needs --root-certificates, --certificate and --key; {option} is missing"
                )
            if not path.is_file():
                where = f"{option} is {given}" if given else f"tls is {self.tls}"
                raise OptionError(f"{where}; {path.name} is missing there")

    @property
    def encrypted(self) -> bool:
        """Return whether the server speaks TLS."""
        return any((self.tls, self.root_certificates, self.certificate, self.key))

    @property
    def certificates(self) -> tuple[Path, Path, Path]:
        """Who vouches for the server, the server's certificate, and its private key, in PEM files."""
        root, certificate, key = (path for _, path in self._files().values())
        return root, certificate, key

    def _files(self) -> dict[str, tuple[str, Path]]:
        if not self.encrypted:
            return {}
        named = (
            ("--root-certificates", self.root_certificates, "ca.crt"),
            ("--certificate", self.certificate, "server.pem"),
            ("--key", self.key, "server.key"),
        )
        return {option: (given, Path(given or Path(self.tls) / name)) for option, given, name in named}

    @property
    def near(self) -> str:
        """Host and port as this machine reaches them."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    pid: int
    address: Address
    socket: str  # of the server itself


def running(folder: Folder) -> Running | None:
    """Return the server that runs on this folder, if one does."""
    if not (folder.home / "server.lock").exists():  # so that asking makes no folder
        return None
    descriptor = _take(folder.home / "server.lock")
    if descriptor is not None:
        os.close(descriptor)
        return None
    note = read_note(folder.home / "server.json")
    if not note:
        return None
    try:
        return Running(int(note["pid"]), Address(**note["address"]), str(note["socket"]))
    except (KeyError, TypeError, ValueError):
        raise FederationError(
            f"the server on {folder.home} was started by another version; stop it with that one first"
        ) from None


def start(folder: Folder, address: Address) -> Running:
    """Start the server in the background, wait until it answers, and resubmit a run that was cut short.

    Raises:
        FederationError: a server runs here already or it does not come up.
        OptionError: the port is taken.
    """
    already = running(folder)
    if already:
        raise FederationError(
            f"a server runs on {folder.home} already, at {already.address.near} (process {already.pid})"
        )
    _require_free(address)
    _require_flower()
    _require_certificate(address)
    log = prepare(folder)
    lock = _take(folder.home / "server.lock")
    if lock is None:
        raise FederationError(f"another `palate server start` is at work on {folder.home}; let it finish")
    own = _socket_path(folder)
    command = [sys.executable, "-m", "palate.server.processes.serve", str(folder.home), str(own)]
    command += [address.host, str(address.port)]
    if address.encrypted:
        command += [str(path.resolve()) for path in address.certificates[1:]]
    if address.admitted_only:
        command.append("--admitted-only")
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=folder.home / "flower",
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
    finally:
        os.close(lock)
    server = Running(process.pid, address, str(own))
    try:
        _note(folder.home / "server.json", asdict(server))
        _wait_until_healthy(folder, process, server)
        resume(folder)
    except BaseException:
        _end(process.pid)
        raise
    return server


def stop(folder: Folder) -> bool:
    """End the server and what it started.

    Returns whether one was running. A run that is cut short goes on at the next start.
    """
    server = running(folder)
    if server is None:
        return False
    _end(server.pid)
    deadline = time.monotonic() + STOP_SECONDS
    while running(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return True


def healthy(server: Running) -> bool:
    """Return whether a server answers: on its own socket, and with an open port."""
    try:
        ask_server(server, "status")
        with socket.create_connection(_host_and_port(server.address), timeout=2.0):
            return True
    except (FederationError, OSError):
        return False


def ask_server(server: Running, call: str, body: bytes = b"") -> dict[str, Any]:
    """Make one call on the server's own socket; raises FederationError (`control`)."""
    with contextlib.closing(ControlClient(Path(server.socket))) as client:
        return client.ask_json(call, body)


def submit(folder: Folder, settings: RunSettings) -> str:
    """Submit a run to the running server and return its number.

    What is wanted is noted before and after, so that a kill in between loses nothing.

    Raises:
        FederationError: no server runs, another run is not over, or Flower refuses.
    """
    unfinished = wanted(folder)
    if unfinished is not None and read_note(folder.home / "run.json").get("run"):
        raise FederationError(
            f"a run up to round {unfinished.rounds} is at work; see `palate server status`, "
            "or end it with `palate server stop --run`"
        )
    return _submit(folder, settings)


def resume(folder: Folder) -> str | None:
    """Submit again the run that was cut short, if one was.

    It goes on from the checkpoint. Returns its number.
    """
    settings = wanted(folder)
    if settings is None:
        return None
    return _submit(folder, settings)


def wanted(folder: Folder) -> RunSettings | None:
    """Return the settings of the run that was asked for and is not over, if there is one."""
    note = read_note(folder.home / "run.json")
    if not note.get("settings") or note.get("dropped"):
        return None
    ended = read_note(folder.ended)
    if note.get("run") and ended.get("run") == note["run"]:
        return None
    return RunSettings.from_json(json.dumps(note["settings"]))


def drop_run(folder: Folder) -> bool:
    """End the run at work for good.

    Returns whether there was one. The checkpoint stays at the last round that was kept.
    """
    if wanted(folder) is None:
        return False
    note = read_note(folder.home / "run.json")
    _note(folder.home / "run.json", {**note, "dropped": True})
    server = running(folder)
    if server is not None:
        ask_server(server, "stop")
    folder.now.unlink(missing_ok=True)
    return True


def follow(folder: Folder, run: str, poll_seconds: float = 0.2) -> Iterator[dict[str, Any]]:
    """Yield what the run is doing (`now.json`) when that changes, and at the end how it ended (`ended`).

    A run whose process died while the server lives is submitted again, as long as it gets on in between.

    Raises:
        FederationError: the server is gone; the run goes on when it is started again.
    """
    told: dict[str, Any] = {}
    next_look = time.monotonic() + 10
    stood_at = _round(folder)
    tries = 0
    while True:
        ended = read_note(folder.ended)
        if ended.get("run") == run:
            yield ended
            return
        now = read_note(folder.now)
        if now != told and now.get("run") == run:
            told = now
            yield now
        if time.monotonic() >= next_look:
            if running(folder) is None:
                raise FederationError(
                    "the server is gone; the run goes on when you start it again: palate server start"
                )
            if status_of(folder, run) not in ("running", "") and read_note(folder.ended).get("run") != run:
                if read_note(folder.home / "run.json").get("dropped"):
                    yield {"run": run, "ended": "stopped", "round": _round(folder)}
                    return
                tries = 0 if _round(folder) > stood_at else tries + 1
                stood_at = _round(folder)
                if tries > 3:
                    raise FederationError(
                        f"the run's process ends again and again without a round; see {folder.home / 'logs'}"
                    )
                run = resume(folder) or run
            next_look = time.monotonic() + 10
        time.sleep(poll_seconds)


def status_of(folder: Folder, run: str) -> str:
    """Return "running", or how a run ended ("finished", "failed", "stopped", "gone").

    The text is empty when the server does not answer.
    """
    server = running(folder)
    with contextlib.suppress(FederationError, KeyError):
        if server is not None:
            found = ask_server(server, "status")
            return str(found["state"]) if found["run"] == run else "gone"
    return ""


def prepare(folder: Folder) -> Path:
    """Lay out the server's folder and returns the path of the log; raises StorageError."""
    log = folder.home / "logs" / "server.log"
    try:
        for place in (folder.home / "flower", log.parent):
            place.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            os.replace(log, log.with_suffix(".log.1"))
    except OSError as error:
        raise storage_error(error, folder.home, "the server was not started") from None
    return log


def environment(folder: Folder) -> dict[str, str]:
    """Return the environment of the server's process: ours without secrets, with Flower's switches set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLWR_", "PALATE_")) and name not in ("PYTHONPATH", "PYTHONSTARTUP")
    }
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "FLWR_HOME": str(folder.home / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _submit(folder: Folder, settings: RunSettings) -> str:
    server = running(folder)
    if server is None:
        raise FederationError(f"no server runs on {folder.home}; start it with: palate server start")
    note = {"settings": json.loads(settings.to_json())}
    _note(folder.home / "run.json", {**note, "run": ""})
    number = str(ask_server(server, "start", settings.to_json().encode())["run"])
    _note(folder.home / "run.json", {**note, "run": number})
    return number


def _socket_path(folder: Folder) -> Path:
    """Return where the server's own socket is to lie.

    It lies in the server's folder, or where that path is too long, in a folder of this user.
    """
    path = folder.home.resolve() / SOCKET_NAME
    if len(str(path).encode()) <= LONGEST_SOCKET:
        return path
    return Path(tempfile.mkdtemp(prefix="palate-")) / SOCKET_NAME


def _host_and_port(address: Address) -> tuple[str, int]:
    host, _, port = address.near.rpartition(":")
    return host.strip("[]"), int(port)


def _require_certificate(address: Address) -> None:
    if address.encrypted:
        _, certificate, key = address.certificates
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, lambda: "")
        except (ssl.SSLError, OSError, ValueError):
            raise OptionError(
                f"{certificate} and {key} are no certificate and its private key, unsealed, as PEM files"
            ) from None


def _require_flower() -> None:
    from importlib.util import find_spec

    if find_spec("flwr") is None:
        raise FederationError(
            "the server needs Flower, which is not installed here: pip install 'palate[federate]'"
        )


def _require_free(address: Address) -> None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise OptionError(
                f"port {address.port} on {address.host} cannot be used ({error.strerror}); name another "
                "with --port"
            ) from None


def _wait_until_healthy(folder: Folder, process: subprocess.Popen[bytes], server: Running) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not healthy(server):
        if process.poll() is not None:
            raise FederationError(
                f"the server ended while it started; see {folder.home / 'logs' / 'server.log'}"
            )
        if time.monotonic() >= deadline:
            raise FederationError(
                f"the server did not answer within {START_SECONDS:g} s; see "
                f"{folder.home / 'logs' / 'server.log'}"
            )
        time.sleep(0.05)


def _end(pid: int) -> None:
    """Ask a process that we started to end, and end it if it does not."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # if it is our child, or it would stay as a zombie
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)


def _take(path: Path) -> int | None:
    """Take the server's lock, which its process inherits; return None where somebody holds it."""
    if sys.platform == "win32":
        raise FederationError("the server runs on Linux and macOS; on Windows use its Linux subsystem")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return take_lock(path)
    except OSError as error:
        raise storage_error(error, path, "nothing was changed") from None


def _note(path: Path, note: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(note, indent=2).encode(), consequence="nothing was changed")


def _round(folder: Folder) -> int:
    kept = read_checkpoint(folder.checkpoint)
    return kept.round if kept else 0
