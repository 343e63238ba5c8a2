"""A federation of virtual people under Flower's own simulation engine, Ray, which can use many machines.

Where it stands in the flow: beside `engine.InProcessGrid`, with the same ServerApp and the same ClientApp. Ray brings processes of
its own, so people reach them through a folder (`virtual_people`) and the server keeps its folder as on a real server.

Flower numbers its nodes by chance there, and cohorts are drawn by number: a cohort smaller than the population holds other people
in each run. Where everybody is asked, the result is that of the engine in one process but for the last bits (a test says so).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from palate.client.federation.local_training import Labels
from palate.server.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from palate.server.metrics import read_metrics
from palate.server.rounds.run import ServerFolder, read_note
from palate.server.settings import RunSettings
from palate.shared.encoder import EncoderWeights, load_encoder
from palate.shared.errors import FederationError, OptionError
from palate.simulations.engine.virtual_people import POPULATION_VARIABLE, write_population

POLL_SECONDS = 0.2
HOME_VARIABLE = "PALATE_SERVER_HOME"  # as in `server.app`, which imports Flower

_CHILD = """
import sys
from palate.server.settings import RunSettings
from palate.simulations.engine.in_process import simulate_on_ray
simulate_on_ray(int(sys.argv[1]), RunSettings.from_json(sys.argv[2]), int(sys.argv[3]))
"""


def run_on_ray(
    people: Sequence[Labels],
    settings: RunSettings,
    home: Path,
    *,
    own: EncoderWeights | None = None,
    workers: int | None = None,
    on_round: Callable[[int], None] = lambda done: None,
) -> Checkpoint:
    """Run the federation of these people and returns where it ended; like a server it goes on from what `home` holds.

    Devices are trained in `workers` processes, one for each core by default. `home` becomes the server's folder, with the
    population in it; on a cluster it must be a place that all machines see. `own` is the release that everybody has installed and
    that the first round starts from. `on_round` is told the number of each round that is over. Ray's output lies in
    `home/logs/ray.log`. Raises FederationError with the line that the run ended with, and StorageError.
    """
    workers = workers or os.cpu_count() or 1
    if workers < 1:
        raise OptionError(f"workers is {workers}; it must be at least 1")
    release = load_encoder() if own is None else own
    folder = ServerFolder(home.absolute())
    population, log = folder.home / "population", folder.home / "logs" / "ray.log"
    write_population(population, people, release)
    if read_checkpoint(folder.checkpoint) is None:
        write_checkpoint(folder.checkpoint, Checkpoint(0, release, settings))
    folder.ended.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    # Ray's workers import from the working directory before anything else, so it is an empty one.
    with tempfile.TemporaryDirectory(prefix="palate-ray-") as empty, log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(len(people)), settings.to_json(), str(workers)],
            cwd=empty,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                HOME_VARIABLE: str(folder.home),
                POPULATION_VARIABLE: str(population),
                "FLWR_HOME": empty,
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
        )
        try:
            told = 0
            while child.poll() is None:
                time.sleep(POLL_SECONDS)
                told = _tell(folder, told, on_round)
            _tell(folder, told, on_round)
        finally:
            child.terminate()
            child.wait()
    end = read_note(folder.ended)
    state = read_checkpoint(folder.checkpoint)
    if end.get("ended") != "finished" or state is None:
        raise FederationError(
            end.get("reason") or f"Flower's simulation engine ended without a result; see {log}"
        )
    return state


def _tell(folder: ServerFolder, told: int, on_round: Callable[[int], None]) -> int:
    done = max((int(line["round"]) for line in read_metrics(folder.rounds)), default=0)
    for number in range(told + 1, done + 1):
        on_round(number)
    return max(told, done)
