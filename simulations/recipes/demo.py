"""Draws the twelve pictures that two people comment on in `palate demo`.

    python -m palate.simulations.recipes.demo          writes client/demo/*.jpg

The comments next to them (client/demo/mara.json, theo.json) are written by hand, for these very pictures;
nobody's words come from the comment writer of `remarks`. Drawn from picture numbers that took no part in any
training.
"""

import argparse
from pathlib import Path

from palate.simulations.world.truth import CATEGORY_OF, Truth

FOLDER = Path(__file__).parents[2] / "client" / "demo"
FIRST_NUMBER = 29_000_000  # picture numbers above 20 million are left to benchmarks, tests and this

# File, subject, setting, attributes, and how many pictures further on the drawing came out well.
PICTURES: tuple[tuple[str, str, str | None, tuple[str, ...], int], ...] = (
    ("boat", "boat", None, ("misty", "watercolour"), 0),
    ("lighthouse", "lighthouse", None, ("blue", "misty", "calm"), 0),
    ("tree", "tree", "field", ("pastel", "minimalist", "calm"), 0),
    ("mountain", "mountain", None, ("blue", "watercolour"), 0),
    ("flower", "flower", "field", ("pastel", "watercolour", "minimalist"), 0),
    ("house-blue", "house", "sea", ("blue", "watercolour"), 0),
    ("house-paint", "house", "hills", ("orange", "golden hour", "impasto"), 0),
    ("tree-swirls", "tree", "hills", ("vibrant", "warm", "swirling brushstrokes"), 0),
    ("city", "city", None, ("vibrant", "high contrast", "busy"), 0),
    ("mushroom", "mushroom", "field", ("vibrant", "impasto"), 0),
    ("balloon", "balloon", "hills", ("golden hour", "swirling brushstrokes"), 0),
    ("cat", "cat", None, ("neon", "bold outlines"), 0),
)


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description="Draw the pictures of `palate demo`.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    folder = parser.parse_args().out
    from PIL import Image

    from palate.simulations.world.render import render

    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, subject, setting, values, further) in enumerate(PICTURES):
        truth = Truth(subject, {CATEGORY_OF[value]: value for value in values}, setting)
        picture = Image.fromarray(render(truth, FIRST_NUMBER + number + 100 * further))
        picture.save(folder / f"{name}.jpg", quality=95, subsampling=0)


if __name__ == "__main__":
    main()
