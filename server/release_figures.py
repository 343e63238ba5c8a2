"""What a release's card says of privacy and of the test before it was signed, and when a release is refused.

Where it stands in the flow: `release_cli` and `carry_cli` ask here before a release is signed; the card carries the answers to devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from palate.shared.encoder import EncoderWeights
from palate.shared.errors import OptionError
from palate.shared.release import Acceptance, PrivacySpent

AcceptanceTest = Callable[[EncoderWeights, EncoderWeights], Acceptance]
"""From the encoder of the release before (the parent) and the new one to what a test on public pictures found."""

LEAST_MEAN: Final = 0.95
"""The lowest mean correlation of the attributes with the parent's that is released."""
LEAST_LOWEST: Final = 0.8
"""The lowest correlation of any one attribute with the parent's that is released: a targeted lie moves few of them."""
MOST_NOISE: Final = 1.0
"""From how much noise for each part of signal on a release teaches devices noise."""

TEST: AcceptanceTest | None = None
"""The test that releases are put to; None: there is none, and cards say so."""


def accept(
    parent: EncoderWeights, encoder: EncoderWeights, *, test: AcceptanceTest | None, anyway: bool
) -> Acceptance | None:
    """Return what the test found, None without one; raise OptionError for what is worse or noise, unless `anyway`."""
    if test is None:
        return None
    found = test(parent, encoder)
    wrong = why_refused(found)
    if wrong and not anyway:
        raise OptionError(
            f"this encoder is not released: {wrong} ({found.describe()}); train on, go back to the release before, or release it "
            "with --anyway, and the card says so"
        )
    return found


def why_refused(found: Acceptance) -> str:
    """Return why an encoder is refused, in a few words, empty for one that is not."""
    if found.mean_correlation < LEAST_MEAN:
        return f"it forgot what the release before knew (mean correlation below {LEAST_MEAN:g})"
    if found.least_correlation < LEAST_LOWEST:
        return f"one attribute means something else (correlation below {LEAST_LOWEST:g})"
    if not found.noise_over_signal <= MOST_NOISE:
        return f"it is more noise than signal (above {MOST_NOISE:g})"
    return ""


def spent_for_card(ledger: Path) -> PrivacySpent | None:
    """Return what a card says of the privacy that was spent up to a release; None without a ledger.

    `unsampled_epsilon` counts each round as if its cohort were known. `alone_epsilon` counts each device's own noise alone, which is at
    least the round's noise over the square root of the cohort that was asked; where the server adds the noise there is no bound.
    """
    from palate.server.ledger import DEVICES, read_spent
    from palate.server.ledger_file import read_lines
    from palate.shared.accounting import epsilon_of_rho, rho_of

    if not ledger.exists():
        return None
    spent = read_spent(ledger)
    unsampled = alone = 0.0
    for line in read_lines(ledger).lines:
        content = line.content
        if content["kind"] == "round":
            rho = rho_of(content["noise_multiplier"])
            unsampled += rho
            alone += rho * content["cohort"] if content["mechanism"] == DEVICES else math.inf
        elif content["kind"] == "plan":
            unsampled += rho_of(content["noise_multiplier"])
            alone = math.inf
    known, silent = (
        math.inf if math.isinf(rho) else epsilon_of_rho(rho, spent.delta) for rho in (unsampled, alone)
    )
    return PrivacySpent(spent.epsilon, spent.delta, spent.mechanism, known, silent)
