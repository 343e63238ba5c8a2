"""A world that knows what it drew: pictures of 128 × 128 with a known subject and known attributes.

Everything that learns from pictures here (the generator, the picture tower, the encoder, the judge) and every
virtual person's taste rests on this module: a `Truth` says what a picture shows, `render` draws it, and the
same truth and seed always give the same pixels. The drawing itself is spread over `palettes` (which colours),
`subjects` and `places` (which shapes) and `finishes` (technique, light, weather, texture).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from palate.simulations.world.artists import load_artists

Pixels = NDArray[np.uint8]  # (128, 128, 3), RGB

SIDE = 128

SUBJECTS: tuple[str, ...] = (
    "house", "tree", "mountain", "boat", "flower", "fish",
    "city", "cat", "bird", "lighthouse", "balloon", "mushroom",
)  # fmt: skip

SETTINGS: tuple[str, ...] = ("field", "sea", "hills", "desert")

# Places that subjects which artists drew bring along (`artists`); the first twelve do without.
MORE_SETTINGS: tuple[str, ...] = ("snow", "street", "room", "table", "sky", "under water", "plain")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "palette": ("vibrant", "muted", "pastel", "monochrome", "neon", "earthy", "black and white", "multicoloured"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "temperature": ("warm", "cool"),
    "lighting": ("bright", "dark", "golden hour", "moonlit", "spotlit"),
    "atmosphere": ("misty", "rainy", "snowy"),
    "contrast": ("high contrast", "low contrast"),
    "technique": (
        "flat colour", "watercolour", "pointillism", "line art",
        "crosshatching", "mosaic", "stained glass", "pixel art",
    ),
    "brushwork": ("impasto", "swirling brushstrokes"),
    "texture": ("smooth", "grainy", "canvas"),
    "line": ("flowing lines", "angular lines", "bold outlines"),
    "composition": ("minimalist", "busy", "close-up", "symmetrical", "tilted"),
    "detail": ("simplified", "intricate"),
    "mood": ("calm", "joyful", "melancholic", "dramatic", "dreamy"),
}  # fmt: skip

CATEGORY_OF: dict[str, str] = {value: category for category, values in ATTRIBUTES.items() for value in values}

# Subjects that bring their own place; the others stand in one of SETTINGS.
OWN_PLACE = frozenset({"boat", "fish", "city", "lighthouse"})

# Pairs that cannot both be seen in one picture: one of them would be a false label.
_CANNOT_MEET: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in [
        *((p, c) for p in ("black and white", "earthy", "multicoloured") for c in ATTRIBUTES["colour"]),
        *((p, t) for p in ("black and white", "earthy", "multicoloured") for t in ATTRIBUTES["temperature"]),
        *((t, c) for t in ATTRIBUTES["temperature"] for c in ATTRIBUTES["colour"]),
        *((b, t) for b in ATTRIBUTES["brushwork"] for t in ATTRIBUTES["technique"]),
        *(("line art", p) for p in ("vibrant", "muted", "pastel", "neon", "earthy", "multicoloured")),
        *(("line art", c) for c in ATTRIBUTES["colour"] + ATTRIBUTES["temperature"]),
        *(("line art", x) for x in ("smooth", "bold outlines", "dark", "moonlit", "golden hour", "high contrast")),
        *(("neon", x) for x in ("bright", "golden hour", "low contrast", "misty", "joyful", "calm", "dreamy", "moonlit")),
        *(("neon", x) for x in ("crosshatching", "watercolour", "snowy")),
        *(("golden hour", x) for x in ("black and white", "monochrome", "cool", "blue", "green", "purple", "pink")),
        *(("moonlit", x) for x in ("black and white", "warm", "red", "orange", "yellow", "pastel", "joyful", "pink")),
        *(("dark", x) for x in ("pastel", "joyful", "low contrast", "dreamy", "calm")),
        *(("bright", x) for x in ("melancholic", "dramatic")),
        *(("spotlit", x) for x in ("joyful", "calm", "misty", "low contrast", "dramatic", "melancholic", "pastel")),
        *(("low contrast", x) for x in ("dramatic", "crosshatching", "bold outlines", "stained glass", "vibrant")),
        *(("high contrast", x) for x in ("misty", "pastel", "muted", "dreamy", "calm")),
        *(("misty", x) for x in ("stained glass", "crosshatching", "pixel art", "mosaic", "dramatic")),
        *(("smooth", x) for x in ATTRIBUTES["technique"] + ATTRIBUTES["brushwork"] + ("intricate", "bold outlines")),
        *(("canvas", x) for x in ("mosaic", "pixel art", "stained glass", "line art", "crosshatching", "pointillism")),
        *(("grainy", x) for x in ("mosaic", "pixel art", "stained glass", "pointillism", "dreamy", "crosshatching")),
        *(("minimalist", x) for x in ("intricate", "joyful", "stained glass", "mosaic", "pointillism", "pixel art")),
        *(("minimalist", x) for x in ATTRIBUTES["brushwork"]),
        *(("busy", x) for x in ("simplified", "calm")),
        *(("intricate", x) for x in ("pointillism", "mosaic", "pixel art", "crosshatching", "impasto", "stained glass")),
        *(("pixel art", x) for x in ("flowing lines", "bold outlines", "tilted", "dreamy")),
        *(("snowy", x) for x in ("line art", "crosshatching", "joyful", "golden hour", "desert")),
        *(("rainy", x) for x in ("joyful", "golden hour", "calm", "line art", "crosshatching", "melancholic")),
        *(("muted", x) for x in ("joyful",)),
        *(("black and white", x) for x in ("joyful", "dreamy")),
        *(("stained glass", x) for x in ("bold outlines", "muted")),
        *((t, x) for t in ATTRIBUTES["temperature"] for x in ("monochrome", "neon", "moonlit", "golden hour")),
        *((t, x) for t in ATTRIBUTES["temperature"] for x in ("melancholic", "rainy", "dreamy")),
        *((c, x) for c in ATTRIBUTES["colour"] for x in ("moonlit", "golden hour")),
        *(("vibrant", x) for x in ("misty", "rainy", "moonlit", "melancholic", "calm", "dreamy", "watercolour")),
        *(("vibrant", x) for x in ("crosshatching", "high contrast")),
        *(("muted", x) for x in ("misty", "melancholic", "moonlit", "calm", "dreamy", "low contrast", "crosshatching")),
        *(("pastel", x) for x in ("misty", "bright", "crosshatching")),
        *(("multicoloured", x) for x in ("moonlit", "golden hour", "melancholic", "simplified")),
        *(("earthy", x) for x in ("moonlit", "golden hour")),
        *(("monochrome", x) for x in ("moonlit", "joyful", "line art")),
        *(("neon", x) for x in ("dark", "spotlit", "high contrast", "melancholic")),
        *(("high contrast", x) for x in ("bright", "dark", "spotlit", "moonlit", "flat colour", "stained glass")),
        ("high contrast", "crosshatching"),
        *(("bright", x) for x in ("misty", "low contrast", "line art")),
        ("line art", "black and white"),
        *(("simplified", x) for x in ("line art", "pointillism", "mosaic", "stained glass", "crosshatching", "pixel art")),
        *(("simplified", x) for x in ATTRIBUTES["brushwork"]),
        *(("intricate", x) for x in ("misty", "rainy", "snowy", "swirling brushstrokes", "dreamy", "melancholic", "dark")),
        *(("bold outlines", x) for x in ("mosaic", "pointillism", "crosshatching") + ATTRIBUTES["brushwork"]),
        *(("flowing lines", x) for x in ("calm", "swirling brushstrokes")),
        *(("angular lines", x) for x in ("mosaic", "stained glass", "dramatic")),
        *(("busy", x) for x in ("mosaic", "pointillism", "stained glass", "crosshatching", "misty", "spotlit")),
        *(("busy", x) for x in ATTRIBUTES["brushwork"]),
        *(("smooth", x) for x in ("misty", "dreamy", "calm")),
        *(("canvas", x) for x in ("flat colour",) + ATTRIBUTES["brushwork"]),
        # What follows was found by `benchmarks.visible`: of the first, next to the second, the judge found
        # less than two in five.
        *(("muted", x) for x in ATTRIBUTES["colour"] + ATTRIBUTES["temperature"]),
        *(("melancholic", x) for x in ("yellow", "pink", "orange", "earthy")),
        *(("simplified", x) for x in ("neon", "moonlit", "bold outlines", "angular lines", "dramatic", "minimalist", "tilted")),
        *(("swirling brushstrokes", x) for x in ("snowy", "neon", "dramatic", "grainy")),
        *(("impasto", x) for x in ("grainy", "angular lines", "misty")),
        *(("busy", x) for x in ("angular lines", "dramatic", "watercolour", "intricate")),
        *(("pixel art", x) for x in ("joyful", "snowy", "golden hour", "spotlit", "dark", "dramatic", "melancholic", "calm")),
        *(("monochrome", x) for x in ("minimalist", "dramatic", "snowy", "intricate")),
        *(("pastel", x) for x in ("minimalist", "flowing lines", "red", "blue")),
        *(("flat colour", x) for x in ("neon", "vibrant", "multicoloured")),
        *(("neon", x) for x in ("pointillism", "angular lines", "bold outlines")),
        *(("grainy", "misty"), ("warm", "misty"), ("orange", "dreamy"), ("spotlit", "angular lines")),
    ]
)  # fmt: skip

# Veils take light or edges away; techniques that break shapes up bear only one of them, `low contrast` bears
# none.
_VEILS = frozenset(
    [
        "misty",
        "rainy",
        "snowy",
        "dark",
        "moonlit",
        "spotlit",
        "smooth",
        "calm",
        "melancholic",
        "dramatic",
        "dreamy",
        "joyful",
        "muted",
        "pastel",
    ]
)
BREAKS_SHAPES = frozenset(
    (
        "pointillism",
        "mosaic",
        "stained glass",
        "crosshatching",
        "watercolour",
        "grainy",
        "canvas",
        "tilted",
        "busy",
        "flowing lines",
        "angular lines",
    )
    + ATTRIBUTES["brushwork"]
)

# How many attributes a picture carries, and how often each category is among them.
_HOW_MANY = ((0, 0.04), (1, 0.14), (2, 0.27), (3, 0.28), (4, 0.18), (5, 0.09))
_CATEGORY_WEIGHT = {
    "palette": 1.5, "colour": 1.4, "temperature": 0.5, "lighting": 1.2, "atmosphere": 0.7, "contrast": 0.5,
    "technique": 2.0, "brushwork": 0.6, "texture": 0.8, "line": 0.8, "composition": 1.2, "detail": 0.5, "mood": 1.2,
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What a picture shows: a subject, at most one value in each category, and the place where it stands.

    `attributes` maps a category of `ATTRIBUTES` to one of its values; a category that is absent is unspecified.
    A subject is one of `SUBJECTS` or one that artists drew; only the latter have a `companion` next to them, or a
    `count` of several. Raises ValueError for a subject, category, value, setting or count that the world does not know.
    """

    subject: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    setting: str | None = None
    companion: str | None = None
    count: int = 1

    def __post_init__(self) -> None:
        drawn = load_artists()
        for name in (self.subject, self.companion):
            if name is not None and name not in SUBJECTS and name not in drawn:
                raise ValueError(f"subject {name!r} is not in the world")
        if (self.companion is not None or self.count != 1) and self.subject not in drawn:
            raise ValueError(f"{self.subject!r} stands alone in the world")
        if self.count not in (1, 2, 3) or (self.companion is not None and self.count != 1):
            raise ValueError("a picture shows one subject, two or three of it, or one with a companion")
        for category, value in self.attributes.items():
            if value not in ATTRIBUTES.get(category, ()):
                raise ValueError(f"attribute {category!r} = {value!r} is not in the world")
        if self.setting is not None and self.setting not in SETTINGS + MORE_SETTINGS:
            raise ValueError(f"setting {self.setting!r} is not one of {', '.join(SETTINGS + MORE_SETTINGS)}")
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[type[Truth], tuple[str, dict[str, str], str | None, str | None, int]]:
        return (Truth, (self.subject, dict(self.attributes), self.setting, self.companion, self.count))

    def values(self) -> tuple[str, ...]:
        """Return the names of the attributes shown, in the order of `ATTRIBUTES`."""
        return tuple(self.attributes[c] for c in ATTRIBUTES if c in self.attributes)

    def shows(self, attribute: str) -> bool:
        """Return whether this attribute is among the values."""
        return self.attributes.get(CATEGORY_OF[attribute]) == attribute


