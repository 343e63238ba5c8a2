"""Noise that is correlated over rounds: matrices against dense ones, sensitivity against brute force,
restarts, what it gains."""

import math
import os
import stat
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.server.noise_plan import correlated
from palate.server.noise_plan.correlated import (
    GRID,
    NoisePlan,
    NoiseState,
    add_noise,
    best_bands,
    prefix_error,
    resting,
    sensitivity_of_column,
    square_root,
    step_error,
    wide_gaussian,
)
from palate.server.noise_plan.folder import NoiseFolder, open_state, seal_state
from palate.shared.errors import FileFormatError, OptionError, StorageError
from palate.shared.noise import stream_of

SEED = bytes(range(32))
PLAN = NoisePlan(steps=12, separation=3, bands=4, noise_multiplier=1.0, sensitivity=50.0)
ZEROS = np.zeros(40, np.int64)


def toeplitz(column: np.ndarray, steps: int) -> np.ndarray:
    """The lower-triangular Toeplitz matrix with this first column, (steps, steps)."""
    whole = np.zeros(steps)
    whole[: min(len(column), steps)] = column[:steps]
    return np.array(
        [
            [whole[row - column_] if row >= column_ else 0.0 for column_ in range(steps)]
            for row in range(steps)
        ]
    )


def run(
    plan: NoisePlan, totals: list[np.ndarray], state: NoiseState | None = None, seed: bytes = SEED
) -> list[np.ndarray]:
    """The noised sums of a plan's steps, with new devices in each."""
    state, noised = state or NoiseState(), []
    for total in totals:
        out, state = add_noise(plan, state, total, [f"device {state.step}"], seed)
        noised.append(out)
    return noised


# --- the matrices -----------------------------------------------------------------------------------------


def test_the_square_root_squared_is_the_prefix_sums() -> None:
    root = toeplitz(square_root(20), 20)
    np.testing.assert_allclose(root @ root, np.tril(np.ones((20, 20))), atol=1e-12)
    np.testing.assert_allclose(square_root(5), [1, 1 / 2, 3 / 8, 5 / 16, 35 / 128])
    assert square_root(1).tolist() == [1.0]


@pytest.mark.parametrize(("bands", "steps"), [(1, 6), (3, 12), (5, 12), (12, 12)])
def test_the_noise_is_what_a_dense_solve_gives(
    monkeypatch: pytest.MonkeyPatch, bands: int, steps: int
) -> None:
    plan = NoisePlan(steps, steps, bands, 5.0, 2000.0)
    drawn: list[np.ndarray] = []

    def draw(sigma: float, count: int, source: object) -> np.ndarray:
        drawn.append(wide_gaussian(sigma, count, source))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(correlated, "wide_gaussian", draw)
    noised = run(plan, [ZEROS] * steps)
    column = plan.column / GRID
    dense = np.linalg.solve(toeplitz(column, steps), np.array(drawn) / GRID)
    # Each step rounds to whole levels, and C^-1 spreads the halves; their sum is far below the noise of 10^4
    # levels.
    np.testing.assert_allclose(
        np.array(noised), dense, atol=0.5 * np.abs(np.linalg.inv(toeplitz(column, steps))).sum(1).max() + 1e-9
    )
    assert np.abs(dense).max() > 1000


def test_the_error_that_is_foretold_is_that_of_the_dense_matrices() -> None:
    for plan in (PLAN, NoisePlan(9, 9, 9, 2.0, 10.0), NoisePlan(7, 2, 1, 1.0, 1.0)):
        c = toeplitz(plan.column / GRID, plan.steps)
        noise = np.tril(np.ones_like(c)) @ np.linalg.inv(c)
        assert prefix_error(plan) == pytest.approx(plan.sigma * np.linalg.norm(noise) / math.sqrt(plan.steps))
        longest_row = np.linalg.norm(np.linalg.inv(c), axis=1).max()
        assert step_error(plan) == pytest.approx(plan.sigma * longest_row)


def test_the_error_that_is_foretold_is_the_one_that_is_measured() -> None:
    plan = NoisePlan(20, 20, 20, 1.0, 300.0)
    sums = np.cumsum(run(plan, [np.zeros(3000, np.int64)] * 20), axis=0)
    assert math.sqrt(float((sums.astype(float) ** 2).mean())) == pytest.approx(prefix_error(plan), rel=0.03)


