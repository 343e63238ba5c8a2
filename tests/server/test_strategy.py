"""Averaging by Flower's strategies: against Flower's own averaging, against the paper, and with memory put
away in between."""

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg
from server_fakes import SHIPPED, change, settings

from palate.server.settings import RunSettings
from palate.server.strategy import as_reply, average, server_step
from palate.shared.encoder import flatten
from palate.shared.update import EncoderUpdate, LocalSettings
from palate.shared.wire import Task


def updates(round: int, count: int = 5) -> list[EncoderUpdate]:  # noqa: A002
    task = Task.for_encoder(SHIPPED, round=round, settings=LocalSettings(), seed=round)
    return [change(task, device) for device in range(count)]


def test_fedavg_is_the_mean_with_equal_weights() -> None:
    given = updates(1)
    vector, memory = average(settings(), 1, given, {})
    assert np.array_equal(
        vector, np.mean([flatten(one.tensors).astype(np.float64) for one in given], axis=0).astype(np.float32)
    )
    assert vector.dtype == np.float32
    assert memory == {}


def test_fedavg_agrees_with_flowers_own_averaging_of_separate_replies() -> None:
    given = updates(1)
    arrays, _ = FedAvg().aggregate_train(1, [as_reply(flatten(one.tensors)) for one in given])
    assert arrays is not None
    ours, _ = average(settings(), 1, given, {})
    assert np.allclose(arrays["change"].numpy(), ours, rtol=0, atol=1e-8)


def test_the_servers_learning_rate_scales_the_mean() -> None:
    whole, _ = average(settings(), 1, updates(1), {})
    half, _ = average(settings(server_learning_rate=0.5), 1, updates(1), {})
    assert np.array_equal(half, whole * np.float32(0.5))


def test_fedprox_averages_as_fedavg_does() -> None:
    prox = settings(strategy="fedprox", local=LocalSettings(proximal=0.1))
    assert np.array_equal(average(prox, 1, updates(1), {})[0], average(settings(), 1, updates(1), {})[0])


def adam_by_hand(rounds: int, s: RunSettings) -> np.ndarray:
    """Algorithm 2 of Reddi et al. with Flower's bias correction, in float64."""
    m = v = 0.0
    step = np.zeros(0)
    for number in range(1, rounds + 1):
        g = np.mean([flatten(one.tensors).astype(np.float64) for one in updates(number)], axis=0)
        m = s.beta_1 * m + (1 - s.beta_1) * g
        v = s.beta_2 * v + (1 - s.beta_2) * g**2
        eta = s.server_learning_rate * np.sqrt(1 - s.beta_2 ** (number + 1)) / (1 - s.beta_1 ** (number + 1))
        step = eta * m / (np.sqrt(v) + s.tau)
    return step


def test_fedadam_takes_the_steps_of_the_paper() -> None:
    s = settings(strategy="fedadam", server_learning_rate=0.01)
    memory: dict[str, np.ndarray] = {}
    for number in (1, 2, 3):
        vector, memory = average(s, number, updates(number), memory)
    assert np.allclose(vector, adam_by_hand(3, s), rtol=1e-4, atol=1e-8)


def test_fedadam_agrees_with_one_flower_strategy_that_lives_through_all_rounds() -> None:
    s = settings(strategy="fedadam", server_learning_rate=0.01)
    flower = FedAdam(eta=0.01, beta_1=s.beta_1, beta_2=s.beta_2, tau=s.tau)
    memory: dict[str, np.ndarray] = {}
    for number in (1, 2, 3):
        flower.current_arrays = {"change": np.zeros(flatten(SHIPPED.shared()).size, np.float32)}
        arrays, _ = flower.aggregate_train(
            number, [as_reply(flatten(one.tensors)) for one in updates(number)]
        )
        vector, memory = average(s, number, updates(number), memory)
        assert arrays is not None
        assert np.allclose(arrays["change"].numpy(), vector, rtol=1e-4, atol=1e-9)
    assert set(memory) == {"m", "v"}


def test_memory_is_not_changed_in_place() -> None:
    s = settings(strategy="fedadam", server_learning_rate=0.01)
    _, first = average(s, 1, updates(1), {})
    kept = {name: array.copy() for name, array in first.items()}
    one, _ = average(s, 2, updates(2), first)
    two, _ = average(s, 2, updates(2), first)
    assert np.array_equal(one, two)
    assert all(np.array_equal(kept[name], first[name]) for name in kept)


def test_no_update_at_all_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        average(settings(), 1, [], {})


def vectors(given: list[EncoderUpdate]) -> np.ndarray:
    return np.stack([flatten(one.tensors) for one in given])


def test_the_optimizer_makes_the_same_of_a_mean_wherever_it_comes_from() -> None:
    s = settings(strategy="fedadam", server_learning_rate=0.01)
    memory: dict[str, np.ndarray] = {}
    other: dict[str, np.ndarray] = {}
    for number in (1, 2):
        whole, memory = average(s, number, updates(number), memory)
        mean = vectors(updates(number)).astype(np.float64).mean(0).astype(np.float32)
        step, kept = server_step(s, number, mean, {**other, "centre": mean})
        other = kept
        assert np.allclose(whole, step, rtol=1e-5, atol=1e-9)
    assert set(other) == {"m", "v"}
