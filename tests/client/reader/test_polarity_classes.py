"""Liked or disliked, one test for each turn of phrase that free comments on photographs and
paintings were found to be misread by."""

from __future__ import annotations

import pytest

from palate.client.reader.extractor import ShippedExtractor

WITHOUT_TOWER = ShippedExtractor(likeness=None, sentiment=None)


def read(comment: str, liked: bool | None = None) -> dict[str, int]:
    """What a comment without a picture says: attribute to polarity."""
    return {m.attribute: m.polarity for m in WITHOUT_TOWER.extract(comment, None, liked)}


def test_a_still_that_tells_of_rest_sets_nothing_against_what_was_said() -> None:
    # "Still" as "nevertheless" would make the strokes a point in the picture's favour.
    assert (
        read("Covered in brushstrokes and nothing is ever allowed to be still", False)["visible brushstrokes"]
        == -1
    )
    assert read("It is dark, I like it still")["dark"] == 1


def test_what_somebody_else_is_into_is_not_what_the_person_likes() -> None:
    assert read("I'm sure somebody is into it, the neon is too loud", False)["neon"] == -1
    assert read("I'm so into the neon") == {"neon": 1}


def test_a_yes_before_a_but_grants_a_point_and_praises_nothing() -> None:
    assert read("It is gloomy, yes, but the warm light is lovely", True) == {"gloomy": -1, "warm": 1}


def test_an_auxiliary_alone_says_of_one_thing_what_was_denied_of_another() -> None:
    found = read("The blue isn't the problem, the neon is", False)
    assert found == {"blue": 1, "neon": -1}


def test_a_list_after_a_verb_goes_on_with_what_is_not_there() -> None:
    assert read("It has no depth or variation", False)["varied"] == 1
    assert read("The line has no weight or variation", False)["varied"] == 1
    assert read("It has no clutter or noise, lovely", True)["cluttered"] == -1


def test_a_word_that_complains_blames_what_it_is_said_of() -> None:
    assert read("The symmetry looks cheap", True)["symmetrical"] == -1
    assert read("The greens are rich rather than lifeless", True)["green"] == 1
    assert read("The red is not garish", True)["red"] == 1


@pytest.mark.parametrize("times", ["nearly ", "quite ", ""])
def test_what_falls_short_of_what_was_hoped_for_is_wanted(times: str) -> None:
    assert read(f"Not {times}as dark as I would want it", False) == {"dark": 1}


def test_what_is_never_there_at_all_is_absent_and_not_single() -> None:
    assert read("There is not a single warm tone in it", False) == {"warm": 1}
    assert read("Love that there is not one garish note in it", True) == {"garish": -1}


def test_changes_that_the_person_would_make_are_wishes() -> None:
    assert read("I would drop the bold outlines", True)["bold outlines"] == -1
    assert read("I would keep the blue", False) == {"blue": 1}
    assert read("It would be fine without the neon", False) == {"neon": -1}
    assert read("Had the light been softer, I would have stayed", False)["soft light"] == 1


def test_an_expectation_that_was_not_met_is_no_opinion() -> None:
    assert read("I didn't think pink could look this good", True) == {"pink": 1}
    assert read("It shouldn't work, all that neon, but it does", True) == {"neon": 1}


def test_a_habit_from_which_this_picture_departs_is_turned_round() -> None:
    assert read("I usually hate cartoony pictures but the outlines work here", True)["cartoonish"] == 1
    assert read("I usually hate neon, but I love the blue", True)["neon"] == -1


def test_liking_that_lasts_until_something_is_seen_is_a_complaint_about_it() -> None:
    assert read("I liked it until I noticed how blurry it is", False) == {"blurry": -1}


def test_praise_that_ceases_is_blame() -> None:
    assert read("So realistic that it stops being interesting", False) == {"realistic": -1}


def test_what_redeems_a_picture_is_liked() -> None:
    assert read("The pixels are ugly, the muted blues redeem it", True) == {
        "pixel art": -1,
        "muted": 1,
        "blue": 1,
    }


def test_everywhere_is_not_disorder() -> None:
    assert "disorganised" not in read("Dappled light all over the place", True)
    assert read("The composition is all over the place", False)["disorganised"] == -1
