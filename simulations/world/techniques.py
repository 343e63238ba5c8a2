"""Technique and brushwork: a drawn scene as a watercolour, a mosaic, swirling strokes, and so on.

Each takes the canvas (256 × 256), two sources of randomness and whether it lies on black, and returns pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from palate.simulations.world.canvas import DRAWN
from palate.simulations.world.pixels import (
    COLUMN,
    ROW,
    UnitPixels,
    blur,
    luma,
    smooth_noise,
    to_pixels,
)
from palate.simulations.world.truth import SIDE


def _watercolour(
    image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool
) -> UnitPixels:
    dx, dy = smooth_noise(noise, 9) * 2.4, smooth_noise(noise, 12) * 2.4
    p = to_pixels(image.reduce(2))
    p = p[np.clip(ROW + dy, 0, SIDE - 1).astype(int), np.clip(COLUMN + dx, 0, SIDE - 1).astype(int)]
    wash = blur(p, 1.3)
    edge = np.abs(wash - blur(p, 4.5)).mean(2, keepdims=True)
    load = np.clip(0.66 + 0.16 * smooth_noise(noise, 7)[..., None], 0.32, 0.95)
    border = np.minimum.reduce([COLUMN, ROW, SIDE - 1 - COLUMN, SIDE - 1 - ROW]) + 3.5 * smooth_noise(
        noise, 16
    )
    load = load * np.clip((border - 3) / 4, 0, 1)[..., None]
    paper = np.array([0.975, 0.965, 0.94], np.float32)
    out: UnitPixels = wash * load + paper * (1 - load) - 0.8 * edge * (load > 0.1)
    return out


def _pointillism(
    image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool
) -> UnitPixels:
    source = to_pixels(image.reduce(2).filter(ImageFilter.GaussianBlur(0.6)))
    step = 8
    sheet = Image.new("RGB", (DRAWN, DRAWN), (12, 10, 22) if neon else (246, 241, 230))
    pen = ImageDraw.Draw(sheet)
    rows = range(0, DRAWN + step, step)
    for j, y in enumerate(rows):
        for x in range((j % 2) * step // 2, DRAWN + step, step):
            u, v = x + noise.uniform(-1.6, 1.6), y + noise.uniform(-1.6, 1.6)
            colour = source[min(SIDE - 1, max(0, int(v / 2))), min(SIDE - 1, max(0, int(u / 2)))]
            colour = np.clip(colour + noise.normal(0, 0.05, 3), 0, 1) * 255
            r = step * 0.46
            pen.ellipse((u - r, v - r, u + r, v + r), fill=(int(colour[0]), int(colour[1]), int(colour[2])))
    return to_pixels(sheet.reduce(2))


def _crosshatching(
    image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool
) -> UnitPixels:
    p = to_pixels(image.reduce(2))
    tone = luma(blur(p, 0.8))[..., 0]
    tone = (tone - tone.min()) / (float(np.ptp(tone)) + 1e-3)
    marks = np.ones((SIDE, SIDE), np.float32)
    for below, (cx, cy), period in (
        (0.85, (1, 1), 8),
        (0.6, (1, -1), 8),
        (0.36, (1, 0), 8),
        (0.2, (0, 1), 8),
    ):
        ruled = ((COLUMN * cx + ROW * cy) % period) < 2
        marks = np.where((tone < below) & ruled, 0.0, marks).astype(np.float32)
    edge = np.abs(luma(p) - luma(blur(p, 1.6)))[..., 0] > 0.07
    marks[edge] = 0
    paper = p * 0.45 + 0.55
    ink = p * 0.22
    out: UnitPixels = paper * marks[..., None] + ink * (1 - marks[..., None])
    return out


def _mosaic(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> UnitPixels:
    n = 8
    k = SIDE // n
    p = to_pixels(image.resize((k, k), Image.Resampling.BOX)) + noise.normal(0, 0.05, (k, k, 1)).astype(
        np.float32
    )
    p = np.repeat(np.repeat(p, n, 0), n, 1)
    grout = (COLUMN % n == 0) | (ROW % n == 0)
    bevel = 0.09 * ((COLUMN % n == 1) | (ROW % n == 1)) - 0.09 * ((COLUMN % n == n - 1) | (ROW % n == n - 1))
    out: UnitPixels = np.where(grout[..., None], 0.2 if neon else 0.93, p + bevel[..., None])
    return out.astype(np.float32)


def _pixel_art(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> UnitPixels:
    n = 4
    k = SIDE // n
    small = image.resize((k, k), Image.Resampling.BOX).quantize(10, Image.Quantize.MEDIANCUT).convert("RGB")
    return to_pixels(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))


def _stained_glass(
    image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool
) -> UnitPixels:
    """Voronoi panes with lead between them; panes glow from within."""
    step = 17
    gx, gy = np.meshgrid(np.arange(-step // 2, SIDE + step, step), np.arange(-step // 2, SIDE + step, step))
    sx = (gx + noise.uniform(-4.6, 4.6, gx.shape)).ravel().astype(np.float32)
    sy = (gy + noise.uniform(-4.6, 4.6, gy.shape)).ravel().astype(np.float32)
    d = (COLUMN[..., None] - sx) ** 2 + (ROW[..., None] - sy) ** 2
    two = np.sqrt(np.partition(d, 1, axis=-1)[..., :2])
    pane = d.argmin(-1)
    p = to_pixels(image.reduce(2))
    count = np.bincount(pane.ravel(), minlength=sx.size) + 1e-6
    mean = np.stack(
        [np.bincount(pane.ravel(), p[..., c].ravel(), minlength=sx.size) / count for c in range(3)], -1
    )
    mean = np.clip(mean + noise.normal(0, 0.04, mean.shape), 0, 1)
    glass = (0.35 * mean[pane] + 0.65 * p) * (1.12 - 0.022 * two[..., :1])
    lead = (two[..., 1] - two[..., 0]) < 2.0
    contour = np.abs(luma(p) - luma(blur(p, 1.4)))[..., 0] > 0.085
    out: UnitPixels = np.where((lead | contour)[..., None], 0.05, glass).astype(np.float32)
    return out


def _strokes(
    image: Image.Image,
    noise: np.random.Generator,
    angle: UnitPixels,
    count: int,
    length: float,
    width: int,
    jitter: float,
    bend: float,
) -> Image.Image:
    """Paints short bent strokes in the picture's colours along an angle field (128, 128)."""
    source = to_pixels(image.reduce(2).filter(ImageFilter.GaussianBlur(0.7)))
    sheet = image.copy()
    pen = ImageDraw.Draw(sheet)
    xs, ys = noise.integers(0, SIDE, count), noise.integers(0, SIDE, count)
    shade = noise.normal(0, jitter, (count, 1)) + noise.normal(0, jitter * 0.3, (count, 3))
    colours = (np.clip(source[ys, xs] + shade, 0, 1) * 255).astype(int)
    for x, y, colour in zip(xs, ys, colours, strict=True):
        t = float(angle[y, x])
        px = 2.0 * x - length / 2 * math.cos(t)
        py = 2.0 * y - length / 2 * math.sin(t)
        t -= bend
        line = [(px, py)]
        for _ in range(3):
            px, py, t = px + length / 3 * math.cos(t), py + length / 3 * math.sin(t), t + bend
            line.append((px, py))
        pen.line(line, fill=(int(colour[0]), int(colour[1]), int(colour[2])), width=width, joint="curve")
    return sheet


