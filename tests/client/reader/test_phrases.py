"""A person's words find their place in the vocabulary, or keep to themselves."""

import pytest

from palate.client.reader.phrases import place_look, trim


def places(comment: str, look: str) -> list[tuple[str, str | None]]:
    start = comment.index(look)
    return [(part.words, part.term) for part in place_look(comment, start, start + len(look))]


@pytest.mark.parametrize(
    ("comment", "look", "expected"),
    [
        ("love the mist", "mist", [("mist", "misty")]),
        ("such bold colours", "bold colours", [("bold colours", "vibrant")]),
        ("such bold lines", "bold lines", [("bold lines", "bold outlines")]),
        ("the colours are so bold", "bold", [("bold", "vibrant")]),
        ("the lines are bold", "bold", [("bold", "bold outlines")]),
        ("soft, muted greens", "muted greens", [("muted", "muted"), ("greens", "green")]),
        ("looks like wet cardboard", "like wet cardboard", [("like wet cardboard", None)]),
    ],
)
def test_words_find_their_place_by_what_stands_beside_them(
    comment: str, look: str, expected: list[tuple[str, str | None]]
) -> None:
    assert places(comment, look) == expected


def test_a_noun_of_a_kind_alone_is_vague() -> None:
    (part,) = place_look("I adore these colours", 8, 21)
    assert (part.term, part.vague, part.category) == (None, True, "palette")


def test_a_new_word_is_placed_by_its_meaning() -> None:
    assert places("it all feels so mesmeric", "mesmeric") == [("mesmeric", "hypnotic")]


def test_small_words_at_the_edges_are_cut() -> None:
    text = "it is so bright and"
    assert trim(text, 0, len(text)) == (9, 15)
    assert trim("so much", 0, 7) is None
