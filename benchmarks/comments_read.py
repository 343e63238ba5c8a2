"""How well comments are understood: of people whom the project knows, of strangers, and of invented people.

    python -m benchmarks.comments_read [--verbose] [--artworks FOLDER] [--strangers FOLDER]

None of these sets teaches any recipe. Three people's comments on real pictures (`tastes.json`, which lies
next to the repository), against labels made by hand before any system's output was looked at
(`tests/data/taste_labels.json`); how they are matched is said in `extraction`. Three sets that invented
people wrote for the first reader, with labels by the vocabulary's names, each held to what that reader was
held to: a look whose words have no place in the vocabulary counts against precision there. Real comments by
strangers, also next to the repository, with a scorer of their own (`score_reader.py`, whose docstring says
how); thresholds were chosen with sight of them. And forty invented people with marks on the looks
(`tests/data/comments_marked.jsonl`), left out whole. The last two are read with the person's verdict and
with the verdict hidden; intervals are of 90 %, over comments drawn anew (bootstrap).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.extraction import score_extraction
from benchmarks.rows import Row, print_rows
from palate.client.eye.pictures import read_picture
from palate.client.reader.extractor import extract_attributes
from palate.client.reader.tagger import shipped_tagger
from palate.shared.attributes import load_vocabulary
from palate.simulations.crowd.marked import read_marked

COMMAND = "python -m benchmarks.comments_read"
ROOT = Path(__file__).resolve().parent.parent
ARTWORKS = ROOT.parent / "shared" / "artworks"
STRANGERS = ROOT.parent / "shared" / "comments"
LABELS = ROOT / "tests" / "data" / "taste_labels.json"
MARKED = ROOT / "tests" / "data" / "comments_marked.jsonl"
# Sets with labels by name: the file, which of its entries, and the bars of precision, recall and wrong signs.
LABELLED: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], bool], tuple[float, float, float]]] = {
    "plain comments": ("dev_comments.json", lambda _: True, (0.85, 0.85, 0.03)),
    "turns of phrase": ("polarity_comments.json", lambda e: e["part"] == "fresh", (0.78, 0.84, 0.16)),
    "idiom and irony": ("comments_development.json", lambda e: e["split"] == "held out", (0.73, 0.64, 0.17)),
}
DRAWS = 300
# By whether the verdict is told: for each figure whether its bar is the least it may be, and the bar.
BARS = {
    True: {"precision": (True, 0.86), "recall": (True, 0.85), "wrong_sign": (False, 0.05)},
    False: {"precision": (True, 0.75), "recall": (True, 0.75), "wrong_sign": (False, 0.15)},
}
INVENTED_BARS = {
    True: {"looks found": (True, 0.85), "wrong sign": (False, 0.05)},
    False: {"looks found": (True, 0.85), "wrong sign": (False, 0.15)},
}


def to_label(label: Mapping[str, Any]) -> dict[str, Any]:
    """Return a hand label as `extraction.score_extraction` takes it: what is optional is named so."""
    key = "optional" if label["optional"] else "any_of"
    return {key: label["any_of"], "polarity": label["polarity"]}


def run(
    quick: bool = False, artworks: Path = ARTWORKS, verbose: bool = False, strangers: Path = STRANGERS
) -> list[Row]:
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
    rows = [
        Row(f"extraction on real comments: {what}", round(figure, 4), bar, holds, COMMAND, extra)
        for what, figure, bar, holds in (
            ("precision", score.precision, "at least 0.90", score.precision >= 0.90),
            ("recall", score.recall, "at least 0.88", score.recall >= 0.88),
            ("polarity errors", score.polarity_errors, "at most 0.03", score.polarity_errors <= 0.03),
        )
    ]
    return rows + labelled_rows() + invented_rows(quick) + stranger_rows(strangers, verbose)


def labelled_rows() -> list[Row]:
    """Return how comments with labels by name are read, told their verdict, without a picture."""
    rows = []
    for name, (file, chosen, bars) in LABELLED.items():
        text = (ROOT / "tests" / "data" / file).read_text(encoding="utf-8")
        entries = [entry for entry in json.loads(text) if chosen(entry)]
        read = [extract_attributes(e["comment"], None, liked=e["liked"]) for e in entries]
        score = score_extraction(read, [e["attributes"] for e in entries], load_vocabulary())
        extra = {
            "comments": len(entries),
            "mentions": score.mentions,
            "labels": score.labels,
            "without a place": sum(m.term is None for some in read for m in some),
        }
        figures = (score.precision, score.recall, score.polarity_errors)
        for what, figure, bar in zip(("precision", "recall", "wrong sign"), figures, bars, strict=True):
            most = what == "wrong sign"
            rows.append(
                Row(
                    f"{name}, names of the vocabulary: {what}",
                    round(figure, 4),
                    f"at {'most' if most else 'least'} {bar}",
                    figure <= bar if most else figure >= bar,
                    COMMAND,
                    extra,
                )
            )
    return rows


def read_plainly(text: str, liked: bool | None) -> list[dict[str, Any]]:
    """Return the mentions of a comment without a picture, as `palate comments --json` prints them."""
    return [
        {"attribute": m.attribute, "phrase": m.phrase, "liked": m.polarity > 0}
        for m in extract_attributes(text, None, liked=liked)
    ]


def stranger_rows(folder: Path, verbose: bool) -> list[Row]:
    """Return how strangers' comments are read, by their own scorer; nothing where they do not lie."""
    file, scorer = folder / "real_development.json", folder / "score_reader.py"
    if not file.exists() or not scorer.exists():
        return []
    spec = importlib.util.spec_from_file_location("score_reader", scorer)
    if spec is None or spec.loader is None:
        return []
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entries = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for told in (True, False):
        read = {e["id"]: read_plainly(e["text"], e["liked"] if told else None) for e in entries}
        found = module.score(entries, read, verbose and told)
        drawn = [module.score(random.Random(i).choices(entries, k=len(entries)), read) for i in range(DRAWS)]
        for what, (least, bar) in BARS[told].items():
            low, high = np.quantile([one[what] for one in drawn], (0.05, 0.95))
            rows.append(
                Row(
                    f"strangers' comments, verdict {'told' if told else 'hidden'}: {what.replace('_', ' ')}",
                    found[what],
                    f"{'at least' if least else 'at most'} {bar}",
                    found[what] >= bar if least else found[what] <= bar,
                    COMMAND,
                    found | {"low": round(float(low), 3), "high": round(float(high), 3)},
                )
            )
    return rows


