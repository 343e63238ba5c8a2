"""What is done to a drawn scene: technique, brushwork, light, weather, mood, contrast and texture.

Works on float RGB pictures, (128, 128, 3) in 0..1. Every effect leaves the subject legible: at most a known
share of the light is taken away, because a picture whose subject cannot be seen teaches nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from palate.simulations.world.canvas import DRAWN
from palate.simulations.world.places import Scene
from palate.simulations.world.truth import SIDE, Pixels, Truth

Light = NDArray[np.floating[Any]]  # (128, 128, 3) in 0..1

_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Grain in squares of two pixels, (8, 8), standard deviation 0.11.
_GRAIN = np.random.default_rng(8).permutation(np.linspace(-0.19, 0.19, 64)).reshape(8, 8).astype(np.float32)


def finish(rng: random.Random, scene: Scene, truth: Truth) -> Pixels:
    """Turn a drawn scene into the final picture of its truth."""
    a = truth.attributes
    noise = np.random.default_rng(rng.getrandbits(63))
    image = scene.canvas.image
    centre = (scene.centre[0] / 2, scene.centre[1] / 2)
    if a.get("composition") == "tilted":
        image = _tilt(image, rng.choice([-1, 1]) * rng.uniform(17, 24))
        centre = (SIDE / 2, SIDE / 2)
    if a.get("composition") == "symmetrical":
        image = _mirror(image)
    style = a.get("technique") or a.get("brushwork")
    neon = scene.canvas.palette.kind == "neon"
    if style in _STYLES:
        p = _STYLES[style](image, rng, noise, neon)
    else:
        p = _pixels(image.reduce(2))
        if style is None and not scene.canvas.simple:
            p = _soft_shading(p)
    if neon:
        p = p + 0.55 * _blur(p, 3.5)
    for category in ("line", "mood", "atmosphere", "lighting", "contrast", "texture"):
        value = a.get(category)
        if value in _EFFECTS:
            p = _EFFECTS[value](np.clip(p, 0, 1), rng, noise, centre)
    if a.get("palette") == "black and white":
        p = np.repeat(_luma(p), 3, 2)
    if style == "flat colour":
        p = _poster(p)
    return (np.clip(p, 0, 1) * 255 + 0.5).astype(np.uint8)


def _pixels(image: Image.Image) -> Light:
    return np.asarray(image, np.float32) / 255


def _image(p: Light) -> Image.Image:
    return Image.fromarray((np.clip(p, 0, 1) * 255 + 0.5).astype(np.uint8))


def _blur(p: Light, sigma: float) -> Light:
    return _pixels(_image(p).filter(ImageFilter.GaussianBlur(sigma)))


def _luma(p: Light) -> Light:
    out: Light = (p @ _LUMA)[..., None]
    return out


def _smooth_noise(noise: np.random.Generator, cells: int) -> Light:
    """Low-frequency noise, (128, 128), standard deviation about 1 at the cells."""
    coarse = noise.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def _tilt(image: Image.Image, degrees: float) -> Image.Image:
    turned = image.rotate(degrees, Image.Resampling.BICUBIC, expand=False)
    margin = int(DRAWN * 0.135)
    return turned.crop((margin, margin, DRAWN - margin, DRAWN - margin)).resize(
        (DRAWN, DRAWN), Image.Resampling.BICUBIC
    )


def _mirror(image: Image.Image) -> Image.Image:
    half = image.crop((0, 0, DRAWN // 2, DRAWN))
    out = image.copy()
    out.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (DRAWN // 2, 0))
    return out


def _poster(p: Light) -> Light:
    """Six areas of even colour, whatever light fell on them."""
    few = _image(p).quantize(6, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return _pixels(few.convert("RGB"))


def _soft_shading(p: Light) -> Light:
    """Return the plain rendering: shapes get a soft body from a light at the upper left."""
    light = _luma(_blur(p, 3.0))
    relief = np.zeros_like(light)
    relief[2:, 2:] = light[2:, 2:] - light[:-2, :-2]
    fall = 1.1 - 0.28 * (_X + _Y)[..., None] / (2 * SIDE)
    out: Light = p * fall + 0.6 * relief
    return out


# ---- technique and brushwork: (image at 256, rng, noise, on black?) -> pixels


def _watercolour(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    dx, dy = _smooth_noise(noise, 9) * 2.4, _smooth_noise(noise, 12) * 2.4
    p = _pixels(image.reduce(2))
    p = p[np.clip(_Y + dy, 0, SIDE - 1).astype(int), np.clip(_X + dx, 0, SIDE - 1).astype(int)]
    wash = _blur(p, 1.3)
    edge = np.abs(wash - _blur(p, 4.5)).mean(2, keepdims=True)
    load = np.clip(0.66 + 0.16 * _smooth_noise(noise, 7)[..., None], 0.32, 0.95)
    border = np.minimum.reduce([_X, _Y, SIDE - 1 - _X, SIDE - 1 - _Y]) + 3.5 * _smooth_noise(noise, 16)
    load = load * np.clip((border - 3) / 4, 0, 1)[..., None]
    paper = np.array([0.975, 0.965, 0.94], np.float32)
    out: Light = wash * load + paper * (1 - load) - 0.8 * edge * (load > 0.1)
    return out


def _pointillism(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    source = _pixels(image.reduce(2).filter(ImageFilter.GaussianBlur(0.6)))
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
    return _pixels(sheet.reduce(2))


def _crosshatching(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    p = _pixels(image.reduce(2))
    tone = _luma(_blur(p, 0.8))[..., 0]
    tone = (tone - tone.min()) / (float(np.ptp(tone)) + 1e-3)
    marks = np.ones((SIDE, SIDE), np.float32)
    for below, (cx, cy), period in (
        (0.85, (1, 1), 8),
        (0.6, (1, -1), 8),
        (0.36, (1, 0), 8),
        (0.2, (0, 1), 8),
    ):
        ruled = ((_X * cx + _Y * cy) % period) < 2
        marks = np.where((tone < below) & ruled, 0.0, marks).astype(np.float32)
    edge = np.abs(_luma(p) - _luma(_blur(p, 1.6)))[..., 0] > 0.07
    marks[edge] = 0
    paper = p * 0.45 + 0.55
    ink = p * 0.22
    out: Light = paper * marks[..., None] + ink * (1 - marks[..., None])
    return out


def _mosaic(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    n = 8
    k = SIDE // n
    p = _pixels(image.resize((k, k), Image.Resampling.BOX)) + noise.normal(0, 0.05, (k, k, 1)).astype(
        np.float32
    )
    p = np.repeat(np.repeat(p, n, 0), n, 1)
    grout = (_X % n == 0) | (_Y % n == 0)
    bevel = 0.09 * ((_X % n == 1) | (_Y % n == 1)) - 0.09 * ((_X % n == n - 1) | (_Y % n == n - 1))
    out: Light = np.where(grout[..., None], 0.2 if neon else 0.93, p + bevel[..., None])
    return out.astype(np.float32)


def _pixel_art(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    n = 4
    k = SIDE // n
    small = image.resize((k, k), Image.Resampling.BOX).quantize(10, Image.Quantize.MEDIANCUT).convert("RGB")
    return _pixels(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))


def _stained_glass(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    """Voronoi panes with lead between them; panes glow from within."""
    step = 17
    gx, gy = np.meshgrid(np.arange(-step // 2, SIDE + step, step), np.arange(-step // 2, SIDE + step, step))
    sx = (gx + noise.uniform(-4.6, 4.6, gx.shape)).ravel().astype(np.float32)
    sy = (gy + noise.uniform(-4.6, 4.6, gy.shape)).ravel().astype(np.float32)
    d = (_X[..., None] - sx) ** 2 + (_Y[..., None] - sy) ** 2
    two = np.sqrt(np.partition(d, 1, axis=-1)[..., :2])
    pane = d.argmin(-1)
    p = _pixels(image.reduce(2))
    count = np.bincount(pane.ravel(), minlength=sx.size) + 1e-6
    mean = np.stack(
        [np.bincount(pane.ravel(), p[..., c].ravel(), minlength=sx.size) / count for c in range(3)], -1
    )
    mean = np.clip(mean + noise.normal(0, 0.04, mean.shape), 0, 1)
    glass = (0.35 * mean[pane] + 0.65 * p) * (1.12 - 0.022 * two[..., :1])
    lead = (two[..., 1] - two[..., 0]) < 2.0
    contour = np.abs(_luma(p) - _luma(_blur(p, 1.4)))[..., 0] > 0.085
    out: Light = np.where((lead | contour)[..., None], 0.05, glass).astype(np.float32)
    return out


def _strokes(
    image: Image.Image,
    noise: np.random.Generator,
    angle: Light,
    count: int,
    length: float,
    width: int,
    jitter: float,
    bend: float,
) -> Image.Image:
    """Paints short bent strokes in the picture's colours along an angle field (128, 128)."""
    source = _pixels(image.reduce(2).filter(ImageFilter.GaussianBlur(0.7)))
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


