"""Local training: what a device changes in the shared encoder, from its own labels, in one round.

Where it stands in the flow: a task arrives (`member`), this module trains, and `outbox` sends the change. The
method is federated reconstruction (Singhal et al., "Federated reconstruction: partially local federated
learning", NeurIPS 2021): in each step the device fits a head of its own on part of its labels, in closed
form, and moves the encoder so that this head predicts the others. The head never leaves this function; it is
not even kept.

The words of comments count too: the phrases of a comment should be nearer to the picture that they were said
of than to the person's other pictures (a contrastive loss, van den Oord et al., 2018), so that comments and
pictures meet in the taste space.

What is followed from step to step (outputs of layers, slopes) is held within plus or minus `BOUND`. Honest
training never comes near it. So no encoder and no settings of a server can turn somebody's labels into
numbers that are not finite: whether training "failed" would tell what the labels are. What fails anyway is
answered like everything else (`contribution`).

Many devices are trained at once by the same code (`train_together`), each along a leading axis, which is how
simulations run it; a single device is the case of one. Labels are padded to a common number, and padding
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from palate.client.runtime.threads import one_thread
from palate.shared.arrays import Float32s
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

LEAST_LABELS = 6
MOST_LABELS = 60  # from more labels, so many are drawn anew in each round
HEAD_NOISE = 4.0  # variance of a verdict, given as plus or minus `VERDICT`, around its logit
VERDICT = 2.0
SHAKEN = 0.1  # share of features dropped, and spread of noise on the others: labels are few, features many
BOUND = 1e4
"""What outputs and slopes are cut to. Over 200 rounds of honest training outputs reach 20, tastes 74 and
slopes 43 (the last with comments of nearly no length); products of a few hundred numbers of this size are
far within what float32 holds."""

CHUNK = 16  # devices trained side by side; with more, what a step needs no longer fits the cache


@dataclass(frozen=True)
class Labels:
    """What a person said of n pictures; raises `OptionError` for other shapes or values that are not finite.

    Attributes:
        features: of the pictures, float32 (n, 216).
        liked: the verdicts, bool (n,).
        phrases: of each comment, float32 (n, 384): the mean of its phrases' unit embeddings, zero where it
            named no attribute.
    """

    features: Float32s
    liked: NDArray[np.bool_]
    phrases: Float32s

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
    """Train on one person's labels and return the encoder's change, the same for the same seed.

    It runs on one thread, because with more of them sums differ in the last bits.

    Args:
        encoder: where training starts.
        labels: at least `LEAST_LABELS` of them.
        settings: steps, learning rate and weights of the losses.
        round: the round, which the update names.
        seed: draws which labels the head is fitted on.

    Raises:
        OptionError: fewer than `LEAST_LABELS` labels.

    Reference:
        Singhal et al., "Federated reconstruction: partially local federated learning", NeurIPS 2021.
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
) -> Iterator[tuple[int, dict[str, Float32s]]]:
    """Yield (place in `people`, change of each shared tensor), training devices of similar size side by side.

    Raises `OptionError` where a person has fewer than `LEAST_LABELS` labels.
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
        changes = {name: change.numpy() for name, change in _descend(start, head, batch, settings).items()}
        for row, place in enumerate(places):
            yield place, {name: changes[name][row] for name in SHARED_SHAPES}


def _head_prior(encoder: EncoderWeights) -> tuple[Tensor, Tensor]:
    """Return mean (65,) and covariance (65, 65) of the crowd's heads, float64, as one Gaussian."""
    share, means, covariances = (
        torch.from_numpy(encoder.tensors[f"crowd.{name}"].astype(np.float64))
        for name in ("share", "mean", "covariance")
    )
    mean = share @ means
    away = means - mean
    return mean, torch.tensordot(share, covariances, 1) + (share[:, None] * away).mT @ away


