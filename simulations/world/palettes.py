"""Which colours a picture of the world is drawn in.

Natural colours bent to the palette, colour and temperature asked for.

A shape asks for its natural colour (hue, saturation, value in 0..1, as in HSV) and says which plane it lies
on; the palette answers with RGB. Planes keep the subject legible: the back is kept lighter (or, at night,
darker) than the main shapes, whatever the palette.
"""

from __future__ import annotations

import colorsys
import random

from palate.simulations.world.truth import Truth

Colour = tuple[int, int, int]

HUES = {
    "red": 0.995,
    "orange": 0.07,
    "yellow": 0.142,
    "green": 0.345,
    "blue": 0.6,
    "purple": 0.765,
    "pink": 0.905,
}
_NEON_HUES = (0.83, 0.5, 0.33, 0.92, 0.16, 0.58)


class Palette:
    """The colours of one picture."""

    def __init__(self, rng: random.Random, truth: Truth) -> None:
        a = truth.attributes
        self.rng = rng
        self.kind = a.get("palette")
        self.dominant = a.get("colour")
        self.temperature = a.get("temperature")
        light = a.get("lighting")
        self.night = self.kind == "neon" or light == "moonlit"
        self.one_hue = HUES[self.dominant] if self.dominant else rng.random()
        self.natural_sat = rng.uniform(0.4, 0.54)

    def colour(self, hue: float, sat: float = 1.0, val: float = 1.0, plane: str = "main") -> Colour:
        """RGB (0..255) of a shape whose natural colour is (hue, sat, val) on plane 'back', 'ground', 'main' or 'accent'."""
        rng, kind = self.rng, self.kind
        h = (hue + rng.uniform(-0.02, 0.02)) % 1
        h = self._hue(h, plane)
        s, v = self._strength(sat, val)
        if plane == "back":
            s, v = s * 0.7, (0.16 + 0.14 * rng.random() if self.night else max(v, 0.8))
            if kind in ("muted", "earthy") and not self.night:
                v = min(v, 0.84)
        elif plane == "ground":
            v = v * 0.55 if self.night else min(v, 0.78)
        elif plane == "main":
            v = max(v, 0.5) if self.night else min(v, 0.86)
        else:  # accent
            v = max(v, 0.75) if self.night else v
        if self.dominant == "yellow" and plane != "main":
            v = max(v, 0.8) if not self.night else max(v, 0.4)
        if self.dominant == "pink":
            s *= 0.7
        if kind == "neon":
            if plane == "back":
                s, v = 0.75, rng.uniform(0.05, 0.12)
            elif plane == "ground":
                s, v = 0.8, rng.uniform(0.14, 0.22)
            else:
                s, v = 0.95, 0.55 + 0.45 * val
        r, g, b = colorsys.hsv_to_rgb(h % 1, min(1.0, s), min(1.0, v))
        return (int(255 * r), int(255 * g), int(255 * b))

    def _hue(self, h: float, plane: str) -> float:
        rng, kind = self.rng, self.kind
        if kind == "monochrome":
            return self.one_hue
        if kind == "multicoloured":
            return rng.random()
        if kind == "earthy":
            return 0.045 + (h * 5 % 1) * 0.12
        if kind == "neon" and plane in ("main", "accent") and not self.dominant:
            return rng.choice(_NEON_HUES)
        if self.dominant and (plane in ("back", "ground") or rng.random() < 0.7):
            return self.one_hue + rng.uniform(-0.018, 0.018)
        if self.temperature == "warm":
            return (0.975 + (h * 5 % 1) * 0.165) % 1
        if self.temperature == "cool":
            return 0.46 + (h * 5 % 1) * 0.26
        return h

    def _strength(self, sat: float, val: float) -> tuple[float, float]:
        """Saturation and value before the plane has its say."""
        rng, kind = self.rng, self.kind
        v = 0.35 + 0.6 * val
        if kind == "vibrant":
            return (rng.uniform(0.9, 1.0) * (0.7 + 0.3 * sat), min(1.0, v * 1.12))
        if kind == "muted":
            return (rng.uniform(0.10, 0.24) * (0.5 + 0.5 * sat), 0.38 + 0.36 * val)
        if kind == "pastel":
            return (rng.uniform(0.2, 0.34), 0.8 + 0.2 * val)
        if kind == "monochrome":
            return (rng.uniform(0.45, 0.6), v)
        if kind == "black and white":
            return (0.0, v)
        if kind == "earthy":
            return (rng.uniform(0.4, 0.6), 0.3 + 0.42 * val)
        if kind == "multicoloured":
            return (rng.uniform(0.65, 0.85), 0.55 + 0.42 * val)
        base = max(self.natural_sat, 0.56) if (self.dominant or self.temperature) else self.natural_sat
        return (base * (0.35 + 0.65 * sat) * 1.15, v)

    def paper(self) -> Colour:
        """Return the sheet that drawings and washes lie on."""
        if self.kind == "neon":
            return (14, 10, 26)
        if self.kind == "black and white":
            return (246, 246, 246)
        r, g, b = colorsys.hsv_to_rgb(self.one_hue if self.kind == "monochrome" else 0.12, 0.06, 0.97)
        return (int(255 * r), int(255 * g), int(255 * b))

    def ink(self) -> Colour:
        """Return the pen for outlines and drawings."""
        if self.kind == "neon":
            return self.colour(0.5)
        hue = self.one_hue if self.kind == "monochrome" else 0.64
        sat = 0.0 if self.kind == "black and white" else 0.45
        r, g, b = colorsys.hsv_to_rgb(hue % 1, sat, 0.17)
        return (int(255 * r), int(255 * g), int(255 * b))
