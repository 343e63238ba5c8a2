"""Our federated reconstruction under Flower 1.42's simulation engine, as its users would write it.

`benchmarks.engines` runs this.

    python -m benchmarks.engines_flower POPULATION SETTINGS OUT

A ClientApp that trains the encoder which it is sent and returns it, a ServerApp with Flower's FedAvg and its
`start`, Ray with a worker for each core. Training is that of a device, `train_locally`. Two things are ours:
who is asked is drawn as our server draws it, and everybody counts the same; so the weights must come out
equal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import save_file

from palate.client.federation.local_training import train_locally
from palate.server.rounds.loop import choose_cohort, derive_seed
from palate.server.settings import RunSettings
from palate.shared.encoder import SHARED_SHAPES, load_encoder
from palate.simulations.engine.in_process import FIRST_NODE
from palate.simulations.engine.virtual_people import (
    POPULATION_VARIABLE,
    VirtualPerson,
    population_size,
    read_person,
)

SETTINGS_VARIABLE = "PALATE_BENCHMARK_SETTINGS"

client = ClientApp()


@lru_cache(maxsize=1024)
def person_of(number: int) -> VirtualPerson:
    """Return a person of the population that the environment names; each worker reads everybody once."""
    folder = Path(os.environ[POPULATION_VARIABLE])
    return read_person(folder, number, population_size(folder))


@lru_cache(maxsize=1)
def told_settings() -> RunSettings:
    """Return the run's settings, which the environment holds."""
    return RunSettings.from_json(os.environ[SETTINGS_VARIABLE])


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the encoder on one person's labels and return it."""
    number, settings = int(str(context.node_config["partition-id"])), told_settings()
    round_ = int(str(message.content["config"]["server-round"]))
    person = person_of(number)
    state = message.content["arrays"].to_torch_state_dict()
    encoder = person.own.with_shared({name: tensor.numpy() for name, tensor in state.items()})
    seed = derive_seed(settings.seed, round_)
    update = train_locally(encoder, person.labels, settings.local, round=round_, seed=seed)
    for name, change in update.tensors.items():
        state[name] += torch.from_numpy(change.copy())
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)


@client.query()
def tell_number(message: Message, context: Context) -> Message:
    """Tell who is behind a node."""
    told = ConfigRecord({"number": int(str(context.node_config["partition-id"]))})
    return Message(RecordDict({"who": told}), reply_to=message)


class Chosen(FedAvg):
    """FedAvg, whose cohorts are those of our server, and which notes when each round ended."""

    def __init__(self, settings: RunSettings, people: int) -> None:
        """Ask as many of so many people in a round as the settings say; nothing is evaluated."""
        super().__init__(
            fraction_train=settings.devices / people, fraction_evaluate=0.0, min_available_nodes=people
        )
        self._settings, self._people = settings, people
        self._nodes: dict[int, int] = {}  # by who is behind them
        self.ends: list[float] = []

    def find_people(self, grid: Grid) -> None:
        """Ask every node once who is behind it: Flower numbers nodes by chance."""
        while len(nodes := list(grid.get_node_ids())) < self._people:
            time.sleep(0.1)
        replies = grid.send_and_receive([Message(RecordDict(), node, MessageType.QUERY) for node in nodes])
        self._nodes = {int(str(r.content["who"]["number"])): r.metadata.src_node_id for r in replies}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, _grid: Grid
    ) -> Iterable[Message]:
        """Configure a round as FedAvg does, for the nodes of our cohort."""
        everybody = range(FIRST_NODE, FIRST_NODE + self._people)
        cohort = choose_cohort(everybody, self._settings.asked, self._settings.seed, server_round)
        config["server-round"] = server_round
        record = RecordDict({"arrays": arrays, "config": config})
        return [Message(record, self._nodes[node - FIRST_NODE], MessageType.TRAIN) for node in cohort]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as FedAvg does; raises RuntimeError unless all have answered."""
        there = list(replies)
        if len(there) != self._settings.devices or any(one.has_error() for one in there):
            raise RuntimeError(
                f"{len(there)} of {self._settings.devices} have answered, or some with an error"
            )
        found = super().aggregate_train(server_round, there)
        self.ends.append(time.perf_counter())
        return found


def main(population: Path, settings: RunSettings, out: Path) -> None:
    """Run all rounds and write weights and the seconds of each round after the first."""
    os.environ[POPULATION_VARIABLE], os.environ[SETTINGS_VARIABLE] = str(population), settings.to_json()
    people = population_size(population)
    strategy, server = Chosen(settings, people), ServerApp()

    @server.main()
    def serve(grid: Grid, _: Context) -> None:
        strategy.find_people(grid)
        shared = {name: torch.from_numpy(array) for name, array in load_encoder().shared().items()}
        result = strategy.start(grid, ArrayRecord(shared), settings.rounds)
        state = result.arrays.to_torch_state_dict()
        save_file({name: state[name].contiguous() for name in SHARED_SHAPES}, out)

    workers = os.cpu_count() or 1
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": workers}}
    run_simulation(server, client, people, backend_config=resources)
    print(json.dumps([after - before for before, after in pairwise(strategy.ends)]))


if __name__ == "__main__":
    # By its name, not as the program: Ray's workers must find one and the same module.
    from benchmarks import engines_flower

    logging.disable(logging.CRITICAL)
    engines_flower.main(Path(sys.argv[1]), RunSettings.from_json(sys.argv[2]), Path(sys.argv[3]))
