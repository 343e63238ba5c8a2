"""Renders the pictures that the other recipes learn from, in shards that survive an interruption.

    python -m palate.simulations.world.shards --count 48000 --out build/pictures

Each shard is a NumPy file of (2000, 128, 128, 3) uint8 and a JSON file of its truths. Picture number i is rendered from
seed i, so a data set is named by its subjects, its first number and its count alone. By convention the recipes of shipped
weights use numbers below 10 million, the judge 10 to 20 million, benchmarks and tests above.

`--subjects` says which: the world's first twelve ("twelve"), these and what the painter learns of the artists' ("painted"),
or these and all of the artists' ("all").
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palate.simulations.world.render import render
from palate.simulations.world.scenes import all_subjects, sample_scene
from palate.simulations.world.truth import SUBJECTS, Truth, sample_truth

SHARD = 2000
CHOICES = ("twelve", "painted", "all")
TWELVE_SHARE = 0.15
"""How many pictures of the larger worlds show one of the first twelve subjects: they keep their share."""
Pictures = NDArray[np.uint8]  # (2000, 128, 128, 3), one shard


def truth_of(number: int, subjects: str = "twelve") -> Truth:
    """Return the truth of picture `number`; `subjects` is one of `CHOICES`."""
    rng = random.Random(f"picture {number}")
    if subjects == "twelve":
        return sample_truth(rng)
    if rng.random() < TWELVE_SHARE:
        return sample_truth(rng)
    names = all_subjects(painted=subjects == "painted")[len(SUBJECTS) :]
    # Shapes before finishes: a third of the pictures show one attribute at most.
    most = 1 if rng.random() < 1 / 3 else None
    return sample_scene(rng, rng.choice(names), companions=names, most_attributes=most)


def to_json(truth: Truth) -> dict[str, object]:
    """Return a truth as plain values, which `Truth(**values)` takes."""
    values: dict[str, object] = {"subject": truth.subject, "attributes": dict(truth.attributes)}
    values["setting"] = truth.setting
    if truth.companion is not None or truth.count != 1:
        values |= {"companion": truth.companion, "count": truth.count}
    return values


def _render_shard(first: int, folder: Path, subjects: str) -> Path:
    path = folder / f"{first:09d}.npy"
    if not path.exists():
        truths = [truth_of(i, subjects) for i in range(first, first + SHARD)]
        pictures = np.stack([render(t, i) for i, t in enumerate(truths, first)])
        path.with_suffix(".json").write_text(json.dumps([to_json(t) for t in truths]))
        part = path.with_suffix(".part")
        with part.open("wb") as f:
            np.save(f, pictures)
        part.replace(path)
    return path


def render_all(folder: Path, count: int, first: int = 0, workers: int = 2, subjects: str = "twelve") -> None:
    """Render pictures first .. first + count - 1 (rounded up to whole shards) that are not there yet."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    starts = range(first, first + count, SHARD)
    with ProcessPoolExecutor(workers) as pool:
        done: Iterable[Path] = pool.map(
            _render_shard, starts, [folder] * len(starts), [subjects] * len(starts)
        )
        for _ in tqdm(done, total=len(starts), desc="rendering", unit="shard"):
            pass


def load(folder: Path, count: int | None = None) -> tuple[list[Pictures], list[Truth]]:
    """Memory-mapped pictures (a list of (2000, 128, 128, 3) arrays) and the truths, in order of their numbers.

    Raises FileNotFoundError where the folder holds no pictures.
    """
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise FileNotFoundError(
            f"no pictures in {folder}: run python -m palate.simulations.world.shards first"
        )
    if count is not None:
        paths = paths[: -(-count // SHARD)]
    pictures = [np.load(p, mmap_mode="r") for p in paths]
    truths = [Truth(**t) for p in paths for t in json.loads(p.with_suffix(".json").read_text())]
    return pictures, truths


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=48_000)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("build/pictures"))
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--subjects", choices=CHOICES, default="twelve")
    a = p.parse_args()
    render_all(a.out, a.count, a.first, a.workers, a.subjects)


if __name__ == "__main__":
    main()
