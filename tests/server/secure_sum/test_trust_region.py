"""The encoder stays near the last release in what it says of public pictures, whatever a round's mean was."""

import numpy as np
import pytest

from palate.server.secure_sum.trust_region import LEAST_COSINE, REACH, held_near, taste_logits
from palate.shared.encoder import ATTRIBUTE_NAMES, EncoderWeights, load_encoder, project_sentences
from palate.shared.public_pictures import load_public_pictures
from palate.shared.subspace import load_subspace

RELEASE, PUBLIC = load_encoder(), load_public_pictures()


def far(encoder: EncoderWeights) -> np.ndarray:
    away = taste_logits(encoder, PUBLIC.features) - taste_logits(RELEASE, PUBLIC.features)
    return np.sqrt(np.square(away).mean(0))


def moved_in_subspace(scale: float, rows: slice = slice(None), seed: int = 1) -> EncoderWeights:
    coordinates = np.zeros((64, load_subspace().count // 64), np.float32)
    coordinates[rows] = np.random.default_rng(seed).standard_normal(coordinates[rows].shape) * scale
    change = load_subspace().change(coordinates.ravel())
    return RELEASE.with_shared({name: RELEASE.tensors[name] + change[name] for name in change})


def moved_whole(side: str, scale: float) -> EncoderWeights:
    rng = np.random.default_rng(2)
    names = [name for name in RELEASE.shared() if name.startswith(side)]
    return RELEASE.with_shared(
        {
            n: RELEASE.tensors[n] + scale * rng.standard_normal(RELEASE.tensors[n].shape).astype(np.float32)
            for n in names
        }
    )


def test_an_encoder_that_is_near_comes_back_as_it_is() -> None:
    near = moved_in_subspace(0.01)
    assert held_near(near, RELEASE) == (near, 0)
    assert held_near(RELEASE, RELEASE) == (RELEASE, 0)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_taste_that_went_far_is_drawn_back_and_the_others_stay_to_the_bit(scale: float) -> None:
    lied = moved_in_subspace(scale, slice(7, 9))
    held, drawn = held_near(lied, RELEASE)
    assert drawn == 2
    assert far(held).max() == pytest.approx(REACH, rel=1e-2)
    others = np.delete(np.arange(64), [7, 8])
    for name in ("picture.taste.weight", "picture.taste.bias"):
        assert np.array_equal(held.tensors[name][others], lied.tensors[name][others])


def test_every_attribute_of_release_0_keeps_a_correlation_of_95_percent_however_it_is_pushed() -> None:
    """Each row is pushed along the way that costs most correlation at this distance, at a right angle to
    where it ends."""
    before = taste_logits(RELEASE, PUBLIC.features)[:, : len(ATTRIBUTE_NAMES)]
    for seed in range(3):
        held, drawn = held_near(moved_in_subspace(100.0, seed=seed), RELEASE)
        assert drawn == 64
        after = taste_logits(held, PUBLIC.features)[:, : len(ATTRIBUTE_NAMES)]
        same = [np.corrcoef(a, b)[0, 1] for a, b in zip(before.T, after.T, strict=True)]
        assert min(same) >= 0.95
    spread = before.std(0)
    assert np.sqrt(1 - (REACH / spread.min()) ** 2) >= 0.95  # and no push at all costs more than this


@pytest.mark.parametrize("scale", [0.05, 10.0])
def test_where_hidden_layers_moved_too_the_whole_side_is_drawn_back(scale: float) -> None:
    held, drawn = held_near(moved_whole("picture.", scale), RELEASE)
    assert drawn > 0
    assert far(held).max() <= REACH
    assert far(held).max() > 0.5 * REACH


def test_what_the_attributes_names_say_turns_by_a_bounded_angle() -> None:
    held, drawn = held_near(moved_whole("sentence.", 1.0), RELEASE)
    assert drawn > 0
    said = (project_sentences(RELEASE, PUBLIC.words) * project_sentences(held, PUBLIC.words)).sum(1)
    assert LEAST_COSINE <= said.min() < LEAST_COSINE + 0.02
    assert np.array_equal(held.tensors["picture.taste.weight"], RELEASE.tensors["picture.taste.weight"])
