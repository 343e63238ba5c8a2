"""A deployed server for hours: masked rounds with devices and server killed at random.

What is lost, and whether memory grows.

    python -m benchmarks.soak [--rounds 200] [--devices 20] [--kill-every 6]

Devices run in four processes with the code of `palate join`. Every few rounds one of them, or the server, is
killed outright (SIGKILL) and started again. In the end every round must be kept once and in order, and the
server's memory must be flat: the most that it had in the last quarter of its longest life over the most in
the second quarter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, print_rows
from palate.simulations.federation_demo.processes import free_port
from palate.simulations.federation_demo.story import LEARNING_RATE

COMMAND = "python -m benchmarks.soak"
ROOT = Path(__file__).parent.parent
PALATE = [sys.executable, "-c", "from palate.client.commands.cli import main; main()", "server"]
GROUPS = 4
LOST_SECONDS = 300.0  # without a round the soak has failed


@dataclass
class Soak:
    """A server's folder, its devices, and what was seen of them."""

    home: Path
    port: int
    devices: int
    kills: dict[str, int] = field(default_factory=lambda: {"device": 0, "server": 0})
    memory: list[list[int]] = field(default_factory=list)  # of each of the server's lives, at each look
    _nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _run: subprocess.Popen[bytes] | None = None

    def palate(self, *arguments: str) -> None:
        """Run a command of the server."""
        subprocess.run(
            [*PALATE, *arguments, "--home", str(self.home)], check=True, capture_output=True, timeout=120
        )

    def make_keys(self) -> None:
        """Make the keys that sign invitations.

        They end with the soak's folder, and nobody sits here to unseal them.
        """
        self.palate("key", "--unsealed")

    def start(self) -> None:
        """Start the server; a run that was cut short goes on."""
        self.palate("start", "--port", str(self.port))
        self.memory.append([])

    def nodes(self, place: int | None = None) -> None:
        """Start all groups of devices, or one of them again."""
        command = [sys.executable, "-m", "benchmarks.deployed", "--nodes", str(self.devices // GROUPS)]
        for number in range(GROUPS) if place is None else [place]:
            made = subprocess.Popen(
                [*command, f"127.0.0.1:{self.port}"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            if place is None:
                self._nodes.append(made)
            else:
                self._nodes[number] = made

    @property
    def pid(self) -> int:
        """The server's process."""
        return int(json.loads((self.home / "server.json").read_text())["pid"])

    def look(self) -> None:
        """Note how much memory the server has now."""
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            self.memory[-1].append(next(int(one.split()[1]) for one in lines if one.startswith("VmRSS")))

    def kill(self, rng: random.Random) -> None:
        """Kill the server or a group of devices, and start it again."""
        if rng.random() < 0.25:
            os.kill(self.pid, signal.SIGKILL)
            self.kills["server"] += 1
            time.sleep(rng.uniform(0, 2))
            self.start()
            return
        place = rng.randrange(GROUPS)
        self._nodes[place].kill()
        self._nodes[place].communicate()
        self.kills["device"] += 1
        time.sleep(rng.uniform(0, 2))
        self.nodes(place)

    def rounds(self) -> list[dict[str, Any]]:
        """Return the rounds that were kept."""
        with contextlib.suppress(OSError):
            return [json.loads(line) for line in (self.home / "rounds.jsonl").read_text().splitlines()]
        return []

    def end(self) -> None:
        """End all that runs."""
        for node in self._nodes:
            node.kill()
            node.communicate()
        with contextlib.suppress(subprocess.SubprocessError):
            self.palate("stop")


def soak(made: Soak, rounds: int, kill_every: int, seed: int = 1) -> Iterator[str]:
    """Run rounds on a server's folder; yield a line after each kill."""
    rng = random.Random(seed)
    made.make_keys()
    made.start()
    made.nodes()
    settings = made.home.parent / "run.toml"
    settings.write_text(
        f"server_learning_rate = {LEARNING_RATE}\nmissed_rounds = 50\nwait_seconds = 120.0\n"
        "deadline_seconds = 60.0\n[privacy]\nepsilon = 1000000.0\n"
    )
    numbers = ("--devices", str(made.devices), "--quorum", str(made.devices // 2), "--rounds", str(rounds))
    made.palate("run", *numbers, "--settings", str(settings), "--detach")
    done, last, next_kill = 0, time.monotonic(), kill_every
    while done < rounds:
        time.sleep(0.3)
        made.look()
        kept = len(made.rounds())
        if kept > done:
            done, last = kept, time.monotonic()
        if time.monotonic() - last > LOST_SECONDS:
            yield f"no round for {LOST_SECONDS:g} s after round {done}"
            return
        if next_kill <= done < rounds:
            next_kill = done + kill_every
            made.kill(rng)
            yield f"round {done}: killed so far {made.kills}"


def run(quick: bool = False, rounds: int = 200, devices: int = 20, kill_every: int = 6) -> list[Row]:
    """Measure the rows; `quick` takes 12 rounds."""
    rounds = 12 if quick else rounds
    with tempfile.TemporaryDirectory(prefix="palate-soak-") as place:
        made = Soak(Path(place) / "server", free_port(), devices)
        try:
            for line in soak(made, rounds, kill_every):
                print(line, file=sys.stderr, flush=True)
            kept, kills, memory = made.rounds(), made.kills, made.memory
        finally:
            made.end()
    in_order = [one["round"] for one in kept] == list(range(1, rounds + 1))
    counted = sum(one["counted"] for one in kept)
    longest = max(memory, key=len)
    quarter = len(longest) // 4
    growth = max(longest[-quarter:]) / max(longest[quarter : 2 * quarter]) if quarter else float("nan")
    extra = {"kills": kills, "lives": len(memory), "rss_kb": longest[:: max(1, len(longest) // 50)]}
    return [
        Row("soak: rounds kept once and in order", len(kept), f"{rounds}", in_order, COMMAND, extra),
        Row("soak: rounds with a quorum", counted, f"{rounds}", counted == rounds, COMMAND, extra),
        Row(
            "soak: memory of the server, last quarter over second",
            round(growth, 3),
            "at most 1.05",
            growth <= 1.05,
            COMMAND,
            extra,
        ),
    ]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=200)
    p.add_argument("--devices", type=int, default=20)
    p.add_argument("--kill-every", type=int, default=6, help="rounds from one kill to the next")
    a = p.parse_args()
    print_rows(run(False, a.rounds, a.devices, a.kill_every))


if __name__ == "__main__":
    main()
