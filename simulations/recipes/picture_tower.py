"""Trains the picture tower that ships with Palate: what a picture shows, from its pixels.

    python -m palate.simulations.world.shards --count 48000 --out build/pictures python -m
    palate.simulations.recipes.picture_tower --pictures build/pictures --autoencoder runs/autoencoder/vae
    --run runs/picture_tower

Cross-entropy on the subject and on each category (its values and "none of them"). After the first 3,800 steps
two fifths of every batch show as many attributes as the pictures that people judge, four or five, which teach
more each and hide more of each other. A quarter of every batch has been through the generator's autoencoder
with a little noise on the latents, so that the tower reads generated pictures, whose fine texture is soft, as
it reads drawn ones. Sizes, sharpness, noise, JPEG and mirror images vary; colours move by no more than a
label bears. Weights are averaged over time, and the normalisations are measured again for the average, then
folded away. The last 2,000 pictures are kept for measuring. One process needs about an hour on one core, two
half of it; a killed run resumes.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palate.client.eye.tower import LOGITS, LOGITS_OF, SHIPPED
from palate.client.eye.tower_network import PictureNetwork, folded
from palate.simulations.crowd.people import sample_shown
from palate.simulations.recipes.training import Plan, Worker, launch, train
from palate.simulations.world.render import render
from palate.simulations.world.shards import SHARD, Pictures, load
from palate.simulations.world.truth import ATTRIBUTES, SUBJECTS, Truth

KEPT = 2000  # pictures at the end that are for measuring only
SOFT_SHARE, RICH_SHARE = 0.25, 0.4
# rich pictures come after, when the subjects are known: from the start they hide more than they teach
PLAIN_STEPS = 3800
FIRST_RICH = 2_000_000


def labels_of(truths: Sequence[Truth]) -> Tensor:
    """Return the right answers (truths, 1 + categories) int64; a category's last is "none of them"."""
    return torch.tensor(
        [
            [SUBJECTS.index(t.subject)]
            + [v.index(t.attributes[c]) if c in t.attributes else len(v) for c, v in ATTRIBUTES.items()]
            for t in truths
        ]
    )


