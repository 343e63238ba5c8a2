"""The node as a real process against a server that lies: a bundle that brings code along, a restart of the
server, the end."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from palate.client.demo.showcase import demo_folder
from palate.client.device import Device
from palate.client.federation.outbox import read_outbox
from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.reasons import DeclineReason, word_of
from palate.shared.wire import UPDATE_BYTES

pytestmark = pytest.mark.slow

JOIN = "import sys; from palate.client.commands.cli import main; sys.argv[0] = 'palate'; main()"
# Somebody whose device takes the bundle for a known one: even then nothing of it is executed.
JOIN_TRUSTING = "import sys; from palate.client.federation import app; trusted = sys.argv.pop()\n"
JOIN_TRUSTING += "app.known_hashes = lambda: frozenset({trusted})\n" + JOIN

PYPROJECT = """
[project]
name = "bundle"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.42.0"]
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "client.app:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
settings = ""
"""
MARKER = """
import os
open(os.environ["MARKER"], "a").write("executed by process %d\\n" % os.getpid())
from flwr.clientapp import ClientApp
app = ClientApp()
"""
# Our own front and books, made to hand out a foreign bundle: SERVER.py PORT BUNDLE OUT; asks two devices
# once.
SERVER = """
import asyncio, hashlib, json, sys, time
from pathlib import Path
import uvicorn
from palate.server.front import superlink
from palate.server.front.port import Front
from palate.server.releases.round_key import passing_signer
from palate.shared.encoder import load_encoder
from palate.shared.update import LocalSettings
from palate.shared.wire import Task, encode_task

port, bundle, out = int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), Path(sys.argv[3])
superlink.bundle_bytes = lambda: bundle
superlink.known_hashes = lambda: frozenset({hashlib.sha256(bundle).hexdigest()})
link = superlink.SuperLink()
link.start_run("{}")

async def ask():
    while len(link.connected()) < 2:
        await asyncio.sleep(0.1)
    task = Task.for_encoder(load_encoder(), round=1, settings=LocalSettings(steps=1), seed=5)
    wire = passing_signer()(encode_task(task))
    asked = link.ask(dict.fromkeys(link.connected(), wire), 1, 90.0)
    found, until = [], time.monotonic() + 80
    while len(found) < len(asked) and time.monotonic() < until:
        for one in link.replies():
            reason = one.reason if one.wire is None else None
            found.append({"reason": reason, "bytes": one.wire and len(one.wire)})
        await asyncio.sleep(0.1)
    out.write_text(json.dumps(found))

async def main():
    front = Front(link)
    config = uvicorn.Config(front, host="127.0.0.1", port=port, lifespan="off", access_log=False, ws="none")
    work = [uvicorn.Server(config).serve()] + ([] if out.exists() else [ask()])
    await asyncio.gather(*work)

asyncio.run(main())
"""


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.1)
    return found


def listening_ports(process: int) -> list[str]:
    """Sockets on which a process listens, by Linux's own lists."""
    inodes = set()
    for one in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(one))
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


class Deployment:
    """A server and device nodes on loopback, all ended at the end."""

    def __init__(self, place: Path) -> None:
        self.place, self.marker, self.out = place, place / "marker", place / "out.json"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.running: list[subprocess.Popen[bytes]] = []
        mine = {"MARKER": str(self.marker), "PALATE_PASSPHRASE": "correct horse", "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **mine}
        (place / "empty").mkdir()
        (place / "server.py").write_text(SERVER)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.place / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(
                command,
                cwd=self.place / "empty",
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(started)
        return started

    def said(self, name: str) -> str:
        return (self.place / f"{name}.log").read_text(errors="replace")

    def start_server(self, bundle: Path) -> subprocess.Popen[bytes]:
        port = self.address.rpartition(":")[2]
        server = self.start(
            "server", sys.executable, str(self.place / "server.py"), port, str(bundle), str(self.out)
        )
        wait_for(self.is_open)
        return server

    def is_open(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(self.address.split(":"), 2):  # type: ignore[arg-type]
            return True
        return False

    def join(self, name: str, home: Path, code: str = JOIN, *more: str) -> subprocess.Popen[bytes]:
        options = ["join", self.address, "--insecure", "--home", str(home), *more]
        return self.start(name, sys.executable, "-c", code, *options)

    def stop(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower itself
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which ports are open")
def test_a_bundle_with_code_is_refused_and_never_executed_and_the_node_survives(
    deployment: Deployment, tmp_path: Path
) -> None:
    from flwr.cli.build import build_fab_from_disk

    folder = tmp_path / "bundle"
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "client/app.py": MARKER,
        "client/__init__.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    content = build_fab_from_disk(folder)
    bundle = tmp_path / "bundle.fab"
    bundle.write_bytes(content)
    trusted = sha256(content).hexdigest()
    homes = [tmp_path / "careful", tmp_path / "trusting"]
    with Device.init(homes[0], "correct horse") as device:
        device.teach_file(demo_folder() / "mara.json")
    shutil.copytree(homes[0], homes[1])

    server = deployment.start_server(bundle)
    careful = deployment.join("careful", homes[0])
    trusting = deployment.join("trusting", homes[1], JOIN_TRUSTING, "--allow-unmasked", trusted)
    for name in ("careful", "trusting"):
        wait_for(lambda name=name: "waiting for rounds" in deployment.said(name))
    assert listening_ports(careful.pid) == []
    assert listening_ports(os.getpid()) == []  # and the search finds one that is there:
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening_ports(os.getpid())) == 1

    wait_for(lambda: deployment.out.exists() and deployment.out.read_text(), 120)
    answers = json.loads(deployment.out.read_text())
    assert sorted(answers, key=str) == [
        {"reason": word_of(DeclineReason.UNKNOWN_BUNDLE.value), "bytes": None},
        {"reason": None, "bytes": UPDATE_BYTES},
    ]
    assert not deployment.marker.exists()
    assert re.search(rf"declined run \d+: {DeclineReason.UNKNOWN_BUNDLE.value}", deployment.said("careful"))
    assert "round 1: trained on" in deployment.said("trusting")
    notes = []
    for home in homes:
        with Device.open(home, "correct horse") as device:
            notes.append(read_outbox(device.vault))
    assert notes[0] == []
    assert [(note.sent, note.base) for note in notes[1]] == [(True, encoder_hash(load_encoder()))]

    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    wait_for(lambda: "looking for it until it is back" in deployment.said("careful"))
    deployment.start_server(bundle)
    wait_for(lambda: "again; waiting for rounds" in deployment.said("careful"))

    left = deployment.start("leave", sys.executable, "-c", JOIN, "leave", "--home", str(homes[0]))
    assert left.wait(30) == 0
    assert careful.wait(10) == 0
    trusting.send_signal(signal.SIGINT)
    assert trusting.wait(20) == 0
    for name in ("careful", "trusting"):
        assert "Traceback" not in deployment.said(name)
        assert (
            deployment.said(name).strip().endswith("left the federation; what was sent is in `palate outbox`")
        )


def test_the_marker_is_written_when_a_bundles_code_is_executed(tmp_path: Path) -> None:
    """The positive control: executing the bundle's client/app.py leaves the mark that is looked for."""
    (tmp_path / "app.py").write_text(MARKER)
    environment = {**os.environ, "MARKER": str(tmp_path / "marker")}
    subprocess.run([sys.executable, tmp_path / "app.py"], env=environment, check=True, timeout=60)
    assert (tmp_path / "marker").read_text().startswith("executed by process")
