"""Comments written for development by invented people: the level that is held, and one test for each turn of
phrase that they taught.

Sixteen voices, dense with idiom, irony and comparison, far harder than a comment usually is. Eight of the
people, drawn by lot, were worked on; of the other eight only the figures were looked at.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.extraction import score_extraction
from palate.client.reader.extractor import ShippedExtractor, extract_attributes
from palate.shared.attributes import load_vocabulary

COMMENTS = Path(__file__).resolve().parents[2] / "data" / "comments_development.json"
WITHOUT_TOWER = ShippedExtractor(likeness=None, sentiment=None)


def read(comment: str, liked: bool | None = None) -> dict[str, int]:
    """What a comment without a picture says: attribute to polarity."""
    return {m.attribute: m.polarity for m in WITHOUT_TOWER.extract(comment, None, liked)}


def test_the_people_held_out_are_read_as_well_as_was_measured() -> None:
    entries = [e for e in json.loads(COMMENTS.read_text(encoding="utf-8")) if e["split"] == "held out"]
    found = [extract_attributes(e["comment"], None, liked=e["liked"]) for e in entries]
    score = score_extraction(found, [e["attributes"] for e in entries], load_vocabulary())
    assert len(entries) == 194
    assert score.polarity_errors <= 0.17
    assert score.precision >= 0.73
    assert score.recall >= 0.64


def test_what_might_have_been_would_have_made_a_liked_picture_worse_and_a_disliked_one_better() -> None:
    assert read("Another painter would have used a warmer light", True)["warm"] == -1
    assert read("Another painter would have used a warmer light", False)["warm"] == 1


def test_what_is_given_up_for_another_is_disliked_and_the_other_liked() -> None:
    assert read("I would trade the gloss for some grain", False) == {"glossy": -1, "grainy": 1}


def test_a_second_negation_lifts_the_first() -> None:
    assert read("There is nothing about the blue that I don't love", True)["blue"] == 1


def test_a_question_that_wants_no_answer_complains() -> None:
    assert read("Why is it so beige?")["beige"] == -1
    assert read("That is why the blue is lovely")["blue"] == 1


def test_a_list_of_bare_denials_denies_each() -> None:
    assert read("The blue is nice. The pink less so. The orange not at all.", False)["orange"] == -1


def test_mock_praise_in_a_disliked_picture_misses_what_it_names() -> None:
    assert read("It has all the warmth of a tax form", False)["warm"] == 1


def test_work_as_a_noun_praises_nothing() -> None:
    assert read("The grey reminds me of his work", False)["grey"] == -1


def test_what_and_adds_to_a_concession_is_conceded_too() -> None:
    found = read(
        "While the strokes are lively and the greens are deep, I can't get past the sentimentality", False
    )
    assert found["green"] == 1
