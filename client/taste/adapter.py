"""The preference adapter: a small private change of the encoder, for what the shared one cannot tell apart.

Where it stands in the flow: next to the evaluator. A LoRA (Hu et al., "LoRA: Low-rank adaptation", ICLR 2022;
by peft) on the two picture layers is trained for a second or two. It puts the person's liked pictures above
the disliked ones, pair by pair (the loss of Bradley and Terry, as in direct preference optimisation), and
stays near what the shared encoder says.

It has to earn its place. The person's own labels are split into folds. Each fold is ranked by an evaluator
with an adapter and by one without, neither of which saw it. The adapter is kept only if the pairs of all
folds come out better by more than chance would often give. With few labels that is rare, and the person is
told. The adapter is sealed in the vault.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from palate.client.eye import Features
from palate.client.taste.evaluator import Evaluator, fit_evaluator
from palate.shared.encoder import EncoderWeights, standardize
from palate.shared.errors import ModelError, OptionError

if TYPE_CHECKING:
    import torch

LEAST_EACH = 3
RANK = 4
STEPS = 60
FOLDS = 4
LAYERS = ("hidden", "taste")
LEAST_GAIN = 0.25  # of pairwise accuracy on held-out labels, over the root of their number: chance gives some


@dataclass(frozen=True)
class AdapterResult:
    """Whether an adapter is worth keeping, and its weights (safetensors) if so.

    Both accuracies are on held-out labels; `message` is one line for the person.
    """

    kept: bool
    weights: bytes | None
    accuracy_without: float
    accuracy_with: float
    message: str


def train_adapter(
    encoder: EncoderWeights,
    liked: Features,
    disliked: Features,
    *,
    tastes: Mapping[str, float] = MappingProxyType({}),
    seed: int,
) -> AdapterResult:
    """Train an adapter and judge it on held-out labels; takes seconds.

    The same labels and seed give the same bytes. With fewer than three of either kind nothing is trained.

    Args:
        encoder: the release.
        liked: features (n, features).
        disliked: features (m, features).
        tastes: as for `fit_evaluator`.
        seed: of the folds and the first weights.

    Raises:
        OptionError: features of another shape.

    Reference:
        Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022.
    """
    if min(len(liked), len(disliked)) < LEAST_EACH:
        message = (
            f"not tuned to you yet: that needs {LEAST_EACH} liked and {LEAST_EACH} disliked pictures, "
            f"and there are {len(liked)} and {len(disliked)}"
        )
        return AdapterResult(False, None, 0.5, 0.5, message)
    for features in (liked, disliked):  # another shape is refused before time is spent
        standardize(encoder, features)
    rng = np.random.default_rng(seed)
    folds = min(FOLDS, len(liked), len(disliked))
    own, other = _folds(len(liked), folds, rng), _folds(len(disliked), folds, rng)
    without, with_it = [], []
    for k in range(folds):
        fit_liked, fit_disliked = liked[own != k], disliked[other != k]
        ask_liked, ask_disliked = liked[own == k], disliked[other == k]
        plain = fit_evaluator(encoder, fit_liked, fit_disliked, tastes=tastes)
        adapted = apply_adapter(encoder, _train(encoder, plain, fit_liked, fit_disliked, seed + k))
        own_head = fit_evaluator(adapted, fit_liked, fit_disliked, tastes=tastes)
        without.append(_right(plain, ask_liked, ask_disliked))
        with_it.append(_right(own_head, ask_liked, ask_disliked))
    before, after = float(np.mean(np.concatenate(without))), float(np.mean(np.concatenate(with_it)))
    if after <= 0.5 or after < before + LEAST_GAIN / (len(liked) + len(disliked)) ** 0.5:
        message = (
            "tuning the eye to you does not help yet; more verdicts may change that (of your pairs of a "
            f"liked and a disliked picture, {after:.0%} come out right with tuning, {before:.0%} without)"
        )
        return AdapterResult(False, None, before, after, message)
    head = fit_evaluator(encoder, liked, disliked, tastes=tastes)
    message = (
        f"the eye is tuned to you (of your pairs of a liked and a disliked picture, {after:.0%} come out "
        f"right, {before:.0%} without tuning)"
    )
    return AdapterResult(True, _train(encoder, head, liked, disliked, seed), before, after, message)


def apply_adapter(encoder: EncoderWeights, weights: bytes) -> EncoderWeights:
    """Return the encoder with the adapter merged in.

    Raises:
        ModelError: the bytes are no adapter for it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        given = load(weights)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"this is not an adapter ({type(error).__name__}); train it again") from None
    merged = {}
    for layer in LAYERS:
        name = f"picture.{layer}.weight"
        down, up = given.get(f"{layer}.down"), given.get(f"{layer}.up")
        outer, inner = encoder.tensors[name].shape
        if down is None or up is None or down.shape != (RANK, inner) or up.shape != (outer, RANK):
            raise ModelError(f"the adapter has no fitting part for {layer!r}; train it again")
        merged[name] = (encoder.tensors[name] + up @ down).astype(np.float32)
    return encoder.with_shared({**encoder.shared(), **merged})


