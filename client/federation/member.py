"""What a joined device does with a message: checks the terms, reads the vault anew, trains, sends.

Where it stands in the flow: `app` takes the message from Flower. This module turns the kept comments into
labels and passes masked rounds on to `masked_answers`. It handles rounds without masks, which only a device
answers whose owner allowed them, and releases that the server offers. Nothing here knows Flower. The vault is
unlocked once, in this one process. It is read again for each message without taking its lock, so other
`palate` commands work at the same time, and a comment that was forgotten since the last round no longer
counts.

**What the server learns.** An update, an empty answer, or a `DeclineReason`. An empty answer says "not this
time" and not why: the owner's terms, their budget, a vault that cannot be read. Which of these it is depends
on the invitation, the terms and the machine alone, never on comments, pictures or the result of training: a
device with too few labels, or whose training fails, takes part like every other and sends a change of nothing
(`contribution`). Texts of exceptions stay here: they may quote a comment, so none is sent, printed or logged.

**Who may invite.** Invitations and tasks are signed (`invitations`); one that is not is declined unread. Each
one that the owner's terms allow counts toward the rounds a day, whatever comes of it (`rounds_a_day`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from palate.client.device import Device
from palate.client.eye.backbone import check_backbone
from palate.client.federation.consent import Consent, Terms
from palate.client.federation.contribution import Pause, begin_class, contribute
from palate.client.federation.declined import Declined
from palate.client.federation.invitations import Invitations
from palate.client.federation.masked_answers import KINDS, MaskedAnswers
from palate.client.federation.masked_round import MaskRules
from palate.client.federation.outbox import Send
from palate.client.federation.own_labels import read_labels
from palate.client.federation.pseudonyms import fresh_pseudonym, slots_left, use_pseudonym
from palate.client.federation.rounds_a_day import count_invitation
from palate.client.federation.task_limits import check_encoder, check_settings
from palate.client.privacy import book_round, remember
from palate.client.releases import federation_encoder, is_pinned, offer, release_key, why_not_good
from palate.client.runtime.progress import Notice, no_notice
from palate.client.vault.store import Store
from palate.shared.arrays import Float32s
from palate.shared.delegation import ANY_RELEASE, SIGNED
from palate.shared.encoder import EncoderWeights
from palate.shared.errors import (
    PalateError,
    ReleaseError,
    StorageError,
    UpdateError,
    VaultError,
    VaultMissingError,
    WrongPassphraseError,
)
from palate.shared.reasons import DeclineReason
from palate.shared.releases.message import RELEASE
from palate.shared.secure_sum.frame import INVITATION
from palate.shared.secure_sum.pseudonym import Pseudonym
from palate.shared.wire import TASK, Task, decode_task, kind_of

if TYPE_CHECKING:
    from palate.client.federation.local_training import Labels

FEW = 10
"""With fewer pseudonyms left the person is told."""


class Participant(Protocol):
    """What takes part in rounds: a `Member` on a device, a virtual person in a simulation."""

    def take_part(self, task: bytes, send: Send, /) -> None:
        """Answer one task through `send`, or raise `Declined`."""


def read_task(data: bytes, own: EncoderWeights) -> tuple[Task, EncoderWeights]:
    """Return a task and the encoder to train, both checked against `own`, this device's release.

    Raises `Declined`.
    """
    try:
        task = decode_task(data)
        encoder = task.encoder(own)
    except UpdateError as error:
        other = error.reason in ("fixed", "shapes")
        raise Declined(DeclineReason.OTHER_ENCODER if other else DeclineReason.UNREADABLE_TASK) from None
    if task.release < own.release:
        raise Declined(DeclineReason.OLDER_RELEASE)
    check_settings(task.settings)
    check_encoder(encoder, own)
    return task, encoder


def answer_task(
    data: bytes,
    labels: Callable[[], Labels | None],
    send: Send,
    *,
    store: Store,
    server: str,
    own: EncoderWeights | None = None,
    tell: Notice = no_notice,
    budgeted: bool = False,
    pause: Callable[[], Pause] = begin_class,
    up_to: int = ANY_RELEASE,
) -> None:
    """Answer a task without masks: check it, then `contribute` a change to it.

    Args:
        data: the task's bytes.
        labels: returns this device's labels, None where there are too few; called once the task is checked,
            booked and noted.
        send: called once with the update's bytes.
        store: where the round is booked and the outbox is kept.
        server: the name under which the outbox notes it.
        own: the installed release, by default the one that ships.
        tell: called with lines for the person.
        budgeted: book the round in the ledger; it has no bound, so it takes place only if the person allowed
            such rounds.
        pause: begins the class of time that the answer waits for.
        up_to: the newest release that the signer of the task may invite to.

    Raises:
        Declined: the task is not done.
        FederationError: from `send`, when the server is lost.
    """
    finish = pause()
    task, encoder = read_task(data, federation_encoder() if own is None else own)
    if task.release > up_to:
        raise Declined(DeclineReason.UNSIGNED)
    contribute(
        task,
        encoder,
        labels,
        send,
        pause=finish,
        store=store,
        server=server,
        tell=tell,
        book=lambda store: book_round(store, 0.0, now=datetime.now(UTC)) if budgeted else None,
    )


class Member:
    """A person's device while it takes part: an unlocked vault, which is read again for every task."""

    def __init__(self, device: Device, *, server: str, tell: Notice = no_notice) -> None:
        """Use an open device.

        Args:
            device: its vault stays unlocked for this object.
            server: the name under which consent was given, and under which the outbox notes what goes there.
            tell: called with lines for the owner.

        Raises:
            ModelError: other towers than those that ship.
            VaultError: what the vault raises.
            StorageError: what the vault and the keyring raise.
        """
        self.ended: str | None = None
        """Why this device can no longer take part, once that is so."""
        self.rounds = 0
        """How many rounds are over for this device, with or without it."""
        self._device = device
        self._server = server
        self._tell = tell
        self._meanings: dict[str, Float32s] = {}
        self._said_unpinned = False
        vault = device.vault
        check_backbone()
        remember(vault)
        self._consent = Consent(vault, server)
        self._invitations = Invitations(vault, server, tell, pinned=self._pinned)
        self._masked = MaskedAnswers(
            own=lambda: federation_encoder(vault),
            labels=self._labels_or_none,
            rules=self._rules,
            store=vault,
            server=server,
            tell=tell,
            honest_share=lambda: self._terms().counted_share,
            pseudonym=self._pseudonym,
        )

    def take_part(self, task: bytes, send: Send) -> None:
        """Answer one message.

        Raises `Declined` for one that this device refuses, `FederationError` when the server is lost.
        """
        kind = kind_of(task)
        try:
            self._answer(kind, task, send)
        finally:
            self.rounds += kind != RELEASE and not self._masked.in_round

    def _answer(self, kind: int, wire: bytes, send: Send) -> None:
        """Answer one message of a kind.

        A round begins only if the invitation is signed by a key that this device trusts, and the owner's
        terms allow it now. A masked round that has begun is finished.
        """
        if kind in (TASK, INVITATION):
            self._tell("declined an invitation: it is not signed; the server needs this version of Palate")
            raise Declined(DeclineReason.UNSIGNED)
        up_to = ANY_RELEASE
        try:
            terms = self._consent.terms()
            if kind == SIGNED:
                if self._pinned() is None and self._waits_for_log(terms):
                    self._tell(
                        "declined an invitation: no log of releases that rests on the key pinned here has "
                        "come yet"
                        if is_pinned(self._device.vault)
                        else "declined an invitation: the key that was pinned here was forgotten (palate "
                        "release reset); leave and join again to pin it anew"
                    )
                    raise Declined(DeclineReason.UNSIGNED)
                opened = self._invitations.open(wire)
                kind, wire, up_to = kind_of(opened.message), opened.message, opened.up_to
                if kind not in (TASK, INVITATION):
                    raise Declined(DeclineReason.UNREADABLE_TASK)
                now = datetime.now(UTC)
                permission = self._consent.allows(now)
                why_not = "" if permission.allowed else permission.reason
                why_not = why_not or why_not_good(self._device.vault, now)
                if why_not:
                    self._tell(f"stayed out of a round: {why_not}")
                    send(b"")
                    return
                with self._device.vault.transaction() as change:
                    self._invitations.keep(change, opened)
                    count_invitation(change, now)
        except (PalateError, OSError) as error:
            self._excuse(error)
            send(b"")
            return
        if kind in KINDS:
            self._masked.answer(kind, wire, send, up_to)
            return
        if kind == RELEASE:
            self._consider(wire)
            send(b"")
            return
        if terms is None or not terms.allow_unmasked:
            self._tell(
                "declined a round without masks, in which the server would see this device's update alone"
            )
            raise Declined(DeclineReason.UNMASKED)
        answer_task(
            wire,
            self._labels_or_none,
            send,
            store=self._device.vault,
            server=self._server,
            own=federation_encoder(self._device.vault),
            tell=self._tell,
            budgeted=True,
            up_to=up_to,
        )

    def _consider(self, release: bytes) -> None:
        """Adopt a release that the server offers, if its signatures and all else are right.

        The server is not told.

        Where no key is pinned none is adopted, and the owner is told once.
        """
        if not self._waits_for_log(self._consent.terms()):
            if not self._said_unpinned:
                self._said_unpinned = True
                self._tell(
                    f"{self._server} offers signed releases of the encoder; this device takes none, since "
                    "no key is "
                    "pinned here, and takes part without them. To pin the key: palate join --release-key KEY"
                )
            return
        found = offer(self._device.vault, release)
        if isinstance(found, ReleaseError):
            self._tell(f"a release was refused: {found}")
        elif found.new:
            self._tell(f"release {found.release} is what rounds start from now")

    def _pinned(self) -> bytes | None:
        """Return the release key of the log followed here, on which invitations must rest.

        None before there is one.
        """
        return release_key(self._device.vault)

    def _waits_for_log(self, terms: Terms | None) -> bool:
        """Return whether the owner pinned a key: then nobody may invite before its log has come."""
        return (terms is not None and bool(terms.release_key)) or is_pinned(self._device.vault)

    def _terms(self) -> Terms:
        terms = self._consent.terms()
        if terms is None:
            raise Declined(DeclineReason.MASKS_REFUSED)
        return terms

    def _rules(self) -> MaskRules:
        return MaskRules(self._terms().least_devices)

    def _pseudonym(self, slot: int) -> Pseudonym | None:
        """Return this device's pseudonym for a slot, certified where a registrar is pinned.

        None if none is left.
        """
        terms, vault = self._terms(), self._device.vault
        if not terms.registrar:
            return fresh_pseudonym(slot)
        found = use_pseudonym(vault, terms, slot)
        left = len(slots_left(vault, terms))
        if found is not None and left < FEW:
            self._tell(f"pseudonyms for {left} more rounds are left; see palate pseudonyms request")
        return found

    def count_labels(self) -> int:
        """Return how many labels there are now.

        Load all that training needs, so that the first round does not wait.
        """
        return len(self.labels())

    def labels(self) -> Labels:
        """Return this device's labels (`own_labels`); raises what the vault raises."""
        found, self._meanings = read_labels(self._device, self._meanings)
        return found

    def _excuse(self, error: Exception) -> None:
        """Tell the owner why this device stays out of a round; the server is not told."""
        if isinstance(error, VaultMissingError):
            self.ended = "the vault is gone, so this device has left the federation"
        elif isinstance(error, WrongPassphraseError):
            self.ended = "the vault's passphrase was changed meanwhile; join again with the new one"
        elif isinstance(error, VaultError | StorageError):
            self._tell("stayed out of a round: the vault could not be read")
        else:
            self._tell("stayed out of a round: the kept pictures could not be looked at")

    def _labels_or_none(self) -> Labels | None:
        """Return the labels, or None if there are too few or they cannot be read.

        Tell the owner, not the server.
        """
        from palate.client.federation.local_training import LEAST_LABELS

        try:
            mine = self.labels()
        except (PalateError, OSError) as error:
            self._excuse(error)
        else:
            if len(mine) >= LEAST_LABELS:
                return mine
            self._tell(f"{len(mine)} labels, and to learn from them takes at least {LEAST_LABELS}")
        return None