def to_network(pictures: Pictures) -> Tensor:
    """Return pictures (n, 128, 128, 3) uint8 as the network takes them: (n, 3, 128, 128) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


@torch.no_grad()
def soften(pictures: Pictures, autoencoder: Path, noise: float, g: torch.Generator) -> Pictures:
    """Return the pictures after the autoencoder, with this much noise on latents of about unit spread."""
    from diffusers import AutoencoderTiny

    model = AutoencoderTiny.from_pretrained(autoencoder).to(torch.bfloat16).eval()
    done = []
    for part in torch.split(to_network(pictures), 32):
        z = model.encode(part.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)).latents
        amount = noise * torch.rand(len(z), 1, 1, 1, generator=g)
        y = model.decode(z + (amount * torch.randn(z.shape, generator=g)).to(z)).sample.float()
        done.append(((y.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(done)


def soft_pictures(
    folder: Path, shards: Sequence[Pictures], numbers: Sequence[int], autoencoder: Path
) -> Pictures:
    """Return the named pictures after the autoencoder, kept in a file for a resumed run."""
    path = folder / "soft.npy"
    if not path.exists():
        chosen = np.stack([shards[n // SHARD][n % SHARD] for n in numbers])
        soft = soften(chosen, autoencoder, 0.3, torch.Generator().manual_seed(5))
        part = path.with_suffix(".part")
        with part.open("wb") as f:
            np.save(f, soft)
        part.replace(path)
    return np.asarray(np.load(path, mmap_mode="r"))


def rich_truth(number: int) -> Truth:
    """Return what the `number`-th rich picture shows: four or five attributes."""
    return sample_shown(random.Random(f"rich {number}"))


def rich_pictures(folder: Path, count: int) -> tuple[list[Pictures], list[Truth]]:
    """Return rich pictures and their truths, kept in files of `SHARD` for a resumed run."""
    shards = []
    for start in range(0, count, SHARD):
        path = folder / f"rich-{start:06d}.npy"
        if not path.exists():
            drawn = [render(rich_truth(i), FIRST_RICH + i) for i in range(start, start + SHARD)]
            part = path.with_suffix(".part")
            with part.open("wb") as f:
                np.save(f, np.stack(drawn))
            part.replace(path)
        shards.append(np.load(path, mmap_mode="r"))
    return shards, [rich_truth(i) for i in range(len(shards) * SHARD)]


def jpeg(picture: Pictures, quality: int) -> Pictures:
    """Return the picture after JPEG at this quality."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def vary(x: Tensor, g: torch.Generator) -> Tensor:
    """Vary size, place, sharpness, noise, light and side of (n, 3, 128, 128), within what labels bear."""
    n = len(x)

    def some(share: float) -> Tensor:
        return torch.rand(n, generator=g) < share

    mirror = some(0.5)
    x[mirror] = x[mirror].flip(3)
    if torch.rand((), generator=g) < 0.5:
        side = int(torch.randint(112, 149, (), generator=g))
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        x = F.pad(x, [max(0, 132 - side) // 2 + 1] * 4, mode="reflect")
    else:
        x = F.pad(x, (4, 4, 4, 4), mode="reflect")
    top, left = (int(torch.randint(0, x.shape[2] - 127, (), generator=g)) for _ in range(2))
    x = x[:, :, top : top + 128, left : left + 128].clone()
    soft = some(0.4)
    blurred = F.avg_pool2d(F.pad(x[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    x[soft] = torch.lerp(x[soft], blurred, torch.rand(len(blurred), 1, 1, 1, generator=g))
    noisy = some(0.25)
    x[noisy] += (
        0.06 * torch.rand(int(noisy.sum()), 1, 1, 1, generator=g) * torch.randn(x[noisy].shape, generator=g)
    )
    x = x * (1 + 0.06 * (torch.rand(n, 1, 1, 1, generator=g) - 0.5)) + 0.04 * (
        torch.rand(n, 3, 1, 1, generator=g) - 0.5
    )
    return x.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def answer_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the subject plus the sum over categories.

    Logits (n, LOGITS), labels (n, 1 + categories).
    """
    logits = logits.float()
    parts = [F.cross_entropy(logits[:, where], labels[:, i]) for i, where in enumerate(LOGITS_OF.values())]
    right = (logits[:, LOGITS_OF["subject"]].argmax(1) == labels[:, 0]).float().mean()
    return torch.stack(parts).sum(), {"subject": float(parts[0].detach()), "right": float(right)}


def _work(
    worker: Worker,
    plan: Plan,
    pictures: Path,
    autoencoder: Path,
    soft_count: int,
    rich_count: int,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(11)  # the same first weights in every process
    shards, truths = load(pictures)
    last = len(truths) - KEPT
    labels = labels_of(truths)
    soft_numbers = list(range(0, last, max(1, last // soft_count)))[:soft_count]
    soft = soft_pictures(worker.folder, shards, soft_numbers, autoencoder)
    rich, rich_truths = rich_pictures(worker.folder, rich_count)
    rich_labels = labels_of(rich_truths)
    network = PictureNetwork(LOGITS, norm=True).to(worker.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(worker.dtype)
    share = plan.batch // worker.world

    def batch(step: int) -> tuple[Tensor, Tensor]:
        g = worker.random
        few, many = round(share * SOFT_SHARE), round(share * RICH_SHARE) if step >= PLAIN_STEPS else 0
        numbers = torch.randint(last, (share - few - many,), generator=g).tolist()
        others = torch.randint(len(rich_truths), (many,), generator=g).tolist()
        places = torch.randint(len(soft_numbers), (few,), generator=g).tolist()
        quality = torch.randint(40, 230, (share,), generator=g).tolist()  # above 95: left as it is
        drawn = [shards[n // SHARD][n % SHARD] for n in numbers] + [soft[i] for i in places]
        drawn += [rich[n // SHARD][n % SHARD] for n in others]
        drawn = [jpeg(p, q) if q <= 95 else p for p, q in zip(drawn, quality, strict=True)]
        x = vary(to_network(np.stack(drawn)), g).to(worker.device, worker.dtype)
        right = torch.cat([labels[numbers + [soft_numbers[i] for i in places]], rich_labels[others]])
        return x, right.to(worker.device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        x, y = batch(step)
        return answer_loss(network(x)[1], y)

    weights = train(worker, plan, network, loss)
    weights.export()
    if worker.rank == 0:
        network = network.float()
        remeasure(network, [batch(weights.step)[0].float() for _ in range(24)])
        trained = folded(network.cpu(), LOGITS)
        save_tower(
            trained, worker.folder, shards[-1], labels[last:], autoencoder, weights.step, len(rich_truths)
        )


@torch.no_grad()
def remeasure(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Measures means and variances of the normalisations again, with the averaged weights."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    network.train()
    for x in batches:
        network(x)
    network.eval()


@torch.no_grad()
def measure(network: PictureNetwork, pictures: Pictures, labels: Tensor) -> dict[str, float]:
    """Accuracy on the subject, on the values shown, on "none" where none is shown, and the loss in nats."""
    logits = torch.cat([network(part)[1] for part in torch.split(to_network(pictures), 64)])
    shown, absent = [], []
    for i, where in enumerate(LOGITS_OF.values()):
        right = logits[:, where].argmax(1) == labels[:, i]
        if i:
            none = labels[:, i] == where.stop - where.start - 1
            shown.append(right[~none])
            absent.append(right[none])
    subject = logits[:, LOGITS_OF["subject"]].argmax(1) == labels[:, 0]
    return {
        "subject": round(float(subject.float().mean()), 4),
        "attribute_shown": round(float(torch.cat(shown).float().mean()), 4),
        "none_when_none": round(float(torch.cat(absent).float().mean()), 4),
        "loss": round(float(answer_loss(logits, labels)[0]), 4),
    }


def save_tower(
    network: PictureNetwork,
    folder: Path,
    kept: Pictures,
    labels: Tensor,
    autoencoder: Path,
    steps: int,
    rich: int,
) -> None:
    """Write picture_tower.safetensors (fp16) and its cards into the folder, measured as written."""
    from safetensors.torch import save_file

    tensors = {name: t.to(torch.float16).contiguous() for name, t in network.state_dict().items()}
    save_file(tensors, str(folder / SHIPPED.name), {"format": "palate picture tower 1"})
    network.load_state_dict({name: t.float() for name, t in tensors.items()})
    kept = np.array(kept[-KEPT:])
    few = soften(kept[:600], autoencoder, 0.0, torch.Generator().manual_seed(6))
    card = {
        "name": "picture tower",
        "recipe": "python -m palate.simulations.recipes.picture_tower",
        "weights": sum(t.numel() for t in tensors.values()),
        "steps": steps,
        "data": "rendered pictures below number 46,000, some also through the generator's autoencoder, and "
        f"{rich:,} with four or five attributes each (numbers from 2 million)",
        "measured": {
            "pictures": f"the last {KEPT} of the rendered pictures, not trained on",
            "drawn": measure(network, kept, labels),
            "through_the_autoencoder": measure(network, few, labels[:600]),
        },
        "limits": "It has seen drawn pictures of twelve subjects only. On photographs and paintings its "
        "attributes are "
        "guesses; colour and texture statistics stand next to it there.",
    }
    (folder / SHIPPED.with_suffix(".json").name).write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["measured"], indent=2))


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    p.add_argument("--autoencoder", type=Path, default=Path("runs/autoencoder/vae"))
    p.add_argument("--run", type=Path, default=Path("runs/picture_tower"))
    p.add_argument("--steps", type=int, default=28000)
    p.add_argument("--batch", type=int, default=48)
    p.add_argument("--soft", type=int, default=2000, help="pictures that also go through the autoencoder")
    p.add_argument(
        "--rich",
        type=int,
        default=18_000,
        help="pictures with four or five attributes, drawn next to the others",
    )
    p.add_argument("--workers", type=int, default=1)
    p.add_argument(
        "--threads", type=int, default=1, help="for each process; more than one helps only on an idle machine"
    )
    a = p.parse_args()
    plan = Plan(
        a.steps, a.batch, learning_rate=3e-3, decay=a.steps // 2, ema=0.99, weight_decay=0.02, every=100
    )
    launch(_work, a.run, a.workers, plan, a.pictures, a.autoencoder, a.soft, a.rich, a.threads)
    print(f"copy {a.run / SHIPPED.name} and its card to {SHIPPED.parent}")


if __name__ == "__main__":
    main()
