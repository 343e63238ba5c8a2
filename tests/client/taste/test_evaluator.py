"""The proxy evaluator: what it must refuse, what it must never change, and that it learns what it is told."""

import random

import numpy as np
import pytest
from PIL import Image

from palate.client.eye.tower import picture_features
from palate.client.taste.evaluator import Settings, fit_evaluator
from palate.shared.encoder import (
    ATTRIBUTE_NAMES,
    PICTURE_FEATURES,
    TOWER_FEATURES,
    EncoderWeights,
    load_encoder,
)
from palate.shared.errors import OptionError
from palate.simulations.crowd.people import sample_shown
from palate.simulations.world.render import render


@pytest.fixture(scope="module")
def encoder() -> EncoderWeights:
    return load_encoder()


def pictures(encoder: EncoderWeights, n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features spread like those of drawn pictures; `shift` moves the statistics of lightness and colour."""
    rng = np.random.default_rng(seed)
    x = 0.5 * rng.normal(size=(n, PICTURE_FEATURES)).astype(np.float32)
    x[:, 128:141] += shift
    return x * encoder.tensors["feature.scale"] + encoder.tensors["feature.mean"]


def drawn_pictures(n: int, seed: str) -> np.ndarray:
    """Features of drawn pictures, as the eye sees them."""
    truths = [sample_shown(random.Random(f"{seed} {i}")) for i in range(n)]
    return picture_features([Image.fromarray(render(t, 29_000_000 + i)) for i, t in enumerate(truths)])


@pytest.mark.parametrize(
    "bad", [np.zeros(5), np.zeros((2, 7)), np.full((2, PICTURE_FEATURES), np.nan), np.zeros((2, 3, 4))]
)
def test_features_that_are_none_are_refused(encoder: EncoderWeights, bad: np.ndarray) -> None:
    with pytest.raises((OptionError, ValueError)):
        fit_evaluator(encoder, bad, pictures(encoder, 2, 0))
    with pytest.raises(OptionError):
        fit_evaluator(encoder, pictures(encoder, 2, 0), pictures(encoder, 2, 1)).score(bad)


@pytest.mark.parametrize("strength", [1.5, -2, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_refused(encoder: EncoderWeights, strength: float) -> None:
    nothing = np.zeros((0, PICTURE_FEATURES), np.float32)
    with pytest.raises(OptionError, match="strength of 'misty'"):
        fit_evaluator(encoder, nothing, nothing, tastes={"misty": strength})


def test_ten_thousand_unknown_attributes_are_left_aside_and_named(encoder: EncoderWeights) -> None:
    nothing = np.zeros((0, PICTURE_FEATURES), np.float32)
    tastes = {f"zzqx{i}": 0.5 for i in range(10_000)}
    fitted = fit_evaluator(encoder, nothing, nothing, tastes=tastes)
    assert len(fitted.unread) == 10_000
    assert 0 < fitted.score(pictures(encoder, 1, 5))[0].probability < 1


def test_scores_are_probabilities_inside_their_interval(encoder: EncoderWeights) -> None:
    fitted = fit_evaluator(
        encoder, pictures(encoder, 6, 1, 2), pictures(encoder, 6, 2, -2), tastes={"blue": 0.7}
    )
    for one in fitted.score(pictures(encoder, 20, 3)):
        assert 0 <= one.low <= one.probability <= one.high <= 1
        assert all(reason.attribute in ATTRIBUTE_NAMES for reason in one.because)


def test_a_reason_says_whether_the_picture_shows_more_or_less_of_it(encoder: EncoderWeights) -> None:
    nothing = np.zeros((0, PICTURE_FEATURES), np.float32)
    fitted = fit_evaluator(encoder, nothing, nothing, tastes={"blue": -0.9})
    scores = fitted.score(drawn_pictures(24, "blue or not"))
    blue = [reason for one in scores for reason in one.because if reason.attribute == "blue"]
    assert {reason.more for reason in blue} == {True, False}
    assert all((reason.weight < 0) == reason.more for reason in blue)


def test_nothing_known_is_said_to_be_unsure_and_pictures_make_it_surer(encoder: EncoderWeights) -> None:
    nothing = np.zeros((0, PICTURE_FEATURES), np.float32)
    liked, disliked = drawn_pictures(8, "liked"), drawn_pictures(8, "disliked")
    before, after = fit_evaluator(encoder, nothing, nothing), fit_evaluator(encoder, liked, disliked)
    assert before.known == pytest.approx(0, abs=1e-6)
    assert after.known > 0.05
    assert before.logits(liked)[1].mean() > after.logits(liked)[1].mean()


def test_liked_pictures_come_out_above_disliked_ones(encoder: EncoderWeights) -> None:
    fitted = fit_evaluator(encoder, pictures(encoder, 10, 1, 2), pictures(encoder, 10, 2, -2))
    up, down = (
        fitted.probabilities(pictures(encoder, 30, 3, 2)),
        fitted.probabilities(pictures(encoder, 30, 4, -2)),
    )
    assert (up[:, None] > down[None]).mean() > 0.8


def test_a_liked_attribute_raises_pictures_that_show_it_and_a_disliked_one_lowers_them(
    encoder: EncoderWeights,
) -> None:
    from palate.shared.encoder import project_pictures

    nothing = np.zeros((0, PICTURE_FEATURES), np.float32)
    some = pictures(encoder, 400, 7)
    shown = project_pictures(encoder, some)[:, ATTRIBUTE_NAMES.index("dark")]
    plain, liking, disliking = (
        fit_evaluator(encoder, nothing, nothing, tastes=t).utilities(some)
        for t in ({}, {"dark": 1.0}, {"dark": -1.0})
    )
    clear = shown > np.quantile(shown, 0.97)
    assert (liking - plain)[clear].mean() > (liking - plain)[~clear].mean()
    assert (disliking - plain)[clear].mean() < (disliking - plain)[~clear].mean()


def test_an_open_phrase_counts_through_its_direction(encoder: EncoderWeights) -> None:
    nothing = np.zeros((0, PICTURE_FEATURES), np.float32)
    direction = np.zeros(64, np.float32)
    direction[ATTRIBUTE_NAMES.index("dark")] = 1
    by_phrase = fit_evaluator(
        encoder, nothing, nothing, tastes={"qqtenebrous": 0.8}, directions={"qqtenebrous": direction}
    )
    by_name = fit_evaluator(encoder, nothing, nothing, tastes={"dark": 0.8})
    some = pictures(encoder, 10, 3)
    assert by_phrase.unread == ()
    assert np.allclose(by_phrase.utilities(some), by_name.utilities(some), atol=1e-3)


def test_fitting_and_scoring_change_no_input_and_no_evaluator(encoder: EncoderWeights) -> None:
    liked, disliked, asked = pictures(encoder, 5, 1), pictures(encoder, 5, 2), pictures(encoder, 5, 3)
    copies = [one.copy() for one in (liked, disliked, asked)]
    fitted = fit_evaluator(encoder, liked, disliked)
    first = fitted.score(asked)
    for _ in range(3):
        assert fitted.score(asked) == first
    assert all(np.array_equal(a, b) for a, b in zip((liked, disliked, asked), copies, strict=True))


def test_a_picture_scores_the_same_alone_and_among_others(encoder: EncoderWeights) -> None:
    fitted = fit_evaluator(encoder, pictures(encoder, 5, 1), pictures(encoder, 5, 2))
    asked = pictures(encoder, 50, 3)
    assert np.allclose(fitted.probabilities(asked)[7], fitted.probabilities(asked[7:8])[0], atol=1e-6)


def test_the_order_of_pictures_does_not_matter(encoder: EncoderWeights) -> None:
    liked, disliked, asked = pictures(encoder, 6, 1), pictures(encoder, 6, 2), pictures(encoder, 6, 3)
    one, two = fit_evaluator(encoder, liked, disliked), fit_evaluator(encoder, liked[::-1], disliked[::-1])
    assert np.allclose(one.utilities(asked), two.utilities(asked), atol=1e-3)


def test_forgetting_a_picture_is_as_if_it_had_never_been(encoder: EncoderWeights) -> None:
    liked, disliked, asked = pictures(encoder, 6, 1), pictures(encoder, 6, 2), pictures(encoder, 6, 3)
    fit_evaluator(encoder, liked, disliked)
    again = fit_evaluator(encoder, liked[:5], disliked).utilities(asked)
    never = fit_evaluator(encoder, pictures(encoder, 6, 1)[:5], disliked).utilities(asked)
    assert np.array_equal(again, never)


def test_only_likes_are_enough_to_fit(encoder: EncoderWeights) -> None:
    fitted = fit_evaluator(encoder, pictures(encoder, 3, 1), np.zeros((0, PICTURE_FEATURES), np.float32))
    assert np.isfinite(fitted.probabilities(pictures(encoder, 4, 2))).all()


def test_pictures_whose_statistics_do_not_bear_out_the_eye_leave_the_crowd_behind(
    encoder: EncoderWeights,
) -> None:
    drawn = drawn_pictures(16, "agreement")
    strange = drawn.copy()  # each with the statistics of another picture
    strange[:, TOWER_FEATURES:] = np.roll(drawn[:, TOWER_FEATURES:], 3, axis=0)
    assert fit_evaluator(encoder, drawn[:8], drawn[8:]).trust == 1
    assert fit_evaluator(encoder, strange[:8], strange[8:]).trust < 0.2
    assert fit_evaluator(encoder, drawn[:0], drawn[:0]).trust == 1


def test_a_word_is_worth_less_on_pictures_unlike_drawn_ones(encoder: EncoderWeights) -> None:
    first, second = pictures(encoder, 8, 1), pictures(encoder, 8, 2)  # noise, which nothing bears out
    tastes = {"blue": 0.8, "dark": -0.6}
    queries = pictures(encoder, 30, 3)
    spreads = [
        fit_evaluator(encoder, first, second, tastes=tastes, settings=Settings(strange_gain=gain))
        .utilities(queries)
        .std()
        for gain in (0.5, 7.0)
    ]
    assert spreads[0] < spreads[1]
