"""Comments are read for what they like and dislike: turns of phrase, vague mentions, bad input."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from safetensors import safe_open

from palate.client.reader.extractor import Given, ShippedExtractor, extract_attributes, merge_mentions
from palate.client.reader.sentences import TERMS, term_texts, texts_stamp
from palate.shared.attributes import Mention, load_vocabulary
from palate.shared.errors import CommentError, OptionError

ROOT = Path(__file__).parents[3]
WITHOUT_TOWER = ShippedExtractor(likeness=None, sentiment=None)


def read(comment: str, liked: bool | None = None) -> dict[str, int]:
    """What a comment without a picture says: attribute to polarity."""
    return {m.attribute: m.polarity for m in WITHOUT_TOWER.extract(comment, None, liked)}


def load_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "extraction_benchmark", ROOT / "benchmarks" / "extraction.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "comment", ["", "   \n ", "🎨🎨🎨", "!!!", "x" * 100_000, "Ich mag die Farben nicht, viel zu dunkel"]
)
def test_a_comment_that_holds_no_english_is_one_clear_error(comment: str) -> None:
    with pytest.raises(CommentError) as caught:
        extract_attributes(comment, None)
    assert "\n" not in str(caught.value)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(OptionError, match="oracle"):
        extract_attributes("nice light", None, backend="oracle")


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("I'm not a fan of the muddy colours.", {"muddy colours": -1}),
        ("It isn't calm at all", {"calm": 1}),
        ("No thanks, neon colours.", {"neon": -1}),
        ("I hate how misty it is", {"misty": -1}),
        ("It's not garish", {"garish": -1}),
        ("I don't mind the grain", {"grainy": 1}),
    ],
)
def test_negation_turns_the_feeling_or_the_presence(comment: str, expected: dict[str, int]) -> None:
    assert read(comment) == expected


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("I love the swirls but the grain kills it", {"swirls": 1, "grainy": -1}),
        ("Lovely mist, though the outlines are too bold", {"misty": 1, "bold outlines": -1}),
        ("Although it is gloomy, I love the thick paint", {"gloomy": -1, "impasto": 1}),
        ("Great reds. But flat.", {"red": 1, "flat perspective": -1}),
        ("Otherwise great, but a bit too busy", {"busy": -1}),
        ("I prefer soft edges to jagged lines", {"soft edges": 1, "jagged": -1}),
        ("I respect the precision, but it's lifeless", {"lifeless": -1}),
    ],
)
def test_contrast_and_concession_part_what_is_liked_from_what_is_not(
    comment: str, expected: dict[str, int]
) -> None:
    assert read(comment) == expected


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("I wish it weren't so blue", {"blue": -1}),
        ("I wish it had more contrast", {"high contrast": 1}),
        ("needs stronger contrast", {"high contrast": 1}),
        ("Could be brighter.", {"bright": 1}),
        ("It would be nicer with fewer details", {"intricate": -1}),
        ("It doesn't need more purple", {"purple": -1}),
        ("I'd rather it were misty", {"misty": 1}),
        ("less pink please", {"pink": -1}),
    ],
)
def test_a_wish_likes_what_it_asks_for_and_dislikes_what_it_wants_gone(
    comment: str, expected: dict[str, int]
) -> None:
    assert read(comment) == expected


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("no contrast at all", {"high contrast": 1}),
        ("It lacks depth, contrast and energy", {"deep perspective": 1, "high contrast": 1, "dynamic": 1}),
        ("I love that there's no clutter", {"cluttered": -1}),
        ("too dark, way too busy", {"dark": -1, "busy": -1}),
        ("Not too dark, and very calm", {"dark": -1, "calm": 1}),
    ],
)
def test_lack_is_a_liking_of_the_thing_lacked_and_excess_a_dislike(
    comment: str, expected: dict[str, int]
) -> None:
    assert read(comment) == expected


@pytest.mark.parametrize(
    "comment",
    ["I love the cat!", "My dog looks just like this one", "Beautiful boat, lovely sea.", "Meh.", "Cool!"],
)
def test_subject_matter_and_bare_praise_are_not_taste(comment: str) -> None:
    assert read(comment) == {}


def test_the_verdict_decides_what_shows_no_feeling() -> None:
    comment = "Night scene, warm lamps against a deep blue sky"
    assert read(comment, liked=True) == {"nocturnal": 1, "warm": 1, "blue": 1}
    assert read(comment, liked=False) == {"nocturnal": -1, "warm": -1, "blue": -1}


def test_a_strong_word_is_stronger_than_a_faint_one() -> None:
    strong = WITHOUT_TOWER.extract("I absolutely love the mist", None, None)[0]
    faint = WITHOUT_TOWER.extract("I kind of like the mist", None, None)[0]
    assert strong.strength > 0.8 > 0.6 > faint.strength > 0


def test_typing_mistakes_are_forgiven() -> None:
    assert read("Beautifull brushtrokes, luv the mysterius mood") == {
        "visible brushstrokes": 1,
        "mysterious": 1,
    }


def test_a_vague_mention_is_what_the_picture_shows() -> None:
    picture = Image.new("RGB", (64, 64), (200, 30, 20))
    mentions = extract_attributes(
        "I adore these colours", picture, backend=ShippedExtractor(likeness=None, sentiment=None)
    )
    assert {"red"} <= {m.attribute for m in mentions}
    assert all(m.polarity == 1 for m in mentions)
    seen: list[object] = []

    def shown(image: Image.Image) -> dict[str, float]:
        seen.append(image)
        return {"golden hour": 0.9, "spotlit": 0.2, "red": 0.99}

    extractor = ShippedExtractor(shown=shown, likeness=None, sentiment=None)
    light = extractor.extract("The light is awful, the light ruins it.", picture, None)
    assert [(m.attribute, m.polarity) for m in light] == [("golden hour", -1)]
    assert len(seen) == 1
    assert extractor.extract("red, misty", picture, True)
    assert len(seen) == 1


def test_the_phrase_is_quoted_from_the_comment() -> None:
    (mention,) = WITHOUT_TOWER.extract("Honestly?  Such BOLD   outlines!", None, True)
    assert (mention.attribute, mention.category, mention.phrase) == (
        "bold outlines",
        "line",
        "BOLD   outlines",
    )


def test_a_word_no_list_knows_is_placed_by_its_meaning() -> None:
    mentions = extract_attributes("It all feels so mesmeric", None, liked=True)
    assert [(m.attribute, m.polarity) for m in mentions] == [("hypnotic", 1)]


def test_the_shipped_term_embeddings_are_of_the_present_vocabulary() -> None:
    with safe_open(TERMS, framework="np") as file:
        assert file.metadata()["texts"] == texts_stamp(term_texts(load_vocabulary())[0])


def test_given_mentions_are_returned_as_they_are() -> None:
    mention = Mention("misty", "atmosphere", -1, 0.5, "fog")
    assert extract_attributes("anything", None, backend=Given([mention])) == [mention]


def test_of_two_mentions_of_one_attribute_the_stronger_stands() -> None:
    faint, strong = Mention("red", "colour", 1, 0.3, "red"), Mention("red", "colour", -1, 0.8, "the red")
    assert merge_mentions([faint, strong]) == [strong]


def test_the_development_comments_are_understood() -> None:
    benchmark = load_benchmark()
    entries = json.loads((ROOT / "tests" / "data" / "dev_comments.json").read_text(encoding="utf-8"))
    for held_back in (False, True):
        chosen = [e for e in entries if e["held_back"] is held_back]
        predicted = [WITHOUT_TOWER.extract(e["comment"], None, e["liked"]) for e in chosen]
        score = benchmark.score_extraction(predicted, [e["attributes"] for e in chosen], load_vocabulary())
        assert min(score.precision, score.recall) >= 0.85, (held_back, score)
        assert score.polarity_errors <= 0.03, (held_back, score)


def test_the_score_counts_wrong_signs_synonyms_and_opposites() -> None:
    score = load_benchmark().score_extraction
    labels = [
        [
            {"attribute": "high contrast", "polarity": 1},
            {"any_of": ["dark", "blue"], "polarity": -1},
            {"optional": ["misty"]},
        ]
    ]
    opposite = [
        [Mention("low contrast", "contrast", -1, 0.5, "x"), Mention("nocturnal", "lighting", -1, 0.5, "x")]
    ]
    result = score(opposite, labels, load_vocabulary())
    assert (result.precision, result.recall, result.polarity_errors) == (1.0, 1.0, 0.0)
    wrong = [
        [
            Mention("dark", "lighting", 1, 0.5, "x"),
            Mention("misty", "atmosphere", 1, 0.5, "x"),
            Mention("pink", "colour", 1, 0.5, "x"),
        ]
    ]
    result = score(wrong, labels, load_vocabulary())
    assert (result.mentions, result.right, result.found, result.wrong_sign) == (2, 0, 0, 1)
