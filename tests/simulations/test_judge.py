"""The judge: its answers have the right form, its weights see what was drawn, and its recipe learns and
resumes."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.simulations import judge as judges
from palate.simulations.crowd.people import make_people, true_utility
from palate.simulations.judge import (
    CATEGORY_LOGITS,
    LOGITS,
    VALUES,
    WEIGHTS,
    Judge,
    JudgeNetwork,
    Opinion,
    load_judge,
    score_truths,
)
from palate.simulations.recipes import judge as recipe
from palate.simulations.world.render import render
from palate.simulations.world.shards import to_json, truth_of
from palate.simulations.world.truth import ATTRIBUTES, SUBJECTS, Truth, sample_truth

FIRST = 20_500_000  # picture numbers that nothing learned from


def sure_opinion(truths: list[Truth]) -> Opinion:
    """The opinion of a judge that knows the truth."""
    subjects = np.array([[float(s == t.subject) for s in SUBJECTS] for t in truths], np.float32)
    values = np.array([[float(t.shows(v)) for v in VALUES] for t in truths], np.float32)
    return Opinion(subjects, values)


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((128, 128, 3), np.uint8),
        np.zeros((1, 128, 128), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((1, 128, 128, 4), np.uint8),
        np.zeros((1, 128, 128, 3), np.float32),
    ],
)
def test_the_judge_refuses_what_is_no_picture(pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the judge takes uint8"):
        Judge(JudgeNetwork())(pictures)


def test_missing_weights_name_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"recipes\.judge"):
        load_judge(tmp_path / "judge.safetensors")


def test_every_value_has_one_logit_and_every_category_a_none() -> None:
    places = [i for where in CATEGORY_LOGITS.values() for i in range(where.start, where.stop)]
    assert places == list(range(len(SUBJECTS), LOGITS))
    assert all(where.stop - where.start == len(ATTRIBUTES[c]) + 1 for c, where in CATEGORY_LOGITS.items())


def test_probabilities_leave_room_for_none_of_them() -> None:
    opinion = Judge(JudgeNetwork())(
        np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    )
    assert opinion.subjects.shape == (3, 12)
    assert opinion.values.shape == (3, 55)
    assert np.allclose(opinion.subjects.sum(1), 1, atol=1e-5)
    for values in ATTRIBUTES.values():
        share = opinion.values[:, [VALUES.index(v) for v in values]].sum(1)
        assert ((share > 0) & (share < 1)).all()


def test_an_opinion_on_nothing_is_empty() -> None:
    assert len(Judge(JudgeNetwork())(np.zeros((0, 128, 128, 3), np.uint8))) == 0


def test_a_picture_is_judged_alike_alone_and_among_others() -> None:
    network = JudgeNetwork()
    recipe.start_weights(network, torch.Generator().manual_seed(1))
    pictures = np.random.default_rng(1).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)
    together, alone = Judge(network)(pictures), Judge(network)(pictures[3:4])
    assert np.allclose(together.values[3], alone.values[0], atol=1e-4)


def test_none_of_them_wins_over_a_weak_value() -> None:
    values = np.zeros((2, 55), np.float32)
    values[0, VALUES.index("warm")], values[0, VALUES.index("cool")] = 0.4, 0.1  # none: 0.5
    values[1, VALUES.index("warm")], values[1, VALUES.index("cool")] = 0.4, 0.3  # none: 0.3
    opinion = Opinion(np.full((2, 12), 1 / 12, np.float32), values)
    assert [opinion.shows(i, "warm") for i in (0, 1)] == [False, True]
    assert not opinion.shows(1, "cool")


def test_a_judge_that_knows_the_truth_scores_full_marks_and_true_utilities() -> None:
    truths = [sample_truth(random.Random(i)) for i in range(40)]
    opinion = sure_opinion(truths)
    subject, attribute, invented, each = score_truths(opinion, truths)
    assert (subject, attribute, invented) == (1.0, 1.0, 0.0)
    assert set(each.values()) == {1.0}
    person = make_people(1, seed=FIRST)[0]
    assert opinion.utilities(person) == pytest.approx([true_utility(person, t) for t in truths], abs=1e-4)


def test_a_judge_of_other_pictures_scores_badly() -> None:
    truths = [sample_truth(random.Random(i)) for i in range(200)]
    subject, attribute, invented, _ = score_truths(sure_opinion(truths[1:] + truths[:1]), truths)
    assert subject < 0.25
    assert attribute < 0.25
    assert invented > 0.1


def test_the_shipped_judge_sees_what_was_drawn() -> None:
    accuracy = judges.measure_judge(load_judge(), 150, FIRST)
    assert accuracy.subject > 0.8, accuracy
    assert accuracy.attribute > 0.5, accuracy
    assert accuracy.invented < 0.2, accuracy
    assert accuracy.utility > 0.6, accuracy


def test_the_shipped_judge_is_small_and_has_a_card() -> None:
    assert WEIGHTS.stat().st_size < 3_000_000
    card = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    assert {"what", "recipe", "trained_on", "limits", "subject", "drawn_attribute"} <= set(card)


def test_softening_keeps_shape_and_range_and_follows_its_generator() -> None:
    x = torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, two = (recipe.weather(x.clone(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == x.shape
    assert one.abs().max() <= 1
    assert not torch.equal(one, x)


def test_labels_are_places_in_the_world_with_none_last() -> None:
    (row,) = recipe.labels_of([Truth("cat", {"temperature": "cool"})]).tolist()
    by_category = dict(zip(ATTRIBUTES, row[1:], strict=True))
    assert row[0] == SUBJECTS.index("cat")
    assert by_category["temperature"] == 1
    assert all(by_category[c] == len(values) for c, values in ATTRIBUTES.items() if c != "temperature")


def test_the_loss_is_small_for_right_answers_and_large_for_wrong_ones() -> None:
    labels = recipe.labels_of([Truth("boat", {"mood": "calm"}), Truth("tree")])
    right = torch.zeros(2, LOGITS)
    for i, (subject, *rest) in enumerate(labels.tolist()):
        right[i, subject] = 20
        for where, place in zip(CATEGORY_LOGITS.values(), rest, strict=True):
            right[i, where.start + place] = 20
    assert recipe.judge_loss(right, labels)[0] < 1e-3
    assert recipe.judge_loss(-right, labels)[0] > 50


@pytest.mark.slow
def test_the_recipe_resumes_where_it_was_killed(tmp_path: Path) -> None:
    from palate.simulations.recipes.training import Plan, launch

    truths = [truth_of(FIRST + i) for i in range(16)]
    np.save(tmp_path / "000000000.npy", np.stack([render(t, FIRST + i) for i, t in enumerate(truths)]))
    (tmp_path / "000000000.json").write_text(json.dumps([to_json(t) for t in truths]))
    for steps in (2, 4):
        plan = Plan(steps, 4, 1e-3, decay=2, every=2)
        launch(recipe._work, tmp_path / "run", 1, plan, tmp_path, 1)
        card = json.loads((tmp_path / "run" / "judge.json").read_text(encoding="utf-8"))
        assert card["steps"] == steps
    assert (tmp_path / "run" / "judge.safetensors").exists()
