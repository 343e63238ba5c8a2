"""Which encoder this person's evaluator uses: the newest accepted release, or the one before it.

Where it stands in the flow: the evaluator and the adapter get their encoder here (`taste.fitting`). What the
federation trains from is another question, which `accepted.federation_encoder` answers from signatures alone.
**Code that answers messages never uses what is chosen here**; otherwise a refusal would tell the server
something about the labels. So nothing is tried when a release arrives. It is tried when the owner next uses
the evaluator, in the owner's own process, and only the owner is told.

The choice is a function of the labels that are kept. When they change, both encoders are tried again, so
forgetting a comment leaves the choice that would have been made without it. What the owner decided by hand
stays until the next release.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from palate.client.eye.backbone import shipped
from palate.client.releases.accepted import federation_encoder
from palate.client.releases.stored import BEFORE, Choice, read_choice, read_release, write_choice
from palate.client.runtime.progress import Notice
from palate.client.vault.store import ONLY, Records, Store
from palate.shared.arrays import Float32s
from palate.shared.encoder import EncoderWeights, encoder_hash
from palate.shared.errors import OptionError, ReleaseError, StorageError, VaultDamagedError
from palate.shared.releases.check import read_encoder


def own_encoder(records: Records | None = None) -> EncoderWeights:
    """Return the encoder that this person's evaluator uses; release 0 before a release was accepted.

    A release that was accepted and not tried yet is not used.

    Args:
        records: the vault, None for the encoder that ships.

    Raises:
        ReleaseError: as `federation_encoder` does.
        VaultError: what the vault raises.
        ModelError: a file is missing.
    """
    if records is None:
        return shipped()
    choice = read_choice(records)
    if choice is None or choice.uses == "new":
        return federation_encoder(records)
    return encoder_before(records, choice)


def encoder_before(records: Records, choice: Choice) -> EncoderWeights:
    """Return the encoder from before the newest accepted release, checked against its card in the log."""
    if choice.before == 0:
        return shipped()
    release = read_release(records)
    cards = {card.release: card for _, card in release.log.releases} if release is not None else {}
    try:
        return read_encoder(records.get(BEFORE, ONLY), cards[choice.before])
    except (KeyError, ReleaseError):
        raise VaultDamagedError(
            f"the encoder of release {choice.before} in the vault cannot be used; use the newest with: "
            "palate release adopt --anyway"
        ) from None


def settle_encoder(
    store: Store, liked: Float32s, disliked: Float32s, tastes: Mapping[str, float], notice: Notice
) -> EncoderWeights:
    """Return the encoder to use for these labels; try a release that was not tried on them yet.

    Args:
        store: the vault, where the choice is kept.
        liked: features of liked pictures, (n, 216).
        disliked: features of disliked pictures, (m, 216).
        tastes: the profile's strength of each attribute, by name.
        notice: called with a line for the owner where another encoder is in use now.

    Raises:
        ReleaseError: as `own_encoder` does.
        VaultError: what the vault raises.
    """
    choice = read_choice(store)
    if choice is None or choice.by == "owner":
        return own_encoder(store)
    before, new = encoder_before(store, choice), federation_encoder(store)
    fingerprint = _fingerprint(before, new, liked, disliked, tastes)
    if choice.fingerprint != fingerprint:
        from palate.client.releases.trial import try_encoder

        trial = try_encoder(before, new, liked, disliked, tastes=tastes)
        tried = Choice(
            choice.before,
            "before" if trial.keep_old else "new",
            labels=trial.labels,
            loss_before=trial.loss_old,
            loss_new=trial.loss_new,
            chance=trial.chance,
            fingerprint=fingerprint,
        )
        if tried.uses != choice.uses:
            notice(describe_choice(tried, new.release))
        # On a disk that cannot be written it is tried again each time.
        with contextlib.suppress(StorageError), store.transaction() as change:
            if read_choice(change) == choice:  # no newer release came meanwhile
                write_choice(change, tried)
        choice = tried
    return before if choice.uses == "before" else new


def decide(store: Store, uses: Literal["new", "before"]) -> tuple[Choice, int]:
    """Use the newest accepted release, or the one before it, whatever the labels say.

    Return the choice and the newest release. Raises `OptionError` where no release was adopted.
    """
    with store.transaction() as change:
        choice = read_choice(change)
        release = read_release(change)
        if choice is None or release is None:
            raise OptionError(
                "no release was adopted here, so there is none to choose; see palate release adopt"
            )
        if uses == "before":
            encoder_before(change, choice)
        decided = replace(choice, uses=uses, by="owner")
        write_choice(change, decided)
        return decided, release.log.releases[-1][1].release


def describe_choice(choice: Choice, newest: int) -> str:
    """Return in one line which release the evaluator uses, and why."""
    used = newest if choice.uses == "new" else choice.before
    if choice.by == "owner":
        return f"release {used} is in use for you, as you decided"
    if choice.uses == "untried":
        return (
            f"release {used} is in use for you; release {newest} is tried on your own verdicts "
            "when they are next used"
        )
    if not choice.loss_before:
        return f"release {used} is in use for you: {choice.labels} verdicts are too few to try it on"
    said = (
        f"on your {choice.labels} verdicts its error is {choice.loss_new:.3f} and that of release "
        f"{choice.before} is {choice.loss_before:.3f}"
    )
    if choice.uses == "before":
        return (
            f"release {newest} does worse for you and is left aside: {said}; release {used} stays in use, "
            "nobody else hears of it, and you can use the new one with: palate release adopt --anyway"
        )
    return f"release {used} is in use for you: {said}"


def _fingerprint(
    before: EncoderWeights,
    new: EncoderWeights,
    liked: Float32s,
    disliked: Float32s,
    tastes: Mapping[str, float],
) -> str:
    """Return a text that changes with anything that the choice rests on."""
    digest = hashlib.sha256(b"palate release choice 1")
    digest.update((encoder_hash(before) + encoder_hash(new)).encode())
    for features in (liked, disliked):
        digest.update(len(features).to_bytes(4, "big") + np.ascontiguousarray(features, "<f4").tobytes())
    digest.update(json.dumps(sorted(tastes.items())).encode())
    return digest.hexdigest()