def _relief(p: UnitPixels, strength: float) -> UnitPixels:
    light = p.mean(2)
    edge = np.zeros_like(light)
    edge[1:, 1:] = light[1:, 1:] - light[:-1, :-1]
    out: UnitPixels = p + strength * edge[..., None]
    return out


def _impasto(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> UnitPixels:
    angle = (0.7 * smooth_noise(noise, 6) + 0.75).astype(np.float32)
    sheet = _strokes(image, noise, angle, 900, 15, 6, 0.08, 0.0)
    return _relief(to_pixels(sheet.reduce(2)), 0.9)


def _swirling(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> UnitPixels:
    angle = np.zeros((SIDE, SIDE), np.complex64)
    for _ in range(4):
        cx, cy, k = noise.uniform(5, 123), noise.uniform(5, 100), noise.choice([-1.0, 1.0])
        dx, dy = COLUMN - cx, ROW - cy
        near = np.exp(-(dx**2 + dy**2) / (2 * 30.0**2)) + 1e-4
        angle += near * np.exp(1j * k * (np.arctan2(dy, dx) + math.pi / 2))
    sheet = _strokes(image, noise, np.angle(angle).astype(np.float32), 820, 20, 5, 0.09, 0.22)
    return _relief(to_pixels(sheet.reduce(2)), 0.35)


STYLES: dict[str, Callable[[Image.Image, random.Random, np.random.Generator, bool], UnitPixels]] = {
    "watercolour": _watercolour,
    "pointillism": _pointillism,
    "crosshatching": _crosshatching,
    "mosaic": _mosaic,
    "stained glass": _stained_glass,
    "pixel art": _pixel_art,
    "impasto": _impasto,
    "swirling brushstrokes": _swirling,
}
