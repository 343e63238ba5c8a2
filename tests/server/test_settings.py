"""The settings of a run: ranges, unknown keys, and the way through JSON."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from palate.server.ledger.spent import Kind, spent_by
from palate.server.rounds.planned import masks_and_plan
from palate.server.secure_sum.privacy import Privacy
from palate.server.settings import RunSettings
from palate.shared.accounting import Budget, Cost, epsilon_by_pld, epsilon_of_rho, rho_of, rounds_by_rho
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.sum_noise import sum_noise
from palate.shared.update import LocalSettings


def test_settings_come_back_from_json_as_they_were() -> None:
    one = RunSettings(
        rounds=7,
        devices=20,
        quorum=11,
        strategy="fedprox",
        local=LocalSettings(proximal=0.3, learning_rate=0.07),
    )
    assert RunSettings.from_json(one.to_json()) == one


def test_an_empty_text_gives_the_defaults() -> None:
    assert RunSettings.from_json("") == RunSettings()


@pytest.mark.parametrize(
    "bad",
    [
        {"rounds": 0},
        {"rounds": True},
        {"devices": 2.0},
        {"quorum": 4},
        {"deadline_seconds": 0},
        {"deadline_seconds": float("nan")},
        {"over_sampling": 0.9},
        {"strategy": "krum"},
        {"strategy": "fedprox"},
        {"local": {"proximal": 0.5}},
        {"local": {"steps": 0}},
        {"max_norm": -1},
        {"seed": -1},
    ],
)
def test_a_value_outside_its_range_is_one_line(bad: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        RunSettings.from_json(json.dumps(bad))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"rouns": 3}', '{"local": {"step": 3}}', '{"local": 5}'])
def test_text_that_is_no_settings_is_refused_and_the_keys_are_named(text: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        RunSettings.from_json(text)
    assert "\n" not in str(caught.value)


def test_over_sampling_asks_more_devices_than_are_wanted() -> None:
    assert RunSettings(devices=10, over_sampling=1.3).asked == 13
    assert RunSettings(devices=3, over_sampling=1.1).asked == 4
    assert RunSettings(devices=3).asked == 3


def test_the_settings_in_the_documents_are_taken_as_they_stand() -> None:
    text = (Path(__file__).parents[2] / "docs" / "private-run.toml").read_text(encoding="utf-8")
    found = RunSettings.from_json(json.dumps(tomllib.loads(text)))
    assert found.privacy is not None
    cost = Cost(found.privacy.noise_multiplier, 0.09)
    assert epsilon_by_pld([(cost, 20)], found.privacy.delta) <= found.privacy.epsilon == 2.0


def test_the_planned_run_in_the_documents_costs_what_they_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "planned-run.toml").read_text(encoding="utf-8")
    found = RunSettings.from_json(json.dumps(tomllib.loads(text)))
    assert found.privacy is not None
    plan = found.privacy.plan
    assert plan is not None
    spent = epsilon_by_pld([(Cost(plan.noise_multiplier).on_grid(), 1)], found.privacy.delta)
    assert 1.98 < spent <= found.privacy.epsilon == 2.0
    # A device counts its own share, at the usual delta, for each of the ten sums that it may be in.
    for privacy in (found.privacy, replace(found.privacy, registrar="ab" * 32)):
        masks, on_levels = masks_and_plan(replace(found, privacy=privacy))
        sure = sum_noise(
            masks.noise,
            devices=masks.least,
            sensitivity=on_levels.sensitivity,
            dimension=privacy.count + 1,
            honest_share=privacy.counted_share,
        )
        assert on_levels.participations == 10
        assert epsilon_of_rho(10 * rho_of(sure.counted), 1e-5) == pytest.approx(7.25, abs=0.05)


def test_the_recommended_private_run_costs_what_its_comment_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "private-run.toml").read_text(encoding="utf-8")
    found = RunSettings.from_json(json.dumps(tomllib.loads(text))).privacy
    assert found is not None
    multiplier, fewest = found.noise_multiplier, 810 // 2
    all_add = multiplier * 2**0.5
    kind = Kind(
        Cost(multiplier, 0.09).on_grid(), Cost(all_add).on_grid().noise_multiplier, multiplier / fewest**0.5
    )
    spent = spent_by({kind: 20}, found.delta, found.epsilon, rounds=20, honest_share=0.5)
    assert spent.epsilon == pytest.approx(1.98, abs=0.01)
    assert spent.if_all_add_epsilon == pytest.approx(1.08, abs=0.01)
    assert (spent.unsampled_epsilon, spent.most_rounds) == (pytest.approx(12.7, abs=0.1), 9)
    assert [one.epsilon for one in spent.by_rounds[:3]] == pytest.approx([3.24, 4.87, 6.21], abs=0.01)
    assert rounds_by_rho(Budget(8.0, 1e-5), multiplier) == 3


def test_settings_that_earlier_versions_wrote_can_be_read_where_they_mean_what_a_run_does_today() -> None:
    before = {"rounds": 5, "liars": 0, "trim": 0.2, "privacy": {"group_size": 5, "rule": "centred clipping"}}
    assert RunSettings.from_json(json.dumps(before)) == RunSettings(rounds=5, privacy=Privacy(group_size=5))
    for other in ({"liars": 2}, {"trim": 0.3}, {"privacy": {"rule": "median"}}):
        with pytest.raises(FileFormatError, match="unknown key"):
            RunSettings.from_json(json.dumps(other))
