"""The device's own count: budgets, rounds without protection, records that lie, a real vault."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.client.privacy.budget import (
    PRIVACY_BUDGET,
    PRIVACY_SPENT,
    OwnBudget,
    book_round,
    check_round,
    read_budget,
    read_spent,
    write_budget,
)
from palate.client.vault.store import ONLY, MemoryStore
from palate.client.vault.vault import Vault
from palate.shared.accounting import epsilon_of_rho, rho_of
from palate.shared.errors import OptionError, PrivacyBudgetError, VaultBusyError, VaultDamagedError
from palate.shared.sum_noise import SumNoise

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_a_new_device_has_spent_nothing_and_has_the_default_budget() -> None:
    spent = read_spent(MemoryStore())
    assert spent.to_json() == {
        "epsilon": 0.0, "protected_epsilon": 0.0, "epsilon_if_all_add": 0.0, "epsilon_alone": 0.0,
        "delta": 1e-5, "budget": 8.0, "rounds": 0,
        "unprotected_rounds": 0, "unprotected_allowed": False, "last": None,
    }  # fmt: skip


def test_rounds_add_up_to_what_google_counts() -> None:
    import dp_accounting

    store = MemoryStore()
    accountant = dp_accounting.rdp.RdpAccountant()
    for multiplier in (6.0, 6.0, 9.0, 20.0):
        book_round(store, multiplier, now=NOW)
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
    spent = read_spent(store)
    assert spent.rounds == 4
    assert spent.last == "2026-11-21T12:00:00+00:00"
    exact = dp_accounting.get_epsilon_gaussian((2 * spent.rho) ** -0.5, 1e-5)
    assert exact <= spent.epsilon <= accountant.get_epsilon(1e-5) * (1 + 1e-9)
    assert spent.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_a_round_beyond_the_budget_is_declined_before_training_and_not_booked() -> None:
    store = MemoryStore()
    write_budget(store, OwnBudget(2.0, 1e-5))
    booked = 0
    while epsilon_of_rho((booked + 1) * rho_of(8.0), 1e-5) <= 2.0:
        check_round(store, 8.0)
        booked = book_round(store, 8.0, now=NOW).rounds
    with pytest.raises(PrivacyBudgetError) as caught:
        check_round(store, 8.0)
    assert "\n" not in str(caught.value)
    assert booked > 2
    assert read_spent(store).epsilon <= 2.0
    with pytest.raises(PrivacyBudgetError, match="above your budget of 2"):
        book_round(store, 8.0, now=NOW)
    assert read_spent(store).rounds == booked
    check_round(store, 10_000.0)  # what costs next to nothing still fits


def test_the_budget_is_held_to_what_is_counted_and_the_others_noise_is_told_beside_it() -> None:
    store = MemoryStore()
    write_budget(store, OwnBudget(4.0))
    sure = SumNoise(counted=2.0, all_add=8.0, alone=1.0)
    spent = book_round(store, sure, now=NOW)
    assert spent == read_spent(store)
    assert spent.epsilon == epsilon_of_rho(rho_of(2.0), 1e-5)
    assert spent.epsilon_if_all_add == epsilon_of_rho(rho_of(8.0), 1e-5)
    assert spent.epsilon_alone == epsilon_of_rho(rho_of(1.0), 1e-5) > 4.0
    counted, if_all, alone = (
        spent.to_json()[name] for name in ("epsilon", "epsilon_if_all_add", "epsilon_alone")
    )
    assert spent.describe() == (
        f"counts epsilon {counted:.3g}; if the other devices also add their noise: {if_all:.3g}; if none of "
        f"them does: {alone:.3g}"
    )
    while True:
        try:
            book_round(store, sure, now=NOW)
        except PrivacyBudgetError:
            break
    assert read_spent(store).epsilon <= 4.0
    assert read_spent(store).epsilon_if_all_add < 2.0  # by which there would be room


def test_a_refusal_for_want_of_a_registrar_says_so() -> None:
    store = MemoryStore()
    write_budget(store, OwnBudget(1.0))
    with pytest.raises(PrivacyBudgetError, match="no registrar is pinned") as caught:
        check_round(store, SumNoise(counted=1.0, all_add=10.0, alone=1.0))
    assert "\n" not in str(caught.value)
    check_round(store, SumNoise(counted=10.0, all_add=10.0, alone=1.0))  # the same round, with one


@pytest.mark.parametrize(
    "wrong", [(2.0, 1.0, 1.0), (1.0, 2.0, 1.5), (math.nan, 2.0, 1.0), (1.0, math.inf, 1.0)]
)
def test_noise_that_grows_with_fewer_devices_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(OptionError):
        SumNoise(*wrong)


def test_a_count_of_the_first_version_stays_as_it_was_booked() -> None:
    store = MemoryStore()
    first = {"version": 1, "rounds": 2, "rho": 0.001, "unprotected_rounds": 0, "last": "2026"}
    store.put(PRIVACY_SPENT, ONLY, json.dumps(first).encode())
    spent = read_spent(store)
    assert (spent.rounds, spent.rho, spent.rho_if_all_add) == (2, 0.001, 0.001)
    assert spent.rho_alone == pytest.approx(1.0)  # of a sum of a thousand, which is the largest
    assert book_round(store, 4.0, now=NOW).rho == pytest.approx(0.001 + rho_of(4.0))
    assert json.loads(store.get(PRIVACY_SPENT, ONLY))["version"] == 2
    for damaged in ({"rho": "0.1"}, {"rho": None}, {"rho": 0.0}):
        store.put(PRIVACY_SPENT, ONLY, json.dumps({**first, **damaged}).encode())
        with pytest.raises(VaultDamagedError):
            read_spent(store)


def test_a_check_alone_writes_nothing() -> None:
    store = MemoryStore()
    assert check_round(store, 5.0).rounds == 1
    assert read_spent(store).rounds == 0


@pytest.mark.parametrize("multiplier", [0, 0.0, 1e-9, 5e-324])
def test_a_round_without_noise_needs_the_persons_word_and_is_counted_as_infinite(multiplier: float) -> None:
    store = MemoryStore()
    book_round(store, 10.0, now=NOW)
    with pytest.raises(PrivacyBudgetError, match="no masks or no noise"):
        check_round(store, multiplier)
    write_budget(store, OwnBudget(unprotected=True))
    book_round(store, multiplier, now=NOW)
    spent = read_spent(store)
    assert math.isinf(spent.epsilon)
    assert spent.to_json()["epsilon"] is None
    assert (spent.rounds, spent.unprotected_rounds) == (1, 1)
    assert spent.protected_epsilon == epsilon_of_rho(rho_of(10.0), 1e-5)
    write_budget(store, OwnBudget())
    with pytest.raises(PrivacyBudgetError):
        check_round(store, multiplier)
    check_round(store, 10.0)  # rounds with protection go on within their budget


@pytest.mark.parametrize("multiplier", [math.nan, math.inf, -math.inf, -1.0, "8", None, True])
def test_noise_that_is_no_number_is_refused(multiplier: float) -> None:
    store = MemoryStore()
    write_budget(store, OwnBudget(unprotected=True))
    with pytest.raises(OptionError, match="noise_multiplier is"):
        book_round(store, multiplier, now=NOW)
    assert read_spent(store).unprotected_rounds == 0


def test_noise_without_measure_costs_nearly_nothing_but_counts() -> None:
    store = MemoryStore()
    assert book_round(store, 1e300, now=NOW).rounds == 1
    assert 0 < read_spent(store).rho < 1e-17


@pytest.mark.parametrize(
    ("epsilon", "delta", "unprotected"),
    [(0.0, 1e-5, False), (-1.0, 1e-5, False), (math.nan, 1e-5, False), (math.inf, 1e-5, False),
     (8.0, 0.0, False),
     (8.0, 1.0, False), (8.0, math.nan, False), (8.0, 1e-5, 1), (8.0, 1e-5, "yes")],
)  # fmt: skip
def test_a_budget_outside_its_range_is_refused(epsilon: float, delta: float, unprotected: bool) -> None:
    with pytest.raises(OptionError):
        OwnBudget(epsilon, delta, unprotected)


def test_a_budget_comes_back_and_a_smaller_delta_makes_what_was_spent_more() -> None:
    store = MemoryStore()
    book_round(store, 3.0, now=NOW)
    before = read_spent(store).epsilon
    write_budget(store, OwnBudget(1.5, 1e-8))
    assert read_budget(store) == OwnBudget(1.5, 1e-8)
    assert read_spent(store).epsilon > before
    with pytest.raises(PrivacyBudgetError):
        check_round(store, 100.0)


def test_a_time_without_a_zone_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zone"):
        book_round(MemoryStore(), 5.0, now=datetime(2026, 1, 1))


SOUND = {
    "version": 2, "rounds": 2, "rho": 0.1, "rho_if_all_add": 0.05, "rho_alone": 0.1, "unprotected_rounds": 0,
    "last": "2026",
}  # fmt: skip
DAMAGED = [
    {"rounds": -1}, {"rounds": 1.0}, {"rounds": True}, {"rounds": 2**60}, {"rounds": 0}, {"rho": -0.1},
    {"rho": 0.0}, {"rho": 0},
    {"rho": math.nan}, {"rho": math.inf}, {"rho": "0.1"}, {"unprotected_rounds": -1}, {"last": None},
    {"version": 3}, {"version": 1}, {"version": True},
    {"more": 1}, {"rho_alone": 0.09}, {"rho_if_all_add": 0.2}, {"rho_if_all_add": 0.0}, {"rho_alone": None},
    {"rho_alone": math.inf},
]  # fmt: skip


@pytest.mark.parametrize("change", DAMAGED, ids=str)
def test_a_count_that_lies_is_refused(change: dict[str, object]) -> None:
    store = MemoryStore()
    store.put(PRIVACY_SPENT, ONLY, json.dumps(SOUND).encode())
    assert read_spent(store).rounds == 2
    store.put(PRIVACY_SPENT, ONLY, json.dumps({**SOUND, **change}).encode())
    for use in (read_spent, lambda store: check_round(store, 50.0)):
        with pytest.raises(VaultDamagedError):
            use(store)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"version": 1}',
        b'{"version": 1, "epsilon": 0, "delta": 1e-5, "unprotected": false}',
    ],
)
def test_a_budget_that_cannot_be_read_stops_everything(data: bytes) -> None:
    store = MemoryStore()
    store.put(PRIVACY_BUDGET, ONLY, data)
    with pytest.raises(VaultDamagedError):
        check_round(store, 50.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(2.0, 50.0), max_size=60), st.floats(0.5, 10.0))
def test_whatever_comes_the_budget_is_never_passed(multipliers: list[float], epsilon: float) -> None:
    store = MemoryStore()
    write_budget(store, OwnBudget(epsilon))
    taken = []
    for multiplier in multipliers:
        try:
            book_round(store, multiplier, now=NOW)
        except PrivacyBudgetError:
            continue
        taken.append(multiplier)
    spent = read_spent(store)
    assert spent.epsilon <= epsilon
    assert spent.rounds == len(taken)
    assert spent.rho == pytest.approx(sum(rho_of(one) for one in taken))


@pytest.mark.usefixtures("remembered_keys")
def test_a_vault_keeps_the_count_and_two_processes_cannot_spend_the_same_rest(tmp_path: Path) -> None:
    with Vault.create(tmp_path / "vault", "correct horse") as vault:
        write_budget(vault, OwnBudget(2.0))
        book_round(vault, 8.0, now=NOW)
        with Vault.open(tmp_path / "vault", "correct horse") as other:
            book_round(other, 8.0, now=NOW)
            assert book_round(vault, 8.0, now=NOW).rounds == 3
            with vault.transaction(), pytest.raises(VaultBusyError), other.transaction(wait_seconds=0.1):
                pass
    with Vault.open(tmp_path / "vault", "correct horse") as again:
        assert read_spent(again).rounds == 3
        assert read_budget(again) == OwnBudget(2.0)


def test_a_check_loads_no_accountant() -> None:
    code = (
        "import sys; from palate.client.privacy.budget import check_round; from palate.client.vault.store "
        "import MemoryStore\n"
        "check_round(MemoryStore(), 5.0)\n"
        "print([one for one in ('dp_accounting', 'scipy', 'torch') if one in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
