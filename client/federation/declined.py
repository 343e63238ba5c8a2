"""The only words about a device's refusals that ever leave it, and what else the parts of taking part in rounds have in common.

Where it stands in the flow: `joining` and `masked_answers` raise `Declined`, `app` sends its reason. Texts of exceptions stay on the device:
they may quote a comment, so none is sent, printed or logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from palate.shared.arrays import Float32s
from palate.shared.reasons import Reason
from palate.shared.releases.check import LARGEST_ENCODER
from palate.shared.update import norm_of

Send = Callable[[bytes], None]
"""Called at most once per message with the bytes that go to the server; empty bytes say "not this time"."""

Notice = Callable[[str], None]
"""Called with one line for the person at this device; made of constants and counts, never of what is in the vault."""


class Declined(Exception):  # noqa: N818 - an answer, not an error of this program
    """A task is not done; `reason` is what the server is told."""

    def __init__(self, reason: Reason) -> None:
        """Take a reason of the fixed list; there is no room for another text."""
        super().__init__(reason.value)
        self.reason = reason


def check_encoder(tensors: Mapping[str, Float32s]) -> None:
    """Raise `Declined` for an encoder that is out of bounds."""
    if not math.hypot(*(norm_of(tensor) for tensor in tensors.values())) <= LARGEST_ENCODER:
        raise Declined(Reason.ENCODER_TOO_LARGE)
