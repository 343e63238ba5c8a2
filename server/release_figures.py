"""What a release's card says of privacy and of the test before it was signed, and when a release is refused.

Where it stands in the flow: `release_cli` and `carry_cli` ask here before a release is signed; the card carries the answers to devices.
"""

from __future__ import annotations

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
    """Return what a card says of the privacy that was spent up to a release; None without a ledger."""
    from palate.server.ledger import read_spent

    if not ledger.exists():
        return None
    spent = read_spent(ledger)
    return PrivacySpent(
        spent.epsilon, spent.delta, spent.mechanism, spent.unsampled_epsilon, spent.alone_epsilon
    )