def _folds(n: int, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.asarray(rng.permutation(np.arange(n) % folds))


def _right(evaluator: Evaluator, liked: Features, disliked: Features) -> NDArray[np.float64]:
    """Return 1, 0.5 or 0 for each pair of a liked and a disliked picture."""
    gap = evaluator.utilities(liked)[:, None] - evaluator.utilities(disliked)[None]
    return np.asarray((gap > 0) + 0.5 * (gap == 0), dtype=np.float64).ravel()


def _projector(encoder: EncoderWeights) -> torch.nn.Module:
    """Return the encoder's picture side as a torch module: standardized features to taste logits."""
    import torch
    from torch import nn

    def linear(layer: str) -> nn.Linear:
        weight, bias = (
            torch.from_numpy(encoder.tensors[f"picture.{layer}.{kind}"].copy()) for kind in ("weight", "bias")
        )
        made = nn.Linear(weight.shape[1], weight.shape[0])
        made.weight.data, made.bias.data = weight, bias
        return made

    return nn.Sequential(OrderedDict(hidden=linear("hidden"), rectify=nn.ReLU(), taste=linear("taste")))


def _train(encoder: EncoderWeights, head: Evaluator, liked: Features, disliked: Features, seed: int) -> bytes:
    """Return a trained adapter as safetensors.

    The head stays as it was fitted; only the places of pictures in the taste space move.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from safetensors.numpy import save

    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS), lora_dropout=0.0)
    # peft draws first weights from torch's own generator; ours come below.
    with torch.random.fork_rng(devices=[]):
        module = inject_adapter_in_model(config, _projector(encoder))
    trained = [p for n, p in module.named_parameters() if "lora_" in n]
    draw = torch.Generator().manual_seed(seed)
    for n, p in module.named_parameters():
        p.requires_grad_("lora_" in n)
        if "lora_A" in n:
            torch.nn.init.kaiming_uniform_(p, a=math.sqrt(5), generator=draw)
    weights = torch.from_numpy((head.share @ head.mean)[:64].astype(np.float32))
    up, down = (torch.from_numpy(standardize(encoder, f)) for f in (liked, disliked))
    with torch.no_grad():
        start = torch.sigmoid(module(torch.cat([up, down])))
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.01)
    for _ in range(STEPS):
        z = torch.sigmoid(module(torch.cat([up, down])))
        value = z @ weights
        gap = value[: len(up), None] - value[None, len(up) :]
        loss = torch.nn.functional.softplus(-gap).mean() + 20.0 * (z - start).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = {}
    for layer in LAYERS:
        part = getattr(module, layer)
        found[f"{layer}.down"] = part.lora_A["default"].weight.detach().numpy()
        found[f"{layer}.up"] = part.lora_B["default"].weight.detach().numpy()
    if not all(np.isfinite(one).all() for one in found.values()):
        raise OptionError(
            "the adapter's training did not stay finite; check the features of the labelled pictures"
        )
    return bytes(
        save({name: np.ascontiguousarray(one) for name, one in found.items()}, {"format": "palate adapter 1"})
    )
