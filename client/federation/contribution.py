"""What a device adds to a round: booked and noted first, then trained or a change of nothing, sent alike.

Where it stands in the flow: `member` (rounds without masks) and `masked_answers` agree to a round and call
`contribute`. It books and notes the round first, then trains (`local_training`), then sends through `outbox`.

**What is answered does not depend on what was learned.** What training comes to is a function of what the
person kept. A server that chooses encoder and settings chooses that function, so "training failed" would tell
it one bit about the person. So no failure of training is told. Too few labels, pictures that cannot be read,
a loss that explodes, a change that is not finite or too long: each gives a change of zeros. It adds to the
sum what a device adds that has learned nothing.

**Time** is an answer too. How long training takes depends on how many labels there are. So an answer leaves
at the end of its class of time: 50 ms after the question, or 100, 200 and so on (`Pause`). Most devices
always fall into one class. The class tells how fast the machine is and, for hundreds of comments, their order
of magnitude. These are the doubling epochs of Askarov, Zhang and Myers, "Predictive black-box mitigation of
timing channels", CCS 2010.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from palate.client.federation.declined import Declined
from palate.client.federation.outbox import Cover, Send, send_update
from palate.client.runtime.progress import Notice, no_notice
from palate.client.vault.store import Store
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights, encoder_hash
from palate.shared.errors import PrivacyError, StorageError, VaultError
from palate.shared.reasons import DeclineReason
from palate.shared.secure_sum.messages import Invitation
from palate.shared.update import MAX_NORM, EncoderUpdate, LocalSettings, SharedTensors
from palate.shared.wire import Task

if TYPE_CHECKING:
    from palate.client.federation.local_training import Labels

FIRST_CLASS_SECONDS: Final = 0.05
"""The shortest time that an answer takes: several times what a dozen labels need, and short compared with a
round of a second."""

Pause = Callable[[], None]
"""Called right before bytes leave; returns at the end of the class of time that has begun."""


def contribute(
    task: Task | Invitation,
    encoder: EncoderWeights,
    labels: Callable[[], Labels | None],
    send: Send,
    *,
    pause: Pause,
    store: Store,
    server: str,
    tell: Notice = no_notice,
    cover: Cover | None = None,
    book: Callable[[Store], object] = lambda _: None,
) -> None:
    """Book and note a round that was agreed to, train for it, and send the change; always in this order.

    `labels` is called only after the round was booked and noted, so a round that is declined here costs
    nothing and reads nothing. Whatever training comes to, bytes of the same length leave at the end of a
    class of time.

    Args:
        task: the task or the invitation, already checked.
        encoder: the encoder to train, which the task gave.
        labels: returns this device's labels, None where there are too few.
        send: called once with the bytes.
        pause: the class of time, begun when the question came.
        store: where the round is booked and the outbox is kept.
        server: the name under which the outbox notes it.
        tell: called with lines for the person.
        cover: masks the change; None in a round without masks.
        book: called with `store` in the same transaction as the first note; a `PrivacyError` that it raises
            declines the round.

    Raises:
        Declined: the budget does not hold the round, or nothing could be noted, so nothing was sent.
        FederationError: from `send`, when the server is lost.
    """
    trained_on, gone = 0, False

    def make() -> EncoderUpdate:
        nonlocal trained_on
        update, trained_on = learned_or_nothing(
            encoder, labels, task.settings, round=task.round, seed=task.seed, tell=tell
        )
        return update

    def hand_over(wire: bytes) -> None:
        nonlocal gone
        pause()
        send(wire)
        gone = True

    try:
        note = send_update(
            store,
            make,
            send=hand_over,
            server=server,
            release=task.release,
            base=encoder_hash(encoder),
            round=task.round,
            now=datetime.now(UTC),
            cover=cover,
            first=book,
        )
    except PrivacyError as error:
        tell(f"{'declined a round' if cover is None else 'left a masked round'}: {error}")
        raise Declined(DeclineReason.UNMASKED if cover is None else DeclineReason.MASKS_REFUSED) from None
    except (VaultError, StorageError):
        if not gone:
            raise Declined(DeclineReason.NOT_NOTED) from None
        tell(f"round {task.round}: sent, but the outbox could not note that it went")
        return
    what = f"trained on {trained_on} labels" if trained_on else "with a change of nothing"
    bytes_up = f"{note.bytes_up:,} bytes{'' if cover is None else ', masked and noised'}"
    tell(f"round {note.round}: {what}, sent {bytes_up} (release {note.release})")


def nothing_learned(encoder: EncoderWeights, round: int) -> EncoderUpdate:  # noqa: A002
    """Return the change of zeros that a device sends when training came to nothing."""
    return EncoderUpdate(encoder_hash(encoder), round, SharedTensors(np.zeros(SHARED_WEIGHTS, np.float32)))


def learned_or_nothing(
    encoder: EncoderWeights,
    labels: Callable[[], Labels | None],
    settings: LocalSettings,
    *,
    round: int,  # noqa: A002
    seed: int,
    tell: Notice = no_notice,
) -> tuple[EncoderUpdate, int]:
    """Return the change and how many labels it was trained on, 0 for a change of nothing; raise nothing.

    `labels` returns the device's labels, None where there are too few; `tell` gets a line for the person
    where training failed.
    """
    from palate.client.federation.local_training import train_locally

    try:
        mine = labels()
        if mine is None:
            return nothing_learned(encoder, round), 0
        update = train_locally(encoder, mine, settings, round=round, seed=seed)
        if update.norm <= MAX_NORM:  # without masks, a server accepts no longer one
            return update, len(mine)
    except Exception:  # noqa: BLE001, S110 - its text may quote what was trained on, and nobody else may know that
        pass
    tell("local training came to nothing; the round goes on with a change of nothing")
    return nothing_learned(encoder, round), 0


def time_left(seconds: float) -> float:
    """Return how many seconds are left of the class of time that so many seconds fall into."""
    end = FIRST_CLASS_SECONDS
    while end < seconds:
        end *= 2
    return end - seconds


def begin_class(
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Pause:
    """Return a pause that begins now: when called, it waits until the class of time of the answer is over."""
    began = clock()
    return lambda: sleep(time_left(clock() - began))


def no_class() -> Pause:
    """Return a pause that does not wait: for virtual people, who have nothing to hide."""
    return lambda: None
