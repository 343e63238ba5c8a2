"""Ways of learning together.

Who is shown what, what each leaves alone, and that each comes to the same for the same seed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from palate.client.federation.local_training import Labels
from palate.server.rounds.run import federate
from palate.server.settings import RunSettings
from palate.shared.encoder import (
    FIXED_SHAPES,
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    TASTE,
    EncoderWeights,
    encoder_hash,
    flatten,
    load_encoder,
    project_pictures,
)
from palate.shared.update import LocalSettings
from palate.simulations.crowd.population import Stranger
from palate.simulations.engine import on_ray
from palate.simulations.experiments.methods import (
    PASSES,
    Plan,
    foresee_alike,
    pairwise,
    train_centrally,
    train_deployed,
    train_joint,
    train_on_ray,
    understand,
)

PLAN = Plan(rounds=4, cohort=3, learning_rate=0.01, local=LocalSettings(), seed=7)
Train = Callable[[EncoderWeights, list[Labels], Plan, Any], EncoderWeights]


def joint(method: str) -> Train:
    return lambda release, people, plan, watch: train_joint(release, people, plan, watch, method=method)


WAYS: dict[str, Train] = {
    "deployed": train_deployed,
    "fedper": joint("fedper"),
    "fedrep": joint("fedrep"),
    "fedavg": joint("fedavg"),
    "central": train_centrally,
}


def make_features(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    t = load_encoder().tensors
    rows = t["feature.mean"] + t["feature.scale"] * rng.standard_normal((count, PICTURE_FEATURES))
    return rows.astype(np.float32)


def make_people() -> list[Labels]:
    people = []
    for number, count in enumerate((6, 8, 11, 14)):
        rng = np.random.default_rng(100 + number)
        phrases = rng.standard_normal((count, SENTENCE_FEATURES)).astype(np.float32)
        phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
        people.append(Labels(make_features(count, number), rng.random(count) < 0.5, phrases))
    return people


def ignore(number: int, encoder: EncoderWeights, head: Any) -> None:
    """A watch that looks away."""


# --- what all have in common --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WAYS)
def test_each_way_is_watched_round_by_round_and_leaves_fixed_tensors_alone(name: str) -> None:
    release, seen = load_encoder(), []

    def watch(number: int, encoder: EncoderWeights, head: Any) -> None:
        seen.append((number, encoder_hash(encoder), None if head is None else head.shape))

    ended = WAYS[name](release, make_people(), PLAN, watch)
    assert [number for number, _, _ in seen] == [1, 2, 3, 4]
    assert len({one for _, one, _ in seen}) == 4  # it moves in each round
    assert seen[-1][1] == encoder_hash(ended) != encoder_hash(release)
    assert {shape for _, _, shape in seen} == {(TASTE + 1,) if name == "fedavg" else None}
    for tensor in FIXED_SHAPES:
        assert np.array_equal(ended.tensors[tensor], release.tensors[tensor])
    assert np.isfinite(flatten(ended.tensors)).all()


@pytest.mark.parametrize("name", WAYS)
def test_each_way_comes_to_the_same_for_the_same_seed_and_to_another_for_another(name: str) -> None:
    from dataclasses import replace

    people, release = make_people(), load_encoder()
    once, again, other = (
        flatten(WAYS[name](release, people, plan, ignore).tensors)
        for plan in (PLAN, PLAN, replace(PLAN, seed=8))
    )
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize("name", ["fedper", "fedrep", "fedavg"])
def test_ways_that_know_no_words_leave_the_sentence_side_alone(name: str) -> None:
    release = load_encoder()
    ended = WAYS[name](release, make_people(), PLAN, ignore)
    for side, same in (("sentence.taste.weight", True), ("picture.taste.weight", False)):
        assert np.array_equal(ended.tensors[side], release.tensors[side]) is same
    told = WAYS["deployed"](release, make_people(), PLAN, ignore)
    assert not np.array_equal(told.tensors["sentence.taste.weight"], release.tensors["sentence.taste.weight"])


def test_the_published_ways_are_three_and_not_one() -> None:
    ended = {name: encoder_hash(WAYS[name](load_encoder(), make_people(), PLAN, ignore)) for name in WAYS}
    assert len(set(ended.values())) == len(WAYS)


# --- the budget ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "until"), [(100, [50, 75, 100]), (4, [2, 3, 4]), (7, [4, 5, 7])])
def test_the_learning_rate_falls_in_three_stages(rounds: int, until: list[int]) -> None:
    plan = Plan(rounds, 3, 0.01, LocalSettings(), 1)
    stages = plan.stages()
    assert [one.rounds for one in stages] == until
    assert [one.server_learning_rate for one in stages] == pytest.approx([0.01, 0.003, 0.001])
    assert plan.stage(1) == stages[0]
    assert plan.stage(until[0] + 1) == stages[1]
    assert plan.stage(rounds) == stages[2]


def test_central_training_has_more_passes_than_the_federation_has_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from palate.simulations.experiments import methods

    calls: list[int] = []
    train = methods.train_together

    def counted(encoder: Any, people: Any, *more: Any) -> Any:
        calls.append(len(people))
        return train(encoder, people, *more)

    monkeypatch.setattr(methods, "train_together", counted)
    train_centrally(load_encoder(), make_people(), PLAN, ignore)
    assert calls == [PLAN.cohort] * (PASSES * PLAN.rounds)


# --- Ray ----------------------------------------------------------------------------------------------------


def test_on_ray_each_stage_goes_on_where_the_one_before_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine in Ray's place that is the one of this process, both ways must end with the same
    bits."""
    from palate.server.app import grid_devices
    from palate.server.rounds.exchange import Patience
    from palate.server.rounds.run import ServerFolder
    from palate.server.strategy import average
    from palate.simulations.engine.in_process import InProcessGrid

    stages: list[tuple[int, float]] = []

    def in_its_place(
        people: list[Labels],
        settings: RunSettings,
        home: Path,
        *,
        own: EncoderWeights,
        on_round: Callable[[int], None],
    ) -> Any:
        stages.append((settings.rounds, settings.server_learning_rate))
        ended = federate(
            grid_devices(InProcessGrid(people, own=own)),
            ServerFolder(home),
            settings,
            average=average,
            first=own,
            patience=Patience(poll_seconds=0.0),
        )
        for number in range(
            1, settings.rounds + 1
        ):  # a new process reads the whole book, and tells of all of it
            on_round(number)
        return ended

    monkeypatch.setattr(on_ray, "run_on_ray", in_its_place)
    seen: list[int] = []
    ended = train_on_ray(load_encoder(), make_people(), PLAN, lambda number, *_: seen.append(number))
    assert stages == [(one.rounds, one.server_learning_rate) for one in PLAN.stages()]
    assert seen == [1, 2, 3, 4]  # each once
    assert encoder_hash(ended) == encoder_hash(train_deployed(load_encoder(), make_people(), PLAN, ignore))


