"""How well the rules against lying devices hold.

Attacks, shares of liars and rules, with masks over groups and without.

    python -m benchmarks.many_liars [--out FOLDER] [--quick] [--seeds N ...]

One run of a federation for each cell of `simulations/experiments/many_liars.toml`; what is lost is counted in
points of pairwise accuracy on people who took no part, against the same people with no liar and a plain mean.
For the taste backdoor it is also counted how much more often a disliked picture with the pushed attribute is
put above a liked one without it. Each cell is noted in FOLDER/cells.jsonl when it is done, and a run that was
stopped goes on from there. Writes results.json, table.md and plot.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.cells import note_cell, read_cells
from palate.shared.encoder import load_encoder
from palate.simulations.attacks.many_liars import (
    Defence,
    LiarsExperiment,
    LiarsOutcome,
    draw_participants,
    read_liars_experiment,
    run_liars,
)
from palate.simulations.crowd.population import draw_pool
from palate.simulations.experiments.comparison import WEAK

COMMAND = "python -m benchmarks.many_liars"
NOBODY = "nobody"
PLAIN = Defence("mean", 1)


@dataclass(frozen=True)
class Cell:
    """One run: who lies how, against which defence, in which world."""

    seed: int
    share: float
    attack: str
    defence: str


def cells(experiment: LiarsExperiment) -> Iterator[tuple[Cell, Defence]]:
    """Yield all runs, those without liars first, then seed by seed."""
    for seed in experiment.seeds:
        for defence in experiment.defences:
            yield Cell(seed, 0.0, NOBODY, defence.name), defence
        for share in experiment.shares:
            for attack in experiment.attacks:
                for defence in experiment.defences:
                    yield Cell(seed, share, attack, defence.name), defence


def run_cells(experiment: LiarsExperiment, out: Path) -> dict[Cell, LiarsOutcome]:
    """Run what is not done yet and return all runs of the experiment."""
    path = out / "cells.jsonl"
    done = read_cells(path, Cell, LiarsOutcome)
    pool = draw_pool(experiment.pictures, out / "cache")
    release = load_encoder(WEAK)
    crowds: dict[int, Any] = {}
    wanted = list(cells(experiment))
    missing = [(cell, defence) for cell, defence in wanted if cell not in done]
    for cell, defence in tqdm(missing, desc="federations", unit="run", mininterval=5, disable=None):
        if cell.seed not in crowds:
            crowds = {cell.seed: draw_participants(experiment, release, pool, cell.seed)}
        attack = experiment.attacks[0] if cell.attack == NOBODY else cell.attack
        done[cell] = run_liars(crowds[cell.seed], experiment, defence, share=cell.share, attack=attack)
        note_cell(path, cell, done[cell])
    return {cell: done[cell] for cell, _ in wanted}


def points_lost(
    experiment: LiarsExperiment, done: dict[Cell, LiarsOutcome], share: float, attack: str, defence: str
) -> float:
    """Return points of accuracy lost against no liars and a plain mean without masks, the mean over seeds."""
    lost = [
        done[Cell(seed, 0.0, NOBODY, PLAIN.name)].accuracy - done[Cell(seed, share, attack, defence)].accuracy
        for seed in experiment.seeds
    ]
    return 100 * float(np.mean(lost))


def pushed(experiment: LiarsExperiment, done: dict[Cell, LiarsOutcome], share: float, defence: str) -> float:
    """Return by how many points more often the backdoor's pictures win wrongly, the mean over seeds."""
    more = [
        done[Cell(seed, share, "taste backdoor", defence)].pushed_wins
        - done[Cell(seed, 0.0, NOBODY, PLAIN.name)].pushed_wins
        for seed in experiment.seeds
    ]
    return 100 * float(np.mean(more))


def summarize(experiment: LiarsExperiment, done: dict[Cell, LiarsOutcome]) -> dict[str, Any]:
    """Return the figures as plain JSON."""
    defences = [one.name for one in experiment.defences]
    plain = [done[Cell(seed, 0.0, NOBODY, PLAIN.name)] for seed in experiment.seeds]
    lost = {
        f"{share:g}": {
            attack: {name: round(points_lost(experiment, done, share, attack, name), 2) for name in defences}
            for attack in experiment.attacks
        }
        for share in experiment.shares
    }
    return {
        "title": experiment.title,
        "command": COMMAND,
        "accuracy_without_liars": round(float(np.mean([one.accuracy for one in plain])), 4),
        "cost_without_liars": {n: round(points_lost(experiment, done, 0.0, NOBODY, n), 2) for n in defences},
        "points_lost": lost,
        "worst": {
            share: {name: max(row[name] for row in by_attack.values()) for name in defences}
            for share, by_attack in lost.items()
        },
        "backdoor_points": {
            f"{share:g}": {name: round(pushed(experiment, done, share, name), 2) for name in defences}
            for share in experiment.shares
            if "taste backdoor" in experiment.attacks
        },
        "seeds": list(experiment.seeds),
    }


def table(experiment: LiarsExperiment, found: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown, defences down, attacks across."""
    lines = [
        f"{experiment.title}. Accuracy with nobody lying and a plain mean: "
        f"{found['accuracy_without_liars']:.3f}.",
        "",
    ]
    head = ["defence", "liars", "nobody", *experiment.attacks, "worst", "backdoor wins more often"]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for defence in experiment.defences:
        name = defence.name
        for share in found["points_lost"]:
            row = found["points_lost"][share]
            values = [f"{found['cost_without_liars'][name]:.1f}"]
            values += [f"{row[attack][name]:.1f}" for attack in experiment.attacks]
            values += [f"{found['worst'][share][name]:.1f}"]
            values += [f"{found['backdoor_points'][share][name]:+.1f}" if found["backdoor_points"] else ""]
            lines.append(f"| {name} | {float(share):.0%} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def plot(experiment: LiarsExperiment, found: dict[str, Any], path: Path) -> Path:
    """Draw a heat map of the points lost for each share of liars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [one.name for one in experiment.defences]
    shares = sorted(found["points_lost"], key=float)
    figure, panels = plt.subplots(
        1, len(shares), figsize=(5.2 * len(shares) + 1, 0.42 * len(names) + 2), sharey=True, squeeze=False
    )
    for axes, share in zip(panels[0], shares, strict=True):
        values = np.array(
            [[found["points_lost"][share][attack][name] for attack in experiment.attacks] for name in names]
        )
        image = axes.imshow(values, cmap="RdYlGn_r", vmin=-1, vmax=8, aspect="auto")
        axes.set_xticks(range(len(experiment.attacks)), experiment.attacks, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{float(share):.0%} liars")
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7)
    figure.colorbar(image, ax=panels[0].tolist(), label="points of accuracy lost", fraction=0.02, pad=0.01)
    figure.suptitle(experiment.title, fontsize=10)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("demo-out") / "many-liars")
    p.add_argument("--quick", action="store_true", help="a few rounds of a few people: does everything run?")
    p.add_argument("--seeds", type=int, nargs="+", help="instead of the file's")
    a = p.parse_args(arguments)
    experiment = read_liars_experiment()
    if a.seeds:
        experiment = replace(experiment, seeds=tuple(a.seeds))
    if a.quick:
        experiment = replace(
            experiment, people=40, strangers=4, pictures=400, rounds=2, cohort=12, shares=(0.2,), seeds=(1,)
        )
    a.out.mkdir(parents=True, exist_ok=True)
    found = summarize(experiment, run_cells(experiment, a.out))
    (a.out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = table(experiment, found)
    (a.out / "table.md").write_text(text, encoding="utf-8")
    plot(experiment, found, a.out / "plot.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
