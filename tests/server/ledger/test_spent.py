"""What rounds have spent, by whose noise is counted on and by who knows who took part."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.server.ledger.spent import SERVER, Kind, PlanSpent, chance_of, rounds_of_one, spent_by
from palate.shared.accounting import Cost, epsilon_by_pld

DELTA = 4e-5
SAMPLED = Kind(Cost(1.21, 0.09), 1.71, 0.06)


def exactly(rounds: int, chance: float, k: int) -> float:
    return math.comb(rounds, k) * chance**k * (1 - chance) ** (rounds - k)


@given(st.integers(1, 60), st.floats(0.001, 0.99), st.sampled_from([1e-2, 1e-5, 1e-9]))
@settings(max_examples=200, deadline=None)
def test_one_person_is_in_more_rounds_than_that_with_the_probability_that_is_left_for_it(
    rounds: int, chance: float, doubt: float
) -> None:
    most = rounds_of_one(rounds, chance, doubt)
    above = [sum(exactly(rounds, chance, k) for k in range(n + 1, rounds + 1)) for n in (most - 1, most)]
    assert above[1] <= doubt * (1 + 1e-9)
    assert most == 1 or above[0] > doubt * (1 - 1e-9)
    assert chance_of(rounds, chance, most) == pytest.approx(above[0])


def test_who_knows_the_rosters_is_told_what_sampling_hides_from_others() -> None:
    spent = spent_by({SAMPLED: 20}, DELTA, 2.0, rounds=20, honest_share=0.5)
    assert spent.epsilon == pytest.approx(1.98, abs=0.01)
    by_rounds = {one.rounds: one.epsilon for one in spent.by_rounds}
    # A person who is known to have been in two of the rounds: Balle and Wang's exact figure of two Gaussians.
    assert (by_rounds[1], by_rounds[2]) == (pytest.approx(3.24, abs=0.01), pytest.approx(4.86, abs=0.01))
    chances = {one.rounds: one.chance for one in spent.by_rounds}
    assert chances[1] == pytest.approx(1 - 0.91**20)
    assert chances[2] == pytest.approx(1 - 0.91**20 - 20 * 0.09 * 0.91**19)
    assert set(by_rounds) == {*range(1, spent.most_rounds + 1), 20}
    # Both halves of delta together, so that the figure holds before the draws.
    assert 1 - sum(exactly(20, 0.09, k) for k in range(spent.most_rounds + 1)) <= DELTA / 2
    known = [(Cost(1.21), spent.most_rounds)]
    assert spent.unsampled_epsilon == pytest.approx(epsilon_by_pld(known, DELTA / 2))
    assert (
        spent.if_all_add_epsilon
        < spent.epsilon
        < by_rounds[2]
        < spent.unsampled_epsilon
        < spent.alone_epsilon
    )


def test_without_sampling_there_is_nothing_to_be_known() -> None:
    spent = spent_by({Kind(Cost(4.0), 4.0, 4.0): 5}, DELTA, 8.0, rounds=5, honest_share=0.0)
    assert spent.epsilon == spent.unsampled_epsilon == spent.alone_epsilon == spent.if_all_add_epsilon
    assert (spent.most_rounds, spent.by_rounds) == (0, ())
    (line,) = spent.describe()
    assert line.endswith("also if no device but a person's own adds its noise")


def test_of_rounds_with_different_noise_those_with_the_least_are_taken_and_unsampled_ones_all() -> None:
    loud, whole = Kind(Cost(5.0, 0.09), 5.0, 1.0), Kind(Cost(8.0), 8.0, 8.0)
    spent = spent_by({loud: 10, SAMPLED: 1, whole: 3}, DELTA, 8.0, rounds=14)
    known = {one.rounds: one.epsilon for one in spent.by_rounds}
    assert known[1] == pytest.approx(epsilon_by_pld([(Cost(8.0), 3), (Cost(1.21), 1)], DELTA))
    assert known[2] == pytest.approx(epsilon_by_pld([(Cost(8.0), 3), (Cost(1.21), 1), (Cost(5.0), 1)], DELTA))


def test_a_plan_rests_on_no_device() -> None:
    plan = Kind(Cost(2.0), 2.0, 2.0)
    spent = spent_by({plan: 1}, DELTA, 8.0, rounds=1, mechanism=SERVER, plans=(PlanSpent(20, 1),))
    assert spent.epsilon == spent.alone_epsilon
    assert "rests on this server" in spent.describe()[-1]


def test_a_thousand_sampled_rounds_have_a_table_that_can_be_read() -> None:
    spent = spent_by({replace(SAMPLED, cost=Cost(30.0, 0.1)): 1000}, DELTA, 8.0, rounds=1000)
    assert len(spent.by_rounds) == 32
    assert [one.rounds for one in spent.by_rounds[-2:]] == [spent.most_rounds, 1000]


def test_one_devices_noise_that_is_next_to_none_makes_the_worst_figure_infinite() -> None:
    spent = spent_by({Kind(Cost(4.0), 4.0, 0.0): 1}, DELTA, 8.0, rounds=1)
    assert math.isinf(spent.alone_epsilon)
    assert spent.to_json()["alone_epsilon"] is None
    assert "nothing is what holds" in spent.describe()[-1]
