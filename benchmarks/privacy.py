"""What privacy and few bytes cost: the privacy experiment as rows of the table.

    python -m benchmarks.privacy [--out FOLDER]

Runs `python -m palate.simulations.experiments.privacy_cost` (10,000 people, five seeds; about forty minutes
on two quiet cores, and it goes on where it was ended), or reads the results.json that it left in the folder.
With --quick one seed and 300 people, which says little.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, print_run
from palate.shared.wire import TASK_BYTES, UPDATE_BYTES

COMMAND = "python -m benchmarks.privacy"
OUT = Path(__file__).parent.parent / "build" / "privacy"
EPSILON = 2.0
HALF_COUNTED = 1.08
"""What runs have counting on all noise that have `EPSILON` counting on half of it (docs/private-run.toml)."""


def rows_of_results(results: Mapping[str, Any]) -> list[Row]:
    """Return the rows of an experiment's results.json."""
    from palate.simulations.experiments.privacy_cost_report import rows_of

    found = rows_of(results)
    people = results["experiment"]["people"]
    noised = [one for one in found if one["kind"] == "epsilon" and one["value"] is not None]
    (at,) = (one for one in noised if one["value"] == EPSILON)
    (half,) = (one for one in noised if one["value"] == HALF_COUNTED)
    planned = [one for one in found if one["kind"] == "plan"]
    (unsampled,) = (one for one in planned if one["value"] == EPSILON)
    lost = -100 * at["difference"]
    steps = results["experiment"]["plan"]["rounds"]
    few = [one for one in found if one["kind"] == "bits" and -100 * one["difference"] <= 0.5]
    best = max(few, key=lambda one: one["times_fewer"])
    extra = {
        "people": people,
        "seeds": at["seeds"],
        "half_width_points": None if at["half_width"] is None else round(100 * at["half_width"], 2),
        "epsilon_by_pld": at["epsilon"],
        "noise_multiplier": at["noise_multiplier"],
        "points_by_epsilon": {f"{one['value']:g}": round(100 * one["difference"], 2) for one in noised},
        "accuracy": {"release": found[0]["accuracy"], "open": found[1]["accuracy"]},
    }
    return [
        Row(
            f"points of accuracy lost at epsilon {EPSILON:g} per device, {people:,} people",
            round(lost, 2),
            "at most 2",
            lost <= 2 and people >= 10_000,
            COMMAND,
            extra,
        ),
        Row(
            "the same with the noise of docs/private-run.toml, which counts on half of it for epsilon "
            f"{EPSILON:g}",
            round(-100 * half["difference"], 2),
            "at most 2",
            -100 * half["difference"] <= 2 and people >= 10_000,
            COMMAND,
            {
                "half_width_points": None
                if half["half_width"] is None
                else round(100 * half["half_width"], 2),
                "epsilon_counting_on_all": half["epsilon"],
                "noise_multiplier": half["noise_multiplier"],
            },
        ),
        Row(
            f"the same where devices cannot be sampled, with a noise plan of {steps} rounds",
            round(-100 * unsampled["difference"], 2),
            "at most 2",
            -100 * unsampled["difference"] <= 2 and people >= 10_000,
            COMMAND,
            {
                "half_width_points": None
                if unsampled["half_width"] is None
                else round(100 * unsampled["half_width"], 2),
                "epsilon_by_pld": unsampled["epsilon"],
                "noise_multiplier": unsampled["noise_multiplier"],
                "points_by_epsilon": {
                    f"{one['value']:g}": round(100 * one["difference"], 2) for one in planned
                },
            },
        ),
        Row(
            "bytes per device and round, masks on, times fewer than in fp32 at no more than 0.5 points lost",
            round(best["times_fewer"], 2),
            "at least 4",
            best["times_fewer"] >= 4,
            COMMAND,
            {
                "ring_bits": best["value"],
                "points": round(100 * best["difference"], 2),
                "fp32_bytes": TASK_BYTES + UPDATE_BYTES,
            },
        ),
    ]


def run(quick: bool = False, out: Path = OUT) -> list[Row]:
    """Run the experiment, or reads what it left."""
    from palate.simulations.experiments.privacy_cost import read_privacy_experiment, run_privacy_experiment

    path = out / "results.json"
    if quick:
        tiny = replace(
            read_privacy_experiment("privacy"),
            people=300,
            strangers=20,
            seeds=(1,),
            epsilons=(EPSILON, HALF_COUNTED),
        )
        folder = Path(tempfile.mkdtemp(prefix="palate-privacy-"))
        return rows_of_results(run_privacy_experiment(tiny, folder, folder / "cache"))
    if not path.exists():
        run_privacy_experiment(read_privacy_experiment("privacy"), out, out / "cache")
    return rows_of_results(json.loads(path.read_text(encoding="utf-8")))


def main() -> None:
    """Run the command and return the exit status."""
    print_run(run, OUT, __doc__)


if __name__ == "__main__":
    main()
