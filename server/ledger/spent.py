"""What a ledger's rounds have spent, against whom, and for how many devices that add their noise.

Where it stands in the flow: `ledger` counts its lines and passes on how many rounds of each kind there were.
`palate server privacy` prints the result, and a release's card carries the figures. From the strongest
assumption to the weakest:

    if_all_add_epsilon   all devices in a sum add their noise
    epsilon              `Privacy.honest_share` of them do: this is booked, and held to the budget
    unsampled_epsilon    the same, against those who know who took part in which round
    alone_epsilon        no other device's noise counts, and who took part is known: the other devices are
                         silent, invented, or talk

**Without sampling.** Rounds by Poisson sampling are cheap against those who do not learn who was drawn. The
server learns it, and each device learns who is in its rounds. Against them a person pays the whole cost of
each round that they were in, and nothing for the others. How often somebody is drawn is chance, and does not
depend on their data: more than `most_rounds` times with a probability of at most delta / 2. So, by a union
bound, (epsilon of that many rounds at delta / 2, delta) holds before the draws, against those who see them
all. `by_rounds` says what holds for a person who is known to have been in k rounds. Where chances differ, the
largest counts; where noises differ, the least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from palate.shared.accounting import LEAST_MULTIPLIER, Cost, epsilon_by_pld, epsilon_by_rdp

DEVICES: Final = "devices"
"""The noise is the sum of what the devices add: nobody ever has a sum without noise."""

SERVER: Final = "server"
"""The server adds the noise: the person who runs it is trusted not to look at the sum."""

_SHOWN: Final = 30  # rows of the table by rounds, without that of the most rounds and that of all


@dataclass(frozen=True)
class Kind:
    """Rounds that cost the same: what is booked, and the noise if all devices add theirs or none but one."""

    cost: Cost
    all_add: float
    alone: float  # 0 where it is too little to count


@dataclass(frozen=True)
class PlanSpent:
    """A noise plan that is paid for: how many rounds it is for, and how many of them are done."""

    rounds: int
    done: int


@dataclass(frozen=True)
class KnownRounds:
    """What a person has spent who is known to have been in so many of the sampled rounds.

    `chance` is how likely it is to be in so many or more.
    """

    rounds: int
    chance: float
    epsilon: float


@dataclass(frozen=True)
class Spent:
    """What a ledger has spent of its budget, and whose noise that rests on.

    The noise is that of `DEVICES`, or for a part of it that of `SERVER`.
    """

    rounds: int
    epsilon: float  # the tight figure (privacy loss distributions)
    epsilon_rdp: float  # the Rényi figure
    delta: float
    budget: float  # of epsilon
    mechanism: str = DEVICES
    plans: tuple[PlanSpent, ...] = ()
    honest_share: float = 1.0  # the least that was counted on in a round
    if_all_add_epsilon: float = 0.0
    unsampled_epsilon: float = 0.0
    alone_epsilon: float = 0.0  # infinite where one device's noise is too little to count
    most_rounds: int = 0  # sampled ones with one person, except with a chance of delta / 2
    by_rounds: tuple[KnownRounds, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `palate server privacy --json` prints them.

        An infinite one is null, which JSON can say.
        """
        found = asdict(self)
        if math.isinf(self.alone_epsilon):
            found["alone_epsilon"] = None
        return found

    def describe(self) -> list[str]:
        """Return the figures in lines for a person."""
        if self.honest_share == 0:
            whose = "also if no device but a person's own adds its noise"
        elif self.honest_share < 1:
            whose = f"if {self.honest_share:.0%} of the devices in a sum add their noise"
        else:
            whose = "if all devices in a sum add their noise"
        lines = [
            f"{self.rounds} rounds have spent epsilon {self.epsilon:.3g} of {self.budget:g} at delta "
            f"{self.delta:g}, counted per device, against everybody who sees the releases, {whose}"
        ]
        if self.if_all_add_epsilon < self.epsilon:
            lines.append(f"if all devices add their noise: epsilon {self.if_all_add_epsilon:.3g}")
        if self.most_rounds:
            times = "round" if self.most_rounds == 1 else "rounds"
            lines.append(
                "against those who know who took part, as this server and the devices of a round do: "
                f"epsilon {self.unsampled_epsilon:.3g} (nobody is drawn for more than {self.most_rounds} "
                f"{times}, except with a chance of {self.delta / 2:g})"
            )
        if self.alone_epsilon > max(self.epsilon, self.unsampled_epsilon):
            alone = "nothing" if math.isinf(self.alone_epsilon) else f"epsilon {self.alone_epsilon:.3g}"
            lines.append(f"if all other devices are silent, or made up: {alone} is what holds")
        for plan in self.plans:
            lines.append(
                f"a noise plan of {plan.rounds} rounds is paid for in that, {plan.done} of them done; it "
                "rests on this server, which adds the noise"
            )
        return lines


