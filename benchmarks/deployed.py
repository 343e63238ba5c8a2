"""What a deployed round takes: a server and three devices as processes on loopback, with masks and without, in turns.

    python -m benchmarks.deployed [--rounds 5]

Each device trains on a dozen labels, which takes some milliseconds; so what a round takes is what is beyond the training: polling,
Flower's messages, keys, masks, noise. The first round of each kind warms up and does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, print_rows
from palate.server.metrics import read_metrics
from palate.simulations.demo_people import choose_people, write_lessons
from palate.simulations.demo_processes import Stage, at_once
from palate.simulations.federation_demo import LEARNING_RATE, NAMES, free_port

COMMAND = "python -m benchmarks.deployed"


def run(quick: bool = False, rounds: int | None = None) -> list[Row]:
    """Measures both rows; `quick` takes 2 rounds of each kind."""
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


def _teach(stage: Stage, place: int) -> None:
    node = stage.add(NAMES[place], f"benchmark {place} passphrase")
    lessons = write_lessons(choose_people(len(NAMES))[place], place, stage.folder / "people" / node.name)
    stage.palate("teach", "--from", str(lessons), "--home", str(node.home), "--json", node=node)


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    print_rows(run(False, p.parse_args().rounds))


if __name__ == "__main__":
    main()
