"""The person's privacy budget, and the device's own count of what its rounds of training have spent of it.

Where it stands in the flow: `federation` calls `check_round` before it trains, and `book_round` before the
masked vector leaves. A round that would pass the person's budget does not happen, whatever the server says
about its own. `palate outbox` shows what `read_spent` returns. Both are records in the vault.

**What is counted.** The server knows who takes part in a round, so against the server no sampling helps: each
round costs a whole Gaussian at the noise that is sure to be in the smallest sum (`shared.sum_noise`). All
servers together spend one budget. The device can rely on the invitation's numbers because it enforces them:
it clips its own change, adds its own noise and refuses to unmask fewer survivors. Costs add up as
zero-concentrated differential privacy (Bun and Steinke, "Concentrated differential privacy: simplifications,
extensions, and lower bounds", TCC 2016), which holds for the discrete noise as it is and needs no library.

**Whose noise counts.** A device cannot see whether the other devices add theirs, or exist at all. Without a
pinned registrar a server can invent them, so a round is counted at this device's own noise alone. With one,
the noise of the owner's `honest_share` of the devices is counted. The budget is held to that figure. Two more
figures are kept, to which nothing is held: what was spent if all others added their noise, and if none of
them did. Records of the first version have one figure only, which counted on others. It stays as it was
booked; what one device's noise left then is computed as in the largest sums that exist.

**The default budget**, epsilon 8 at delta 10^-5, is within what usual advice calls reasonable for a trained
model (Ponomareva et al., "How to DP-fy ML", 2023: at most 10, better 1), against an adversary who knows each
round that this device was in and has nothing but the sums. What an adversary learns who sees releases only is
bounded by the server's ledger. The person can choose less.

**Rounds without protection.** Nothing bounds what a round without masks or without noise tells. It is refused
unless the person allowed such rounds (`unprotected`), and then counted apart: once there was one, epsilon is
infinite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from palate.client.vault.json_records import encode_json, readable
from palate.client.vault.store import ONLY, Records, Store
from palate.shared.accounting import LEAST_MULTIPLIER, MOST_MULTIPLIER, Budget, epsilon_of_rho, rho_of
from palate.shared.errors import OptionError, PrivacyBudgetError
from palate.shared.secure_sum.masks import MOST_DEVICES
from palate.shared.sum_noise import SumNoise

PRIVACY_BUDGET, PRIVACY_SPENT = "privacy budget", "privacy spent"  # types of records

DEFAULT_EPSILON: Final = 8.0
DEFAULT_DELTA: Final = 1e-5

_VERSION = 2
_THE_COUNT = "the count of spent privacy"
_COUNTED = ("rounds", "rho", "unprotected_rounds", "last")
_MOST_ROUNDS = 2**53  # beyond, adding 1 to a count in JSON is not sure


@dataclass(frozen=True)
class OwnBudget:
    """What a person is ready to spend on all rounds together.

    Raises `OptionError` outside the ranges of `accounting.Budget`.
    """

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
    """What this device has spent, and the budget that it counts against."""

    budget: OwnBudget
    rounds: int = 0  # with masks and noise
    rho: float = 0.0  # zero-concentrated privacy of those rounds, as counted
    rho_if_all_add: float = 0.0
    rho_alone: float = 0.0
    unprotected_rounds: int = 0
    last: str = ""  # when the newest round was booked, ISO 8601, UTC; empty before the first

    @property
    def epsilon(self) -> float:
        """Return what was spent, at the budget's delta.

        Infinite once there was a round without protection.
        """
        return math.inf if self.unprotected_rounds else self.protected_epsilon

    @property
    def protected_epsilon(self) -> float:
        """Return what the rounds with masks and noise have spent, at the budget's delta."""
        return epsilon_of_rho(self.rho, self.budget.delta)

    @property
    def epsilon_if_all_add(self) -> float:
        """Return what those rounds have spent if all devices in them added their noise."""
        return epsilon_of_rho(self.rho_if_all_add, self.budget.delta)

    @property
    def epsilon_alone(self) -> float:
        """Return what those rounds have spent if no other device in them added noise, or existed."""
        return epsilon_of_rho(self.rho_alone, self.budget.delta)

    def describe(self) -> str:
        """Return in a line what was spent, also if all others added their noise, and if none did."""
        return describe_cost(self.protected_epsilon, self.epsilon_if_all_add, self.epsilon_alone)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `palate outbox --terms --json` prints them; an infinite epsilon is null."""
        return {
            "epsilon": None if self.unprotected_rounds else self.epsilon,
            "protected_epsilon": self.protected_epsilon,
            "epsilon_if_all_add": self.epsilon_if_all_add,
            "epsilon_alone": self.epsilon_alone,
            "delta": self.budget.delta,
            "budget": self.budget.epsilon,
            "rounds": self.rounds,
            "unprotected_rounds": self.unprotected_rounds,
            "unprotected_allowed": self.budget.unprotected,
            "last": self.last or None,
        }


def read_budget(records: Records) -> OwnBudget:
    """Return the person's budget, the default until one was set; raises `VaultDamagedError`."""
    if not records.has(PRIVACY_BUDGET, ONLY):
        return OwnBudget()
    with readable(_THE_COUNT):
        return OwnBudget(**_decode(records.get(PRIVACY_BUDGET, ONLY), "epsilon", "delta", "unprotected"))


