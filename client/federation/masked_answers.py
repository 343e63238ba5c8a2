"""What a device says in a masked round, step by step: keys, shares, the masked change, and what unmasks the sum of all.

Where it stands in the flow: `joining` hands over whatever the server sends in a masked round. Here it is decided whether this device takes
part, the encoder is read from the invitation, `contribution` makes the change, `shielding` makes noised levels of it, `masking` masks
them, and everything that leaves goes through `outbox`. A device is in one round at a time: a new invitation ends an old round,
and what a device knew for it (keys, seeds) is forgotten. In each round it appears under another pseudonym (`pseudonyms`).

**What it says does not depend on what it learned.** Whether this device takes part is decided from the invitation, its owner's terms and its
budget, before any label is read. Once the delivery came, the round is booked and noted first; then it trains; and whatever that
comes to, a vector of the same length leaves after the same class of time (`contribution`). What the server is told is what `joining`
says: an answer, nothing, or one of the reasons in `Reason`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from palate.client.federation.contribution import Pause, begin_class, learned_or_nothing, nothing_learned
from palate.client.federation.declined import Declined, Notice, Send, check_encoder
from palate.client.federation.masked_round import MaskedRound, MaskRules
from palate.client.federation.outbox import Cover, send_handshake, send_update, what_leaves
from palate.client.federation.privatize import shield
from palate.client.federation.pseudonyms import fresh_pseudonym
from palate.client.federation.resting import must_rest, note_part
from palate.client.federation.task_limits import check_settings, check_step
from palate.client.privacy.ledger import book_round, check_round
from palate.client.vault.store import Store
from palate.shared.coding import decode_model, sensitivity_of
from palate.shared.delegation import ANY_RELEASE
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights, encoder_hash
from palate.shared.errors import (
    MaskError,
    OptionError,
    PrivacyError,
    StorageError,
    UpdateError,
    VaultError,
)
from palate.shared.reasons import Reason
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
    """One device's part in masked rounds.

    `own` gives the release that this device trusts, `labels` its labels or None where it has too few to train on. `pseudonym` gives
    the key under which it appears in a slot, which is used up by that, or None where it has none. `pause` is what an answer that
    was trained for waits for. `budgeted` counts each round in the ledger that `log` keeps, and takes part in none beyond the
    person's budget; virtual people, who have no budget to lose, do without.
    """

    def __init__(
        self,
        *,
        own: Callable[[], EncoderWeights],
        labels: Callable[[], Labels | None],
        rules: Callable[[], MaskRules],
        log: Store,
        server: str,
        tell: Notice,
        budgeted: bool = True,
        honest_share: Callable[[], float] = lambda: 0.0,
        pseudonym: Callable[[int], Pseudonym | None] = fresh_pseudonym,
        pause: Callable[[], Pause] = begin_class,
    ) -> None:
        """Take what the device has; nothing is asked of it before an invitation comes."""
        self._own, self._labels, self._pseudonym, self._rules = own, labels, pseudonym, rules
        self._log, self._server, self._tell, self._budgeted = log, server, tell, budgeted
        self._honest_share, self._pause = honest_share, pause
        self._round: _Round | None = None

    @property
    def in_round(self) -> bool:
        """Whether more messages of a round are to come."""
        return self._round is not None

    def answer(self, kind: int, wire: bytes, send: Send, up_to: int = ANY_RELEASE) -> None:
        """Answer one message of a masked round; raises `Declined`, and what `send` raises when the server is lost.

        `up_to` is the newest release that whoever signed an invitation may invite to.
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
            raise Declined(Reason.MASKS_REFUSED) from None

    def _begin(self, wire: bytes, send: Send, up_to: int) -> None:
        """Read an invitation and answer with keys, or with nothing where this device stays out; no label is read here."""
        self._round = None
        invitation = decode_invitation(wire)
        if invitation.release > up_to:
            raise Declined(Reason.UNSIGNED)
        check_settings(invitation.settings, invitation.masks)
        own = self._own()
        if invitation.fixed != fixed_hash(own):
            raise Declined(Reason.OTHER_ENCODER)
        if invitation.release < own.release:
            raise Declined(Reason.OLDER_RELEASE)
        try:
            encoder = decode_model(invitation.model, own)
        except UpdateError as error:
            raise Declined(
                Reason.OTHER_ENCODER if error.reason == "base" else Reason.UNREADABLE_TASK
            ) from None
        check_encoder(encoder.shared())
        check_step(encoder.tensors, own)
        within = load_subspace() if invitation.subspace else None
        if within is not None and subspace_hash(within) != invitation.subspace:
            raise Declined(Reason.OTHER_ENCODER)
        count = SHARED_WEIGHTS if within is None else within.count
        if self._budgeted:
            try:
                check_round(self._log, guaranteed(invitation.masks, count, share=self._honest_share()))
            except PrivacyError as error:
                self._tell(f"stayed out of a round: {error}")
                send(b"")
                return
        try:
            if must_rest(self._log, invitation):
                self._tell("stayed out of a round: this device rests between the rounds of a noise plan")
                send(b"")
                return
            # Last of all, and whatever is kept here: what is used is used up.
            mine = self._pseudonym(invitation.slot)
        except (VaultError, StorageError):
            self._tell("stayed out of a round: the vault could not be read or written")
            send(b"")
            return
        if mine is None:
            self._tell(
                f"stayed out of a round: no pseudonym is left for slot {invitation.slot}; see palate pseudonyms"
            )
            send(b"")
            return
        rules = replace(self._rules(), slot_key=mine.slot_key, certificate=mine.certificate)
        masked = MaskedRound(wire, identity=mine.key, rules=rules)
        self._round = _Round(invitation, encoder, masked, within, count)
        send_handshake(masked.advert(), send)

    def _contribute(self, now: _Round, wire: bytes, send: Send) -> None:
        """Book and note the round, train, and send what came of it noised and masked, in whatever time such an answer takes."""
        pause = self._pause()
        invitation, base = now.invitation, encoder_hash(now.encoder)
        now.masked.accept_delivery(wire)
        trained_on, gone = 0, False

        def make() -> EncoderUpdate:
            nonlocal trained_on
            update, trained_on = learned_or_nothing(
                now.encoder,
                self._labels,
                invitation.settings,
                round=invitation.round,
                seed=invitation.seed,
                tell=self._tell,
            )
            return update

        def hand_over(covered: bytes) -> None:
            nonlocal gone
            pause()
            send(covered)
            gone = True

        def book(log: Store) -> None:
            if self._budgeted:
                # Of how few devices the sum may be is known since the roster came.
                sure = guaranteed(
                    invitation.masks, now.count, now.masked.smallest_sum, share=self._honest_share()
                )
                book_round(log, sure, now=datetime.now(UTC))
            note_part(log, invitation)

        masks = invitation.masks
        try:
            note = send_update(
                self._log,
                make,
                send=hand_over,
                server=self._server,
                release=invitation.release,
                base=base,
                round=invitation.round,
                now=datetime.now(UTC),
                cover=Cover(
                    what_leaves(now.count, masks.ring_bits, invitation.subspace),
                    lambda update: _mask(now, update),
                    clip=masks.clip,
                    noise=masks.noise * masks.step,
                ),
                first=book,
            )
        except PrivacyError as error:
            self._tell(f"left a masked round: {error}")
            raise Declined(Reason.MASKS_REFUSED) from None
        except (VaultError, StorageError):
            if not gone:
                raise Declined(Reason.NOT_NOTED) from None
            self._tell(f"round {invitation.round}: sent, but the outbox could not note that it went")
            return
        what = f"trained on {trained_on} labels" if trained_on else "with a change of nothing"
        self._tell(
            f"round {note.round}: {what}, sent {note.bytes_up:,} bytes, masked and noised (release {note.release})"
        )


def _mask(now: _Round, update: EncoderUpdate) -> bytes:
    """Return the masked vector of a change; of nothing where that change cannot be made levels of."""
    masks, rotation = now.invitation.masks, now.invitation.rotation or now.masked.context
    try:
        levels = shield(update, masks, rotation, subspace=now.within)
    except OptionError:
        nothing = nothing_learned(now.encoder, update.round)
        levels = shield(nothing, masks, rotation, subspace=now.within)
    return now.masked.mask(levels)


def guaranteed(
    masks: MaskSettings, count: int, devices: int | None = None, *, share: float = 0.0
) -> SumNoise:
    """Return the noise that is sure: that of the fewest devices of a sum over one device's longest change.

    `count` is how many numbers a change has. By default the fewest are those that the invitation names; `devices` is what the
    roster makes sure of, if that is less. `share` is the part of them whose noise is counted on, by default none but one's own.
    """
    fewest = masks.least if devices is None else min(devices, masks.least)
    sensitivity = sensitivity_of(masks.clip, masks.step, count)
    return sum_noise(
        masks.noise, devices=fewest, sensitivity=sensitivity, dimension=count + 1, honest_share=share
    )
