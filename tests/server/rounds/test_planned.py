"""The server's noise plan between ledger and round loop: paid for once, never ahead of the ledger, over when
it is over."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from palate.server.ledger.booking import Ledger, read_spent
from palate.server.ledger.spent import DEVICES, SERVER, PlanSpent
from palate.server.noise_plan.correlated import NoiseState, add_noise, sensitivity_of_column, step_error
from palate.server.noise_plan.folder import NoiseFolder
from palate.server.rounds.planned import PlannedNoise, masks_and_plan
from palate.server.secure_sum.privacy import PlanSettings, Privacy
from palate.server.settings import RunSettings
from palate.shared.accounting import Budget, Cost, epsilon_by_pld
from palate.shared.coding import from_levels
from palate.shared.errors import (
    FileFormatError,
    LedgerDamagedError,
    OptionError,
    PrivacyBudgetError,
    StorageError,
)
from palate.shared.secure_sum.ring import centred, to_ring
from palate.shared.subspace import load_subspace

PLAN = PlanSettings(steps=4, separation=2, noise_multiplier=2.0)
RUN = RunSettings(
    rounds=9,
    devices=3,
    quorum=2,
    privacy=Privacy(noise_multiplier=1.0, honest_share=1.0, clip_rate=0.0, plan=PLAN),
)
BUDGET = Budget(8.0, 1e-5)
ZEROS = np.zeros(40, np.int64)


def opened(home: Path, run: RunSettings = RUN, budget: Budget = BUDGET) -> PlannedNoise:
    return PlannedNoise(home / "noise", run, Ledger(home / "ledger", budget))


def test_what_comes_back_is_the_sum_with_the_plans_noise_modulo_the_ring(tmp_path: Path) -> None:
    noise = opened(tmp_path)
    half = 1 << (noise.masks.ring_bits - 1)
    totals = [ZEROS, np.full(40, half - 1), np.full(40, -half)]  # at the ring's ends noise wraps around
    state, plan = NoiseState(), masks_and_plan(RUN)[1]
    for round_, total in enumerate(totals, start=1):
        seed = (tmp_path / "noise" / "seed").read_bytes()
        wanted, state = add_noise(plan, state, total, [str(round_)], seed)
        found = noise.add(round_, total, {round_}, 3)
        np.testing.assert_array_equal(
            found, centred(to_ring(wanted, noise.masks.ring_bits), noise.masks.ring_bits)
        )
        assert (np.abs(found) <= half).all()
    assert (noise.step, noise.steps) == (3, 4)


def test_who_was_in_a_sum_rests_also_after_a_restart(tmp_path: Path) -> None:
    noise = opened(tmp_path)
    assert noise.rest == 1
    noise.add(1, ZEROS, {7, -8}, 3)
    for one in (noise, opened(tmp_path)):
        assert one.resting() == {7, -8}
    noise.add(2, ZEROS, {9}, 3)
    assert opened(tmp_path).resting() == {9}
    with pytest.raises(OptionError, match="steps ago"):
        noise.add(3, ZEROS, {9}, 3)


def test_the_ledger_counts_what_the_mechanism_says_once_for_all_rounds(tmp_path: Path) -> None:
    noise = opened(tmp_path)
    assert read_spent(tmp_path / "ledger").epsilon == 0
    assert read_spent(tmp_path / "ledger").mechanism == DEVICES
    epsilon = epsilon_by_pld([(Cost(2.0), 1)], 1e-5)
    for number in (1, 2, 3, 4):
        noise.add(number, ZEROS, {number}, 3)
        spent = read_spent(tmp_path / "ledger")
        assert spent.epsilon == pytest.approx(epsilon)
        assert (spent.rounds, spent.mechanism) == (number, SERVER)
        assert spent.plans == (PlanSpent(4, number),)
    # The multiplier is the noise over the longest way that one device can move all sums together.
    masks, plan = masks_and_plan(RUN)
    reach = plan.sensitivity * sensitivity_of_column(plan.column / 256, plan.steps, plan.separation)
    assert plan.sigma / reach == pytest.approx(2.0)
    assert plan.sensitivity * masks.step >= 0.15  # the clip


def test_all_steps_done_is_one_line_that_says_how_to_go_on(tmp_path: Path) -> None:
    noise = opened(tmp_path)
    for number in (1, 2, 3, 4):
        noise.check()
        noise.add(number, ZEROS, {number}, 3)
    for late in (noise.check, lambda: opened(tmp_path), lambda: noise.add(5, ZEROS, {5}, 3)):
        with pytest.raises(PrivacyBudgetError, match="all 4 steps of the noise plan are done") as caught:
            late()
        assert "\n" not in str(caught.value)
    shutil.move(tmp_path / "noise", tmp_path / "old")
    before = read_spent(tmp_path / "ledger").epsilon
    opened(tmp_path).add(5, ZEROS, {1}, 3)
    spent = read_spent(tmp_path / "ledger")
    assert spent.plans == (PlanSpent(4, 4), PlanSpent(4, 1))
    assert spent.epsilon == pytest.approx(epsilon_by_pld([(Cost(2.0), 2)], 1e-5))
    assert spent.epsilon > before


def test_a_plan_beyond_the_budget_does_not_begin_and_nothing_is_spent(tmp_path: Path) -> None:
    with pytest.raises(PrivacyBudgetError, match="noise_multiplier above 2") as caught:
        opened(tmp_path, budget=Budget(1.0, 1e-5))
    assert "\n" not in str(caught.value)
    assert read_spent(tmp_path / "ledger").epsilon == 0


def test_the_noise_of_a_plan_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    opened(tmp_path).add(1, ZEROS, {1}, 3)
    for other in (replace(RUN, devices=4), replace(RUN, quorum=3)):
        with pytest.raises(FileFormatError, match="another plan") as caught:
            opened(tmp_path, other)
        assert "\n" not in str(caught.value)
    assert opened(tmp_path).step == 1


def test_an_older_noise_state_is_noticed_by_the_ledger(tmp_path: Path) -> None:
    noise = opened(tmp_path)
    noise.add(1, ZEROS, {1}, 3)
    shutil.copytree(tmp_path / "noise", tmp_path / "copy")
    noise.add(2, ZEROS, {2}, 3)
    shutil.rmtree(tmp_path / "noise")
    shutil.copytree(tmp_path / "copy", tmp_path / "noise")
    with pytest.raises(LedgerDamagedError, match="an older copy was put back"):
        opened(tmp_path)


def test_a_kill_before_the_ledgers_line_leaves_the_step_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dies(*arguments: object, **options: object) -> None:
        raise Killed

    noise = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "book_plan_round", dies)
        with pytest.raises(Killed):
            noise.add(1, ZEROS, {1}, 3)
    again = opened(tmp_path)
    assert again.step == 1
    assert again.resting() == {1}


def test_a_state_that_cannot_be_kept_gives_no_sum_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = opened(tmp_path)

    def full(self: NoiseFolder, *arguments: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(NoiseFolder, "add", full)
        with pytest.raises(StorageError):
            noise.add(1, ZEROS, {1}, 3)
    assert read_spent(tmp_path / "ledger").plans == (PlanSpent(4, 0),)
    assert noise.step == 0


def test_noise_cancels_in_what_is_learned_and_would_not_if_each_round_rotated_by_itself(
    tmp_path: Path,
) -> None:
    def learned(bands: int, *, alike: bool) -> float:
        """The noise in the sum of 16 rounds' changes, all of nothing, per weight and over the clip."""
        plan = PlanSettings(steps=16, separation=16, noise_multiplier=2.0, bands=bands)
        run = replace(RUN, privacy=Privacy(noise_multiplier=0.0, clip_rate=0.0, plan=plan))
        noise = opened(tmp_path / f"{bands} {alike}", run)
        change = np.zeros(load_subspace().count)
        for number in range(1, 17):
            sum_ = noise.add(number, np.zeros(len(change) + 1, np.int64), {number}, 3)
            seed = noise.rotation if alike else bytes([number]) * 32
            change += from_levels(sum_, 1, step=noise.masks.step, clip=0.15, seed=seed)[0]
        return float(np.std(change)) / 0.15

    correlated = learned(16, alike=True)
    assert correlated < 0.5 * learned(1, alike=True)  # independent noise of the same epsilon
    assert correlated < 0.4 * learned(16, alike=False)


