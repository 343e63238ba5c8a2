"""Local training: what a device changes in the shared encoder, from its own labels, in one round of the federation.

Where it stands in the flow: a task arrives (`joining`), this module trains, and `outbox` sends the change. Federated
reconstruction (Singhal et al., NeurIPS 2021): in each step the device fits a head of its own on part of its labels, in closed
form, and moves the encoder so that this head predicts the others. The head never leaves this function; it is not even kept.

Beside the verdicts stand the words: the phrases of a comment should lie nearer to the picture that they were said of than to
the person's other pictures (a contrastive loss, van den Oord et al., 2018), so that comments and pictures meet in the taste space.

Many devices are trained at once by the same code (`train_together`), each along a leading axis, which is how simulations run it;
a device is the case of one. Labels are padded to a common number; padding changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from palate.shared.encoder import (
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    SHARED_SHAPES,
    EncoderWeights,
    encoder_hash,
    standardize,
)
from palate.shared.errors import OptionError
from palate.shared.update import EncoderUpdate, LocalSettings

Floats = NDArray[np.float32]

LEAST_LABELS = 6
MOST_LABELS = 60  # of more labels, so many are drawn anew in each round
HEAD_NOISE = 4.0  # variance of a verdict, told as plus or minus `VERDICT`, around its logit
VERDICT = 2.0
SHAKEN = 0.1  # share of features that are dropped, and spread of noise on the others: labels are few, features many
CHUNK = 24  # devices that are trained side by side; of more, what a step needs falls out of the cache


@dataclass(frozen=True)
class Labels:
    """What a person said of n pictures: features (n, 216), verdicts (n,), and the phrases of each comment, (n, 384).

    A row of phrases is the mean of their unit embeddings, zero where the comment named no attribute. Raises OptionError for
    other shapes or values that are not finite.
    """

    features: Floats
    liked: NDArray[np.bool_]
    phrases: Floats

    def __post_init__(self) -> None:
        n = len(self.liked)
        wanted = {"features": (n, PICTURE_FEATURES), "liked": (n,), "phrases": (n, SENTENCE_FEATURES)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise OptionError(f"labels: {name} has the shape {array.shape}; it must be {shape}, finite")

    def __len__(self) -> int:
        return len(self.liked)


def train_locally(
    encoder: EncoderWeights,
    labels: Labels,
    settings: LocalSettings,
    *,
    round: int,  # noqa: A002
    seed: int,
) -> EncoderUpdate:
    """Trains on one person's labels and returns the encoder's change, the same for the same seed.

    One thread works, since on more of them sums come out otherwise. Raises OptionError for fewer than `LEAST_LABELS` labels.
    """
    with one_thread():
        ((_, change),) = train_together(encoder, [labels], settings, [seed])
    return EncoderUpdate(base=encoder_hash(encoder), round=round, tensors=change)


def train_together(
    encoder: EncoderWeights,
    people: Sequence[Labels],
    settings: LocalSettings,
    seeds: Sequence[int],
    chunk: int = CHUNK,
) -> Iterator[tuple[int, dict[str, Floats]]]:
    """Yields (place in `people`, change of each shared tensor), devices with about as many labels side by side.

    Raises OptionError where somebody has fewer than `LEAST_LABELS` labels.
    """
    for labels in people:
        if len(labels) < LEAST_LABELS:
            raise OptionError(f"{len(labels)} labels; local training needs at least {LEAST_LABELS}")
    head = _head_prior(encoder)
    start = {name: torch.from_numpy(encoder.tensors[name].copy()) for name in SHARED_SHAPES}
    order = sorted(range(len(people)), key=lambda i: -len(people[i]))
    for first in range(0, len(order), chunk):
        places = order[first : first + chunk]
        batch = _prepare(encoder, [people[i] for i in places], settings, [seeds[i] for i in places])
        changes = _descend(start, head, batch, settings)
        for row, place in enumerate(places):
            yield place, {name: changes[name][row].numpy() for name in SHARED_SHAPES}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Has torch compute on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _head_prior(encoder: EncoderWeights) -> tuple[Tensor, Tensor]:
    """Mean (65,) and covariance (65, 65) of heads in the crowd, float64: of the mixture, as one Gaussian."""
    share, means, covariances = (
        encoder.tensors[f"crowd.{name}"].astype(np.float64) for name in ("share", "mean", "covariance")
    )
    mean = share @ means
    away = means - mean
    covariance = np.einsum("k,kij->ij", share, covariances) + np.einsum("k,ki,kj->ij", share, away, away)
    return torch.from_numpy(mean), torch.from_numpy(covariance)


def _prepare(
    encoder: EncoderWeights, people: Sequence[Labels], settings: LocalSettings, seeds: Sequence[int]
) -> dict[str, Tensor]:
    """People's labels padded to the longest, and for each step which of them the head is fitted on, (steps, people, n)."""
    size = min(MOST_LABELS, max(map(len, people)))
    batch = {
        "x": torch.zeros(len(people), size, PICTURE_FEATURES),
        "phrases": torch.zeros(len(people), size, SENTENCE_FEATURES),
        "liked": torch.zeros(len(people), size),
        "valid": torch.zeros(len(people), size),
        "support": torch.zeros(settings.steps, len(people), size),
    }
    for row, (labels, seed) in enumerate(zip(people, seeds, strict=True)):
        g = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(labels), generator=g)[:size].numpy()
        n = len(chosen)
        fitted = min(n - 1, max(1, round(n * (1 - settings.query_share))))
        drawn = [torch.randperm(n, generator=g)[:fitted] for _ in range(settings.steps)]
        batch["support"][:, row].scatter_(1, torch.stack(drawn), 1.0)
        standard = torch.from_numpy(standardize(encoder, labels.features[chosen]))
        kept = torch.rand(standard.shape, generator=g) > SHAKEN
        x = torch.mul(standard, kept, out=batch["x"][row, :n])
        x.add_(torch.randn(standard.shape, generator=g), alpha=SHAKEN)
        batch["phrases"][row, :n] = torch.from_numpy(labels.phrases[chosen])
        batch["liked"][row, :n] = torch.from_numpy(labels.liked[chosen])
        batch["valid"][row, :n] = 1.0
    batch["spoken"] = (batch["phrases"].abs().sum(2) > 0).float()
    return batch


