"""The card of a release: what is said, and signed, of one encoder; nothing on it is about a single device.

Where it stands in the flow: the server fills in a card for each release (`server.releases`), the release key
signs it as an entry of the log (`releases.log`), devices show it to their owners and check the encoder
against it (`releases.check`).

    card   release 4 | round 4 | updates 8 | hash 32 | parent 32 | shapes 32 | fixed 32 | backbone 32 |
           sha256 32 | epsilon 8 | delta 8 | unsampled epsilon 8 | alone epsilon 8 | mechanism 32 |
           pictures 4 | least correlation 8 | mean correlation 8 | noise over signal 8

Numbers are little endian, whole ones unsigned, others IEEE 754 of 8 bytes; a mechanism is a word filled up
with zero bytes. Without a `PrivacySpent` its five values are zero, without an `Acceptance` its four: a
mechanism has letters and a test has pictures, so there is one way of writing each card.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any, Final

from palate.shared.errors import ReleaseError
from palate.shared.releases.fields import check_hash, check_number, keep_reals

CARD: Final = struct.Struct("<IIQ32s32s32s32s32s32sdddd32sIddd")

_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HASHES = ("hash", "parent", "shapes", "fixed", "backbone", "sha256")


@dataclass(frozen=True)
class PrivacySpent:
    """What the rounds up to a release have spent: user-level (epsilon, delta), and by which mechanism.

    Three figures at one delta, for three readers of the release. `epsilon` holds against those who see
    releases only, if devices were drawn in secret and the others added their noise. `unsampled_epsilon` holds
    against everybody who knows who took part, as every participant does. `alone_epsilon` holds even if the
    other devices added no noise; infinite if nothing holds then.

    Numbers that the server claims; a device believes them as far as it believes the server, and keeps a
    ledger of its own.
    """

    epsilon: float  # at least 0
    delta: float  # from 0 to below 1
    mechanism: str  # up to 32 of a-z, 0-9 and -
    unsampled_epsilon: float  # at least 0
    alone_epsilon: float  # at least 0; infinity allowed

    def __post_init__(self) -> None:
        keep_reals(self, {"epsilon": (0.0, math.inf), "delta": (0.0, math.nextafter(1.0, 0.0))})
        others = {"unsampled_epsilon": (0.0, math.inf), "alone_epsilon": (0.0, math.inf)}
        keep_reals(self, others, infinite=True)
        if not isinstance(self.mechanism, str) or not _WORD.fullmatch(self.mechanism):
            raise ReleaseError(
                "the release's mechanism is no word of up to 32 small letters, digits and hyphens", "number"
            )

    def describe(self) -> str:
        """Return the figures in words for a person."""
        return (
            f"epsilon {self.epsilon:.3g} against those who see releases, {_figure(self.unsampled_epsilon)} "
            f"against those who know who took part, {_figure(self.alone_epsilon)} if the other devices add "
            f"no noise; delta {self.delta:g}, {self.mechanism}"
        )


@dataclass(frozen=True)
class Acceptance:
    """What the test on public pictures found before the release was signed, next to its parent.

    Correlations are Pearson's, over the pictures, of what the new encoder and its parent say of an attribute:
    the lowest over the attributes and the mean. `noise_over_signal` is the length of the noise in what was
    learned over that of the rest.
    """

    pictures: int  # from 1
    least_correlation: float  # -1 to 1
    mean_correlation: float  # -1 to 1
    noise_over_signal: float  # at least 0; infinity allowed

    def __post_init__(self) -> None:
        check_number("pictures", self.pictures, 1, 2**32 - 1)
        keep_reals(self, {"least_correlation": (-1.0, 1.0), "mean_correlation": (-1.0, 1.0)})
        keep_reals(self, {"noise_over_signal": (0.0, math.inf)}, infinite=True)

    def describe(self) -> str:
        """Return the figures in words for a person."""
        return (
            f"on {self.pictures:,} public pictures its attributes correlate with the release before by "
            f"{self.mean_correlation:.3f} on average and {self.least_correlation:.3f} at least; noise over "
            f"signal {self.noise_over_signal:.3g}"
        )


@dataclass(frozen=True)
class Card:
    """What is said, and signed, of one release. Hashes are SHA-256 in hexadecimal."""

    release: int  # from 1
    round: int  # after which it was made
    updates: int  # that went into it, as the checkpoint it was taken from counted them
    hash: str  # `encoder_hash`
    parent: str  # `encoder_hash` of the release before it
    shapes: str  # `shapes_hash`
    fixed: str  # `fixed_hash`
    backbone: str  # `backbone_hash` of what it was trained on
    sha256: str  # of the encoder's file
    privacy: PrivacySpent | None = None  # None: the server promises nothing
    acceptance: Acceptance | None = None  # None: no test was made

    def __post_init__(self) -> None:
        check_number("release", self.release, 1, 2**32 - 1)
        check_number("round", self.round, 0, 2**32 - 1)
        check_number("updates", self.updates, 0, 2**64 - 1)
        for name in _HASHES:
            check_hash(name, getattr(self, name))


def card_to_json(card: Card) -> dict[str, Any]:
    """Return a card as command lines print it; a figure that is infinite is null there."""
    spent, test = card.privacy, card.acceptance
    plain = {name: getattr(card, name) for name in ("release", "round", "updates", *_HASHES)}
    return {
        **plain,
        "privacy": None if spent is None else {name: _finite(value) for name, value in vars(spent).items()},
        "acceptance": None if test is None else {name: _finite(value) for name, value in vars(test).items()},
    }


def encode_card(card: Card) -> bytes:
    """Return the bytes of a card."""
    p, a = card.privacy, card.acceptance
    spent = (
        (p.epsilon, p.delta, p.unsampled_epsilon, p.alone_epsilon, p.mechanism.encode("ascii"))
        if p
        else (0.0, 0.0, 0.0, 0.0, b"")
    )
    found = (
        (a.pictures, a.least_correlation, a.mean_correlation, a.noise_over_signal)
        if a
        else (0, 0.0, 0.0, 0.0)
    )
    hashes = (bytes.fromhex(getattr(card, name)) for name in _HASHES)
    return CARD.pack(card.release, card.round, card.updates, *hashes, *spent, *found)


def decode_card(values: tuple[Any, ...]) -> Card:
    """Return the card of the values that `CARD` unpacked.

    Raises:
        ReleaseError: any that `encode_card` would not write.
    """
    hashes = dict(zip(_HASHES, (value.hex() for value in values[3:9]), strict=True))
    epsilon, delta, unsampled, alone, padded = values[9:14]
    pictures, least, mean, noise = values[14:]
    word = padded.rstrip(b"\0")
    card = Card(
        release=values[0],
        round=values[1],
        updates=values[2],
        **hashes,
        privacy=PrivacySpent(epsilon, delta, word.decode("ascii", "replace"), unsampled, alone)
        if word
        else None,
        acceptance=Acceptance(pictures, least, mean, noise) if pictures else None,
    )
    if encode_card(card) != CARD.pack(*values):  # zero bytes inside of a word, figures without a word, -0.0
        raise ReleaseError("the release has a number that is written in another way than the one", "number")
    return card


def _figure(epsilon: float) -> str:
    return f"{epsilon:.3g}" if math.isfinite(epsilon) else "no bound"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