def spent_by(
    kinds: Mapping[Kind, int],
    delta: float,
    budget: float,
    *,
    rounds: int,
    mechanism: str = DEVICES,
    plans: tuple[PlanSpent, ...] = (),
    honest_share: float = 1.0,
) -> Spent:
    """Return what so many rounds of these kinds have spent, up to seconds later.

    Plans are among the kinds, without sampling.
    """
    booked = [(kind.cost, count) for kind, count in kinds.items()]
    kept = [(Cost(kind.all_add, kind.cost.sampling), count) for kind, count in kinds.items()]
    quick = epsilon_by_rdp(booked, delta)
    tight = min(quick, epsilon_by_pld(booked, delta))
    if_all = tight if kept == booked else min(tight, epsilon_by_pld(kept, delta))
    chances = [cost.sampling for cost, _ in booked if cost.sampling is not None]
    most, doubt, unsampled, table = 0, delta, tight, tuple[KnownRounds, ...]()
    if chances:
        drawn, chance, doubt = (
            sum(n for cost, n in booked if cost.sampling is not None),
            max(chances),
            delta / 2,
        )
        most = rounds_of_one(drawn, chance, doubt)
        unsampled = max(tight, _known(booked, most, doubt))
        table = tuple(
            KnownRounds(k, chance_of(drawn, chance, k), _known(booked, k, delta))
            for k in sorted({*range(1, min(most, _SHOWN) + 1), most, drawn})
        )
    alone = math.inf
    if all(kind.alone >= LEAST_MULTIPLIER for kind in kinds):
        silent = [(Cost(kind.alone, kind.cost.sampling), count) for kind, count in kinds.items()]
        alone = max(unsampled, _known(silent, most, doubt))
    return Spent(
        rounds, tight, quick, delta, budget, mechanism, plans, honest_share,
        if_all, unsampled, alone, most, table,
    )  # fmt: skip


def rounds_of_one(rounds: int, chance: float, doubt: float) -> int:
    """Return the least k so that more than k rounds with one person have a chance of at most `doubt`.

    k is from 1 to `rounds`.
    """
    above = 0.0
    for k in range(rounds, 1, -1):
        above += _exactly(rounds, chance, k)
        if above > doubt:
            return k
    return 1


def chance_of(rounds: int, chance: float, least: int) -> float:
    """Return how likely one person is drawn for `least` or more of the rounds."""
    return min(1.0, math.fsum(_exactly(rounds, chance, k) for k in range(least, rounds + 1)))


def _exactly(rounds: int, chance: float, k: int) -> float:
    ways = math.lgamma(rounds + 1) - math.lgamma(k + 1) - math.lgamma(rounds - k + 1)
    return math.exp(ways + k * math.log(chance) + (rounds - k) * math.log1p(-chance))


def _known(rounds: Sequence[tuple[Cost, int]], drawn: int, delta: float) -> float:
    """Return epsilon of all unsampled rounds and of `drawn` sampled ones, those with the least noise."""
    whole = [one for one in rounds if one[0].sampling is None]
    sampled = sorted(
        (one for one in rounds if one[0].sampling is not None), key=lambda one: one[0].noise_multiplier
    )
    for cost, count in sampled:
        taken = min(drawn, count)
        drawn -= taken
        whole += [(Cost(cost.noise_multiplier), taken)] if taken else []
    return epsilon_by_pld(whole, delta)
