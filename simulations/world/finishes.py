"""What is done to a drawn scene: its technique (`techniques`), then light, weather, mood, contrast and texture.

Works on float RGB pictures, (128, 128, 3) in 0..1. Every effect leaves the subject legible: at most a known
share of the light is taken away, because a picture whose subject cannot be seen teaches nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from palate.simulations.world.canvas import DRAWN
from palate.simulations.world.pixels import (
    COLUMN,
    ROW,
    UnitPixels,
    blur,
    luma,
    smooth_noise,
    to_image,
    to_pixels,
)
from palate.simulations.world.places import Scene
from palate.simulations.world.techniques import STYLES
from palate.simulations.world.truth import SIDE, Pixels, Truth

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
    if style in STYLES:
        p = STYLES[style](image, rng, noise, neon)
    else:
        p = to_pixels(image.reduce(2))
        if style is None and not scene.canvas.simple:
            p = _soft_shading(p)
    if neon:
        p = p + 0.55 * blur(p, 3.5)
    for category in ("line", "mood", "atmosphere", "lighting", "contrast", "texture"):
        value = a.get(category)
        if value in _EFFECTS:
            p = _EFFECTS[value](np.clip(p, 0, 1), rng, noise, centre)
    if a.get("palette") == "black and white":
        p = np.repeat(luma(p), 3, 2)
    if style == "flat colour":
        p = _poster(p)
    return (np.clip(p, 0, 1) * 255 + 0.5).astype(np.uint8)


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


def _poster(p: UnitPixels) -> UnitPixels:
    """Six areas of even colour, whatever light fell on them."""
    few = to_image(p).quantize(6, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return to_pixels(few.convert("RGB"))


def _soft_shading(p: UnitPixels) -> UnitPixels:
    """Return the plain rendering: shapes get a soft body from a light at the upper left."""
    light = luma(blur(p, 3.0))
    relief = np.zeros_like(light)
    relief[2:, 2:] = light[2:, 2:] - light[:-2, :-2]
    fall = 1.1 - 0.28 * (COLUMN + ROW)[..., None] / (2 * SIDE)
    out: UnitPixels = p * fall + 0.6 * relief
    return out


# ---- light, weather, mood, contrast, texture: (pixels, rng, noise, centre of the subject) -> pixels

Effect = Callable[[UnitPixels, random.Random, np.random.Generator, tuple[float, float]], UnitPixels]


def _rgb(r: float, g: float, b: float) -> UnitPixels:
    return np.array([r, g, b], np.float32)


def _bright(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    return p**0.55 * 0.95 + 0.06


def _dark(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    return p**1.1 * 0.5 + 0.02


def _golden_hour(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    side = rng.choice([8, SIDE - 8])
    glow = np.exp(-((COLUMN - side) ** 2 + (ROW - 40) ** 2) / (2 * 52.0**2))[..., None]
    lit: UnitPixels = p * _rgb(0.95, 0.74, 0.46) + glow * _rgb(0.5, 0.3, 0.04)
    return lit


def _moonlit(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    mx, my, radius = (22 if at[0] > SIDE / 2 else 106), 20, 8.5
    d = np.sqrt((COLUMN - mx) ** 2 + (ROW - my) ** 2)[..., None]
    grey = luma(p)
    night = (0.6 * p + 0.4 * grey) * _rgb(0.5, 0.62, 0.98) * 0.84 + _rgb(0.0, 0.01, 0.07)
    night = night + 0.28 * np.exp(-d / 24) * _rgb(0.85, 0.92, 1.0)
    disc = np.clip(radius - d, 0, 1)
    out: UnitPixels = night * (1 - disc) + _rgb(0.97, 0.97, 0.88) * disc
    return out


def _spotlit(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    d = np.sqrt(((COLUMN - at[0]) / 1.0) ** 2 + ((ROW - at[1]) / 1.1) ** 2)
    pool = (1 / (1 + np.exp((d - 44) / 4.5)))[..., None]
    lit: UnitPixels = p * (0.26 + 0.84 * pool) + 0.07 * pool
    return lit


def _misty(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    veil = np.clip(0.44 + 0.2 * (1 - ROW / SIDE) + 0.09 * smooth_noise(noise, 5), 0.3, 0.7)[..., None]
    lit: UnitPixels = blur(p, 0.8) * (1 - veil) + veil * _rgb(0.84, 0.86, 0.88)
    return lit


def _rainy(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    p = (0.6 * p + 0.4 * luma(p)) * _rgb(0.72, 0.78, 0.86)
    sheet = Image.new("L", (DRAWN, DRAWN), 0)
    pen = ImageDraw.Draw(sheet)
    for x, y in noise.uniform(-20, DRAWN, (85, 2)):
        pen.line((x, y, x - 7, y + 24), fill=190, width=3)
    rain = (np.asarray(sheet.reduce(2), np.float32) / 255)[..., None]
    out: UnitPixels = p * (1 - rain) + rain * _rgb(0.86, 0.91, 0.97)
    return out


def _snowy(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    p = p * 0.78 + 0.06
    sheet = Image.new("L", (DRAWN, DRAWN), 0)
    pen = ImageDraw.Draw(sheet)
    for x, y, r in zip(
        noise.uniform(0, DRAWN, 80), noise.uniform(0, DRAWN, 80), noise.uniform(2.5, 5.5, 80), strict=True
    ):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    flakes = (np.asarray(sheet.reduce(2), np.float32) / 255)[..., None]
    drift = np.clip((ROW - (110 + 4 * smooth_noise(noise, 6))) / 3, 0, 1)[..., None]
    white = np.maximum(flakes, drift)
    out: UnitPixels = p * (1 - white) + white * _rgb(0.97, 0.98, 1.0)
    return out


def _high_contrast(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    middle = np.median(luma(p))
    out: UnitPixels = 1 / (1 + np.exp(-(p - middle) * 11))
    return out


def _low_contrast(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    return 0.55 + (p - 0.55) * 0.4


def _smooth(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    return blur(p, 1.9)


def _grainy(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Return a tile of coarse grain over the whole picture, a little different at every place."""
    fine = noise.normal(0, 0.04, (SIDE // 2, SIDE // 2)) + np.tile(_GRAIN, (SIDE // 16, SIDE // 16))
    return p + np.repeat(np.repeat(fine, 2, 0), 2, 1)[..., None].astype(np.float32)


def _canvas(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Return a basket weave with a period of eight pixels."""
    over = ((COLUMN // 4 + ROW // 4) % 2) == 0
    thread = np.where(over, np.cos(COLUMN * 2 * math.pi / 4), np.cos(ROW * 2 * math.pi / 4))
    lit: UnitPixels = p * (0.88 + 0.12 * thread[..., None]) + np.where(over, 0.045, -0.045)[..., None]
    return lit


def _flowing(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Winding lines over the whole picture, fainter on the subject."""
    phase, swing, slant = rng.random() * 6, rng.uniform(6, 9), rng.uniform(-0.35, 0.35)
    height = ROW + slant * COLUMN + swing * np.sin(COLUMN / rng.uniform(11, 15) + phase)
    lines = np.clip(4 * np.sin(height * 2 * math.pi / 17) - 2, -0.6, 1)[..., None] * _off_subject(at)
    out: UnitPixels = p * (1 + 0.2 * lines) + 0.05 * lines
    return out


def _facets(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Return the picture broken into sharp triangles of differing light, fainter on the subject."""
    turn, side = rng.uniform(0.2, 1.2), rng.uniform(25, 31)
    u = (COLUMN * math.cos(turn) + ROW * math.sin(turn)) / side + 8
    v = (ROW * math.cos(turn) - COLUMN * math.sin(turn)) / side + 8
    upper = ((u % 1) + (v % 1) > 1).astype(int)
    shade = noise.uniform(-1, 1, (2, 20, 20)).astype(np.float32)
    shade += np.array([0.6, -0.6], np.float32)[:, None, None]
    light = shade[upper, v.astype(int), u.astype(int)][..., None] * _off_subject(at)
    out: UnitPixels = p * (1 + 0.15 * light) + 0.02 * light
    return out


def _off_subject(at: tuple[float, float]) -> UnitPixels:
    """Return how strongly marks show: 0.4 on the subject's middle, 1 far from it, (128, 128, 1)."""
    far = np.clip((np.hypot(COLUMN - at[0], ROW - at[1]) - 14) / 34, 0, 1)
    out: UnitPixels = (0.4 + 0.6 * far)[..., None]
    return out


def _calm(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Soft level bands of pale light, colours quieted."""
    p = 0.75 * p + 0.25 * luma(p)
    bands = (0.5 + 0.5 * np.cos(ROW * 2 * math.pi / 32))[..., None] * 0.4
    lit: UnitPixels = p * (1 - bands) + bands * _rgb(0.84, 0.92, 0.95)
    return lit


def _joyful(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Confetti in bright colours over a lightened picture."""
    sheet = to_image(np.clip(p**0.8 + 0.05, 0, 1)).resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
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
    return to_pixels(sheet.reduce(2))


def _melancholic(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Colours drained to blue-grey, light failing towards the edges, slow vertical drips."""
    p = (0.5 * p + 0.5 * luma(p)) * _rgb(0.66, 0.73, 0.86)
    drips = (0.5 + 0.5 * np.cos(COLUMN * 2 * math.pi / 16 + smooth_noise(noise, 5)))[..., None] * (
        ROW / SIDE
    )[..., None] ** 0.7
    d = np.sqrt((COLUMN - 64) ** 2 + (ROW - 64) ** 2)[..., None]
    lit: UnitPixels = p * (1 - 0.24 * drips) * (1.08 - 0.5 * np.clip(d / 90, 0, 1) ** 2)
    return lit


def _dramatic(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Rays of light from behind the subject into a darkened picture."""
    t = np.arctan2(ROW - at[1], COLUMN - at[0])
    d = np.sqrt((COLUMN - at[0]) ** 2 + (ROW - at[1]) ** 2)[..., None]
    rays = (np.sin(t * 9 + rng.random() * 6) > 0)[..., None].astype(np.float32)
    rays = blur(np.repeat(rays, 3, 2), 0.8)[..., :1] * np.clip((d - 22) / 18, 0, 1)
    stark: UnitPixels = 0.46 + (p - 0.46) * 1.25
    lit: UnitPixels = stark * (0.74 - 0.36 * np.clip(d / 80, 0, 1)) + 0.3 * rays * _rgb(1.0, 0.86, 0.62)
    return lit


def _dreamy(
    p: UnitPixels, rng: random.Random, noise: np.random.Generator, at: tuple[float, float]
) -> UnitPixels:
    """Return a bloom of lilac light with discs of blurred light."""
    p = 0.65 * p + 0.4 * blur(p, 5)
    p = p * 0.76 + 0.24 * _rgb(0.93, 0.76, 0.98)
    for x, y in noise.uniform(4, SIDE - 4, (11, 2)):
        r = noise.uniform(4, 8)
        if math.hypot(x - at[0], y - at[1]) < 20:
            continue
        disc = np.clip(r - np.sqrt((COLUMN - x) ** 2 + (ROW - y) ** 2), 0, 1)[..., None]
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