def can_meet(value: str, others: tuple[str, ...]) -> bool:
    """Return whether an attribute value can be drawn visibly together with the others."""
    if any(frozenset((value, other)) in _CANNOT_MEET for other in others):
        return False
    together = {value, *others}
    veils = len(together & _VEILS) + 2 * ("low contrast" in together)
    breaks = len(together & BREAKS_SHAPES)
    return veils + breaks <= 2


def sample_attributes(
    rng: random.Random, force: Mapping[str, str] | None = None, *, most: int | None = None
) -> dict[str, str]:
    """Draw zero to five attributes that can be seen together, at most `most`, in the order of `ATTRIBUTES`.

    `force` fixes categories (it wins over the rules of what can meet); further attributes are added round it.
    """
    chosen = dict(force or {})
    wanted = max(len(chosen), rng.choices([n for n, _ in _HOW_MANY], [w for _, w in _HOW_MANY])[0])
    wanted = wanted if most is None else min(wanted, most)
    open_categories = [c for c in ATTRIBUTES if c not in chosen]
    while len(chosen) < wanted and open_categories:
        category = rng.choices(open_categories, [_CATEGORY_WEIGHT[c] for c in open_categories])[0]
        open_categories.remove(category)
        shown = tuple(chosen.values())
        possible = [v for v in ATTRIBUTES[category] if can_meet(v, shown)]
        if possible:
            chosen[category] = rng.choice(possible)
    return {c: chosen[c] for c in ATTRIBUTES if c in chosen}


def sample_truth(
    rng: random.Random, subject: str | None = None, force: Mapping[str, str] | None = None
) -> Truth:
    """Draw a truth: a subject, a place, and zero to five attributes that can be seen together.

    `force` fixes categories (it wins over the rules of what can meet); further attributes are added round it.
    """
    subject = subject or rng.choice(SUBJECTS)
    chosen = sample_attributes(rng, force)
    setting = None if subject in OWN_PLACE else rng.choices([None, *SETTINGS], [4, 2, 2, 2, 1])[0]
    if setting == "desert" and chosen.get("atmosphere") == "snowy":
        setting = None
    return Truth(subject, chosen, setting)
