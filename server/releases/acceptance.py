"""Is this encoder fit for a release? It is tried on public pictures, and its noise is measured.

Where it stands in the flow: `palate server release` calls `accept` before it signs, prints the result on the
card, and refuses what `faults` names unless its owner insists. Other modules bound each round and each run
(`sums`, `trust_region`). This one looks at the outcome, over all releases, so it sees a slow drift too.

**Attributes.** Each of the 55 attributes is tried alone: an attack that makes misty read as neon leaves the
other 54 as they are. Two correlations say how well the encoder still says what it said before: that of its
logit with the parent's over public pictures, and that of what the attribute's own name finds among the
parent's tastes with what it found there. An honest federation may change an attribute on purpose. Where the
parent hardly saw it, what people teach is new. So an attribute that says something else counts by how well it
now sees what the pictures truly show, relative to how well the parent saw it. The same is computed against
release 0, and the worse counts.

**Noise.** The noise in the sum of all rounds' means is known. What is left of the sum's length without it is
what devices agreed on (`sums.told_of`). Where only noise was learned, the ratio is 4 or more. With the
recommended private settings it is about a third.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.server.secure_sum.sums import told_of
from palate.server.secure_sum.trust_region import taste_logits
from palate.shared.arrays import Float32s, Float64s
from palate.shared.encoder import (
    ATTRIBUTE_NAMES,
    EncoderWeights,
    load_encoder,
    project_pictures,
    project_sentences,
)
from palate.shared.public_pictures import PublicPictures, load_public_pictures
from palate.shared.releases.message import Acceptance

LEAST_CORRELATION: Final = 0.95  # of any attribute
MOST_NOISE: Final = 1.0  # as long as what was learned
MOST_RATIO: Final = 1_000.0  # what is written where nothing but noise was learned
_SEEN: Final = 0.05  # correlation with the truth from which an attribute counts as seen at all
_TINY: Final = 1e-12


def accept(
    parent: EncoderWeights,
    encoder: EncoderWeights,
    memory: Mapping[str, Float32s] | None = None,
    *,
    first: EncoderWeights | None = None,
    pictures: PublicPictures | None = None,
) -> Acceptance:
    """Return how an encoder does on public pictures, against its parent and the first release, and its noise.

    Args:
        parent: the encoder of the release before.
        encoder: the encoder to test.
        memory: that of the checkpoint with this encoder. It knows the means of all masked rounds since the
            parent. Without it (on a machine that only signs) nothing is said of noise.
        first: the encoder of release 0.
        pictures: the public pictures, those that ship with Palate by default.
    """
    public = load_public_pictures() if pictures is None else pictures
    found = kept_of(encoder, parent, public)
    origin = load_encoder() if first is None else first
    found = np.minimum(found, kept_of(encoder, origin, public))
    return Acceptance(
        pictures=len(public),
        least_correlation=round(float(found.min()), 4),
        mean_correlation=round(float(found.mean()), 4),
        noise_over_signal=noise_over_signal(memory or {}, parent.release),
    )


def faults(found: Acceptance) -> list[str]:
    """Return what speaks against a release, a line each; nothing where it is fit."""
    lines = []
    if found.least_correlation < LEAST_CORRELATION:
        lines.append(
            f"an attribute kept {found.least_correlation:.2f} of what it said of {found.pictures} public "
            f"pictures, and {LEAST_CORRELATION:g} is the least: somebody may have steered the encoder"
        )
    if found.noise_over_signal > MOST_NOISE:
        lines.append(
            f"its noise is {found.noise_over_signal:.3g} times as long as what devices agreed on, and "
            f"{MOST_NOISE:g} is the most: take more rounds or more devices"
        )
    return lines


def kept_of(encoder: EncoderWeights, before: EncoderWeights, pictures: PublicPictures) -> Float64s:
    """Return how well each attribute says what it said, or else what is true: (55,), 1 for as well."""
    now, then = (taste_logits(one, pictures.features)[:, : len(ATTRIBUTE_NAMES)] for one in (encoder, before))
    found = _kept(now, then, pictures.shows)
    tastes = project_pictures(
        before, pictures.features
    )  # the same on both sides: here the sentence side alone is tried
    named, used = (
        (tastes @ project_sentences(one, pictures.words).T).astype(np.float64) for one in (encoder, before)
    )
    return np.minimum(found, _kept(named, used, pictures.shows))


def noise_over_signal(memory: Mapping[str, Float32s], release: int) -> float:
    """Return the length of the noise in all means since a release over that of what devices agreed on."""
    told = told_of(memory, release)
    if not told.get("total_noise_norm"):
        return 0.0
    return round(min(MOST_RATIO, told["total_noise_norm"] / max(told["total_signal_norm"], _TINY)), 4)


def _kept(now: Float64s, then: Float64s, shows: NDArray[np.bool_]) -> Float64s:
    truth = shows.astype(np.float64)
    seen, saw = _correlation(now, truth), _correlation(then, truth)
    true = np.where(saw > _SEEN, seen / np.maximum(saw, _SEEN), np.where(seen >= saw, 1.0, 0.0))
    return np.asarray(np.clip(np.maximum(_correlation(now, then), true), -1.0, 1.0))


def _correlation(first: Float64s, second: Float64s) -> Float64s:
    """Correlation of each column with the same column; 0 where one does not vary."""
    a, b = first - first.mean(0), second - second.mean(0)
    spread = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    return np.asarray(np.where(spread > _TINY, (a * b).sum(0) / np.maximum(spread, _TINY), 0.0))