def _prepare(
    encoder: EncoderWeights, people: Sequence[Labels], settings: LocalSettings, seeds: Sequence[int]
) -> dict[str, Tensor]:
    """Return padded labels, and which of them the head is fitted on in each step, (steps, people, n)."""
    size = min(MOST_LABELS, max(map(len, people)))
    features = np.zeros((len(people), size, PICTURE_FEATURES), np.float32)
    phrases = np.zeros((len(people), size, SENTENCE_FEATURES), np.float32)
    kept, noise = torch.zeros(features.shape), torch.zeros(features.shape)
    liked, valid = torch.zeros(features.shape[:2]), torch.zeros(features.shape[:2])
    support = torch.zeros(settings.steps, len(people), size)
    drawn: dict[tuple[int, int], _Draws] = {}  # in a round all have one seed, and many have as many labels
    for row, (labels, seed) in enumerate(zip(people, seeds, strict=True)):
        who = seed, len(labels)
        if who not in drawn:
            drawn[who] = _draw(*who, size, settings)
        draws = drawn[who]
        n = len(draws.chosen)
        support[:, row].scatter_(1, draws.fitted, 1.0)
        np.take(labels.features, draws.chosen, 0, features[row, :n])
        np.take(labels.phrases, draws.chosen, 0, phrases[row, :n])
        kept[row, :n], noise[row, :n] = draws.kept, draws.noise
        liked[row, :n] = torch.from_numpy(labels.liked[draws.chosen])
        valid[row, :n] = 1.0
    standard = standardize(encoder, features.reshape(-1, PICTURE_FEATURES)).reshape(features.shape)
    return {
        "x": torch.from_numpy(standard).mul_(kept).add_(noise, alpha=SHAKEN),
        "phrases": torch.from_numpy(phrases),
        "liked": liked,
        "valid": valid,
        "support": support,
        "spoken": torch.from_numpy(phrases.any(2)).float(),
    }


@dataclass(frozen=True)
class _Draws:
    """The random draws for one device in a round: (n,), (steps, fitted), (n, 216), (n, 216)."""

    chosen: NDArray[np.int64]  # labels
    fitted: Tensor  # places in `chosen` that the head is fitted on, in each step
    kept: Tensor  # features that are not dropped
    noise: Tensor


def _draw(seed: int, labels: int, size: int, settings: LocalSettings) -> _Draws:
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(labels, generator=g)[:size].numpy()
    n = len(chosen)
    fitted = min(n - 1, max(1, round(n * (1 - settings.query_share))))
    steps = torch.stack([torch.randperm(n, generator=g)[:fitted] for _ in range(settings.steps)])
    kept = torch.rand(n, PICTURE_FEATURES, generator=g) > SHAKEN
    return _Draws(chosen, steps, kept, torch.randn(n, PICTURE_FEATURES, generator=g))