# --- judging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "liked", "share"),
    [
        ([3.0, 1.0], [True, False], 1.0),
        ([1.0, 3.0], [True, False], 0.0),
        ([2.0, 2.0], [True, False], 0.5),
        ([3.0, 2.0, 1.0], [True, False, True], 0.5),
        ([3.0, 2.0, 2.0, 1.0], [True, True, False, False], 0.875),
        ([1.0, 2.0], [True, True], 0.5),  # no pair to be right about
        ([1.0, 2.0], [False, False], 0.5),
        ([], [], 0.5),
    ],
)
def test_pairwise_is_what_one_counts_by_hand(scores: list[float], liked: list[bool], share: float) -> None:
    assert pairwise(np.array(scores), np.array(liked, bool)) == pytest.approx(share)


def make_stranger(seed: int) -> Stranger:
    """Somebody who is asked about the very pictures that they gave verdicts on."""
    liked, disliked = make_features(8, seed), make_features(8, seed + 1)
    asked = np.concatenate([liked, disliked])
    return Stranger(liked, disliked, {}, asked, np.arange(16) < 8)


def test_who_is_asked_what_they_have_said_is_understood_and_without_labels_is_not() -> None:
    strangers = [make_stranger(seed) for seed in range(10, 22, 2)]
    known = understand(load_encoder(), strangers, comments=False)
    unknown = understand(load_encoder(), strangers, comments=False, labels=0)
    assert known.shape == (6,)
    assert known.mean() > 0.9
    assert abs(unknown.mean() - 0.5) < 0.2
    assert known.mean() > unknown.mean() + 0.2


def test_a_comment_counts_only_where_comments_do() -> None:
    stranger = make_stranger(3)
    told = Stranger(
        stranger.liked, stranger.disliked, {"misty": 0.9, "neon": -0.9}, stranger.asked, stranger.answers
    )
    without, silent, said = (
        understand(load_encoder(), [one], comments=comments, labels=2)
        for one, comments in ((told, False), (stranger, False), (told, True))
    )
    assert np.array_equal(without, silent)
    assert not np.array_equal(said, silent)


def test_a_head_that_all_share_foresees_what_it_weighs() -> None:
    encoder, stranger = load_encoder(), make_stranger(5)
    head = np.zeros(TASTE + 1, np.float32)
    head[3] = 2.0
    places = project_pictures(encoder, stranger.asked)[:, 3]
    answers = places > np.median(places)
    asked = Stranger(stranger.liked, stranger.disliked, {}, stranger.asked, answers)
    assert foresee_alike(encoder, head, [asked]) == pytest.approx([1.0])
    assert foresee_alike(encoder, -head, [asked]) == pytest.approx([0.0])
