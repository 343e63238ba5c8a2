"""Attacks on ourselves: what a server could rebuild of a person from what leaves the device.

Where it stands in the flow: `benchmarks.leaks` trains virtual people's devices and puts before these attacks,
one after the other, a raw change of the encoder (where they must succeed, or the test is void), the masked
vector of one device, and the sum of a cohort with and without noise.

    invert_layer       a layer's weight change over its bias change gives its inputs: exactly for one label,
                       mixed for several (Phong et al., IEEE TIFS 2018; Geiping et al., NeurIPS 2020,
                       proposition 3.1)
    match_gradient     searches pictures, verdicts and words whose change points the same way
                       (Geiping et al., NeurIPS 2020)
    infer_preferences  who likes what, by ridge regression from changes to tastes of known people

The attacker is strong: it knows the encoder, the settings, the seed of the round (so which labels the head
was fitted on and how features were shaken), and how many labels there are, which of them with words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from palate.client.federation import local_training
from palate.client.federation.local_training import Labels
from palate.shared.arrays import Float32s, Float64s
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES, EncoderWeights, unflatten
from palate.shared.update import LocalSettings

_SILENT: Final = 1e-7  # of the largest bias change: a unit below it says nothing
_RATE: Final = 0.05
_RIDGES: Final = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def invert_layer(change: Float32s, layer: str = "picture.hidden") -> Float32s:
    """Return what a change (d,) says of a layer's inputs.

    Its weight rows over their bias entries, (units that say anything, in).

    `picture.hidden` gives standardized picture features, `sentence.taste` mean embeddings of a comment's
    phrases.
    """
    tensors = unflatten(change)
    weight, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
    heard = np.abs(bias) > _SILENT * np.abs(bias).max(initial=0.0)
    return np.asarray(weight[heard] / bias[heard, None], dtype=np.float32)


def best_cosines(found: Float32s, truth: Float32s) -> Float64s:
    """Return for each true row (n, features) the cosine to the candidate that is nearest to it, (n,).

    0 without candidates.
    """
    if not len(found):
        return np.zeros(len(truth))

    def units(rows: Float32s) -> Float64s:
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, 1e-12))

    return np.asarray((units(truth) @ units(found).T).max(1))


def match_gradient(
    encoder: EncoderWeights,
    change: Float32s,
    spoken: NDArray[np.bool_],
    settings: LocalSettings,
    *,
    seed: int,
    searches: int = 300,
) -> Float32s:
    """Return standardized features (n, 216) whose one local step would point the way of the change (d,).

    `spoken` (n,) says which labels had words, in the order in which the device took them; `seed` is the
    round's. Verdicts and phrases are searched too. The first guess is what `invert_layer` finds. Several
    local steps are attacked as if they were one.
    """
    one = LocalSettings(**{**vars(settings), "steps": 1})
    batch, kept, noise = _known(encoder, len(spoken), one, seed)
    batch["spoken"] = torch.from_numpy(spoken[None].astype(np.float32))
    head = local_training._head_prior(encoder)
    start = {name: torch.from_numpy(tensor) for name, tensor in encoder.shared().items()}
    observed = {name: -torch.from_numpy(t.copy()) for name, t in unflatten(change).items()}
    g = torch.Generator().manual_seed(seed ^ 1)
    features = _first_guess(invert_layer(change), (len(spoken), PICTURE_FEATURES), g)
    phrases = _first_guess(invert_layer(change, "sentence.taste"), (len(spoken), SENTENCE_FEATURES), g)
    verdicts = 0.1 * torch.randn(1, len(spoken), generator=g)
    searched = [one.requires_grad_() for one in (features, phrases, verdicts)]
    moments = [(torch.zeros_like(one), torch.zeros_like(one)) for one in searched]
    for number in range(1, searches + 1):
        batch["x"], batch["phrases"] = features * kept + noise, phrases
        batch["liked"] = torch.sigmoid(verdicts)
        made = _slopes(start, head, batch, one.alignment)
        apart = sum(
            (
                1 - _cosine(made, observed, [n for n in made if n.startswith(side)])
                for side in ("picture", "sentence")
            ),
            torch.zeros(()),
        )
        slopes = torch.autograd.grad(apart, searched)
        rate = _RATE * 0.5 * (1 + math.cos(math.pi * number / searches))
        _adam(searched, slopes, moments, number, rate)
    return np.asarray(features.detach()[0].numpy())


def _adam(
    searched: Sequence[Tensor],
    slopes: Sequence[Tensor],
    moments: Sequence[tuple[Tensor, Tensor]],
    number: int,
    rate: float,
) -> None:
    """Step `number` of Adam (Kingma, Ba, ICLR 2015), in place.

    Torch's own takes seconds to import what it does not need here.
    """
    with torch.no_grad():
        for one, slope, (first, second) in zip(searched, slopes, moments, strict=True):
            first.lerp_(slope, 0.1)
            second.lerp_(slope.square(), 0.001)
            spread = (second / (1 - 0.999**number)).sqrt() + 1e-8
            one -= rate * first / (1 - 0.9**number) / spread


def _first_guess(found: Float32s, shape: tuple[int, int], g: torch.Generator) -> Tensor:
    """Candidates of the analytic attack, drawn at random, cut to a usual size; (1, n, features)."""
    guess = 0.1 * torch.randn(1, *shape, generator=g)
    if len(found):
        drawn = torch.randint(len(found), (shape[0],), generator=g).numpy()
        guess += torch.from_numpy(np.clip(found[drawn], -4, 4))[None]
    return guess


def _known(
    encoder: EncoderWeights, count: int, settings: LocalSettings, seed: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return what the seed alone says of a batch with `count` labels: features kept, noise added, padding."""
    mean, scale = encoder.tensors["feature.mean"], encoder.tensors["feature.scale"]
    nothing = np.zeros((count, SENTENCE_FEATURES), np.float32)
    batches = []
    for value in (0.0, 1.0):
        features = np.repeat((mean + np.float32(value) * scale)[None], count, 0)
        labels = Labels(features, np.zeros(count, bool), nothing)
        batches.append(local_training._prepare(encoder, [labels], settings, [seed]))
    noise = batches[0]["x"]
    return batches[0], ((batches[1]["x"] - noise) > 0.5).float(), noise


