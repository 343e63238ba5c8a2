"""The deployed server, with real processes on loopback: rounds, a node killed, the server killed, and the
same bits as in one process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_fakes import Clock, FakeDevices, settings

from palate.server.checkpoints import read_checkpoint
from palate.server.metrics import read_metrics
from palate.server.rounds.run import ServerFolder, federate, read_note
from palate.server.strategy import average
from palate.shared.encoder import encoder_hash
from palate.simulations.federation_demo.certificates import make_certificates

pytest.importorskip("flwr")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX"),
]

HERE = Path(__file__).parents[1]
PALATE = [sys.executable, "-c", "from palate.client.commands.cli import main; main()", "server"]


class Deployment:
    """A server's folder and the nodes around it; everything ends with the test."""

    def __init__(self, home: Path) -> None:
        self.home, self.nodes = home, {}  # type: Path, dict[int, subprocess.Popen[bytes]]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = os.environ | {
            "PALATE_SERVER_HOME": str(home),
            "PALATE_RELEASE_PASSPHRASE": "correct horse",
            "OMP_NUM_THREADS": "1",
        }

    def palate(self, *arguments: str, status: int = 0) -> Any:
        """Run `palate server ... --json` and return what it prints."""
        done = subprocess.run(
            [*PALATE, *arguments, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == status, (done.stdout, done.stderr, self.log())
        return json.loads(done.stdout) if status == 0 else done.stderr

    def start(self, *options: str) -> int:
        return int(self.palate("start", "--port", str(self.port), *options)["pid"])

    def node(self, number: int, seconds: float = 0.0, *trusted: str) -> None:
        command = [
            sys.executable,
            str(HERE / "fake_node.py"),
            f"127.0.0.1:{self.port}",
            str(number),
            str(seconds),
            *trusted,
        ]
        with (self.home / f"node-{number}.log").open("ab") as log:
            self.nodes[number] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def until(self, found: Callable[[], bool], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not found():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def round(self) -> int:
        kept = read_metrics(self.home / "rounds.jsonl")
        return kept[-1]["round"] if kept else 0

    def joined(self, number: int, times: int = 1) -> bool:
        return (self.home / f"node-{number}.log").read_text().count("joined") >= times

    def ended(self) -> bool:
        return (self.home / "ended.json").exists()

    def round_processes(self) -> list[str]:
        """The processes that run rounds on this folder, by Linux's list."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"palate.server.processes.round_process" in words and str(self.home).encode() in words:
                    found.append(entry.name)
        return found

    def log(self) -> str:
        files = [*(self.home / "logs").glob("*.log"), *self.home.glob("node-*.log")]
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in files)

    def close(self) -> None:
        for process in self.nodes.values():
            process.kill()
            process.wait()
        with contextlib.suppress(AssertionError):
            self.palate("stop")


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path / "server")
    (tmp_path / "server").mkdir()
    try:
        yield deployment
    finally:
        deployment.close()


def in_one_process(home: Path, rounds: int) -> str:
    """The hash of the encoder that the same devices make in this process."""
    done = federate(
        FakeDevices(first=1), ServerFolder(home), settings(rounds=rounds),
        average=average, patience=Clock().patience(),
    )  # fmt: skip
    return encoder_hash(done.encoder)


def hash_of(deployed: Deployment) -> str:
    kept = read_checkpoint(deployed.home / "checkpoint.safetensors")
    assert kept is not None
    return encoder_hash(kept.encoder)


def test_processes_end_with_the_bits_of_one_process_even_if_the_server_is_killed(
    deployed: Deployment, tmp_path: Path
) -> None:
    first = deployed.start()
    for number in (1, 2, 3):
        deployed.node(number, seconds=1.0)
    deployed.palate("run", "--unmasked", "--rounds", "4", "--detach")
    deployed.until(lambda: deployed.round() >= 1)
    time.sleep(0.5)  # into the next round
    at_work = deployed.round_processes()
    os.kill(first, signal.SIGKILL)
    deployed.until(lambda: not deployed.palate("status")["running"])
    deployed.until(lambda: not deployed.round_processes(), 10)  # or two would run on one folder
    if Path("/proc/self").exists():
        assert len(at_work) == 1
    assert not deployed.ended()
    again = deployed.palate("start", "--port", str(deployed.port))
    assert again["pid"] != first
    assert again["resumed"]
    deployed.until(deployed.ended)
    assert deployed.palate("status")["round"] == 4
    assert hash_of(deployed) == in_one_process(tmp_path / "one", 4)
    assert [line["round"] for line in read_metrics(deployed.home / "rounds.jsonl")] == [1, 2, 3, 4]
    card = deployed.palate("release", "--anyway")  # what these devices answer is noise
    assert (card["release"], card["round"]) == (1, 4)
    assert list((deployed.home / "flower").iterdir()) == []


def test_a_node_that_is_killed_in_a_round_costs_its_update_and_comes_back(deployed: Deployment) -> None:
    deployed.start()
    for number in (1, 2):
        deployed.node(number, seconds=0.2)
    deployed.node(3, seconds=15.0)
    deployed.until(lambda: all(deployed.joined(number) for number in (1, 2, 3)))
    deployed.palate("run", "--unmasked", "--rounds", "1", "--deadline", "60", "--detach")
    deployed.until(lambda: read_note(deployed.home / "now.json").get("done") == 2)
    deployed.nodes[3].kill()
    deployed.nodes[3].wait()
    deployed.node(3)
    deployed.until(deployed.ended)
    deployed.until(lambda: deployed.joined(3, times=2))
    deployed.palate("run", "--unmasked", "--rounds", "2")
    lines = read_metrics(deployed.home / "rounds.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert [line["used"] for line in lines] == [2, 3, 3]
    assert [line["refused"] for line in lines] == [{"gone": 1}, {}, {}]
    assert lines[0]["seconds"] < 28  # it was not waited for until the deadline
    assert all(line["counted"] for line in lines)


def test_a_run_whose_process_is_killed_goes_on_while_somebody_follows_it(
    deployed: Deployment, tmp_path: Path
) -> None:
    deployed.start()
    for number in (1, 2, 3):
        deployed.node(number, seconds=1.0)
    command = [*PALATE, "run", "--unmasked", "--rounds", "3", "--json"]
    with subprocess.Popen(command, env=deployed.environment, stdout=subprocess.PIPE) as following:
        deployed.until(lambda: deployed.round() >= 1)
        (process,) = deployed.round_processes()
        os.kill(int(process), signal.SIGKILL)
        said, _ = following.communicate(timeout=120)
    assert following.returncode == 0, deployed.log()
    assert json.loads(said)["round"] == 3
    assert hash_of(deployed) == in_one_process(tmp_path / "one", 3)


def test_too_few_devices_end_a_deployed_run_in_one_line(deployed: Deployment) -> None:
    deployed.start()
    deployed.node(1)
    said = deployed.palate("run", "--unmasked", "--wait", "3", status=1)
    assert said.splitlines()[-1].startswith("palate: 1 of at least 2 devices were connected after 3 s")
    assert deployed.palate("status")["run_up_to"] is None
    logged = (deployed.home / "logs" / "runs.log").read_text()
    assert "the run ended: 1 of at least 2 devices" in logged
    assert "Traceback" not in logged
    again = deployed.palate("start", "--port", str(deployed.port), status=1)
    assert "already" in again


def test_a_second_run_waits_its_turn_and_a_run_can_be_dropped(deployed: Deployment) -> None:
    deployed.start()
    deployed.palate("run", "--unmasked", "--detach", "--wait", "300")
    assert "is at work" in deployed.palate("run", "--unmasked", "--detach", status=1)
    assert deployed.palate("stop", "--run") == {"stopped": True}
    assert deployed.palate("stop") == {"stopped": True}
    assert deployed.palate("status")["running"] is False


def test_a_server_with_certificates_runs_rounds_over_tls(deployed: Deployment, tmp_path: Path) -> None:
    make_certificates(tmp_path / "tls")
    deployed.start("--tls", str(tmp_path / "tls"))
    for number in (1, 2, 3):
        deployed.node(number, 0.0, str(tmp_path / "tls" / "ca.crt"))
    assert deployed.palate("run", "--unmasked", "--rounds", "1")["last"]["used"] == 3
    assert hash_of(deployed) == in_one_process(tmp_path / "one", 1)
    with socket.create_connection(("127.0.0.1", deployed.port)) as plain:
        plain.settimeout(10)
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 200")
