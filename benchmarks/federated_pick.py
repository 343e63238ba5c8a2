"""Does a federation keep the pictures good?

Best-of-4 by the evaluator on a federated encoder, next to the shipped one.

    python -m benchmarks.federated_pick [--people 60]

The shipped encoder learns from 400 virtual people in 100 rounds, without noise, so that it moves as far as it
can; then the evaluator that stands on it, and the one on the shipped encoder, choose among the very same
pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.painting import Painter, Taste
from benchmarks.personalization import CANDIDATES, Measurement
from benchmarks.pupils import draw_wishes, teach_people
from benchmarks.rows import Row, print_rows
from benchmarks.studio import ask_judge
from palate.client.painter.pipelines import SHIPPED_GENERATOR
from palate.shared.encoder import EncoderWeights, encoder_hash, load_encoder
from palate.shared.update import LocalSettings
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import PEOPLE_SEED, draw_pool, give_all_labels
from palate.simulations.experiments.methods import Plan, train_deployed

COMMAND = "python -m benchmarks.federated_pick"
PEOPLE, PICTURES, ROUNDS, COHORT = 400, 2_000, 100, 50


def federated(people: int = PEOPLE, rounds: int = ROUNDS, pictures: int = PICTURES) -> EncoderWeights:
    """Return the shipped encoder after federated rounds without noise, in which it moves the most."""
    with tempfile.TemporaryDirectory(prefix="palate-federated-") as cache:
        pool = draw_pool(pictures, Path(cache))
    labels = give_all_labels(make_people(people, PEOPLE_SEED), pool, 1)
    plan = Plan(rounds, min(COHORT, people), 0.001, LocalSettings(), 1)
    return train_deployed(load_encoder(), labels, plan, lambda *_: None)


def run(quick: bool = False, people: int | None = None) -> list[Row]:
    """Measures the row; `quick` takes 2 people and a short federation."""
    count = people if people is not None else 2 if quick else 60
    encoder = federated(60, 8, 600) if quick else federated()
    judge, _ = ask_judge(200)
    pupils = teach_people(count)
    measurement = Measurement(Painter(SHIPPED_GENERATOR), judge, pupils)
    before, after = measurement.pick(draw_wishes(pupils), Taste(), (None, encoder))
    return [
        Row(
            f"best-of-{CANDIDATES} by the evaluator on a federated encoder: pairs won",
            round(after.won, 4),
            f"not below the shipped encoder's, {before.won:.4g}",
            after.won >= before.won,
            COMMAND,
            {
                "people": count,
                "shipped": before.figures(),
                "federated": after.figures(),
                "encoder": encoder_hash(encoder),
            },
        )
    ]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--people", type=int, default=60)
    print_rows(run(False, p.parse_args().people))


if __name__ == "__main__":
    main()
