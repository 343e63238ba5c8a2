"""What the recipes share: training in processes that resumes after a kill and logs its losses.

On the CPU a recipe runs one process per core with bfloat16 weights, fp32 master weights and the gradients
summed through `torch.distributed` (gloo on the loopback interface): on two cores that is nearly twice as fast
as one process with two threads. On CUDA it runs one process. The average of the weights over time (EMA) is
what is shipped.

The learning rate warms up, stays, and falls linearly over the last `decay` steps (Hägele et al., Scaling Laws
and Compute-Optimal Training Beyond Fixed Training Durations, 2024), so a run can be prolonged, or ended
early, by giving another number of steps when it is resumed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    `batch` counts samples over all processes; `ema` is the decay per step.
    """

    steps: int
    batch: int
    learning_rate: float
    decay: int
    warmup: int = 50
    ema: float = 0.999
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    every: int = 250  # steps between checkpoints

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate * min(
            1.0, (step + 1) / self.warmup, max(0.0, (self.steps - step) / self.decay)
        )


@dataclass(frozen=True)
class Worker:
    """One training process: its rank among `world`, where it computes, and its own source of randomness."""

    rank: int
    world: int
    device: torch.device
    folder: Path
    random: torch.Generator

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16: half the memory traffic, and twice the arithmetic where the CPU has it."""
        return torch.bfloat16


class Weights:
    """The trained parameters of a model as flat vectors: working copy, fp32 master, EMA and AdamW moments."""

    def __init__(self, parameters: Iterable[nn.Parameter], worker: Worker, plan: Plan) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.worker, self.plan, self.step = worker, plan, 0
        flat = torch.cat([p.detach().float().reshape(-1) for p in self.parameters]).to(worker.device)
        self.master = flat.clone()
        self.ema = flat.clone()
        self.working = flat.to(worker.dtype)
        offset = 0
        for p in self.parameters:
            p.data = self.working[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()
        self.master.grad = torch.zeros_like(self.master)
        self.optimizer = torch.optim.AdamW(
            [self.master],
            lr=plan.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=plan.weight_decay,
            fused=True,
        )

    def update(self) -> float:
        """Apply the gradients that backward left, summed over the processes; returns their norm."""
        parts = [
            torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1) for p in self.parameters
        ]
        gradient = torch.cat(parts)
        for p in self.parameters:
            p.grad = None
        if self.worker.world > 1:
            dist.all_reduce(gradient)
        total = gradient.float() / self.worker.world
        norm = float(total.norm())
        if norm == norm:  # a NaN step is skipped
            total.mul_(min(1.0, self.plan.clip_norm / (norm + 1e-6)))
            self.master.grad = total
            self.optimizer.param_groups[0]["lr"] = self.plan.rate(self.step)
            self.optimizer.step()
            self.working.copy_(self.master)
            self.ema.lerp_(self.master, 1 - min(self.plan.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return norm

    def load(self, path: Path) -> None:
        """Resumes from a checkpoint."""
        with safe_open(str(path), "pt") as f:
            self.master.copy_(f.get_tensor("master"))
            self.ema.copy_(f.get_tensor("ema"))
            self.step = int(f.metadata()["step"])
            state = self.optimizer.state[self.master]
            state["step"] = torch.tensor(float(self.step))
            state["exp_avg"] = f.get_tensor("first").to(self.master.device)
            state["exp_avg_sq"] = f.get_tensor("second").to(self.master.device)
        self.working.copy_(self.master)

    def save(self, path: Path) -> None:
        """Write a checkpoint; the old one stays until the new one is whole."""
        state = self.optimizer.state[self.master]
        tensors = {
            "master": self.master,
            "ema": self.ema,
            "first": state["exp_avg"],
            "second": state["exp_avg_sq"],
        }
        part = path.with_suffix(".part")
        save_file(
            {k: v.detach().contiguous() for k, v in tensors.items()}, str(part), {"step": str(self.step)}
        )
        os.replace(part, path)

    def export(self) -> None:
        """Put the EMA into the model, as fp32."""
        offset = 0
        for p in self.parameters:
            p.data = self.ema[offset : offset + p.numel()].view(p.shape).clone()
            offset += p.numel()


def train(
    worker: Worker, plan: Plan, model: nn.Module, loss: Callable[[int], tuple[Tensor, dict[str, float]]]
) -> Weights:
    """Run the plan on a model from its last checkpoint.

    `loss(step)` draws this worker's share of a batch and returns the loss and figures to log. Rank 0 appends
    the means of the figures to losses.jsonl every 50 steps and shows a progress bar.
    """
    from tqdm import tqdm

    weights = Weights(model.parameters(), worker, plan)
    checkpoint = worker.folder / "checkpoint.safetensors"
    if checkpoint.exists():
        weights.load(checkpoint)
        worker.random.manual_seed(1_000_003 * (worker.rank + 1) + weights.step)
    sums: dict[str, float] = {}
    started = time.monotonic()
    bar = tqdm(total=plan.steps, initial=weights.step, unit="step", disable=worker.rank > 0, mininterval=10)
    while weights.step < plan.steps:
        value, figures = loss(weights.step)
        value.backward()  # type: ignore[no-untyped-call]
        norm = weights.update()
        bar.update()
        for name, figure in {"loss": float(value.detach()), "norm": norm, **figures}.items():
            sums[name] = sums.get(name, 0.0) + figure
        if worker.rank == 0 and weights.step % 50 == 0:
            line = {"step": weights.step, "seconds": round(time.monotonic() - started, 1)}
            means = {k: round(v / 50, 5) for k, v in sums.items()}
            with (worker.folder / "losses.jsonl").open("a") as f:
                f.write(json.dumps({**line, **means}) + "\n")
            bar.set_postfix(means)
            sums = {}
        if worker.rank == 0 and (weights.step % plan.every == 0 or weights.step == plan.steps):
            weights.save(checkpoint)
    bar.close()
    return weights


def launch(work: Callable[..., None], folder: Path, workers: int, *arguments: object) -> None:
    """Run work(worker, *arguments) in `workers` processes, or in this one on CUDA."""
    folder.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available():
        work(Worker(0, 1, torch.device("cuda"), folder, torch.Generator().manual_seed(0)), *arguments)
        return
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # numpy's threads would spin against those of the other processes; torch is told in each.
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads(workers)))
    spawn(_process, (work, folder, workers, port, arguments), nprocs=workers)  # type: ignore[no-untyped-call]


def _threads(world: int) -> int:
    return max(1, (os.cpu_count() or 1) // world)


def _process(
    rank: int, work: Callable[..., None], folder: Path, world: int, port: int, arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(_threads(world))
    if world > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    work(Worker(rank, world, torch.device("cpu"), folder, torch.Generator().manual_seed(rank)), *arguments)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
