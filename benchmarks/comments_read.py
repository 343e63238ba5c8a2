"""How well real comments on real pictures are understood.

Three people's comments against labels made by hand.

    python -m benchmarks.comments_read [--verbose] [--artworks FOLDER]

The comments and pictures are those of `shared/artworks/tastes.json`, which lies next to the repository; the
labels are `tests/data/taste_labels.json`, made before any system's output was looked at. How mentions and
labels are matched is said in `extraction`. The picture is given, and the person's verdict, as `palate teach
--from` gives them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.extraction import score_extraction
from benchmarks.rows import Row, print_rows
from palate.client.eye.pictures import read_picture
from palate.client.reader.extractor import extract_attributes
from palate.shared.attributes import load_vocabulary

COMMAND = "python -m benchmarks.comments_read"
ROOT = Path(__file__).resolve().parent.parent
ARTWORKS = ROOT.parent / "shared" / "artworks"
LABELS = ROOT / "tests" / "data" / "taste_labels.json"


def to_label(label: Mapping[str, Any]) -> dict[str, Any]:
    """Return a hand label as `extraction.score_extraction` takes it: what is optional is named so."""
    key = "optional" if label["optional"] else "any_of"
    return {key: label["any_of"], "polarity": label["polarity"]}


def run(quick: bool = False, artworks: Path = ARTWORKS, verbose: bool = False) -> list[Row]:
    """Measures precision, recall and polarity errors; `quick` reads four comments a person."""
    path = artworks / "tastes.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; name the folder of the real comments with --artworks")
    tastes = json.loads(path.read_text(encoding="utf-8"))["tastes"]
    labels = json.loads(LABELS.read_text(encoding="utf-8"))["labels"]
    vocabulary = load_vocabulary()
    entries = [
        (entry, [to_label(label) for label in some])
        for person in tastes
        for entry, some in list(zip(tastes[person], labels[person], strict=True))[: 4 if quick else None]
    ]
    read = []
    for entry, wanted in tqdm(entries, desc="reading comments", mininterval=1, disable=None):
        picture = read_picture(artworks / entry["image"])
        read.append(extract_attributes(entry["comment"], picture, liked=entry.get("liked")))
        one = score_extraction([read[-1]], [wanted], vocabulary)
        if verbose and (one.precision < 1 or one.recall < 1):
            print(
                f"{entry['comment']}\n   read  {[f'{m.attribute} {m.polarity:+d}' for m in read[-1]]}\n  "
                f" label {wanted}"
            )
    score = score_extraction(read, [wanted for _, wanted in entries], vocabulary)
    extra = {
        "comments": len(entries),
        "labels": score.labels,
        "mentions": score.mentions,
        "wrong_sign": score.wrong_sign,
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
    }
    return [
        Row(
            "extraction on real comments: precision",
            round(score.precision, 4),
            "at least 0.85",
            score.precision >= 0.85,
            COMMAND,
            extra,
        ),
        Row(
            "extraction on real comments: recall",
            round(score.recall, 4),
            "at least 0.85",
            score.recall >= 0.85,
            COMMAND,
            extra,
        ),
        Row(
            "extraction on real comments: polarity errors",
            round(score.polarity_errors, 4),
            "at most 0.03",
            score.polarity_errors <= 0.03,
            COMMAND,
            extra,
        ),
    ]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--artworks", type=Path, default=ARTWORKS)
    p.add_argument("--verbose", action="store_true", help="print every comment that is not read wholly right")
    a = p.parse_args()
    print_rows(run(artworks=a.artworks, verbose=a.verbose))


if __name__ == "__main__":
    main()
