"""Where the subjects of the world stand.

Sky, sea, land, and what line, composition and detail add around a subject.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from palate.simulations.world.canvas import DRAWN, Canvas, Point
from palate.simulations.world.subjects import DRAW, boat, city, fish, flower, house, mountain, tree
from palate.simulations.world.truth import Truth

D = float(DRAWN)


@dataclass(frozen=True)
class Scene:
    """What was drawn, for the finishing: the sheet and the middle of the main subject in drawn pixels."""

    canvas: Canvas
    centre: Point


def sun(c: Canvas, x: float, y: float, radius: float) -> None:
    """Draw a sun."""
    c.ellipse(x, y, radius, radius, c.colour(0.13, 0.9, 1, "accent"))


def cloud(c: Canvas, x: float, y: float, w: float) -> None:
    """Draw a cloud `w` wide."""
    white = c.colour(0.58, 0.1, 1, "accent")
    for dx, dy, k in ((-0.5, 0, 0.3), (0.5, 0, 0.3), (0, -0.12, 0.42)):
        c.ellipse(x + dx * w, y + dy * w, k * w, k * w * 0.62, white, contour=not c.outlined)


def _sea(c: Canvas, horizon: float, waves: int) -> None:
    c.polygon(
        [(-20, horizon), (D + 20, horizon), (D + 20, D + 20), (-20, D + 20)],
        c.colour(0.57, 1, 0.55, "ground"),
        restyle=False,
    )
    crest = c.colour(0.55, 0.4, 1, "accent")
    for _ in range(waves):
        x, y, half = c.rng.random() * D, c.rng.uniform(horizon + 14, D - 6), D * c.rng.uniform(0.05, 0.1)
        bend = 5 if c.line != "angular lines" else 0
        c.stroke([(x + half * u, y + bend * math.sin(u * 5)) for u in np.linspace(-1, 1, 9)], crest, 4)


def draw_place(c: Canvas, setting: str | None, ground: float, bare: bool) -> None:
    """Sky and land for a setting; `ground` is the height of the horizon in drawn pixels."""
    r = c.rng
    sky_hue = r.choice([0.57, 0.55, 0.59, 0.1, 0.08]) if setting != "desert" else r.choice([0.1, 0.57])
    c.backdrop(c.colour(sky_hue, 0.75, 0.95, "back"), c.colour(r.choice([0.55, 0.1]), 0.35, 1, "back"))
    if not bare and not c.simple and r.random() < 0.55:
        sun(c, r.choice([0.16, 0.84]) * D, D * r.uniform(0.14, 0.22), D * r.uniform(0.06, 0.09))
    if not bare and not c.simple and r.random() < 0.35:
        cloud(c, r.choice([0.22, 0.75]) * D, D * r.uniform(0.12, 0.25), D * r.uniform(0.14, 0.2))
    if setting == "sea":
        _sea(c, ground - D * 0.02, 0 if bare else 6)
        c.hill(D * 0.93, D * 0.015, c.colour(0.12, 0.6, 0.75, "ground"))
    elif setting == "hills":
        for i in range(1 if bare else 3):
            c.hill(
                ground - D * (0.12 - 0.06 * i),
                D * 0.05,
                c.colour(r.choice([0.3, 0.35]), 0.6 + 0.15 * i, 0.75 - 0.15 * i, "ground"),
            )
        c.hill(ground + D * 0.05, D * 0.02, c.colour(0.3, 1, 0.4, "ground"))
    elif setting == "desert":
        c.hill(ground - D * 0.03, D * 0.03, c.colour(0.1, 0.7, 0.9, "ground"))
        c.hill(ground + D * 0.06, D * 0.02, c.colour(0.09, 0.8, 0.7, "ground"))
    else:
        c.hill(ground, D * 0.02, c.colour(r.choice([0.28, 0.31, 0.34]), 1, 0.6, "ground"))


def draw_motifs(c: Canvas) -> None:
    """Extra shapes of the line character, behind the subject, so that it shows in plain pictures too."""
    r = c.rng
    if c.line == "flowing lines":
        for i in range(5):
            y, phase = D * (0.1 + 0.13 * i), r.random() * 6
            wave = [(x, y + 13 * math.sin(phase + x / 26)) for x in np.linspace(-10, D + 10, 50)]
            c.stroke(wave, c.colour(r.choice([0.55, 0.1, 0.9]), 0.7, 0.8, "back" if i % 2 else "accent"), 7)
    elif c.line == "angular lines":
        for _ in range(7):
            x, y, k = r.random() * D, r.random() * D * 0.7, D * r.uniform(0.1, 0.22)
            t = r.random() * 6.28
            shard = [(x + k * math.cos(t + a), y + k * math.sin(t + a)) for a in (0.0, 2.3, 3.6)]
            c.polygon(
                shard,
                c.colour(r.choice([0.55, 0.1, 0.9, 0.6]), 0.8, r.uniform(0.5, 1), "accent"),
                restyle=False,
            )


def _pair(c: Canvas, foot: float) -> None:
    """Two tall dark shapes at the edges, which make a symmetrical composition plain to see."""
    shade = c.colour(0.36, 0.8, 0.1, "accent")
    for x in (0.075 * D, 0.925 * D):
        c.ellipse(x, foot - D * 0.34, D * 0.05, D * 0.36, shade)


def _crowd(c: Canvas, subject: str, ground: float) -> None:
    """Draw the many small things of a busy picture."""
    r = c.rng
    for _ in range(4):
        cloud(c, r.random() * D, D * r.uniform(0.06, 0.36), D * r.uniform(0.1, 0.16))
    if subject in ("fish", "boat", "lighthouse"):
        for _ in range(7):
            (fish if subject == "fish" else boat)(
                c,
                r.random() * D,
                r.uniform(0.3, 0.98) * D if subject == "fish" else ground + r.uniform(0, 0.2) * D,
                D * r.uniform(0.14, 0.2),
            )
        return
    for _ in range(9):
        thing = r.choice([tree, house, flower, tree])
        thing(c, r.random() * D, ground + r.uniform(0.0, 0.22) * D, D * r.uniform(0.16, 0.26))


def draw_ornament(c: Canvas, ground: float) -> None:
    """Rows of small marks over sky and land: what makes a picture intricate."""
    r = c.rng
    light, dark = c.colour(0.12, 0.6, 1, "accent"), c.colour(0.62, 0.7, 0.25)
    step = 16
    for row in range(int(D // step) + 1):
        y = row * step + 5
        mark = dark if y < ground else light
        if c.palette.night:
            mark = light
        for col in range(int(D // step) + 1):
            x = col * step + (step / 2 if row % 2 else 0)
            if c.inked:
                mark = c.ink
            if y < ground:
                c.pen.line([(x - 4, y), (x, y - 4), (x + 4, y), (x, y + 4), (x - 4, y)], fill=mark, width=2)
            else:
                c.pen.arc((x - 6, y - 5, x + 6, y + 7), 180, 360, fill=mark, width=2)
    del r


def draw_scene(rng: random.Random, truth: Truth) -> Scene:
    """Draw place and subject of a truth; returns the sheet before technique, light and weather."""
    c = Canvas(rng, truth)
    a = truth.attributes
    composition, subject = a.get("composition"), truth.subject
    bare, busy, near = composition == "minimalist", composition == "busy", composition == "close-up"
    size = D * {
        "minimalist": rng.uniform(0.26, 0.34),
        "busy": rng.uniform(0.46, 0.56),
        "close-up": rng.uniform(1.12, 1.3),
    }.get(composition or "", rng.uniform(0.52, 0.68))
    ground = D * (0.72 if not bare else 0.8)
    x = (
        D / 2
        if composition in ("close-up", "symmetrical")
        else D / 2 + rng.uniform(-0.12, 0.12) * D * (1.7 if bare else 1)
    )
    foot = ground + D * 0.1
    if near:
        foot = D / 2 + size * 0.56
    if subject in ("balloon",) and not near:
        foot = D * rng.uniform(0.68, 0.76)
        ground = D * 0.84
    if subject == "fish":
        c.backdrop(c.colour(0.54, 0.8, 0.95, "back"), c.colour(0.6, 1, 0.6, "back"))
        if not bare and not c.simple:
            for _ in range(3):
                px = rng.random() * D
                c.stroke(
                    [(px + 7 * math.sin(u * 7), D - u * D * 0.28) for u in np.linspace(0, 1, 12)],
                    c.colour(0.36, 1, 0.5, "ground"),
                    8,
                )
        foot = D / 2 + size * 0.5 + rng.uniform(-0.05, 0.05) * D
        size *= 0.88
    elif subject in ("boat", "lighthouse"):
        c.backdrop(
            c.colour(rng.choice([0.57, 0.55, 0.1]), 0.7, 0.95, "back"),
            c.colour(rng.choice([0.55, 0.08]), 0.35, 1, "back"),
        )
        if not bare and not c.simple and rng.random() < 0.6:
            sun(c, rng.choice([0.17, 0.83]) * D, D * rng.uniform(0.14, 0.22), D * 0.075)
        _sea(c, ground - D * 0.08, 0 if bare else 7)
        if subject == "lighthouse":
            c.polygon(
                [
                    (x - size * 0.75, D + 20),
                    (x - size * 0.42, foot - 4),
                    (x + size * 0.42, foot - 4),
                    (x + size * 0.75, D + 20),
                ],
                c.colour(0.08, 0.5, 0.3, "ground"),
            )
    else:
        draw_place(c, truth.setting, ground, bare)
    draw_motifs(c)
    if a.get("detail") == "intricate":
        draw_ornament(c, ground)
    if busy:
        _crowd(c, subject, ground)
    if subject == "city" and not bare:
        city(c, D / 2, ground + 8, D * 0.62 if not near else D * 0.9, 8)
        c.polygon(
            [(-20, ground + 6), (D + 20, ground + 6), (D + 20, D + 20), (-20, D + 20)],
            c.colour(0.6, 0.5, 0.4, "ground"),
            restyle=False,
        )
    elif subject == "city":
        city(c, x, foot, size, 4)
    elif subject == "mountain":
        if not bare and not near:
            for k in (-1, 1):
                mountain(c, D / 2 + k * D * rng.uniform(0.26, 0.38), foot, size * rng.uniform(0.55, 0.75))
        mountain(c, x, foot, size)
        if not near:
            c.hill(foot - D * 0.02, D * 0.015, c.colour(0.31, 0.9, 0.5, "ground"))
    else:
        DRAW[subject](c, x, foot, size)
        if subject == "boat" and not near:
            c.stroke(
                [(x - size * 0.5 + size * u, foot + 2 + 4 * math.sin(u * 12)) for u in np.linspace(0, 1, 16)],
                c.colour(0.55, 0.4, 1, "accent"),
                4,
            )
    if composition == "symmetrical":
        _pair(c, D * 0.98)
    return Scene(c, (x, foot - size * 0.5))
