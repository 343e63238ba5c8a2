"""Is a new release better for this person? Both encoders predict the person's own labels, left out in turn.

Where it stands in the flow: the federation trains from a release that was accepted (`accepted`). Whether this
person's evaluator uses it too is decided here, by the person's own verdicts, and stays on the device.
`own_encoder` says when this is done.

**The rule.** The labels are split into folds. Each fold is predicted by an evaluator on the old encoder and
by one on the new encoder, neither of which saw it. The log loss of a label with the new encoder, minus that
with the old one, is what the new one costs on it. The new release is left aside only if it costs at least
`MARGIN` on average, and more than chance alone would often give: a one-sided paired t-test over the labels at
`LEVEL`. With fewer than `LEAST_EACH` labels of either kind nothing can be concluded, and the release is used.

The margin keeps the small changes of a usual release from failing the test: their differences are tiny and
all alike, so a test alone finds them "significant". One person's labels are few and noisy. The rule leaves
aside a good release for a few persons in a hundred, and notices a broken one for about half of those who have
some two dozen labels (`python -m benchmarks.release_trial` measures both). It is the second line of defence,
behind the server's own test of a release.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from palate.client.taste.evaluator import Evaluator, fit_evaluator
from palate.shared.arrays import Float32s, Float64s
from palate.shared.encoder import EncoderWeights

LEAST_EACH: Final = 4
FOLDS: Final = 10
LEVEL: Final = 0.05
MARGIN: Final = 0.1
"""Nats for each label, chosen together with `LEVEL` on other virtual people than those of the benchmark."""
SEED: Final = 0  # the same labels are always split in the same way


@dataclass(frozen=True)
class Trial:
    """What the labels say of a new encoder, compared with an old one."""

    labels: int
    loss_old: float  # mean log loss on labels that were left out, in nats; that of a coin is 0.693
    loss_new: float
    chance: float  # how likely a difference this bad is if the new encoder costs nothing; 1 without a test
    keep_old: bool


def try_encoder(
    old: EncoderWeights,
    new: EncoderWeights,
    liked: Float32s,
    disliked: Float32s,
    *,
    tastes: Mapping[str, float] = MappingProxyType({}),
) -> Trial:
    """Compare two encoders on a person's labels; the same labels give the same answer.

    Args:
        old: the encoder in use.
        new: the encoder to try.
        liked: features of liked pictures, (n, 216).
        disliked: features of disliked pictures, (m, 216).
        tastes: the profile's strength of each attribute, by name.

    Raises:
        OptionError: features of another shape.
    """
    count = len(liked) + len(disliked)
    if min(len(liked), len(disliked)) < LEAST_EACH:
        return Trial(count, 0.0, 0.0, 1.0, False)
    before, after = (held_out_losses(one, liked, disliked, tastes) for one in (old, new))
    chance = chance_of(after - before)
    worse = chance < LEVEL and float((after - before).mean()) >= MARGIN
    return Trial(count, float(before.mean()), float(after.mean()), chance, worse)


def held_out_losses(
    encoder: EncoderWeights, liked: Float32s, disliked: Float32s, tastes: Mapping[str, float]
) -> Float64s:
    """Return the log loss of each label in nats, liked ones first, by evaluators that did not see it.

    (n + m,).
    """
    rng = np.random.default_rng(SEED)
    folds = min(FOLDS, len(liked), len(disliked))
    own, other = (rng.permutation(np.arange(len(one)) % folds) for one in (liked, disliked))
    losses = np.zeros(len(liked) + len(disliked))
    for k in range(folds):
        fitted = fit_evaluator(encoder, liked[own != k], disliked[other != k], tastes=tastes)
        losses[: len(liked)][own == k] = _loss(fitted, liked[own == k], 1)
        losses[len(liked) :][other == k] = _loss(fitted, disliked[other == k], 0)
    return losses


def chance_of(differences: Float64s) -> float:
    """Return how likely a mean as large as this is if the true mean is zero: a one-sided t-test."""
    n = len(differences)
    spread = float(differences.std(ddof=1)) / math.sqrt(n)
    mean = float(differences.mean())
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if mean <= 0 else 0.0
    return student_tail(mean / spread, n - 1)


def student_tail(t: float, degrees: int) -> float:
    """Return the probability that Student's t with so many degrees of freedom exceeds `t`."""
    # With x = arctan(t / sqrt(degrees)) the tail is an integral of cos(x)^(degrees - 1), smooth and short:
    # Simpson's rule is exact to far more digits than a test needs.
    start = math.atan(t / math.sqrt(degrees))
    x = np.linspace(start, math.pi / 2, 2_001)
    y = np.cos(x) ** (degrees - 1)
    y[-1] = 1.0 if degrees == 1 else 0.0
    weights = np.ones(2_001)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    area = float(weights @ y) * (math.pi / 2 - start) / (3 * 2_000)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return min(1.0, max(0.0, area * scale))


def _loss(evaluator: Evaluator, features: Float32s, liked: int) -> Float64s:
    likely = np.clip(evaluator.probabilities(features).astype(np.float64), 1e-6, 1 - 1e-6)
    return -np.log(likely if liked else 1 - likely)
