"""The server's privacy ledger: what a round spends is written down before its result is used.

Where it stands in the flow: the round loop books a round here before it unmasks (or looks at) a sum. If the
budget does not hold the round, the round does not happen. A server that is killed after booking and repeats
the round books it twice, because the first sum may have been seen.

`shared.accounting.Cost` says what a round costs. `sampling` is given only where the server drew every
connected device independently, with secret randomness (`sampling.poisson_cohort`), and left devices out for
no other reason than their silence. A cohort of fixed size, or a round that ends at the first so many replies,
is booked without sampling. A round of a noise plan (`planned`) is paid for once, with its plan. The devices'
shares of noise in it are not counted on top of that.

Whether a round fits is first looked up on the Rényi curve, which is kept up to date (under 50 ms, proven for
discrete noise). That says no too early. Only then the tight figure is computed, once: how many more rounds of
this kind there is room for. Both are upper bounds, so the smaller one counts. `ledger.file` describes the
file; the kinds of lines are

    ledger       format
    budget       epsilon, delta, when                    the newest one holds
    round        round, noise_multiplier, sampling, cohort, mechanism, when, and honest_share, all_add, alone
    plan         plan, noise_multiplier, rounds, when    noise that is correlated over so many rounds
    plan round   plan, round, cohort, when

A round's `noise_multiplier` is what is counted: the noise if `honest_share` of the devices in the sum add
theirs. `all_add` is the noise if all do, `alone` that of one device. Rounds of earlier versions have none of
the three. They were booked as if all added theirs, and one device's noise was at least a sum's over the
square root of the cohort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from palate.server.ledger.file import LedgerFile, read_lines
from palate.server.ledger.spent import DEVICES, SERVER, Kind, PlanSpent, Spent, spent_by
from palate.shared.accounting import (
    LEAST_MULTIPLIER,
    ORDERS,
    Budget,
    Cost,
    Curve,
    check_rounds,
    epsilon_of_curve,
    epsilon_of_rho,
    rdp_curve,
    rho_of,
    rounds_within,
)
from palate.shared.checks import is_hex, is_whole
from palate.shared.errors import LedgerDamagedError, OptionError, PalateError, PrivacyBudgetError
from palate.shared.sum_noise import SumNoise
from palate.shared.update import MAX_ROUND

FORMAT: Final = "palate privacy ledger 1"


_ROUND = ("round", "noise_multiplier", "sampling", "cohort", "mechanism", "when")
_OTHERS = ("honest_share", "all_add", "alone")


class _Count:
    """What the lines of a ledger come to."""

    def __init__(self) -> None:
        self.budget: Budget | None = None
        self.rounds = 0
        self.costs: dict[Cost, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.honest_share = 1.0  # the least that was counted on
        self.plans: dict[str, list[int]] = {}  # rounds planned, rounds done
        self.mechanism = DEVICES  # until some noise was the server's
        self.rho = 0.0  # of rounds without sampling
        self.sampled: Curve = np.zeros(len(ORDERS))  # of the others
        self._curves: dict[Cost, Curve] = {}

    def take(self, content: Mapping[str, Any]) -> None:
        """Count a line.

        Raises a PalateError, KeyError, TypeError or ValueError when it says what no ledger says.
        """
        fields = dict(content)
        match fields.pop("kind"):
            case "ledger" if fields == {"format": FORMAT}:
                return
            case "budget":
                _expect(fields, "epsilon", "delta", "when")
                self.budget = Budget(fields["epsilon"], fields["delta"])
            case "round":
                _expect(fields, *_ROUND, *(_OTHERS if "alone" in fields else ()))
                _check_whole("round", fields["round"], 1, MAX_ROUND)
                _check_whole("cohort", fields["cohort"], 1, 10**9)
                if fields["mechanism"] not in (DEVICES, SERVER):
                    raise ValueError("unknown mechanism")
                if fields["mechanism"] == SERVER:
                    self.mechanism = SERVER
                self.spend(_kind_of(fields))
                self.honest_share = min(self.honest_share, fields.get("honest_share", 1.0))
                self.rounds += 1
            case "plan":
                _expect(fields, "plan", "noise_multiplier", "rounds", "when")
                _check_name(fields["plan"])
                check_rounds(fields["rounds"])
                if fields["plan"] in self.plans:
                    raise ValueError("a plan is paid for once")
                cost = Cost(fields["noise_multiplier"])
                self.spend(Kind(cost, cost.noise_multiplier, cost.noise_multiplier))  # it rests on no device
                self.plans[fields["plan"]] = [fields["rounds"], 0]
                self.mechanism = SERVER
            case "plan round":
                _expect(fields, "plan", "round", "cohort", "when")
                _check_whole("round", fields["round"], 1, MAX_ROUND)
                _check_whole("cohort", fields["cohort"], 1, 10**9)
                planned, done = self.plans[fields["plan"]]
                if done >= planned:
                    raise ValueError("more rounds than were planned")
                self.plans[fields["plan"]][1] += 1
                self.rounds += 1
            case _:
                raise ValueError("unknown kind")

    def spend(self, kind: Kind) -> None:
        cost = kind.cost
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.costs[cost] = self.costs.get(cost, 0) + 1
        if cost.sampling is None:
            self.rho += rho_of(cost.noise_multiplier)
        else:
            self.sampled = self.sampled + self.curve_of(cost)

    def curve_of(self, cost: Cost) -> Curve:
        if cost not in self._curves:
            self._curves[cost] = rdp_curve(cost)
        return self._curves[cost]

    def epsilon_with(self, cost: Cost, delta: float) -> float:
        """Return the Rényi figure after one more round."""
        if cost.sampling is None:
            rho, sampled = self.rho + rho_of(cost.noise_multiplier), self.sampled
        else:
            rho, sampled = self.rho, self.sampled + self.curve_of(cost)
        if not sampled.any():
            return epsilon_of_rho(rho, delta)
        return epsilon_of_curve(sampled + rho * np.array(ORDERS), delta)


class Ledger:
    """An open ledger; made where there is none. One process has it open at a time.

    A `budget` other than the one that holds is written down as a change, for all to see.

    Raises:
        LedgerDamagedError: any line was changed or taken away.
        StorageError: the disk refuses.
        OptionError: a new ledger without a budget.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read, check and count every line."""
        self._now = now
        self._file = LedgerFile(path)
        self._count = _counted(self._file.lines, path)
        self._room: dict[Cost, int] = {}
        if not self._file.lines:
            if budget is None:
                raise OptionError("a new privacy ledger needs a budget: name epsilon and delta")
            self._file.append({"kind": "ledger", "format": FORMAT})
        if budget is not None and budget != self._count.budget:
            self._write({"kind": "budget", "epsilon": budget.epsilon, "delta": budget.delta})
        if self._count.budget is None:
            raise OptionError("the privacy ledger has no budget yet: name epsilon and delta")

    @property
    def budget(self) -> Budget:
        """What may be spent in all."""
        assert self._count.budget is not None  # noqa: S101 - the constructor saw to it
        return self._count.budget

    @property
    def head(self) -> str:
        """The hash that stands for the whole ledger, in 64 hexadecimal digits.

        Checkpoints and signed releases repeat it.
        """
        return self._file.head

    @property
    def rounds(self) -> int:
        """How many rounds were booked, those that were done twice counted twice."""
        return self._count.rounds

    def require(self, head: str) -> None:
        """Raise LedgerDamagedError unless this ledger continues the one that had this head."""
        if not self._file.includes(head):
            raise LedgerDamagedError(
                f"{self._file.path} is older than what was released, or another one: it has no line "
                f"{head[:12]}...; restore the newest ledger from a backup"
            )

    def spent(self) -> Spent:
        """Return what was spent so far; the tight figure takes up to a second."""
        return _spent(self._count)

    def room_for(self, cost: Cost) -> int:
        """Return how many more rounds of this cost the budget holds (`rounds_within`).

        This takes seconds the first time.

        Asked at the start of a run, it also loads all that `check` needs.
        """
        cost = cost.on_grid()
        if cost not in self._room:
            self._room[cost] = rounds_within(self.budget, cost, self._count.costs.items())
        return self._room[cost]

    def check(self, cost: Cost) -> None:
        """Raise PrivacyBudgetError unless the budget holds one more round of this cost; writes nothing."""
        cost = cost.on_grid()
        quick = self._count.epsilon_with(cost, self.budget.delta)
        if quick <= self.budget.epsilon or self.room_for(cost) >= 1:
            return
        raise PrivacyBudgetError(
            f"one more round would raise epsilon above the budget of {self.budget.epsilon:g} at delta "
            f"{self.budget.delta:g}; {self.rounds} rounds have been spent; end the run here, or begin a new "
            "budget and say so to everyone"
        )

    def book(
        self,
        round: int,  # noqa: A002
        cost: Cost,
        *,
        cohort: int,
        mechanism: str = DEVICES,
        noise: SumNoise | None = None,
        honest_share: float = 1.0,
    ) -> None:
        """Write down that a round is spent; only when this has returned may its sum be looked at.

        `cohort` is the number of devices that were asked, `noise` what the sum has by how many of the devices
        add theirs; `cost` counts on `honest_share` of them. Without `noise` the line is that of an earlier
        version.

        Raises:
            PrivacyBudgetError: the budget does not hold it.
            StorageError: it cannot be written (the round must not be used then).
        """
        self.check(cost)
        cost = cost.on_grid()
        line: dict[str, Any] = {
            "kind": "round",
            "round": round,
            "noise_multiplier": cost.noise_multiplier,
            "sampling": cost.sampling,
            "cohort": cohort,
            "mechanism": mechanism,
        }
        if noise is not None:
            enough = noise.alone >= LEAST_MULTIPLIER
            line |= {
                "honest_share": honest_share,
                "all_add": max(cost.noise_multiplier, Cost(noise.all_add).on_grid().noise_multiplier),
                "alone": Cost(noise.alone).on_grid().noise_multiplier if enough else 0.0,
            }
        self._write(line)

    def steps_of(self, plan: str) -> tuple[int, int]:
        """Return for how many rounds a plan is paid for, and how many of them are done.

        Both are 0 for a plan that is not paid for.
        """
        planned, done = self._count.plans.get(plan, (0, 0))
        return planned, done

    def check_plan(self, plan: str, noise_multiplier: float) -> None:
        """Raise PrivacyBudgetError unless the plan is paid for or the budget holds it; writes nothing."""
        if plan in self._count.plans:
            return
        try:
            self.check(Cost(noise_multiplier))
        except PrivacyBudgetError:
            raise PrivacyBudgetError(
                f"the noise plan would raise epsilon above the budget of {self.budget.epsilon:g} at delta "
                f"{self.budget.delta:g}, of which {self.rounds} rounds have spent their part; give the plan "
                f"a noise_multiplier above {noise_multiplier:g}"
            ) from None

    def book_plan(self, plan: str, noise_multiplier: float, rounds: int) -> None:
        """Pay for noise that is correlated over so many rounds, all of them at once.

        Nothing happens if it is paid for.

        `plan` is the plan's name, `noise_multiplier` the noise over the sensitivity of all that one device
        adds in the plan's rounds.
        """
        if plan in self._count.plans:
            return
        self.check_plan(plan, noise_multiplier)
        cost = Cost(noise_multiplier).on_grid()
        self._write(
            {"kind": "plan", "plan": plan, "noise_multiplier": cost.noise_multiplier, "rounds": rounds}
        )

    def book_plan_round(self, plan: str, round: int, *, cohort: int) -> None:  # noqa: A002
        """Write down a round of a plan.

        Raises:
            PrivacyBudgetError: the plan is not paid for, or all its rounds are done.
        """
        planned, done = self._count.plans.get(plan, (0, 0))
        if done >= planned:
            raise PrivacyBudgetError(
                f"all {planned} rounds of the noise plan {plan[:12]}... are done; begin another plan"
                if planned
                else f"the noise plan {plan[:12]}... is not in the ledger; book it first"
            )
        self._write({"kind": "plan round", "plan": plan, "round": round, "cohort": cohort})

    def _write(self, fields: Mapping[str, Any]) -> None:
        """Check a line as if it were read, then write it.

        What it says counts even if the disk refuses half-way.
        """
        content = {**fields, "when": self._now().astimezone(UTC).isoformat(timespec="milliseconds")}
        costs_before = dict(self._count.costs)
        try:
            self._count.take(content)
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"the round cannot be booked: {error}") from None
        changed = {cost for cost, count in self._count.costs.items() if count != costs_before.get(cost)}
        if changed or fields["kind"] == "budget":
            # What is left for this kind of round is one less; for other kinds, or where none is left of what
            # was said, it is asked anew.
            self._room = {cost: left - 1 for cost, left in self._room.items() if cost in changed and left > 1}
        self._file.append(content)


def read_spent(path: Path) -> Spent:
    """Return what the ledger at a path has spent, without opening it for writing.

    Raises LedgerDamagedError.
    """
    return _spent(_counted(read_lines(path).lines, path))


def _check_name(plan: object) -> None:
    if not is_hex(plan):
        raise ValueError("a plan is named by its SHA-256")


def _counted(lines: Any, path: Path) -> _Count:
    count = _Count()
    for number, line in enumerate(lines):
        try:
            if (number == 0) != (line.content["kind"] == "ledger"):
                raise ValueError("the first line, and no other, says what this is")
            count.take(line.content)
        except (KeyError, TypeError, ValueError, PalateError):
            raise LedgerDamagedError(
                f"line {number + 1} of {path} says what no privacy ledger says; restore it from a backup"
            ) from None
    return count


def _spent(count: _Count) -> Spent:
    if count.budget is None:
        raise LedgerDamagedError("the privacy ledger has no budget")
    return spent_by(
        count.kinds,
        count.budget.delta,
        count.budget.epsilon,
        rounds=count.rounds,
        mechanism=count.mechanism,
        plans=tuple(PlanSpent(rounds, done) for rounds, done in count.plans.values()),
        honest_share=count.honest_share,
    )


def _kind_of(fields: Mapping[str, Any]) -> Kind:
    """Return what a round's line says of its noise; raises OptionError or ValueError for anything else."""
    cost = Cost(fields["noise_multiplier"], fields["sampling"])
    if "alone" not in fields:
        all_add, alone = cost.noise_multiplier, cost.noise_multiplier
        if fields["mechanism"] == DEVICES:
            alone /= math.sqrt(fields["cohort"])
        return Kind(cost, all_add, alone if alone >= LEAST_MULTIPLIER else 0.0)
    share, all_add, alone = (fields[name] for name in _OTHERS)
    for name, value, most in (("honest_share", share, 1.0), ("alone", alone, cost.noise_multiplier)):
        if type(value) is not float or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}; it must be from 0 to {most:g}")
    if type(all_add) is not float or all_add < cost.noise_multiplier:
        raise ValueError(f"all_add is {all_add!r}; it must be at least the noise that is counted")
    return Kind(cost, Cost(all_add).noise_multiplier, alone if alone >= LEAST_MULTIPLIER else 0.0)


def _expect(fields: Mapping[str, Any], *names: str) -> None:
    if set(fields) != set(names):
        raise ValueError(f"the fields are {', '.join(names)}")
    if not isinstance(fields["when"], str):
        raise ValueError("when is no text")


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if not is_whole(value, least, most):
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} to {most:,}")