def _slopes(
    start: Mapping[str, Tensor],
    head: tuple[Tensor, Tensor],
    batch: Mapping[str, Tensor],
    alignment: float,
) -> dict[str, Tensor]:
    """Return the gradient of one local step by each shared tensor, differentiable by its inputs."""
    names = {"picture.hidden": "x", "sentence.taste": "phrases"}
    now = {n: F.linear(batch[x], start[f"{n}.weight"], start[f"{n}.bias"]) for n, x in names.items()}
    for name in ("picture.taste.weight", "picture.taste.bias"):
        now[name] = start[name][None].clone().requires_grad_()
    loss = _losses(now, head, batch, batch["support"][0], alignment).sum()
    by = dict(zip(now, torch.autograd.grad(loss, list(now.values()), create_graph=True), strict=True))
    made = {name: by[name][0] for name in ("picture.taste.weight", "picture.taste.bias")}
    for name, x in names.items():
        made[f"{name}.weight"], made[f"{name}.bias"] = (by[name].mT @ batch[x])[0], by[name].sum(1)[0]
    return made


def _losses(
    now: Mapping[str, Tensor],
    head: tuple[Tensor, Tensor],
    batch: Mapping[str, Tensor],
    support: Tensor,
    alignment: float,
) -> Tensor:
    """Return what a device descends, as a loss.

    `local_training` has its slopes by hand, which cannot be searched through.

    How badly each device's head, fitted on the supported labels, predicts the others, plus how badly words
    and pictures meet. `now` holds the outputs of the first layers, (devices, n, 256) and (devices, n, 64),
    and the last layer's weights.
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
    """Cross-entropy of the queried verdicts under the head of the supported ones.

    Gaussian regression in kernel form.

    In float64, which costs little here and keeps what the solution would make of rounding out of the weights.
    """
    mean, covariance = head
    z, liked, valid, support = z.double(), liked.double(), valid.double(), support.double()
    inputs = F.pad(z, (0, 1), value=1.0)  # (devices, n, 65)
    usual = inputs @ mean
    known = inputs * support[..., None]
    target = (local_training.VERDICT * (2 * liked - 1) - usual) * support
    spread = known @ covariance  # (devices, n, 65)
    kernel = spread @ known.mT + local_training.HEAD_NOISE * torch.eye(z.shape[1], dtype=z.dtype)
    learned = spread.mT @ torch.linalg.solve(kernel, target[..., None])  # (devices, 65, 1)
    wrong = F.binary_cross_entropy_with_logits(usual + (inputs @ learned)[..., 0], liked, reduction="none")
    asked = valid * (1 - support)
    return ((wrong * asked).sum(1) / asked.sum(1)).float()


def _word_losses(said: Tensor, tastes: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of the picture that a comment's phrases were said of, among the person's pictures.

    0 without phrases.
    """
    said = said / (said.norm(dim=2, keepdim=True) + 1e-6)
    near = (
        said @ tastes.mT + (batch["valid"][:, None] - 1) * 1e4
    )  # (devices, n, n): nothing is said of padding
    missed = -torch.diagonal(F.log_softmax(near, 2), dim1=1, dim2=2)
    return (missed * batch["spoken"]).sum(1) / (batch["spoken"].sum(1) + 1e-6)


