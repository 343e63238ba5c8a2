"""The subjects of the world: which shapes make a house, a cat, a lighthouse.

Every subject is a function (canvas, x, y, h): x is its middle, y its foot, h its height in drawn pixels.
Natural colours are given as HSV; the palette bends them (see `palettes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from palate.simulations.world.canvas import Canvas


def house(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a house."""
    r = c.rng
    w = h * 0.5
    wall, roof, dark = (
        c.colour(r.choice([0.1, 0.07, 0.55]), 0.5, 0.95),
        c.colour(0.01, 1, 0.55),
        c.colour(0.07, 0.9, 0.15),
    )
    if not c.simple:
        c.polygon(
            [
                (x + w * 0.45, y - h * 0.7),
                (x + w * 0.45, y - h * 1.0),
                (x + w * 0.72, y - h),
                (x + w * 0.72, y - h * 0.6),
            ],
            dark,
        )
    c.polygon([(x - w, y), (x - w, y - h * 0.56), (x + w, y - h * 0.56), (x + w, y)], wall)
    c.polygon([(x - w * 1.28, y - h * 0.53), (x, y - h * 1.05), (x + w * 1.28, y - h * 0.53)], roof)
    c.polygon(
        [(x - w * 0.19, y), (x - w * 0.19, y - h * 0.33), (x + w * 0.19, y - h * 0.33), (x + w * 0.19, y)],
        dark,
        restyle=False,
    )
    if c.simple:
        return
    glow = c.colour(0.15, 0.8, 1, "accent")
    for s in (-1, 1):
        a, b = x + s * w * 0.6 - w * 0.19, x + s * w * 0.6 + w * 0.19
        c.polygon(
            [(a, y - h * 0.2), (a, y - h * 0.42), (b, y - h * 0.42), (b, y - h * 0.2)], glow, restyle=False
        )


