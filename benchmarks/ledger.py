"""The privacy ledger.

Do two accountants agree, how long does a check take, and what does correlated noise gain?

    python -m benchmarks.ledger [--quick]

Sampled rounds: privacy loss distributions (Google's dp-accounting, which the ledger uses) against privacy
random variables (Microsoft's prv-accountant), over a grid of noise, sampling and rounds. Rounds without
sampling: both against the exact formula for the Gaussian (Balle and Wang 2018). Checks are timed on ledgers
of a thousand rounds. Correlated noise is compared with independent noise of equal privacy by the noise in the
prefix sums, which is what a model accumulates.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.rows import Row, print_rows
from palate.client.privacy.budget import OwnBudget, check_round, write_budget
from palate.client.vault.store import MemoryStore
from palate.server.ledger.booking import Ledger
from palate.server.noise_plan.correlated import NoisePlan, best_bands, prefix_error
from palate.shared.accounting import Budget, Cost, calibrate, epsilon_by_pld, epsilon_by_rdp

COMMAND = "python -m benchmarks.ledger"

Setting = tuple[float, float | None, int, float]  # noise multiplier, sampling, rounds, delta


def epsilon_by_prv(setting: Setting) -> float:
    """Return the second accountant's epsilon."""
    from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism, PRVAccountant

    multiplier, sampling, rounds, delta = setting
    mechanism = (
        GaussianMechanism(noise_multiplier=multiplier)
        if sampling is None
        else PoissonSubsampledGaussianMechanism(noise_multiplier=multiplier, sampling_probability=sampling)
    )
    for error in (
        0.005,
        0.01,
        0.02,
        0.05,
        0.1,
    ):  # some settings are too fine for its numerical checks, which then raise
        try:
            accountant = PRVAccountant(
                mechanism, max_self_compositions=rounds, eps_error=error, delta_error=delta / 1000
            )
        except RuntimeError:
            continue
        return float(accountant.compute_epsilon(delta, [rounds])[1])
    raise RuntimeError(f"the second accountant cannot count {setting}")


def epsilon_exact(setting: Setting) -> float:
    """Return the exact epsilon of unsampled Gaussians, by bisection on the formula of Balle and Wang."""
    multiplier, _, rounds, delta = setting
    mu = math.sqrt(rounds) / multiplier

    def delta_at(epsilon: float) -> float:
        lower, upper = (
            math.erfc(x / math.sqrt(2)) / 2 for x in (epsilon / mu - mu / 2, epsilon / mu + mu / 2)
        )
        return lower - (math.exp(epsilon) * upper if upper else 0.0)

    low, high = 0.0, 600.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


def epsilon_by_pld_alone(setting: Setting) -> float:
    """Google's distributions without the shortcut that the ledger takes for unsampled rounds."""
    import dp_accounting as dp

    multiplier, _, rounds, delta = setting
    accountant = dp.pld.PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp.GaussianDpEvent(multiplier), rounds)
    return float(accountant.get_epsilon(delta))


