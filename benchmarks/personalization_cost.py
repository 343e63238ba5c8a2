"""What personalization costs: each mode against the stock pipeline called with plain words, in the same run.

    python -m benchmarks.personalization_cost [--steps 20] [--runs 15] [--folder ...]

All draw on one thread, as the device draws with the shipped model. The stock pipeline and the modes take
turns in a random order, and the figure is the median over turns of the ratio to the stock picture of the same
turn, so that a busy machine disturbs all alike. The profile holds ten likes and six dislikes. The first
picture of a profile also encodes its attributes; that is printed next to the figures, in seconds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from benchmarks.rows import Row, print_rows
from palate.client.painter.generator import DEFAULT_MODE, MODES, Generator, Request, load_generator
from palate.client.runtime.threads import one_thread

COMMAND = "python -m benchmarks.personalization_cost"
PROMPT = "a house by the sea"
SEED = 20_000_000
LIKES = (
    "watercolour",
    "pastel",
    "misty",
    "soft light",
    "calm",
    "muted",
    "minimalist",
    "flowing lines",
    "golden hour",
    "dreamy",
)
DISLIKES = ("neon", "pixel art", "busy", "high contrast", "bold outlines", "grainy")
BARS = {DEFAULT_MODE: 0.05, "embedding": 0.02}


def _clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    with one_thread():
        work()
    return time.perf_counter() - start


def _works(generator: Generator, steps: int) -> dict[str, Callable[[], object]]:
    """Measure the stock pipeline as anybody calls it, and one personal picture in each mode."""
    import torch

    likes = tuple((words, 1.0 - 0.05 * i) for i, words in enumerate(LIKES))
    dislikes = tuple((words, 1.0 - 0.05 * i) for i, words in enumerate(DISLIKES))
    request = Request(PROMPT, steps=steps, seed=SEED, likes=likes, dislikes=dislikes)

    def stock() -> object:
        return generator.pipeline(
            PROMPT,
            num_inference_steps=steps,
            guidance_scale=generator.guidance_scale(request),
            generator=torch.Generator().manual_seed(SEED),
        )

    def personal(mode: str) -> Callable[[], object]:
        asked = replace(request, mode=mode)
        return lambda: generator.generate(asked)

    return {"stock": stock, **{mode: personal(mode) for mode in MODES}}


def measure(folder: Path | None = None, *, steps: int = 20, runs: int = 15) -> list[Row]:
    """Return a row for each mode with a bar; other modes and seconds stand in the extra figures."""
    works = _works(load_generator(folder), steps)
    first = {name: round(_clock(work), 3) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(0)
    for _ in tqdm(range(runs), desc="pictures", unit="turn", mininterval=1, disable=None):
        for name in order.sample(list(works), len(works)):
            times[name].append(_clock(works[name]))
    cost = {
        mode: statistics.median(t / s for t, s in zip(times[mode], times["stock"], strict=True)) - 1
        for mode in MODES
    }
    extra = {
        "cost": {mode: round(value, 4) for mode, value in cost.items()},
        "seconds": {name: round(statistics.median(some), 3) for name, some in times.items()},
        "first_seconds": first,
        "steps": steps,
    }
    return [
        Row(
            f"cost of personalization, {mode} mode, over the stock pipeline",
            round(cost[mode], 4),
            f"at most {bar:g}",
            cost[mode] <= bar,
            COMMAND,
            extra,
        )
        for mode, bar in BARS.items()
    ]


def run(quick: bool = False) -> list[Row]:
    """Return both rows; `quick` takes fewer turns."""
    return measure(runs=3 if quick else 15)


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--runs", type=int, default=15)
    p.add_argument("--folder", type=Path, default=None, help="another pipeline than the shipped one")
    a = p.parse_args()
    print_rows(measure(a.folder, steps=a.steps, runs=a.runs))


if __name__ == "__main__":
    main()