def tree(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a tree."""
    r = c.rng
    w = h * 0.075
    c.polygon(
        [(x - w, y), (x - w * 0.6, y - h * 0.5), (x + w * 0.6, y - h * 0.5), (x + w, y)],
        c.colour(0.07, 0.8, 0.25),
    )
    hue = r.choice([0.3, 0.33, 0.36, 0.28])
    if c.line == "angular lines":
        for i in range(3):
            wide, foot = h * (0.38 - 0.08 * i), y - h * (0.28 + 0.2 * i)
            c.polygon(
                [(x - wide, foot), (x, foot - h * 0.38), (x + wide, foot)], c.colour(hue, 1, 0.35 + 0.18 * i)
            )
        return
    if c.simple:
        c.ellipse(x, y - h * 0.66, h * 0.34, h * 0.34, c.colour(hue, 1, 0.55))
        return
    for dx, dy, rad, val in (
        (-0.2, 0.5, 0.2, 0.35),
        (0.2, 0.52, 0.2, 0.4),
        (0, 0.55, 0.22, 0.5),
        (0, 0.74, 0.25, 0.62),
    ):
        c.ellipse(x + dx * h, y - dy * h, rad * h, rad * h * 0.95, c.colour(hue, 1, val))


def mountain(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a mountain."""
    r = c.rng
    w = h * r.uniform(0.72, 0.9)
    rock, shade, snow = c.colour(0.64, 0.5, 0.55), c.colour(0.66, 0.6, 0.3), c.colour(0.58, 0.08, 1, "accent")
    if c.line == "flowing lines":
        ts = np.linspace(-1.3, 1.3, 30)
        c.polygon([(x + w * t, y - h * math.exp(-((t * 1.9) ** 2))) for t in ts], rock, restyle=False)
        c.polygon(
            [(x + w * t, y - h * math.exp(-((t * 1.9) ** 2))) for t in np.linspace(-0.25, 0.25, 11)],
            snow,
            restyle=False,
        )
        return
    c.polygon([(x - w, y), (x, y - h), (x + w, y)], rock)
    if not c.simple:
        c.polygon(
            [(x, y - h), (x + w, y), (x + w * 0.12, y), (x - w * 0.06, y - h * 0.45)], shade, contour=False
        )
    cap = [
        (x, y - h),
        (x - w * 0.3, y - h * 0.7),
        (x - w * 0.12, y - h * 0.62),
        (x, y - h * 0.72),
        (x + w * 0.12, y - h * 0.6),
        (x + w * 0.3, y - h * 0.7),
    ]
    c.polygon(cap, snow, restyle=False)


def boat(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a boat."""
    r = c.rng
    c.polygon(
        [(x - h * 0.5, y - h * 0.22), (x + h * 0.52, y - h * 0.22), (x + h * 0.36, y), (x - h * 0.36, y)],
        c.colour(r.choice([0.03, 0.06, 0.0]), 1, 0.4),
    )
    c.stroke([(x, y - h * 0.22), (x, y - h * 1.02)], c.colour(0.08, 0.8, 0.1), h * 0.045)
    sail = c.colour(r.choice([0.13, 0.1]), 0.25, 1, "accent")
    c.polygon([(x + h * 0.05, y - h), (x + h * 0.5, y - h * 0.3), (x + h * 0.05, y - h * 0.3)], sail)
    c.polygon(
        [(x - h * 0.06, y - h * 0.86), (x - h * 0.4, y - h * 0.3), (x - h * 0.06, y - h * 0.3)],
        c.colour(r.choice([0.0, 0.98, 0.6]), 0.9, 0.8),
    )


def flower(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a flower."""
    r = c.rng
    stem = c.colour(0.33, 1, 0.35)
    c.stroke([(x, y), (x + h * 0.04, y - h * 0.3), (x, y - h * 0.64)], stem, h * 0.06)
    for s in (-1, 1):
        c.ellipse(x + s * h * 0.15, y - h * 0.2, h * 0.14, h * 0.055, stem, -s * 0.55)
    petal, n, cy = c.colour(r.choice([0.95, 0.99, 0.13, 0.78]), 1, 0.9), r.choice([6, 7, 8]), y - h * 0.7
    for i in range(n):
        t = 2 * math.pi * i / n + 0.3
        c.ellipse(x + math.cos(t) * h * 0.19, cy + math.sin(t) * h * 0.19, h * 0.155, h * 0.095, petal, t)
    c.ellipse(
        x,
        cy,
        h * 0.11,
        h * 0.11,
        c.colour(r.choice([0.13, 0.09]), 1, 0.75 if c.palette.kind != "neon" else 1, "accent"),
    )


def fish(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a fish."""
    r = c.rng
    y -= h * 0.5
    f = r.choice([-1, 1])
    body, fin = c.colour(r.choice([0.06, 0.09, 0.02]), 1, 0.9), c.colour(r.choice([0.09, 0.04]), 1, 0.55)
    c.polygon(
        [
            (x - f * h * 0.4, y),
            (x - f * h * 0.8, y - h * 0.3),
            (x - f * h * 0.68, y),
            (x - f * h * 0.8, y + h * 0.3),
        ],
        fin,
    )
    c.polygon(
        [(x - f * h * 0.15, y - h * 0.2), (x - f * h * 0.02, y - h * 0.46), (x + f * h * 0.25, y - h * 0.2)],
        fin,
    )
    c.ellipse(x, y, h * 0.54, h * 0.31, body)
    if not c.simple:
        for k in (-0.12, 0.06):
            c.stroke(
                [(x + f * k * h, y - h * 0.24), (x + f * (k - 0.06) * h, y), (x + f * k * h, y + h * 0.24)],
                fin,
                h * 0.06,
            )
    c.ellipse(x + f * h * 0.34, y - h * 0.07, h * 0.075, h * 0.075, (244, 244, 240), contour=False)
    c.ellipse(x + f * h * 0.355, y - h * 0.07, h * 0.038, h * 0.038, (14, 14, 20), contour=False)


def city(c: Canvas, x: float, y: float, h: float, towers: int = 6) -> None:
    """Draw a city."""
    r = c.rng
    xs = np.linspace(x - h * 0.78, x + h * 0.78, towers)
    lit = c.colour(0.14, 0.8, 1, "accent")
    for i in r.sample(range(towers), towers):
        w = h * 0.62 / towers * r.uniform(1.1, 1.5)
        tall, cx = h * r.uniform(0.5, 1.1), float(xs[i])
        wall = c.colour(r.choice([0.62, 0.66, 0.05, 0.72]), 0.55, r.uniform(0.15, 0.6))
        if c.line == "flowing lines":
            top = [(cx - w * math.cos(t), y - tall - w * math.sin(t)) for t in np.linspace(0, math.pi, 12)]
            c.polygon([(cx - w, y), *top, (cx + w, y)], wall, restyle=False)
        elif r.random() < 0.3:
            c.polygon(
                [(cx - w, y), (cx - w, y - tall), (cx, y - tall - w * 1.4), (cx + w, y - tall), (cx + w, y)],
                wall,
            )
        else:
            c.polygon([(cx - w, y), (cx - w, y - tall), (cx + w, y - tall), (cx + w, y)], wall)
        if c.simple or c.inked:
            continue
        row = y - tall + 9
        while row < y - 12:
            for dx in (-0.5, 0.3):
                if r.random() < 0.75:
                    c.pen.rectangle((cx + dx * w, row, cx + dx * w + w * 0.32, row + 8), fill=lit)
            row += 18


def cat(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a sitting cat seen from the front: body, tail, round head with pointed ears."""
    r = c.rng
    hue = r.choice([0.08, 0.06, 0.62, 0.1])
    fur, dark, inner = c.colour(hue, 0.85, 0.6), c.colour(hue, 0.9, 0.3), c.colour(0.97, 0.5, 1, "accent")
    s = r.choice([-1, 1])
    c.stroke(
        [
            (x + s * h * 0.2, y - h * 0.06),
            (x + s * h * 0.46, y - h * 0.08),
            (x + s * h * 0.48, y - h * 0.3),
            (x + s * h * 0.4, y - h * 0.4),
        ],
        dark,
        h * 0.075,
    )
    c.ellipse(x, y - h * 0.25, h * 0.27, h * 0.28, fur)
    if not c.simple:
        c.ellipse(x, y - h * 0.2, h * 0.12, h * 0.17, inner, contour=False)
    top = y - h * 0.66
    for k in (-1, 1):
        c.polygon(
            [
                (x + k * h * 0.27, top + h * 0.02),
                (x + k * h * 0.27, top - h * 0.33),
                (x + k * h * 0.05, top - h * 0.2),
            ],
            fur,
            restyle=False,
        )
    c.ellipse(x, top, h * 0.29, h * 0.24, fur)
    eye = c.colour(0.25, 1, 1, "accent")
    for k in (-1, 1):
        c.ellipse(x + k * h * 0.12, top - h * 0.03, h * 0.062, h * 0.062, eye, contour=False)
        c.ellipse(x + k * h * 0.12, top - h * 0.03, h * 0.024, h * 0.052, (12, 12, 16), contour=False)
    c.polygon(
        [(x - h * 0.04, top + h * 0.07), (x + h * 0.04, top + h * 0.07), (x, top + h * 0.12)],
        (30, 20, 24),
        restyle=False,
        contour=False,
    )
    if not c.simple:
        for k in (-1, 1):
            for v in (0.06, 0.13):
                c.pen.line(
                    [(x + k * h * 0.1, top + h * 0.1), (x + k * h * 0.38, top + h * v)], fill=dark, width=3
                )


def bird(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a perched bird in profile: body, wing, tail, beak."""
    r = c.rng
    f = r.choice([-1, 1])
    hue = r.choice([0.58, 0.0, 0.56, 0.14])
    body, wing, beak = c.colour(hue, 1, 0.75), c.colour(hue, 1, 0.4), c.colour(0.1, 1, 0.95, "accent")
    cy = y - h * 0.45
    for k in (-0.06, 0.08):
        c.stroke([(x + k * h, cy + h * 0.2), (x + k * h, y)], beak, h * 0.04)
    c.polygon(
        [
            (x - f * h * 0.25, cy - h * 0.02),
            (x - f * h * 0.72, cy + h * 0.06),
            (x - f * h * 0.66, cy + h * 0.24),
            (x - f * h * 0.2, cy + h * 0.16),
        ],
        wing,
    )
    c.ellipse(x, cy, h * 0.37, h * 0.26, body, f * 0.25)
    hx, hy = x + f * h * 0.3, cy - h * 0.26
    c.polygon(
        [
            (hx + f * h * 0.14, hy - h * 0.06),
            (hx + f * h * 0.4, hy + h * 0.03),
            (hx + f * h * 0.14, hy + h * 0.09),
        ],
        beak,
        restyle=False,
    )
    c.ellipse(hx, hy, h * 0.19, h * 0.18, body)
    c.ellipse(x - f * h * 0.08, cy, h * 0.24, h * 0.13, wing, f * 0.35)
    c.ellipse(hx + f * h * 0.05, hy - h * 0.04, h * 0.042, h * 0.042, (14, 14, 20), contour=False)


def lighthouse(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a lighthouse."""
    band, white = c.colour(0.0, 1, 0.7), c.colour(0.1, 0.12, 1, "accent")
    dark, lamp = c.colour(0.62, 0.6, 0.15), c.colour(0.14, 0.9, 1, "accent")
    foot, top = h * 0.17, h * 0.11
    for i in range(4):
        a, b = i / 4, (i + 1) / 4
        wa, wb = foot + (top - foot) * a, foot + (top - foot) * b
        c.polygon(
            [
                (x - wa, y - h * 0.74 * a),
                (x - wb, y - h * 0.74 * b),
                (x + wb, y - h * 0.74 * b),
                (x + wa, y - h * 0.74 * a),
            ],
            band if i % 2 else white,
            restyle=False,
        )
    c.polygon(
        [
            (x - h * 0.16, y - h * 0.74),
            (x - h * 0.16, y - h * 0.78),
            (x + h * 0.16, y - h * 0.78),
            (x + h * 0.16, y - h * 0.74),
        ],
        dark,
        restyle=False,
    )
    c.polygon(
        [
            (x - h * 0.085, y - h * 0.78),
            (x - h * 0.085, y - h * 0.9),
            (x + h * 0.085, y - h * 0.9),
            (x + h * 0.085, y - h * 0.78),
        ],
        lamp,
        restyle=False,
    )
    c.polygon([(x - h * 0.13, y - h * 0.89), (x, y - h * 1.02), (x + h * 0.13, y - h * 0.89)], dark)


def balloon(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a hot air balloon: striped envelope, ropes, basket."""
    r = c.rng
    first, second = (
        c.colour(r.choice([0.0, 0.05, 0.9]), 1, 0.8),
        c.colour(r.choice([0.13, 0.11]), 0.9, 1, "accent"),
    )
    cy, rx, ry = y - h * 0.64, h * 0.37, h * 0.38
    dark = c.colour(0.07, 0.8, 0.25)
    for k in (-1, 1):
        c.stroke([(x + k * rx * 0.45, cy + ry * 0.82), (x + k * h * 0.08, y - h * 0.12)], dark, 3)
    c.polygon(
        [
            (x - rx * 0.72, cy + ry * 0.6),
            (x - h * 0.1, y - h * 0.2),
            (x + h * 0.1, y - h * 0.2),
            (x + rx * 0.72, cy + ry * 0.6),
        ],
        first,
        restyle=False,
    )
    c.ellipse(x, cy, rx, ry, first)
    if not c.simple:
        c.ellipse(x, cy, rx * 0.62, ry * 0.99, second, contour=False)
        c.ellipse(x, cy, rx * 0.24, ry * 0.98, first, contour=False)
    c.polygon(
        [(x - h * 0.1, y - h * 0.13), (x + h * 0.1, y - h * 0.13), (x + h * 0.08, y), (x - h * 0.08, y)], dark
    )


def mushroom(c: Canvas, x: float, y: float, h: float) -> None:
    """Draw a mushroom."""
    r = c.rng
    cap, stalk, spot = (
        c.colour(r.choice([0.0, 0.99, 0.05]), 1, 0.7),
        c.colour(0.11, 0.25, 0.95),
        c.colour(0.12, 0.08, 1, "accent"),
    )
    c.polygon(
        [(x - h * 0.13, y - h * 0.5), (x - h * 0.17, y), (x + h * 0.17, y), (x + h * 0.13, y - h * 0.5)],
        stalk,
    )
    n = 7 if c.line == "angular lines" else 24
    dome = [
        (x - h * 0.52 * math.cos(t), y - h * 0.46 - h * 0.52 * math.sin(t))
        for t in np.linspace(0, math.pi, n)
    ]
    c.polygon(dome, cap, restyle=False)
    if c.simple:
        return
    for dx, dy, k in ((-0.26, 0.62, 0.075), (0.05, 0.8, 0.09), (0.28, 0.6, 0.07), (-0.02, 0.58, 0.055)):
        c.ellipse(x + dx * h, y - dy * h, h * k, h * k * 0.9, spot, contour=False)


DRAW: dict[str, Callable[[Canvas, float, float, float], None]] = {
    "house": house, "tree": tree, "mountain": mountain, "boat": boat, "flower": flower, "fish": fish, "city": city,
    "cat": cat, "bird": bird, "lighthouse": lighthouse, "balloon": balloon, "mushroom": mushroom,
}  # fmt: skip
