"""Directions of a release: hostile shapes first, then what is kept, what is dropped, and equal noise in every
direction."""

import numpy as np
import pytest

from palate.shared.encoder import HIDDEN, PICTURE_FEATURES, SHARED_SHAPES, TASTE, load_encoder, standardize
from palate.shared.errors import OptionError
from palate.shared.subspace import Subspace, subspace_of


def features(count: int = 600) -> np.ndarray:
    rng = np.random.default_rng(1)
    fixed = load_encoder().tensors
    mixed = rng.normal(size=(count, 40)) @ rng.normal(size=(40, PICTURE_FEATURES)) / 6
    return (fixed["feature.mean"] + mixed * fixed["feature.scale"]).astype(np.float32)


def random_change() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHARED_SHAPES.items()}


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((HIDDEN, 3), np.float32),
        np.zeros((HIDDEN + 1, 0), np.float32),
        np.zeros((HIDDEN + 1, HIDDEN + 2), np.float32),
        np.zeros(HIDDEN + 1, np.float32),
        np.zeros((HIDDEN + 1, 3)),
        np.full((HIDDEN + 1, 3), np.nan, np.float32),
    ],
)
def test_directions_of_another_form_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(OptionError, match="subspace"):
        Subspace(bad)


@pytest.mark.parametrize("rank", [0, -1, HIDDEN + 2, 2.0, True])
def test_a_rank_outside_the_range_is_refused(rank: object) -> None:
    with pytest.raises(OptionError, match="rank"):
        subspace_of(load_encoder(), features(), rank)  # type: ignore[arg-type]


def test_more_directions_than_pictures_are_refused() -> None:
    with pytest.raises(OptionError, match="rank"):
        subspace_of(load_encoder(), features(10), 11)


def test_another_number_of_coordinates_is_refused() -> None:
    subspace = subspace_of(load_encoder(), features(), 4)
    with pytest.raises(OptionError, match="256"):
        subspace.change(np.zeros(255, np.float32))


def test_only_the_last_picture_layer_moves() -> None:
    subspace = subspace_of(load_encoder(), features(), 8)
    coordinates = subspace.coordinates(random_change())
    assert coordinates.shape == (subspace.count,) == (TASTE * 8,)
    change = subspace.change(coordinates)
    assert {name: tensor.shape for name, tensor in change.items()} == dict(SHARED_SHAPES)
    moved = {name for name, tensor in change.items() if tensor.any()}
    assert moved == {"picture.taste.weight", "picture.taste.bias"}


def test_a_step_back_and_forth_goes_uphill() -> None:
    """The two maps are each other's transpose, so a change is never turned against itself."""
    subspace = subspace_of(load_encoder(), features(), 16)
    change = random_change()
    coordinates = subspace.coordinates(change)
    back = subspace.change(coordinates)
    along = sum(float((back[name] * change[name]).sum()) for name in SHARED_SHAPES)
    assert along == pytest.approx(float(coordinates @ coordinates), rel=1e-4)


def test_the_same_noise_in_any_direction_moves_public_pictures_equally() -> None:
    encoder, shown = load_encoder(), features()
    subspace = subspace_of(encoder, shown, 12)
    t = encoder.tensors
    hidden = np.maximum(
        standardize(encoder, shown) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"], 0
    )
    effects = []
    for direction in range(12):
        coordinates = np.zeros((TASTE, 12), np.float32)
        coordinates[5, direction] = 1.0
        change = subspace.change(coordinates.ravel())
        logits = hidden @ change["picture.taste.weight"].T + change["picture.taste.bias"]
        effects.append(float(np.square(logits[:, 5]).mean()))
    assert effects == pytest.approx([1.0] * 12, rel=1e-3)
