"""The evaluator on real pictures and real comments.

Photographs and paintings, judged by people in their own words.

    python -m benchmarks.real_pictures PATH/tastes.json

For each person and picture: an evaluator is fitted on the verdicts and comments of all the other pictures,
and scores the one left out. The figure is the area under the curve of these scores per person, mean over
people. Beside it: verdicts alone, comments alone, the crowd's opinion, and each person's pictures scored by
the evaluators of the others. Since twins help (three screams, three starry nights), comments alone are also
measured with all pictures of the query's style left out, whose names share a word of `STYLES`. The file is
{"tastes": {PERSON: [{"image", "liked", "comment"}]}}, image paths relative to it. Without the file there is
nothing to measure, and one line says so.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.evaluator import pairwise
from benchmarks.rows import Row
from palate.client.eye.pictures import read_picture
from palate.client.eye.tower import picture_features, what_is_shown
from palate.client.reader.extractor import extract_attributes
from palate.client.reader.sentences import SentenceTower
from palate.client.taste.evaluator import Settings, fit_evaluator
from palate.client.taste.profile import Evidence, build_profile
from palate.shared.arrays import Float32s
from palate.shared.attributes import Mention
from palate.shared.encoder import ATTRIBUTE_NAMES, load_encoder, project_sentences

COMMAND = "python -m benchmarks.real_pictures PATH/tastes.json"
STYLES = ("scream", "starry", "shipwreck")
FILE = Path(os.environ.get("PALATE_TASTES", "../shared/artworks/tastes.json"))


@dataclass(frozen=True)
class Judged:
    """One person's pictures.

    Features (n, features), verdicts (n,), and what was understood from each comment.
    """

    features: Float32s
    liked: NDArray[np.bool_]
    mentions: tuple[tuple[Mention, ...], ...]
    styles: tuple[str, ...]


def style_of(name: str) -> str:
    """Return the style of a picture by its file's name: a word of `STYLES`, else its own."""
    return next((style for style in STYLES if style in name), name)


def read_tastes(path: Path) -> dict[str, Judged]:
    """Read the file, looks at the pictures and understands the comments.

    Raises OSError where there is no such file.
    """
    people = json.loads(path.read_text(encoding="utf-8"))["tastes"]
    names = sorted({e["image"] for entries in people.values() for e in entries})
    images: dict[str, Image.Image] = {n: read_picture(path.parent / n) for n in names}
    features = dict(zip(names, picture_features([images[n] for n in names]), strict=True))
    judged = {}
    for person, entries in people.items():
        mentions = tuple(
            tuple(extract_attributes(e["comment"], images[e["image"]], liked=e["liked"], shown=what_is_shown))
            for e in entries
        )
        judged[person] = Judged(
            np.array([features[e["image"]] for e in entries]),
            np.array([e["liked"] for e in entries]),
            mentions,
            tuple(style_of(e["image"]) for e in entries),
        )
    return judged


def tastes_of(mentions: Mapping[int, tuple[Mention, ...]]) -> dict[str, float]:
    """Return the profile of some comments, by their numbers."""
    return build_profile([Evidence(f"{i:03d}", f"{i:03d}", given) for i, given in mentions.items()]).signed()


@cache
def direction_of(phrase: str) -> Float32s:
    """Return the place of a phrase in the taste space."""
    return project_sentences(load_encoder(), SentenceTower().embed([phrase]))[0]


def leave_one_out(
    one: Judged,
    *,
    verdicts: bool,
    comments: bool,
    other: Judged | None = None,
    settings: Settings | None = None,
    twins: bool = True,
) -> float:
    """Return the area under the curve of each picture's score by an evaluator that saw all the others.

    With `other`, that person's verdicts and comments (again without this picture) are given instead. Without
    `twins`, all pictures of its style are left out.
    """
    encoder, source = load_encoder(), other or one
    scores = []
    for i, query in enumerate(one.features):
        rest = [
            j
            for j in range(len(source.liked))
            if not np.array_equal(source.features[j], query) and (twins or source.styles[j] != one.styles[i])
        ]
        tastes = tastes_of({j: source.mentions[j] for j in rest}) if comments else {}
        liked = source.features[[j for j in rest if source.liked[j]]] if verdicts else source.features[:0]
        disliked = (
            source.features[[j for j in rest if not source.liked[j]]] if verdicts else source.features[:0]
        )
        unknown = {a: direction_of(a) for a in tastes if a not in ATTRIBUTE_NAMES}
        fitted = fit_evaluator(
            encoder, liked, disliked, tastes=tastes, directions=unknown, settings=settings or Settings()
        )
        scores.append(float(fitted.utilities(one.features[i : i + 1])[0]))
    return pairwise(np.array(scores), one.liked)


def measure(people: Mapping[str, Judged]) -> dict[str, float]:
    """Return all figures, per person and mean."""
    ways = {
        "verdicts and comments": {"verdicts": True, "comments": True},
        "verdicts alone": {"verdicts": True, "comments": False},
        "comments alone": {"verdicts": False, "comments": True},
        "comments alone, own style left out": {"verdicts": False, "comments": True, "twins": False},
        "crowd": {"verdicts": False, "comments": False},
    }
    figures: dict[str, float] = {}
    for name, way in ways.items():
        areas = {person: leave_one_out(one, **way) for person, one in people.items()}
        figures[f"{name}, mean"] = float(np.mean(list(areas.values())))
        figures.update({f"{name}, {person}": area for person, area in areas.items()})
    swapped = [
        leave_one_out(one, verdicts=True, comments=True, other=another)
        for person, one in people.items()
        for name, another in people.items()
        if name != person
    ]
    figures["another person's, mean"] = float(np.mean(swapped))
    return {name: round(figure, 4) for name, figure in figures.items()}


def run(quick: bool = False, path: Path = FILE) -> list[Row]:
    """Measures the row; none where the file is missing. `quick` changes nothing: it takes seconds."""
    del quick
    if not path.is_file():
        print(f"{path} is not there, so real pictures are not measured; give the path of a tastes.json")
        return []
    figures = measure(read_tastes(path))
    area, alone = figures["verdicts and comments, mean"], figures["comments alone, own style left out, mean"]
    return [
        Row(
            "evaluator on real pictures, leave-one-out, mean AUC",
            area,
            "at least 0.88",
            area >= 0.88,
            COMMAND,
            figures,
        ),
        Row(
            "real pictures, comments alone, own style left out, mean AUC",
            alone,
            "at least 0.88",
            alone >= 0.88,
            COMMAND,
            figures,
        ),
    ]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("path", type=Path, nargs="?", default=FILE)
    for row in run(path=p.parse_args().path):
        for name, figure in row.extra.items():
            print(f"{name}: {figure}")
        print(f"{'holds' if row.holds else 'FAILS'}  {row.row}: {row.figure} ({row.bar})")


if __name__ == "__main__":
    main()
