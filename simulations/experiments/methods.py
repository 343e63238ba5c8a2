"""Ways to improve the shared encoder, to be compared.

Ours, what others publish, nothing, and everything pooled.

    local only        nobody learns together: the release as it is, and a head of one's own
    reconstruction    ours (Singhal et al., NeurIPS 2021, with the words of comments), by deployed code
    without words     the same without the part that brings comments and pictures together
    FedPer            encoder shared, head private, both trained at once (Arivazhagan et al., 2019)
    FedRep            encoder shared, head private, the head trained first (Collins et al., ICML 2021)
    FedAvg of all     one encoder and one head for everybody (McMahan et al., AISTATS 2017)
    central           the labels of all people in one place, our loss, more passes: the upper bound

All federated ways get the same people, cohorts, rounds and server optimizer. The encoder that each yields is
judged in the same way, by people whom nobody has trained on (`understand`), with an evaluator fitted to a few
of their labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap

from palate.client.federation.local_training import Labels, train_together
from palate.client.taste.evaluator import fit_evaluator
from palate.server.aggregation import moved
from palate.server.checkpoints import read_checkpoint
from palate.server.rounds.exchange import Patience
from palate.server.rounds.loop import choose_cohort
from palate.server.rounds.run import ServerFolder, federate
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.arrays import Float32s, Float64s
from palate.shared.encoder import SHARED_SHAPES, EncoderWeights, encoder_hash, project_pictures, standardize
from palate.shared.update import EncoderUpdate, LocalSettings
from palate.simulations.crowd.population import Stranger

Watch = Callable[[int, EncoderWeights, Float32s | None], None]
"""Called with the round, the encoder, and the head that all share, if they do."""

COOLING = (
    (0.5, 1.0),
    (0.75, 0.3),
    (1.0, 0.1),
)  # up to which part of the rounds, how much of the learning rate
PASSES = 3  # of central training, for each round of the federation
PULL = 1e-3  # of central training, back to the release: L2
HEAD_STEPS, HEAD_RATE = 10, 0.5
JOINT_STEPS, JOINT_RATE = 5, 0.1


@dataclass(frozen=True)
class Plan:
    """The budget that all federated ways have."""

    rounds: int
    cohort: int
    learning_rate: float  # of the server's FedAdam
    local: LocalSettings
    seed: int

    def settings(self, until: int, rate: float) -> RunSettings:
        """Return the server's settings up to a round."""
        return RunSettings(
            rounds=until,
            devices=self.cohort,
            quorum=max(1, self.cohort // 2),
            seed=self.seed,
            strategy="fedadam",
            server_learning_rate=self.learning_rate * rate,
            tau=1e-6,
            local=self.local,
        )

    def stages(self) -> list[RunSettings]:
        """Return the settings of the stages that follow each other, the learning rate falling."""
        return [self.settings(max(1, round(self.rounds * until)), rate) for until, rate in COOLING]

    def stage(self, number: int) -> RunSettings:
        """Return the settings that a round falls under."""
        return next(one for one in self.stages() if number <= one.rounds)


def understand(
    encoder: EncoderWeights, strangers: Sequence[Stranger], *, comments: bool, labels: int = 8
) -> Float64s:
    """Return how well each stranger's verdicts are foreseen, pairwise, (n,).

    Args:
        encoder: the one that is judged.
        strangers: people whom nobody trained on.
        comments: use the words of their comments too.
        labels: the evaluator is fitted to so many liked and as many disliked pictures.
    """
    found = []
    for one in strangers:
        tastes = one.tastes if comments else {}
        fitted = fit_evaluator(encoder, one.liked[:labels], one.disliked[:labels], tastes=tastes)
        found.append(pairwise(fitted.utilities(one.asked), one.answers))
    return np.array(found)


def foresee_alike(encoder: EncoderWeights, head: Float32s, strangers: Sequence[Stranger]) -> Float64s:
    """Return the same by a head (65,) that all people share, (n,)."""
    return np.array([pairwise(project_pictures(encoder, s.asked) @ head[:-1], s.answers) for s in strangers])


def pairwise(scores: NDArray[np.floating], liked: NDArray[np.bool_]) -> float:
    """Return the share of (liked, disliked) pairs in the right order, ties half.

    0.5 where there is no pair.
    """
    if liked.all() or not liked.any():
        return 0.5
    gap = scores[liked][:, None] - scores[~liked][None]
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())


def train_deployed(
    release: EncoderWeights, people: Sequence[Labels], plan: Plan, watch: Watch
) -> EncoderWeights:
    """Train by federated reconstruction: the server's own rounds over devices in this process."""
    from palate.server.app import grid_devices
    from palate.simulations.engine.in_process import InProcessGrid

    devices = grid_devices(InProcessGrid(people, own=release))
    with tempfile.TemporaryDirectory(prefix="palate-simulation-") as place:
        folder, encoder = ServerFolder(Path(place)), release
        for settings in plan.stages():
            encoder = federate(
                devices,
                folder,
                settings,
                average=average,
                first=release,
                patience=Patience(poll_seconds=0.0),
                on_round=lambda state: watch(state.round, state.encoder, None),
            ).encoder
    return encoder


