"""The node as a real process against a real SuperLink: a bundle that brings code along, a restart of the server, the end."""

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
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from palate.client.device import Device
from palate.client.outbox import read_outbox
from palate.client.showcase import demo_folder
from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.reasons import Reason
from palate.shared.wire import UPDATE_BYTES

pytestmark = pytest.mark.slow

PROGRAMS = Path(sys.executable).parent
JOIN = "import sys; from palate.client.cli import main; sys.argv[0] = 'palate'; main()"
# Somebody whose device takes the bundle for a known one: even then nothing of it is executed.
JOIN_TRUSTING = "import sys; from palate.client import app; trusted = sys.argv.pop()\n"
JOIN_TRUSTING += "app.known_hashes = lambda: frozenset({trusted})\n" + JOIN

PYPROJECT = """
[project]
name = "bundle"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "probe.server:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
out = ""
"""
MARKER = """
import os
open(os.environ["MARKER"], "a").write("executed by process %d\\n" % os.getpid())
from flwr.clientapp import ClientApp
app = ClientApp()
"""
SERVER = """
import json, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from palate.server.inviting import passing_signer
from palate.shared.encoder import load_encoder
from palate.shared.update import LocalSettings
from palate.shared.wire import Task, encode_task
app = ServerApp()
@app.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    wire = passing_signer()(
        encode_task(Task.for_encoder(load_encoder(), round=1, settings=LocalSettings(steps=1), seed=5))
    )
    content = RecordDict({"palate": ConfigRecord({"wire": wire})})
    waiting = set(grid.push_messages([Message(content, n, "train", ttl=90) for n in grid.get_node_ids()]))
    found = []
    until = time.monotonic() + 80
    while waiting and time.monotonic() < until:
        for reply in grid.pull_messages(waiting):
            waiting.discard(reply.metadata.reply_to_message_id)
            size = None if reply.has_error() else len(reply.content["palate"]["wire"])
            found.append({"error": reply.error.reason if reply.has_error() else None, "bytes": size})
        time.sleep(0.1)
    with open(context.run_config["out"], "w") as file:
        json.dump(found, file)
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
    """A SuperLink and device nodes on loopback, all ended at the end."""

    def __init__(self, place: Path) -> None:
        self.place, self.marker, self.out = place, place / "marker", place / "out.json"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.running: list[subprocess.Popen[bytes]] = []
        flower = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(place / "flwr"),
        }
        flower["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
        mine = {"MARKER": str(self.marker), "PALATE_PASSPHRASE": "correct horse", "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **flower, **mine, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        for name in ("flwr", "empty"):
            (place / name).mkdir()
        config = (
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{self.address}"\ninsecure = true\n'
        )
        (place / "flwr" / "config.toml").write_text(config)

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

    def start_server(self) -> subprocess.Popen[bytes]:
        host, _, port = self.address.partition(":")
        flags = ["--insecure", "--host", host, "--port", port, "--database", str(self.place / "link.db")]
        link = self.start("link", "flower-superlink", *flags, "--disable-runtime-dependency-installation")
        wait_for(self.is_healthy)
        return link

    def is_healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://{self.address}/health", timeout=2).status == 200)
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

    bundle = tmp_path / "bundle"
    for name, text in {
        "pyproject.toml": PYPROJECT,
        "client/app.py": MARKER,
        "probe/server.py": SERVER,
    }.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text)
    for package in ("client", "probe"):
        (bundle / package / "__init__.py").write_text("")
    from hashlib import sha256

    trusted = sha256(build_fab_from_disk(bundle)).hexdigest()
    homes = [tmp_path / "careful", tmp_path / "trusting"]
    with Device.init(homes[0], "correct horse") as device:
        device.teach_file(demo_folder() / "mara.json")
    shutil.copytree(homes[0], homes[1])

    link = deployment.start_server()
    careful = deployment.join("careful", homes[0])
    trusting = deployment.join("trusting", homes[1], JOIN_TRUSTING, "--allow-unmasked", trusted)
    for name in ("careful", "trusting"):
        wait_for(lambda name=name: "waiting for rounds" in deployment.said(name))
    assert listening_ports(careful.pid) == []
    assert listening_ports(os.getpid()) == []  # and the search finds one that is there:
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening_ports(os.getpid())) == 1

    run = deployment.start("run", "flwr", "run", str(bundle), "here", "-c", f'out="{deployment.out}"')
    assert run.wait(60) == 0, deployment.said("run")
    wait_for(lambda: deployment.out.exists() and deployment.out.read_text(), 120)
    answers = json.loads(deployment.out.read_text())
    assert sorted(answers, key=str) == [
        {"error": Reason.UNKNOWN_BUNDLE.value, "bytes": None},
        {"error": None, "bytes": UPDATE_BYTES},
    ]
    assert not deployment.marker.exists()
    assert re.search(rf"declined run \d+: {Reason.UNKNOWN_BUNDLE.value}", deployment.said("careful"))
    assert "round 1: trained on" in deployment.said("trusting")
    notes = []
    for home in homes:
        with Device.open(home, "correct horse") as device:
            notes.append(read_outbox(device.vault))
    assert notes[0] == []
    assert [(note.sent, note.base) for note in notes[1]] == [(True, encoder_hash(load_encoder()))]

    os.killpg(link.pid, signal.SIGKILL)
    link.wait()
    wait_for(lambda: "looking for it until it is back" in deployment.said("careful"))
    deployment.start_server()
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
    """The positive control: whoever executes the bundle's client/app.py leaves the mark that is looked for."""
    (tmp_path / "app.py").write_text(MARKER)
    environment = {**os.environ, "MARKER": str(tmp_path / "marker")}
    subprocess.run([sys.executable, tmp_path / "app.py"], env=environment, check=True, timeout=60)
    assert (tmp_path / "marker").read_text().startswith("executed by process")
