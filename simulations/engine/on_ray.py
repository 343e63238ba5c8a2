"""A federation of virtual people under Flower's own simulation engine, Ray, which can use many machines.

Where it stands in the flow: next to `in_process`, with the same ServerApp and ClientApp. Ray starts processes
of its own, so people reach them through a folder (`virtual_people`), and the server keeps its folder as on a
real server.

Flower numbers its nodes at random there, and cohorts are drawn by number. So a cohort smaller than the
population holds other people in each run. Where everybody takes part, the result is that of the engine in one
process up to the last bits (a test).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
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
LONGEST_SECONDS = 86_400.0
HOME_VARIABLE = "PALATE_SERVER_HOME"  # as in `server.app`, which imports Flower

_CHILD = """
import sys
from palate.server.settings import RunSettings
from palate.simulations.engine.on_ray import simulate_on_ray
simulate_on_ray(int(sys.argv[1]), RunSettings.from_json(sys.argv[2]), int(sys.argv[3]))
"""


def run_on_ray(
    people: Sequence[Labels],
    settings: RunSettings,
    home: Path,
    *,
    own: EncoderWeights | None = None,
    workers: int | None = None,
    on_round: Callable[[int], None] = lambda _: None,
) -> Checkpoint:
    """Run the federation of these people and return where it ended; go on from what `home` holds.

    Args:
        people: their labels.
        settings: those of the run.
        home: the server's folder. The population and Ray's output (`logs/ray.log`) lie in it too; on a
            cluster, all machines must see it.
        own: the release that every device has installed and that the first round starts from; the shipped one
            by default.
        workers: processes that train, one for each core by default.
        on_round: called with the number of each round that is over.

    Raises:
        FederationError: the run ended without a result; the message is its last line.
        OptionError: `workers` is below 1.
        StorageError: the folder cannot be written.
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


def simulate_on_ray(people: int, settings: RunSettings, workers: int) -> None:
    """Run our two apps under Flower's simulation engine, in a process that `run_on_ray` started for it.

    The environment names the population and the server's folder.
    """
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    from palate.client.federation.app import app as client_app
    from palate.server.app import app as server_app

    # No device is late in a simulation: each waits for its turn, the first ones until Ray has started.
    settings = replace(settings, deadline_seconds=LONGEST_SECONDS)
    told = ServerApp()

    @told.main()
    def main(grid: Grid, context: Context) -> None:
        # Flower's function has no parameter for a run's configuration.
        run_config: dict[str, str | int | float | bool] = {"settings": settings.to_json()}
        server_app(
            grid, Context(context.run_id, context.node_id, context.node_config, context.state, run_config)
        )

    run_simulation(
        told,
        client_app,
        people,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": workers},
        },
    )
