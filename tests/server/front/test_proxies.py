"""The documented proxies in front of the server: held calls are held, rounds run through them, and only
devices' routes pass."""

import contextlib
import http.client
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from palate.client.federation.fleet import Fleet
from palate.client.federation.server_address import Server
from palate.simulations.federation_demo.certificates import make_certificates
from tests.server.front.test_stranger import free_port, palate

pytestmark = pytest.mark.slow
DOCS = Path(__file__).resolve().parents[3] / "docs" / "proxy"
HERE = Path(__file__).parents[1]


def nginx(place: Path, tls: Path, server: int, port: int) -> list[str]:
    text = (DOCS / "nginx.conf").read_text()
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8000", f"127.0.0.1:{server}"),
        ("/etc/palate/fullchain.pem", str(tls / "server.pem")),
        ("/etc/palate/privkey.pem", str(tls / "server.key")),
        ("/etc/palate/ca.crt", str(tls / "ca.crt")),
    ):
        assert old in text
        text = text.replace(old, new)
    head = f"daemon off; pid {place}/pid; error_log {place}/log; events {{}}\nhttp {{ access_log off;\n"
    (place / "nginx.conf").write_text(f"{head}{text}\n}}\n")
    return ["nginx", "-c", str(place / "nginx.conf")]


def caddy(place: Path, tls: Path, server: int, port: int) -> list[str]:
    text = (DOCS / "Caddyfile").read_text()
    own = (
        f"https://localhost:{port}, https://127.0.0.1:{port} "
        f"{{\n\tbind 127.0.0.1\n\ttls {tls}/server.pem {tls}/server.key"
    )
    for old, new in (
        ("palate.example {", own),
        ("127.0.0.1:8000", f"127.0.0.1:{server}"),
        ("/etc/palate/ca.crt", str(tls / "ca.crt")),
    ):
        assert old in text
        text = text.replace(old, new)
    (place / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text)
    return ["caddy", "run", "--config", str(place / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a proxy before a server, and the folder with certificates."""
    if shutil.which(request.param.__name__) is None:
        pytest.skip(f"{request.param.__name__} is not installed")
    tls, server, port = make_certificates(tmp_path / "tls"), free_port(), free_port()
    started = palate("start", "--port", str(server), "--tls", str(tls), home=tmp_path / "server")
    assert started.returncode == 0, started.stderr
    made = palate("key", "--unsealed", home=tmp_path / "server")  # what `run` signs invitations with
    assert made.returncode == 0, made.stderr
    environment = os.environ | {"HOME": str(tmp_path)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(request.param(tmp_path, tls, server, port), env=environment, **quiet)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                ask(port, tls, "/")
                break
            time.sleep(0.1)
        yield port, tls
    finally:
        process.kill()
        process.wait(20)
        palate("stop", home=tmp_path / "server")


def ask(port: int, tls: Path, path: str) -> int:
    context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    try:
        connection.request("POST", path, b"")
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_proxy_holds_calls_and_lets_rounds_through(proxied: tuple[int, Path], tmp_path: Path) -> None:
    port, tls = proxied
    assert ask(port, tls, "/v1/control/start-run") == 404
    assert ask(port, tls, "/v1/fleet/pull-messages") == 401
    where = Server(f"127.0.0.1:{port}", root_certificates=(tls / "ca.crt").read_text())
    with contextlib.closing(Fleet(where)) as device:
        device.enter()
        began = time.monotonic()
        assert device.take(3.0) is None
        assert time.monotonic() - began >= 3
    command = [sys.executable, str(HERE / "fake_node.py"), f"127.0.0.1:{port}"]
    nodes = [
        subprocess.Popen([*command, str(number), "0", str(tls / "ca.crt")], stdout=subprocess.DEVNULL)
        for number in (1, 2)
    ]
    try:
        numbers = ("--rounds", "2", "--devices", "2", "--quorum", "2")
        done = palate("run", "--unmasked", *numbers, "--json", home=tmp_path / "server")
        assert done.returncode == 0, done.stderr
        assert '"used": 2' in done.stdout
    finally:
        for node in nodes:
            node.terminate()
            node.wait(20)
