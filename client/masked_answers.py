"""What a device says in a masked round, step by step: keys, shares, the masked change, and what unmasks the sum of all.

Where it stands in the flow: `joining` hands over whatever the server sends in a masked round. Here it is decided whether this device takes
part, the encoder is read from the invitation, `reconstruction` trains it, `shielding` makes noised levels of the change, `masking` masks
them, and everything that leaves goes through `outbox`. A device is in one round at a time: a new invitation ends an old round,
and what a device knew for it (keys, seeds) is forgotten. In each round it appears under another pseudonym (`pseudonyms`).

What the server is told is what `joining` says: an answer, nothing, or one of the reasons in `Reason`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from palate.client.ledger import book_round, check_round
from palate.client.masking import MaskedRound, MaskRules
from palate.client.outbox import Log, send_handshake, send_update
from palate.client.pseudonyms import fresh_pseudonym
from palate.client.reasons import Declined, Notice, Send, check_encoder
from palate.client.resting import must_rest, note_part
from palate.client.shielding import shield
from palate.shared.accounting import noise_multiplier
from palate.shared.coding import decode_model, sensitivity_of
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights
from palate.shared.errors import MaskError, PrivacyError, StorageError, UpdateError, VaultError
from palate.shared.masked_frame import AGREEMENT, DELIVERY, INVITATION, ROSTER, UNMASK
from palate.shared.masked_wire import Invitation, decode_invitation
from palate.shared.masks import MaskSettings
from palate.shared.pseudonym import Pseudonym
from palate.shared.reasons import Reason
from palate.shared.subspace import Subspace, load_subspace, subspace_hash
from palate.shared.update import EncoderUpdate
from palate.shared.wire import fixed_hash

if TYPE_CHECKING:
    from palate.client.reconstruction import Labels

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

    `own` gives the release that this device trusts, `labels` its labels or None where it stays out. `pseudonym` gives the key under
    which it appears in a slot, which is used up by that, or None where it has none. `budgeted` counts each round in the ledger that
    `log` keeps, and takes part in none beyond the person's budget; virtual people, who have no budget to lose, do without.
    """

    def __init__(
        self,
        *,
        own: Callable[[], EncoderWeights],
        labels: Callable[[], Labels | None],
        rules: Callable[[], MaskRules],
        log: Log,
        server: str,
        tell: Notice,
        budgeted: bool = True,
        honest_share: Callable[[], float] = lambda: 1.0,
        pseudonym: Callable[[int], Pseudonym | None] = fresh_pseudonym,
    ) -> None:
        """Take what the device has; nothing is asked of it before an invitation comes."""
        self._own, self._labels, self._pseudonym, self._rules = own, labels, pseudonym, rules
        self._log, self._server, self._tell, self._budgeted = log, server, tell, budgeted
        self._honest_share = honest_share
        self._round: _Round | None = None

    @property
    def in_round(self) -> bool:
        """Whether more messages of a round are to come."""
        return self._round is not None

    def answer(self, kind: int, wire: bytes, send: Send) -> None:
        """Answer one message of a masked round; raises `Declined`, and what `send` raises when the server is lost."""
        try:
            if kind == INVITATION:
                self._begin(wire, send)
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

    def _begin(self, wire: bytes, send: Send) -> None:
        """Read an invitation and answer with keys, or with nothing where this device stays out."""
        self._round = None
        invitation = decode_invitation(wire)
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
        if must_rest(self._log, invitation):
            self._tell("stayed out of a round: this device rests between the rounds of a noise plan")
            send(b"")
            return
        if self._labels() is None:
            send(b"")
            return
        # Last of all: what is used here is used up.
        mine = self._pseudonym(invitation.slot)
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
        """Train, and send the change noised and masked."""
        from palate.client.reconstruction import train_locally

        invitation = now.invitation
        now.masked.accept_delivery(wire)
        mine = self._labels()
        if mine is None:  # a comment was forgotten since the invitation
            send(b"")
            return
        try:
            update = train_locally(
                now.encoder, mine, invitation.settings, round=invitation.round, seed=invitation.seed
            )
        except Exception:  # noqa: BLE001 - whatever it says may quote what it was trained on
            raise Declined(Reason.TRAINING_FAILED) from None
        gone = False

        def cover(update: EncoderUpdate) -> bytes:
            rotation = invitation.rotation or now.masked.context
            return now.masked.mask(shield(update, invitation.masks, rotation, subspace=now.within))

        def hand_over(covered: bytes) -> None:
            nonlocal gone
            send(covered)
            gone = True

        try:
            if self._budgeted:
                # Of how few devices the sum may be is known since the roster came.
                sure = guaranteed(
                    invitation.masks, now.count, now.masked.smallest_sum, share=self._honest_share()
                )
                book_round(self._log, sure, now=datetime.now(UTC))
            note_part(self._log, invitation)
            note = send_update(
                self._log,
                update,
                send=hand_over,
                server=self._server,
                release=invitation.release,
                now=datetime.now(UTC),
                cover=cover,
                clip=invitation.masks.clip,
                noise=invitation.masks.noise * invitation.masks.step,
            )
        except PrivacyError as error:
            self._tell(f"left a masked round: {error}")
            raise Declined(Reason.MASKS_REFUSED) from None
        except (VaultError, StorageError):
            if not gone:
                raise Declined(Reason.NOT_NOTED) from None
            self._tell(f"round {invitation.round}: sent, but the outbox could not note that it went")
            return
        self._tell(
            f"round {note.round}: trained on {len(mine)} labels, sent {note.bytes_up:,} bytes, masked and noised "
            f"(release {note.release})"
        )


def guaranteed(masks: MaskSettings, count: int, devices: int | None = None, *, share: float = 1.0) -> float:
    """Return the noise multiplier that is sure: the noise of the fewest devices of a sum over one device's longest change.

    `count` is how many numbers a change has. By default the fewest are those that the invitation names; `devices` is what the
    roster makes sure of, if that is less. `share` is the part of them whose noise is counted on.
    """
    fewest = masks.least if devices is None else min(devices, masks.least)
    sensitivity = sensitivity_of(masks.clip, masks.step, count)
    return noise_multiplier(
        masks.noise, devices=fewest, sensitivity=sensitivity, dimension=count + 1, honest_share=share
    )
