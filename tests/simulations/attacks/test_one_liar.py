"""One liar in each round of the recommended private run: what it may do, and what it could do before."""

import json
import math
import tomllib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from palate.client.federation.local_training import Labels
from palate.server.settings import RunSettings
from palate.shared.encoder import SENTENCE_FEATURES, load_encoder
from palate.shared.public_pictures import load_public_pictures
from palate.shared.subspace import load_subspace
from palate.shared.sum_noise import VOUCHED_SHARE
from palate.simulations.attacks.one_liar import AIMS, OneLiarOutcome, direction, run_with_one_liar
from palate.simulations.crowd.population import Stranger

DEVICES, RECOMMENDED = 60, 900
SETTINGS = Path(__file__).parents[3] / "docs" / "private-run.toml"


def settings() -> RunSettings:
    """The recommended run with fewer devices, and the noise for each that makes it as long in the mean."""
    found = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    found["privacy"]["noise_multiplier"] *= DEVICES / RECOMMENDED
    found["privacy"]["honest_share"] = VOUCHED_SHARE
    found |= {"rounds": 20, "devices": DEVICES, "quorum": DEVICES * 9 // 10}
    return RunSettings.from_json(json.dumps(found))


def person(seed: int) -> Labels:
    """Somebody with a taste of their own, who judges public pictures by what they show."""
    public, rng = load_public_pictures(), np.random.default_rng(seed)
    chosen = rng.choice(len(public), 20, replace=False)
    worth = public.shows[chosen] @ rng.standard_normal(public.shows.shape[1])
    liked = worth > np.median(worth)
    return Labels(public.features[chosen], liked, np.zeros((20, SENTENCE_FEATURES), np.float32))


def stranger(seed: int) -> Stranger:
    one = person(10_000 + seed)
    return Stranger(
        one.features[one.liked][:4], one.features[~one.liked][:4], {}, one.features[8:], one.liked[8:]
    )


PEOPLE = [person(seed) for seed in range(80)]


@lru_cache
def story(aim: str, bounded: bool) -> OneLiarOutcome:
    return run_with_one_liar(
        load_encoder(),
        load_subspace(),
        PEOPLE,
        [stranger(seed) for seed in range(4)],
        settings(),
        aim,
        bounded=bounded,
    )


@pytest.mark.parametrize("aim", ["", "krum"])
def test_an_aim_that_is_none_is_an_error(aim: str) -> None:
    with pytest.raises(ValueError, match="is no aim"):
        run_with_one_liar(load_encoder(), load_subspace(), PEOPLE, [], settings(), aim)


@pytest.mark.parametrize("aim", ["negate", "shuffle", "backdoor"])
def test_an_aim_is_a_direction_of_length_one(aim: str) -> None:
    way = direction(aim, load_encoder(), load_subspace())
    assert np.linalg.norm(way) == pytest.approx(1, abs=1e-5)
    moved = np.linalg.norm(way.reshape(64, -1), axis=1) > 0
    assert moved.sum() == (1 if aim == "backdoor" else 55)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("aim", [aim if aim == "backdoor" else pytest.param(aim, marks=SLOW) for aim in AIMS])
def test_attributes_keep_95_percent_or_there_is_no_release_whatever_one_liar_a_round_does(aim: str) -> None:
    found = story(aim, bounded=True)
    assert found.least_correlation >= 0.95 or not found.released
    assert 1 / 1.2 - 1e-9 <= found.clip <= 1.2 + 1e-9
    assert found.rounds > 15


@pytest.mark.parametrize(("aim", "least"), [pytest.param("shuffle", 0.8, marks=SLOW), ("backdoor", 0.5)])
def test_without_the_bounds_one_liar_a_round_turns_the_attributes(aim: str, least: float) -> None:
    found = story(aim, bounded=False)
    assert found.rounds == 20
    assert found.least_correlation < least


def test_without_the_bounds_the_targeted_liar_makes_misty_read_as_neon_and_hides_in_the_mean() -> None:
    found, bounded = story("backdoor", bounded=False), story("backdoor", bounded=True)
    assert found.other > 0.8
    assert found.mean_correlation > 0.9
    assert bounded.own > 0.95
    assert bounded.other < 0.3


@SLOW
def test_without_the_bounds_one_vote_a_round_carries_the_clip_away() -> None:
    assert story("vote", bounded=False).clip == pytest.approx(math.exp(20 * 0.2 * 0.5), rel=0.05)
    assert story("vote", bounded=True).clip == pytest.approx(1.2)


def test_what_a_liar_can_add_is_far_less_than_it_was() -> None:
    assert story("backdoor", bounded=True).liar < 0.8 * story("backdoor", bounded=False).liar
