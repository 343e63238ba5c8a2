"""Does the network know better than the rules what a person likes?

Signs of looks in comments of people whom neither learned from.

    python -m benchmarks.sentiment

Two sets, without pictures: 1,500 comments of forty invented people with marks on the looks
(`simulations/crowd/marked.py` says who wrote them), and the development comments of eight invented people
whom nobody worked on, labelled by attribute. Each is read by the rules alone and by rules and network
together, as devices do; the network alone is asked for all marks of the first, also those that no rule sees.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.extraction import score_extraction
from benchmarks.rows import Row, print_rows
from palate.client.reader.extractor import ShippedExtractor
from palate.client.reader.sentiment import shipped_sentiment
from palate.shared.attributes import load_vocabulary
from palate.simulations.crowd.marked import Marked, read_marked

COMMAND = "python -m benchmarks.sentiment"
DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
MARKED = DATA / "comments_marked.jsonl"
LABELLED = DATA / "comments_development.json"


def wrong_signs(extractor: ShippedExtractor, spoken: Sequence[Marked]) -> tuple[int, int]:
    """Return how many marks a mention quotes a word of, and how many of these have the other sign."""
    read = wrong = 0
    for one in tqdm(spoken, desc="marked comments", mininterval=1, disable=None):
        mentions = extractor.extract(one.comment, None, one.liked) if one.places else []
        for (start, end), sign in zip(one.places, one.signs, strict=True):
            words = one.comment[start:end].lower()
            said = next((m for m in mentions if m.phrase.lower() in words or words in m.phrase.lower()), None)
            if said is not None:
                read, wrong = read + 1, wrong + (said.polarity != sign)
    return read, wrong


def network_wrong(spoken: Sequence[Marked]) -> tuple[int, int]:
    """Return how many marks the network reads, and how many it reads with the other sign."""
    read = wrong = 0
    for one in tqdm(spoken, desc="by the network alone", mininterval=1, disable=None):
        odds = shipped_sentiment().read(one.comment, one.liked, one.places)
        for value, sign in zip(odds, one.signs, strict=True):
            if value is not None:
                read, wrong = read + 1, wrong + (value.liked * sign <= 0)
    return read, wrong


def labelled_wrong(extractor: ShippedExtractor) -> float:
    """Return the share of wrong signs on development comments of people whom nobody worked on."""
    entries = [e for e in json.loads(LABELLED.read_text(encoding="utf-8")) if e["split"] == "held out"]
    found = [
        extractor.extract(e["comment"], None, e["liked"])
        for e in tqdm(entries, desc="development comments", mininterval=1, disable=None)
    ]
    return score_extraction(found, [e["attributes"] for e in entries], load_vocabulary()).polarity_errors


def run(quick: bool = False) -> list[Row]:
    """Measures both sets; `quick` takes 40 marked comments."""
    spoken = read_marked(MARKED)[: 40 if quick else None]
    rules, both = ShippedExtractor(sentiment=None), ShippedExtractor()
    read, wrong_by_rules = wrong_signs(rules, spoken)
    read_by_both, wrong = wrong_signs(both, spoken)
    marks, wrong_by_network = network_wrong(spoken)
    alone, together = labelled_wrong(rules), labelled_wrong(both)
    bar = "below the rules alone"
    of_marked = {
        "comments": len(spoken),
        "marks": marks,
        "read": read_by_both,
        "wrong": wrong,
        "rules alone": round(wrong_by_rules / read, 4),
        "network alone, all marks": round(wrong_by_network / marks, 4),
    }
    share = wrong / read_by_both
    return [
        Row(
            "looks with the wrong sign, comments of invented people",
            round(share, 4),
            bar,
            share < wrong_by_rules / read,
            COMMAND,
            of_marked,
        ),
        Row(
            "looks with the wrong sign, development comments of people left alone",
            round(together, 4),
            bar,
            together < alone,
            COMMAND,
            {"rules alone": round(alone, 4)},
        ),
    ]


def main() -> None:
    """Run the command and return the exit status."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print_rows(run())


if __name__ == "__main__":
    main()
