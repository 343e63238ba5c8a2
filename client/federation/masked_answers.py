"""What a device says in a masked round, step by step: keys, shares, the masked change, what unmasks the sum.

Where it stands in the flow: `member` passes on each message of a masked round. This module decides whether
the device takes part, and reads the encoder from the invitation. `contribution` makes the change, `privatize`
turns it into noised levels, `masked_round` masks them, and everything that leaves goes through `outbox`. A
device is in one round at a time: a new invitation ends an old round, and its keys and seeds are forgotten. In
each round the device has another pseudonym (`pseudonyms`).

**What it says does not depend on what it learned.** The invitation, the owner's terms and the budget decide
whether this device takes part, before any label is read. When the shares have come, the round is booked and
noted first; then the device trains; and whatever comes of that, a vector of the same length leaves after the
same class of time (`contribution`). The server is told what `member` says: an answer, nothing, or a
`DeclineReason`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from palate.client.federation.contribution import Pause, begin_class, contribute, nothing_learned
from palate.client.federation.declined import Declined
from palate.client.federation.masked_round import MaskedRound, MaskRules
from palate.client.federation.outbox import Cover, Send, send_handshake, what_leaves
from palate.client.federation.privatize import privatize
from palate.client.federation.pseudonyms import fresh_pseudonym
from palate.client.federation.resting import must_rest, note_part
from palate.client.federation.task_limits import check_encoder, check_settings
from palate.client.privacy import book_round, check_round
from palate.client.runtime.progress import Notice
from palate.client.vault.store import Store
from palate.shared.coding import decode_model, sensitivity_of
from palate.shared.delegation import ANY_RELEASE
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights
from palate.shared.errors import (
    MaskError,
    OptionError,
    PrivacyError,
    StorageError,
    UpdateError,
    VaultError,
)
from palate.shared.reasons import DeclineReason
from palate.shared.secure_sum.frame import AGREEMENT, DELIVERY, INVITATION, ROSTER, UNMASK
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import Invitation, decode_invitation
from palate.shared.secure_sum.pseudonym import Pseudonym
from palate.shared.subspace import Subspace, load_subspace, subspace_hash
from palate.shared.sum_noise import SumNoise, sum_noise
from palate.shared.update import EncoderUpdate
from palate.shared.wire import fixed_hash

if TYPE_CHECKING:
    from palate.client.federation.local_training import Labels

KINDS = (INVITATION, ROSTER, DELIVERY, UNMASK, AGREEMENT)


@dataclass
class _Round:
    """The round that this device is in."""

    invitation: Invitation
    encoder: EncoderWeights
    masked: MaskedRound
    within: Subspace | None  # the directions in which the change is sent
    count: int  # of the numbers that are sent


class MaskedAnswers:
    """One device's part in masked rounds."""

    def __init__(
        self,
        *,
        own: Callable[[], EncoderWeights],
        labels: Callable[[], Labels | None],
        rules: Callable[[], MaskRules],
        store: Store,
        server: str,
        tell: Notice,
        budgeted: bool = True,
        honest_share: Callable[[], float] = lambda: 0.0,
        pseudonym: Callable[[int], Pseudonym | None] = fresh_pseudonym,
        pause: Callable[[], Pause] = begin_class,
    ) -> None:
        """Take what the device has; call none of it before an invitation comes.

        Args:
            own: returns the release that this device trusts.
            labels: returns its labels, None where there are too few to train on.
            rules: returns what the owner insists on.
            store: keeps ledger, outbox and rests.
            server: the name under which the outbox notes what leaves.
            tell: called with lines for the owner.
            budgeted: book each round, and take part in none beyond the budget; virtual people have no budget.
            honest_share: returns the part of a sum's devices whose noise is counted on.
            pseudonym: returns the key for a slot, which is used up by that, or None where there is none left.
            pause: begins the class of time that an answer waits for.
        """
        self._own, self._labels, self._pseudonym, self._rules = own, labels, pseudonym, rules
        self._store, self._server, self._tell, self._budgeted = store, server, tell, budgeted
        self._honest_share, self._pause = honest_share, pause
        self._round: _Round | None = None

    @property
    def in_round(self) -> bool:
        """Return whether more messages of a round are to come."""
        return self._round is not None

    def answer(self, kind: int, wire: bytes, send: Send, up_to: int = ANY_RELEASE) -> None:
        """Answer one message of a masked round.

        Raises `Declined`, and what `send` raises when the server is lost.

        `up_to` is the newest release that the signer of an invitation may invite to.
        """
        try:
            if kind == INVITATION:
                self._begin(wire, send, up_to)
                return
            if self._round is None:
                raise MaskError("this device is in no masked round", "order")
            if kind == ROSTER:
                send_handshake(self._round.masked.shares(wire), send)
            elif kind == DELIVERY:
                self._contribute(self._round, wire, send)
            elif kind == UNMASK and self._round.masked.sparse:
                send_handshake(self._round.masked.endorsed(wire), send)
            else:
                send_handshake(self._round.masked.revealed(wire), send)
                self._round = None
        except MaskError as error:
            self._round = None
            self._tell(f"left a masked round: {error}")
            raise Declined(DeclineReason.MASKS_REFUSED) from None

    def _begin(self, wire: bytes, send: Send, up_to: int) -> None:
        """Answer an invitation with keys, or with nothing where this device stays out.

        No label is read here.
        """
        self._round = None
        invitation = decode_invitation(wire)
        if invitation.release > up_to:
            raise Declined(DeclineReason.UNSIGNED)
        encoder = _read_encoder(invitation, self._own())
        within = load_subspace() if invitation.subspace else None
        if within is not None and subspace_hash(within) != invitation.subspace:
            raise Declined(DeclineReason.OTHER_ENCODER)
        count = SHARED_WEIGHTS if within is None else within.count
        mine = self._pseudonym_for(invitation, count)
        if mine is None:
            send(b"")
            return
        rules = replace(self._rules(), slot_key=mine.slot_key, certificate=mine.certificate)
        masked = MaskedRound(wire, identity=mine.key, rules=rules)
        self._round = _Round(invitation, encoder, masked, within, count)
        send_handshake(masked.advert(), send)

    def _pseudonym_for(self, invitation: Invitation, count: int) -> Pseudonym | None:
        """Return the pseudonym for a round of `count` numbers, None where this device stays out."""
        if self._budgeted:
            try:
                check_round(self._store, guaranteed(invitation.masks, count, share=self._honest_share()))
            except PrivacyError as error:
                self._tell(f"stayed out of a round: {error}")
                return None
        try:
            if must_rest(self._store, invitation):
                self._tell("stayed out of a round: this device rests between the rounds of a noise plan")
                return None
            # Last of all: a pseudonym is used up when it is taken, whatever comes of the round.
            mine = self._pseudonym(invitation.slot)
        except (VaultError, StorageError):
            self._tell("stayed out of a round: the vault could not be read or written")
            return None
        if mine is None:
            self._tell(
                f"stayed out of a round: no pseudonym is left for slot {invitation.slot}; see palate "
                "pseudonyms"
            )
        return mine

    def _contribute(self, now: _Round, wire: bytes, send: Send) -> None:
        """Book and note the round, train, and send the change noised and masked (`contribute`)."""
        pause = self._pause()
        invitation, masks = now.invitation, now.invitation.masks
        now.masked.accept_delivery(wire)

        def book(store: Store) -> None:
            if self._budgeted:
                # The roster says how few devices the sum may have.
                sure = guaranteed(masks, now.count, now.masked.smallest_sum, share=self._honest_share())
                book_round(store, sure, now=datetime.now(UTC))
            note_part(store, invitation)

        contribute(
            invitation,
            now.encoder,
            self._labels,
            send,
            pause=pause,
            store=self._store,
            server=self._server,
            tell=self._tell,
            cover=Cover(
                what_leaves(now.count, masks.ring_bits, invitation.subspace),
                lambda update: _mask(now, update),
                clip=masks.clip,
                noise=masks.noise * masks.step,
            ),
            book=book,
        )


