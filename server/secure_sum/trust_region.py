"""How far a run may carry the encoder from the last release: hardly farther than honest rounds do.

Where it stands in the flow: after each masked round `rounds` passes the moved encoder here, and goes on with
the result. Under masks a liar's part cannot be told from the honest ones, and what hides in the noise of a
private round adds up over the rounds. So it is not enough to bound each sum: this bounds what all sums
together may do. It is a trust region (Conn, Gould, Toint, "Trust-Region Methods", 2000) in the space that
matters: what the encoder says of public pictures (`shared.public_pictures`).

The logits of each of the 64 tastes on these pictures may differ from those of the last release by at most
`REACH` (root mean square). A logit that spreads by s over the pictures then keeps a correlation of at least
sqrt(1 - (REACH / s)²) with the release's, whatever a liar sends: .95 for the least spread of release 0's
attributes (6.3), more for the others. Honest private rounds (20 of 900 virtual people) carry release 0's
attributes by .9 in the middle and 2.2 at most. What reaches the edge stays there until the next release,
which is tried before it is signed (`acceptance`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from palate.shared.arrays import Float32s, Float64s
from palate.shared.encoder import SHARED_SHAPES, EncoderWeights, project_sentences, standardize
from palate.shared.public_pictures import PublicPictures, load_public_pictures

REACH: Final = 1.9  # logits
LEAST_COSINE: Final = 0.95  # of what an attribute's name says before and after
_HALVINGS: Final = 30
_SENTENCES: Final = "sentence."


def taste_logits(encoder: EncoderWeights, features: Float32s) -> Float64s:
    """Return what the encoder says of pictures, before the sigmoid: features (n, 216) to (n, 64)."""
    t = encoder.tensors
    hidden = standardize(encoder, features) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"]
    tastes = np.maximum(hidden, 0) @ t["picture.taste.weight"].T + t["picture.taste.bias"]
    return np.asarray(tastes, dtype=np.float64)


def held_near(
    encoder: EncoderWeights,
    release: EncoderWeights,
    pictures: PublicPictures | None = None,
    reach: float = REACH,
) -> tuple[EncoderWeights, int]:
    """Return the encoder, drawn back to the release as far as it must be, and how many of 64 tastes were.

    Where only the last layer of the picture side has moved, each taste is drawn back by itself, and the
    others keep their bits. Otherwise the whole side is drawn back. What the attributes' names say may turn by
    a cosine of `LEAST_COSINE`.

    Args:
        encoder: after a round.
        release: the encoder that the run grew from.
        pictures: the public pictures to measure on, those that ship with Palate by default.
        reach: the largest root mean square distance of a taste's logits.
    """
    public = load_public_pictures() if pictures is None else pictures
    before = taste_logits(release, public.features)

    def far(moved: EncoderWeights) -> Float64s:
        away = taste_logits(moved, public.features) - before
        return np.asarray(np.sqrt(np.square(away).mean(0)))

    distances = far(encoder)
    beyond = distances > reach
    drawn = int(beyond.sum())
    if drawn:
        if _same(encoder, release, "picture.hidden."):
            part = np.where(beyond, reach / np.maximum(distances, reach), 1.0).astype(np.float32)
            encoder = encoder.with_shared(_rows_back(encoder, release, part))
        else:
            encoder = _whole_back(encoder, release, "picture.", lambda one: bool((far(one) <= reach).all()))
    if not _same(encoder, release, _SENTENCES):
        said = project_sentences(release, public.words)

        def near(one: EncoderWeights) -> bool:
            return bool(((said * project_sentences(one, public.words)).sum(1) >= LEAST_COSINE).all())

        if not near(encoder):
            turned = (said * project_sentences(encoder, public.words)).sum(1) < LEAST_COSINE
            drawn = max(drawn, int(turned.sum()))
            encoder = _whole_back(encoder, release, _SENTENCES, near)
    return encoder, drawn


def _same(encoder: EncoderWeights, release: EncoderWeights, start: str) -> bool:
    names = [name for name in SHARED_SHAPES if name.startswith(start)]
    return all(np.array_equal(encoder.tensors[name], release.tensors[name]) for name in names)


def _rows_back(encoder: EncoderWeights, release: EncoderWeights, part: Float32s) -> dict[str, Float32s]:
    """Return the last layer with the change of each row at this part of it, (64,)."""
    found = {}
    for name in ("picture.taste.weight", "picture.taste.bias"):
        start, end = release.tensors[name], encoder.tensors[name]
        rows = part.reshape(-1, *[1] * (end.ndim - 1))
        found[name] = np.where(rows == 1, end, start + rows * (end - start))
    return found


def _whole_back(
    encoder: EncoderWeights, release: EncoderWeights, side: str, good: Callable[[EncoderWeights], bool]
) -> EncoderWeights:
    """Return the encoder with the change of one side at the largest part that is good, by halving."""
    names = [name for name in SHARED_SHAPES if name.startswith(side)]

    def at(part: float) -> EncoderWeights:
        start, end = release.tensors, encoder.tensors
        return encoder.with_shared({n: start[n] + np.float32(part) * (end[n] - start[n]) for n in names})

    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if good(at(middle)) else (low, middle)
    return at(low)
