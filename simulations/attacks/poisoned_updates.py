"""What devices that lie send.

Eight attacks on the encoder, made to get past the group rules and the norm bound.

Where it stands in the flow: `many_liars` runs rounds in which a share of the virtual people lies; for each
round it asks this module what they send. Liars here are strong: all of them work together, and they know the
encoder, what every honest device sends, the rule, the groups, and the bound on length (Kerckhoffs' principle;
a real liar knows less).

    sign flip        the honest mean turned round, as long as it is
    scaled           the honest mean turned round, as long as the bound allows
                     (model replacement: Bagdasaryan et al., AISTATS 2020)
    ALIE             off by as many standard deviations as hide among the honest
                     (Baruch, Baruch, Goldberg, NeurIPS 2019)
    IPM              half the honest mean, turned round: the inner product shrinks unseen
                     (Xie, Koyejo, Gupta, UAI 2019)
    min-max          as far off as the two honest ones that are farthest apart
                     (Shejwalkar, Houmansadr, NDSS 2021)
    label flip       honest training by our program on verdicts turned round (Tolpegin et al., ESORICS 2020)
    noise            a random direction as long as the bound lets through, the same for all liars of a round
    taste backdoor   a direction that makes all heads like pictures with one attribute, as long as allowed

An attack is a target for the mean of a spoiled group. Of a group with k liars each sends what moves the group
there, however many honest devices are in it: masks hide a vector however long, and only the group's sum is
measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from palate.client.federation.local_training import Labels
from palate.shared.arrays import Float32s
from palate.shared.encoder import SHARED_SHAPES, TASTE, EncoderWeights, flatten, standardize

ATTACKS: Final = (
    "sign flip", "scaled", "ALIE", "IPM", "min-max", "label flip", "noise", "taste backdoor",
)  # fmt: skip
IPM_SHARE: Final = 0.5
MOST_DEVIATIONS: Final = 3.0  # of ALIE, where liars hold so many groups that its formula has no end
GROUP_MARGIN: Final = (
    0.85  # of the bound: the honest devices of a spoiled group add a length that liars do not know
)
POISON_STEPS, POISON_RATE, POISON_KEEP = 10, 0.5, 10.0
_HALVINGS: Final = 40


@dataclass(frozen=True)
class Situation:
    """What the liars of a round see.

    The honest devices' changes (n, d), the groups' size, and the longest mean that is kept.
    """

    honest: Float32s
    size: int  # devices in a group; 1 where there are no masks
    groups: int
    spoiled: int  # groups with a liar
    bound: float  # L2

    @property
    def longest(self) -> float:
        """How long a target may be without the group being dropped."""
        return self.bound * (GROUP_MARGIN if self.size > 1 else 1.0)

    def group_means(self) -> Float32s:
        """Return the means of groups of honest devices, in their order, (n // size, d)."""
        whole = len(self.honest) // self.size
        return np.asarray(self.honest[: whole * self.size].reshape(whole, self.size, -1).mean(1))


@dataclass(frozen=True)
class Poison:
    """Pictures of the taste backdoor's liars, as features (n, 216).

    With the attribute that is to be pushed, and without.
    """

    shown: Float32s
    others: Float32s


def flipped(labels: Labels) -> Labels:
    """Return the same labels with every verdict turned round."""
    return Labels(labels.features, ~labels.liked, labels.phrases)


def target(
    attack: str, seen: Situation, rng: np.random.Generator, backdoor: Float32s | None = None
) -> Float32s:
    """Return where the liars want the mean of a spoiled group, (d,), not longer than is kept.

    `backdoor` is the direction of the taste backdoor (`backdoor_direction`). Raises ValueError for an attack
    without a target.
    """
    mean = seen.honest.mean(0)
    if attack == "sign flip":
        wanted = -mean
    elif attack == "scaled":
        return _as_long(-mean, seen.longest)
    elif attack == "IPM":
        wanted = -IPM_SHARE * mean
    elif attack == "ALIE":
        wanted = mean - _hidden_deviations(seen.groups, seen.spoiled) * _deviation(seen)
    elif attack == "min-max":
        wanted = _min_max(mean, seen)
    elif attack == "noise":
        return _as_long(rng.standard_normal(len(mean)).astype(np.float32), seen.longest)
    elif attack == "taste backdoor" and backdoor is not None:
        return _as_long(backdoor, seen.longest)
    else:
        raise ValueError(f"{attack!r} has no target here; there are {', '.join(ATTACKS)}")
    length = float(np.linalg.norm(wanted))
    return np.asarray(wanted * np.float32(min(1.0, seen.longest / max(length, 1e-12))))


def lie(wanted: Float32s, honest_mean: Float32s, size: int, liars: int) -> Float32s:
    """Return what each of a group's `liars` sends, (d,), to bring the mean of `size` devices near the wanted.

    The other devices of the group are taken to send the honest mean.
    """
    return np.asarray((size * wanted - (size - liars) * honest_mean) / liars, dtype=np.float32)


def backdoor_direction(encoder: EncoderWeights, poison: Poison) -> Float32s:
    """Return the change (d,) that a few steps of descent make.

    Pictures with the attribute to where the crowd's head likes them.

    The other pictures are held where they are, so that nobody notices. The head is the mean of the crowd
    prior, from which each person's own starts.
    """
    t = encoder.tensors
    crowd = torch.from_numpy((t["crowd.share"] @ t["crowd.mean"])[:TASTE].copy())
    names = [name for name in SHARED_SHAPES if name.startswith("picture.")]
    weights = [torch.from_numpy(t[name].copy()).requires_grad_() for name in names]
    shown, others = (torch.from_numpy(standardize(encoder, x)) for x in (poison.shown, poison.others))

    def tastes(x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(F.linear(x, weights[0], weights[1]))
        return torch.sigmoid(F.linear(hidden, weights[2], weights[3]))

    with torch.no_grad():
        usual = tastes(others)
    for _ in range(POISON_STEPS):
        loss = -(tastes(shown) @ crowd).mean() + POISON_KEEP * (tastes(others) - usual).square().sum(1).mean()
        slopes = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight -= POISON_RATE * slope
    change = {name: np.zeros(shape, np.float32) for name, shape in SHARED_SHAPES.items()}
    for name, weight in zip(names, weights, strict=True):
        change[name] = weight.detach().numpy() - t[name]
    return flatten(change)


def _deviation(seen: Situation) -> Float32s:
    """Return the standard deviation of each coordinate among the means of honest groups."""
    return np.asarray(seen.honest.std(0) / math.sqrt(seen.size))


def _hidden_deviations(groups: int, spoiled: int) -> float:
    """Return by how many deviations a liar can differ and still have a majority (Baruch et al., section 3.1).

    `supporters` is how many honest groups must be farther off for the liars and them to be most of all.
    """
    honest = groups - spoiled
    supporters = groups // 2 + 1 - spoiled
    part = (honest - supporters) / honest if honest else 1.0
    if part >= 1:
        return MOST_DEVIATIONS
    return min(MOST_DEVIATIONS, max(0.0, NormalDist().inv_cdf(max(part, 1e-6))))


def _min_max(mean: Float32s, seen: Situation) -> Float32s:
    """Return the honest mean, moved as far against its deviation as two honest groups are apart."""
    groups = seen.group_means()
    gram = groups @ groups.T
    squares = np.diag(gram)
    apart = squares[:, None] + squares[None] - 2 * gram
    most = float(apart.max(initial=0.0))
    away = -_deviation(seen)
    away = away / np.float32(max(float(np.linalg.norm(away)), 1e-12))
    offset = mean - groups  # (honest groups, d)
    near, along = np.square(offset).sum(1), offset @ away
    low, high = 0.0, 2 * math.sqrt(most) + 1e-12
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float((near + 2 * middle * along + middle**2).max()) <= most:
            low = middle
        else:
            high = middle
    return np.asarray(mean + np.float32(low) * away)


def _as_long(vector: Float32s, length: float) -> Float32s:
    return np.asarray(vector * np.float32(length / max(float(np.linalg.norm(vector)), 1e-12)))