@torch.no_grad()
def _descend(
    start: Mapping[str, Tensor],
    head: tuple[Tensor, Tensor],
    batch: Mapping[str, Tensor],
    settings: LocalSettings,
) -> dict[str, Tensor]:
    """Descend for every device in the batch from the same start.

    Return the change of each tensor, (devices, ...).

    Two of the three layers see the same inputs X in every step. They are followed at their outputs: a step
    that changes the weights by -rate slopeᵀ X changes the outputs by -rate (X Xᵀ + 1) slope, the 1 for the
    bias, and the weights are made from the sum of the slopes at the end. A device has fewer labels than
    features, so this is the same descent with less than half the work, and devices side by side need no
    memory for weights that differ little.

    The slopes are written out by hand (`_verdict_slopes`, `_word_slopes`); a test compares them with
    autograd's.
    """
    rate, keep = settings.learning_rate, 1 - settings.learning_rate * settings.proximal
    first = [_Followed(start, "picture.hidden", batch["x"], rate, keep)]
    if settings.alignment:
        first.append(_Followed(start, "sentence.taste", batch["phrases"], rate, keep))
    devices, weights, bias = len(batch["x"]), start["picture.taste.weight"], start["picture.taste.bias"]
    moved, moved_bias = torch.zeros(devices, *weights.shape), torch.zeros(devices, 1, len(bias))
    absent = (batch["valid"][:, None] - 1) * 1e4  # nothing is said of padding
    spoken = (batch["spoken"] / (batch["spoken"].sum(1, keepdim=True) + 1e-6))[..., None]
    hidden = F.relu(first[0].outputs)
    tastes = F.linear(hidden, weights, bias)
    for step, split in enumerate(_split(batch)):
        if step:
            hidden = F.relu(first[0].outputs)
            weights = start["picture.taste.weight"] + moved
            tastes = torch.baddbmm(bias + moved_bias, hidden, weights.mT)
        tastes.clamp_(-BOUND, BOUND)
        slope = _verdict_slopes(tastes, head, batch["liked"], split)
        if settings.alignment:
            of_tastes, of_said = _word_slopes(first[1].outputs, tastes, absent, spoken)
            slope.add_(of_tastes, alpha=settings.alignment)
            first[1].move(of_said.mul_(settings.alignment))
        slope.clamp_(-BOUND, BOUND)
        moved.baddbmm_(slope.mT, hidden, beta=keep, alpha=-rate)
        moved_bias.mul_(keep).sub_(slope.sum(1, keepdim=True), alpha=rate)
        first[0].move(torch.ops.aten.threshold_backward(slope @ weights, hidden, 0))
    changes = {"picture.taste.weight": moved, "picture.taste.bias": moved_bias[:, 0]}
    for layer in first:
        changes |= layer.changes()
    for name in SHARED_SHAPES.keys() - changes.keys():  # the sentence side, where words do not count
        changes[name] = torch.zeros(devices, *SHARED_SHAPES[name])
    return changes


class _Followed:
    """A layer with the same inputs in every step, followed at its outputs, (devices, n, out)."""

    def __init__(
        self, start: Mapping[str, Tensor], name: str, inputs: Tensor, rate: float, keep: float
    ) -> None:
        self._name, self._inputs, self._rate, self._keep = name, inputs, rate, keep
        self._begun = F.linear(inputs, start[f"{name}.weight"], start[f"{name}.bias"]).clamp_(-BOUND, BOUND)
        self._reach = torch.baddbmm(torch.ones(()), inputs, inputs.mT)  # (devices, n, n)
        self._total = torch.zeros(())  # slopes so far
        self.outputs = self._begun

    def move(self, slope: Tensor) -> None:
        """Take a step against the slope at the outputs, and keep the slope."""
        self._total = torch.add(slope.clamp_(-BOUND, BOUND), self._total, alpha=self._keep)
        outputs = torch.baddbmm(self._begun, self._reach, self._total, alpha=-self._rate)
        self.outputs = outputs.clamp_(-BOUND, BOUND)

    def changes(self) -> dict[str, Tensor]:
        """Return what changed in the weights and the bias."""
        slopes = self._total * -self._rate
        return {f"{self._name}.weight": slopes.mT @ self._inputs, f"{self._name}.bias": slopes.sum(1)}


@dataclass(frozen=True)
class _Split:
    """Which labels the head is fitted on in a step, and which it predicts."""

    rows: Tensor  # (devices, supported): those with fewer are padded with rows that count 0
    told: Tensor  # (devices, supported, 1): 1 for the rows that count, float64
    verdicts: (
        Tensor  # (devices, supported, 1): plus or minus `VERDICT`, 0 for those that do not count, float64
    )
    share: Tensor  # (devices, n): what each label counts in the loss, float64
    noise: Tensor  # (supported, supported): of the verdicts


