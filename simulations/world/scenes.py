"""Scenes with subjects that artists drew: the place behind them, one or several of them, a companion.

The cousin of `places.draw_scene`, which draws the world's first twelve subjects. What breaks shapes up (dots, tiles, thick
strokes) gets a larger subject, since it would not be known again otherwise.
"""

from __future__ import annotations

import random
from typing import Final

import numpy as np

from palate.simulations.world.artists import load_artists
from palate.simulations.world.canvas import Canvas, Point
from palate.simulations.world.drawings import stamp
from palate.simulations.world.places import D, Scene, cloud, draw_motifs, draw_ornament, draw_place
from palate.simulations.world.truth import BREAKS_SHAPES, SETTINGS, SUBJECTS, Truth, sample_attributes

_FLOATING: Final = ("sky", "under water", "plain")
_EXTRAS: Final = {
    "sky": ("cloud", "star", "butterfly", "kite"),
    "under water": ("tropical fish", "coral", "jellyfish", "seashell"),
    "plain": ("star", "butterfly", "gem", "yarn"),
    "room": ("potted plant", "book", "candle", "teddy bear"),
    "table": ("apple", "candle", "coffee", "cookie"),
    "street": ("fir tree", "bicycle", "car", "traffic light"),
}
_OUTDOORS: Final = ("sunflower", "fir tree", "cottage", "butterfly", "tulip", "cactus")

_BREAKERS: Final = frozenset(
    ("pointillism", "mosaic", "stained glass", "crosshatching", "impasto", "swirling brushstrokes")
)
_ONE_HUE: Final = frozenset(("monochrome", "muted", "black and white", "earthy", "pastel"))

# How many pictures show one subject alone, with a companion, or several of it.
_ALONE, _COMPANION, _SEVERAL = 0.82, 0.1, 0.08


def sample_scene(
    rng: random.Random,
    subject: str,
    *,
    companions: tuple[str, ...] = (),
    most_attributes: int | None = None,
) -> Truth:
    """Draw a truth with a subject that artists drew, where it belongs; `companions` are those that may stand next to it.

    `most_attributes` bounds how many attributes it shows. Places and weather that do not go together are not drawn.
    """
    attributes = _legible(sample_attributes(rng, most=most_attributes))
    setting = rng.choice(load_artists()[subject].settings)
    if setting in ("desert", "room", "table", "under water") and attributes.get("atmosphere"):
        setting = "plain"
    kind = rng.choices(("alone", "companion", "several"), (_ALONE, _COMPANION, _SEVERAL))[0]
    crowded = attributes.get("composition") in ("close-up", "symmetrical", "busy", "minimalist")
    if crowded or BREAKS_SHAPES & set(attributes.values()):
        kind = "alone"
    if kind == "companion" and companions:
        return Truth(subject, attributes, setting, rng.choice([one for one in companions if one != subject]))
    return Truth(subject, attributes, setting, count=rng.choice((2, 3)) if kind == "several" else 1)


def _legible(attributes: dict[str, str]) -> dict[str, str]:
    """Return the attributes without those under which a subject of several colours cannot be told from its place.

    Found by eye on sheets of random truths: what breaks shapes up needs the subject's own colours and a plain view, and
    little contrast needs them too.
    """
    values = set(attributes.values())
    leave: set[str] = set()
    if values & _BREAKERS:
        leave |= {"atmosphere", "mood", "contrast", "line", "detail", "colour", "temperature"}
        if attributes.get("palette") not in (None, "vibrant", "multicoloured", "neon"):
            leave.add("palette")
        if attributes.get("composition") != "close-up":
            leave.add("composition")
        if attributes.get("lighting") in ("dark", "moonlit"):
            leave.add("lighting")
    if values & {"low contrast", "misty", "dreamy", "watercolour", "grainy"}:
        leave |= {"colour", "temperature"}
        if attributes.get("palette") in _ONE_HUE:
            leave.add("palette")
    if values & {"low contrast", "watercolour"}:
        leave |= {"mood", "texture"}
    if "low contrast" in values:
        leave |= {"technique", "atmosphere", "lighting"}
    if values & {"dark", "moonlit"} and attributes.get("palette") in _ONE_HUE:
        leave.add("palette")
    if "colour" in attributes and attributes.get("palette") in _ONE_HUE:
        leave.add("palette")
    return {category: value for category, value in attributes.items() if category not in leave}