def _descend(
    start: Mapping[str, Tensor],
    head: tuple[Tensor, Tensor],
    batch: Mapping[str, Tensor],
    settings: LocalSettings,
) -> dict[str, Tensor]:
    """Gradient descent of every device in the batch from the same start; returns what changed, (devices, ...) of each tensor.

    Two of the three layers see the same inputs X in every step. They are followed at their outputs: a step that changes the
    weights by -rate slopeᵀ X changes the outputs by -rate (X Xᵀ + 1) slope, the 1 for the bias, and the weights are made from
    the sum of the slopes at the end. A device has fewer labels than features, so this is the same descent with less than
    half the work, and devices side by side need no memory for weights that differ little.
    """
    rate, keep = settings.learning_rate, 1 - settings.learning_rate * settings.proximal
    inputs = {"picture.hidden": batch["x"]}
    if settings.alignment:
        inputs["sentence.taste"] = batch["phrases"]
    devices = len(batch["x"])
    begun = {name: F.linear(x, start[f"{name}.weight"], start[f"{name}.bias"]) for name, x in inputs.items()}
    reach = {name: torch.baddbmm(torch.ones(()), x, x.mT) for name, x in inputs.items()}  # (devices, n, n)
    for name in ("picture.taste.weight", "picture.taste.bias"):
        begun[name] = start[name].expand(devices, *start[name].shape)
    total: dict[str, Tensor] = {}  # slopes so far
    for support in batch["support"]:
        now = dict(begun)
        for name, slopes in total.items():
            if name in reach:
                now[name] = torch.baddbmm(begun[name], reach[name], slopes, alpha=-rate)
            else:
                now[name] = torch.sub(begun[name], slopes, alpha=rate)
        now = {name: value.detach().requires_grad_() for name, value in now.items()}
        losses = _losses(now, head, batch, support, settings.alignment)
        for name, slope in zip(now, torch.autograd.grad(losses.sum(), list(now.values())), strict=True):
            total[name] = torch.add(slope, total[name], alpha=keep) if name in total else slope
    changes: dict[str, Tensor] = {}
    for name, slopes in total.items():
        slopes = slopes * -rate
        if name in inputs:
            changes[f"{name}.weight"] = torch.bmm(slopes.mT, inputs[name])
            changes[f"{name}.bias"] = slopes.sum(1)
        else:
            changes[name] = slopes
    for name, shape in SHARED_SHAPES.items():  # the sentence side, where words do not count
        changes.setdefault(name, torch.zeros(devices, *shape))
    return changes


