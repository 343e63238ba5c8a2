"""What a joined device does when a task comes: reads the vault anew, trains, and sends the change through the one door out.

Where it stands in the flow: `app` takes the task from Flower, this module checks it against what is installed here, turns the
comments that are kept into labels, lets `reconstruction` train on them, and hands the change to `outbox`. Nothing here knows
Flower. The vault is unlocked once, in this one process; it is read again for each task without taking its lock, so other
`palate` commands work beside it, and a comment that was forgotten since the last round no longer counts.

**What the server learns.** An update, an empty answer, or one of the reasons in `Reason`. An empty answer says "not this time"
and does not say why: too few labels, a vault that cannot be read, a person who forgot something. Texts of exceptions stay here:
they may quote a comment, so none is sent, printed or logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from palate.client import records
from palate.client.device import Device, no_notice, no_progress
from palate.client.outbox import Log, send_update
from palate.shared.encoder import SENTENCE_FEATURES, EncoderWeights, load_encoder
from palate.shared.errors import (
    PalateError,
    StorageError,
    UpdateError,
    VaultError,
    VaultMissingError,
    WrongPassphraseError,
)
from palate.shared.update import MAX_NORM, norm_of
from palate.shared.wire import Task, decode_task

if TYPE_CHECKING:
    from palate.client.reconstruction import Labels

Floats = NDArray[np.float32]

Send = Callable[[bytes], None]
"""Called at most once per task with the bytes that go to the server; empty bytes say "not this time"."""

Notice = Callable[[str], None]
"""Called with one line for the person at this device; made of constants and counts, never of what is in the vault."""

LARGEST_ENCODER = 1_000.0
"""The longest encoder that is trained here, L2 over the federated tensors; release 0 has 50."""


class Reason(StrEnum):
    """Why a device did not do what was asked: the only words about it that ever leave."""

    UNKNOWN_BUNDLE = "the run's bundle is not one that this device knows"
    UNKNOWN_MESSAGE = "the message is not one that this device answers"
    UNREADABLE_TASK = "the task cannot be read"
    OTHER_ENCODER = "the task is for an encoder with other fixed tensors"
    OLDER_RELEASE = "the task is for a release older than this device's"
    ENCODER_TOO_LARGE = "the task's encoder is out of bounds"
    TRAINING_FAILED = "local training failed"
    NOT_NOTED = "the outbox could not be written, so nothing was sent"
    FAILED = "the device failed"


class Declined(Exception):  # noqa: N818 - an answer, not an error of this program
    """A task is not done; `reason` is what the server is told."""

    def __init__(self, reason: Reason) -> None:
        """Take a reason of the fixed list; there is no room for another text."""
        super().__init__(reason.value)
        self.reason = reason


class Participant(Protocol):
    """Who takes part in rounds: a `Member` on a device, a virtual person in a simulation."""

    def take_part(self, task: bytes, send: Send, /) -> None:
        """Answer one task through `send`, or raise `Declined`."""


def own_release() -> EncoderWeights:
    """Return the encoder release that this device trusts: the installed one.

    Here a newer release is adopted once it can be: one whose signature was checked and which the vault keeps. An encoder
    that merely came with a task serves for its round and is kept nowhere.
    """
    return load_encoder()


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
    if not math.hypot(*(norm_of(tensor) for tensor in task.tensors.values())) <= LARGEST_ENCODER:
        raise Declined(Reason.ENCODER_TOO_LARGE)
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
) -> None:
    """Do what a task asks and send the change through the outbox, noted in `log`; without labels send an empty answer.

    `labels` is asked after the task was checked, so that a task that is declined costs nothing. Raises `Declined`, and what
    `send` raises when the server is lost (`FederationError`).
    """
    from palate.client.reconstruction import train_locally

    task, encoder = read_task(data, own_release() if own is None else own)
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
        note = send_update(
            log, update, send=hand_over, server=server, release=task.release, now=datetime.now(UTC)
        )
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
        """Use an open device; `server` is the name under which the outbox notes what goes there."""
        self.ended: str | None = None
        """Why this device can take part no longer, once it cannot."""
        self._device = device
        self._server = server
        self._tell = tell
        self._meanings: dict[str, Floats] = {}

    def take_part(self, task: bytes, send: Send) -> None:
        """Answer one task; raises `Declined` for one that is not done, `FederationError` when the server is lost."""
        answer_task(
            task, self._labels_or_none, send, log=self._device.vault, server=self._server, tell=self._tell
        )

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

    def _labels_or_none(self) -> Labels | None:
        """Return the labels, or None if the device stays out of this round; the person is told why, the server is not."""
        from palate.client.reconstruction import LEAST_LABELS

        try:
            mine = self.labels()
        except VaultMissingError:
            self.ended = "the vault is gone, so this device has left the federation"
        except WrongPassphraseError:
            self.ended = "the vault's passphrase was changed meanwhile; join again with the new one"
        except (VaultError, StorageError):
            self._tell("stayed out of a round: the vault could not be read")
        except (PalateError, OSError):
            self._tell("stayed out of a round: the kept pictures could not be looked at")
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
