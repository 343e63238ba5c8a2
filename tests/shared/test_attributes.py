"""The vocabulary: complete, without contradictions, and found under every spelling."""

import pytest

from palate.shared.attributes import Mention, load_vocabulary, phrase_key, read_vocabulary
from palate.shared.errors import FileFormatError, OptionError

WORLD = {
    "palette": "vibrant, muted, pastel, monochrome, neon, earthy, black and white, multicoloured",
    "colour": "red, orange, yellow, green, blue, purple, pink",
    "temperature": "warm, cool",
    "lighting": "bright, dark, golden hour, moonlit, spotlit",
    "atmosphere": "misty, rainy, snowy",
    "contrast": "high contrast, low contrast",
    "technique": "flat colour, watercolour, pointillism, line art, crosshatching, mosaic, stained glass, "
    "pixel art",
    "brushwork": "impasto, swirling brushstrokes",
    "texture": "smooth, grainy, canvas",
    "line": "flowing lines, angular lines, bold outlines",
    "composition": "minimalist, busy, close-up, symmetrical, tilted",
    "detail": "simplified, intricate",
    "mood": "calm, joyful, melancholic, dramatic, dreamy",
}
HEAD = '[categories.colour]\nabout = "hues"\nnouns = ["hue"]\n[terms.colour]\n'


def test_a_mention_outside_its_ranges_is_refused() -> None:
    for fields in [
        ("", "c", 1, 0.5),
        ("a", "", 1, 0.5),
        ("a", "c", 0, 0.5),
        ("a", "c", 2, 0.5),
        ("a", "c", 1, 0.0),
        ("a", "c", 1, 1.5),
    ]:
        with pytest.raises(OptionError):
            Mention(*fields, "words")
    with pytest.raises(OptionError):
        Mention("a", "c", 1, float("nan"), "words")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "red = { alias = [] }", "unknown key 'alias'"),
        (HEAD + 'red = {}\nblue = { also = ["reds"] }', "alias of 'red' and of 'blue'"),
        (HEAD + 'red = { opposites = ["green"] }', "'green' of 'red' is no term"),
        (HEAD + "red = {}\n[terms.line]\nwavy = {}", "no categories.line"),
    ],
)
def test_a_contradictory_vocabulary_is_refused(text: str, words: str) -> None:
    with pytest.raises(FileFormatError, match=words):
        read_vocabulary(text)


def test_every_attribute_of_the_drawn_world_is_a_term_that_shows_itself() -> None:
    vocabulary = load_vocabulary()
    for category, names in WORLD.items():
        for name in names.split(", "):
            assert vocabulary.category(name) == category
            assert vocabulary.shows(name)[name] == 1.0


def test_the_vocabulary_is_broad() -> None:
    vocabulary = load_vocabulary()
    assert 380 <= len(vocabulary.terms) <= 440
    assert len(vocabulary.categories) >= 20
    assert {term.category for term in vocabulary.terms} == set(vocabulary.categories)


def test_what_terms_show_is_of_the_drawn_world_and_within_range() -> None:
    world = {name for names in WORLD.values() for name in names.split(", ")}
    vocabulary = load_vocabulary()
    for term in vocabulary.terms:
        shown = vocabulary.shows(term.name)
        assert set(shown) <= world, term
        assert all(0 < abs(weight) <= 1 for weight in shown.values()), term


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("Water-Colors", "watercolour"),
        ("watercolour", "watercolour"),
        ("COLORFUL", "colourful"),
        ("grey", "grey"),
        ("grays", "grey"),
        ("thick paint", "impasto"),
        ("symmetrically", "symmetrical"),
        ("close up", "close-up"),
        ("stylized", "stylised"),
        ("crimsons", "crimson"),
        ("bird’s-eye view", "aerial"),
        ("cozy", "cosy"),
    ],
)
def test_a_term_is_found_under_any_spelling(phrase: str, name: str) -> None:
    found = load_vocabulary().find(phrase)
    assert found is not None
    assert found.name == name


def test_a_phrase_that_is_no_term_is_not_found() -> None:
    for phrase in ("", "🎨", "boat", "the", "qwertz", "red boat"):
        assert load_vocabulary().find(phrase) is None


def test_opposites_hold_both_ways() -> None:
    vocabulary = load_vocabulary()
    assert "dark" in vocabulary.opposites("bright")
    for term in vocabulary.terms:
        for other in vocabulary.opposites(term.name):
            assert term.name in vocabulary.opposites(other)
            assert other != term.name


def test_open_words_act_on_the_drawn_world() -> None:
    vocabulary = load_vocabulary()
    assert vocabulary.main_show("crimson") == "red"
    assert vocabulary.shows("gloomy")["dark"] > 0.5
    assert vocabulary.shows("gloomy")["melancholic"] > 0.5
    assert vocabulary.main_show("cubist") == "angular lines"
    assert "scarlet" in vocabulary.related("crimson")


def test_a_word_means_another_thing_beside_another_noun() -> None:
    vocabulary = load_vocabulary()
    bold = phrase_key("bold")
    names = {kind: vocabulary.find_beside(bold, kind) for kind in ("palette", "line", "brushwork", "mood")}
    assert {kind: found.name if found else None for kind, found in names.items()} == {
        "palette": "vibrant", "line": "bold outlines", "brushwork": "bold brushstrokes", "mood": None,
    }  # fmt: skip
