"""The deployed server, with real processes on loopback: rounds, a node killed, the server killed, and the same bits as in one process."""

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
from palate.server.federation import ServerFolder, federate
from palate.server.metrics import read_metrics
from palate.server.strategy import average
from palate.shared.encoder import encoder_hash

pytest.importorskip("flwr")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX"),
]

HERE = Path(__file__).parent
PALATE = [sys.executable, "-c", "from palate.client.cli import main; main()", "server"]


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

    def ended(self) -> bool:
        return (self.home / "ended.json").exists()

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
        average=average, patience=Clock().patience(), tensorboard=False,
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
    os.kill(first, signal.SIGKILL)
    deployed.until(lambda: not deployed.palate("status")["running"])
    assert not deployed.ended()
    assert deployed.start() != first
    assert deployed.palate("status")["run_up_to"] == 4
    deployed.until(deployed.ended)
    assert deployed.palate("status")["round"] == 4
    assert hash_of(deployed) == in_one_process(tmp_path / "one", 4)
    assert [line["round"] for line in read_metrics(deployed.home / "rounds.jsonl")] == [1, 2, 3, 4]
    card = deployed.palate("release")
    assert (card["release"], card["round"]) == (1, 4)
    assert list((deployed.home / "flower" / "work").iterdir()) == []


def test_a_node_that_is_killed_in_a_round_costs_its_update_and_comes_back(deployed: Deployment) -> None:
    deployed.start()
    for number in (1, 2):
        deployed.node(number, seconds=0.2)
    deployed.node(3, seconds=5.0)
    deployed.until(lambda: len(list(deployed.home.glob("node-*.log"))) == 3)
    deployed.palate("run", "--unmasked", "--rounds", "4", "--deadline", "12", "--detach")
    deployed.until(lambda: deployed.palate("status")["now"].get("done") == 2)
    deployed.nodes[3].kill()
    deployed.nodes[3].wait()
    deployed.node(3)
    deployed.until(deployed.ended)
    lines = read_metrics(deployed.home / "rounds.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["used"] == 2
    assert set(lines[0]["refused"]) <= {"late", "gone"}
    assert lines[0]["seconds"] < 13
    assert all(line["counted"] for line in lines)
    assert lines[-1]["used"] == 3


def test_too_few_devices_end_a_deployed_run_in_one_line(deployed: Deployment) -> None:
    deployed.start()
    deployed.node(1)
    said = deployed.palate("run", "--unmasked", "--wait", "3", status=1)
    assert said.splitlines()[-1].startswith("palate: 1 of at least 2 devices were connected after 3 s")
    assert deployed.palate("status")["run_up_to"] is None
    again = deployed.palate("start", "--port", str(deployed.port), status=1)
    assert "already" in again


def test_a_second_run_waits_its_turn_and_a_run_can_be_dropped(deployed: Deployment) -> None:
    deployed.start()
    deployed.palate("run", "--unmasked", "--detach", "--wait", "300")
    assert "is at work" in deployed.palate("run", "--unmasked", "--detach", status=1)
    assert deployed.palate("stop", "--run") == {"stopped": True}
    assert deployed.palate("stop") == {"stopped": True}
    assert deployed.palate("status")["running"] is False


def make_certificates(folder: Path) -> None:
    """A root and a server's certificate for loopback, as whoever runs a server makes them."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("root", "server")]

    def certificate(number: int, extension: x509.ExtensionType) -> bytes:
        return (
            x509.CertificateBuilder(names[0], names[number], keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=number == 0)
            .sign(keys[0], hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificate(0, x509.BasicConstraints(ca=True, path_length=None)))
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    (folder / "server.pem").write_bytes(certificate(1, here))
    key = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(key)


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
