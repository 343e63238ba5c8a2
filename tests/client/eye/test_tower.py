"""The tower: the shipped weights, pictures of any kind, and drawn pictures that it never met."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from palate.client.eye.tower import (
    FEATURE_NAMES,
    LOGITS,
    LOGITS_OF,
    SHIPPED,
    SUBJECTS,
    load_tower,
    picture_features,
    subject_of_prompt,
    subject_probability,
    what_is_shown,
)
from palate.shared.encoder import ATTRIBUTE_NAMES, PICTURE_FEATURES
from palate.shared.errors import ModelError, OptionError
from palate.simulations.world import truth
from palate.simulations.world.render import render


def drawn(n: int, first: int = 22_000_000) -> tuple[list[truth.Truth], list[Image.Image]]:
    truths = [truth.sample_truth(random.Random(f"tower test {i}")) for i in range(n)]
    return truths, [Image.fromarray(render(t, first + i)) for i, t in enumerate(truths)]


def test_subjects_are_those_of_the_world() -> None:
    assert SUBJECTS == truth.SUBJECTS
    assert len(FEATURE_NAMES) == PICTURE_FEATURES
    assert len(SUBJECTS) + len(ATTRIBUTE_NAMES) + len(truth.ATTRIBUTES) == LOGITS
    assert list(LOGITS_OF) == ["subject", *truth.ATTRIBUTES]


def test_the_shipped_tower_is_small() -> None:
    assert SHIPPED.stat().st_size <= 2_500_000


@pytest.mark.parametrize("content", [None, b"", b"no weights", b"\xff" * 200])
def test_weights_that_are_none_are_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tower.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="picture tower"):
        load_tower(path)


def test_no_pictures_give_no_rows() -> None:
    look = load_tower().look([])
    assert look.features.shape == (0, PICTURE_FEATURES)
    assert look.subjects.shape == (0, 12)
    assert look.attributes.shape == (0, 55)


def test_any_picture_gives_probabilities_by_category() -> None:
    images = [
        Image.new("RGB", (1, 1)),
        Image.new("L", (300, 40), 200),
        Image.new("CMYK", (50, 300)),
        *drawn(2)[1],
    ]
    look = load_tower().look(images)
    assert np.isfinite(look.features).all()
    assert np.allclose(look.subjects.sum(1), 1, atol=1e-4)
    start = 0
    for values in truth.ATTRIBUTES.values():
        assert (look.attributes[:, start : start + len(values)].sum(1) <= 1 + 1e-4).all()
        start += len(values)


def test_a_picture_looks_the_same_alone_and_among_others() -> None:
    images = drawn(3)[1]
    together, alone = picture_features(images), picture_features(images[1:2])
    assert np.allclose(together[1], alone[0], atol=1e-3)


def test_subjects_of_drawn_pictures_are_mostly_named_and_attributes_far_above_chance() -> None:
    truths, images = drawn(60)
    look = load_tower().look(images)
    right = [SUBJECTS[row.argmax()] == t.subject for row, t in zip(look.subjects, truths, strict=True)]
    assert np.mean(right) > 0.6  # chance is 0.08
    shown = np.array([[t.shows(a) for a in ATTRIBUTE_NAMES] for t in truths])
    assert look.attributes[shown].mean() > 8 * look.attributes[~shown].mean()


def test_what_is_shown_knows_a_blue_picture_and_stays_within_0_and_1() -> None:
    shown = what_is_shown(Image.new("RGB", (60, 60), (20, 40, 200)))
    assert set(ATTRIBUTE_NAMES) <= set(shown)
    assert all(0 <= p <= 1 for p in shown.values())
    assert shown["blue"] > max(shown[c] for c in ("red", "orange", "yellow", "green"))


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("a house by the sea", "house"),
        ("two kittens asleep", "cat"),
        ("Skyscrapers at dusk", "city"),
        ("a sailing ship", "boat"),
        ("snow-capped peaks", "mountain"),
        ("a lighthouse and a boat", "lighthouse"),
        ("a portrait of a queen", None),
        ("", None),
        ("concatenate", None),
    ],
)
def test_the_subject_of_a_prompt_is_found_by_any_common_word(prompt: str, subject: str | None) -> None:
    assert subject_of_prompt(prompt) == subject


def test_a_subject_that_nobody_knows_is_refused() -> None:
    with pytest.raises(OptionError, match="the tower knows"):
        subject_probability(drawn(1)[1], "teapot")
