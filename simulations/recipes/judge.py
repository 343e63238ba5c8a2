"""Trains the independent judge on renders that no other recipe uses.

    python -m palate.simulations.world.shards --count 24000 --first 10000000 --out build/judge_pictures
    python -m palate.simulations.recipes.judge --pictures build/judge_pictures --run runs/judge

Cross-entropy on the subject and on each category (its values and "none of them"). No autoencoder and no
generated picture is ever seen; mild blur, noise, JPEG, shifts and mirror images keep the judge fair to
pictures that are a little soft. It runs on one core in about an hour and resumes after being killed. The last
step writes the fp16 weights and their card.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.simulations.judge import (
    CATEGORY_LOGITS,
    VALUES,
    WEIGHTS,
    JudgeAccuracy,
    JudgeNetwork,
    load_judge,
    measure_judge,
    to_network,
)
from palate.simulations.recipes.training import Plan, Worker, launch, train
from palate.simulations.world.shards import SHARD, load
from palate.simulations.world.truth import ATTRIBUTES, SUBJECTS, Truth

NORM_BATCHES = 40


def labels_of(truths: Sequence[Truth]) -> Tensor:
    """Return the right answers (truths, 1 + 13) int64.

    Subject, and each category's value or "none of them".
    """
    rows = [
        [SUBJECTS.index(t.subject)]
        + [
            values.index(t.attributes[c]) if c in t.attributes else len(values)
            for c, values in ATTRIBUTES.items()
        ]
        for t in truths
    ]
    return torch.tensor(rows)


def judge_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Twice the cross-entropy of the subject, which is hardest to learn, plus the sum over categories.

    Logits (n, 80), labels (n, 14); returns the loss and figures to log.
    """
    logits = logits.float()
    subject = F.cross_entropy(logits[:, : len(SUBJECTS)], labels[:, 0])
    attributes = torch.stack(
        [
            F.cross_entropy(logits[:, where], labels[:, i])
            for i, where in enumerate(CATEGORY_LOGITS.values(), 1)
        ]
    ).sum()
    right = (logits[:, : len(SUBJECTS)].argmax(1) == labels[:, 0]).float().mean()
    return 2 * subject + attributes, {"subject": float(subject.detach()), "right": float(right)}


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """Return the picture after JPEG at this quality."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def weather(x: Tensor, g: torch.Generator) -> Tensor:
    """Blur about half of the pictures (n, 3, 128, 128), add noise to a quarter, mirror half, shift all."""
    n = len(x)
    soft = torch.rand(n, generator=g) < 0.5
    blurred = F.avg_pool2d(F.pad(x[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    x[soft] = torch.lerp(x[soft], blurred, torch.rand(len(blurred), 1, 1, 1, generator=g))
    noisy = torch.rand(n, generator=g) < 0.25
    noise = torch.randn(x[noisy].shape, generator=g)
    x[noisy] += 0.06 * torch.rand(len(noise), 1, 1, 1, generator=g) * noise
    mirror = torch.rand(n, generator=g) < 0.5
    x[mirror] = x[mirror].flip(3)
    down, right = torch.randint(-4, 5, (2,), generator=g).tolist()
    x = F.pad(x, (4, 4, 4, 4), mode="replicate")[:, :, 4 + down : 132 + down, 4 + right : 132 + right]
    return x.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def start_weights(network: nn.Module, g: torch.Generator) -> None:
    """First weights from a generator of its own: He's for convolutions, small ones for linear layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=g)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5 / module.in_features**0.5, generator=g)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def measure_norms(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Give the averaged weights the running statistics that belong to them: means over these batches."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    network.float().train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    for x in batches:
        network(x)
    network.eval()


def _work(worker: Worker, plan: Plan, pictures: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    shards, truths = load(pictures)
    labels = labels_of(truths)
    network = JudgeNetwork()
    start_weights(network, torch.Generator().manual_seed(7))
    network = network.to(worker.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for buffer in network.buffers():  # running statistics are measured again at the end
        buffer.data = buffer.data.to(worker.dtype) if buffer.is_floating_point() else buffer.data

    def batch(g: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = torch.randint(len(truths), (plan.batch,), generator=g).tolist()
        quality = torch.randint(45, 250, (plan.batch,), generator=g).tolist()  # above 95: left as it is
        drawn = [shards[n // SHARD][n % SHARD] for n in numbers]
        drawn = [jpeg(p, q) if q <= 95 else p for p, q in zip(drawn, quality, strict=True)]
        return weather(to_network(np.stack(drawn)), g).to(worker.device), labels[numbers].to(worker.device)

    def loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        x, wanted = batch(worker.random)
        return judge_loss(network(x.to(worker.dtype)), wanted)

    weights = train(worker, plan, network, loss)
    weights.export()
    measure_norms(network, [batch(worker.random)[0] for _ in range(NORM_BATCHES)])
    save_judge(network.cpu(), worker.folder, weights.step, len(truths))


def save_judge(network: JudgeNetwork, folder: Path, steps: int, pictures: int) -> JudgeAccuracy:
    """Write judge.safetensors (fp16) and its card into `folder`; return what these weights reach."""
    from safetensors.torch import save_file

    path = folder / WEIGHTS.name
    state = {name: tensor.detach().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path, {"format": "pt"})
    path.chmod(0o644)
    load_judge.cache_clear()
    accuracy = measure_judge(load_judge(path), 2000)
    card = {
        "what": "Independent judge: subject and attributes of a 128 x 128 picture of the drawn world. "
        "For measuring only.",
        "architecture": "pre-activation residual network with squeeze-and-excitation, and patch averages "
        "for textures",
        "weights": sum(tensor.numel() for tensor in state.values()),
        "trained_on": f"{pictures} renders, numbers 10,000,000 and up, with mild blur, noise, JPEG, "
        "shifts and mirrors",
        "recipe": "python -m palate.simulations.recipes.judge",
        "steps": steps,
        "license": "same as the project",
        "measured_on": "2000 fresh renders, numbers 20,000,000 and up",
        "subject": round(accuracy.subject, 4),
        "drawn_attribute": round(accuracy.attribute, 4),
        "empty_category_filled": round(accuracy.invented, 4),
        "utility_correlation": round(accuracy.utility, 4),
        "values": {v: round(accuracy.values[v], 3) for v in VALUES if v in accuracy.values},
        "limits": "Knows renders only; what it says about photographs means nothing.",
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(accuracy)
    return accuracy


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=Path, default=Path("build/judge_pictures"))
    p.add_argument("--run", type=Path, default=Path("runs/judge"))
    p.add_argument("--steps", type=int, default=11000)
    p.add_argument("--batch", type=int, default=40)
    p.add_argument("--rate", type=float, default=3e-3)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    plan = Plan(a.steps, a.batch, a.rate, decay=a.steps * 6 // 10, warmup=60, ema=0.995, weight_decay=0.02)
    launch(_work, a.run, 1, plan, a.pictures, a.threads)


if __name__ == "__main__":
    main()
