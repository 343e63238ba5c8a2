"""What arithmetic sees of a picture's colours and light: what "these colours" in a comment refers to.

No training and no model: shares of hues, brightness, saturation and contrast in a small copy of the picture.
It names only what such statistics can see (palette, colour, temperature, lighting, contrast, detail).
Technique and mood are for the tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

WhatIsShown = Callable[[Image.Image], Mapping[str, float]]
"""A picture's attributes and the probability, in [0, 1], that it shows each."""

SIDE = 96
# Hue in degrees at which each colour's range ends; brown and beige are dark or pale orange.
_HUES = (
    ("red", 14.0),
    ("orange", 42.0),
    ("yellow", 68.0),
    ("green", 165.0),
    ("blue", 255.0),
    ("purple", 295.0),
    ("pink", 345.0),
    ("red", 361.0),
)


def colours_shown(picture: Image.Image) -> dict[str, float]:
    """Return the probability that a picture shows each attribute of colour, light and contrast.

    Args:
        picture: of any size.
    """
    small = (
        np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
        / 255.0
    )  # (96, 96, 3)
    high, low = small.max(axis=2), small.min(axis=2)
    chroma = high - low
    value = small @ np.array([0.299, 0.587, 0.114])  # (96, 96)
    hue = _hue(small, high, chroma)
    mean_chroma = float(chroma.mean())
    coloured = chroma > 0.10
    weight = np.where(coloured, chroma, 0.0)
    shares = _shares(hue, weight)
    spread = float(np.percentile(value, 95) - np.percentile(value, 5))
    brightness = float(value.mean())
    total = float(weight.sum()) / weight.size
    shown: dict[str, float] = {}
    presence = _ramp(total, 0.03, 0.10)
    for name, share in shares.items():
        shown[name] = presence * _ramp(share, 0.12, 0.40)
    warm = shares["red"] + shares["orange"] + shares["yellow"] + 0.5 * shares["pink"]
    cool = shares["blue"] + 0.6 * shares["green"] + 0.5 * shares["purple"]
    shown["warm"] = presence * _ramp(warm - cool, 0.0, 0.5)
    shown["cool"] = presence * _ramp(cool - warm, 0.0, 0.5)
    many = float(np.exp(-sum(share * np.log(share) for share in shares.values() if share > 0)))
    shown["vibrant"] = _ramp(mean_chroma, 0.22, 0.45)
    shown["muted"] = _ramp(0.24 - mean_chroma, 0.0, 0.14) * _ramp(mean_chroma, 0.02, 0.05)
    shown["multicoloured"] = presence * _ramp(many, 3.2, 5.0)
    shown["black and white"] = _ramp(0.03 - mean_chroma, 0.0, 0.02)
    shown["monochrome"] = max(shown["black and white"] * 0.6, presence * _ramp(1.9 - many, 0.0, 0.7))
    earth = float((((hue > 8) & (hue < 55) & coloured) * (high < 0.75) * (chroma < 0.5)).mean())
    shown["earthy"] = _ramp(earth, 0.25, 0.60)
    shown["pastel"] = float(
        _ramp(brightness, 0.60, 0.80) * _ramp(mean_chroma, 0.05, 0.12) * _ramp(0.34 - mean_chroma, 0.0, 0.1)
    )
    shown["neon"] = _ramp(float(((chroma > 0.75) & (high > 0.85)).mean()), 0.10, 0.30)
    shown["bright"] = _ramp(brightness, 0.52, 0.75)
    shown["dark"] = _ramp(0.42 - brightness, 0.0, 0.2)
    shown["high contrast"] = _ramp(spread, 0.55, 0.85)
    shown["low contrast"] = _ramp(0.5 - spread, 0.0, 0.25)
    edges = float(np.abs(np.diff(value, axis=0)).mean() + np.abs(np.diff(value, axis=1)).mean())
    shown["busy"] = _ramp(edges, 0.12, 0.22)
    shown["minimalist"] = _ramp(0.05 - edges, 0.0, 0.03)
    shown["intricate"] = 0.8 * shown["busy"]
    return {name: round(float(probability), 4) for name, probability in shown.items()}


def _hue(
    pixels: npt.NDArray[np.float64], high: npt.NDArray[np.float64], chroma: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return hue in degrees [0, 360), 0 where there is no colour."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    safe = np.where(chroma > 0, chroma, 1.0)
    sector = np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return np.asarray(np.where(chroma > 0, sector * 60.0, 0.0), dtype=np.float64)


def _shares(hue: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return each colour's share of all colour, weighted by how strong it is; they sum to 1, or all are 0."""
    shares: dict[str, float] = {}
    total = max(float(weight.sum()), 1e-9)
    start = 0.0
    for name, end in _HUES:
        shares[name] = shares.get(name, 0.0) + float(weight[(hue >= start) & (hue < end)].sum()) / total
        start = end
    return shares


def _ramp(value: float, low: float, high: float) -> float:
    """Return 0 at and below low, 1 at and above high, straight between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