def _losses(
    now: Mapping[str, Tensor],
    head: tuple[Tensor, Tensor],
    batch: Mapping[str, Tensor],
    support: Tensor,
    alignment: float,
) -> Tensor:
    """How badly each device's head, fitted on the supported labels, predicts the others, plus how badly words and pictures meet.

    `now` holds the outputs of the first layers, (devices, n, 256) and (devices, n, 64), and the last layer's weights.
    """
    hidden = F.relu(now["picture.hidden"])
    tastes = torch.baddbmm(now["picture.taste.bias"][:, None], hidden, now["picture.taste.weight"].mT)
    loss = _verdict_losses(torch.sigmoid(tastes), head, batch["liked"], batch["valid"], support)
    if alignment:
        loss = loss + alignment * _word_losses(now["sentence.taste"], tastes, batch)
    return loss


def _verdict_losses(
    z: Tensor, head: tuple[Tensor, Tensor], liked: Tensor, valid: Tensor, support: Tensor
) -> Tensor:
    """Cross-entropy of the queried verdicts under the head of the supported ones: Gaussian regression in kernel form.

    In float64, which costs little here and keeps what the solution would make of rounding out of the weights.
    """
    mean, covariance = head
    z, liked, valid, support = z.double(), liked.double(), valid.double(), support.double()
    inputs = F.pad(z, (0, 1), value=1.0)  # (devices, n, 65)
    usual = inputs @ mean
    known = inputs * support[..., None]
    target = (VERDICT * (2 * liked - 1) - usual) * support
    spread = known @ covariance  # (devices, n, 65)
    kernel = spread @ known.mT + HEAD_NOISE * torch.eye(z.shape[1], dtype=z.dtype)
    learned = spread.mT @ torch.linalg.solve(kernel, target[..., None])  # (devices, 65, 1)
    wrong = F.binary_cross_entropy_with_logits(usual + (inputs @ learned)[..., 0], liked, reduction="none")
    asked = valid * (1 - support)
    return ((wrong * asked).sum(1) / asked.sum(1)).float()


def _word_losses(said: Tensor, tastes: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of the picture that a comment's phrases were said of, among the person's pictures; 0 without phrases.

    In logits, because the best logits for this loss are those of what a picture shows: how much likelier a comment is to speak
    of misty where it is misty does not depend on how often this person speaks of it.
    """
    said = said / (said.norm(dim=2, keepdim=True) + 1e-6)
    near = (
        said @ tastes.mT + (batch["valid"][:, None] - 1) * 1e4
    )  # (devices, n, n): nothing is said of padding
    missed = -torch.diagonal(F.log_softmax(near, 2), dim1=1, dim2=2)
    return (missed * batch["spoken"]).sum(1) / (batch["spoken"].sum(1) + 1e-6)