def draw_artists_scene(rng: random.Random, truth: Truth) -> Scene:
    """Draw place and subjects of a truth; return the canvas before technique, light and weather."""
    c = Canvas(rng, truth)
    a = truth.attributes
    composition = a.get("composition")
    bare, busy, near = composition == "minimalist", composition == "busy", composition == "close-up"
    place = truth.setting or "plain"
    size = D * {
        "minimalist": rng.uniform(0.3, 0.38),
        "busy": rng.uniform(0.5, 0.6),
        "close-up": rng.uniform(1.0, 1.2),
    }.get(composition or "", rng.uniform(0.56, 0.74))
    if BREAKS_SHAPES & set(truth.values()) and composition not in ("minimalist", "busy", "close-up"):
        size = D * rng.uniform(0.76, 0.92)
    ground = D * (0.8 if bare else 0.72)
    middle = D / 2 if composition in ("close-up", "symmetrical") else D / 2 + rng.uniform(-0.1, 0.1) * D
    foot = ground + D * rng.uniform(0.1, 0.17)
    if place in _FLOATING:
        foot = D / 2 + size * 0.5 + rng.uniform(-0.05, 0.05) * D
    if near:
        foot = D / 2 + size * 0.52
    _draw_backdrop(c, place, ground, bare)
    draw_motifs(c)
    if a.get("detail") == "intricate":
        draw_ornament(c, ground)
    if busy:
        _draw_crowd(c, truth.subject, place, ground)
    return Scene(c, _draw_subjects(c, truth, middle, foot, size))


def _draw_subjects(c: Canvas, truth: Truth, x: float, foot: float, size: float) -> Point:
    """Draw what the truth names; return the middle of its subject."""
    rng = c.rng
    if truth.companion is not None:
        side = rng.choice((-1, 1))
        _put(c, truth.companion, D / 2 - side * D * 0.24, foot - rng.uniform(0, 0.03) * D, size * 0.62)
        return _put(c, truth.subject, D / 2 + side * D * 0.22, foot, size * 0.7)
    if truth.count > 1:
        one = size * (1.15 / truth.count + 0.12)
        for i in range(truth.count):
            place = D * (i + 0.5) / truth.count + rng.uniform(-0.03, 0.03) * D
            _put(c, truth.subject, place, foot + rng.uniform(-0.06, 0.03) * D, one)
        return (D / 2, foot - size * 0.25)
    if truth.attributes.get("composition") == "symmetrical":  # the finish mirrors the left half
        _put(c, truth.subject, D * 0.26, foot, min(size * 0.72, D * 0.46))
        return (D / 2, foot - size * 0.3)
    return _put(c, truth.subject, x, foot, size)


def _put(c: Canvas, name: str, x: float, foot: float, side: float) -> Point:
    if name in load_artists():
        return stamp(c, name, x, foot, side)
    from palate.simulations.world.subjects import DRAW

    DRAW[name](c, x, foot, side)
    return (x, foot - side / 2)


def _draw_crowd(c: Canvas, subject: str, place: str, ground: float) -> None:
    """Draw the many small things of a busy picture."""
    rng = c.rng
    things = tuple(one for one in _EXTRAS.get(place, _OUTDOORS) if one != subject)
    for _ in range(8):
        height = ground + rng.uniform(0, 0.2) * D if place not in _FLOATING else rng.uniform(0.2, 1) * D
        stamp(c, rng.choice(things), rng.random() * D, height, D * rng.uniform(0.16, 0.24))


