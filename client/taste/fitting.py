"""Fits the private models, evaluator and adapter, to what one vault holds.

Stands between `device` and `evaluator` and `adapter`. The evaluator is fitted each time it is needed
(milliseconds). The adapter takes seconds, so it is kept in the vault with a fingerprint of everything that it
was trained on, and trained again when that has changed. Both are functions of what is kept alone, in the
order of time. So forgetting one comment gives exactly the models that would be there had it never been
taught.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from palate.client.eye.tower import FEATURE_NAMES, SHIPPED, Features
from palate.client.records import ADAPTER, FEATURES, PICTURE, Taught
from palate.client.runtime import Notice, Progress
from palate.client.taste.profile import Profile, newest_verdicts
from palate.client.taste.scoring import look_at, read_directions
from palate.client.vault.store import ONLY, Store
from palate.client.vault.vault import Vault
from palate.shared.encoder import EncoderWeights, encoder_hash
from palate.shared.errors import StorageError

if TYPE_CHECKING:
    from palate.client.taste.evaluator import Evaluator

ChooseEncoder = Callable[[Store, Features, Features, Mapping[str, float], Notice], EncoderWeights]
"""Return the encoder for a person's vault, the features they like and dislike, and their attributes."""

LEAST_VERDICTS = 6  # fewer cannot say whether an adapter helps
ADAPTER_SEED = 0  # the same comments give the same adapter


@dataclass(frozen=True)
class Verdicts:
    """The features of the pictures that the person gave a verdict on, each kind in the order of time."""

    liked: Features  # (n, F)
    disliked: Features  # (m, F)


def fit_evaluator_to_vault(
    vault: Vault,
    taught: Sequence[Taught],
    profile: Profile,
    *,
    choose_encoder: ChooseEncoder,
    adapt: bool,
    progress: Progress,
    notice: Notice,
) -> "Evaluator":
    """Return the evaluator for what was taught and for this profile.

    Args:
        vault: holds pictures, features and adapter; new ones are put into it.
        taught: the oldest first.
        profile: built from it and from the person's edits.
        choose_encoder: picks the encoder (`releases.own_encoder.settle_encoder`).
        adapt: whether to use the person's adapter if it helps.
        progress: is told how far the work is.
        notice: gets lines that the person should see.
    """
    from palate.client.taste.evaluator import fit_evaluator

    verdicts = read_verdicts(vault, newest_verdicts(taught), progress)
    tastes = profile.signed()
    encoder = choose_encoder(vault, verdicts.liked, verdicts.disliked, tastes, notice)
    if adapt:
        encoder = adapt_encoder(vault, encoder, verdicts, profile, progress, notice)
    return fit_evaluator(
        encoder,
        verdicts.liked,
        verdicts.disliked,
        tastes=tastes,
        directions=read_directions(encoder, tastes),
    )


def read_verdicts(vault: Vault, taught: Sequence[Taught], progress: Progress) -> Verdicts:
    """Return the features of all pictures with a verdict, a row for each verdict.

    The vault keeps the features; only pictures without them are looked at.
    """
    judged = [
        one.comment for one in taught if one.comment.liked is not None and one.comment.picture is not None
    ]
    mark = _tower_mark()
    rows: dict[str, Features] = {}
    fresh: dict[str, bytes] = {}
    for number, picture in enumerate(dict.fromkeys(str(comment.picture) for comment in judged)):
        row = None
        if vault.has(FEATURES, picture):
            row = _decode_features(vault.get(FEATURES, picture), mark, len(FEATURE_NAMES))
        if row is None:
            from palate.client.eye import read_picture

            row = look_at(read_picture(vault.get(PICTURE, picture)))
            fresh[picture] = mark + row.astype("<f4").tobytes()
        rows[picture] = row
        progress("looking at your pictures", number + 1, len(judged))
    if fresh:
        # What cannot be kept, on a full or a read-only disk, is looked at again the next time.
        with contextlib.suppress(StorageError), vault.transaction() as change:
            for picture, data in fresh.items():
                if change.has(PICTURE, picture):
                    change.put(FEATURES, picture, data)
    kinds = [[rows[str(c.picture)] for c in judged if c.liked is kind] for kind in (True, False)]
    liked, disliked = (
        np.stack(kind) if kind else np.zeros((0, len(FEATURE_NAMES)), np.float32) for kind in kinds
    )
    return Verdicts(liked, disliked)


def adapt_encoder(
    vault: Vault,
    encoder: EncoderWeights,
    verdicts: Verdicts,
    profile: Profile,
    progress: Progress,
    notice: Notice,
) -> EncoderWeights:
    """Return the encoder with the person's adapter, or the encoder itself if no adapter helps.

    The adapter is trained now if what it rests on has changed. It is used only if it beat no adapter on
    held-out verdicts of this person; `notice` gets one line on that whenever one was trained.
    """
    if len(verdicts.liked) + len(verdicts.disliked) < LEAST_VERDICTS or not (
        len(verdicts.liked) and len(verdicts.disliked)
    ):
        return encoder
    fingerprint = _fingerprint(encoder, verdicts, profile)
    kept = _read_adapter(vault, fingerprint)
    if kept is None:
        from palate.client.taste.adapter import train_adapter

        progress("learning from your pictures", 0, 1)
        result = train_adapter(
            encoder, verdicts.liked, verdicts.disliked, tastes=profile.signed(), seed=ADAPTER_SEED
        )
        progress("learning from your pictures", 1, 1)
        notice(result.message)
        kept = result.weights if result.kept and result.weights is not None else b""
        with contextlib.suppress(StorageError), vault.transaction() as change:
            change.put(ADAPTER, ONLY, fingerprint + kept)
    if not kept:
        return encoder
    from palate.client.taste.adapter import apply_adapter

    return apply_adapter(encoder, kept)


def _read_adapter(vault: Vault, fingerprint: bytes) -> bytes | None:
    """Return the kept adapter (empty: none helped), or None if there is none for this state."""
    if not vault.has(ADAPTER, ONLY):
        return None
    data = vault.get(ADAPTER, ONLY)
    return data[len(fingerprint) :] if data.startswith(fingerprint) else None


def _fingerprint(encoder: EncoderWeights, verdicts: Verdicts, profile: Profile) -> bytes:
    """Return 32 bytes that change with anything that the adapter is trained on."""
    digest = hashlib.sha256(b"palate adapter version 1")
    digest.update(encoder_hash(encoder).encode())
    for features in (verdicts.liked, verdicts.disliked):
        digest.update(len(features).to_bytes(4, "big") + np.ascontiguousarray(features, "<f4").tobytes())
    digest.update(json.dumps(sorted(profile.signed().items())).encode())
    return digest.digest()


def _tower_mark() -> bytes:
    """Return 16 bytes that name the tower of these features, so that another tower's are not mixed in."""
    return hashlib.sha256(SHIPPED.read_bytes()).digest()[:16]


def _decode_features(data: bytes, mark: bytes, width: int) -> Features | None:
    if not data.startswith(mark) or len(data) != len(mark) + 4 * width:
        return None
    return np.frombuffer(data, "<f4", offset=len(mark)).astype(np.float32)
