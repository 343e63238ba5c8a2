"""What a release's card says of privacy and of the test before it was signed, and when a release is refused.

Where it stands in the flow: `commands.releases` and `commands.carry` ask here before a release is signed; the
card carries the answers to devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from palate.server.releases.acceptance import accept as accept_on_public_pictures
from palate.server.releases.acceptance import faults
from palate.shared.arrays import Float32s
from palate.shared.encoder import EncoderWeights
from palate.shared.errors import OptionError
from palate.shared.releases.message import Acceptance, PrivacySpent

AcceptanceTest = Callable[[EncoderWeights, EncoderWeights, Mapping[str, Float32s] | None], Acceptance]
"""Called with the parent, the new encoder and the checkpoint's memory; returns what the test found."""

TEST: AcceptanceTest = accept_on_public_pictures
"""The test that releases are put to."""


def accept(
    parent: EncoderWeights,
    encoder: EncoderWeights,
    memory: Mapping[str, Float32s] | None,
    *,
    anyway: bool,
) -> Acceptance:
    """Return what the test found; raise OptionError for what is worse or noise, unless `anyway`."""
    found = TEST(parent, encoder, memory)
    wrong = why_refused(found)
    if wrong and not anyway:
        raise OptionError(
            f"this encoder is not released: {wrong}; train on, go back to the release before, or release it "
            "with --anyway, and the card says so"
        )
    return found


def why_refused(found: Acceptance) -> str:
    """Return why an encoder is refused, empty for one that is not."""
    return "; ".join(faults(found))


def spent_for_card(ledger: Path) -> PrivacySpent | None:
    """Return what a card says of the privacy that was spent up to a release; None without a ledger."""
    from palate.server.ledger.booking import read_spent

    if not ledger.exists():
        return None
    spent = read_spent(ledger)
    return PrivacySpent(
        spent.epsilon, spent.delta, spent.mechanism, spent.unsampled_epsilon, spent.alone_epsilon
    )
