"""The change that a device sends in a round: what it learned, or a change of nothing, and whoever asked cannot tell which.

Where it stands in the flow: a round was booked and noted, then `masked_answers` or `joining` asks here for the change, and sends it as
every other: shielded, noised, masked where the round is. What training comes to is a function of what the person kept, and
whoever chooses encoder and settings chooses the function: "it failed" would tell them one bit of it, in the open, for nothing.
So nothing that fails is told. Too few labels, pictures that cannot be looked at, a loss that exploded, a change that is not
finite or too long: each gives a change of zeros, which adds to a sum what a device adds that has learned nothing.

**Time** is an answer too. How long labels take to read and to train on depends on how many there are, so an answer leaves at the end of
its class of time: 50 ms after the question, or 100, 200 and so on (`Pause`). Most devices always fall into one class; which one
tells how fast the machine is, and of hundreds of comments their order of magnitude (Askarov, Zhang, Myers, "Predictive black-box
mitigation of timing channels", CCS 2010, whose doubling epochs these are).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from palate.client.federation.declined import Notice
from palate.client.runtime.progress import no_notice
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights, encoder_hash
from palate.shared.update import MAX_NORM, EncoderUpdate, LocalSettings, SharedTensors

if TYPE_CHECKING:
    from palate.client.federation.local_training import Labels

FIRST_CLASS_SECONDS: Final = 0.05
"""The shortest time that an answer takes: several times what a dozen labels need, and little beside a round of a second."""

Pause = Callable[[], None]
"""Called right before bytes leave; returns at the end of the class of time that has begun."""


def nothing_learned(encoder: EncoderWeights, round: int) -> EncoderUpdate:  # noqa: A002
    """Return the change of a device that has nothing to say in this round."""
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
    """Return the change and how many labels it was trained on, 0 for a change of nothing; raises nothing.

    `labels` gives the device's labels, None where there are too few; `tell` has a line for the person where training failed.
    """
    from palate.client.federation import local_training as reconstruction

    try:
        mine = labels()
        if mine is None:
            return nothing_learned(encoder, round), 0
        update = reconstruction.train_locally(encoder, mine, settings, round=round, seed=seed)
        if update.norm <= MAX_NORM:  # a server takes no longer one where it sees it
            return update, len(mine)
    except Exception:  # noqa: BLE001, S110 - whatever it says may quote what was trained on, and is nobody else's to know
        pass
    tell("local training came to nothing; the round goes on with a change of nothing")
    return nothing_learned(encoder, round), 0


def time_left(seconds: float) -> float:
    """Return how long it is to the end of the class of time that so many seconds fall into."""
    end = FIRST_CLASS_SECONDS
    while end < seconds:
        end *= 2
    return end - seconds


def begin_class(
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Pause:
    """Begin to count the time of an answer; what is returned waits until its class is over."""
    began = clock()
    return lambda: sleep(time_left(clock() - began))


def no_class() -> Pause:
    """Count no time: for virtual people, who keep nothing from anybody."""
    return lambda: None