def _split(batch: Mapping[str, Tensor]) -> Iterator[_Split]:
    """Yield the split of each step; all are made at once, because many small operations cost more."""
    support = batch["support"]  # (steps, devices, n)
    most = int(support.sum(2).max())
    told, rows = support.topk(most, 2)
    told = told.double()[..., None]
    liked = batch["liked"].expand(len(support), -1, -1).gather(2, rows)
    verdicts = (liked.double()[..., None] * (2 * VERDICT) - VERDICT) * told
    asked = (batch["valid"] * (1 - support)).double()
    share = asked / asked.sum(2, keepdim=True)
    noise = torch.eye(most, dtype=told.dtype).mul_(HEAD_NOISE)
    for step in zip(rows, told, verdicts, share, strict=True):
        yield _Split(*step, noise)


def _verdict_slopes(tastes: Tensor, head: tuple[Tensor, Tensor], liked: Tensor, split: _Split) -> Tensor:
    """Return the slopes at the tastes (devices, n, 64) of the loss of the queried verdicts.

    The loss is their cross-entropy under the head that is fitted on the supported ones.

    With A = [sigmoid(tastes), 1], the crowd's mean m and covariance C, and S for the supported rows:

        (S A C Aᵀ S + noise) a = S (±verdict - A m)     the head h = m + C Aᵀ a, Gaussian, kernel form
        r = (sigmoid(A h) - liked) / count              over the queried rows: the slope at their logits
        (S A C Aᵀ S + noise) b = S A C Aᵀ r             through the regression back to the supported rows
        slope at A = (r - b) hᵀ + a (C Aᵀ (r - b))ᵀ

    In float64, which costs little here and keeps the rounding of the solution out of the weights.
    """
    mean, covariance = head
    z = torch.sigmoid(tastes)
    inputs = F.pad(z.double(), (0, 1), value=1.0)  # (devices, n, 65)
    rows = split.rows[..., None]
    known = inputs.gather(1, rows.expand(-1, -1, inputs.shape[2])) * split.told
    spread = known @ covariance
    root, failed = torch.linalg.cholesky_ex(torch.baddbmm(split.noise, spread, known.mT))
    # A device whose training has diverged gets no numbers at all; the others get theirs.
    root.masked_fill_(failed.ne(0)[:, None, None], torch.nan)
    a = torch.cholesky_solve(split.verdicts - known @ mean[:, None], root)
    h = torch.baddbmm(mean, a.mT, spread)  # (devices, 1, 65)
    r = (torch.sigmoid(inputs @ h.mT)[..., 0] - liked) * split.share
    pull = r[:, None] @ inputs  # (devices, 1, 65)
    b = torch.cholesky_solve(spread @ pull.mT, root)
    back = torch.baddbmm(pull, b.mT, known, alpha=-1) @ covariance
    factors = torch.stack((r, torch.zeros_like(r)), 2)
    factors.scatter_add_(1, rows.expand(-1, -1, 2), torch.cat((-b, a), 2))
    slope = factors.float() @ torch.cat((h, back), 1)[..., :-1].float()
    return slope.mul_(z).mul_(1 - z)


def _word_slopes(said: Tensor, tastes: Tensor, absent: Tensor, spoken: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes at tastes and phrases, both (devices, n, 64), of the loss over words.

    The loss is the cross-entropy of the picture that phrases were said of, among the person's pictures; 0
    without phrases. It uses logits, because the best logits for this loss are those of what a picture shows:
    how much likelier a comment is to speak of "misty" where it is misty does not depend on how often this
    person speaks of it. `absent` (devices, 1, n) is far below 0 for padding, `spoken` (devices, n, 1) what
    each comment counts.
    """
    length = torch.linalg.vector_norm(said, dim=2, keepdim=True)
    unit = said / (length + 1e-6)
    missed = torch.softmax(torch.baddbmm(absent, unit, tastes.mT), 2)  # (devices, n, n)
    missed.diagonal(dim1=1, dim2=2).sub_(1)
    missed *= spoken
    of_unit = missed @ tastes
    along = (of_unit * unit).sum(2, keepdim=True) * (1 + 1e-6 / length.clamp(min=1e-30))
    return missed.mT @ unit, of_unit.addcmul_(unit, along, value=-1).div_(length + 1e-6)
