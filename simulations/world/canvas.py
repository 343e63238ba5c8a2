"""The sheet on which the world is drawn, and how line and detail change every shape that is put on it.

Shapes are drawn at twice the final size. `flowing lines` rounds every corner, `angular lines` cuts every
curve into facets, `bold outlines` and `line art` draw the contour, `simplified` leaves silhouettes; so one
drawing of a house serves all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from palate.simulations.world.palettes import Colour, Palette
from palate.simulations.world.truth import SIDE, Truth

DRAWN = 2 * SIDE
Point = tuple[float, float]


class Canvas:
    """A sheet of 256 × 256 with a pen, and the style that every shape on it obeys."""

    def __init__(self, rng: random.Random, truth: Truth) -> None:
        a = truth.attributes
        self.rng = rng
        self.palette = Palette(rng, truth)
        self.line = a.get("line")
        self.inked = a.get("technique") == "line art"
        self.outlined = self.line == "bold outlines"
        self.flat = a.get("technique") == "flat colour"
        self.simple = a.get("detail") == "simplified"
        self.paper = self.palette.paper()
        self.ink = self.palette.ink()
        self.image = Image.new("RGB", (DRAWN, DRAWN), self.paper)
        self.pen = ImageDraw.Draw(self.image)
        self.centre: Point = (DRAWN / 2, DRAWN / 2)
        self._of_plane: dict[str, Colour] = {}

    def colour(self, hue: float, sat: float = 1.0, val: float = 1.0, plane: str = "main") -> Colour:
        """Return the palette's answer for a natural colour; simplified pictures have one for each plane."""
        if not self.simple:
            return self.palette.colour(hue, sat, val, plane)
        plane = "main" if plane == "accent" else plane
        if plane not in self._of_plane:
            self._of_plane[plane] = self.palette.colour(hue, sat, val, plane)
        return self._of_plane[plane]

    def polygon(
        self, points: Sequence[Point], colour: Colour, *, restyle: bool = True, contour: bool = True
    ) -> None:
        """Draw a filled shape. With `restyle`, flowing lines round its corners."""
        pts = [(float(x), float(y)) for x, y in points]
        if restyle and self.line == "flowing lines" and len(pts) >= 3:
            for _ in range(3):
                pts = [q for i in range(len(pts)) for q in _cut_corner(pts[i], pts[(i + 1) % len(pts)])]
        if self.inked:
            self.pen.polygon(pts, fill=self.paper)
            if contour:
                self.pen.line([*pts, pts[0], pts[1]], fill=self.ink, width=5, joint="curve")
            return
        self.pen.polygon(pts, fill=colour)
        if self.outlined and contour:
            self.pen.line([*pts, pts[0], pts[1]], fill=self.ink, width=7, joint="curve")

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        turn: float = 0.0,
        *,
        contour: bool = True,
    ) -> None:
        """Draw an ellipse with half-axes rx, ry turned by `turn` radians; angular lines make it a hexagon."""
        n = 6 if self.line == "angular lines" else 30
        cos, sin = math.cos(turn), math.sin(turn)
        ring = [
            (rx * math.cos(t), ry * math.sin(t)) for t in (2 * math.pi * (i + 0.25) / n for i in range(n))
        ]
        points = [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in ring]
        self.polygon(points, colour, restyle=False, contour=contour)

    def stroke(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw a line of a given width in drawn pixels; simplified pictures leave thin ones out."""
        if self.simple and width < 6:
            return
        pts = [(float(x), float(y)) for x, y in points]
        if self.outlined and width >= 5:
            self.pen.line(pts, fill=self.ink, width=int(width) + 8, joint="curve")
        if self.inked:
            self.pen.line(pts, fill=self.ink, width=max(4, min(6, int(width * 0.6))), joint="curve")
        else:
            self.pen.line(pts, fill=colour, width=max(2, int(width)), joint="curve")

    def backdrop(self, top: Colour, bottom: Colour | None = None) -> None:
        """Fill the whole sheet, with a vertical gradient unless the technique is flat."""
        if self.inked:
            self.pen.rectangle((0, 0, DRAWN, DRAWN), fill=self.paper)
            return
        if bottom is None or self.flat or self.simple:
            self.pen.rectangle((0, 0, DRAWN, DRAWN), fill=top)
            return
        t = np.linspace(0, 1, DRAWN)[:, None]
        rows = np.asarray(top) * (1 - t) + np.asarray(bottom) * t
        block = np.repeat(rows[:, None, :], DRAWN, axis=1).astype(np.uint8)
        self.image.paste(Image.fromarray(block))

    def hill(self, y: float, height: float, colour: Colour) -> None:
        """Draw a band of land from a wavy (or jagged) edge at y down to the bottom."""
        rng = self.rng
        if self.line == "angular lines":
            xs = np.linspace(-10, DRAWN + 10, 7)
            ys = [y + height * (1 if i % 2 else -1) * rng.uniform(0.4, 1.1) for i in range(7)]
        else:
            phase, waves = (
                rng.random() * 6,
                rng.uniform(0.7, 1.5) * (1.6 if self.line == "flowing lines" else 1),
            )
            lift = height * (1.7 if self.line == "flowing lines" else 1)
            xs = np.linspace(-10, DRAWN + 10, 40)
            ys = [y + lift * math.sin(phase + waves * 2 * math.pi * x / DRAWN) for x in xs]
        edge = [(float(x), float(v)) for x, v in zip(xs, ys, strict=True)]
        self.polygon([*edge, (DRAWN + 20, DRAWN + 20), (-20, DRAWN + 20)], colour, restyle=False)


def _cut_corner(p: Point, q: Point) -> tuple[Point, Point]:
    """Chaikin's corner cutting (1974): two points at a quarter and three quarters of an edge."""
    return (
        (p[0] * 0.75 + q[0] * 0.25, p[1] * 0.75 + q[1] * 0.25),
        (p[0] * 0.25 + q[0] * 0.75, p[1] * 0.25 + q[1] * 0.75),
    )