def write_budget(store: Store, budget: OwnBudget) -> None:
    """Keep the person's budget. What was spent stays spent; a budget below it stops all further rounds."""
    with store.transaction() as change:
        change.put(PRIVACY_BUDGET, ONLY, encode_json(_VERSION, asdict(budget)))


def read_spent(records: Records) -> OwnSpent:
    """Return what this device has spent; raises `VaultDamagedError`."""
    budget = read_budget(records)
    if not records.has(PRIVACY_SPENT, ONLY):
        return OwnSpent(budget)
    with readable(_THE_COUNT):
        fields = _decode(
            records.get(PRIVACY_SPENT, ONLY), *_COUNTED, since={2: ("rho_if_all_add", "rho_alone")}
        )
        if "rho_alone" not in fields and type(fields["rho"]) is float:
            fields |= {"rho_if_all_add": fields["rho"], "rho_alone": MOST_DEVICES * fields["rho"]}
        counts = (fields["rounds"], fields["unprotected_rounds"])
        sound = all(type(count) is int and 0 <= count < _MOST_ROUNDS for count in counts)
        spent_something = counts[0] > 0
        rhos = [fields.get(name) for name in ("rho_if_all_add", "rho", "rho_alone")]
        finite = [r for r in rhos if type(r) is float and 0 <= r < math.inf and (r > 0) == spent_something]
        # The more others are counted on, the less is spent.
        if not sound or type(fields["last"]) is not str or rhos != sorted(finite):
            raise ValueError("no count")
        return OwnSpent(budget, **fields)


def check_round(records: Records, noise: SumNoise | float) -> OwnSpent:
    """Return what will be spent after one more round.

    Nothing is written, so this can be called before training.

    Args:
        records: the vault, or a change to it.
        noise: the noise that is sure to be in the round (`shared.sum_noise`). A number is this device's own
            noise multiplier, where no other device has a part in the sum; 0 is a round without masks or
            without noise.

    Raises:
        PrivacyBudgetError: the person's budget does not hold the round.
        OptionError: a noise that is no number from 0 up.
        VaultDamagedError: the count cannot be read.
    """
    sure = noise if isinstance(noise, SumNoise) else SumNoise.of_one(noise)
    spent = read_spent(records)
    budget = spent.budget
    if sure.counted < LEAST_MULTIPLIER or sure.alone == 0:
        if not budget.unprotected:
            raise PrivacyBudgetError(
                "the round has no masks or no noise, so nothing bounds what it tells about you; "
                "it takes place only if you allow such rounds"
            )
        return replace(spent, unprotected_rounds=spent.unprotected_rounds + 1)
    counted, if_all_add, alone = (
        rho_of(min(one, MOST_MULTIPLIER)) for one in (sure.counted, sure.all_add, sure.alone)
    )
    after = replace(
        spent,
        rounds=spent.rounds + 1,
        rho=spent.rho + counted,
        rho_if_all_add=spent.rho_if_all_add + if_all_add,
        rho_alone=spent.rho_alone + alone,
    )
    if not after.protected_epsilon <= budget.epsilon:
        others = (
            "; no noise but this device's own is counted, as no registrar is pinned: --registrar pins one"
            if sure.counted == sure.alone < sure.all_add
            else ""
        )
        raise PrivacyBudgetError(
            f"the round would raise this device's epsilon from {spent.protected_epsilon:.2f} to "
            f"{after.protected_epsilon:.2f}, above your budget of {budget.epsilon:g} at delta "
            f"{budget.delta:g}{others}"
        )
    return after


def book_round(store: Store, noise: SumNoise | float, *, now: datetime) -> OwnSpent:
    """Write down that a round is spent, and return the count with it; only then may its vector leave.

    This checks again, in the same step as it writes, so that two processes cannot spend the same rest of a
    budget.

    Args:
        store: the vault.
        noise: as in `check_round`.
        now: a time with a zone.

    Raises:
        PrivacyBudgetError: the person's budget does not hold the round.
        VaultError: the vault cannot be written.
        StorageError: the same.
    """
    if now.tzinfo is None:
        raise ValueError("the time of a round needs a zone")
    with store.transaction() as change:
        after = replace(check_round(change, noise), last=now.astimezone(UTC).isoformat(timespec="seconds"))
        fields = {name: getattr(after, name) for name in (*_COUNTED, "rho_if_all_add", "rho_alone")}
        change.put(PRIVACY_SPENT, ONLY, encode_json(_VERSION, fields))
    return after


def encode_spent(spent: OwnSpent) -> bytes:
    """Return what was spent, without the budget, as the bytes of its record."""
    return encode_json(_VERSION, {name: value for name, value in asdict(spent).items() if name != "budget"})


def _decode(data: bytes, *names: str, since: Mapping[int, tuple[str, ...]] | None = None) -> dict[str, Any]:
    """Return a record's fields; `since` names those that were added later, by the version that added them."""
    content = json.loads(data)
    version = content.pop("version")
    if type(version) is not int or not 1 <= version <= _VERSION:
        raise ValueError("unknown version")
    added = [name for first, more in (since or {}).items() if first <= version for name in more]
    if set(content) != {*names, *added}:
        raise ValueError("unknown form")
    found: dict[str, Any] = content
    return found


def describe_cost(counted: float, if_all_add: float, alone: float) -> str:
    """Return in words the epsilon that counts, and that if all other devices add noise, or none does."""
    said = f"counts epsilon {counted:.3g}"
    if if_all_add < counted:
        said += f"; if the other devices also add their noise: {if_all_add:.3g}"
    if alone > counted:
        said += f"; if none of them does: {alone:.3g}"
    return said