# --- sensitivity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "separation", "bands"),
    [(7, 2, 2), (7, 2, 5), (8, 3, 3), (8, 3, 8), (6, 1, 3), (6, 6, 6), (9, 4, 6)],
)
def test_sensitivity_is_that_of_the_worst_pattern_of_participation(
    steps: int, separation: int, bands: int
) -> None:
    plan = NoisePlan(steps, separation, bands, 1.0, 1.0)
    c = toeplitz(plan.column / GRID, steps)
    worst = 0.0
    for pattern in product((0, 1), repeat=steps):
        at = np.flatnonzero(pattern)
        if len(at) and (np.diff(at) >= separation).all():
            # Contributions of both signs; C's entries are not negative, so nothing else in many dimensions is
            # worse.
            for signs in product((1.0, -1.0), repeat=len(at) - 1):
                x = np.zeros(steps)
                x[at] = (1.0, *signs)
                worst = max(worst, float(np.linalg.norm(c @ x)))
    assert sensitivity_of_column(plan.column / GRID, steps, separation) == pytest.approx(worst)
    assert plan.sigma == pytest.approx(worst)
    assert plan.participations == math.ceil(steps / separation)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 7), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_no_contributions_in_several_dimensions_move_more(
    steps: int, separation: int, bands: int, seed: int
) -> None:
    separation, bands = min(separation, steps), min(bands, steps)
    column = square_root(bands)
    rng = np.random.default_rng(seed)
    x, next_ = np.zeros((steps, 3)), 0
    while next_ < steps:
        direction = rng.standard_normal(3)
        x[next_] = direction / np.linalg.norm(direction)
        next_ += separation + int(rng.integers(0, 2))
    assert np.linalg.norm(toeplitz(column, steps) @ x) <= sensitivity_of_column(column, steps, separation) * (
        1 + 1e-12
    )


@pytest.mark.parametrize("column", [[0.0, 0.0], [1.0, 1.1], [1.0, -0.1], [-1.0]])
def test_the_formula_for_sensitivity_is_not_used_where_it_does_not_hold(column: list[float]) -> None:
    with pytest.raises(ValueError, match="column"):
        sensitivity_of_column(np.array(column), 4, 2)


# --- what it gains ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "separation", "gain"), [(30, 3, 1.45), (100, 10, 2.3), (100, 100, 3.0), (500, 20, 3.3)]
)
def test_prefix_sums_have_less_noise_than_with_independent_noise_at_equal_privacy(
    steps: int, separation: int, gain: float
) -> None:
    bands = best_bands(steps, separation)
    ours = prefix_error(NoisePlan(steps, separation, bands, 1.0, 1.0))
    independent = prefix_error(NoisePlan(steps, separation, 1, 1.0, 1.0))
    # Independent noise of the same multiplier on as many participations: sqrt(k) per step, sqrt((T + 1) / 2)
    # over the steps.
    assert independent == pytest.approx(math.sqrt(math.ceil(steps / separation) * (steps + 1) / 2))
    assert independent / ours > gain


# --- whole numbers, and again -------------------------------------------------------------------------------


def test_what_is_released_depends_on_nothing_but_what_a_gaussian_mechanism_releases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two fleets of sums and two draws of z with the same C x + z must come to the very same releases.
    plan = NoisePlan(8, 2, 4, 1.0, 40.0)
    rng = np.random.default_rng(5)
    c = np.rint(toeplitz(plan.column, 8)).astype(np.int64)
    one, other = (rng.integers(-50, 50, (8, 40)) for _ in range(2))
    z = rng.integers(-(10**5), 10**5, (8, 40))
    released = []
    for sums, draws in ((one, z), (other, c @ one + z - c @ other)):
        left = iter(draws)
        monkeypatch.setattr(correlated, "wide_gaussian", lambda *arguments, left=left: next(left))
        released.append(run(plan, list(sums)))
    np.testing.assert_array_equal(released[0], released[1])


