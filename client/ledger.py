"""The device's own count of what its rounds of training have spent of its person's privacy, kept in the vault.

Where it stands in the flow: `joining` asks here before it trains (`check_round`), and books here before the masked vector leaves
(`book_round`). A round that would pass the person's own budget does not happen, whatever the server says about its own. `palate outbox`
shows what `read_spent` returns.

**What is counted.** The server knows who takes part in a round, so against the server no sampling helps: each round costs a
whole Gaussian at the noise that the invitation guarantees, `accounting.noise_multiplier(...)` with the smallest number of
survivors. All servers together spend one budget. The device believes the invitation's numbers because it enforces them: it
cuts its own change, adds its own noise and refuses to unmask fewer survivors. That the others add theirs it cannot see, which
is what `honest_share` is for. Costs add up as zero-concentrated privacy (Bun and Steinke 2016), which holds for the discrete
noise as it stands and needs no library.

**The default budget**, epsilon 8 at delta 10^-5, lies within what usual advice still calls reasonable for a trained model
(Ponomareva et al., "How to DP-fy ML", 2023: at most 10, better 1), against an adversary who knows each round that this device
was in and has nothing but the sums. What those learn who see releases only is bounded by the server's ledger. The person can
choose less.

**Rounds without protection.** Nothing bounds what a round without masks or without noise tells. It is refused unless the
person allowed such rounds (`unprotected`), and then counted apart: as soon as there was one, epsilon is infinite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from palate.client.outbox import Change, Log
from palate.client.records import ONLY
from palate.shared.accounting import LEAST_MULTIPLIER, MOST_MULTIPLIER, Budget, epsilon_of_rho, rho_of
from palate.shared.errors import OptionError, PrivacyBudgetError, VaultDamagedError

PRIVACY_BUDGET, PRIVACY_SPENT = "privacy budget", "privacy spent"  # types of records

DEFAULT_EPSILON: Final = 8.0
DEFAULT_DELTA: Final = 1e-5

_VERSION = 1
_MOST_ROUNDS = 2**53  # beyond, adding 1 to a count in JSON is not sure


@dataclass(frozen=True)
class OwnBudget:
    """What a person is ready to spend on all rounds together; raises OptionError outside the ranges of `accounting.Budget`."""

    epsilon: float = DEFAULT_EPSILON
    delta: float = DEFAULT_DELTA
    unprotected: bool = False  # may rounds without masks or noise happen?

    def __post_init__(self) -> None:
        budget = Budget(self.epsilon, self.delta)
        object.__setattr__(self, "epsilon", budget.epsilon)
        object.__setattr__(self, "delta", budget.delta)
        if type(self.unprotected) is not bool:
            raise OptionError(f"unprotected is {self.unprotected!r}; it must be true or false")


@dataclass(frozen=True)
class OwnSpent:
    """What this device has spent, and of which budget."""

    budget: OwnBudget
    rounds: int = 0  # with masks and noise
    rho: float = 0.0  # zero-concentrated privacy of those rounds
    unprotected_rounds: int = 0
    last: str = ""  # when the newest round was booked, ISO 8601, UTC; empty before the first

    @property
    def epsilon(self) -> float:
        """What was spent, at the budget's delta; infinite once there was a round without protection."""
        return math.inf if self.unprotected_rounds else self.protected_epsilon

    @property
    def protected_epsilon(self) -> float:
        """What the rounds with masks and noise alone have spent, at the budget's delta."""
        return epsilon_of_rho(self.rho, self.budget.delta)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `palate outbox --json` prints them; an infinite epsilon is null, which JSON can say."""
        return {
            "epsilon": None if self.unprotected_rounds else self.epsilon,
            "protected_epsilon": self.protected_epsilon,
            "delta": self.budget.delta,
            "budget": self.budget.epsilon,
            "rounds": self.rounds,
            "unprotected_rounds": self.unprotected_rounds,
            "unprotected_allowed": self.budget.unprotected,
            "last": self.last or None,
        }


def read_budget(log: Log | Change) -> OwnBudget:
    """Return the person's budget, the default until one was set; raises `VaultDamagedError`."""
    if not log.has(PRIVACY_BUDGET, ONLY):
        return OwnBudget()
    fields = _decode(log.get(PRIVACY_BUDGET, ONLY), "epsilon", "delta", "unprotected")
    try:
        return OwnBudget(**fields)
    except OptionError:
        raise _unreadable() from None