def _draw_backdrop(c: Canvas, place: str, ground: float, bare: bool) -> None:
    """Fill the canvas with a place; `ground` is the height of the horizon in drawn pixels."""
    rng = c.rng
    plain = bare or c.simple
    if place in SETTINGS:
        draw_place(c, None if place == "field" else place, ground, bare)
    elif place == "snow":
        c.backdrop(c.colour(0.58, 0.5, 0.95, "back"), c.colour(0.58, 0.2, 1, "back"))
        c.hill(ground, D * 0.02, c.colour(0.58, 0.06, 1, "accent"))
    elif place == "sky":
        c.backdrop(c.colour(0.57, 0.8, 0.95, "back"), c.colour(0.55, 0.3, 1, "back"))
        for _ in range(0 if plain else 3):
            cloud(c, rng.random() * D, rng.uniform(0.1, 0.9) * D, D * rng.uniform(0.14, 0.22))
    elif place == "under water":
        c.backdrop(c.colour(0.54, 0.8, 0.95, "back"), c.colour(0.6, 1, 0.6, "back"))
        for _ in range(0 if plain else 3):
            x = rng.random() * D
            weed = [(x + 7 * np.sin(u * 7), D - u * D * 0.28) for u in np.linspace(0, 1, 12)]
            c.stroke(weed, c.colour(0.36, 1, 0.5, "ground"), 8)
    elif place == "street":
        _draw_street(c, ground, plain)
    elif place in ("room", "table"):
        _draw_room(c, place, ground, plain)
    else:
        second = c.colour(rng.random(), 0.3, 1, "back") if rng.random() < 0.4 else None
        c.backdrop(c.colour(rng.random(), 0.4, 1, "back"), second)


def _draw_street(c: Canvas, ground: float, plain: bool) -> None:
    rng = c.rng
    c.backdrop(c.colour(0.57, 0.5, 0.95, "back"), c.colour(0.1, 0.25, 1, "back"))
    x = D if plain else -10.0
    while x < D:
        width, height = rng.uniform(0.12, 0.2) * D, rng.uniform(0.18, 0.4) * D
        wall = c.colour(rng.choice([0.05, 0.6, 0.1, 0.0]), 0.35, 0.75, "back")
        _fill(c, x, ground - height, x + width, ground, wall)
        x += width
    _fill(c, -20, ground - 4, D + 20, D + 20, c.colour(0.62, 0.2, 0.45, "ground"))
    for k in range(0 if plain else 4):
        stripe = [
            (k * 70 - 10, D * 0.9),
            (k * 70 + 26, D * 0.9),
            (k * 70 + 22, D * 0.93),
            (k * 70 - 14, D * 0.93),
        ]
        c.polygon(stripe, c.colour(0.13, 0.2, 1, "accent"), restyle=False)


def _draw_room(c: Canvas, place: str, ground: float, plain: bool) -> None:
    rng = c.rng
    c.backdrop(c.colour(rng.choice([0.1, 0.55, 0.3, 0.95, 0.08]), 0.45, 1, "back"), None)
    if not plain and rng.random() < 0.6:  # a window
        x, y, w = rng.choice([0.1, 0.62]) * D, 0.08 * D, 0.28 * D
        _fill(c, x, y, x + w, y + w, c.colour(0.56, 0.45, 1, "back"))
        frame = c.colour(0.08, 0.5, 0.6, "ground")
        c.stroke([(x, y), (x + w, y), (x + w, y + w), (x, y + w), (x, y)], frame, 5)
        c.stroke([(x + w / 2, y), (x + w / 2, y + w)], frame, 4)
    wood = c.colour(rng.choice([0.07, 0.08, 0.06]), 0.7, 0.62 if place == "table" else 0.75, "ground")
    _fill(c, -20, ground, D + 20, D + 20, wood)
    if place == "table":
        _fill(c, -20, ground + 0.16 * D, D + 20, D + 20, c.colour(0.07, 0.8, 0.4, "ground"))


def _fill(
    c: Canvas, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]
) -> None:
    c.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour, restyle=False)


def all_subjects(*, painted: bool = False) -> tuple[str, ...]:
    """Return the names of all subjects of the world, the first twelve first; with `painted` those that the painter learns."""
    return SUBJECTS + tuple(one.name for one in load_artists().values() if one.painted or not painted)