def test_the_same_seed_comes_to_the_same_bits_and_a_stop_between_changes_nothing(tmp_path: Path) -> None:
    totals = [np.arange(40, dtype=np.int64) * number for number in range(6)]
    whole = run(PLAN, totals)
    np.testing.assert_array_equal(whole, run(PLAN, totals))
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "seed").write_bytes(SEED)
    for number, total in enumerate(totals):  # opened anew for every step
        out = NoiseFolder(tmp_path / "noise", PLAN).add(total, [f"device {number}"])
        np.testing.assert_array_equal(out, whole[number])
    assert NoiseFolder(tmp_path / "noise", PLAN).state.step == 6


def test_other_seeds_steps_plans_and_sums_have_other_noise() -> None:
    first = run(PLAN, [ZEROS])[0]
    assert (run(PLAN, [ZEROS], seed=bytes(32))[0] != first).any()
    assert (run(replace(PLAN, steps=13), [ZEROS])[0] != first).any()
    # The same step done twice with two sums must not have the same noise: the difference would be the sums'.
    assert (run(PLAN, [ZEROS + 1])[0] - 1 != first).mean() > 0.9
    noises = run(PLAN, [ZEROS] * 6)
    assert all((one != two).any() for one in noises for two in noises if one is not two)


def test_a_known_answer_so_that_no_change_of_code_changes_a_plan_that_is_under_way() -> None:
    assert PLAN.hash == "748b577f2d53a6ba3b0cab60f55d2d9b6e4e799d6972a3c76c5777db8fb7e429"
    assert PLAN.column.tolist() == [256, 128, 96, 80]
    assert [out[:4].tolist() for out in run(PLAN, [ZEROS] * 3)] == [
        [89, 130, 70, -27],
        [-96, -264, 225, -162],
        [-96, 239, -297, -12],
    ]


@pytest.mark.parametrize("sigma", [1000.0, 16_384.0, 17_000.0, 300_000.0, 5e7])
def test_wide_draws_have_the_moments_of_a_gaussian(sigma: float) -> None:
    drawn = wide_gaussian(sigma, 200_000, stream_of(SEED)) / sigma
    assert abs(drawn.mean()) < 5 / math.sqrt(200_000)
    assert drawn.std() == pytest.approx(1, abs=5 / math.sqrt(400_000))
    assert (drawn**4).mean() == pytest.approx(3, abs=5 * math.sqrt(96 / 200_000))
    assert len(np.unique(np.mod(np.rint(drawn * sigma).astype(np.int64), 4))) == 4  # no residue is left out


# --- who may take part --------------------------------------------------------------------------------------


def test_a_device_rests_as_long_as_the_plan_says_and_is_then_forgotten() -> None:
    state, seen = NoiseState(), []
    for who in (["a", "b"], ["c"], ["d"], ["a"], ["e"]):
        seen.append(resting(PLAN, state))
        _, state = add_noise(PLAN, state, ZEROS, who, SEED)
    assert seen == [set(), {"a", "b"}, {"a", "b", "c"}, {"c", "d"}, {"a", "d"}]
    assert set(state.took_part) == {3, 4}


@pytest.mark.parametrize("devices", [["a"], ["x", "a"], ["y", "y"]])
def test_a_device_that_comes_too_soon_or_twice_fails_the_step(devices: list[str]) -> None:
    _, state = add_noise(PLAN, NoiseState(), ZEROS, ["a", "b"], SEED)
    _, state = add_noise(PLAN, state, ZEROS, ["c"], SEED)
    with pytest.raises(OptionError, match="steps ago"):
        add_noise(PLAN, state, ZEROS, devices, SEED)
    _, state = add_noise(PLAN, state, ZEROS, ["d"], SEED)
    add_noise(PLAN, state, ZEROS, ["a"], SEED)


def test_a_plan_ends() -> None:
    plan = NoisePlan(2, 1, 2, 1.0, 10.0)
    _, state = add_noise(plan, NoiseState(), ZEROS, ["a"], SEED)
    _, state = add_noise(plan, state, ZEROS, ["a"], SEED)  # with a separation of 1 it may take part in each
    assert not state.took_part
    with pytest.raises(OptionError, match="all 2 steps"):
        add_noise(plan, state, ZEROS, ["b"], SEED)


