"""Draw a cohort so that its secrecy counts: every device by its own coin, which nobody else knows.

Where it stands in the flow: the round loop draws a cohort here when a run counts on sampling, and the ledger
then books the round with `sampling=probability`. The gain in privacy (Mironov, Talwar, Zhang 2019) needs
three things:

- Each device is in or out independently of all others. So the cohort's size is random, and must be neither
  filled up nor cut.
- The coins are secret. The seed of `choose_cohort` is in the run's settings, so everybody knows its cohorts.
- What an observer sees must not name the cohort. So the gain does not hold against the server itself.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from palate.shared.checks import check_number
from palate.shared.errors import OptionError

SEED_BYTES = 32


def poisson_cohort(connected: Collection[int], probability: float, seed_bytes: bytes) -> list[int]:
    """Return the connected devices that were drawn, sorted, each independently with the same probability.

    A device's coin is the HMAC-SHA256 of its number, so the draw does not depend on the order of the list.

    Args:
        connected: the numbers of the devices.
        probability: above 0, at most 1; rounded down to a multiple of 2^-64.
        seed_bytes: 32 secret random bytes, fresh for every round (`secrets.token_bytes(32)`).

    Raises:
        OptionError: a probability out of range, or a seed of another length.
    """
    check_number("probability", probability, 0.0, 1.0, above=True)
    if len(seed_bytes) != SEED_BYTES:
        raise OptionError(
            f"the seed of a cohort has {len(seed_bytes)} bytes; it must have {SEED_BYTES}, and be secret"
        )
    below = int(probability * 2**64)  # exact: a float times a power of two
    return [device for device in sorted(set(connected)) if _coin(seed_bytes, device) < below]


def _coin(key: bytes, device: int) -> int:
    digest = hmac.digest(key, b"palate cohort" + device.to_bytes(16, "little", signed=True), hashlib.sha256)
    return int.from_bytes(digest[:8], "little")
