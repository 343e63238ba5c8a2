"""Averaging by Flower's own strategies, as functions on explicit state.

Where it stands in the flow: `rounds` passes on the updates that passed the checks of `aggregation`. This
module gives their mean to a Flower strategy as one reply, and returns what to add to the encoder. Flower's
strategies do not check what they sum (one NaN or one example count of 1e12 decides everything), so they get
nothing unchecked. The mean itself, with equal weights, is taken here in float64: Flower would write each
update to a file in memory and read it again, which for a hundred devices costs more than all else that the
server does. A test compares it with Flower's own averaging.

    FedAvg   McMahan et al., AISTATS 2017       the average change, times the server's learning rate
    FedProx  Li et al., MLSys 2020              the same here; its proximal term acts on the devices
    FedAdam  Reddi et al., ICLR 2021            the average change as the gradient of an Adam step

What stands against devices that lie is in `secure_sum`. Its result goes through `server_step`, as the plain
mean does.

Flower's strategies work on encoders. Here they get changes of an encoder at zero, which is the same
arithmetic with less rounding. What FedAdam remembers goes in and out as plain arrays, so that a checkpoint
can hold it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx

from palate.server.settings import RunSettings
from palate.shared.arrays import Float32s
from palate.shared.update import EncoderUpdate

_NAME = "change"  # of the one tensor that a strategy sees
_MEMORY = ("m", "v")  # FedAdam's first and second moment


def average(
    settings: RunSettings,
    round: int,  # noqa: A002
    updates: Sequence[EncoderUpdate],
    memory: Mapping[str, Float32s],
) -> tuple[Float32s, dict[str, Float32s]]:
    """Return the vector to add to the encoder's federated tensors, and what the strategy remembers.

    Args:
        settings: the run's settings.
        round: the number of the round.
        updates: at least one, already checked; each counts the same.
        memory: what the call for the round before returned, empty at first.
    """
    if not updates:
        raise ValueError("there must be at least one update to average")
    return server_step(settings, round, mean_change(updates), memory)


def server_step(
    settings: RunSettings,
    round: int,  # noqa: A002
    mean: Float32s,
    memory: Mapping[str, Float32s],
) -> tuple[Float32s, dict[str, Float32s]]:
    """Return what the server's optimizer makes of a round's mean change, and what it remembers.

    Args:
        settings: the run's settings.
        round: the number of the round.
        mean: a vector from anywhere: from `mean_change`, from a masked sum, or from several.
        memory: what the call for the round before returned, empty at first.
    """
    strategy = _optimizer(settings)
    if isinstance(strategy, FedAdam):
        strategy.current_arrays = {_NAME: np.zeros_like(mean)}
        if set(memory) >= set(_MEMORY):
            strategy.m_t, strategy.v_t = ({_NAME: memory[name].copy()} for name in _MEMORY)
    change = aggregate(strategy, round, [mean])
    if not isinstance(strategy, FedAdam):
        return change * np.float32(settings.server_learning_rate), {}
    moments = (strategy.m_t or {}, strategy.v_t or {})
    return change, {name: kept[_NAME].astype(np.float32) for name, kept in zip(_MEMORY, moments, strict=True)}


def aggregate(strategy: FedAvg, round: int, changes: Sequence[Float32s]) -> Float32s:  # noqa: A002
    """Return what a strategy of Flower makes of these changes (d,), each with the weight 1."""
    with _quietly():
        arrays, _ = strategy.aggregate_train(round, [as_reply(change) for change in changes])
    if arrays is None:
        raise ValueError("Flower's strategy returned nothing for replies that hold a change")
    return np.asarray(arrays[_NAME].numpy(), dtype=np.float32)


def mean_change(updates: Sequence[EncoderUpdate]) -> Float32s:
    """Return the mean of at least one change, all counting the same, summed in float64 in the given order."""
    total = np.zeros_like(updates[0].vector, np.float64)

    def add(part: slice) -> None:
        for update in updates:
            total[part] += update.vector[part]

    half = len(total) // 2
    with ThreadPoolExecutor() as pool:
        list(pool.map(add, (slice(half), slice(half, None))))
    return np.asarray(total / len(updates), dtype=np.float32)


def _optimizer(settings: RunSettings) -> FedAvg:
    if settings.strategy == "fedadam":
        return FedAdam(
            eta=settings.server_learning_rate,
            beta_1=settings.beta_1,
            beta_2=settings.beta_2,
            tau=settings.tau,
        )
    if settings.strategy == "fedprox":
        return FedProx(proximal_mu=settings.local.proximal)
    return FedAvg()


def as_reply(change: Float32s) -> Message:
    """Return a change in the form in which Flower's strategies read replies, with the weight 1."""
    content = RecordDict(
        {
            "arrays": ArrayRecord({_NAME: Array(change)}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    nobody = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )
    return make_message(nobody, content)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep Flower from logging each averaging: the round's metrics say more."""
    logger = logging.getLogger("flwr")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(_: logging.LogRecord) -> bool:
    return False