@pytest.mark.parametrize(
    "total",
    [np.zeros(41, np.int64), np.zeros(40, np.int32), np.zeros(40), np.zeros((4, 10), np.int64),
     np.full(40, 2**41), np.full(40, np.iinfo(np.int64).min)],
    ids=["longer", "int32", "floats", "matrix", "huge", "smallest"],
)  # fmt: skip
def test_a_sum_that_is_none_is_refused(total: np.ndarray) -> None:
    _, state = add_noise(PLAN, NoiseState(), ZEROS, ["a"], SEED)
    with pytest.raises(OptionError, match="the sum"):
        add_noise(PLAN, state, total, ["b"], SEED)


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"steps": 2.0}, {"steps": 10**6}, {"separation": 0}, {"separation": 13}, {"bands": 0},
    {"bands": 13},
     {"bands": True}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}, {"noise_multiplier": -1.0},
     {"sensitivity": math.inf}, {"sensitivity": 1e8}],
    ids=str,
)  # fmt: skip
def test_a_plan_outside_its_ranges_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        replace(PLAN, **change)  # type: ignore[arg-type]


def test_a_short_seed_makes_no_noise() -> None:
    with pytest.raises(OptionError, match="4 bytes"):
        add_noise(PLAN, NoiseState(), ZEROS, ["a"], b"seed")


# --- on the disk --------------------------------------------------------------------------------------------


def test_the_seed_is_the_servers_alone_and_is_made_once(tmp_path: Path) -> None:
    one = NoiseFolder(tmp_path / "noise", PLAN)
    one.add(ZEROS, ["a"])
    seed = (tmp_path / "noise" / "seed").read_bytes()
    assert len(seed) == 32
    assert stat.S_IMODE((tmp_path / "noise" / "seed").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "noise").stat().st_mode) == 0o700
    two = NoiseFolder(tmp_path / "noise", PLAN)
    assert (tmp_path / "noise" / "seed").read_bytes() == seed
    assert two.resting() == {"a"}
    NoiseFolder(tmp_path / "other", PLAN)
    assert (tmp_path / "other" / "seed").read_bytes() != seed


def test_neither_noise_nor_names_can_be_read_in_the_state(tmp_path: Path) -> None:
    folder = NoiseFolder(tmp_path, PLAN)
    noise = folder.add(ZEROS, ["a device with a long name"])
    data = (tmp_path / "state.sealed").read_bytes()
    assert b"long name" not in data
    assert noise[:4].tobytes() not in data
    assert noise[:4].tobytes() in folder.state.past.tobytes()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_or_cut_state_does_not_open(data: st.DataObject) -> None:
    _, state = add_noise(PLAN, NoiseState(), ZEROS, ["a"], SEED)
    sealed = bytearray(seal_state(PLAN, state, SEED))
    assert open_state(PLAN, bytes(sealed), SEED, "it").took_part == {0: ("a",)}
    where = data.draw(st.integers(0, len(sealed) - 1))
    if data.draw(st.booleans()):
        del sealed[where:]
    else:
        sealed[where] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FileFormatError) as caught:
        open_state(PLAN, bytes(sealed), SEED, "it")
    assert "\n" not in str(caught.value)


def test_the_state_of_another_plan_or_seed_does_not_open(tmp_path: Path) -> None:
    NoiseFolder(tmp_path, PLAN).add(ZEROS, ["a"])
    with pytest.raises(FileFormatError, match="another plan"):
        NoiseFolder(tmp_path, replace(PLAN, noise_multiplier=2.0))
    (tmp_path / "seed").write_bytes(bytes(32))
    with pytest.raises(FileFormatError, match="another plan"):
        NoiseFolder(tmp_path, PLAN)
    (tmp_path / "seed").write_bytes(b"short")
    with pytest.raises(FileFormatError, match="no seed"):
        NoiseFolder(tmp_path, PLAN)
    (tmp_path / "seed").unlink()  # a state whose seed is gone must not begin anew, with other noise
    with pytest.raises(StorageError):
        NoiseFolder(tmp_path, PLAN)


def test_a_state_that_cannot_be_kept_gives_no_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = NoiseFolder(tmp_path, PLAN)
    folder.add(ZEROS, ["a"])

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="must not be used"):
            folder.add(ZEROS, ["b"])
    assert folder.state.step == NoiseFolder(tmp_path, PLAN).state.step == 1
