"""From the bytes that devices sent to one change of the encoder.

Where it stands in the flow: `rounds` collects replies. This module checks each reply alone, before anything
is summed, and turns it into an `EncoderUpdate` or into one word that says why it cannot be used. It puts the
usable ones in a fixed order, so their average has the same bits whatever order they came in.

Only the wire bytes of a reply are read. Anything else in it (a weight, an example count, other tensors) is
ignored, and every usable update counts the same. So no device can make itself louder than a change of length
`max_norm`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from palate.shared.arrays import Float32s
from palate.shared.encoder import SHARED_SHAPES, EncoderWeights, unflatten
from palate.shared.errors import UpdateError
from palate.shared.update import EncoderUpdate
from palate.shared.wire import decode_update

MOST_THREADS = 4  # that check replies
BATCH = 32  # replies that are taken from the network before they are checked


@dataclass(frozen=True)
class Reply:
    """What came back for one question: wire bytes, or, where none could be had, one word that says why.

    The words: those of `shared.reasons`, `error` (the device said something else), `gone` (the device is no
    longer connected), `late` (too late to be delivered), `content` (the message holds something else than
    wire bytes), `unreadable` (the message could not be read).
    """

    question: str  # the id of the message that it answers
    wire: bytes | None
    reason: str = ""


@dataclass(frozen=True)
class Sound:
    """A reply that passed every check."""

    update: EncoderUpdate
    wire: bytes


def check_reply(reply: Reply, *, base: str, round: int, max_norm: float) -> Sound | str:  # noqa: A002
    """Return the reply's update, or the word that says why it cannot be used.

    Raises nothing, whatever the reply holds.

    `base` is the `encoder_hash` of the encoder that was sent out in this `round`, `max_norm` the longest
    change that is taken (L2). No bytes at all are the polite way to stay out: `empty`. The other words are
    those of `Reply` and of `UpdateError`.
    """
    if reply.wire is None:
        return reply.reason or "content"
    if not reply.wire:
        return "empty"
    try:
        update = decode_update(reply.wire, base=base, round=round, max_norm=max_norm)
    except UpdateError as error:
        return error.reason
    return Sound(update, reply.wire)


def check_replies(
    replies: Iterable[Reply],
    *,
    base: str,
    round: int,  # noqa: A002
    max_norm: float,
) -> Iterator[tuple[Reply, Sound | str]]:
    """Yield each reply with what `check_reply` says of it, in their order.

    Several cores check side by side.
    """
    check = partial(check_reply, base=base, round=round, max_norm=max_norm)
    waiting = iter(replies)
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        while some := list(islice(waiting, BATCH)):
            yield from zip(some, pool.map(check, some) if len(some) > 1 else map(check, some), strict=True)


def in_fixed_order(sound: Sequence[Sound]) -> list[EncoderUpdate]:
    """Return the updates in an order that depends on their content alone.

    Sums of floats depend on their order. Arrival depends on the network and device numbers on the run, so
    neither may decide it: the same updates must give the same encoder in one process, on many machines and
    after a restart.
    """
    return [one.update for one in sorted(sound, key=lambda one: one.wire)]


def moved(encoder: EncoderWeights, change: Float32s) -> EncoderWeights:
    """Return the encoder with a change added; raises ModelError when the result is not finite."""
    steps = unflatten(change)
    with np.errstate(over="ignore"):  # becomes infinite, which the encoder refuses
        return encoder.with_shared({name: encoder.tensors[name] + steps[name] for name in SHARED_SHAPES})
