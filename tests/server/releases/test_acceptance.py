"""Is an encoder fit for a release: a steered attribute is seen, an honest change is not in the way, noise is
called noise."""

import math

import numpy as np
import pytest

from palate.server.releases.acceptance import (
    LEAST_CORRELATION,
    MOST_RATIO,
    accept,
    faults,
    kept_of,
    noise_over_signal,
)
from palate.server.secure_sum.sums import TOTAL, TOTALS
from palate.server.secure_sum.trust_region import taste_logits
from palate.shared.encoder import ATTRIBUTE_NAMES, EncoderWeights, load_encoder, standardize
from palate.shared.errors import ReleaseError
from palate.shared.public_pictures import load_public_pictures
from palate.shared.releases.message import Acceptance
from palate.simulations.experiments.comparison import WEAK

RELEASE = load_encoder()


def memory_of(noise: float, signal: float, clips: float = 100.0) -> dict[str, np.ndarray]:
    """A checkpoint's memory after rounds with so much noise, and so much that devices agreed on."""
    total = np.full(4096, math.hypot(noise, signal) / 64, np.float32)
    return {TOTAL: total, TOTALS: np.array([0, noise**2, clips], np.float32)}


CALM = memory_of(0.03, 0.1)
MISTY, NEON = ATTRIBUTE_NAMES.index("misty"), ATTRIBUTE_NAMES.index("neon")


def steered(
    part: float, encoder: EncoderWeights = RELEASE, place: int = MISTY, other: int = NEON
) -> EncoderWeights:
    """One attribute reads by so much as another."""
    shared = encoder.shared()
    for name in ("picture.taste.weight", "picture.taste.bias"):
        row = shared[name]
        row[place] = (1 - part) * row[place] + part * row[other]
    return encoder.with_shared(shared)


def negated(part: float) -> EncoderWeights:
    shared = RELEASE.shared()
    for name in ("picture.taste.weight", "picture.taste.bias"):
        shared[name][: len(ATTRIBUTE_NAMES)] *= 1 - 2 * part
    return RELEASE.with_shared(shared)


def test_the_release_itself_is_fit() -> None:
    found = accept(RELEASE, RELEASE, CALM)
    assert found == Acceptance(len(load_public_pictures()), 1.0, 1.0, 0.3)
    assert faults(found) == []


@pytest.mark.parametrize(
    "encoder", [steered(0.5), steered(1.0), negated(1.0)], ids=["by half", "wholly", "negated"]
)
def test_a_steered_encoder_is_seen_by_its_worst_attribute(encoder: EncoderWeights) -> None:
    found = accept(RELEASE, encoder, CALM)
    assert found.least_correlation < LEAST_CORRELATION
    (line,) = faults(found)
    assert "\n" not in line


def test_one_steered_attribute_hides_in_the_mean_and_not_in_the_least() -> None:
    found = accept(RELEASE, steered(0.5), CALM)
    assert found.mean_correlation > 0.97
    assert faults(found)


def test_a_sentence_side_that_finds_something_else_is_seen() -> None:
    shared = RELEASE.shared()
    words = load_public_pictures().words
    away = shared["sentence.taste.weight"] @ (words[NEON] - words[MISTY])
    shared["sentence.taste.weight"] += np.outer(away, words[MISTY]).astype(np.float32)
    assert faults(accept(RELEASE, RELEASE.with_shared(shared), CALM))


def test_a_slow_drift_over_releases_is_seen_against_the_first() -> None:
    parent, lines = RELEASE, []
    for _ in range(12):
        child = steered(0.08, parent)
        assert accept(parent, child, CALM, first=parent).least_correlation > LEAST_CORRELATION
        lines = faults(accept(parent, child, CALM))
        parent = child
    assert lines


def test_an_attribute_that_says_something_truer_than_before_is_no_fault_and_the_way_back_is() -> None:
    weak, public = load_encoder(WEAK), load_public_pictures()
    bright = ATTRIBUTE_NAMES.index("bright")  # which the weak encoder sees where it is not
    t = weak.tensors
    hidden = standardize(weak, public.features) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"]
    inputs = np.append(np.maximum(hidden, 0), np.ones((len(hidden), 1)), axis=1).astype(np.float64)
    taught = np.linalg.solve(
        inputs.T @ inputs + np.eye(inputs.shape[1]), inputs.T @ (4.0 * public.shows[:, bright] - 2)
    )
    shared = weak.shared()
    shared["picture.taste.weight"][bright], shared["picture.taste.bias"][bright] = taught[:-1], taught[-1]
    child = weak.with_shared(shared)
    before, after = (
        taste_logits(weak, public.features)[:, bright],
        taste_logits(child, public.features)[:, bright],
    )
    assert np.corrcoef(before, after)[0, 1] < 0.5
    assert kept_of(child, weak, public)[bright] == 1.0
    assert kept_of(weak, child, public)[bright] < 0.5


@pytest.mark.parametrize(
    ("memory", "ratio", "fit"),
    [
        ({}, 0.0, True),
        (memory_of(0.0, 0.1), 0.0, True),
        (CALM, 0.3, True),
        (memory_of(12.8, 3.0, clips=0.1), 128.0, False),  # two devices: no more can be in it than their clip
        (memory_of(1.0, 0.0), MOST_RATIO, False),
    ],
    ids=["without masks", "without noise", "the private run", "two devices", "nothing but noise"],
)
def test_noise_is_held_against_what_was_learned(
    memory: dict[str, np.ndarray], ratio: float, fit: bool
) -> None:
    if ratio == MOST_RATIO:
        assert noise_over_signal(memory, 0) > 100
    else:
        assert noise_over_signal(memory, 0) == pytest.approx(ratio, rel=1e-3)
    lines = faults(accept(RELEASE, RELEASE, memory))
    assert (lines == []) == fit
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pictures": -1},
        {"least_correlation": 1.1},
        {"mean_correlation": float("nan")},
        {"noise_over_signal": -0.1},
    ],
)
def test_an_acceptance_outside_its_ranges_is_refused(wrong: dict[str, float]) -> None:
    good = {"pictures": 640, "least_correlation": 0.99, "mean_correlation": 0.99, "noise_over_signal": 0.3}
    with pytest.raises(ReleaseError):
        Acceptance(**{**good, **wrong})  # type: ignore[arg-type]
