"""From a change to shielded levels: what comes out is noise around the clipped change, and only noise from a
sound source."""

import inspect
import math
import os
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from palate.client.federation.privatize import privatize
from palate.shared.coding import from_levels, sensitivity_of, to_levels
from palate.shared.encoder import SHARED_SHAPES, SHARED_WEIGHTS
from palate.shared.errors import OptionError
from palate.shared.noise import stream_of
from palate.shared.subspace import Subspace
from palate.shared.update import EncoderUpdate

CONTEXT = bytes(range(32))


@dataclass(frozen=True)
class Settings:
    step: float
    clip: float
    noise: float


@cache
def update() -> EncoderUpdate:
    rng = np.random.default_rng(1)
    return EncoderUpdate(
        "0" * 64,
        1,
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHARED_SHAPES.items()},
    )


def flat() -> np.ndarray:
    return np.concatenate([update().tensors[name].ravel() for name in SHARED_SHAPES])


@pytest.mark.parametrize("noise", [-1.0, math.nan, math.inf, 1e9])
def test_noise_outside_its_range_is_refused(noise: float) -> None:
    with pytest.raises(OptionError):
        privatize(update(), Settings(0.01, 1.0, noise), CONTEXT)


@pytest.mark.parametrize(("step", "clip"), [(0.0, 1.0), (math.nan, 1.0), (0.1, -1.0), (0.1, math.inf)])
def test_a_grid_outside_its_range_is_refused(step: float, clip: float) -> None:
    with pytest.raises(OptionError):
        privatize(update(), Settings(step, clip, 0.0), CONTEXT)


def test_without_noise_the_levels_are_the_clipped_change_within_the_sensitivity() -> None:
    levels = privatize(update(), Settings(0.001, 1.0, 0.0), CONTEXT)
    assert levels.shape == (SHARED_WEIGHTS + 1,)
    assert math.sqrt(int(levels @ levels)) <= sensitivity_of(1.0, 0.001)
    mean, _ = from_levels(levels, 1, step=0.001, clip=1.0, seed=CONTEXT)
    wanted = flat() / np.linalg.norm(flat())
    assert np.linalg.norm(mean - wanted) < 0.5 * 0.001 * math.sqrt(SHARED_WEIGHTS)


def test_the_noise_has_the_size_that_was_asked_for_and_is_not_the_rounding() -> None:
    settings = Settings(0.001, 1.0, 30.0)
    source = stream_of(bytes(32))
    levels = privatize(update(), settings, CONTEXT, source)
    again = np.random.default_rng(int.from_bytes(stream_of(bytes(32))(32), "little"))
    quiet = to_levels(flat(), step=0.001, clip=1.0, seed=CONTEXT, rng=again)
    noise = levels - quiet
    assert abs(noise.std() / 30 - 1) < 0.02
    assert abs(noise.mean()) < 0.5


def test_the_noise_of_a_device_comes_from_the_operating_system_and_never_twice() -> None:
    assert inspect.signature(privatize).parameters["source"].default is os.urandom
    settings = Settings(0.01, 1.0, 5.0)
    assert (privatize(update(), settings, CONTEXT) != privatize(update(), settings, CONTEXT)).mean() > 0.5


def test_the_context_decides_the_rotation() -> None:
    settings = Settings(0.001, 1.0, 0.0)
    other = privatize(update(), settings, b"another round" * 2)
    mean, _ = from_levels(other, 1, step=0.001, clip=1.0, seed=CONTEXT)
    assert abs(float(mean @ flat()) / np.linalg.norm(flat()) / np.linalg.norm(mean)) < 0.05


def test_in_a_subspace_only_its_coordinates_are_sent() -> None:
    directions = np.linalg.qr(np.random.default_rng(3).normal(size=(257, 5)))[0].astype(np.float32)
    subspace = Subspace(directions)
    levels = privatize(update(), Settings(0.001, 1.0, 0.0), CONTEXT, subspace=subspace)
    assert levels.shape == (subspace.count + 1,)
    mean, _ = from_levels(levels, 1, step=0.001, clip=1.0, seed=CONTEXT)
    wanted = subspace.coordinates(update().tensors)
    wanted = wanted / np.linalg.norm(wanted)
    assert np.linalg.norm(mean - wanted) < 0.02
