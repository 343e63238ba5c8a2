"""What a deployed round takes: a server and three devices as processes on loopback, with masks and without, in turns.

    python -m benchmarks.deployed [--rounds 5]

Each device trains on a dozen labels, which takes some milliseconds; so what a round takes is what is beyond the training: polling,
Flower's messages, keys, masks, noise. The first round of each kind warms up and does not count. Last come masked rounds of 30
devices, as threads of one process that answer with the code of `palate join`: what a server on this machine can serve.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.engines import make_crowd
from benchmarks.rows import Row, print_rows
from palate.client.app import run_node
from palate.client.server_address import Server
from palate.server.metrics import read_metrics
from palate.shared.encoder import load_encoder
from palate.simulations.demo_people import choose_people, write_lessons
from palate.simulations.demo_processes import Stage, at_once
from palate.simulations.federation_demo import LEARNING_RATE, NAMES, free_port
from palate.simulations.lending import VirtualPerson

COMMAND = "python -m benchmarks.deployed"
ROOT = Path(__file__).parent.parent
CROWD = 30


def run(quick: bool = False, rounds: int | None = None) -> list[Row]:
    """Measures all rows; `quick` takes 2 rounds of each kind, and fewer devices in the last."""
    return [*run_three(quick, rounds), run_crowd(5 if quick else CROWD, 2 if quick else 4)]


def run_three(quick: bool, rounds: int | None) -> list[Row]:
    """Rounds of three devices, each a process with a vault of its own."""
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
        Row("deployed round of 3 devices without masks, seconds", round(bare, 2), "at most 2", sound and bare <= 2, COMMAND, extra),
        Row("deployed round of 3 devices with masks and noise, seconds", round(each, 2), "at most 5", sound and each <= 5, COMMAND, extra),
        Row(
            "time of a deployed round with masks over one without", round(each / bare, 2), "at most 1.5",
            sound and each <= 1.5 * bare, COMMAND, extra,
        ),
    ]  # fmt: skip


def run_crowd(devices: int, rounds: int) -> Row:
    """Masked rounds of so many devices; raises FederationError when the server does not hold them."""
    with tempfile.TemporaryDirectory(prefix="palate-deployed-") as place, Stage(Path(place)) as stage:
        port = free_port()
        stage.serve("start", "--port", str(port))
        nodes = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.deployed", "--nodes", str(devices), f"127.0.0.1:{port}"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            (Path(place) / "run.toml").write_text(
                f"server_learning_rate = {LEARNING_RATE}\n", encoding="utf-8"
            )
            numbers = ("--devices", str(devices), "--quorum", str(devices // 2), "--rounds", str(rounds))
            stage.serve("run", *numbers, "--settings", str(Path(place) / "run.toml"))
        finally:
            nodes.communicate()
        found = read_metrics(stage.server.rounds)
    seconds, used = [one["seconds"] for one in found][1:], [one["used"] for one in found]
    row = f"deployed round of {CROWD} devices with masks and noise, seconds"
    extra = {"seconds": seconds, "devices_used": used, "devices": devices}
    holds = devices == CROWD and used == [devices] * rounds
    return Row(row, round(statistics.median(seconds), 2), "all take part", holds, COMMAND, extra)


def be_nodes(count: int, address: str) -> None:
    """What `run_crowd` starts: so many devices of virtual people, until stdin is closed."""
    over, own = threading.Event(), load_encoder()

    def be(person: VirtualPerson) -> None:
        run_node(
            person,
            Server(address, insecure=True),
            tell=lambda line: None,
            keep_on=lambda: not over.is_set(),
            wait=over.wait,
        )

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
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--nodes", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.nodes is None:
        print_rows(run(False, a.rounds))
    else:
        be_nodes(int(a.nodes[0]), a.nodes[1])


if __name__ == "__main__":
    main()
