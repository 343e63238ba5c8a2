"""The preference adapter: kept only if it helps, the same for the same seed, refused if it does not fit."""

import numpy as np
import pytest

from palate.client.taste import adapter
from palate.client.taste.adapter import LAYERS, RANK, apply_adapter, train_adapter
from palate.shared.encoder import (
    PICTURE_FEATURES,
    EncoderWeights,
    encoder_hash,
    load_encoder,
    project_pictures,
)
from palate.shared.errors import ModelError, OptionError


@pytest.fixture(scope="module")
def encoder() -> EncoderWeights:
    return load_encoder()


def pictures(encoder: EncoderWeights, n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, PICTURE_FEATURES)).astype(np.float32)
    x[:, :40] += shift
    return x * encoder.tensors["feature.scale"] + encoder.tensors["feature.mean"]


def test_too_few_labels_train_nothing_and_say_so(encoder: EncoderWeights) -> None:
    result = train_adapter(encoder, pictures(encoder, 2, 0), pictures(encoder, 9, 1), seed=0)
    assert (result.kept, result.weights) == (False, None)
    assert "needs 3 liked and 3 disliked" in result.message


def test_features_of_another_shape_are_refused(encoder: EncoderWeights) -> None:
    with pytest.raises(OptionError):
        train_adapter(encoder, np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32), seed=0)


def test_labels_without_a_rule_keep_no_adapter(
    encoder: EncoderWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "STEPS", 8)
    kept = [
        train_adapter(encoder, pictures(encoder, 6, 2 * s), pictures(encoder, 6, 2 * s + 1), seed=s).kept
        for s in range(2)
    ]
    assert sum(kept) <= 1


def test_an_adapter_that_helps_on_held_out_labels_is_kept_and_the_same_for_the_same_seed(
    encoder: EncoderWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "LEAST_GAIN", -1.0)  # whatever the gain: this is about what is kept then
    liked, disliked = pictures(encoder, 5, 10, 2.0), pictures(encoder, 5, 11, -2.0)
    one, two = (train_adapter(encoder, liked, disliked, seed=4) for _ in range(2))
    assert one.kept
    assert one.weights is not None
    assert one == two
    assert train_adapter(encoder, liked, disliked, seed=5).weights != one.weights
    adapted = apply_adapter(encoder, one.weights)
    assert encoder_hash(adapted) != encoder_hash(encoder)
    assert not np.allclose(project_pictures(adapted, liked), project_pictures(encoder, liked), atol=1e-3)


def test_only_the_two_picture_layers_change(encoder: EncoderWeights) -> None:
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    parts = {}
    for layer in LAYERS:
        outer, inner = encoder.tensors[f"picture.{layer}.weight"].shape
        parts[f"{layer}.down"] = rng.normal(size=(RANK, inner)).astype(np.float32)
        parts[f"{layer}.up"] = rng.normal(size=(outer, RANK)).astype(np.float32)
    adapted = apply_adapter(encoder, save(parts))
    changed = {n for n in encoder.tensors if not np.array_equal(encoder.tensors[n], adapted.tensors[n])}
    assert changed == {f"picture.{layer}.weight" for layer in LAYERS}
    assert np.allclose(
        adapted.tensors["picture.taste.weight"],
        encoder.tensors["picture.taste.weight"] + parts["taste.up"] @ parts["taste.down"],
        atol=1e-5,
    )


@pytest.mark.parametrize("damage", ["empty", "noise", "missing", "shape"])
def test_bytes_that_are_no_adapter_are_refused(encoder: EncoderWeights, damage: str) -> None:
    from safetensors.numpy import save

    data = {
        "empty": b"",
        "noise": b"\xff" * 64,
        "missing": save({"hidden.down": np.zeros((RANK, PICTURE_FEATURES), np.float32)}),
        "shape": save(
            {f"{layer}.{side}": np.zeros((2, 2), np.float32) for layer in LAYERS for side in ("down", "up")}
        ),
    }[damage]
    with pytest.raises(ModelError, match="adapter"):
        apply_adapter(encoder, data)
