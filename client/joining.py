"""What a joined device does when a message comes: asks the owner's terms, reads the vault anew, trains, sends through the one door out.

Where it stands in the flow: `app` takes the message from Flower, this module turns the comments that are kept into labels and hands
masked rounds to `masked_answers`; rounds without masks, which only a device of which the owner allowed it answers, and releases that
the server offers are dealt with here. Nothing here knows Flower. The vault is unlocked once, in this one process; it is read
again for each message without taking its lock, so other `palate` commands work beside it, and a comment that was forgotten since
the last round no longer counts.

**What the server learns.** An update, an empty answer, or one of the reasons in `Reason`. An empty answer says "not this time"
and does not say why: too few labels, a vault that cannot be read, a person who forgot something. Texts of exceptions stay here:
they may quote a comment, so none is sent, printed or logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from palate.client import records
from palate.client.consent import Consent, Terms
from palate.client.device import Device
from palate.client.ledger import book_round
from palate.client.masked_answers import KINDS, MaskedAnswers
from palate.client.masking import MaskRules
from palate.client.outbox import Log, send_update
from palate.client.progress import no_notice, no_progress
from palate.client.pseudonyms import fresh_pseudonym, slots_left, use_pseudonym
from palate.client.reasons import Declined, Notice, Send, check_encoder
from palate.client.releases import offer, own_encoder
from palate.shared.encoder import SENTENCE_FEATURES, EncoderWeights
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
from palate.shared.masked_frame import INVITATION
from palate.shared.pseudonym import Pseudonym
from palate.shared.reasons import Reason
from palate.shared.release import RELEASE
from palate.shared.update import MAX_NORM
from palate.shared.wire import TASK, Task, decode_task, kind_of

if TYPE_CHECKING:
    from palate.client.reconstruction import Labels

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
    check_encoder(task.tensors)
    return task, encoder


def answer_task(
    data: bytes,
    labels: Callable[[], Labels | None],
    send: Send,
    *,
    log: Log,
    server: str,
    own: EncoderWeights | None = None,
    tell: Notice = no_notice,
    budgeted: bool = False,
) -> None:
    """Do what a task without masks asks and send the change through the outbox, noted in `log`; without labels send an empty answer.

    `own` is the release that is installed, by default that which ships with Palate. `labels` is asked after the task was checked,
    so that a task that is declined costs nothing. `budgeted` books the round in the ledger of `log`: such a round has no bound,
    so it takes place only if the person allowed that. Raises `Declined`, and what `send` raises when the server is lost
    (`FederationError`).
    """
    from palate.client.reconstruction import train_locally

    task, encoder = read_task(data, own_encoder() if own is None else own)
    mine = labels()
    if mine is None:
        send(b"")
        return
    try:
        update = train_locally(encoder, mine, task.settings, round=task.round, seed=task.seed)
    except Exception:  # noqa: BLE001 - whatever it says may quote what it was trained on
        raise Declined(Reason.TRAINING_FAILED) from None
    if not update.norm <= MAX_NORM:  # the server would refuse it
        raise Declined(Reason.TRAINING_FAILED)
    gone = False

    def hand_over(wire: bytes) -> None:
        nonlocal gone
        send(wire)
        gone = True

    try:
        if budgeted:
            book_round(log, 0.0, now=datetime.now(UTC))
        note = send_update(
            log, update, send=hand_over, server=server, release=task.release, now=datetime.now(UTC)
        )
    except PrivacyError as error:
        tell(f"declined a round: {error}")
        raise Declined(Reason.UNMASKED) from None
    except (VaultError, StorageError):
        if not gone:
            raise Declined(Reason.NOT_NOTED) from None
        tell(f"round {task.round}: sent, but the outbox could not note that it went")
        return
    tell(
        f"round {note.round}: trained on {len(mine)} labels, sent {note.bytes_up:,} bytes (release {note.release})"
    )


class Member:
    """A person's device while it takes part: an unlocked vault, which is read again for every task."""

    def __init__(self, device: Device, *, server: str, tell: Notice = no_notice) -> None:
        """Use an open device; `server` is the name under which the outbox notes what goes there, and consent was given."""
        self.ended: str | None = None
        """Why this device can take part no longer, once it cannot."""
        self.rounds = 0
        """How many rounds are over for this device, whether it took part in them or not."""
        self._device = device
        self._server = server
        self._tell = tell
        self._meanings: dict[str, Floats] = {}
        vault = device.vault
        self._consent = Consent(vault, server)
        self._masked = MaskedAnswers(
            own=lambda: own_encoder(vault),
            labels=self._labels_or_none,
            rules=self._rules,
            log=vault,
            server=server,
            tell=tell,
            honest_share=lambda: self._terms().honest_share,
            pseudonym=self._pseudonym,
        )

    def take_part(self, task: bytes, send: Send) -> None:
        """Answer one message; raises `Declined` for one that is not done, `FederationError` when the server is lost."""
        kind = kind_of(task)
        try:
            self._answer(kind, task, send)
        finally:
            self.rounds += kind != RELEASE and not self._masked.in_round

    def _answer(self, kind: int, task: bytes, send: Send) -> None:
        """Answer one message of a kind.

        A round begins only if the person's terms allow it now; a masked round that has begun is gone through with.
        """
        try:
            terms = self._consent.terms()
        except (PalateError, OSError) as error:
            self._excuse(error)
            send(b"")
            return
        if kind in (TASK, INVITATION):
            verdict = self._consent.allows(datetime.now(UTC))
            if not verdict.allowed:
                self._tell(f"stayed out of a round: {verdict.reason}")
                send(b"")
                return
        if kind in KINDS:
            self._masked.answer(kind, task, send)
            return
        if kind == RELEASE:
            self._consider(task)
            send(b"")
            return
        if terms is None or not terms.allow_unmasked:
            self._tell(
                "declined a round without masks, in which the server would see this device's update alone"
            )
            raise Declined(Reason.UNMASKED)
        answer_task(
            task,
            self._labels_or_none,
            send,
            log=self._device.vault,
            server=self._server,
            own=own_encoder(self._device.vault),
            tell=self._tell,
            budgeted=True,
        )

    def _consider(self, release: bytes) -> None:
        """Take over a release that the server offers, if its signatures and all else are right; the server is not told."""
        found = offer(self._device.vault, release)
        if isinstance(found, ReleaseError):
            self._tell(f"a release was refused: {found}")
        elif found.new:
            self._tell(f"release {found.release} is used from now on")

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
        from palate.client.fitting import read_verdicts
        from palate.client.picture_tower import FEATURES
        from palate.client.reconstruction import Labels

        taught = [
            one
            for one in self._device.comments()
            if one.comment.liked is not None and one.comment.picture is not None
        ]
        verdicts = read_verdicts(self._device.vault, taught, no_progress)
        liked = np.array([one.comment.liked is True for one in taught], dtype=np.bool_)
        features = np.zeros((len(taught), len(FEATURES)), np.float32)
        features[liked], features[~liked] = verdicts.liked, verdicts.disliked
        vetoed = {name for name, edit in records.read_edits(self._device.vault).items() if edit.vetoed}
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
        """Return the labels, or None if the device stays out of this round; the person is told why, the server is not."""
        from palate.client.reconstruction import LEAST_LABELS

        try:
            mine = self.labels()
        except (PalateError, OSError) as error:
            self._excuse(error)
        else:
            if len(mine) >= LEAST_LABELS:
                return mine
            self._tell(f"stayed out of a round: {len(mine)} labels, and it takes at least {LEAST_LABELS}")
        return None


def read_meanings(names: set[str], known: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
    """Return each attribute's direction in the sentence tower, (384,) of length 1; those in `known` are not asked again.

    What is returned holds these names and no others, so nothing of a forgotten comment stays with it.
    """
    from palate.client.sentences import SentenceTower

    found = {name: known[name] for name in names if known and name in known}
    terms = _term_meanings()
    found |= {name: terms[name] for name in names - found.keys() if name in terms}
    tower = SentenceTower()
    # One by one, so that to the last bit a direction does not depend on the others.
    return found | {name: tower.embed([name])[0] for name in sorted(names - found.keys())}


@cache
def _term_meanings() -> dict[str, Floats]:
    from palate.client.sentences import SentenceTower, load_term_embeddings

    rows, names = load_term_embeddings(SentenceTower())
    found: dict[str, Floats] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(name, row)  # the first is the term's own name, the others are its aliases
    return found