def _read_encoder(invitation: Invitation, own: EncoderWeights) -> EncoderWeights:
    """Return the encoder to train, if it and the settings are ones that this device follows.

    Raises `Declined`.
    """
    check_settings(invitation.settings, invitation.masks)
    if invitation.fixed != fixed_hash(own):
        raise Declined(DeclineReason.OTHER_ENCODER)
    if invitation.release < own.release:
        raise Declined(DeclineReason.OLDER_RELEASE)
    try:
        encoder = decode_model(invitation.model, own)
    except UpdateError as error:
        base = error.reason == "base"
        raise Declined(DeclineReason.OTHER_ENCODER if base else DeclineReason.UNREADABLE_TASK) from None
    check_encoder(encoder, own)
    return encoder


def _mask(now: _Round, update: EncoderUpdate) -> bytes:
    """Return the masked vector of a change, or of a change of nothing where it cannot become levels."""
    masks, rotation = now.invitation.masks, now.invitation.rotation or now.masked.context
    try:
        levels = privatize(update, masks, rotation, subspace=now.within)
    except OptionError:
        nothing = nothing_learned(now.encoder, update.round)
        levels = privatize(nothing, masks, rotation, subspace=now.within)
    return now.masked.mask(levels)


def guaranteed(
    masks: MaskSettings, count: int, devices: int | None = None, *, share: float = 0.0
) -> SumNoise:
    """Return the noise that is sure to be in the smallest sum, over the longest change of one device.

    Args:
        masks: clip, step and noise of the round.
        count: how many numbers a change has.
        devices: the smallest sum that the roster allows, where it is below the invitation's `least`.
        share: the part of the devices whose noise is counted on; 0 counts this device's own alone.
    """
    fewest = masks.least if devices is None else min(devices, masks.least)
    sensitivity = sensitivity_of(masks.clip, masks.step, count)
    return sum_noise(
        masks.noise, devices=fewest, sensitivity=sensitivity, dimension=count + 1, honest_share=share
    )
