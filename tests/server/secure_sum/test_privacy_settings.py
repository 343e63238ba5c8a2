"""What a run's privacy settings allow, and what they make of a round's masks."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from palate.server.secure_sum.privacy import (
    PlanSettings,
    Privacy,
    mask_settings,
    noise_over_clip,
    planned_masks,
    sum_that_is_sure,
)
from palate.server.settings import RunSettings
from palate.shared.accounting import noise_multiplier
from palate.shared.coding import ring_bits_needed, sensitivity_of
from palate.shared.encoder import SHARED_WEIGHTS
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.subspace import load_subspace


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0.0}, {"clip": math.nan}, {"noise_multiplier": -1.0}, {"noise_multiplier": math.inf},
        {"ring_bits": 1},
        {"ring_bits": 33}, {"ring_bits": True}, {"model_bits": 7}, {"threshold_share": 0.4},
        {"epsilon": 0.0}, {"delta": 1.0},
        {"sampling": "some"}, {"group_size": 1}, {"group_size": -1}, {"subspace": 1},
        {"registrar": "ab"}, {"honest_share": 1.1}, {"honest_share": math.nan}, {"honest_share": True},
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        Privacy(**wrong)
    assert next(iter(wrong)) in str(caught.value)
    assert "\n" not in str(caught.value)


PLAN = PlanSettings(steps=100, separation=10, noise_multiplier=2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"steps": 0}, {"steps": 2.5}, {"steps": 10_001}, {"separation": 0}, {"separation": 101},
        {"bands": -1}, {"bands": 101},
        {"bands": True}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan},
        {"noise_multiplier": 2_000.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_noise_plan_outside_its_range_is_one_line(wrong: dict[str, Any]) -> None:
    good = {"steps": 100, "separation": 10, "noise_multiplier": 2.0} if wrong else {}
    with pytest.raises(OptionError) as caught:
        PlanSettings(**{**good, **wrong})
    assert f"{next(iter(wrong), 'steps')} of the noise plan" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "beside",
    [{"sampling": "poisson"}, {"clip_rate": 0.2}, {"group_size": 5}, {"plan": {"steps": 3}}],
    ids=str,
)  # fmt: skip
def test_settings_that_contradict_a_noise_plan_are_one_line(beside: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(beside))) as caught:
        Privacy(**{"clip_rate": 0.0, "plan": PLAN, **beside})
    assert "plan" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_with_a_noise_plan_the_noise_counts_as_what_is_left_of_it_in_the_sum_of_all_rounds() -> None:
    shares = Privacy(noise_multiplier=3.0, honest_share=1.0, clip_rate=0.0)
    independent = replace(shares, plan=PlanSettings(100, 100, 4.0, bands=1))
    assert noise_over_clip(independent, 50) == pytest.approx(5 / 3 * noise_over_clip(shares, 50))
    best = replace(shares, plan=PlanSettings(100, 100, 4.0))
    assert noise_over_clip(shares, 50) < noise_over_clip(best, 50) < noise_over_clip(independent, 50)


def test_settings_travel_as_json_and_an_unknown_key_is_named() -> None:
    for privacy in (
        Privacy(group_size=5, sampling="poisson"),
        Privacy(clip_rate=0.0, plan=PLAN),
        Privacy(honest_share=0.25),
    ):
        run = RunSettings(privacy=privacy)
        assert RunSettings.from_json(run.to_json()) == run
    with pytest.raises(FileFormatError, match="'band'"):
        RunSettings.from_json(json.dumps({"privacy": {"plan": {"band": 1}}}))
    with pytest.raises(FileFormatError, match="'epsilom'"):
        RunSettings.from_json(json.dumps({"privacy": {"epsilom": 1}}))


@pytest.mark.parametrize("subspace", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("least", "most"), [(2, 3), (16, 20), (80, 100)])
def test_the_fewest_have_the_noise_that_was_asked_for_and_the_most_fit_the_ring(
    subspace: bool, share: float, least: int, most: int
) -> None:
    privacy = Privacy(noise_multiplier=2.0, honest_share=share, subspace=subspace, ring_bits=20)
    masks = mask_settings(privacy, 0.5, least=least, most=most)
    count = load_subspace().count if subspace else SHARED_WEIGHTS
    reach = sensitivity_of(masks.clip, masks.step, count)
    sure = noise_multiplier(
        masks.noise, devices=least, sensitivity=reach, dimension=count + 1, honest_share=share
    )
    assert sure == pytest.approx(2.0, rel=0.01)
    assert ring_bits_needed(most, clip=0.5, step=masks.step, noise=masks.noise, count=count) <= 20
    assert masks.least == least


def test_without_a_registrar_none_but_a_persons_own_noise_is_counted_on() -> None:
    nobody_vouches, vouched = Privacy(), Privacy(registrar="ab" * 32)
    assert (nobody_vouches.counted_share, vouched.counted_share) == (0.0, 0.5)
    assert Privacy(honest_share=0.3, registrar="ab" * 32).counted_share == 0.3
    alone, half = (mask_settings(one, 0.15, least=50, most=60).noise for one in (nobody_vouches, vouched))
    step = [mask_settings(one, 0.15, least=50, most=60).step for one in (nobody_vouches, vouched)]
    assert alone * step[0] == pytest.approx(
        5 * half * step[1], rel=0.03
    )  # of 50 devices 25 are counted on, or 1


def test_devices_in_a_noise_plan_add_as_much_as_those_that_are_counted_on_need() -> None:
    privacy = Privacy(clip_rate=0.0, plan=PLAN, honest_share=0.0)
    masks, _ = planned_masks(privacy, least=9, most=10)
    reach = sensitivity_of(masks.clip, masks.step, privacy.count)
    assert masks.noise / reach == pytest.approx(privacy.noise_multiplier)


def test_a_ring_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(OptionError, match="too few"):
        mask_settings(Privacy(ring_bits=4), 0.5, least=80, most=100)


def test_noise_falls_with_devices_and_in_the_subspace() -> None:
    trusting = Privacy(honest_share=1.0)
    assert noise_over_clip(trusting, 20) == pytest.approx(2 * noise_over_clip(trusting, 40))
    assert noise_over_clip(trusting, 20) < noise_over_clip(replace(trusting, subspace=False), 20) / 4


def test_who_counts_on_fewer_has_more_noise() -> None:
    shares = (1.0, 0.25, 0.0)
    all_add, quarter, alone = (noise_over_clip(Privacy(honest_share=one), 100) for one in shares)
    assert (quarter / all_add, alone / all_add) == (pytest.approx(2.0), pytest.approx(10.0))
    # More devices than the fewest bring more noise than the fewest need.
    assert noise_over_clip(Privacy(), 100, 25) == pytest.approx(noise_over_clip(Privacy(), 100))
    assert noise_over_clip(Privacy(honest_share=1.0), 100, 25) == pytest.approx(2 * all_add)


def test_a_higher_quorum_makes_a_larger_sum_sure() -> None:
    assert [sum_that_is_sure(Privacy(), 20, quorum) for quorum in (10, 16, 20)] == [11, 15, 20]


@pytest.mark.parametrize(
    ("noise_multiplier", "devices", "size"),
    [
        (0.0, 10, 0), (0.0, 99, 0), (0.0, 100, 20), (0.0, 10_000, 20),  # masks alone
        # The recommended private run's noise
        (1.21, 900, 0), (1.21, 2_000, 0), (1.21, 3_000, 299), (1.21, 9_000, 100),
        (4.0, 900, 0), (4.0, 9_000, 0),
    ],  # where all devices are counted on to add noise
)  # fmt: skip
def test_groups_come_by_themselves_where_the_cohort_can_afford_them(
    noise_multiplier: float, devices: int, size: int
) -> None:
    run = RunSettings(
        devices=devices,
        quorum=devices,
        privacy=Privacy(noise_multiplier=noise_multiplier, clip=0.1, honest_share=1.0),
    )
    assert run.privacy is not None
    assert run.privacy.group_size == size
    assert RunSettings.from_json(run.to_json()) == run
    if size:
        assert devices // size >= 5
        assert noise_over_clip(run.privacy, devices) <= 0.1 * (1 + 1e-6) or not noise_multiplier


def test_groups_that_come_by_themselves_are_as_many_as_devices_ask_for() -> None:
    run = RunSettings(devices=100, quorum=80, privacy=Privacy(noise_multiplier=0.0))
    assert run.privacy is not None
    assert sum_that_is_sure(run.privacy, 20, run.least) >= 10


def test_who_says_one_sum_gets_one_sum() -> None:
    run = RunSettings(devices=500, quorum=400, privacy=Privacy(noise_multiplier=0.0, group_size=0))
    assert run.privacy is not None
    assert run.privacy.group_size == 0


def test_a_noise_plan_is_for_one_sum_without_being_told() -> None:
    run = RunSettings(
        devices=500, quorum=400, privacy=Privacy(noise_multiplier=0.0, clip_rate=0.0, plan=PLAN)
    )
    assert run.privacy is not None
    assert run.privacy.group_size == 0