def compare(quick: bool) -> list[Row]:
    """Compare two accountants over a grid."""
    n = 10_000
    delta = n**-1.1
    grid: list[Setting] = [
        (multiplier, sampling, rounds, one)
        for multiplier in (0.7, 1.0, 2.0)
        for sampling, rounds in ((0.01, 1000), (0.05, 100), (0.1, 20))
        for one in (delta, 1e-7)
    ]
    target = calibrate(Budget(2.0, delta), 100, 0.05)
    grid.append((target, 0.05, 100, delta))
    unsampled: list[Setting] = [
        (multiplier, None, rounds, one)
        for multiplier, rounds in ((1.0, 1), (5.0, 20), (10.0, 100), (30.0, 50))
        for one in (delta, 1e-7)
    ]
    if quick:
        grid, unsampled = [grid[2], grid[-1]], unsampled[:2]
    figures = []
    for setting in grid:
        multiplier, sampling, rounds, one = setting
        ours = epsilon_by_pld([(Cost(multiplier, sampling), rounds)], one)
        figures.append(
            (
                setting,
                ours,
                epsilon_by_prv(setting),
                epsilon_by_rdp([(Cost(multiplier, sampling), rounds)], one),
            )
        )
    apart = max(abs(ours / other - 1) for _, ours, other, _ in figures)
    exact = [
        (
            one,
            epsilon_by_pld([(Cost(one[0]), one[2])], one[3]),
            epsilon_exact(one),
            epsilon_by_pld_alone(one),
            epsilon_by_prv(one),
        )
        for one in unsampled
    ]
    apart_exact = max(abs(one / truth - 1) for _, ours, truth, *others in exact for one in (ours, *others))
    shown = [
        {"noise_multiplier": round(s[0], 4), "sampling": s[1], "rounds": s[2], "delta": s[3],
         "pld": round(a, 4), "prv": round(b, 4), "rdp": round(c, 4)}
        for s, a, b, c in figures
    ]  # fmt: skip
    shown_exact = [
        {
            "noise_multiplier": s[0], "rounds": s[2], "delta": s[3],
            "ledger": round(a, 4), "exact": round(b, 4), "pld": round(c, 4), "prv": round(d, 4),
        }
        for s, a, b, c, d in exact
    ]  # fmt: skip
    return [
        Row(
            "privacy: two accountants apart, sampled rounds",
            round(apart, 5),
            "at most 0.02",
            apart <= 0.02,
            COMMAND,
            {"grid": shown},
        ),
        Row(
            "privacy: accountants apart from the exact formula, unsampled rounds",
            round(apart_exact, 5),
            "at most 0.02",
            apart_exact <= 0.02,
            COMMAND,
            {"grid": shown_exact},
        ),
    ]


def timed(work: Callable[[], object], times: int) -> float:
    """Median milliseconds of a call."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def checks(quick: bool) -> list[Row]:
    """Return how long a check takes."""
    rounds, times = (50, 5) if quick else (1000, 50)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, cost in (("sampled", Cost(1.25, 0.01)), ("unsampled", Cost(50.0))):
            path = Path(folder) / name
            ledger = Ledger(path, Budget(8.0, 1e-5))
            began = time.perf_counter()
            room = ledger.room_for(cost)
            first_ms = (time.perf_counter() - began) * 1e3
            for number in range(1, rounds + 1):
                ledger.book(number, cost, cohort=100)
            check_ms = timed(lambda cost=cost, ledger=ledger: ledger.check(cost), times)  # type: ignore[misc]
            book_ms = timed(lambda cost=cost, ledger=ledger: ledger.book(1, cost, cohort=100), times)  # type: ignore[misc]
            open_ms = timed(lambda path=path: Ledger(path), 5)  # type: ignore[misc]
            extra = {
                "rounds": rounds,
                "room_at_first": room,
                "first_question_ms": round(first_ms),
                "check_ms": round(check_ms, 2),
                "check_and_book_ms": round(book_ms, 2),
                "open_ms": round(open_ms, 1),
            }
            rows.append(
                Row(
                    f"privacy: a server's ledger check, {name} (ms)",
                    round(max(check_ms, book_ms), 2),
                    "under 50",
                    max(check_ms, book_ms) < 50,
                    COMMAND,
                    extra,
                )
            )
    store = MemoryStore()
    write_budget(store, OwnBudget())
    device_ms = timed(lambda: check_round(store, 5.0), times)
    rows.append(
        Row("privacy: a device's ledger check (ms)", round(device_ms, 3), "under 50", device_ms < 50, COMMAND)
    )
    return rows


def correlated() -> list[Row]:
    """Measure what correlated noise gains over independent noise of equal privacy."""
    figures = []
    for steps, separation in ((30, 3), (100, 10), (100, 50), (500, 20), (1000, 50)):
        bands = best_bands(steps, separation)
        ours, independent = (prefix_error(NoisePlan(steps, separation, one, 1.0, 1.0)) for one in (bands, 1))
        figures.append(
            {
                "rounds": steps,
                "separation": separation,
                "bands": bands,
                "times_less_noise": round(independent / ours, 2),
            }
        )
    least = min(float(one["times_less_noise"]) for one in figures)
    return [
        Row(
            "privacy: correlated noise, times less noise in prefix sums than independent noise at equal "
            "epsilon (least of 5)", least,
            "above 1", least > 1, COMMAND, {"settings": figures},
        )
    ]  # fmt: skip


def run(quick: bool = False) -> list[Row]:
    """Return all rows."""
    return [*compare(quick), *checks(quick), *correlated()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="a few settings only")
    print_rows(run(p.parse_args(arguments).quick))
    print(f"measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
