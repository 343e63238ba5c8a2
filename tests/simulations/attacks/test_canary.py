"""The privacy figures that are shown, attacked.

None is too low, and those that count on what is not there are found out.
"""

import numpy as np
import pytest

from palate.server.ledger.spent import Kind, spent_by
from palate.server.secure_sum.privacy import Privacy
from palate.shared.accounting import Cost
from palate.simulations.attacks.canary import DELTA, Case, audit, booked, guesses, noise_of

SUMS = 12_000
DEVICES = 10
REGISTRAR = "ab" * 32


@pytest.mark.parametrize(
    "case",
    [
        Case("no registrar, all add", Privacy(), DEVICES, DEVICES),
        Case("no registrar, all others silent", Privacy(), DEVICES, 1),
        Case("registrar, all add", Privacy(registrar=REGISTRAR), DEVICES, DEVICES),
        Case("registrar, half silent", Privacy(registrar=REGISTRAR), DEVICES, DEVICES // 2),
    ],
    ids=lambda case: case.name,
)
def test_no_audit_finds_more_than_what_a_device_counts(case: Case) -> None:
    assert audit(*guesses(case, SUMS)) <= booked(case).epsilon


def test_with_all_others_silent_the_figure_for_that_holds() -> None:
    case = Case("registrar, all others silent", Privacy(registrar=REGISTRAR), DEVICES, 1)
    found = audit(*guesses(case, SUMS))
    assert 0.5 < found <= booked(case).epsilon_alone


def test_a_figure_that_counts_on_all_others_is_found_out_when_they_are_silent() -> None:
    """The positive control: this is what was booked before a device counted its own noise alone."""
    trusting = Privacy(honest_share=1.0)
    honest, silent = Case("all add", trusting, DEVICES, DEVICES), Case("silent", trusting, DEVICES, 1)
    assert audit(*guesses(honest, SUMS)) <= booked(honest).epsilon < audit(*guesses(silent, SUMS))
    assert booked(silent).epsilon == pytest.approx(1.01, abs=0.01)


def test_without_noise_the_audit_finds_as_much_as_its_sums_can_show() -> None:
    case = Case("no noise", Privacy(noise_multiplier=0.5, honest_share=1.0), DEVICES, 0)
    assert audit(*guesses(case, SUMS)) > 6.5  # six thousand sums bound no rate below one in 1,400


def test_sampling_hides_nobody_from_those_who_know_the_rosters_and_the_figure_for_them_holds() -> None:
    loud = Privacy(noise_multiplier=1.21, registrar=REGISTRAR)
    case = Case("known to be in two rounds", loud, DEVICES, DEVICES // 2, rounds=2)
    noise = noise_of(case)
    kind = Kind(Cost(noise.counted, 0.09).on_grid(), noise.all_add, noise.alone)
    spent = spent_by({kind: 20}, DELTA, 8.0, rounds=20, honest_share=0.5)
    known = {one.rounds: one.epsilon for one in spent.by_rounds}[2]
    found = audit(*guesses(case, SUMS))
    assert spent.if_all_add_epsilon < found <= known < spent.unsampled_epsilon
    assert found > 0.9 * spent.epsilon  # with 40,000 sums it is above: `python -m benchmarks.canary`


def test_an_audit_of_two_equal_worlds_finds_nothing() -> None:
    rng = np.random.default_rng(3)
    assert audit(rng.standard_normal(SUMS), rng.standard_normal(SUMS)) < 0.1
