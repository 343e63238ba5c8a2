"""Our federated reconstruction under Apple's pfl 0.6, as its users would write it.

`benchmarks.engines` runs this in pfl's environment.

    python -m benchmarks.engines_pfl POPULATION SETTINGS OUT

pfl trains one person after the other on one model whose weights it copies in place. The loss is the one of
`palate.client.federation.local_training`, the draws are the same, full batches, plain averaging; so the
weights must come out equal.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from safetensors.torch import save_file
from torch import Tensor, nn

from palate.client.federation import local_training
from palate.server.rounds.loop import derive_seed
from palate.server.settings import RunSettings
from palate.shared.encoder import HIDDEN, PICTURE_FEATURES, SENTENCE_FEATURES, TASTE, EncoderWeights
from palate.simulations.engine.virtual_people import population_size, read_person

NAMES = {
    "hidden.weight": "picture.hidden.weight",
    "hidden.bias": "picture.hidden.bias",
    "taste.weight": "picture.taste.weight",
    "taste.bias": "picture.taste.bias",
    "sentence.weight": "sentence.taste.weight",
    "sentence.bias": "sentence.taste.bias",
}


class Encoder(nn.Module):
    """The encoder and the loss of one person's labels."""

    def __init__(self, encoder: EncoderWeights, alignment: float) -> None:
        """Begin at a release."""
        super().__init__()
        self.hidden = nn.Linear(PICTURE_FEATURES, HIDDEN)
        self.taste = nn.Linear(HIDDEN, TASTE)
        self.sentence = nn.Linear(SENTENCE_FEATURES, TASTE)
        self.load_state_dict({name: torch.tensor(encoder.tensors[ours]) for name, ours in NAMES.items()})
        self.alignment = alignment
        self.mean, self.covariance = local_training._head_prior(encoder)

    def loss(self, support: Tensor, x: Tensor, liked: Tensor, phrases: Tensor, spoken: Tensor) -> Tensor:
        """Return one step's loss; each argument comes as a batch of one."""
        support, x, liked, phrases, spoken = support[0], x[0], liked[0].double(), phrases[0], spoken[0]
        tastes = self.taste(F.relu(self.hidden(x)))
        inputs = F.pad(torch.sigmoid(tastes).double(), (0, 1), value=1.0)
        fitted = support == 1
        known, usual = inputs[fitted], inputs @ self.mean
        spread = known @ self.covariance
        kernel = spread @ known.T + local_training.HEAD_NOISE * torch.eye(len(known), dtype=known.dtype)
        target = local_training.VERDICT * (2 * liked[fitted] - 1) - usual[fitted]
        logits = usual + inputs @ (spread.T @ torch.linalg.solve(kernel, target))
        loss = F.binary_cross_entropy_with_logits(logits[~fitted], liked[~fitted]).float()
        said = self.sentence(phrases)
        near = (said / (said.norm(dim=1, keepdim=True) + 1e-6)) @ tastes.T
        missed = -torch.diagonal(F.log_softmax(near, 1))
        return loss + self.alignment * (missed * spoken).sum() / (spoken.sum() + 1e-6)

    def metrics(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing is evaluated."""
        return {}


class Clock(TrainingProcessCallback):  # type: ignore[misc]
    """Notes when each round ended."""

    def __init__(self) -> None:
        """Begin without a round."""
        self.ends: list[float] = []

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        """Let pfl go on after each round."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def main(population: Path, settings: RunSettings, out: Path) -> None:
    """Run all rounds, everybody in each, and write weights and the seconds of each round after the first."""
    count = population_size(population)
    people = [read_person(population, number, count) for number in range(count)]
    release = people[0].own
    network = Encoder(release, settings.local.alignment)
    asked = 0

    def next_person() -> int:
        nonlocal asked
        asked += 1
        return asked - 1

    def labels_of(turn: int) -> Dataset:
        number, round_ = turn % count, turn // count + 1
        seed = derive_seed(settings.seed, round_)
        batch = local_training._prepare(release, [people[number].labels], settings.local, [seed])
        steps = settings.local.steps  # a row of the data set is a step: its own support, and the same labels
        rest = (
            batch[name].expand(steps, *batch[name].shape[1:]) for name in ("x", "liked", "phrases", "spoken")
        )
        return Dataset(raw_data=[batch["support"][:, 0], *rest], user_id=str(number))

    clock = Clock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=settings.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=count,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(
            training_data=FederatedDataset(labels_of, next_person),
            val_data=None,
            postprocessors=[WeightByUser()],
        ),
        model=PyTorchModel(
            model=network,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(network.parameters(), 1.0),
        ),
        model_train_params=NNTrainHyperParams(
            local_learning_rate=settings.local.learning_rate, local_num_epochs=1, local_batch_size=1
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=1),
        callbacks=[clock],
    )
    state = network.state_dict()
    save_file({ours: state[name].contiguous() for name, ours in NAMES.items()}, out)
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    print(json.dumps(seconds))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    main(Path(sys.argv[1]), RunSettings.from_json(sys.argv[2]), Path(sys.argv[3]))
