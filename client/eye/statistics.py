"""What arithmetic alone says of a picture: some ninety numbers for colour, light, edges and arrangement.

The picture tower was trained on drawn worlds only. These statistics mean the same on a photograph or a
painting, so both together are the picture features that the shared encoder projects to the taste space. A
picture is first brought to the area of 128 × 128 pixels at its own proportions, so nothing depends on its
size.

Sources: colourfulness after Hasler and Süsstrunk, "Measuring colourfulness in natural images", SPIE 2003; the
structure tensor after Bigün and Granlund, ICCV 1987; CIE L*a*b*, in which distances of colour are even to the
eye.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 128
Plane = NDArray[np.float32]

# Linear sRGB to CIE XYZ over the white point D65, transposed.
_TO_XYZ = np.array(
    [[0.4339, 0.2126729, 0.01775], [0.37625, 0.7151522, 0.10947], [0.18984, 0.0721750, 0.87278]], np.float32
)
_HUE_BINS = 12
_SCALES = (1, 2, 4, 8)
_PER_SCALE = ("energy", "flat", "sparse", "coherent", "bends", "turns", "upright", "ragged")

STATISTIC_NAMES: tuple[str, ...] = (
    "lightness", "lightness_spread", "lightness_low", "lightness_high", "lightness_skew",
    "green_red", "blue_yellow", "green_red_spread", "blue_yellow_spread",
    "chroma", "chroma_spread", "chroma_high", "colourfulness",
    *(f"hue_{360 * i // _HUE_BINS}" for i in range(_HUE_BINS)),
    "hue_variety", "hue_main_share", "colour_variety",
    "warmth", "warm_share", "cool_share", "warm_light", "brown_share",
    "dark_share", "bright_share", "grey_share", "vivid_share", "pale_share",
    "centre_light", "top_light", "centre_chroma", "side_light",
    *(f"{name}_{scale}" for scale in _SCALES for name in _PER_SCALE),
    "noise", "peaked", "slope", "grid",
    "outline_fine", "outline_bold", "glint_fine",
    "mirror", "mirror_fine", "mirror_upright", "empty_share", "busy_share", "busy_centre", "patchiness",
)  # fmt: skip
"""The names, in the order of `measure_statistics`."""


def measure_statistics(picture: Image.Image) -> NDArray[np.float32]:
    """Return the statistics of a picture of any size.

    Returns:
        (len(STATISTIC_NAMES),) float32, finite, in the order of `STATISTIC_NAMES`.
    """
    pixels = np.asarray(shrink(picture), dtype=np.float32) / 255.0  # (height, width, 3)
    lab = to_lab(pixels)
    found = {**_colour(pixels, lab), **_edges(lab[..., 0] / 100.0), **_arrangement(lab[..., 0] / 100.0)}
    return np.array([found[name] for name in STATISTIC_NAMES], dtype=np.float32)


def shrink(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB with about 128 × 128 pixels at its own proportions, no side below 32."""
    width, height = picture.size
    scale = SIDE / math.sqrt(width * height)
    size = (min(512, max(32, round(width * scale))), min(512, max(32, round(height * scale))))
    rgb = picture.convert("RGB")
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def to_lab(pixels: Plane) -> Plane:
    """Return sRGB in [0, 1] as CIE L*a*b* (D65), lightness in [0, 100]; both are (height, width, 3)."""
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    light, a, b = 116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    return np.stack([light, a, b], -1).astype(np.float32)


