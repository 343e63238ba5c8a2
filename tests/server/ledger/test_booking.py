"""The server's ledger: budgets, kills, tampering, plans, and draws that may be counted."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.server.ledger.booking import Ledger, read_spent
from palate.server.ledger.file import BEFORE_FIRST, LedgerFile, encode_line, read_lines
from palate.server.secure_sum.sampling import poisson_cohort
from palate.shared import durable
from palate.shared.accounting import Budget, Cost, calibrate, epsilon_by_pld
from palate.shared.errors import LedgerDamagedError, OptionError, PrivacyBudgetError, StorageError
from palate.shared.sum_noise import SumNoise

BUDGET = Budget(8.0, 1e-5)
COST = Cost(4.0)


def now() -> datetime:
    return datetime(2026, 11, 21, tzinfo=UTC)


def booked(path: Path, rounds: int = 3, cost: Cost = COST) -> Ledger:
    ledger = Ledger(path, BUDGET, now=now)
    for number in range(1, rounds + 1):
        ledger.book(number, cost, cohort=50)
    return ledger


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what is spent ----------------------------------------------------------------------------------------


def test_a_ledger_counts_its_rounds_and_comes_back_with_them(tmp_path: Path) -> None:
    ledger = booked(tmp_path / "ledger.jsonl")
    spent = ledger.spent()
    assert spent.rounds == 3
    assert spent.epsilon == pytest.approx(epsilon_by_pld([(COST, 3)], 1e-5))
    assert spent.epsilon <= spent.epsilon_rdp
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.spent() == spent == read_spent(tmp_path / "ledger.jsonl")
    assert (again.head, again.budget) == (ledger.head, BUDGET)


def test_a_round_beyond_the_budget_does_not_happen_and_is_not_written(tmp_path: Path) -> None:
    ledger = booked(tmp_path / "ledger.jsonl", 0, COST)
    room = ledger.room_for(COST)
    for number in range(1, room + 1):
        ledger.book(number, COST, cohort=50)
    assert ledger.spent().epsilon <= BUDGET.epsilon
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(PrivacyBudgetError, match="above the budget of 8") as caught:
        ledger.book(room + 1, COST, cohort=50)
    one_line(caught)
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    assert epsilon_by_pld([(COST, room + 1)], 1e-5) > BUDGET.epsilon
    with pytest.raises(PrivacyBudgetError):  # nor after a restart
        Ledger(tmp_path / "ledger.jsonl").check(COST)
    ledger.check(Cost(1000.0))  # a round that costs next to nothing still fits


def test_calibrated_noise_gives_all_its_rounds_and_not_one_percent_more(tmp_path: Path) -> None:
    budget, sampling, rounds = Budget(2.0, 1e-5), 0.1, 12
    cost = Cost(calibrate(budget, rounds, sampling), sampling)
    ledger = Ledger(tmp_path / "ledger.jsonl", budget)
    for number in range(1, rounds + 1):
        ledger.book(number, cost, cohort=10)
    with pytest.raises(PrivacyBudgetError):
        ledger.book(rounds + 1, cost, cohort=10)
    # The Rényi figure alone would have stopped the run earlier.
    assert ledger.spent().epsilon_rdp > budget.epsilon


def test_sampling_is_counted_only_where_the_round_says_so(tmp_path: Path) -> None:
    spent = []
    for name, sampling in (("with", 0.05), ("without", None)):
        ledger = Ledger(tmp_path / name, Budget(1000.0, 1e-5))
        for number in (1, 2, 3):
            ledger.book(number, Cost(1.0, sampling), cohort=50)
        spent.append(ledger.spent().epsilon)
    assert spent[0] < 0.2 * spent[1]


def test_what_others_add_is_booked_beside_what_is_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", BUDGET, now=now)
    ledger.book(1, Cost(2.0), cohort=50, noise=SumNoise(2.0, 2.83, 0.4), honest_share=0.5)
    line = read_lines(tmp_path / "ledger.jsonl").lines[-1].content
    assert (line["noise_multiplier"], line["honest_share"]) == (2.0, 0.5)
    assert 2.8 < line["all_add"] <= 2.83
    assert 0.398 < line["alone"] <= 0.4
    spent = Ledger(tmp_path / "ledger.jsonl").spent()
    assert spent == ledger.spent()
    assert spent.honest_share == 0.5
    assert spent.if_all_add_epsilon < spent.epsilon == spent.unsampled_epsilon < spent.alone_epsilon
    assert spent.epsilon == pytest.approx(epsilon_by_pld([(Cost(2.0), 1)], 1e-5))
    # A round whose others are counted on by nobody lowers what is said of all rounds.
    ledger.book(2, Cost(2.0), cohort=50, noise=SumNoise(2.0, 14.0, 2.0), honest_share=0.0)
    assert ledger.spent().honest_share == 0.0


def test_a_line_of_an_earlier_version_counts_with_the_worst_that_its_cohort_allows(tmp_path: Path) -> None:
    ledger = booked(tmp_path / "ledger.jsonl", 1)  # 50 devices were asked, so the sum was of 50 at most
    assert "alone" not in read_lines(tmp_path / "ledger.jsonl").lines[-1].content
    spent = ledger.spent()
    assert spent.epsilon == spent.if_all_add_epsilon
    assert spent.alone_epsilon == pytest.approx(epsilon_by_pld([(Cost(4.0 / 50**0.5), 1)], 1e-5), rel=1e-6)


def test_a_round_that_is_done_again_counts_again(tmp_path: Path) -> None:
    ledger = booked(tmp_path / "ledger.jsonl", 1)
    ledger.book(1, COST, cohort=50)
    assert ledger.spent().rounds == 2


@pytest.mark.parametrize("budget", [Budget(4.0, 1e-5), Budget(16.0, 1e-6)])
def test_another_budget_is_written_down_for_all_to_see(tmp_path: Path, budget: Budget) -> None:
    booked(tmp_path / "ledger.jsonl")
    ledger = Ledger(tmp_path / "ledger.jsonl", budget)
    assert ledger.budget == budget == Ledger(tmp_path / "ledger.jsonl").budget
    kinds = [line.content["kind"] for line in read_lines(tmp_path / "ledger.jsonl").lines]
    assert kinds == ["ledger", "budget", "round", "round", "round", "budget"]
    assert ledger.spent().delta == budget.delta


def test_a_new_ledger_needs_a_budget(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs a budget"):
        Ledger(tmp_path / "ledger.jsonl")
    assert not (tmp_path / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("number", "cohort", "mechanism"),
    [(0, 5, "devices"), (-1, 5, "devices"), (1, 0, "devices"), (1, 5, "magic"), (1.0, 5, "devices")],
)
def test_a_round_that_is_none_is_not_booked(tmp_path: Path, number: int, cohort: int, mechanism: str) -> None:
    ledger = booked(tmp_path / "ledger.jsonl", 1)
    with pytest.raises(OptionError):
        ledger.book(number, COST, cohort=cohort, mechanism=mechanism)
    assert Ledger(tmp_path / "ledger.jsonl").spent().rounds == 1


# --- noise that is planned over many rounds -----------------------------------------------------------------


def test_a_plan_is_paid_for_once_and_has_so_many_rounds(tmp_path: Path) -> None:
    plan = "ab" * 32
    ledger = Ledger(tmp_path / "ledger.jsonl", BUDGET)
    with pytest.raises(PrivacyBudgetError, match="not in the ledger"):
        ledger.book_plan_round(plan, 1, cohort=9)
    ledger.book_plan(plan, 2.0, 3)
    ledger.book_plan(plan, 2.0, 3)
    epsilon = ledger.spent().epsilon
    for number in (1, 2, 3):
        ledger.book_plan_round(plan, number, cohort=9)
    assert ledger.spent().epsilon == epsilon == pytest.approx(epsilon_by_pld([(Cost(2.0), 1)], 1e-5))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(PrivacyBudgetError, match="all 3 rounds"):
        ledger.book_plan_round(plan, 4, cohort=9)
    with pytest.raises(PrivacyBudgetError):
        ledger.book_plan("cd" * 32, 0.3, 3)
    with pytest.raises(OptionError):
        ledger.book_plan("no hash", 50.0, 3)


# --- kills -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program may catch it and tidy up."""


