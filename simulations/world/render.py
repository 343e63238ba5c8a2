"""Draws the picture of a truth: the place and subject first, the finish over them."""

from __future__ import annotations

import random

from palate.simulations.world import finishes, places
from palate.simulations.world.truth import Pixels, Truth


def render(truth: Truth, seed: int) -> Pixels:
    """Draw the picture of a truth. The same truth and seed give the same pixels, (128, 128, 3) uint8 RGB."""
    key = "|".join((truth.subject, truth.setting or "", *truth.values(), str(seed)))
    rng = random.Random(key)
    scene = places.draw_scene(rng, truth)
    return finishes.finish(rng, scene, truth)