def test_rounds_of_two_plans_rotate_differently_and_those_of_one_alike(tmp_path: Path) -> None:
    first, again, other = opened(tmp_path / "one"), opened(tmp_path / "one"), opened(tmp_path / "two")
    assert first.rotation == again.rotation != other.rotation
    assert len(first.rotation) == 32


@pytest.mark.parametrize(
    ("shares", "ring_bits", "devices"), [(0.0, 16, 3), (1.0, 16, 900), (4.0, 20, 50), (0.5, 32, 3)]
)
def test_the_ring_holds_sum_shares_and_plan(shares: float, ring_bits: int, devices: int) -> None:
    privacy = Privacy(noise_multiplier=shares, ring_bits=ring_bits, clip_rate=0.0, plan=PLAN)
    run = RunSettings(devices=devices, quorum=max(2, 4 * devices // 5), privacy=privacy)
    masks, plan = masks_and_plan(run)
    own = masks.noise * devices**0.5
    together = (own**2 + step_error(plan) ** 2) ** 0.5
    # Six deviations of the noise, and a sum in which all changes are the same and lie along the rotated
    # vector.
    assert 6 * together + devices * plan.sensitivity / 64 < 1 << (ring_bits - 1)


def test_settings_without_a_plan_open_none(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no noise plan"):
        opened(tmp_path, RunSettings(privacy=Privacy()))
