"""What candidates are ranked by when pictures are made, and what a sheet says of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from palate.client.eye.tower import FEATURE_NAMES, SUBJECTS, Look
from palate.client.painter import gallery
from palate.client.painter.create import Made, worth
from palate.client.painter.generator import DrawnPicture
from palate.client.taste.evaluator import Evaluator, fit_evaluator
from palate.shared.encoder import ATTRIBUTE_NAMES, load_encoder


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    nothing = np.zeros((0, len(FEATURE_NAMES)), np.float32)
    return fit_evaluator(load_encoder(), nothing, nothing, tastes={"misty": 0.9})


def look(seen: list[float]) -> Look:
    """Pictures with features left to chance, the first subject of which is seen with these probabilities."""
    count = len(seen)
    tensors = load_encoder().tensors
    noise = np.random.default_rng(3).standard_normal((count, len(FEATURE_NAMES)), np.float32)
    subjects = np.zeros((count, len(SUBJECTS)), np.float32)
    subjects[:, 0] = seen
    subjects[:, 1] = 1 - subjects[:, 0]
    features = noise * tensors["feature.scale"] + tensors["feature.mean"]
    return Look(features.astype(np.float32), subjects, np.zeros((count, len(ATTRIBUTE_NAMES)), np.float32))


def test_a_percent_of_doubt_about_the_subject_costs_a_logit_of_liking(evaluator: Evaluator) -> None:
    seen = look([1.0, 0.99, 0.5])
    lost = evaluator.utilities(seen.features) - worth(evaluator, seen, SUBJECTS[0])
    assert lost == pytest.approx([0.0, 1.0, 50.0], abs=1e-3)


def test_without_a_subject_that_the_eye_knows_liking_alone_ranks(evaluator: Evaluator) -> None:
    seen = look([1.0, 0.2])
    assert worth(evaluator, seen, None) == pytest.approx(evaluator.utilities(seen.features))


def test_a_sheet_says_when_no_taste_had_a_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    real = gallery.draw_sheet

    def draw(blocks: list[gallery.Block], width: int) -> Image.Image:
        said.extend(label for block in blocks if isinstance(block, gallery.Row) for label in block.headings)
        return real(blocks, width)

    monkeypatch.setattr(gallery, "draw_sheet", draw)
    image = Image.new("RGB", (128, 128), "red")
    png = io.BytesIO()
    image.save(png, "PNG")
    for personal in (True, False):
        made = Made(DrawnPicture(image, 1, 0.4, 0.4), 0.5, png.getvalue(), personal=personal)
        gallery.draw_pictures("a house", [made], [None])
    assert said == ["In your taste", "Without a taste"]
