"""The shared encoder: from pictures and from words to one taste space of 64 dimensions.

The only thing that is federated.

Where it stands in the flow: each device turns its pictures into features (a frozen tower and statistics) and
its phrases into sentence embeddings; the encoder places both in the taste space, where a person's private
head (the evaluator) lives. The first 55 dimensions are anchored: dimension i is how much a picture shows
attribute i of `ATTRIBUTE_NAMES`, from 0 to 1, so a head's weight on it can be read as a like or a dislike.
The other nine are free to be learned from people's verdicts.

    picture:  z = sigmoid(W2 relu(W1 (clip((features - mean) / scale)) + b1) + b2)          (64,) in [0, 1]
    phrase:   d = normalize(V embedding + c)                                                (64,) of length 1

so that z · d says how much a picture shows what a phrase names. Sharing this and keeping heads private
follows federated reconstruction (Singhal et al., NeurIPS 2021). Here is numpy alone; training mirrors these
two lines in torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from palate.shared.arrays import Float32s
from palate.shared.errors import ModelError, OptionError
from palate.shared.shipped import check_shipped

CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "palette": (
            "vibrant", "muted", "pastel", "monochrome", "neon", "earthy", "black and white", "multicoloured",
        ),
        "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
        "temperature": ("warm", "cool"),
        "lighting": ("bright", "dark", "golden hour", "moonlit", "spotlit"),
        "atmosphere": ("misty", "rainy", "snowy"),
        "contrast": ("high contrast", "low contrast"),
        "technique": (
            "flat colour", "watercolour", "pointillism", "line art",
            "crosshatching", "mosaic", "stained glass", "pixel art",
        ),
        "brushwork": ("impasto", "swirling brushstrokes"),
        "texture": ("smooth", "grainy", "canvas"),
        "line": ("flowing lines", "angular lines", "bold outlines"),
        "composition": ("minimalist", "busy", "close-up", "symmetrical", "tilted"),
        "detail": ("simplified", "intricate"),
        "mood": ("calm", "joyful", "melancholic", "dramatic", "dreamy"),
    }
)  # fmt: skip
"""The anchoring attributes by category; a picture is taken to show at most one of each."""

ATTRIBUTE_NAMES: tuple[str, ...] = tuple(value for values in CATEGORIES.values() for value in values)

TOWER_FEATURES = 128
STATISTICS = 88
PICTURE_FEATURES = TOWER_FEATURES + STATISTICS
SENTENCE_FEATURES = 384
HIDDEN = 256
TASTE = 64
CROWDS = 5  # kinds of people in the crowd prior
CLIP = 4.0  # standard deviations at which a feature is cut: real pictures lie far from drawn ones

SHARED_SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "picture.hidden.weight": (HIDDEN, PICTURE_FEATURES),
        "picture.hidden.bias": (HIDDEN,),
        "picture.taste.weight": (TASTE, HIDDEN),
        "picture.taste.bias": (TASTE,),
        "sentence.taste.weight": (TASTE, SENTENCE_FEATURES),
        "sentence.taste.bias": (TASTE,),
    }
)
"""The federated tensors."""

SHARED_WEIGHTS: Final = sum(math.prod(shape) for shape in SHARED_SHAPES.values())
"""How many numbers they hold together: about 97,000."""

FIXED_SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "feature.mean": (PICTURE_FEATURES,),
        "feature.scale": (PICTURE_FEATURES,),
        # What each attribute looks like in the statistics: z-scores of pictures that show it against those
        # that do not.
        "attribute.statistics": (len(ATTRIBUTE_NAMES), STATISTICS),
        "taste.usual": (TASTE,),  # where drawn pictures lie on average
        # The crowd prior over a person's head (64 weights and a threshold), a mixture of Gaussians.
        "crowd.share": (CROWDS,),
        "crowd.mean": (CROWDS, TASTE + 1),
        "crowd.covariance": (CROWDS, TASTE + 1, TASTE + 1),
    }
)
"""Tensors that come with a release and stay as they are between releases."""

SHIPPED = Path(__file__).parent / "weights" / "encoder-0.safetensors"
MAX_BYTES = 4_000_000


@dataclass(frozen=True)
class EncoderWeights:
    """The tensors of one encoder: those of `SHARED_SHAPES` and of `FIXED_SHAPES`, float32, read-only.

    Raises:
        ModelError: a name is missing or unknown, or a tensor has another shape, another type, or is not
            finite.
    """

    release: int
    tensors: Mapping[str, Float32s]

    def __post_init__(self) -> None:
        shapes = {**SHARED_SHAPES, **FIXED_SHAPES}
        if set(self.tensors) != set(shapes):
            odd = sorted(set(self.tensors) ^ set(shapes))[0]
            raise ModelError(
                f"the encoder's tensor {odd!r} is missing or unknown; it has {', '.join(shapes)}"
            )
        kept = {}
        for name, shape in shapes.items():
            tensor = np.asarray(self.tensors[name])
            if tensor.shape != shape or tensor.dtype != np.float32:
                raise ModelError(
                    f"the encoder's {name!r} is {tensor.dtype} {tensor.shape}; it must be float32 {shape}"
                )
            if not np.isfinite(tensor).all():
                raise ModelError(
                    f"the encoder's {name!r} holds values that are not finite; take another release"
                )
            kept[name] = tensor.copy()
            kept[name].flags.writeable = False
        object.__setattr__(self, "tensors", MappingProxyType(kept))

    def shared(self) -> dict[str, Float32s]:
        """Return copies of the federated tensors, in the declared order."""
        return {name: self.tensors[name].copy() for name in SHARED_SHAPES}

    def with_shared(self, shared: Mapping[str, Float32s], release: int | None = None) -> EncoderWeights:
        """Return an encoder with other federated tensors and everything else as here."""
        return EncoderWeights(self.release if release is None else release, {**self.tensors, **shared})


def flatten(tensors: Mapping[str, Float32s]) -> Float32s:
    """Return the federated tensors one after the other, in declared order: (`SHARED_WEIGHTS`,)."""
    return np.concatenate([tensors[name].ravel() for name in SHARED_SHAPES])


def unflatten(vector: Float32s) -> dict[str, Float32s]:
    """Return the federated tensors that a vector (`SHARED_WEIGHTS`,) holds, as views of it."""
    tensors, start = {}, 0
    for name, shape in SHARED_SHAPES.items():
        count = math.prod(shape)
        tensors[name] = vector[start : start + count].reshape(shape)
        start += count
    return tensors


def standardize(weights: EncoderWeights, features: Float32s) -> Float32s:
    """Return picture features in standard deviations of drawn pictures, cut at ±4: (n, features) to the same.

    Raises:
        OptionError: another shape or values that are not finite.
    """
    given = np.asarray(features, dtype=np.float32)
    if given.ndim != 2 or given.shape[1] != PICTURE_FEATURES:
        raise OptionError(
            f"picture features have the shape {given.shape}; it must be (n, {PICTURE_FEATURES})"
        )
    if not np.isfinite(given).all():
        raise OptionError("picture features hold values that are not finite; measure the picture again")
    t = weights.tensors
    return np.asarray(
        np.clip((given - t["feature.mean"]) / t["feature.scale"], -CLIP, CLIP), dtype=np.float32
    )


def project_pictures(weights: EncoderWeights, features: Float32s) -> Float32s:
    """Return the places of pictures in the taste space: (n, features) to (n, 64) in [0, 1]."""
    t = weights.tensors
    hidden = standardize(weights, features) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"]
    taste = np.maximum(hidden, 0) @ t["picture.taste.weight"].T + t["picture.taste.bias"]
    return np.asarray(0.5 * (1 + np.tanh(0.5 * taste)), dtype=np.float32)


def project_sentences(weights: EncoderWeights, embeddings: Float32s) -> Float32s:
    """Return the directions that phrases name in the taste space: (n, 384) to unit vectors (n, 64).

    Raises:
        OptionError: another shape or values that are not finite.
    """
    given = np.asarray(embeddings, dtype=np.float32)
    if given.ndim != 2 or given.shape[1] != SENTENCE_FEATURES or not np.isfinite(given).all():
        raise OptionError(
            f"sentence embeddings have the shape {given.shape}; it must be (n, {SENTENCE_FEATURES}), finite"
        )
    t = weights.tensors
    taste = given @ t["sentence.taste.weight"].T + t["sentence.taste.bias"]
    return np.asarray(taste / (np.linalg.norm(taste, axis=1, keepdims=True) + 1e-9), dtype=np.float32)


def encoder_to_bytes(weights: EncoderWeights) -> bytes:
    """Return the encoder as safetensors bytes; the same weights always give the same bytes."""
    from safetensors.numpy import save

    # One entry alone: the library writes several in an order that changes from run to run.
    header = {"palate": json.dumps({"format": "palate encoder 1", "release": weights.release})}
    return bytes(save({name: np.ascontiguousarray(t) for name, t in weights.tensors.items()}, header))


def encoder_from_bytes(data: bytes) -> EncoderWeights:
    """Return the encoder of safetensors bytes.

    Raises:
        ModelError: they are damaged, too many, or no encoder.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if len(data) > MAX_BYTES:
        raise ModelError(f"the encoder has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["palate"])
        if header["format"] != "palate encoder 1":
            raise ModelError(
                f"the encoder's format is {header['format']!r}; this version reads 'palate encoder 1'"
            )
        release = int(header["release"])
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"this is not an encoder ({type(error).__name__}); take the release again") from None
    # Half precision halves a release; arithmetic is always in float32.
    return EncoderWeights(
        release, {n: t.astype(np.float32) if t.dtype == np.float16 else t for n, t in tensors.items()}
    )


@lru_cache(maxsize=4)
def load_encoder(path: Path = SHIPPED) -> EncoderWeights:
    """Return the encoder of a file, release 0 unless another is named.

    Raises:
        ModelError: it cannot be read.
    """
    check_shipped(path)
    try:
        with path.open("rb") as file:
            return encoder_from_bytes(file.read(MAX_BYTES + 1))
    except OSError:
        raise ModelError(
            f"the encoder {path} cannot be read; install Palate anew, or name another release"
        ) from None


def encoder_hash(weights: EncoderWeights) -> str:
    """Return the SHA-256 of all tensors, names and shapes in declared order, in hexadecimal."""
    digest = hashlib.sha256(shapes_hash().encode())
    for name in (*SHARED_SHAPES, *FIXED_SHAPES):
        digest.update(np.ascontiguousarray(weights.tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()


@cache
def shapes_hash() -> str:
    """Return the SHA-256 of the declared names and shapes: what both sides of a federation must agree on."""
    declared = [[name, list(shape)] for name, shape in (*SHARED_SHAPES.items(), *FIXED_SHAPES.items())]
    return hashlib.sha256(json.dumps(declared).encode()).hexdigest()
