"""The world: what a truth may say, that pictures follow from it alone, and that every attribute can be
seen."""

from __future__ import annotations

import random

import numpy as np
import pytest

from palate.simulations.world.render import render
from palate.simulations.world.truth import (
    ATTRIBUTES,
    CATEGORY_OF,
    OWN_PLACE,
    SETTINGS,
    SIDE,
    SUBJECTS,
    Truth,
    can_meet,
    sample_truth,
)


def test_the_world_is_as_rich_as_promised() -> None:
    assert len(SUBJECTS) >= 12
    assert len(CATEGORY_OF) >= 45
    assert len(ATTRIBUTES) >= 8


def test_the_same_truth_and_seed_give_the_same_pixels() -> None:
    for number in range(6):
        truth = sample_truth(random.Random(number))
        assert np.array_equal(render(truth, number), render(truth, number))


def test_another_seed_gives_another_picture_of_the_same_truth() -> None:
    truth = Truth("house", {"palette": "vibrant"})
    assert not np.array_equal(render(truth, 1), render(truth, 2))


def test_pictures_have_the_promised_form() -> None:
    picture = render(Truth("fish", {}), 3)
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("attribute", sorted(CATEGORY_OF))
def test_every_attribute_is_visible_in_the_pixels(attribute: str) -> None:
    """Pictures with the attribute differ from the same scenes without it by more than redrawing a scene at
    another seed
    would have to explain: the mean change exceeds 1 % of the range for every subject tried."""
    for subject in ("house", "cat"):
        plain = render(Truth(subject, {}), 11).astype(float)
        shown = render(Truth(subject, {CATEGORY_OF[attribute]: attribute}), 11).astype(float)
        assert np.abs(plain - shown).mean() > 2.5


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_the_picture(setting: str) -> None:
    assert not np.array_equal(render(Truth("tree", {}, setting), 4), render(Truth("tree", {}), 4))


def test_black_and_white_has_no_colour_and_red_is_red() -> None:
    grey = render(Truth("house", {"palette": "black and white"}), 5).astype(int)
    assert np.ptp(grey, axis=2).mean() < 12
    red = render(Truth("house", {"colour": "red"}), 5).astype(int)
    assert red[..., 0].mean() > red[..., 1].mean() + 40


@pytest.mark.parametrize(
    "other", ["golden hour", "dramatic", "rainy", "misty", "melancholic", "dreamy", "snowy"]
)
def test_black_and_white_stays_grey_under_every_light_and_weather(other: str) -> None:
    picture = render(Truth("boat", {"palette": "black and white", CATEGORY_OF[other]: other}), 6).astype(int)
    assert np.ptp(picture, axis=2).max() <= 1


def colours_of(attributes: dict[str, str]) -> int:
    """How many colours a picture of a house has, to eight steps a channel."""
    return len(np.unique(render(Truth("house", attributes), 12).reshape(-1, 3) // 32, axis=0))


def test_simplified_pictures_are_silhouettes_and_flat_ones_have_few_colours() -> None:
    plain = colours_of({})
    assert colours_of({"detail": "simplified"}) < plain / 2
    assert (
        len(np.unique(render(Truth("house", {"technique": "flat colour"}), 12).reshape(-1, 3), axis=0)) <= 6
    )


def test_symmetrical_pictures_have_a_pair_at_the_edges() -> None:
    picture = render(Truth("tree", {"composition": "symmetrical"}), 13).astype(int)
    without = render(Truth("tree", {}), 13).astype(int)
    edge = np.s_[64:100, 6:14]
    assert picture[edge].mean() < without[edge].mean() - 15
    assert abs(picture[edge].mean() - picture[:, ::-1][edge].mean()) < 12


@pytest.mark.parametrize("line", ["flowing lines", "angular lines"])
def test_line_marks_leave_the_subject_legible(line: str) -> None:
    """Marks of line are fainter on the middle of the subject than far from it."""
    from palate.simulations.world.finishes import _off_subject

    strength = _off_subject((64, 64))[..., 0]
    assert strength[64, 64] < 0.5
    assert strength[2, 2] == 1
    picture = render(Truth("cat", {"line": line}), 14)
    assert not np.array_equal(picture, render(Truth("cat", {}), 14))


@pytest.mark.parametrize("light", ["golden hour", "moonlit"])
@pytest.mark.parametrize("hue", ATTRIBUTES["colour"] + ATTRIBUTES["temperature"])
def test_light_that_tints_everything_never_meets_a_colour_that_it_would_hide(light: str, hue: str) -> None:
    assert not can_meet(hue, (light,))
    assert not can_meet(light, (hue,))


def test_no_picture_is_too_dark_to_see() -> None:
    for seed in range(5):
        assert render(Truth("boat", {"lighting": "dark"}), seed).mean() > 25


def test_sampled_truths_never_hold_what_cannot_meet() -> None:
    rng = random.Random(7)
    for _ in range(500):
        truth = sample_truth(rng)
        for value in truth.values():
            assert can_meet(value, tuple(v for v in truth.values() if v != value))


def test_sampling_covers_every_subject_and_attribute() -> None:
    rng = random.Random(8)
    truths = [sample_truth(rng) for _ in range(4000)]
    assert {t.subject for t in truths} == set(SUBJECTS)
    assert {v for t in truths for v in t.values()} == set(CATEGORY_OF)
    assert all(t.setting is None for t in truths if t.subject in OWN_PLACE)


def test_forced_categories_are_kept() -> None:
    truth = sample_truth(random.Random(9), "cat", {"technique": "mosaic"})
    assert truth.subject == "cat"
    assert truth.shows("mosaic")


@pytest.mark.parametrize(
    ("subject", "attributes", "setting"),
    [
        ("hippogriff", {}, None),
        ("cat", {"palette": "plaid"}, None),
        ("cat", {"smell": "smoky"}, None),
        ("cat", {"palette": "dark"}, None),
        ("cat", {}, "moon"),
    ],
)
def test_a_truth_that_the_world_does_not_know_is_refused(
    subject: str, attributes: dict[str, str], setting: str | None
) -> None:
    with pytest.raises(ValueError, match=r"not (one of|in the world)"):
        Truth(subject, attributes, setting)


def test_a_truth_cannot_be_changed() -> None:
    truth = Truth("cat", {"palette": "muted"})
    with pytest.raises(TypeError):
        truth.attributes["palette"] = "neon"  # type: ignore[index]
