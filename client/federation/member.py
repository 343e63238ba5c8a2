"""What a joined device does when a message comes: asks the owner's terms, reads the vault anew, trains, sends through the one door out.

Where it stands in the flow: `app` takes the message from Flower, this module turns the comments that are kept into labels and hands
masked rounds to `masked_answers`; rounds without masks, which only a device of which the owner allowed it answers, and releases that
the server offers are dealt with here. Nothing here knows Flower. The vault is unlocked once, in this one process; it is read
again for each message without taking its lock, so other `palate` commands work beside it, and a comment that was forgotten since
the last round no longer counts.

**What the server learns.** An update, an empty answer, or one of the reasons in `Reason`. An empty answer says "not this time" and does not
say why: the owner's terms, their budget, a vault that cannot be read. Which of these it is depends on the invitation, the terms
and the machine alone, never on comments, pictures or what training came to: a device with too few labels, or whose training fails, takes
part like every other and sends a change of nothing (`contribution`). Texts of exceptions stay here: they may quote a comment, so none
is sent, printed or logged.

**Who may ask.** Invitations and tasks are signed (`invitations`); what is not is declined unread. Each that the owner's terms let through
is counted against the rounds a day, whatever comes of it (`invited`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from palate.client.device import Device
from palate.client.eye.backbone import check_backbone
from palate.client.federation.consent import Consent, Terms
from palate.client.federation.contribution import Pause, begin_class, learned_or_nothing
from palate.client.federation.declined import Declined, Notice, Send, check_encoder
from palate.client.federation.invitations import Invitations
from palate.client.federation.invited import count_invitation
from palate.client.federation.masked_answers import KINDS, MaskedAnswers
from palate.client.federation.masked_round import MaskRules
from palate.client.federation.outbox import send_update
from palate.client.federation.pseudonyms import fresh_pseudonym, slots_left, use_pseudonym
from palate.client.federation.task_limits import check_settings, check_step
from palate.client.privacy.ledger import book_round
from palate.client.privacy.spent_note import remember
from palate.client.releases.accepted import federation_encoder, is_pinned, offer, release_key, why_not_good
from palate.client.runtime.progress import no_notice, no_progress
from palate.client.taste.profile import read_edits
from palate.client.vault.store import Store
from palate.shared.delegation import ANY_RELEASE, SIGNED
from palate.shared.encoder import SENTENCE_FEATURES, EncoderWeights, encoder_hash
from palate.shared.errors import (
    PalateError,
    PrivacyError,
    ReleaseError,
    StorageError,
    UpdateError,
    VaultError,
    VaultMissingError,
    WrongPassphraseError,
)
from palate.shared.reasons import Reason
from palate.shared.releases.message import RELEASE
from palate.shared.secure_sum.frame import INVITATION
from palate.shared.secure_sum.pseudonym import Pseudonym
from palate.shared.update import EncoderUpdate
from palate.shared.wire import TASK, Task, decode_task, kind_of

if TYPE_CHECKING:
    from palate.client.federation.local_training import Labels

Floats = NDArray[np.float32]

FEW = 10
"""With fewer pseudonyms left the person is told."""


class Participant(Protocol):
    """Who takes part in rounds: a `Member` on a device, a virtual person in a simulation."""

    def take_part(self, task: bytes, send: Send, /) -> None:
        """Answer one task through `send`, or raise `Declined`."""


def read_task(data: bytes, own: EncoderWeights) -> tuple[Task, EncoderWeights]:
    """Return a task and the encoder to train, both checked against this device's own release; raises `Declined`."""
    try:
        task = decode_task(data)
        encoder = task.encoder(own)
    except UpdateError as error:
        other = error.reason in ("fixed", "shapes")
        raise Declined(Reason.OTHER_ENCODER if other else Reason.UNREADABLE_TASK) from None
    if task.release < own.release:
        raise Declined(Reason.OLDER_RELEASE)
    check_settings(task.settings)
    check_encoder(task.tensors)
    check_step(task.tensors, own)
    return task, encoder


