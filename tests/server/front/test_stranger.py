"""What somebody with the root certificate can do to the deployed server: run code, find another way in, or
fill its memory."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from palate.client.federation.fleet import Fleet, LostError, NotTakenError
from palate.client.federation.server_address import Server
from palate.server.front.admission import admit
from palate.server.processes import deployed as processes
from palate.server.processes.deployed import Running
from palate.server.rounds.run import ServerFolder
from palate.shared.frames import join_frames
from palate.simulations.federation_demo.certificates import make_certificates

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at the server's process in /proc")

PROGRAMS = Path(sys.executable).parent
MEGABYTE = 1_000_000

EVIL = """
import os
from pathlib import Path
from flwr.serverapp import ServerApp
Path(os.environ["MARKER"]).write_text("executed")
app = ServerApp()
@app.main()
def main(grid, context):
    pass
"""
BUNDLE = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "evil"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "evil.server:app"
clientapp = "evil.client:app"
[tool.flwr.app.config]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def palate(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the server in a process of its own."""
    code = "from palate.client.commands.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "server", *arguments, "--home", str(home)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


class Deployed:
    """A server over TLS that takes admitted devices only, with one of them."""

    def __init__(self, place: Path) -> None:
        self.place, self.port = place, free_port()
        self.tls = make_certificates(place / "tls")
        self.folder = ServerFolder(place / "server")
        self.folder.home.mkdir()
        (self.folder.home / "release.key").write_text("the key")
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = self.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (place / "device.pub").write_bytes(public)
        admit(self.folder, place / "device.pub", "the laptop")
        self.marker = place / "marker"
        os.environ["MARKER"] = str(self.marker)
        started = palate(
            "start",
            "--port",
            str(self.port),
            "--tls",
            str(self.tls),
            "--admitted-only",
            home=self.folder.home,
        )
        assert started.returncode == 0, started.stderr
        found = processes.running(self.folder)
        assert found is not None
        self.running: Running = found

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.tls / "ca.crt"))

    def device(self, key: Any = None) -> Fleet:
        root = (self.tls / "ca.crt").read_text()
        return Fleet(Server(self.address, root_certificates=root, key=key))

    def ask(
        self, path: str, method: str = "POST", body: bytes = b"", headers: dict[str, str] | None = None
    ) -> int:
        connection = http.client.HTTPSConnection(self.address, context=self.context(), timeout=20)
        try:
            connection.request(
                method, path, body, {"content-type": "application/protobuf", **(headers or {})}
            )
            return connection.getresponse().status
        finally:
            connection.close()

    def most_memory(self) -> int:
        """The most bytes that the server's process had in memory at once."""
        lines = Path(f"/proc/{self.running.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1_024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    made = Deployed(tmp_path_factory.mktemp("deployed"))
    try:
        yield made
    finally:
        palate("stop", home=made.folder.home)
        os.environ.pop("MARKER", None)


def submit_code(place: Path, superlink: dict[str, Any], marker: Path) -> int:
    """Let a stranger submit a run with code of their own by Flower's own program; return its exit status."""
    home, app = place / "stranger", place / "evil"
    (app / "evil").mkdir(parents=True)
    home.mkdir()
    (app / "pyproject.toml").write_text(BUNDLE)
    (app / "evil" / "__init__.py").write_text("")
    (app / "evil" / "server.py").write_text(EVIL)
    (app / "evil" / "client.py").write_text("from flwr.clientapp import ClientApp\napp = ClientApp()\n")
    lines = ["[superlink]", 'default = "there"', "[superlink.there]"]
    (home / "config.toml").write_text(
        "\n".join([*lines, *(f"{k} = {json.dumps(v)}" for k, v in superlink.items())])
    )
    environment = os.environ | {
        "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "MARKER": str(marker),
    }  # fmt: skip
    done = subprocess.run(
        [PROGRAMS / "flwr", "run", str(app), "there"],
        cwd=place, env=environment, capture_output=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode


def test_a_stranger_with_the_root_certificate_runs_no_code(deployed: Deployed, tmp_path: Path) -> None:
    there = {"address": deployed.address, "root-certificates": str(deployed.tls / "ca.crt")}
    assert submit_code(tmp_path, there, deployed.marker) != 0
    time.sleep(2)
    assert not deployed.marker.exists()
    assert processes.ask_server(deployed.running, "status")["run"] is None


@pytest.mark.slow
def test_the_same_stranger_runs_code_on_flowers_own_server(tmp_path: Path) -> None:
    """The control: what stood behind the port before."""
    tls, port, marker = make_certificates(tmp_path / "tls"), free_port(), tmp_path / "marker"
    (tmp_path / "work").mkdir()
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flower"), "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "MARKER": str(marker), "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    command = [
        PROGRAMS / "flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
        "--disable-runtime-dependency-installation", "--ssl-ca-certfile", tls / "ca.crt",
        "--ssl-certfile", tls / "server.pem", "--ssl-keyfile", tls / "server.key",
    ]  # fmt: skip
    server = subprocess.Popen(
        command, cwd=tmp_path / "work", env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"https://127.0.0.1:{port}/health", timeout=1, context=context)
                break
            time.sleep(0.2)
        there = {"address": f"127.0.0.1:{port}", "root-certificates": str(tls / "ca.crt")}
        assert submit_code(tmp_path, there, marker) == 0
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert marker.read_text() == "executed"
    finally:
        server.terminate()
        server.wait(30)


def test_nothing_but_the_devices_routes_is_on_the_port(deployed: Deployed) -> None:
    foreign = [path for _, path in PROTOBUF_REQUEST_TYPES if "/fleet/" not in path]
    odd = ["/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet/../control/list-runs", "//v1/control/list-runs"]
    odd += ["/docs", "/openapi.json", "/health", "/start", "/status", "/v1/palate/ask"]
    assert {deployed.ask(path) for path in foreign + odd} == {404}
    assert {deployed.ask(path, "GET") for path in odd} == {404}
    mine = [path for _, path in PROTOBUF_REQUEST_TYPES if "/fleet/" in path]
    assert {deployed.ask(path) for path in mine} <= {401, 429}


def test_the_server_listens_on_its_port_alone_and_its_own_socket_is_its_owners(deployed: Deployed) -> None:
    inodes = {os.readlink(one) for one in Path(f"/proc/{deployed.running.pid}/fd").iterdir()}
    listening = [
        int(row[1].rpartition(":")[2], 16)
        for name in ("tcp", "tcp6")
        for row in map(str.split, Path(f"/proc/net/{name}").read_text().splitlines()[1:])
        if row[3] == "0A" and f"socket:[{row[9]}]" in inodes
    ]
    assert listening == [deployed.port]
    assert Path(deployed.running.socket).stat().st_mode & 0o777 == 0o600


def test_a_key_that_nobody_admitted_does_not_join_and_an_admitted_one_does(deployed: Deployed) -> None:
    with (
        contextlib.closing(deployed.device()) as stranger,
        pytest.raises(NotTakenError, match="have yours admitted"),
    ):
        stranger.enter()
    with contextlib.closing(deployed.device(deployed.key)) as device:
        device.enter()
        assert device.take(0.0) is None


def test_floods_fill_no_memory_and_keep_no_device_out(deployed: Deployed) -> None:
    device = deployed.device(deployed.key)
    device.enter()
    device.take(0.0)
    before = deployed.most_memory()
    signed = device._signature()
    drips: list[ssl.SSLSocket] = []
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.2):
            for one in list(drips):
                with contextlib.suppress(OSError):
                    one.send(b"x")

    for _ in range(200):
        raw = socket.create_connection(("127.0.0.1", deployed.port), timeout=10)
        drips.append(deployed.context().wrap_socket(raw, server_hostname="localhost"))
        drips[-1].send(b"POST /v1/palate/give HTTP/1.1\r\nhost: here\r\nx-slow: ")
    threading.Thread(target=drip, daemon=True).start()
    try:
        pushed = 0
        with contextlib.suppress(OSError):  # a head without an end
            raw = socket.create_connection(("127.0.0.1", deployed.port), timeout=10)
            with deployed.context().wrap_socket(raw, server_hostname="localhost") as one:
                one.sendall(b"POST / HTTP/1.1\r\n")
                while pushed < 300 * MEGABYTE:
                    one.sendall(b"x-long: " + b"y" * 65_536)
                    pushed += 65_536
        assert pushed < 30 * MEGABYTE

        def endless() -> Iterator[bytes]:
            for _ in range(300):
                yield bytes(MEGABYTE)

        headers = signed | {"content-type": "application/protobuf"}
        with httpx.Client(verify=deployed.context(), timeout=30) as client:
            for more in ({}, {"content-length": str(300 * MEGABYTE)}, {"content-encoding": "gzip"}):
                with contextlib.suppress(httpx.TransportError):  # it hangs up on what it will not read
                    url = f"https://{deployed.address}/v1/palate/give"
                    answer = client.post(url, content=endless(), headers=headers | more)
                    assert answer.status_code in (413, 415)
        frames = join_frames([b"", b"x" * 100])
        began = time.monotonic()
        for _ in range(20):
            assert device.take(0.0) is None
            assert deployed.ask("/v1/palate/give", body=frames) in (401, 429)
        assert time.monotonic() - began < 20
    finally:
        stop.set()
        for one in drips:
            one.close()
        device.close()
    assert deployed.most_memory() - before < 64 * MEGABYTE


def test_another_private_key_and_a_device_without_tls_are_one_line(
    deployed: Deployed, tmp_path: Path
) -> None:
    with (
        contextlib.closing(Fleet(Server(deployed.address, insecure=True))) as device,
        pytest.raises(LostError),
    ):
        device.enter()
    folder = make_certificates(tmp_path / "tls")
    other = ec.generate_private_key(ec.SECP256R1())
    (folder / "server.key").write_bytes(
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    done = palate("start", "--port", str(free_port()), "--tls", str(folder), home=tmp_path / "home")
    assert done.returncode == 1
    assert "no certificate and its private key" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
