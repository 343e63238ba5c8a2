"""The evaluator on virtual people whom nothing was trained on.

Does it tell what they like from what they do not?

    python -m benchmarks.evaluator --people 150

Each person comments on pictures as people are shown them until eight are liked and eight disliked; then the
evaluator ranks sixty others, which it has not seen. Pairwise accuracy is the share of (liked, disliked) pairs
in the right order, by the person's own noisy verdicts, mean over people. Beside it: the true taste (the
ceiling), the crowd's opinion (no person), the evaluator of another person, and the comments as they were
meant instead of as they were understood.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rows import Row
from palate.client.eye.tower import picture_features, what_is_shown
from palate.client.reader.extractor import extract_attributes
from palate.client.taste.evaluator import Evaluator, fit_evaluator
from palate.client.taste.profile import Evidence, build_profile
from palate.shared.arrays import Float32s
from palate.shared.attributes import Mention
from palate.shared.encoder import load_encoder
from palate.shared.errors import CommentError
from palate.simulations.crowd.people import Person, make_people, sample_shown, true_utility, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.world.render import render
from palate.simulations.world.truth import CATEGORY_OF, Truth

Bools = NDArray[np.bool_]

COMMAND = "python -m benchmarks.evaluator"
FIRST_PICTURE = 21_000_000
PEOPLE_SEED = 2002
GIVEN = 8  # liked, and as many disliked
ASKED = 60


@dataclass(frozen=True)
class Shown:
    """Pictures that people are shown: what they truly show, their pixels and their features."""

    truths: tuple[Truth, ...]
    images: tuple[Image.Image, ...]
    features: Float32s


@dataclass(frozen=True)
class Case:
    """One person's given verdicts and comments, and the verdicts to be foreseen.

    Pictures by their place in `Shown`.
    """

    person: Person
    liked: tuple[int, ...]
    disliked: tuple[int, ...]
    meant: Mapping[str, float]
    understood: Mapping[str, float]
    asked: tuple[int, ...]
    answers: Bools


def draw_pictures(count: int, first: int = FIRST_PICTURE) -> Shown:
    """Render pictures as people are shown them; number i depends on i alone."""
    truths = tuple(sample_shown(random.Random(f"benchmark {i}")) for i in range(first, first + count))
    images = tuple(Image.fromarray(render(t, i)) for i, t in enumerate(truths, first))
    return Shown(truths, images, picture_features(images))


def ask_people(people: Sequence[Person], shown: Shown, seed: int = 7) -> list[Case]:
    """Have each person judge pictures of the pool, with comments on the given ones."""
    seen: dict[int, dict[str, float]] = {}

    def look(place: int) -> Callable[[Image.Image], Mapping[str, float]]:
        return lambda image: seen.setdefault(place, what_is_shown(image))

    cases = []
    for person in people:
        rng = random.Random(f"{seed} {person.seed} {person.id}")
        order = rng.sample(range(len(shown.truths)), len(shown.truths))
        sides: dict[bool, list[int]] = {True: [], False: []}
        meant, understood = [], []
        while min(map(len, sides.values())) < GIVEN:
            place = order.pop()
            truth = shown.truths[place]
            liked = verdict(person, truth, rng)
            if len(sides[liked]) == GIVEN:
                continue
            sides[liked].append(place)
            remark = comment(person, truth, liked, rng)
            said = [Mention(a, CATEGORY_OF[a], sign, 0.7, a) for a, sign in remark.mentions]
            try:
                read = extract_attributes(remark.text, shown.images[place], liked=liked, shown=look(place))
            except CommentError:  # "2/10" holds no words: the verdict counts, the comment is refused
                read = []
            stamp = f"{len(meant):03d}"
            meant.append(Evidence(stamp, stamp, tuple(said)))
            understood.append(Evidence(stamp, stamp, tuple(read)))
        asked = tuple(order[:ASKED])
        answers = np.array([verdict(person, shown.truths[i], rng) for i in asked])
        cases.append(
            Case(
                person,
                tuple(sides[True]),
                tuple(sides[False]),
                build_profile(meant).signed(),
                build_profile(understood).signed(),
                asked,
                answers,
            )
        )
    return cases


def pairwise(scores: NDArray[np.floating], liked: Bools) -> float:
    """Return the share of (liked, disliked) pairs in the right order, ties half.

    0.5 where there is no pair.
    """
    if liked.all() or not liked.any():
        return 0.5
    gap = scores[liked][:, None] - scores[~liked][None]
    return float((gap > 0).mean() + 0.5 * (gap == 0).mean())


def calibration_error(probabilities: NDArray[np.floating], liked: Bools, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal width (Guo et al., ICML 2017)."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(probabilities[place == b].mean() - liked[place == b].mean()) * (place == b).mean()
            for b in range(bins)
            if (place == b).any()
        )
    )


def measure(cases: Sequence[Case], shown: Shown) -> dict[str, float]:
    """Return pairwise accuracies and calibration errors, means over people."""
    encoder = load_encoder()
    nothing = shown.features[:0]

    def fit(case: Case, verdicts: bool, tastes: Mapping[str, float]) -> Evaluator:
        liked = shown.features[list(case.liked)] if verdicts else nothing
        disliked = shown.features[list(case.disliked)] if verdicts else nothing
        return fit_evaluator(encoder, liked, disliked, tastes=tastes)

    ways: dict[str, Callable[[Case], Evaluator]] = {
        "verdicts": lambda c: fit(c, True, {}),
        "verdicts and comments": lambda c: fit(c, True, c.understood),
        "verdicts and comments as meant": lambda c: fit(c, True, c.meant),
        "comments alone": lambda c: fit(c, False, c.understood),
        "crowd": lambda c: fit(c, False, {}),
    }
    figures: dict[str, float] = {}
    answers = np.concatenate([c.answers for c in cases])
    for name, way in ways.items():
        fitted = [way(c) for c in cases]
        scores = [e.utilities(shown.features[list(c.asked)]) for e, c in zip(fitted, cases, strict=True)]
        figures[name] = float(np.mean([pairwise(s, c.answers) for s, c in zip(scores, cases, strict=True)]))
        likely = np.concatenate(
            [e.probabilities(shown.features[list(c.asked)]) for e, c in zip(fitted, cases, strict=True)]
        )
        figures[f"{name}, calibration error"] = calibration_error(likely, answers)
        if name == "verdicts and comments":
            others = [
                fitted[(i + 1) % len(fitted)].utilities(shown.features[list(c.asked)])
                for i, c in enumerate(cases)
            ]
            figures["another person's"] = float(
                np.mean([pairwise(s, c.answers) for s, c in zip(others, cases, strict=True)])
            )
    truth = [np.array([true_utility(c.person, shown.truths[i]) for i in c.asked]) for c in cases]
    figures["true taste"] = float(
        np.mean([pairwise(u, c.answers) for u, c in zip(truth, cases, strict=True)])
    )
    return {name: round(figure, 4) for name, figure in figures.items()}


def run(quick: bool = False, people: int = 150, pictures: int = 1200) -> list[Row]:
    """Measures the rows of the table; `quick` with few people, to see that everything runs."""
    if quick:
        people, pictures = 6, 120
    shown = draw_pictures(pictures)
    figures = measure(ask_people(make_people(people, PEOPLE_SEED), shown), shown)
    extra = {"people": people, "pictures": pictures, **figures}
    error = max(figures["verdicts, calibration error"], figures["verdicts and comments, calibration error"])
    return [
        Row(
            "evaluator, verdicts alone, pairwise accuracy",
            figures["verdicts"],
            "at least 0.80",
            figures["verdicts"] >= 0.80,
            COMMAND,
            extra,
        ),
        Row(
            "evaluator, verdicts and comments, pairwise accuracy",
            figures["verdicts and comments"],
            "at least 0.85",
            figures["verdicts and comments"] >= 0.85,
            COMMAND,
            extra,
        ),
        Row("evaluator, expected calibration error", error, "at most 0.05", error <= 0.05, COMMAND, extra),
    ]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--people", type=int, default=150)
    p.add_argument("--pictures", type=int, default=1200)
    a = p.parse_args()
    rows = run(people=a.people, pictures=a.pictures)
    for name, figure in rows[0].extra.items():
        print(f"{name}: {figure}")
    for row in rows:
        print(f"{'holds' if row.holds else 'FAILS'}  {row.row}: {row.figure} ({row.bar})")


if __name__ == "__main__":
    main()
