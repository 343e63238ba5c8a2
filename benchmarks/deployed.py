"""What a deployed round takes.

A server and three devices as processes on loopback, with masks and without, in turns.

    python -m benchmarks.deployed [--rounds 5] [--crowd 100 --processes 4]

Each device trains on a dozen labels, which takes some milliseconds; so what a round takes is what is beyond
the training: waiting, Flower's messages, keys, masks, noise. The first round of each kind warms up and does
not count. Then come masked rounds of 30 devices in one process and of 100 in four, as threads that answer
with the code of `palate join`: what a server on this machine can serve, and what a round takes of the
processor, for each device, at the server and at the devices. `--crowd` measures one such crowd alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import make_crowd
from benchmarks.processor import Accounts, descendants
from benchmarks.rows import Row, print_rows
from palate.client.federation.app import run_node
from palate.client.federation.server_address import Server
from palate.server.metrics import read_metrics
from palate.server.rounds.run import read_note
from palate.shared.encoder import load_encoder
from palate.shared.errors import FederationError
from palate.simulations.engine.virtual_people import VirtualPerson
from palate.simulations.federation_demo.people import choose_people, write_lessons
from palate.simulations.federation_demo.processes import Stage, at_once, free_port
from palate.simulations.federation_demo.story import LEARNING_RATE, NAMES

COMMAND = "python -m benchmarks.deployed"
ROOT = Path(__file__).parent.parent
CROWDS = ((30, 1, 3.0), (100, 4, 10.0))
"""Devices, their processes, and the seconds that a round may take."""

SERVER_SECONDS = (
    0.012  # of the server's processor, without the process that runs the rounds, for each device and round
)
START_SECONDS, ROUND_SECONDS = 300.0, 180.0


def run(quick: bool = False, rounds: int | None = None) -> list[Row]:
    """Measures all rows; `quick` takes 2 rounds of each kind, and one crowd of 5 devices."""
    crowds = [(5, 2, 3.0)] if quick else CROWDS
    rows = [row for crowd in crowds for row in run_crowd(*crowd, 2 if quick else rounds or 5)]
    return [*run_three(quick, rounds), *rows]


def run_three(quick: bool, rounds: int | None) -> list[Row]:
    """Round of three devices, each a process with a vault of its own."""
    count = rounds if rounds is not None else 2 if quick else 5
    with tempfile.TemporaryDirectory(prefix="palate-deployed-") as place, Stage(Path(place)) as stage:
        port = free_port()
        stage.serve("start", "--port", str(port))
        at_once(*(lambda place=place: _teach(stage, place) for place in range(len(NAMES))))
        for node in stage.nodes:
            stage.join(node, f"127.0.0.1:{port}", extra=("--allow-unmasked", "--rounds-a-day", "1000"))
        stage.until("all devices have joined", lambda: all(node.joined() for node in stage.nodes))
        (Path(place) / "run.toml").write_text(f"server_learning_rate = {LEARNING_RATE}\n", encoding="utf-8")
        usual = ("--devices", "3", "--quorum", "2", "--settings", str(Path(place) / "run.toml"))
        for _ in range(count + 1):
            stage.serve("run", "--rounds", "1", *usual, "--unmasked")
            stage.serve("run", "--rounds", "1", *usual)
        found = read_metrics(stage.server.rounds)
    masked = [one["seconds"] for one in found if one.get("masked")][1:]
    plain = [one["seconds"] for one in found if not one.get("masked")][1:]
    used = {one["used"] for one in found}
    extra: dict[str, Any] = {"masked": masked, "unmasked": plain, "devices_used": sorted(used)}
    each, bare = statistics.median(masked), statistics.median(plain)
    sound = used == {len(NAMES)}
    return [
        Row(
            "deployed round of 3 devices without masks, seconds",
            round(bare, 2),
            "at most 2",
            sound and bare <= 2,
            COMMAND,
            extra,
        ),
        Row(
            "deployed round of 3 devices with masks and noise, seconds",
            round(each, 2),
            "at most .8",
            sound and each <= 0.8,
            COMMAND,
            extra,
        ),
        Row(
            "time of a deployed round with masks over one without",
            round(each / bare, 2),
            "at most 1.5",
            sound and each <= 1.5 * bare,
            COMMAND,
            extra,
        ),
    ]


def run_crowd(devices: int, processes: int, bar: float, rounds: int) -> list[Row]:
    """Masked rounds of so many devices in several processes.

    Raises FederationError when the server does not hold them.
    """
    command = f"{COMMAND} --crowd {devices} --processes {processes}"
    with tempfile.TemporaryDirectory(prefix="palate-deployed-") as place, Stage(Path(place)) as stage:
        port = free_port()
        stage.serve("start", "--port", str(port))
        shares = [len(range(part, devices, processes)) for part in range(processes)]
        nodes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.deployed", "--nodes", str(count), f"127.0.0.1:{port}"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for count in shares
        ]
        server = int(read_note(stage.server.home / "server.json")["pid"])
        try:
            (Path(place) / "run.toml").write_text(
                f"server_learning_rate = {LEARNING_RATE}\n", encoding="utf-8"
            )
            numbers = ("--devices", str(devices), "--quorum", str(devices // 2), "--rounds", str(rounds))
            with Accounts(
                lambda: by_kind(server, [node.pid for node in nodes]),
                lambda: len(read_metrics(stage.server.rounds)),
            ) as accounts:
                stage.serve(
                    "run",
                    "--detach",
                    "--wait",
                    f"{START_SECONDS:g}",
                    *numbers,
                    "--settings",
                    str(Path(place) / "run.toml"),
                )
                stage.until(
                    "the run has ended",
                    lambda: stage.how_run_ended() is not None,
                    START_SECONDS + rounds * ROUND_SECONDS,
                )
        finally:
            for node in nodes:
                node.communicate()
        found = read_metrics(stage.server.rounds)
    seconds, used = [round(one["seconds"], 2) for one in found], [one["used"] for one in found]
    each = {kind: round(spent / devices, 4) for kind, spent in accounts.per_round().items()}
    lost = rounds - sum(one > 0 for one in used)
    extra = {
        "devices": devices,
        "processes": processes,
        "seconds": seconds[1:],
        "devices_used": used,
        "lost": lost,
        "processor_seconds_for_a_device_and_round": each,
        "load": round(os.getloadavg()[0], 1),
    }
    middle = statistics.median(seconds[1:]) if seconds[1:] else 0.0
    whole = used == [devices] * rounds
    what = f"deployed round of {devices} devices with masks and noise"
    return [
        Row(
            f"{what}, seconds",
            round(middle, 2),
            f"at most {bar:g}, all take part",
            whole and middle <= bar,
            command,
            extra,
        ),
        Row(
            f"{what}: processor seconds of the server's own process for each device",
            each.get("server", 0.0),
            f"at most {SERVER_SECONDS}",
            whole and 0 < each.get("server", 0.0) <= SERVER_SECONDS,
            command,
            each,
        ),
    ]


def by_kind(server: int, nodes: Sequence[int]) -> dict[str, list[int]]:
    """Return the processes at work.

    The server's own, the one that runs the rounds, what else the server started, the devices'.
    """
    found: dict[str, list[int]] = {"server": [server], "rounds": [], "other": [], "devices": [*nodes]}
    for process, line in descendants(server).items():
        rounds = "round_process" in line or "flwr-serverapp" in line
        found["rounds" if rounds else "other"].append(process)
    return found


def be_nodes(count: int, address: str) -> None:
    """Run so many devices of virtual people until stdin is closed: what `run_crowd` starts."""
    over, own = threading.Event(), load_encoder()

    def be(person: VirtualPerson) -> None:
        while not over.is_set():
            with contextlib.suppress(
                FederationError
            ):  # no server yet, as where it is just being started again
                run_node(
                    person,
                    Server(address, insecure=True),
                    tell=lambda _: None,
                    keep_on=lambda: not over.is_set(),
                    wait=over.wait,
                )
            over.wait(1.0)

    threads = [
        threading.Thread(target=be, args=(VirtualPerson(labels, own),)) for labels in make_crowd(count, 1)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


def _teach(stage: Stage, place: int) -> None:
    node = stage.add(NAMES[place], f"benchmark {place} passphrase")
    lessons = write_lessons(choose_people(len(NAMES))[place], place, stage.folder / "people" / node.name)
    stage.palate("teach", "--from", str(lessons), "--home", str(node.home), "--json", node=node)


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--crowd", type=int, help="measure masked rounds of so many devices alone")
    p.add_argument("--processes", type=int, default=1, help="processes that these devices share")
    p.add_argument("--nodes", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.nodes is not None:
        be_nodes(int(a.nodes[0]), a.nodes[1])
    elif a.crowd is not None:
        print_rows(run_crowd(a.crowd, a.processes, a.crowd / 10, a.rounds))
    else:
        print_rows(run(False, a.rounds))


if __name__ == "__main__":
    main()