def write_budget(log: Log, budget: OwnBudget) -> None:
    """Keep the person's budget. What was spent stays spent; a budget below it stops all further rounds."""
    with log.transaction() as change:
        change.put(PRIVACY_BUDGET, ONLY, _encode(asdict(budget)))


def read_spent(log: Log | Change) -> OwnSpent:
    """Return what this device has spent; raises `VaultDamagedError`."""
    budget = read_budget(log)
    if not log.has(PRIVACY_SPENT, ONLY):
        return OwnSpent(budget)
    fields = _decode(log.get(PRIVACY_SPENT, ONLY), "rounds", "rho", "unprotected_rounds", "last")
    counts = (fields["rounds"], fields["unprotected_rounds"])
    rho, last = fields["rho"], fields["last"]
    sound = all(type(count) is int and 0 <= count < _MOST_ROUNDS for count in counts) and type(last) is str
    if not sound or type(rho) is not float or not 0 <= rho < math.inf or (rho > 0) != (fields["rounds"] > 0):
        raise _unreadable()
    return OwnSpent(budget, **fields)


def check_round(log: Log | Change, noise_multiplier: float) -> OwnSpent:
    """Return what will be spent after one more round; raises `PrivacyBudgetError` when the person's budget does not hold it.

    `noise_multiplier` is what the round guarantees (`accounting.noise_multiplier`), 0 for a round without masks or without noise.
    Nothing is written, so this can be asked before training. Raises `OptionError` for a multiplier that is no number from 0 up.
    """
    number = isinstance(noise_multiplier, int | float) and not isinstance(noise_multiplier, bool)
    if not number or not 0 <= noise_multiplier < math.inf:
        raise OptionError(f"noise_multiplier is {noise_multiplier!r}; it must be a finite number from 0")
    spent = read_spent(log)
    budget = spent.budget
    rho = rho_of(min(noise_multiplier, MOST_MULTIPLIER)) if noise_multiplier >= LEAST_MULTIPLIER else math.inf
    if math.isinf(rho):
        if not budget.unprotected:
            raise PrivacyBudgetError(
                "the round has no masks or no noise, so nothing bounds what it tells about you; "
                "it takes place only if you allow such rounds"
            )
        return replace(spent, unprotected_rounds=spent.unprotected_rounds + 1)
    after = replace(spent, rounds=spent.rounds + 1, rho=spent.rho + rho)
    if not after.protected_epsilon <= budget.epsilon:
        raise PrivacyBudgetError(
            f"the round would raise this device's epsilon from {spent.protected_epsilon:.2f} to "
            f"{after.protected_epsilon:.2f}, above your budget of {budget.epsilon:g} at delta {budget.delta:g}"
        )
    return after


def book_round(log: Log, noise_multiplier: float, *, now: datetime) -> OwnSpent:
    """Write down that a round is spent, and return the count with it; only when this has returned may its vector leave.

    Checks again, in the same step as it writes, so that two processes cannot spend the same rest of a budget. `now` is a time
    with a zone. Raises `PrivacyBudgetError` as `check_round` does, and what the vault raises when it cannot be written.
    """
    if now.tzinfo is None:
        raise ValueError("the time of a round needs a zone")
    with log.transaction() as change:
        after = replace(
            check_round(change, noise_multiplier), last=now.astimezone(UTC).isoformat(timespec="seconds")
        )
        fields = {
            "rounds": after.rounds,
            "rho": after.rho,
            "unprotected_rounds": after.unprotected_rounds,
            "last": after.last,
        }
        change.put(PRIVACY_SPENT, ONLY, _encode(fields))
    return after


def encode_spent(spent: OwnSpent) -> bytes:
    """Return what was spent, without the budget, as the bytes of its record."""
    return _encode({name: value for name, value in asdict(spent).items() if name != "budget"})


def _encode(fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": _VERSION, **fields}, allow_nan=False).encode()


def _decode(data: bytes, *names: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or content.pop("version") != _VERSION or set(content) != set(names):
            raise ValueError("unknown form")
        return content
    except (KeyError, ValueError):
        raise _unreadable() from None


def _unreadable() -> VaultDamagedError:
    return VaultDamagedError("the count of spent privacy cannot be read by this version of Palate")