def answer_task(
    data: bytes,
    labels: Callable[[], Labels | None],
    send: Send,
    *,
    log: Store,
    server: str,
    own: EncoderWeights | None = None,
    tell: Notice = no_notice,
    budgeted: bool = False,
    pause: Callable[[], Pause] = begin_class,
    up_to: int = ANY_RELEASE,
) -> None:
    """Do what a task without masks asks and send the change through the outbox, noted in `log`: of nothing where there are no labels.

    `own` is the release that is installed, by default that which ships with Palate. `labels` is asked after the task was checked,
    booked and noted, so that a task that is declined costs nothing. `budgeted` books the round in the ledger of `log`: such a round
    has no bound, so it takes place only if the person allowed that. `up_to` is the newest release that whoever signed the task
    may invite to. Raises `Declined`, and what `send` raises when the server is lost (`FederationError`).
    """
    finish = pause()
    task, encoder = read_task(data, federation_encoder() if own is None else own)
    if task.release > up_to:
        raise Declined(Reason.UNSIGNED)
    trained_on, gone = 0, False

    def make() -> EncoderUpdate:
        nonlocal trained_on
        update, trained_on = learned_or_nothing(
            encoder, labels, task.settings, round=task.round, seed=task.seed, tell=tell
        )
        return update

    def hand_over(wire: bytes) -> None:
        nonlocal gone
        finish()
        send(wire)
        gone = True

    try:
        note = send_update(
            log,
            make,
            send=hand_over,
            server=server,
            release=task.release,
            base=encoder_hash(encoder),
            round=task.round,
            now=datetime.now(UTC),
            first=lambda log: book_round(log, 0.0, now=datetime.now(UTC)) if budgeted else None,
        )
    except PrivacyError as error:
        tell(f"declined a round: {error}")
        raise Declined(Reason.UNMASKED) from None
    except (VaultError, StorageError):
        if not gone:
            raise Declined(Reason.NOT_NOTED) from None
        tell(f"round {task.round}: sent, but the outbox could not note that it went")
        return
    what = f"trained on {trained_on} labels" if trained_on else "with a change of nothing"
    tell(f"round {note.round}: {what}, sent {note.bytes_up:,} bytes (release {note.release})")


