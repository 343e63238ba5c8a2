"""Trains the shipped text-to-image model.

A small latent diffusion U-Net in the Stable Diffusion format of diffusers.

    python -m palate.simulations.recipes.generator --pictures build/pictures --vae runs/autoencoder/vae --run
    runs/generator

Latents of the frozen autoencoder, states of the frozen text tower (`conditions`), v-prediction (Salimans and
Ho, 2022) on a cosine schedule (Nichol and Dhariwal, 2021) with logit-normal times (Esser et al., 2024). The
last step writes the folder that `StableDiffusionPipeline.from_pretrained` reads. A run may be prolonged with
a larger --steps, or brought to its end with a smaller one: the learning rate falls over the last --decay
steps.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from palate.simulations.recipes.conditions import WIDTH, Conditions, prepare
from palate.simulations.recipes.training import Plan, Worker, launch, train
from palate.simulations.world.shards import load
from palate.simulations.world.truth import Truth

CHANNELS = 8
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


def make_unet(widths: tuple[int, int, int] = (64, 128, 192)) -> Any:
    """Return an untrained U-Net for 16 × 16 × 8 latents, 11.5 M weights at the default widths."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())  # at 64 positions the plain product is faster than the fused one
    return unet


@torch.no_grad()
def encode_pictures(
    folder: Path, vae_folder: Path, shards: list[np.ndarray], device: torch.device
) -> np.ndarray:
    """Return the latents of all pictures, scaled to unit variance.

    (pictures, 8, 16, 16) float16, cached in `folder`.
    """
    from diffusers import AutoencoderTiny
    from tqdm import tqdm

    path = folder / "latents.npy"
    if not path.exists():
        vae = AutoencoderTiny.from_pretrained(vae_folder).to(device, torch.bfloat16)
        rows = []
        for shard in tqdm(shards, desc="encoding pictures", mininterval=10):
            for start in range(0, len(shard), 50):
                x = torch.from_numpy(shard[start : start + 50].copy()).to(device).permute(0, 3, 1, 2)
                z = (
                    vae.encode((x.float() / 127.5 - 1).to(torch.bfloat16)).latents.float()
                    * vae.config.scaling_factor
                )
                rows.append(z.cpu().half().numpy())
        part = folder / "latents.part.npy"
        np.save(part, np.concatenate(rows))
        part.replace(path)
    latents: NDArray[np.float16] = np.load(path)
    return latents


def _work(
    worker: Worker, plan: Plan, pictures: Path, vae: Path, tower: Path, widths: tuple[int, int, int]
) -> None:
    shards, truths = load(pictures)
    cache = worker.folder / "cache"
    if worker.rank == 0:
        cache.mkdir(parents=True, exist_ok=True)
        prepare(cache, tower, truths, worker.device)
    elif not (cache / "latents.npy").exists():
        encode_pictures(cache, vae, shards, worker.device)
    if worker.world > 1:
        dist.barrier()
    latents = torch.from_numpy(encode_pictures(cache, vae, shards, worker.device))
    conditions = prepare(cache, tower, truths, worker.device)
    torch.manual_seed(0)  # the same first weights in every process
    unet = make_unet(widths).to(worker.device, memory_format=torch.channels_last)
    weights = train(worker, plan, unet, _diffusion_loss(worker, plan, unet, latents, truths, conditions))
    if worker.rank == 0:
        weights.export()
        save_pipeline(unet, vae, tower, worker.folder / "pipeline")


def _diffusion_loss(
    worker: Worker, plan: Plan, unet: nn.Module, latents: Tensor, truths: list[Truth], conditions: Conditions
) -> Callable[[int], tuple[Tensor, dict[str, float]]]:
    """Return the v-prediction loss of one worker's share of a batch, in one form of conditioning."""
    from diffusers import DDPMScheduler

    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    share = plan.batch // worker.world

    def loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        g = worker.random
        rng = random.Random(int(torch.randint(2**62, (1,), generator=g)))
        numbers = torch.randint(len(truths), (share,), generator=g).tolist()
        z = latents[numbers].float()
        form = rng.random()
        if form < 0.45:
            states = conditions.stock(numbers, rng)
        elif form < 0.85:
            states = conditions.tokens([truths[i] for i in numbers], rng)
        else:
            states = conditions.embedding([truths[i] for i in numbers], rng)
        t = (1000 * torch.sigmoid(torch.randn(share, generator=g) * 1.1 + 0.4)).long().clamp(0, 999)
        a = alphas[t].view(-1, 1, 1, 1)
        e = torch.randn(z.shape, generator=g)
        x = a.sqrt() * z + (1 - a).sqrt() * e
        v = (a.sqrt() * e - (1 - a).sqrt() * z).to(worker.device)
        x = x.to(worker.device, worker.dtype).contiguous(memory_format=torch.channels_last)
        out = unet(x, t.to(worker.device), states.to(worker.device, worker.dtype)).sample.float()
        return (out - v).pow(2).mean(), {}

    return loss


def save_pipeline(unet: nn.Module, vae: Path, tower: Path, out: Path) -> None:
    """Write the whole pipeline, fp16 safetensors, in the folder layout of Stable Diffusion."""
    from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, StableDiffusionPipeline
    from transformers import AutoTokenizer, BertModel

    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, algorithm_type="dpmsolver++", solver_order=2)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(vae),
        text_encoder=BertModel.from_pretrained(tower / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(tower / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    pipeline.save_pretrained(out, safe_serialization=True)
    # transformers loads a model in the type that its config names; the stock pipeline expects fp32 next to
    # its U-Net.
    config = out / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    p.add_argument("--vae", type=Path, default=Path("runs/autoencoder/vae"))
    p.add_argument(
        "--tower", type=Path, default=Path("client/weights/generator"), help="text_encoder/ and tokenizer/"
    )
    p.add_argument("--run", type=Path, default=Path("runs/generator"))
    p.add_argument("--steps", type=int, default=11400)
    p.add_argument("--decay", type=int, default=2400)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--rate", type=float, default=9e-4)
    p.add_argument("--widths", type=int, nargs=3, default=(64, 128, 192))
    p.add_argument("--workers", type=int, default=2)
    a = p.parse_args()
    plan = Plan(a.steps, a.batch, a.rate, decay=a.decay, ema=0.9985, every=200)
    launch(_work, a.run, a.workers, plan, a.pictures, a.vae, a.tower, tuple(a.widths))


if __name__ == "__main__":
    main()
