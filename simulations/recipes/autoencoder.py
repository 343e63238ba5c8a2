"""Trains the small autoencoder of the shipped generator.

128 × 128 pictures to 16 × 16 latents of 8 channels and back.

    python -m palate.simulations.recipes.autoencoder --run runs/autoencoder python -m
    palate.simulations.recipes.autoencoder --run runs/textured --start runs/autoencoder/vae --texture 0.6

The architecture is diffusers' AutoencoderTiny (after Bohan's TAESD, 2023). The loss is L1, gradients, squared
error at several scales, and squared error of opponent colours (without which green turns brown); the latents
are held near zero mean and unit variance. The second command goes on under a loss on texture energy, for
weave, dots and hatching; from the start that loss makes stripes. With --freeze-encoder the decoder goes on
alone, and latents keep their meaning.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.simulations.recipes.training import Plan, Worker, launch, train
from palate.simulations.world.shards import SHARD, Pictures, load

CHANNELS = 8
CROP = 64


def make_autoencoder(width: int = 48) -> Any:
    """Return an untrained autoencoder, its blocks `width` channels wide: 1.1 M weights at the default."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        latent_channels=CHANNELS,
        num_encoder_blocks=(1, 1, 2, 2),
        num_decoder_blocks=(3, 3, 2, 1),
    )


def texture_energy(x: Tensor) -> Tensor:
    """Return how much fine structure there is around each point.

    (n, 3, h, w) to (n, 3, h / 4 - 1, w / 4 - 1).
    """
    fine = x - F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    return (F.avg_pool2d(fine * fine, 8, 4) + 1e-4).sqrt()


def reconstruction_loss(x: Tensor, y: Tensor) -> Tensor:
    """Return L1, gradients and squared errors over scales and of green against magenta, of (n, 3, h, w)."""
    e = y - x
    loss = e.abs().mean()
    loss = loss + 0.25 * ((e[..., 1:] - e[..., :-1]).abs().mean() + (e[:, :, 1:] - e[:, :, :-1]).abs().mean())
    for k in (1, 2, 4, 8):
        loss = loss + 3 * F.avg_pool2d(e, k).pow(2).mean()
    opponent = e[:, 1:2] - 0.5 * (e[:, 0:1] + e[:, 2:3])
    for k, weight in ((2, 4.0), (8, 12.0)):
        loss = loss + weight * F.avg_pool2d(opponent, k).pow(2).mean()
    return loss


def _work(
    worker: Worker, plan: Plan, pictures: Path, start: Path | None, texture_weight: float, freeze: bool
) -> None:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)  # the same first weights in every process
    model = AutoencoderTiny.from_pretrained(start) if start else make_autoencoder()
    model = model.to(worker.device)
    if freeze:
        model.encoder.requires_grad_(False)
        model.encoder.to(worker.dtype)
    shards, truths = load(pictures)
    share = plan.batch // worker.world

    def batch() -> Tensor:
        crops = []
        for n, oy, ox in torch.stack(
            [
                torch.randint(len(truths), (share,), generator=worker.random),
                torch.randint(0, 65, (share,), generator=worker.random) // 8 * 8,
                torch.randint(0, 65, (share,), generator=worker.random) // 8 * 8,
            ],
            1,
        ).tolist():
            crops.append(shards[n // SHARD][n % SHARD, oy : oy + CROP, ox : ox + CROP])
        x = torch.from_numpy(np.stack(crops)).to(worker.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x.contiguous(memory_format=torch.channels_last)

    def loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        x = batch()
        z = model.encode(x.to(worker.dtype)).latents
        noisy = z + 0.04 * torch.randn(z.shape, generator=worker.random).to(z)
        y = model.decode(noisy).sample.float()
        value = reconstruction_loss(x, y)
        texture = (texture_energy(x) - texture_energy(y)).abs().mean()
        value = value + texture_weight * texture
        if not freeze:
            spread = z.float()
            value = value + 0.03 * (
                spread.mean((0, 2, 3)).pow(2).mean() + (spread.std((0, 2, 3)) - 0.9).pow(2).mean()
            )
        l1 = float((y - x).abs().mean().detach())
        return value, {"l1": l1, "texture": float(texture.detach())}

    weights = train(worker, plan, model, loss)
    if worker.rank == 0:
        weights.export()
        model = model.float()
        _measure_and_save(model, shards, worker)


@torch.no_grad()
def _measure_and_save(model: Any, shards: list[Pictures], worker: Worker) -> None:
    x = torch.from_numpy(shards[-1][-256:].copy()).to(worker.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    z = torch.cat([model.encode(x[i : i + 32]).latents for i in range(0, len(x), 32)])
    y = torch.cat([model.decode(z[i : i + 32]).sample for i in range(0, len(z), 32)]).clamp(-1, 1)
    psnr = -10 * ((y - x).pow(2).mean((1, 2, 3)) / 4).log10()
    print(
        f"PSNR {psnr.mean():.2f} dB on 256 pictures; latents: mean {z.mean():.3f}, standard deviation "
        f"{z.std():.3f}"
    )
    model.register_to_config(scaling_factor=round(1 / float(z.std()), 4))
    model.save_pretrained(worker.folder / "vae")


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    p.add_argument("--run", type=Path, default=Path("runs/autoencoder"))
    p.add_argument("--start", type=Path, default=None, help="a trained autoencoder to go on from")
    p.add_argument("--texture", type=float, default=0.0, help="weight of the loss on texture energy")
    p.add_argument("--freeze-encoder", action="store_true")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--steps", type=int, default=4500)
    p.add_argument("--batch", type=int, default=16, help="crops of 64 × 64 per step, over all processes")
    p.add_argument("--workers", type=int, default=2)
    a = p.parse_args()
    plan = Plan(a.steps, a.batch, a.rate, decay=a.steps * 2 // 3, ema=0.99)
    launch(_work, a.run, a.workers, plan, a.pictures, a.start, a.texture, a.freeze_encoder)


if __name__ == "__main__":
    main()
