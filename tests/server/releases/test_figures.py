"""What a card says: figures from the ledger for three readers, and when an encoder is not released."""

import math
from pathlib import Path

import pytest
from server_fakes import SHIPPED

from palate.server.ledger.booking import DEVICES, SERVER, Ledger
from palate.server.releases import figures as release_figures
from palate.server.releases.figures import accept, spent_for_card, why_refused
from palate.shared.accounting import Budget, Cost, epsilon_by_pld
from palate.shared.errors import OptionError
from palate.shared.releases.message import Acceptance

GOOD = Acceptance(500, 0.97, 0.99, 0.5)


def test_without_a_ledger_a_card_promises_nothing(tmp_path: Path) -> None:
    assert spent_for_card(tmp_path / "privacy.jsonl") is None


def test_a_card_says_what_holds_against_those_who_know_the_cohort_and_if_the_others_are_silent(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path / "privacy.jsonl", Budget(50.0, 1e-5))
    for number in (1, 2):
        ledger.book(number, Cost(4.0, 0.1), cohort=16)
    found = spent_for_card(tmp_path / "privacy.jsonl")
    assert found is not None
    # Both rounds may have drawn one person, with a chance above delta / 2; one device's noise is a quarter of
    # a sum's.
    for figure, noise in ((found.unsampled_epsilon, 4.0), (found.alone_epsilon, 1.0)):
        assert figure == pytest.approx(epsilon_by_pld([(Cost(noise), 2)], 1e-5 / 2))
    assert found.epsilon < found.unsampled_epsilon < found.alone_epsilon
    assert found.mechanism == DEVICES


def test_where_the_server_adds_the_noise_the_card_says_so_and_counts_on_no_device(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "privacy.jsonl", Budget(50.0, 1e-5))
    ledger.book(1, Cost(4.0), cohort=16, mechanism=SERVER)
    found = spent_for_card(tmp_path / "privacy.jsonl")
    assert found is not None
    assert found.mechanism == SERVER
    assert found.epsilon == found.unsampled_epsilon == found.alone_epsilon
    ledger.book(2, Cost(4.0), cohort=10**9)
    mixed = spent_for_card(tmp_path / "privacy.jsonl")
    assert mixed is not None
    assert math.isinf(mixed.alone_epsilon)  # of so many one device's noise is nothing
    assert mixed.mechanism == SERVER


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (GOOD, ""),
        (Acceptance(500, 0.7, 0.99, 0.5), "somebody may have steered the encoder"),
        (Acceptance(500, 0.97, 0.99, 128.0), "noise is 128 times as long"),
        (Acceptance(500, 0.97, 0.99, math.inf), "noise is inf times as long"),
    ],
)
def test_what_is_worse_or_noise_is_refused_unless_asked_anyway(
    found: Acceptance, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_figures, "TEST", lambda parent, new, memory: found)
    assert (why in why_refused(found)) if why else not why_refused(found)
    if not why:
        assert accept(SHIPPED, SHIPPED, None, anyway=False) == found
        return
    with pytest.raises(OptionError, match=why) as caught:
        accept(SHIPPED, SHIPPED, None, anyway=False)
    assert "--anyway" in str(caught.value)
    assert accept(SHIPPED, SHIPPED, None, anyway=True) == found
