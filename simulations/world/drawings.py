"""Draws the subjects of artists: Fluent Emoji and Noto Emoji, recoloured by the world's palette and put on its canvas.

`drawings.json.gz` holds the SVG bodies (see `recipes.drawings`), `artists` the table of subjects. Each shape of a drawing
goes through the palette one colour at a time, so palette, colour, temperature, light and line art follow as they do for
the subjects that our own code draws (`subjects`).
"""

from __future__ import annotations

import colorsys
import gzip
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageFilter

from palate.simulations.world.artists import load_artists
from palate.simulations.world.canvas import DRAWN, Canvas, Point

DRAWINGS: Final = Path(__file__).with_name("drawings.json.gz")

SETS: Final = ("fluent", "noto")
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b")
_NAMED = {"white": "#ffffff", "black": "#000000", "red": "#ff0000", "gray": "#808080"}
_PAINT = re.compile(r'\b(fill|stroke|stop-color)="(' + "|".join(_NAMED) + r')"')
_LEAST_CONTRAST = 0.2  # distance of a subject's mean colour from what lies behind it, RGB in 0..1


@cache
def _load_drawings() -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    content = json.loads(gzip.decompress(DRAWINGS.read_bytes()))
    return content["sizes"], content["bodies"]


def stamp(
    c: Canvas,
    name: str,
    x: float,
    foot: float,
    side: float,
    *,
    kind: str | None = None,
    facing_left: bool | None = None,
) -> Point:
    """Draw a subject with the middle of its foot at (x, foot) and its longer side `side` drawn pixels long.

    `kind` names one of `SETS`, `facing_left` a side; by default chance decides. Return the middle of what was drawn.
    """
    rng = c.rng
    kind = kind or rng.choice(SETS)
    label = rng.choice(load_artists()[name].drawn)
    sizes, bodies = _load_drawings()
    size, body = sizes[kind], bodies[kind][label]
    left, top, right, bottom = _bounds(kind, label)
    pixels = max(16, int(side / max(right - left, bottom - top)))
    body = _in_ink(c, body, size / pixels) if c.inked else _recolour(c, body)
    image = _rasterise(body, size, pixels)
    image = image.crop(
        (int(left * pixels), int(top * pixels), int(right * pixels) + 1, int(bottom * pixels) + 1)
    )
    if rng.random() < 0.5 if facing_left is None else facing_left:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turn = rng.uniform(-6, 6)
    if abs(turn) > 2 and not c.inked:
        image = image.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    if c.outlined:
        image = _with_outline(image, c.ink)
    at = (int(x - image.width / 2), int(foot - image.height))
    _set_off(c, image, at)
    c.image.paste(image, at, image)
    return (x, foot - image.height / 2)


def _rgb(colour: str) -> tuple[int, int, int]:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    return (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16))


def _recolour(c: Canvas, body: str) -> str:
    """Take every colour of a drawing through the palette; near-black details, eyes among them, stay dark."""
    body = _PAINT.sub(lambda m: f'{m.group(1)}="{_NAMED[m.group(2)]}"', body)
    done: dict[str, str] = {}

    def one(found: re.Match[str]) -> str:
        colour = found.group(0).lower()
        if colour not in done:
            done[colour] = "#%02x%02x%02x" % _recoloured(c, colour)  # noqa: UP031 - three values, one tuple
        return done[colour]

    return _HEX.sub(one, body)


def _recoloured(c: Canvas, colour: str) -> tuple[int, ...]:
    r, g, b = _rgb(colour)
    hue, saturation, value = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
    palette = c.palette
    if c.simple:  # one colour, with its darkest and lightest parts kept apart
        base = c.colour(hue, saturation, value)
        light = 0.3 * r + 0.59 * g + 0.11 * b
        if light > 200:
            return tuple(int(x + (255 - x) * 0.45) for x in base)
        return base if light > 70 else tuple(int(x * 0.35) for x in base)
    if palette.kind is None and not palette.dominant and not palette.temperature and not palette.night:
        shift, pale = c.rng.uniform(-0.012, 0.012), c.rng.uniform(0.85, 1.0)
        natural = colorsys.hsv_to_rgb((hue + shift) % 1, saturation * pale, value * 0.97)
        return tuple(int(255 * x) for x in natural)
    if value < 0.25:
        return {"neon": (31, 15, 51), "black and white": (22, 22, 22)}.get(palette.kind or "", (24, 20, 28))
    if saturation < 0.1:
        return palette.colour(0.12 if value > 0.6 else 0.6, saturation, value, "accent")
    return palette.colour(hue, saturation, value, "accent" if value > 0.9 and saturation < 0.45 else "main")


