"""The shared encoder: strict about what it takes, the same bytes for the same weights, and its two
projections by hand."""

import numpy as np
import pytest

from palate.client.eye.statistics import STATISTIC_NAMES
from palate.shared import encoder as e
from palate.shared.encoder import (
    ATTRIBUTE_NAMES,
    FIXED_SHAPES,
    SHARED_SHAPES,
    EncoderWeights,
    encoder_from_bytes,
    encoder_hash,
    encoder_to_bytes,
    load_encoder,
    project_pictures,
    project_sentences,
    shapes_hash,
)
from palate.shared.errors import ModelError, OptionError
from palate.simulations.world.truth import ATTRIBUTES


def plain(seed: int = 0) -> EncoderWeights:
    rng = np.random.default_rng(seed)
    tensors = {
        n: rng.normal(0, 0.05, s).astype(np.float32) for n, s in {**SHARED_SHAPES, **FIXED_SHAPES}.items()
    }
    tensors["feature.scale"][:] = 1
    return EncoderWeights(3, tensors)


def test_anchors_are_the_attributes_of_the_world_in_order() -> None:
    assert {c: tuple(v) for c, v in ATTRIBUTES.items()} == dict(e.CATEGORIES)
    assert len(ATTRIBUTE_NAMES) == 55 <= e.TASTE
    assert len(STATISTIC_NAMES) == e.STATISTICS


def test_the_shared_weights_number_between_75_000_and_300_000() -> None:
    assert 75_000 <= sum(int(np.prod(s)) for s in SHARED_SHAPES.values()) <= 300_000


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, b"\xff" * 100, b"{}", b'\x08\0\0\0\0\0\0\0{"a": 1}', b"x" * (e.MAX_BYTES + 1)]
)
def test_bytes_that_are_no_encoder_are_refused(data: bytes) -> None:
    with pytest.raises(ModelError):
        encoder_from_bytes(data)


def test_a_cut_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="not an encoder"):
        encoder_from_bytes(encoder_to_bytes(plain())[:-5])


@pytest.mark.parametrize("wrong", ["missing", "unknown", "shape", "type", "nan"])
def test_tensors_that_do_not_fit_are_refused(wrong: str) -> None:
    tensors = dict(plain().tensors)
    if wrong == "missing":
        del tensors["picture.hidden.bias"]
    elif wrong == "unknown":
        tensors["head"] = np.zeros(3, np.float32)
    elif wrong == "shape":
        tensors["picture.hidden.bias"] = np.zeros(3, np.float32)
    elif wrong == "type":
        tensors["picture.hidden.bias"] = tensors["picture.hidden.bias"].astype(np.float64)
    else:
        tensors["picture.hidden.bias"] = np.full_like(tensors["picture.hidden.bias"], np.nan)
    with pytest.raises(ModelError, match="encoder"):
        EncoderWeights(0, tensors)


def test_an_encoder_survives_its_bytes_and_half_precision() -> None:
    weights = plain()
    data = encoder_to_bytes(weights)
    again = encoder_from_bytes(data)
    assert encoder_to_bytes(again) == data
    assert (again.release, encoder_hash(again)) == (3, encoder_hash(weights))


def test_one_changed_weight_changes_the_hash_but_not_that_of_the_shapes() -> None:
    weights = plain()
    shared = weights.shared()
    shared["picture.taste.bias"][0] += 1e-3
    assert encoder_hash(weights.with_shared(shared)) != encoder_hash(weights)
    assert len(shapes_hash()) == 64


def test_weights_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        plain().tensors["picture.taste.bias"][0] = 1


def test_a_picture_lies_where_the_formula_says() -> None:
    weights = plain()
    x = np.random.default_rng(1).normal(0, 2, (2, e.PICTURE_FEATURES)).astype(np.float32)
    t = weights.tensors
    hidden = np.maximum(
        np.clip(x - t["feature.mean"], -4, 4) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"], 0
    )
    expected = 1 / (1 + np.exp(-(hidden @ t["picture.taste.weight"].T + t["picture.taste.bias"])))
    assert np.allclose(project_pictures(weights, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "bad", [np.zeros(e.PICTURE_FEATURES), np.zeros((2, 5)), np.full((1, e.PICTURE_FEATURES), np.inf)]
)
def test_features_that_do_not_fit_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(OptionError):
        project_pictures(plain(), bad)


def test_sentences_become_directions_of_length_one() -> None:
    rows = np.random.default_rng(2).normal(size=(3, e.SENTENCE_FEATURES))
    assert np.allclose(np.linalg.norm(project_sentences(plain(), rows), axis=1), 1, atol=1e-5)
    assert project_sentences(plain(), np.zeros((0, e.SENTENCE_FEATURES))).shape == (0, e.TASTE)
    with pytest.raises(OptionError):
        project_sentences(plain(), np.zeros((1, 3)))


def test_release_0_is_there_and_small() -> None:
    weights = load_encoder()
    assert weights.release == 0
    assert e.SHIPPED.stat().st_size < 1_000_000
    assert np.isclose(weights.tensors["crowd.share"].sum(), 1, atol=1e-4)


def test_a_missing_release_is_one_clear_line(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(ModelError, match="cannot be read"):
        load_encoder(Path(str(tmp_path)) / "none.safetensors")
