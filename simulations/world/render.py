"""Draws the picture of a truth: the place and subject first, the finish over them."""

from __future__ import annotations

import random

from palate.simulations.world import finishes, places, scenes
from palate.simulations.world.truth import SUBJECTS, Pixels, Truth


def render(truth: Truth, seed: int) -> Pixels:
    """Draw the picture of a truth. The same truth and seed give the same pixels, (128, 128, 3) uint8 RGB."""
    more = () if truth.companion is None and truth.count == 1 else (truth.companion or "", str(truth.count))
    rng = random.Random("|".join((truth.subject, truth.setting or "", *truth.values(), *more, str(seed))))
    ours = truth.subject in SUBJECTS
    scene = places.draw_scene(rng, truth) if ours else scenes.draw_artists_scene(rng, truth)
    return finishes.finish(rng, scene, truth)
