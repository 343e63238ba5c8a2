"""The server's process.

It is `python -m palate.server.processes.serve HOME SOCKET HOST PORT [CERTIFICATE KEY] [--admitted-only]`.

Where it stands in the flow: `deployed.start` starts it, in the background. It puts the public port (`front`)
and the server's own socket (`control`) on one event loop, with Flower's books in memory behind both
(`superlink`), and starts a `round_process` for a run. Nothing else listens. It ends with a signal; runs that
this cuts short go on at the next start (`deployed.resume`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from palate.server.front.admission import read_admitted
from palate.server.front.control import Control
from palate.server.front.port import Front
from palate.server.front.superlink import SuperLink
from palate.server.rounds.run import ServerFolder
from palate.shared.errors import PalateError
from palate.shared.hardening import harden

MOST_CONNECTIONS: Final = 8_000
HEAD_SECONDS: Final = (
    15.0  # from the opening of a connection, or the first byte of a call, to the end of its headers
)
MOST_HEAD_BYTES: Final = 32_768
KEEP_OPEN_SECONDS: Final = 60
TICK_SECONDS: Final = 5.0
FORGET_TICKS: Final = 12  # every minute

BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 10\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)

_log = logging.getLogger("palate.server")


class _Guarded(HttpToolsProtocol):
    """uvicorn's HTTP, with limits on connections and on the size and the time of a call's headers."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(BUSY)
            transport.close()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_over()
        self.app.connection_lost(self.client)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        self.app.connection_idle(self.client)
        super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is not None:
            self._head_bytes += len(data)
            # A body may come with the end of the head: one read more is let through.
            if self._head_bytes - len(data) > MOST_HEAD_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_over()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_is_over()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _head_is_over(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


class Server:
    """The public port, the server's own socket, and the process of the run at work."""

    def __init__(self, folder: ServerFolder, *, admitted_only: bool) -> None:
        """Begin without a run."""
        self._folder = folder
        self._admitted_only = admitted_only
        self.link = SuperLink(read_admitted(folder.admitted) if admitted_only else None)
        self.front = Front(self.link)
        self.control = Control(self.link, self.start, self.stop, self.state, self.admit)
        self.socket_path = ""
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._state: dict[str, Any] = {"run": None, "state": "idle"}

    def state(self) -> dict[str, Any]:
        """Return which run is at work, or how the last one ended."""
        return dict(self._state)

    def admit(self) -> None:
        """Read the admitted keys anew."""
        if self._admitted_only:
            self.link.admit(read_admitted(self._folder.admitted))

    async def start(self, settings: str) -> int:
        """Begin a run; one that is at work is ended."""
        await self.stop()
        run = self.link.start_run(settings)
        log = self._folder.home / "logs" / "server.log"
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "palate.server.processes.round_process",
                str(self._folder.home),
                self.socket_path,
                str(run),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        if self._process.stdin is not None:
            self._process.stdin.write(settings.replace("\n", " ").encode() + b"\n")
            await self._process.stdin.drain()
        self._state = {"run": str(run), "state": "running"}
        self._watcher = asyncio.create_task(self._watch(self._process, run))
        return run

    async def stop(self) -> bool:
        """End the run at work; say whether there was one."""
        process, watcher = self._process, self._watcher
        if process is None or watcher is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await watcher
        self._state["state"] = "stopped"
        return True

    async def _watch(self, process: asyncio.subprocess.Process, run: int) -> None:
        status = await process.wait()
        _log.info("run %s ended with status %s", run, status)
        self.link.end_run()
        self._process = self._watcher = None
        self._state = {"run": str(run), "state": "finished" if status == 0 else "failed"}

    async def tick(self) -> None:
        """Keep the books in order, for as long as the server lives."""
        count = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            count += 1
            try:
                self.front.keep_waiting_alive()
                self.link.keep_run()
                if count % FORGET_TICKS == 0:
                    self.link.forget_absent()
            except Exception:  # noqa: BLE001 - the next turn may do better, and it is in the log
                _log.exception("the books could not be put in order")


async def serve(server: Server, path: Path, host: str, port: int, tls: tuple[str, str] | None) -> None:
    """Listen until a signal ends it."""
    own = _own_socket(path)
    server.socket_path = str(path)
    usual: dict[str, Any] = {
        "lifespan": "off",
        "access_log": False,
        "log_config": None,
        "server_header": False,
    }
    certificates: dict[str, Any] = {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]} if tls else {}
    public = uvicorn.Server(
        uvicorn.Config(
            server.front,
            host=host,
            port=port,
            http=_Guarded,
            ws="none",
            proxy_headers=False,
            backlog=4096,
            timeout_keep_alive=KEEP_OPEN_SECONDS,
            timeout_graceful_shutdown=1,
            **certificates,
            **usual,
        )
    )
    private = uvicorn.Server(uvicorn.Config(server.control, timeout_graceful_shutdown=1, ws="none", **usual))
    for one in (public, private):  # signals are ours
        one.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]

    def leave() -> None:
        public.should_exit = private.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    ticking = asyncio.create_task(server.tick())
    try:
        await asyncio.gather(_until_over(public, leave), _until_over(private, leave, own))
    finally:
        ticking.cancel()
        await server.stop()
        with contextlib.suppress(OSError):
            path.unlink()


async def _until_over(server: uvicorn.Server, leave: Callable[[], None], *sockets: socket.socket) -> None:
    try:
        await server.serve(sockets=list(sockets) or None)
    finally:
        leave()  # one without the other is of no use


def _own_socket(path: Path) -> socket.socket:
    """Return a socket that only this user can reach."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(before)
    return made


def main() -> None:
    """Run the command."""
    harden()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("home", type=Path)
    p.add_argument("socket", type=Path)
    p.add_argument("host")
    p.add_argument("port", type=int)
    p.add_argument("tls", nargs="*", help="certificate and key, PEM files")
    p.add_argument("--admitted-only", action="store_true")
    a = p.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("flwr").setLevel(logging.WARNING)  # or it writes two lines for each call
    logging.getLogger("flwr").propagate = False
    _open_many_files()
    try:
        server = Server(ServerFolder(a.home), admitted_only=a.admitted_only)
    except PalateError as error:
        sys.exit(str(error))
    run = serve(server, a.socket, a.host, a.port, (a.tls[0], a.tls[1]) if a.tls else None)
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(run)
        return
    asyncio.run(run)


def _open_many_files() -> None:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