def train_on_ray(
    release: EncoderWeights, people: Sequence[Labels], plan: Plan, watch: Watch
) -> EncoderWeights:
    """Train like `train_deployed` under Flower's own simulation engine, Ray, in a process for each core.

    Cohorts that are smaller than the population hold other people than in `train_deployed` (`on_ray` says
    why). `watch` is called once for each round, with the newest encoder there is by then, which may be that
    of a later round.
    """
    from palate.simulations.engine.on_ray import run_on_ray

    seen = 0
    with tempfile.TemporaryDirectory(prefix="palate-simulation-") as place:
        folder, encoder = ServerFolder(Path(place)), release

        def look(number: int) -> None:
            nonlocal seen
            if number <= seen:  # each stage tells of the rounds before it too
                return
            seen = number
            state = read_checkpoint(folder.checkpoint)
            watch(number, release if state is None else state.encoder, None)

        for settings in plan.stages():
            encoder = run_on_ray(people, settings, folder.home, own=release, on_round=look).encoder
    return encoder


def train_joint(
    release: EncoderWeights, people: Sequence[Labels], plan: Plan, watch: Watch, *, method: str
) -> EncoderWeights:
    """Train by "fedper", "fedrep" or "fedavg" (FedAvg of all), with our server optimizer."""
    crowd = release.tensors["crowd.share"] @ release.tensors["crowd.mean"]  # (65,)
    heads = torch.from_numpy(crowd).expand(len(people), -1).clone()  # of each person; for FedAvg all the same
    encoder = release
    memory: Mapping[str, Float32s] = {}
    for number in range(1, plan.rounds + 1):
        who = choose_cohort(range(len(people)), plan.cohort, plan.seed, number)
        change, trained = _joint_round(encoder, [people[i] for i in who], heads[who], method)
        if method == "fedavg":
            heads[:] = trained.mean(0)
        else:
            heads[who] = trained
        update = EncoderUpdate(encoder_hash(encoder), number, change)
        vector, memory = average(plan.stage(number), number, [update], memory)
        encoder = moved(encoder, vector)
        watch(number, encoder, heads[0].numpy() if method == "fedavg" else None)
    return encoder


def _joint_round(
    encoder: EncoderWeights, people: Sequence[Labels], heads: Tensor, method: str
) -> tuple[dict[str, Float32s], Tensor]:
    """Return the mean change of the encoder and the heads (people, 65) after everybody's local steps."""
    size = max(map(len, people))

    def padded(rows: Float32s) -> Tensor:
        return F.pad(torch.from_numpy(rows), (0, 0) * (rows.ndim - 1) + (0, size - len(rows)))

    x = torch.stack([padded(standardize(encoder, one.features)) for one in people])
    liked = torch.stack([padded(one.liked.astype(np.float32)) for one in people])
    valid = torch.stack([padded(np.ones(len(one), np.float32)) for one in people])

    def wrong(parameters: dict[str, Tensor], head: Tensor, x: Tensor, liked: Tensor, valid: Tensor) -> Tensor:
        hidden = F.linear(x, parameters["picture.hidden.weight"], parameters["picture.hidden.bias"])
        z = torch.sigmoid(
            F.linear(F.relu(hidden), parameters["picture.taste.weight"], parameters["picture.taste.bias"])
        )
        logits = torch.cat([z, torch.ones_like(z[:, :1])], 1) @ head
        return (
            F.binary_cross_entropy_with_logits(logits, liked, reduction="none") * valid
        ).sum() / valid.sum()

    slopes = vmap(grad(wrong, argnums=(0, 1)))
    start = {name: torch.from_numpy(encoder.tensors[name].copy()) for name in SHARED_SHAPES}
    change = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    heads = heads.clone()
    for first in range(0, len(people), 16):
        part = slice(first, first + 16)
        data = (x[part], liked[part], valid[part])
        weights = {name: t.expand(len(data[0]), *t.shape).clone() for name, t in start.items()}
        for step in range(HEAD_STEPS + 1 if method == "fedrep" else JOINT_STEPS):
            by_weight, by_head = slopes(weights, heads[part], *data)
            head_turn = method != "fedrep" or step < HEAD_STEPS
            if head_turn:
                heads[part] -= HEAD_RATE * by_head
            if method != "fedrep" or not head_turn:
                for name, tensor in weights.items():
                    tensor.sub_(by_weight[name], alpha=JOINT_RATE)
        for name, tensor in weights.items():
            change[name] += (tensor - start[name]).sum(0) / len(people)
    return {name: tensor.numpy() for name, tensor in change.items()}, heads


def train_centrally(
    release: EncoderWeights, people: Sequence[Labels], plan: Plan, watch: Watch
) -> EncoderWeights:
    """Train with our loss on all people's labels in one place, by Adam, `PASSES` batches for each round."""
    start = {name: torch.from_numpy(release.tensors[name].copy()) for name in SHARED_SHAPES}
    weights = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=plan.learning_rate)
    one_step = replace(plan.local, steps=1)
    rng = np.random.default_rng(plan.seed)
    last = plan.rounds * PASSES
    encoder = release
    for step in range(1, last + 1):
        who = rng.choice(len(people), min(plan.cohort, len(people)), replace=False)
        seeds = [int(seed) for seed in rng.integers(0, 2**62, len(who))]
        slope = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        for _, change in train_together(encoder, [people[i] for i in who], one_step, seeds):
            for name, total in slope.items():  # one step of descent is the gradient up to its length
                total -= torch.from_numpy(change[name]) / (one_step.learning_rate * len(who))
        for name, tensor in weights.items():
            tensor.grad = slope[name] + 2 * PULL * (tensor.detach() - start[name])
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, 2 * (last - step + 1) / last)
        optimizer.step()
        encoder = release.with_shared({n: t.detach().numpy().copy() for n, t in weights.items()})
        if step % PASSES == 0:
            watch(step // PASSES, encoder, None)
    return encoder