def _colour(pixels: Plane, lab: Plane) -> Mapping[str, float]:
    light, a, b = lab[..., 0] / 100.0, lab[..., 1] / 100.0, lab[..., 2] / 100.0
    chroma = np.hypot(a, b)
    angle = np.degrees(np.arctan2(b, a)) % np.float32(360.0)
    low, high = _quantile(light, 0.05), _quantile(light, 0.95)
    mean, spread = float(light.mean()), float(light.std())
    found = {
        "lightness": mean,
        "lightness_spread": spread,
        "lightness_low": low,
        "lightness_high": high,
        "lightness_skew": float(((light - mean) ** 3).mean()) / (spread**3 + 1e-3),
        "green_red": a.mean(),
        "blue_yellow": b.mean(),
        "green_red_spread": a.std(),
        "blue_yellow_spread": b.std(),
        "chroma": chroma.mean(),
        "chroma_spread": chroma.std(),
        "chroma_high": _quantile(chroma, 0.9),
    }
    rg, yb = pixels[..., 0] - pixels[..., 1], (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    found["colourfulness"] = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
    # Each pixel's chroma is shared between the two nearest hue bins, so that a hue never jumps from one to
    # the next.
    place = angle / np.float32(360.0 / _HUE_BINS)
    lower = place.astype(np.int32)
    share = place - lower
    hues = np.bincount((lower % _HUE_BINS).ravel(), ((1 - share) * chroma).ravel(), _HUE_BINS)
    hues = hues + np.bincount(((lower + 1) % _HUE_BINS).ravel(), (share * chroma).ravel(), _HUE_BINS)
    total = float(hues.sum())
    for i, amount in enumerate(hues):
        found[f"hue_{360 * i // _HUE_BINS}"] = math.sqrt(float(amount) / chroma.size)
    shares = hues / (total + 0.02 * chroma.size)
    found["hue_variety"] = _entropy(shares)
    found["hue_main_share"] = float(max(shares[i] + shares[(i + 1) % _HUE_BINS] for i in range(_HUE_BINS)))
    cell = np.zeros(light.shape, np.int32)
    for plane in (light * 5, (a + 1) * 8, (b + 1) * 8):
        cell = cell * 16 + plane.astype(np.int32).clip(0, 15)
    counts = np.bincount(cell.ravel(), minlength=4096)
    found["colour_variety"] = _entropy(counts / counts.sum())
    toward_warm = np.cos(np.radians(angle - np.float32(55.0)))
    found["warmth"] = (chroma * toward_warm).mean()
    found["warm_share"] = ((chroma > 0.12) & (toward_warm > 0.5)).mean()
    found["cool_share"] = ((chroma > 0.08) & (toward_warm < -0.3)).mean()
    found["warm_light"] = float((chroma * toward_warm * light).mean()) - float(
        (chroma * toward_warm * (1 - light)).mean()
    )
    found["brown_share"] = (
        (angle > 35) & (angle < 95) & (chroma > 0.06) & (chroma < 0.45) & (light < 0.65)
    ).mean()
    found["dark_share"] = (light < 0.25).mean()
    found["bright_share"] = (light > 0.8).mean()
    found["grey_share"] = (chroma < 0.06).mean()
    found["vivid_share"] = (chroma > 0.55).mean()
    found["pale_share"] = ((light > 0.7) & (chroma > 0.06) & (chroma < 0.4)).mean()
    x, y, centre = _places(light.shape)
    found["centre_light"] = float((light * (centre - centre.mean())).mean()) / float(centre.std())
    found["centre_chroma"] = float((chroma * (centre - centre.mean())).mean()) / float(centre.std())
    found["top_light"] = -float((light * y).mean())
    found["side_light"] = abs(float((light * x).mean()))
    return {name: float(value) for name, value in found.items()}


def _edges(light: Plane) -> Mapping[str, float]:
    """Return the statistics of edges at four scales: how many, how clear, bent or straight, upright."""
    found: dict[str, float] = {}
    plane, energies = light, []
    for scale in _SCALES:
        if scale > 1:
            plane = _halve(plane)
        right, down = _slope(plane)
        strength = np.hypot(right, down)
        energy = float(strength.mean())
        energies.append(energy)
        # The orientation as a doubled angle, so that an edge and its opposite count as the same.
        along = np.stack([right * right - down * down, 2 * right * down])  # (2, height, width)
        power = right * right + down * down
        smooth, around = _blur(along, 2), _blur(power[None], 2)[0] + 1e-5
        coherent = np.hypot(*smooth) / around
        sector = ((np.arctan2(along[1], along[0]) + math.pi) * (8 / math.pi)).astype(np.int32) % 16
        angles = np.bincount(sector.ravel(), power.ravel(), 16)
        unit = smooth / (coherent * around + 1e-6)
        turn = np.sqrt(sum(step * step for part in unit for step in _slope(part)))
        weight = power + 1e-7
        found[f"energy_{scale}"] = math.log(energy + 1e-3)
        found[f"flat_{scale}"] = float((strength < 0.01).mean())
        found[f"sparse_{scale}"] = math.log((float(power.mean()) + 1e-6) / (energy * energy + 1e-6))
        found[f"coherent_{scale}"] = float((coherent * weight).sum() / weight.sum())
        found[f"bends_{scale}"] = float((turn * (coherent * weight)[1:, 1:]).sum() / weight.sum())
        found[f"turns_{scale}"] = _entropy(angles / (angles.sum() + 1e-9)) if power.sum() > 1e-6 else 0.0
        found[f"upright_{scale}"] = float((np.abs(along[0]) / (power + 1e-9) * weight).sum() / weight.sum())
        fine = np.abs(plane - _blur(plane[None], 1)[0])
        found[f"ragged_{scale}"] = math.log(_quantile(fine, 0.6) + 1e-3)
    found["slope"] = float(np.polyfit(np.arange(4.0), np.log(np.array(energies) + 1e-3), 1)[0])
    laplace = light[1:-1, 1:-1] * 4 - light[:-2, 1:-1] - light[2:, 1:-1] - light[1:-1, :-2] - light[1:-1, 2:]
    found["noise"] = math.log(float(np.median(np.abs(laplace))) + 1e-3)
    found["peaked"] = math.log(
        float((laplace**4).mean() + 1e-9) / float((laplace**2).mean() + 1e-5) ** 2 + 1e-3
    )
    # A regular weave, tiling or pixel grid repeats along the axes: the highest peak of the lines'
    # autocorrelation.
    found["grid"] = max(_repeats(light, 0), _repeats(light, 1))
    reach, wide = _closed(light, 2), _closed(light, 4)
    found["outline_fine"] = float((reach - light).mean())
    found["outline_bold"] = float((wide - light).mean())
    found["glint_fine"] = float((light + _closed(-light, 2)).mean())
    return found


def _arrangement(light: Plane) -> Mapping[str, float]:
    coarse = _halve(_halve(light))
    right, down = _slope(light)
    power = np.hypot(right, down)
    rows, columns = (n // 8 for n in power.shape)
    cells = power[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).mean((1, 3))
    centre = _places((rows, columns))[2]
    return {
        "mirror": _agreement(coarse, coarse[:, ::-1]),
        "mirror_fine": _agreement(power, power[:, ::-1]),
        "mirror_upright": _agreement(coarse, coarse[::-1]),
        "empty_share": float((cells < 0.015).mean()),
        "busy_share": float((cells > 0.06).mean()),
        "busy_centre": float((cells * centre).sum() / (cells.sum() * centre.mean() + 1e-3)),
        "patchiness": float(cells.std() / (cells.mean() + 1e-2)),
    }


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _quantile(plane: Plane, share: float) -> float:
    """Return the value below which this share of a plane lies."""
    rank = int(share * (plane.size - 1))
    return float(np.partition(plane, rank, axis=None)[rank])


@lru_cache(maxsize=32)
def _places(shape: tuple[int, int]) -> tuple[Plane, Plane, Plane]:
    """Return across (1, width) and down (height, 1), -1 to 1, and a hill over the middle (height, width)."""
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    return x, y, np.exp(-2 * (x * x + y * y)).astype(np.float32)


def _agreement(one: Plane, two: Plane) -> float:
    """Return the correlation of two planes, 0 where one is even."""
    a, b = one - one.mean(), two - two.mean()
    return float((a * b).mean() / (a.std() * b.std() + 1e-3))


def _halve(plane: Plane) -> Plane:
    height, width = (n // 2 * 2 for n in plane.shape)
    p = plane[:height, :width]
    return np.asarray((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4, dtype=np.float32)


def _slope(plane: Plane) -> tuple[Plane, Plane]:
    """Return differences to the right and down, (height - 1, width - 1), each the mean of two lines."""
    right = (plane[:-1, 1:] - plane[:-1, :-1] + plane[1:, 1:] - plane[1:, :-1]) / 2
    down = (plane[1:, :-1] - plane[:-1, :-1] + plane[1:, 1:] - plane[:-1, 1:]) / 2
    return np.asarray(right, dtype=np.float32), np.asarray(down, dtype=np.float32)


def _blur(planes: Plane, radius: int) -> Plane:
    """Return the mean over squares of 2 radius + 1: (n, height, width) to the same."""
    size = 2 * radius + 1
    padded = np.pad(planes, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    rows = padded[:, : planes.shape[1]].copy()
    for i in range(1, size):
        rows += padded[:, i : i + planes.shape[1]]
    whole = rows[:, :, : planes.shape[2]].copy()
    for i in range(1, size):
        whole += rows[:, :, i : i + planes.shape[2]]
    return np.asarray(whole / size**2, dtype=np.float32)


def _closed(plane: Plane, radius: int) -> Plane:
    """Return the plane with dark details narrower than 2 radius + 1 filled (grey closing)."""
    return -_highest(-_highest(plane, radius), radius)


def _highest(plane: Plane, radius: int) -> Plane:
    padded = np.pad(plane, radius, mode="edge")
    size = 2 * radius + 1
    rows = np.maximum.reduce([padded[i : i + plane.shape[0]] for i in range(size)])
    return np.asarray(np.maximum.reduce([rows[:, i : i + plane.shape[1]] for i in range(size)]))


def _repeats(light: Plane, axis: int) -> float:
    """Return how regularly edges repeat along an axis, 0 to about 1.

    It is the best autocorrelation at lags of 3 to 16 pixels.
    """
    profile = np.abs(np.diff(light, axis=axis)).mean(1 - axis)
    profile = profile - profile.mean()
    power = float((profile * profile).sum()) + 1e-4
    return max(float((profile[lag:] * profile[:-lag]).sum()) / power for lag in range(3, 17))