def stop_before(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the process die before so many calls of write, fsync and replace, writing only half where it dies
    at a write."""
    done = 0
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace")}

    def wrap(name: str) -> Callable[..., object]:
        def calling(*arguments: object) -> object:
            nonlocal done
            done += 1
            if done > call:
                if name == "write" and done == call + 1:
                    descriptor, data = arguments
                    real["write"](descriptor, bytes(data)[: len(bytes(data)) // 2])  # type: ignore[call-overload]
                raise Killed
            return real[name](*arguments)

        return calling

    for name in real:
        monkeypatch.setattr(durable.os, name, wrap(name))


@pytest.mark.parametrize("call", range(7))
def test_a_kill_at_any_step_leaves_the_round_booked_or_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = booked(path, 2)
    with monkeypatch.context() as patched:
        stop_before(patched, call)
        try:
            ledger.book(3, COST, cohort=50)
            finished = True
        except Killed:
            finished = False
    rounds = Ledger(path).spent().rounds
    assert rounds == 3 if finished else rounds in (2, 3)
    assert Ledger(path).spent().rounds == read_spent(path).rounds == rounds
    Ledger(path).book(4, COST, cohort=50)


@given(st.integers(0, 400), st.sampled_from([b"", b"\0" * 7, b"\0" * 400]))
@settings(max_examples=60, deadline=None)
def test_half_a_line_is_completed_and_its_round_counts(
    written: tuple[Path, bytes, bytes], kept: int, zeros: bytes
) -> None:
    _, whole, last = written
    path = lay(written, whole.removesuffix(last) + (zeros or last[: min(kept, len(last) - 1)]))
    assert read_spent(path).rounds == 2
    assert Ledger(path).spent().rounds == 2
    assert path.read_bytes() == whole


def test_a_server_that_is_really_killed_loses_no_round(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from palate.server.ledger.booking import Ledger
from palate.shared.accounting import Budget, Cost
ledger = Ledger(Path(sys.argv[1]), Budget(1e6, 1e-5))
for number in range(1, 10**9):
    ledger.book(number, Cost(4.0), cohort=50)
    print(number, flush=True)
"""
    path = tmp_path / "ledger.jsonl"
    for delay in (0.05, 0.11, 0.17):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            before = read_lines(path).lines if path.exists() else ()
            server.stdout.readline()
            until = time.monotonic() + delay
            while time.monotonic() < until:
                read_lines(path)  # whoever looks meanwhile sees a sound ledger
            server.send_signal(signal.SIGKILL)
            said = 1 + len([line for line in server.stdout if line.endswith("\n")])
        added = len(Ledger(path)._file.lines) - (len(before) or 2)
        assert said <= added <= said + 1


def test_a_full_disk_books_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = booked(tmp_path / "ledger.jsonl", 1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable.os, "write", full)
        with pytest.raises(StorageError, match="must not begin") as caught:
            ledger.book(2, COST, cohort=50)
    one_line(caught)
    assert Ledger(tmp_path / "ledger.jsonl").spent().rounds == 1


# --- tampering -------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


TAMPERINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a gap": lambda lines: lines[:3] + lines[4:],
    "a doubled line": lambda lines: [*lines[:4], lines[3], *lines[4:]],
    "two lines swapped": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "the last two lines taken away": lambda lines: lines[:-2],
    "the first line taken away": lambda lines: lines[1:],
    "everything taken away but the first": lambda lines: lines[:1],
    "less noise than was booked": lambda lines: [
        line.replace(b'multiplier":4.0', b'multiplier":9.0') for line in lines
    ],
    "a space": lambda lines: [*lines[:-1], lines[-1].replace(b":", b": ", 1)],
    "no ledger at all": lambda lines: [b"\x89PNG\r\n\x1a\n", *lines],
    "a line of nothing": lambda lines: [*lines, b"\n"],
    "an older ledger's end": lambda lines: [*lines, lines[-1]],
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_noticed(tmp_path: Path, tampering: str) -> None:
    path = tmp_path / "ledger.jsonl"
    booked(path, 5)
    changed = TAMPERINGS[tampering](lines_of(path))
    path.write_bytes(b"".join(changed))
    for use in (Ledger, read_spent):
        with pytest.raises(LedgerDamagedError) as caught:
            use(path)
        one_line(caught)


def test_a_fork_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.jsonl", tmp_path / "other.jsonl"
    booked(path, 2)
    for suffix in ("", ".newest"):
        (tmp_path / f"other.jsonl{suffix}").write_bytes((tmp_path / f"ledger.jsonl{suffix}").read_bytes())
    Ledger(path).book(3, COST, cohort=50)
    Ledger(other).book(3, Cost(9.0), cohort=50)
    Ledger(path).book(4, COST, cohort=50)
    path.write_bytes(b"".join([*lines_of(path)[:4], lines_of(other)[4], *lines_of(path)[4:]]))
    with pytest.raises(LedgerDamagedError, match="does not follow"):
        Ledger(path)


def test_the_newest_line_cannot_be_taken_away_quietly(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    booked(path, 3)
    path.write_bytes(b"".join(lines_of(path)[:-1]))
    assert Ledger(path).spent().rounds == 3  # from its copy
    (tmp_path / "ledger.jsonl.newest").unlink()
    with pytest.raises(LedgerDamagedError, match="is missing"):
        Ledger(path)


def test_an_older_copy_of_the_whole_ledger_does_not_hold_the_released_head(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = booked(path, 2)
    old = {name: (tmp_path / name).read_bytes() for name in ("ledger.jsonl", "ledger.jsonl.newest")}
    released_before = ledger.head
    ledger.book(3, COST, cohort=50)
    released = ledger.head
    ledger.require(released_before)
    ledger.require(released)
    ledger.require(BEFORE_FIRST)
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    rolled_back = Ledger(path)
    with pytest.raises(LedgerDamagedError, match="older than what was released"):
        rolled_back.require(released)


def test_somebody_who_writes_at_the_same_time_is_noticed(tmp_path: Path) -> None:
    ledger = booked(tmp_path / "ledger.jsonl", 1)
    Ledger(tmp_path / "ledger.jsonl").book(2, COST, cohort=50)
    with pytest.raises(LedgerDamagedError, match="while it was in use"):
        ledger.book(2, COST, cohort=50)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, bytes]:
    """A place, and both files of a ledger of two rounds."""
    path = tmp_path_factory.mktemp("written") / "ledger.jsonl"
    booked(path, 2)
    return path, path.read_bytes(), path.with_name("ledger.jsonl.newest").read_bytes()


def lay(written: tuple[Path, bytes, bytes], content: bytes) -> Path:
    """Put a ledger with this content and the sound copy of its newest line in place."""
    path, _, newest = written
    path.write_bytes(content)
    path.with_name("ledger.jsonl.newest").write_bytes(newest)
    return path


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_goes_unnoticed(written: tuple[Path, bytes, bytes], data: st.DataObject) -> None:
    changed = bytearray(written[1])
    where = data.draw(st.integers(0, len(changed) - 1))
    changed[where] ^= data.draw(st.integers(1, 255))
    with pytest.raises(LedgerDamagedError):
        Ledger(lay(written, bytes(changed)))


WRONG = {
    "a negative noise": {"noise_multiplier": -4.0},
    "no noise": {"noise_multiplier": 0.0},
    "noise in words": {"noise_multiplier": "much"},
    "noise that is true": {"noise_multiplier": True},
    "a probability of 2": {"sampling": 2.0},
    "a round before the first": {"round": 0},
    "half a round": {"round": 1.5},
    "nobody": {"cohort": 0},
    "a share of others and nothing else": {"honest_share": 0.5},
    "others without a share": {"all_add": 4.0, "alone": 1.0},
    "a share above all": {"honest_share": 1.5, "all_add": 4.0, "alone": 1.0},
    "more noise of one than of all": {"honest_share": 0.5, "all_add": 4.0, "alone": 4.5},
    "less noise of all than of some": {"honest_share": 0.5, "all_add": 3.5, "alone": 1.0},
    "others' noise in words": {"honest_share": 0.5, "all_add": "much", "alone": 1.0},
    "an unknown mechanism": {"mechanism": "trust"},
    "an unknown field": {"comment": "x"},
    "an unknown kind": {"kind": "gift"},
    "another ledger": {"kind": "ledger"},
    "no time": {"when": None},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_well_chained_line_that_says_nonsense_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "ledger.jsonl"
    booked(path, 1)
    content = {**read_lines(path).lines[-1].content, **WRONG[wrong]}
    LedgerFile(path).append(content)
    with pytest.raises(LedgerDamagedError, match="line 4"):
        Ledger(path)


@pytest.mark.parametrize(
    "budget", [{"epsilon": 0.0}, {"epsilon": -1.0}, {"delta": 0.0}, {"delta": 1.0}, {"epsilon": None}]
)
def test_a_well_chained_budget_that_is_none_is_refused(tmp_path: Path, budget: dict[str, object]) -> None:
    path = tmp_path / "ledger.jsonl"
    booked(path, 1)
    LedgerFile(path).append({"kind": "budget", "epsilon": 1.0, "delta": 1e-5, "when": "", **budget})
    with pytest.raises(LedgerDamagedError, match="line 4"):
        read_spent(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "ledger.jsonl"
    booked(path, 1)
    line = encode_line(dict(read_lines(path).lines[-1].content), 3, LedgerFile(path).head)
    assert b'"noise_multiplier":4.0' in line
    forged = line.replace(b'"noise_multiplier":4.0', f'"noise_multiplier":{number}'.encode())
    path.write_bytes(path.read_bytes() + forged)
    (tmp_path / "ledger.jsonl.newest").write_bytes(forged)
    with pytest.raises(LedgerDamagedError):
        Ledger(path)
    with pytest.raises(ValueError, match="Out of range"):
        encode_line({"noise_multiplier": math.nan}, 0, BEFORE_FIRST)


def test_the_form_of_a_line_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    booked(tmp_path / "ledger.jsonl", 1)
    lines = lines_of(tmp_path / "ledger.jsonl")
    assert json.loads(lines[0]) == {
        "index": 0, "kind": "ledger", "format": "palate privacy ledger 1", "previous": "0" * 64
    }  # fmt: skip
    assert json.loads(lines[2]) == {
        "index": 2, "kind": "round", "round": 1, "noise_multiplier": 4.0, "sampling": None, "cohort": 50,
        "mechanism": "devices", "when": "2026-11-21T00:00:00.000+00:00",
        "previous": read_lines(tmp_path / "ledger.jsonl").lines[1].hash,
    }  # fmt: skip


# --- drawing a cohort that may be counted -------------------------------------------------------------------


def test_each_device_is_drawn_by_its_own_secret_coin() -> None:
    devices = range(-500, 19_500)
    seed = bytes(range(32))
    drawn = poisson_cohort(devices, 0.1, seed)
    assert drawn == sorted(set(drawn))
    assert abs(len(drawn) - 2000) < 5 * math.sqrt(20_000 * 0.1 * 0.9)
    assert drawn == poisson_cohort([*reversed(devices), *devices], 0.1, seed)
    # Whether one is drawn does not depend on who else is there.
    assert [d for d in drawn if d % 2] == poisson_cohort([d for d in devices if d % 2], 0.1, seed)
    assert drawn != poisson_cohort(devices, 0.1, bytes(32))
    assert set(drawn) <= set(poisson_cohort(devices, 0.2, seed))
    assert poisson_cohort(devices, 1.0, seed) == list(devices)
    assert poisson_cohort([], 0.5, seed) == []


def test_sizes_of_drawn_cohorts_vary_as_a_binomial_does() -> None:
    sizes = [len(poisson_cohort(range(100), 0.3, number.to_bytes(32, "little"))) for number in range(2000)]
    mean = sum(sizes) / len(sizes)
    variance = sum((size - mean) ** 2 for size in sizes) / len(sizes)
    assert abs(mean - 30) < 5 * math.sqrt(21 / 2000)
    assert abs(variance - 21) < 5 * 21 * math.sqrt(2 / 2000)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.5, math.nan, True, None, "0.1"])
def test_a_probability_that_is_none_draws_nobody(probability: float) -> None:
    with pytest.raises(OptionError, match="probability is"):
        poisson_cohort([1, 2], probability, bytes(32))


def test_a_short_seed_draws_nobody() -> None:
    with pytest.raises(OptionError, match="8 bytes"):
        poisson_cohort([1, 2], 0.5, bytes(8))
