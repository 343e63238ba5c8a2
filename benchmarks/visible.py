"""Can everything that a picture is said to show be seen in it? Pictures as people are shown them, judged.

    python -m benchmarks.visible [--pictures 3000]

People are shown pictures with four or five attributes, which may hide each other. The judge, whose own
accuracy on plainer renders is printed too, says how often it names the subject and each attribute; the pairs
at the end are those in which the first is seldom found next to the second, and are candidates for what the
world must not draw together.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, print_rows
from benchmarks.studio import judge_figures
from palate.simulations.crowd.people import sample_shown
from palate.simulations.judge import WEIGHTS, Opinion, load_judge, measure_judge, score_truths
from palate.simulations.world.render import render
from palate.simulations.world.truth import Truth

COMMAND = "python -m benchmarks.visible"
FIRST = 23_000_000
PART = 200
SEEN_TOGETHER = 12  # pairs that met less often say nothing


def hidden_pairs(opinion: Opinion, truths: list[Truth]) -> dict[str, float]:
    """Return the thirty pairs whose first attribute is named most rarely in pictures that show both."""
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for i, truth in enumerate(truths):
        values = truth.values()
        for first in values:
            named = opinion.shows(i, first)
            for second in values:
                if second != first:
                    found[first, second].append(named)
    shares = {
        f"{a} beside {b}": float(np.mean(hits))
        for (a, b), hits in found.items()
        if len(hits) >= SEEN_TOGETHER
    }
    return {name: round(shares[name], 3) for name in sorted(shares, key=lambda n: shares[n])[:30]}


def run(*, quick: bool = False, pictures: int | None = None, weights: Path = WEIGHTS) -> list[Row]:
    """Judges `pictures` pictures as people are shown them (3,000; 400 where `quick`)."""
    from tqdm import tqdm

    count = pictures or (400 if quick else 3000)
    judge = load_judge(weights)
    truths = [sample_shown(random.Random(f"visible {i}")) for i in range(count)]
    parts = []
    for start in tqdm(range(0, count, PART), desc="judging", unit="part", mininterval=2, disable=None):
        drawn = [render(t, FIRST + start + k) for k, t in enumerate(truths[start : start + PART])]
        parts.append(judge(np.stack(drawn)))
    opinion = Opinion(np.concatenate([p.subjects for p in parts]), np.concatenate([p.values for p in parts]))
    subject, attribute, invented, each = score_truths(opinion, truths)
    worst = sorted(each, key=lambda v: each[v])[:15]
    extra = {
        "pictures": count, "subject": round(subject, 4), "empty_category_filled": round(invented, 4),
        "worst": {v: round(each[v], 3) for v in worst}, "hidden": hidden_pairs(opinion, truths),
        **judge_figures(measure_judge(judge, 400 if quick else 2000)),
    }  # fmt: skip
    row = "attributes that the judge finds in pictures as people are shown them"
    return [Row(row, round(attribute, 4), "at least 0.80", attribute >= 0.80, COMMAND, extra)]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=int, default=None)
    p.add_argument("--weights", type=Path, default=WEIGHTS, help="another judge's")
    a = p.parse_args()
    print_rows(run(pictures=a.pictures, weights=a.weights))


if __name__ == "__main__":
    main()
