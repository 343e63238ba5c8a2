"""Lying devices.

What each attack sends, that it gets past the bound, and that it harms where nothing stands against it.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palate.client.federation.local_training import Labels
from palate.client.federation.privatize import privatize
from palate.server.aggregation import moved
from palate.server.secure_sum.groups import drop_long
from palate.shared.coding import finest_step, from_levels
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES, flatten, load_encoder, project_pictures
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.noise import stream_of
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.update import EncoderUpdate
from palate.simulations.attacks.many_liars import (
    FILE,
    Defence,
    LiarsExperiment,
    Participants,
    draw_participants,
    read_liars_experiment,
    run_liars,
)
from palate.simulations.attacks.poisoned_updates import (
    ATTACKS,
    Poison,
    Situation,
    backdoor_direction,
    flipped,
    lie,
    target,
)
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import Pool, pool_truth
from palate.simulations.experiments.comparison import WEAK

AIMED = [name for name in ATTACKS if name != "label flip"]


def situation(size: int = 3, spoiled: int = 4, d: int = 400) -> Situation:
    rng = np.random.default_rng(2)
    honest = 0.02 + 0.04 * rng.standard_normal((33, d))
    honest = (honest / np.linalg.norm(honest, axis=1, keepdims=True)).astype(np.float32)
    return Situation(honest, size, 16, spoiled, 1.0)


def aim(name: str, seen: Situation) -> np.ndarray:
    backdoor = np.ones(seen.honest.shape[1], np.float32)
    return target(name, seen, np.random.default_rng(4), backdoor)


# --- hostile input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label flip", "krum", ""])
def test_an_attack_without_a_target_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="has no target"):
        target(name, situation(), np.random.default_rng(1))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("people = 400", "persons = 400", FileFormatError),
        ("people = 400", "people = 3", OptionError),
        ("cohort = 48", "cohort = 401", OptionError),
        ('"ALIE"', '"ALlE"', OptionError),
        ("shares = [0.2", "shares = [0.6", OptionError),
        ("multikrum = [1]", "multikrum = [3]", OptionError),
        ("mean = [1", "mean = [0", OptionError),
        ("seeds = [1]", "seeds = 1", FileFormatError),
        ('"pixel art"', '"blobs"', OptionError),
        ("title", "= title", FileFormatError),
    ],
)
def test_a_grid_of_another_form_is_one_line(
    old: str, new: str, kind: type[Exception], tmp_path: Path
) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(kind) as caught:
        read_liars_experiment(path)
    assert "\n" not in str(caught.value)


def test_the_shipped_grid_has_all_attacks_and_a_round_without_any_defence() -> None:
    experiment = read_liars_experiment()
    assert set(experiment.attacks) == set(ATTACKS)
    assert Defence("mean", 1) in experiment.defences


# --- what liars send ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AIMED)
@pytest.mark.parametrize("size", [1, 3])
def test_a_target_is_never_longer_than_what_is_kept(name: str, size: int) -> None:
    seen = situation(size)
    wanted = aim(name, seen)
    assert np.isfinite(wanted).all()
    assert np.linalg.norm(wanted) <= seen.longest * (1 + 1e-5)


@pytest.mark.parametrize("name", ["sign flip", "scaled", "IPM"])
def test_a_turned_mean_points_the_other_way(name: str) -> None:
    seen = situation()
    mean = seen.honest.mean(0)
    wanted = aim(name, seen)
    cosine = float(wanted @ mean) / float(np.linalg.norm(wanted) * np.linalg.norm(mean))
    assert cosine == pytest.approx(-1, abs=1e-4)


def test_min_max_is_as_far_from_an_honest_group_as_two_honest_ones_are_apart() -> None:
    seen = replace(situation(), bound=100.0)
    groups = seen.group_means()
    apart = np.linalg.norm(groups[:, None] - groups[None], axis=2).max()
    farthest = np.linalg.norm(aim("min-max", seen) - groups, axis=1).max()
    assert farthest == pytest.approx(apart, rel=1e-3)


def test_alie_goes_farther_the_more_groups_are_spoiled() -> None:
    mean = situation().honest.mean(0)
    off = [
        float(np.linalg.norm(aim("ALIE", replace(situation(spoiled=spoiled), bound=100.0)) - mean))
        for spoiled in (2, 4, 6, 8)
    ]
    assert off == sorted(off)
    assert (
        off[0] < off[1] < off[-1]
    )  # so few that they must hide behind the mean itself, by the paper's formula


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_a_liar_speaks_for_its_whole_group_and_its_sum_is_still_kept(liars: int) -> None:
    seen = situation()
    wanted, mean = aim("scaled", seen), seen.honest.mean(0)
    sent = lie(wanted, mean, 3, liars)
    group = np.concatenate([np.repeat(sent[None], liars, 0), seen.honest[: 3 - liars]])
    got = group.mean(0)
    own = (seen.honest[: 3 - liars] - mean).sum(0) / 3 if liars < 3 else 0.0
    assert got == pytest.approx(wanted + own, abs=1e-5)
    assert drop_long(got[None], [3], clip=seen.bound).all()
    if liars == 1:  # which no bound on a single device's change would have let through
        assert np.linalg.norm(sent) > 2 * seen.bound


@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_honest_groups_of_real_levels_are_kept_and_one_liars_ring_is_not(noise_multiplier: float) -> None:
    clip, context = 1.0, bytes(32)
    step, noise = finest_step(16, 48, clip=clip, noise_multiplier=noise_multiplier)
    masks = MaskSettings(ring_bits=16, step=step, clip=clip, noise=noise)
    encoder = load_encoder()
    direction = {name: np.ones_like(tensor) for name, tensor in encoder.shared().items()}
    update = EncoderUpdate("0" * 64, 1, direction)  # all devices the same way: as long as honest ones can be
    levels = [privatize(update, masks, context, stream_of(bytes([i]) * 32)) for i in range(3)]

    def mean_of(total: np.ndarray) -> np.ndarray:
        return from_levels(total, 3, step=step, clip=clip, seed=context)[0]

    honest = np.sum(levels, axis=0)
    each = step * math.hypot(noise, 0.5)
    assert drop_long(mean_of(honest)[None], [3], clip=clip, noise=each).all()
    half = 2**13  # of the ring, and there is room for four times as much
    lied = honest + np.where(np.arange(len(honest)) % 2 == 0, half, -half)
    assert not drop_long(mean_of(lied)[None], [3], clip=clip, noise=each).any()


def test_flipped_verdicts_are_the_only_thing_that_changes() -> None:
    labels = Labels(
        np.ones((4, PICTURE_FEATURES), np.float32),
        np.array([True, False, True, True]),
        np.ones((4, SENTENCE_FEATURES), np.float32),
    )
    turned = flipped(labels)
    assert turned.liked.tolist() == [False, True, False, False]
    assert turned.features is labels.features
    assert turned.phrases is labels.phrases


def test_the_backdoor_lifts_its_pictures_in_the_crowds_eyes_and_leaves_the_others() -> None:
    encoder = load_encoder()
    rng = np.random.default_rng(6)
    t = encoder.tensors
    shown, others = (
        (
            t["feature.mean"] + t["feature.scale"] * (0.3 * rng.standard_normal((20, PICTURE_FEATURES)) + by)
        ).astype(np.float32)
        for by in (0.5, -0.5)
    )
    change = backdoor_direction(encoder, Poison(shown, others))
    assert change.shape == flatten(encoder.shared()).shape
    after = moved(encoder, change)
    crowd = (t["crowd.share"] @ t["crowd.mean"])[:-1]

    def lifted(features: np.ndarray) -> float:
        gained = project_pictures(after, features) - project_pictures(encoder, features)
        return float((gained @ crowd).mean())

    assert lifted(shown) > 0.01
    assert abs(lifted(others)) < lifted(shown) / 3


# --- whole rounds -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def little_crowd() -> tuple[Participants, LiarsExperiment]:
    """A crowd whose pictures are not drawn: features say plainly, and with noise, what a picture shows."""
    experiment = replace(
        read_liars_experiment(), people=60, strangers=24, rounds=6, cohort=24, learning_rate=0.01
    )
    rng = np.random.default_rng(8)
    encoder = load_encoder(
        WEAK
    )  # the shipped one is sure of what it sees in drawn pictures, and these are not
    truths = tuple(pool_truth(i) for i in range(700))
    names = sorted({name for truth in truths for name in truth.values()})
    code = rng.standard_normal((len(names), PICTURE_FEATURES))
    rows = np.array([[name in truth.values() for name in names] for truth in truths]) @ code
    t = encoder.tensors
    features = t["feature.mean"] + t["feature.scale"] * 0.4 * (rows + 0.3 * rng.standard_normal(rows.shape))
    pool = Pool(truths, features.astype(np.float32))
    return draw_participants(experiment, encoder, pool, 1), experiment


def test_a_run_is_the_same_for_the_same_seed_and_groups_change_nothing_for_a_mean(
    little_crowd: tuple[Participants, LiarsExperiment],
) -> None:
    crowd, experiment = little_crowd
    alone = run_liars(crowd, experiment, Defence("mean", 1))
    assert run_liars(crowd, experiment, Defence("mean", 1)) == alone
    grouped = run_liars(crowd, experiment, Defence("mean", 3))
    assert grouped.accuracy == pytest.approx(alone.accuracy, abs=0.01)
    assert grouped.dropped == 0


def test_people_learn_together_and_liars_undo_it_where_nothing_stands_against_them(
    little_crowd: tuple[Participants, LiarsExperiment],
) -> None:
    crowd, experiment = little_crowd
    experiment = replace(experiment, rounds=30)
    honest = run_liars(crowd, experiment, Defence("mean", 3))
    lied = run_liars(crowd, experiment, Defence("mean", 3), share=0.25, attack="scaled")
    assert lied.accuracy < honest.accuracy - 0.02


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("defence", [Defence("centred clipping", 3), Defence("multikrum", 1)])
def test_every_attack_runs_against_masked_groups_and_against_flowers_rules(
    attack: str, defence: Defence, little_crowd: tuple[Participants, LiarsExperiment]
) -> None:
    crowd, experiment = little_crowd
    short = replace(experiment, rounds=1)
    found = run_liars(crowd, short, defence, share=0.25, attack=attack)
    assert 0 <= found.accuracy <= 1
    assert 0 <= found.dropped <= 1


def test_strangers_are_judged_by_their_true_taste(little_crowd: tuple[Participants, LiarsExperiment]) -> None:
    crowd, experiment = little_crowd
    assert list(crowd.tastes) == make_people(experiment.strangers, 4001, first=experiment.strangers)
