"""How well comments are understood.

Precision, recall and polarity errors of extraction against labels made by hand.

Reads a JSON list of {"image" (optional), "comment", "liked" (optional), "attributes": [...]}; image paths are
relative to the file. A label is {"attribute": NAME, "polarity": +1 or -1}, or {"any_of": [NAMES], "polarity":
...} where several names say it, or {"optional": [NAMES]} for what may be read or not (it counts neither way).
Other keys of an entry are ignored, and entries with "held_back": true are left out unless asked for.

A mention matches a label when the names are equal, or both mainly show the same attribute of a picture
(vocabulary's `shows`), or they are opposites with opposite signs ("likes high contrast" is "dislikes low
contrast"). A mention that matches by name and has the wrong sign is a polarity error: it counts as a wrong
mention and a missed label too.

Run:  python benchmarks/extraction.py FILE.json [--held-back] [--verbose] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palate.shared.attributes import Mention, Vocabulary, load_vocabulary

Label = Mapping[str, Any]


@dataclass(frozen=True)
class ExtractionScore:
    """Counts over comments, and the three figures made of them."""

    mentions: int
    right: int
    labels: int
    found: int
    wrong_sign: int

    @property
    def precision(self) -> float:
        """Right mentions among all that count."""
        return self.right / self.mentions if self.mentions else 1.0

    @property
    def recall(self) -> float:
        """Labels found, with the right sign, among all."""
        return self.found / self.labels if self.labels else 1.0

    @property
    def polarity_errors(self) -> float:
        """Mentions with the wrong sign among those that match a label by name."""
        matched = self.right + self.wrong_sign
        return self.wrong_sign / matched if matched else 0.0


def label_names(label: Label) -> tuple[str, ...]:
    """Return the names that a label accepts."""
    if "attribute" in label:
        return (str(label["attribute"]),)
    return tuple(label["any_of"] if "any_of" in label else label["optional"])


def means_the_same(one: str, other: str, vocabulary: Vocabulary) -> bool:
    """Return whether two names are one, aliases of one term, or mainly show the same attribute."""
    first, second = vocabulary.find(one), vocabulary.find(other)
    if one == other or first is None or second is None:
        return one == other
    shown = vocabulary.main_show(first.name)
    return first == second or (shown is not None and shown == vocabulary.main_show(second.name))


def _agrees(mention: Mention, label: Label, vocabulary: Vocabulary) -> int:
    """Return +1 for a mention that says what the label says, -1 for its contrary, 0 for another subject."""
    sign = label.get("polarity") or 0
    for name in label_names(label):
        if means_the_same(mention.name, name, vocabulary):
            return 1 if not sign or mention.polarity == sign else -1
    for name in label_names(label):
        term = vocabulary.find(name)
        if term is not None and mention.name in vocabulary.opposites(term.name) and mention.polarity == -sign:
            return 1
    return 0


def score_extraction(
    predicted: Sequence[Sequence[Mention]], labels: Sequence[Sequence[Label]], vocabulary: Vocabulary
) -> ExtractionScore:
    """Return the score of each comment's mentions against its labels, by this module's rule."""
    mentions = right = total = found = wrong_sign = 0
    for ours, theirs in zip(predicted, labels, strict=True):
        counted = [label for label in theirs if "optional" not in label]
        total += len(counted)
        found += sum(any(_agrees(mention, label, vocabulary) > 0 for mention in ours) for label in counted)
        for mention in ours:
            verdicts = [_agrees(mention, label, vocabulary) for label in counted]
            free = [_agrees(mention, label, vocabulary) for label in theirs if "optional" in label]
            if 1 in verdicts:
                right, mentions = right + 1, mentions + 1
            elif 1 in free:
                continue  # it may be read or not, as long as the sign is right
            elif -1 in verdicts or -1 in free:
                wrong_sign, mentions = wrong_sign + 1, mentions + 1
            else:
                mentions += 1
    return ExtractionScore(mentions, right, total, found, wrong_sign)


def main() -> None:
    """Read the file, extracts, and prints the figures."""
    from PIL import Image

    from palate.client.reader.extractor import extract_attributes

    parser = argparse.ArgumentParser(description="Precision, recall and polarity errors of extraction.")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--held-back", action="store_true", help="score the held-back entries instead of the others"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every comment that is not read wholly right"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    vocabulary = load_vocabulary()
    entries = [
        e
        for e in json.loads(given.file.read_text(encoding="utf-8"))
        if bool(e.get("held_back")) == given.held_back
    ]
    predicted, seconds = [], []
    for entry in entries:
        picture = (
            Image.open(given.file.parent / entry["image"]).convert("RGB") if entry.get("image") else None
        )
        start = time.perf_counter()
        predicted.append(extract_attributes(entry["comment"], picture, liked=entry.get("liked")))
        seconds.append(time.perf_counter() - start)
        one = score_extraction([predicted[-1]], [entry["attributes"]], vocabulary)
        if given.verbose and (one.precision < 1 or one.recall < 1):
            print(entry.get("liked"), "|", entry["comment"])
            print("   read ", [f"{m.name} {m.polarity:+d} {m.strength}" for m in predicted[-1]])
            print(
                "   label",
                [f"{'/'.join(label_names(x))} {x.get('polarity') or '?'}" for x in entry["attributes"]],
            )
    score = score_extraction(predicted, [entry["attributes"] for entry in entries], vocabulary)
    figures = {
        **asdict(score),
        "comments": len(entries),
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
        "polarity_errors": round(score.polarity_errors, 4),
        "median_seconds": round(sorted(seconds)[len(seconds) // 2], 4) if seconds else 0.0,
    }
    print(
        json.dumps(figures)
        if given.json
        else "\n".join(f"{name:16} {value}" for name, value in figures.items())
    )


if __name__ == "__main__":
    main()
