"""Pictures as float RGB pixels, and what techniques and finishes both compute with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from palate.simulations.world.truth import SIDE

UnitPixels = NDArray[np.floating[Any]]  # (128, 128, 3) in 0..1

ROW, COLUMN = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)  # (128, 128): where a pixel lies
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_pixels(image: Image.Image) -> UnitPixels:
    """Return a picture as floats in 0..1."""
    return np.asarray(image, np.float32) / 255


def to_image(p: UnitPixels) -> Image.Image:
    """Return pixels as a picture; what lies outside 0..1 is cut."""
    return Image.fromarray((np.clip(p, 0, 1) * 255 + 0.5).astype(np.uint8))


def blur(p: UnitPixels, sigma: float) -> UnitPixels:
    """Return the pixels under a Gaussian blur of `sigma` pixels."""
    return to_pixels(to_image(p).filter(ImageFilter.GaussianBlur(sigma)))


def luma(p: UnitPixels) -> UnitPixels:
    """Return the brightness of each pixel, (128, 128, 1)."""
    out: UnitPixels = (p @ _LUMA)[..., None]
    return out


def smooth_noise(noise: np.random.Generator, cells: int) -> UnitPixels:
    """Low-frequency noise, (128, 128), standard deviation about 1 at the cells."""
    coarse = noise.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
