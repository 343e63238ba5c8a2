"""What learning together is worth: the experiments `evidence` and `gain` as rows of the table.

    python -m benchmarks.evidence [--out FOLDER]

Runs `palate simulate evidence` (800 people, five seeds, eight methods) and `palate simulate gain` (2,000
people, three seeds), together about an hour on two quiet cores; they go on where they were ended. Where their
results.json lies in the folder it is read instead. With --quick one seed and fewer rounds, which says little.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.rows import Row, print_run

COMMAND = "python -m benchmarks.evidence"
OUT = Path(__file__).parent.parent / "build"
RIVALS = ("FedAvg of all", "FedPer", "FedRep")


def rows_of(found: dict[str, Any]) -> list[Row]:
    """Return the rows of an experiment's results.json."""
    methods = found["methods"]
    ours = methods["reconstruction"]
    extra = {
        "seeds": found["seeds"],
        "accuracy": {name: one["accuracy"] for name, one in methods.items()},
        "accuracy_with_comments": {name: one["accuracy_with_comments"] for name, one in methods.items()},
        "gap_closed_with_comments": found["gap_closed_with_comments"],
    }
    gap = float(found["gap_closed"])
    low, high = found["gap_closed_interval"]
    ahead = min(ours["accuracy"] - methods[name]["accuracy"] for name in RIVALS)
    return [
        Row(
            "strangers understood: share of the gap between local only and central that federation closes",
            round(gap, 3), "at least 0.90", gap >= 0.9, COMMAND, {**extra, "interval": [low, high]},
        ),
        Row(
            "ahead of FedAvg of all, FedPer and FedRep in the same run, points of accuracy, the least",
            round(100 * ahead, 1), "above 0", ahead > 0, COMMAND, {"seeds": found["seeds"]},
        ),
    ]  # fmt: skip


def gain_row(found: dict[str, Any]) -> Row:
    """Return the row of the experiment with many people."""
    ours, local = found["methods"]["reconstruction"], found["methods"]["local only"]
    gain = ours["accuracy"] - local["accuracy"]
    said = ours["accuracy_with_comments"] - local["accuracy_with_comments"]
    return Row(
        "gain of 2,000 people from a weak release, points of pairwise accuracy on strangers, from verdicts",
        round(100 * gain, 1), "at least 8", gain >= 0.08, COMMAND,
        {"seeds": found["seeds"], "with_comments": round(100 * said, 1)},
    )  # fmt: skip


def run(quick: bool = False, out: Path = OUT) -> list[Row]:
    """Run the experiments, or reads what they left."""
    return [*rows_of(_results("evidence", quick, out)), gain_row(_results("gain", quick, out))]


def _results(name: str, quick: bool, out: Path) -> dict[str, Any]:
    from palate.simulations.experiments.comparison import read_comparison, run_comparison, write_results

    folder = out / name
    path = folder / "results.json"
    if quick or not path.exists():
        experiment = read_comparison(name)
        if quick:
            folder = Path(tempfile.mkdtemp(prefix="palate-evidence-"))
            experiment = replace(
                experiment, people=100, strangers=20, pictures=1200, rounds=20, cohort=20, seeds=(1,)
            )
        with tqdm(total=1.0, desc=name, bar_format="{l_bar}{bar}| {elapsed}") as bar:

            def progress(what: str, done: float, total: float) -> None:
                bar.set_description(what)
                bar.update(done / total - bar.n)

            found = run_comparison(experiment, folder / "cache", progress)
        (path, *_) = write_results(found, folder)
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def main() -> None:
    """Run the command and return the exit status."""
    print_run(run, OUT, __doc__)


if __name__ == "__main__":
    main()
