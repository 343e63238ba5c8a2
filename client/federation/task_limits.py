"""How far a device follows a server: the range of every setting, and how far the encoder may have moved.

Where it stands in the flow: an invitation or a task was opened (`invitations`) and read. Before anything
personal is looked at, this module checks that its settings and its encoder are ones that this device trains
with. A device that is asked for anything else answers with one constant reason, whatever it has kept.

A lying server chooses encoder and settings so that training tells something: the loss explodes for those who
judged a certain picture, or a small change grows until it stands out of the noise. What honest servers ask is
a small part of what the wire form can say (`update.LocalSettings`, `masks.MaskSettings`), so a device refuses
the rest.

    setting           shipped and measured         accepted    why
    steps             1 to 5                       1 to 10     each step multiplies what the one before did
    learning rate     0.1                          0 to 0.5    what one step may do to the weights
    proximal          0 to 2                       0 to 5      times the learning rate it must stay below 2.5
    query share       0.5                          0.2 to 0.8  what the wire form allows
    alignment         0.1 to 1                     0 to 2      the loss over words has no upper bound
    clip              0.1 to 1.5                   0.01 to 25  a small clip buys many rounds cheaply
    noise, in levels  at most 16,384 (sampler)     the same    the budget counts its privacy, not this module
    ring bits         6 to 24                      4 to 32     how sums are written tells nothing
    levels of a clip  above 10                     1 to 2^30   coarser levels are noise, finer ones do not fit
    least             2 to 1,000                   the same    a person's own minimum counts (`consent`)

**The encoder** must be within a bounded step, tensor by tensor (L2), of the release that this device adopted.
Measured over whole runs from one release (100 rounds of FedAvg; of FedAdam at the usual rate and at three
times that; 20 private rounds without noise, at both rates too), the farthest steps were 5.9, 0.68, 6.7, 0.40,
3.9 and 3.6 in the order of `FARTHEST`. A device follows two to four times as far. A server that needs more
makes a release, which every device checks by its signature and adopts.
"""

from __future__ import annotations

import math
from typing import Final

from palate.client.federation.declined import Declined
from palate.shared.encoder import EncoderWeights
from palate.shared.reasons import DeclineReason
from palate.shared.releases.check import LARGEST_ENCODER
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.update import LocalSettings, norm_of

TRAINING: Final = {
    "steps": (1, 10),
    "learning_rate": (0.0, 0.5),
    "proximal": (0.0, 5.0),
    "query_share": (0.2, 0.8),
    "alignment": (0.0, 2.0),
}
MASKING: Final = {
    "clip": (0.01, 25.0),
    "noise": (0.0, 16_384.0),
    "ring_bits": (4, 32),
    "least": (2, 1_000),
}
LEAST_LEVELS: Final = 1.0  # in a clip

FARTHEST: Final = {
    "picture.hidden.weight": 16.0,
    "picture.hidden.bias": 2.0,
    "picture.taste.weight": 16.0,
    "picture.taste.bias": 1.5,
    "sentence.taste.weight": 16.0,
    "sentence.taste.bias": 8.0,
}


def check_settings(settings: LocalSettings, masks: MaskSettings | None = None) -> None:
    """Raise `Declined` unless all settings lie in this device's own ranges.

    `masks` are those of a masked round.
    """
    asked = [(settings, TRAINING)] if masks is None else [(settings, TRAINING), (masks, MASKING)]
    inside = all(
        low <= getattr(values, name) <= high
        for values, ranges in asked
        for name, (low, high) in ranges.items()
    )
    if not inside or (masks is not None and masks.clip < LEAST_LEVELS * masks.step):
        raise Declined(DeclineReason.SETTINGS_REFUSED)


def check_encoder(encoder: EncoderWeights, own: EncoderWeights) -> None:
    """Raise `Declined` for an encoder that is too large, or too far from `own`, this device's release."""
    tensors = encoder.shared()
    small = math.hypot(*(norm_of(tensor) for tensor in tensors.values())) <= LARGEST_ENCODER
    near = all(norm_of(tensors[name] - own.tensors[name]) <= most for name, most in FARTHEST.items())
    if not (small and near):
        raise Declined(DeclineReason.ENCODER_TOO_LARGE)