def _cosine(made: Mapping[str, Tensor], observed: Mapping[str, Tensor], names: list[str]) -> Tensor:
    one = torch.cat([made[name].ravel() for name in names])
    other = torch.cat([observed[name].ravel() for name in names])
    cosine: Tensor = torch.dot(one, other) / (one.norm() * other.norm() + 1e-12)
    return cosine


@dataclass(frozen=True)
class Inference:
    """Return how often an attacker names rightly what people it does not know like or dislike."""

    accuracy: float
    prior: float  # by what most of the people that it knows feel, and nothing else
    pairs: int  # (person, attribute) that were asked


def infer_preferences(known: Float32s, tastes: Float64s, unknown: Float32s, truth: Float64s) -> Inference:
    """Attacks the tastes of people.

    From what their devices sent, (people, d), to like or dislike, (people, attributes).

    `known` and `tastes` are of people whose taste the attacker has (its own virtual people, say), weights
    above 0 for likes, below for dislikes, 0 for neither; `unknown` and `truth` of its victims. Ridge
    regression in kernel form on vectors of length 1, by the strength that is best on a quarter of the known
    people.
    """
    usual = tastes.mean(0)
    ridge = _fit_ridge(known, tastes)
    quarter = len(known) // 4
    best = max(
        _RIDGES,
        key=lambda strength: _agreement(
            _fit_ridge(known[quarter:], tastes[quarter:])(known[:quarter], strength), tastes[:quarter]
        ),
    )
    asked = int((truth != 0).sum())
    prior = _agreement(np.repeat(usual[None], len(truth), 0), truth)
    return Inference(_agreement(ridge(unknown, best), truth), prior, asked)


def _fit_ridge(known: Float32s, tastes: Float64s) -> Callable[[Float32s, float], Float64s]:
    """Return a function from vectors (people, d) and a ridge strength to tastes (people, attributes)."""
    centre, usual = _unit(known).mean(0), tastes.mean(0)
    x = _unit(known) - centre
    kernel = (x @ x.T).astype(np.float64)
    scale = float(np.trace(kernel)) / len(x)

    def foresee(given: Float32s, strength: float) -> Float64s:
        weights = np.linalg.solve(kernel + strength * scale * np.eye(len(x)), tastes - usual)
        return np.asarray(usual + ((_unit(given) - centre) @ x.T).astype(np.float64) @ weights)

    return foresee


def _unit(rows: Float32s) -> Float32s:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def _agreement(foreseen: Float64s, truth: Float64s) -> float:
    """Return the share of (person, attribute) pairs with the right sign, among those with a taste."""
    felt = truth != 0
    return float((np.sign(foreseen[felt]) == np.sign(truth[felt])).mean())