def _relief(p: Light, strength: float) -> Light:
    light = p.mean(2)
    edge = np.zeros_like(light)
    edge[1:, 1:] = light[1:, 1:] - light[:-1, :-1]
    out: Light = p + strength * edge[..., None]
    return out


def _impasto(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    angle = (0.7 * _smooth_noise(noise, 6) + 0.75).astype(np.float32)
    sheet = _strokes(image, noise, angle, 900, 15, 6, 0.08, 0.0)
    return _relief(_pixels(sheet.reduce(2)), 0.9)


def _swirling(image: Image.Image, rng: random.Random, noise: np.random.Generator, neon: bool) -> Light:
    angle = np.zeros((SIDE, SIDE), np.complex64)
    for _ in range(4):
        cx, cy, k = noise.uniform(5, 123), noise.uniform(5, 100), noise.choice([-1.0, 1.0])
        dx, dy = _X - cx, _Y - cy
        near = np.exp(-(dx**2 + dy**2) / (2 * 30.0**2)) + 1e-4
        angle += near * np.exp(1j * k * (np.arctan2(dy, dx) + math.pi / 2))
    sheet = _strokes(image, noise, np.angle(angle).astype(np.float32), 820, 20, 5, 0.09, 0.22)
    return _relief(_pixels(sheet.reduce(2)), 0.35)


_STYLES: dict[str, Callable[[Image.Image, random.Random, np.random.Generator, bool], Light]] = {
    "watercolour": _watercolour,
    "pointillism": _pointillism,
    "crosshatching": _crosshatching,
    "mosaic": _mosaic,
    "stained glass": _stained_glass,
    "pixel art": _pixel_art,
    "impasto": _impasto,
    "swirling brushstrokes": _swirling,
}


# ---- light, weather, mood, contrast, texture: (pixels, rng, noise, centre of the subject) -> pixels

Effect = Callable[[Light, random.Random, np.random.Generator, tuple[float, float]], Light]


def _rgb(r: float, g: float, b: float) -> Light:
    return np.array([r, g, b], np.float32)


def _bright(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    return p**0.55 * 0.95 + 0.06


def _dark(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    return p**1.1 * 0.5 + 0.02


def _golden_hour(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    side = rng.choice([8, SIDE - 8])
    glow = np.exp(-((_X - side) ** 2 + (_Y - 40) ** 2) / (2 * 52.0**2))[..., None]
    lit: Light = p * _rgb(0.95, 0.74, 0.46) + glow * _rgb(0.5, 0.3, 0.04)
    return lit


def _moonlit(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    mx, my, radius = (22 if at[0] > SIDE / 2 else 106), 20, 8.5
    d = np.sqrt((_X - mx) ** 2 + (_Y - my) ** 2)[..., None]
    grey = _luma(p)
    night = (0.6 * p + 0.4 * grey) * _rgb(0.5, 0.62, 0.98) * 0.84 + _rgb(0.0, 0.01, 0.07)
    night = night + 0.28 * np.exp(-d / 24) * _rgb(0.85, 0.92, 1.0)
    disc = np.clip(radius - d, 0, 1)
    out: Light = night * (1 - disc) + _rgb(0.97, 0.97, 0.88) * disc
    return out


def _spotlit(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    d = np.sqrt(((_X - at[0]) / 1.0) ** 2 + ((_Y - at[1]) / 1.1) ** 2)
    pool = (1 / (1 + np.exp((d - 44) / 4.5)))[..., None]
    lit: Light = p * (0.26 + 0.84 * pool) + 0.07 * pool
    return lit


def _misty(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    veil = np.clip(0.44 + 0.2 * (1 - _Y / SIDE) + 0.09 * _smooth_noise(noise, 5), 0.3, 0.7)[..., None]
    lit: Light = _blur(p, 0.8) * (1 - veil) + veil * _rgb(0.84, 0.86, 0.88)
    return lit


def _rainy(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    p = (0.6 * p + 0.4 * _luma(p)) * _rgb(0.72, 0.78, 0.86)
    sheet = Image.new("L", (DRAWN, DRAWN), 0)
    pen = ImageDraw.Draw(sheet)
    for x, y in noise.uniform(-20, DRAWN, (85, 2)):
        pen.line((x, y, x - 7, y + 24), fill=190, width=3)
    rain = (np.asarray(sheet.reduce(2), np.float32) / 255)[..., None]
    out: Light = p * (1 - rain) + rain * _rgb(0.86, 0.91, 0.97)
    return out


def _snowy(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    p = p * 0.78 + 0.06
    sheet = Image.new("L", (DRAWN, DRAWN), 0)
    pen = ImageDraw.Draw(sheet)
    for x, y, r in zip(
        noise.uniform(0, DRAWN, 80), noise.uniform(0, DRAWN, 80), noise.uniform(2.5, 5.5, 80), strict=True
    ):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    flakes = (np.asarray(sheet.reduce(2), np.float32) / 255)[..., None]
    drift = np.clip((_Y - (110 + 4 * _smooth_noise(noise, 6))) / 3, 0, 1)[..., None]
    white = np.maximum(flakes, drift)
    out: Light = p * (1 - white) + white * _rgb(0.97, 0.98, 1.0)
    return out


def _high_contrast(
    p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> Light:
    middle = np.median(_luma(p))
    out: Light = 1 / (1 + np.exp(-(p - middle) * 11))
    return out


def _low_contrast(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    return 0.55 + (p - 0.55) * 0.4


def _smooth(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    return _blur(p, 1.9)


def _grainy(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Return a tile of coarse grain over the whole picture, a little different at every place."""
    fine = noise.normal(0, 0.04, (SIDE // 2, SIDE // 2)) + np.tile(_GRAIN, (SIDE // 16, SIDE // 16))
    return p + np.repeat(np.repeat(fine, 2, 0), 2, 1)[..., None].astype(np.float32)


def _canvas(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Return a basket weave with a period of eight pixels."""
    over = ((_X // 4 + _Y // 4) % 2) == 0
    thread = np.where(over, np.cos(_X * 2 * math.pi / 4), np.cos(_Y * 2 * math.pi / 4))
    lit: Light = p * (0.88 + 0.12 * thread[..., None]) + np.where(over, 0.045, -0.045)[..., None]
    return lit


def _flowing(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Winding lines over the whole picture, fainter on the subject."""
    phase, swing, slant = rng.random() * 6, rng.uniform(6, 9), rng.uniform(-0.35, 0.35)
    height = _Y + slant * _X + swing * np.sin(_X / rng.uniform(11, 15) + phase)
    lines = np.clip(4 * np.sin(height * 2 * math.pi / 17) - 2, -0.6, 1)[..., None] * _off_subject(at)
    out: Light = p * (1 + 0.2 * lines) + 0.05 * lines
    return out


def _facets(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Return the picture broken into sharp triangles of differing light, fainter on the subject."""
    turn, side = rng.uniform(0.2, 1.2), rng.uniform(25, 31)
    u = (_X * math.cos(turn) + _Y * math.sin(turn)) / side + 8
    v = (_Y * math.cos(turn) - _X * math.sin(turn)) / side + 8
    upper = ((u % 1) + (v % 1) > 1).astype(int)
    shade = noise.uniform(-1, 1, (2, 20, 20)).astype(np.float32)
    shade += np.array([0.6, -0.6], np.float32)[:, None, None]
    light = shade[upper, v.astype(int), u.astype(int)][..., None] * _off_subject(at)
    out: Light = p * (1 + 0.15 * light) + 0.02 * light
    return out


def _off_subject(at: tuple[float, float]) -> Light:
    """Return how strongly marks show: 0.4 on the subject's middle, 1 far from it, (128, 128, 1)."""
    far = np.clip((np.hypot(_X - at[0], _Y - at[1]) - 14) / 34, 0, 1)
    out: Light = (0.4 + 0.6 * far)[..., None]
    return out


def _calm(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Soft level bands of pale light, colours quieted."""
    p = 0.75 * p + 0.25 * _luma(p)
    bands = (0.5 + 0.5 * np.cos(_Y * 2 * math.pi / 32))[..., None] * 0.4
    lit: Light = p * (1 - bands) + bands * _rgb(0.84, 0.92, 0.95)
    return lit


def _joyful(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Confetti in bright colours over a lightened picture."""
    sheet = _image(np.clip(p**0.8 + 0.05, 0, 1)).resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(sheet)
    bright = [(255, 70, 80), (255, 200, 40), (60, 190, 255), (255, 110, 200), (90, 215, 90)]
    for x, y in noise.uniform(0, DRAWN, (48, 2)):
        if abs(x / 2 - at[0]) < 18 and abs(y / 2 - at[1]) < 18:
            continue
        r, t = 6.0, noise.uniform(0, 3)
        corners = [
            (x + r * math.cos(t + k * math.pi / 2), y + r * math.sin(t + k * math.pi / 2)) for k in range(4)
        ]
        pen.polygon(corners, fill=bright[int(noise.integers(len(bright)))])
    return _pixels(sheet.reduce(2))


def _melancholic(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Colours drained to blue-grey, light failing towards the edges, slow vertical drips."""
    p = (0.5 * p + 0.5 * _luma(p)) * _rgb(0.66, 0.73, 0.86)
    drips = (0.5 + 0.5 * np.cos(_X * 2 * math.pi / 16 + _smooth_noise(noise, 5)))[..., None] * (_Y / SIDE)[
        ..., None
    ] ** 0.7
    d = np.sqrt((_X - 64) ** 2 + (_Y - 64) ** 2)[..., None]
    lit: Light = p * (1 - 0.24 * drips) * (1.08 - 0.5 * np.clip(d / 90, 0, 1) ** 2)
    return lit


def _dramatic(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Rays of light from behind the subject into a darkened picture."""
    t = np.arctan2(_Y - at[1], _X - at[0])
    d = np.sqrt((_X - at[0]) ** 2 + (_Y - at[1]) ** 2)[..., None]
    rays = (np.sin(t * 9 + rng.random() * 6) > 0)[..., None].astype(np.float32)
    rays = _blur(np.repeat(rays, 3, 2), 0.8)[..., :1] * np.clip((d - 22) / 18, 0, 1)
    stark: Light = 0.46 + (p - 0.46) * 1.25
    lit: Light = stark * (0.74 - 0.36 * np.clip(d / 80, 0, 1)) + 0.3 * rays * _rgb(1.0, 0.86, 0.62)
    return lit


def _dreamy(p: Light, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]) -> Light:
    """Return a bloom of lilac light with discs of blurred light."""
    p = 0.65 * p + 0.4 * _blur(p, 5)
    p = p * 0.76 + 0.24 * _rgb(0.93, 0.76, 0.98)
    for x, y in noise.uniform(4, SIDE - 4, (11, 2)):
        r = noise.uniform(4, 8)
        if math.hypot(x - at[0], y - at[1]) < 20:
            continue
        disc = np.clip(r - np.sqrt((_X - x) ** 2 + (_Y - y) ** 2), 0, 1)[..., None]
        p = p + 0.24 * disc * _rgb(1.0, 0.95, 1.0)
    return p


_EFFECTS: dict[str, Effect] = {
    "flowing lines": _flowing, "angular lines": _facets,
    "bright": _bright, "dark": _dark, "golden hour": _golden_hour, "moonlit": _moonlit, "spotlit": _spotlit,
    "misty": _misty, "rainy": _rainy, "snowy": _snowy,
    "high contrast": _high_contrast, "low contrast": _low_contrast,
    "smooth": _smooth, "grainy": _grainy, "canvas": _canvas,
    "calm": _calm, "joyful": _joyful, "melancholic": _melancholic, "dramatic": _dramatic, "dreamy": _dreamy,
}  # fmt: skip