class Member:
    """A person's device while it takes part: an unlocked vault, which is read again for every task."""

    def __init__(self, device: Device, *, server: str, tell: Notice = no_notice) -> None:
        """Use an open device; `server` is the name under which the outbox notes what goes there, and consent was given.

        Raises `ModelError` for other towers than those that ship, and what the vault and the keyring raise.
        """
        self.ended: str | None = None
        """Why this device can take part no longer, once it cannot."""
        self.rounds = 0
        """How many rounds are over for this device, whether it took part in them or not."""
        self._device = device
        self._server = server
        self._tell = tell
        self._meanings: dict[str, Floats] = {}
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
            log=vault,
            server=server,
            tell=tell,
            honest_share=lambda: self._terms().counted_share,
            pseudonym=self._pseudonym,
        )

    def take_part(self, task: bytes, send: Send) -> None:
        """Answer one message; raises `Declined` for one that is not done, `FederationError` when the server is lost."""
        kind = kind_of(task)
        try:
            self._answer(kind, task, send)
        finally:
            self.rounds += kind != RELEASE and not self._masked.in_round

    def _answer(self, kind: int, wire: bytes, send: Send) -> None:
        """Answer one message of a kind.

        A round begins only if it is asked by whom this device trusts, and the person's terms allow it now; a masked round that has
        begun is gone through with.
        """
        if kind in (TASK, INVITATION):
            self._tell("declined an invitation: it is not signed; the server needs this version of Palate")
            raise Declined(Reason.UNSIGNED)
        up_to = ANY_RELEASE
        try:
            terms = self._consent.terms()
            if kind == SIGNED:
                if self._pinned() is None and self._waits_for_log(terms):
                    self._tell(
                        "declined an invitation: no log of releases that rests on the key pinned here has come yet"
                    )
                    raise Declined(Reason.UNSIGNED)
                opened = self._invitations.open(wire)
                kind, wire, up_to = kind_of(opened.message), opened.message, opened.up_to
                if kind not in (TASK, INVITATION):
                    raise Declined(Reason.UNREADABLE_TASK)
                now = datetime.now(UTC)
                verdict = self._consent.allows(now)
                why_not = "" if verdict.allowed else verdict.reason
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
            raise Declined(Reason.UNMASKED)
        answer_task(
            wire,
            self._labels_or_none,
            send,
            log=self._device.vault,
            server=self._server,
            own=federation_encoder(self._device.vault),
            tell=self._tell,
            budgeted=True,
            up_to=up_to,
        )

    def _consider(self, release: bytes) -> None:
        """Take over a release that the server offers, if its signatures and all else are right; the server is not told.

        Where no key is pinned none is taken, which is said once.
        """
        if not self._waits_for_log(self._consent.terms()):
            if not self._said_unpinned:
                self._said_unpinned = True
                self._tell(
                    f"{self._server} offers signed releases of the encoder; this device takes none, since no key is pinned "
                    "here, and takes part without them. To pin the key: palate join --release-key KEY"
                )
            return
        found = offer(self._device.vault, release)
        if isinstance(found, ReleaseError):
            self._tell(f"a release was refused: {found}")
        elif found.new:
            self._tell(f"release {found.release} is what rounds start from now")

    def _pinned(self) -> bytes | None:
        """Return the release key that invitations must be signed for: that of the log that is followed here, None before there is one."""
        return release_key(self._device.vault)

    def _waits_for_log(self, terms: Terms | None) -> bool:
        """Say whether the owner pinned a key, so that before its log has come nobody may ask."""
        return (terms is not None and bool(terms.release_key)) or is_pinned(self._device.vault)

    def _terms(self) -> Terms:
        terms = self._consent.terms()
        if terms is None:
            raise Declined(Reason.MASKS_REFUSED)
        return terms

    def _rules(self) -> MaskRules:
        return MaskRules(self._terms().least_devices)

    def _pseudonym(self, slot: int) -> Pseudonym | None:
        """Return how this device appears in a slot: with a certificate where its owner pinned a registrar, else or None."""
        terms, vault = self._terms(), self._device.vault
        if not terms.registrar:
            return fresh_pseudonym(slot)
        found = use_pseudonym(vault, terms, slot)
        left = len(slots_left(vault, terms))
        if found is not None and left < FEW:
            self._tell(f"pseudonyms for {left} more rounds are left; see palate pseudonyms request")
        return found

    def count_labels(self) -> int:
        """Return how many labels there are now; loads all that training needs, so that the first round does not wait."""
        return len(self.labels())

    def labels(self) -> Labels:
        """Return what the kept comments say: one label for each verdict on a picture, the oldest first.

        Phrases are the attributes that the comment names, liked or not, but for those that the person has vetoed. Raises
        what the vault raises.
        """
        from palate.client.eye.tower import FEATURES
        from palate.client.federation.local_training import Labels
        from palate.client.taste.fitting import read_verdicts

        taught = [
            one
            for one in self._device.comments()
            if one.comment.liked is not None and one.comment.picture is not None
        ]
        verdicts = read_verdicts(self._device.vault, taught, no_progress)
        liked = np.array([one.comment.liked is True for one in taught], dtype=np.bool_)
        features = np.zeros((len(taught), len(FEATURES)), np.float32)
        features[liked], features[~liked] = verdicts.liked, verdicts.disliked
        vetoed = {name for name, edit in read_edits(self._device.vault).items() if edit.vetoed}
        named = [
            tuple(dict.fromkeys(m.attribute for m in one.mentions if m.attribute not in vetoed))
            for one in taught
        ]
        self._meanings = read_meanings({name for names in named for name in names}, self._meanings)
        phrases = np.zeros((len(taught), SENTENCE_FEATURES), np.float32)
        for row, names in zip(phrases, named, strict=True):
            if names:
                row[:] = np.mean([self._meanings[name] for name in names], axis=0)
        return Labels(features, liked, phrases)

    def _excuse(self, error: Exception) -> None:
        """Tell the person why this device stays out of a round; the server is not told."""
        if isinstance(error, VaultMissingError):
            self.ended = "the vault is gone, so this device has left the federation"
        elif isinstance(error, WrongPassphraseError):
            self.ended = "the vault's passphrase was changed meanwhile; join again with the new one"
        elif isinstance(error, VaultError | StorageError):
            self._tell("stayed out of a round: the vault could not be read")
        else:
            self._tell("stayed out of a round: the kept pictures could not be looked at")

    def _labels_or_none(self) -> Labels | None:
        """Return the labels, or None if there are too few or they cannot be read; the person is told, the server is not."""
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


def read_meanings(names: set[str], known: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
    """Return each attribute's direction in the sentence tower, (384,) of length 1; those in `known` are not asked again.

    What is returned holds these names and no others, so nothing of a forgotten comment stays with it.
    """
    from palate.client.reader.sentences import SentenceTower

    found = {name: known[name] for name in names if known and name in known}
    terms = _term_meanings()
    found |= {name: terms[name] for name in names - found.keys() if name in terms}
    tower = SentenceTower()
    # One by one, so that to the last bit a direction does not depend on the others.
    return found | {name: tower.embed([name])[0] for name in sorted(names - found.keys())}


@cache
def _term_meanings() -> dict[str, Floats]:
    from palate.client.reader.sentences import SentenceTower, load_term_embeddings

    rows, names = load_term_embeddings(SentenceTower())
    found: dict[str, Floats] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(name, row)  # the first is the term's own name, the others are its aliases
    return found
