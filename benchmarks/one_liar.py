"""One lying device in each round of the recommended private run.

What it does to the encoder, with the server's bounds and without.

    python -m benchmarks.one_liar [--out FOLDER] [--release shipped|weak] [--aims ...] [--seeds N ...]
        [--quick]

Runs docs/private-run.toml, twenty rounds of some 900 of 2,000 virtual people, once for each aim of
`palate.simulations.attacks.one_liar`, each as it was before the bounds (the positive control) and as it is.
From the shipped encoder one sees what a liar can do; from the one that was made weak on purpose, with nobody
lying, what the bounds cost what people learn together. Each run is noted in FOLDER/cells.jsonl when it is
done, and a benchmark that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.cells import note_cell, read_cells
from palate.server.settings import RunSettings
from palate.shared.encoder import load_encoder
from palate.shared.subspace import load_subspace, subspace_of
from palate.shared.sum_noise import VOUCHED_SHARE
from palate.simulations.attacks.one_liar import AIMS, OneLiarOutcome, run_with_one_liar
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import (
    PEOPLE_SEED,
    STRANGERS_SEED,
    draw_pool,
    give_all_labels,
    meet_stranger,
)
from palate.simulations.experiments.comparison import WEAK
from palate.simulations.experiments.privacy_cost import PUBLIC_PICTURES

SETTINGS = Path(__file__).parent.parent / "docs" / "private-run.toml"
ROUNDS = 20


@dataclass(frozen=True)
class Cell:
    """One run."""

    release: str
    seed: int
    aim: str
    bounded: bool


@dataclass(frozen=True)
class Size:
    """How much is drawn."""

    people: int = 2_000
    strangers: int = 150
    pictures: int = 3_000
    rounds: int = ROUNDS
    devices: int = 900


QUICK = Size(people=60, strangers=4, pictures=700, rounds=2, devices=30)


def read_settings(size: Size) -> RunSettings:
    """Return the run's settings where a registrar vouches; with fewer devices each adds the same noise."""
    found = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    found["privacy"]["honest_share"] = VOUCHED_SHARE
    found |= {"rounds": size.rounds, "devices": size.devices, "quorum": max(2, size.devices * 9 // 10)}
    return RunSettings.from_json(json.dumps(found))


def run_cells(wanted: Sequence[Cell], size: Size, out: Path) -> dict[Cell, OneLiarOutcome]:
    """Run what is not done yet and return all that is wanted."""
    path = out / "cells.jsonl"
    done = read_cells(path, Cell, OneLiarOutcome)
    missing = [cell for cell in wanted if cell not in done]
    if missing:
        pool = draw_pool(size.pictures, out / "cache")
        shown, asked = pool.split()
        world, at = None, 0
        for cell in tqdm(missing, desc="runs of one liar", unit="run", mininterval=5, disable=None):
            if world is None or at != cell.seed:
                at = cell.seed
                who = make_people(size.people, PEOPLE_SEED, first=at * 10_000)
                new = make_people(size.strangers, STRANGERS_SEED, first=at * size.strangers)
                world = give_all_labels(who, shown, at), [meet_stranger(one, asked, at) for one in new]
            release = load_encoder() if cell.release == "shipped" else load_encoder(WEAK)
            subspace = load_subspace()
            if cell.release == "weak":
                public = draw_pool(min(1_000, size.pictures), out / "cache", first=PUBLIC_PICTURES)
                subspace = subspace_of(release, public.features, 64)
            done[cell] = run_with_one_liar(
                release, subspace, *world, read_settings(size), cell.aim, bounded=cell.bounded, seed=at
            )
            note_cell(path, cell, done[cell])
    return {cell: done[cell] for cell in wanted}


def table(found: dict[Cell, OneLiarOutcome]) -> str:
    """Return the figures as a table in Markdown."""
    head = [
        "from",
        "seed",
        "the liar's aim",
        "bounds",
        "liar's part, in clips",
        "correlation: mean",
        "least",
        "misty with itself",
        "with neon",
        "kept",
        "noise / signal",
        "released",
        "clip moved",
        "rounds",
        "held",
        "accuracy",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for cell, one in found.items():
        values = [
            cell.release,
            str(cell.seed),
            cell.aim,
            "yes" if cell.bounded else "no",
            f"{one.liar:.0f}",
            f"{one.mean_correlation:.3f}",
            f"{one.least_correlation:.3f}",
            f"{one.own:.3f}",
            f"{one.other:.2f}",
            f"{one.kept:.3f}",
            f"{one.noise_over_signal:.2f}",
            "yes" if one.released else "no",
            f"{one.clip:.2f}",
            str(one.rounds),
            str(one.held),
            f"{one.accuracy:.4f}",
        ]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def holds(found: dict[Cell, OneLiarOutcome]) -> list[str]:
    """Return what misses the bar, a line each.

    Correlations of .95 or no release, and a clip within 1.2-fold.
    """
    wrong = []
    for cell, one in found.items():
        if not cell.bounded or cell.release != "shipped":
            continue
        if one.released and one.least_correlation < 0.95:
            wrong.append(f"{cell}: released with a correlation of {one.least_correlation:.3f}")
        if not 1 / 1.2 - 1e-9 <= one.clip <= 1.2 + 1e-9:
            wrong.append(f"{cell}: the clip moved {one.clip:.2f}-fold")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status, 1 where the bar is missed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("demo-out") / "one-liar")
    p.add_argument("--release", choices=("shipped", "weak"), default="shipped")
    p.add_argument("--aims", nargs="+", choices=AIMS, default=AIMS)
    p.add_argument("--seeds", type=int, nargs="+", default=[1])
    p.add_argument("--quick", action="store_true", help="a few rounds of a few people: does everything run?")
    a = p.parse_args(arguments)
    a.out.mkdir(parents=True, exist_ok=True)
    wanted = [Cell(a.release, seed, aim, b) for seed in a.seeds for aim in a.aims for b in (False, True)]
    found = run_cells(wanted, QUICK if a.quick else Size(), a.out)
    text = table(found)
    (a.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    for line in (wrong := [] if a.quick else holds(found)):
        print(f"misses the bar: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
