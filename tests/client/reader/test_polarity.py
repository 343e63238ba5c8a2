"""Liked or disliked: comments that turn on ellipsis, contrast, negation, excess, comparison, wish,
tolerance, cause and reference.

The comments of `tests/data/polarity_comments.json` were written for this test, with their labels, before any
of them was read by the extractor; none is a real person's. Their format is that of
`benchmarks/extraction.py`. "dev" were worked on; "check" were measured once and worked on afterwards; "fresh"
(also "held_back") were written after that and never worked on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.extraction import ExtractionScore, score_extraction
from palate.client.reader.extractor import ShippedExtractor
from palate.shared.attributes import load_vocabulary

COMMENTS = Path(__file__).parents[2] / "data" / "polarity_comments.json"
WITHOUT_TOWER = ShippedExtractor(likeness=None, sentiment=None)


def read(comment: str, liked: bool | None = None) -> dict[str, int]:
    """What a comment without a picture says: attribute to polarity."""
    return {m.attribute: m.polarity for m in WITHOUT_TOWER.extract(comment, None, liked)}


def score(*parts: str) -> ExtractionScore:
    """How well the comments of these parts are understood."""
    entries = [e for e in json.loads(COMMENTS.read_text(encoding="utf-8")) if e["part"] in parts]
    predicted = [WITHOUT_TOWER.extract(e["comment"], None, e["liked"]) for e in entries]
    return score_extraction(predicted, [e["attributes"] for e in entries], load_vocabulary())


def test_comments_that_were_worked_on_are_read_with_the_right_sign() -> None:
    worked_on = score("dev", "check")
    assert min(worked_on.precision, worked_on.recall) >= 0.95, worked_on
    assert worked_on.polarity_errors <= 0.015, worked_on


def test_comments_never_worked_on_are_mostly_read_with_the_right_sign() -> None:
    # They were written to be hard; 8 of 58 signs are wrong today.
    fresh = score("fresh")
    assert fresh.precision >= 0.78, fresh
    assert fresh.recall >= 0.84, fresh
    assert fresh.polarity_errors <= 0.16, fresh


@pytest.mark.parametrize(
    ("comment", "liked", "expected"),
    [
        ("Soft mist over calm green hills", True, {"misty": 1, "calm": 1, "green": 1}),
        ("The black outlines make it look more cluttered", False, {"bold outlines": -1, "cluttered": -1}),
        ("Make it more jagged and we have a deal", False, {"jagged": 1}),
        ("My husband loves the neon, I don't", None, {"neon": -1}),
        ("I love the mist but not the blur", None, {"misty": 1, "blurry": -1}),
        ("The red is awful, the blue isn't", None, {"red": -1, "blue": 1}),
        ("Sharp and realistic, but it bores me", False, {"sharp": 1, "realistic": 1}),
        ("Not only vivid but also balanced", True, {"vibrant": 1, "balanced": 1}),
        ("Beautiful but dark", True, {"dark": -1}),
        ("It is dark, but in a good way", None, {"dark": 1}),
        ("A calm scene ruined by the neon", None, {"calm": 1, "neon": -1}),
        ("No ugly pastels here, great", None, {"pastel": -1}),
        ("Without the swirls it would be better", None, {"swirls": -1}),
        ("neon, glitch. 1/10", None, {"neon": -1, "glitch": -1}),
    ],
)
def test_a_turn_of_phrase_is_followed(comment: str, liked: bool | None, expected: dict[str, int]) -> None:
    assert read(comment, liked) == expected