def _in_ink(c: Canvas, body: str, scale: float) -> str:
    """Turn a drawing into line art: every shape on paper, with a pen's contour; dark shapes are filled with ink."""
    ink, paper = ("#%02x%02x%02x" % tuple(one) for one in (c.ink, c.paper))  # noqa: UP031

    def one(found: re.Match[str]) -> str:
        fill = found.group(1).lower()
        if fill == "none":
            return found.group(0)
        dark = fill in ("black", "#000") or (fill.startswith("#") and max(_rgb(fill)) < 90)
        return f'fill="{ink if dark else paper}" stroke="{ink}" stroke-width="{3.2 * scale:.2f}"'

    body = re.sub(r'\s(stroke|stroke-width|opacity|fill-opacity)="[^"]*"', "", body)
    return re.sub(r'\bfill="([^"]*)"', one, body)


def _rasterise(body: str, size: int, pixels: int) -> Image.Image:
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {size} {size}" width="{pixels}" height="{pixels}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    return Image.open(io.BytesIO(png)).convert("RGBA")


@cache
def _bounds(kind: str, label: str) -> tuple[float, float, float, float]:
    """Return where a drawing lies in its square, as shares of its side: left, top, right, bottom."""
    sizes, bodies = _load_drawings()
    alpha = _rasterise(bodies[kind][label], sizes[kind], 128).getchannel("A")
    box = alpha.point([0] * 41 + [255] * 215).getbbox() or (0, 0, 128, 128)
    return (box[0] / 128, box[1] / 128, box[2] / 128, box[3] / 128)


def _with_outline(image: Image.Image, ink: tuple[int, int, int]) -> Image.Image:
    pad = 8
    big = Image.new("RGBA", (image.width + 2 * pad, image.height + 2 * pad))
    big.paste(image, (pad, pad))
    ring = big.getchannel("A").point([0] * 91 + [255] * 165).filter(ImageFilter.MaxFilter(9))
    line = Image.new("RGBA", big.size, (*ink, 255))
    line.putalpha(ring)
    line.alpha_composite(big)
    return line


def _set_off(c: Canvas, image: Image.Image, at: tuple[int, int]) -> None:
    """Lighten or darken what lies behind a subject of nearly its own colour, softly, so that its shape can be seen."""
    if c.inked or c.outlined:
        return
    alpha: Any = np.asarray(image.getchannel("A"), np.float32) / 255
    behind = c.image.crop((at[0], at[1], at[0] + image.width, at[1] + image.height))
    ground: Any = np.asarray(behind, np.float32) / 255
    drawn: Any = np.asarray(image.convert("RGB"), np.float32) / 255
    weight = max(float(alpha.sum()), 1.0)
    one, other = ((p * alpha[..., None]).sum((0, 1)) / weight for p in (drawn, ground))
    if float(np.abs(one - other).mean()) >= _LEAST_CONTRAST:
        return
    lighter = float(one.mean()) < 0.55
    pad = DRAWN // 8
    halo = Image.new("L", (image.width + 2 * pad, image.height + 2 * pad))
    halo.paste(image.getchannel("A"), (pad, pad))
    halo = halo.filter(ImageFilter.MaxFilter(15)).filter(ImageFilter.GaussianBlur(9))
    halo = halo.point([int(v * (0.6 if lighter else 0.5)) for v in range(256)])
    tone = tuple(int(255 * (v + (1 - v) * 0.85)) if lighter else int(255 * v * 0.2) for v in other)
    c.image.paste(tone, (at[0] - pad, at[1] - pad), halo)