def invented_rows(quick: bool) -> list[Row]:
    """Return how often marked looks of invented people are found, and get the wrong sign."""
    people = [one for one in read_marked(MARKED) if one.places][: 60 if quick else None]
    rows = []
    for told in (True, False):
        counts = np.zeros((len(people), 3))  # looks, found, found with the wrong sign
        for number, one in enumerate(tqdm(people, desc="invented people", mininterval=1, disable=None)):
            spans = [
                span
                for span in shipped_tagger().read(one.comment, one.liked if told else None)
                if span.is_judged
            ]
            for (start, end), sign in zip(one.places, one.signs, strict=True):
                over = [span.liking for span in spans if span.start < end and span.end > start]
                right = any(liking * sign > 0 for liking in over)
                counts[number] += (1, bool(over), bool(over) and not right)
        rng = np.random.default_rng(0)
        drawn = counts[rng.integers(0, len(people), (DRAWS, len(people)))].sum(axis=1)
        looks, found, wrong = counts.sum(axis=0)
        for what, figure, several in (
            ("looks found", found / looks, drawn[:, 1] / drawn[:, 0]),
            ("wrong sign", wrong / found, drawn[:, 2] / drawn[:, 1]),
        ):
            low, high = np.quantile(several, (0.05, 0.95))
            extra = {"looks": int(looks), "low": round(float(low), 4), "high": round(float(high), 4)}
            name = f"invented people left out, verdict {'told' if told else 'hidden'}: {what}"
            least, bar = INVENTED_BARS[told][what]
            holds = figure >= bar if least else figure <= bar
            words = f"{'at least' if least else 'at most'} {bar}"
            rows.append(Row(name, round(float(figure), 4), words, bool(holds), COMMAND, extra))
    return rows


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--artworks", type=Path, default=ARTWORKS)
    p.add_argument("--strangers", type=Path, default=STRANGERS)
    p.add_argument("--verbose", action="store_true", help="print every comment that is not read wholly right")
    a = p.parse_args()
    print_rows(run(artworks=a.artworks, verbose=a.verbose, strangers=a.strangers))


if __name__ == "__main__":
    main()
