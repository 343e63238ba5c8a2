"""A federation in which some people lie: rounds under one attack and one rule, and what that costs everybody.

Where it stands in the flow: `benchmarks.many_liars` runs this for a grid of attacks, shares of liars and
rules. The function of a device trains the people, and the server's own code makes the groups, drops sums that
are too long and clips around the centre. Flower's rules, which the server does not offer, stand next to them
for comparison. The outcome is judged as that of any experiment: by people who took no part.

Masks change none of these figures, since a masked sum is exact: the server gets the groups' means and nothing
else. Rounding and privacy noise are left out here. Each device's change is clipped to the bound of the round,
which follows the median length of the changes (Andrew et al., NeurIPS 2021); liars say that theirs is longer
and so pull the bound up as far as they can.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedTrimmedAvg, MultiKrum

from palate.client.federation.local_training import Labels, train_together
from palate.client.runtime.threads import one_thread
from palate.client.taste.evaluator import fit_evaluator
from palate.server.aggregation import moved
from palate.server.rounds.loop import choose_cohort, derive_seed
from palate.server.secure_sum.groups import centred_clipping, drop_long, make_groups
from palate.server.settings import RunSettings
from palate.server.strategy import aggregate, server_step
from palate.shared.arrays import Float32s
from palate.shared.encoder import EncoderWeights, flatten
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.update import LocalSettings
from palate.simulations.attacks.poisoned_updates import (
    ATTACKS,
    Poison,
    Situation,
    backdoor_direction,
    flipped,
    lie,
    target,
)
from palate.simulations.crowd.people import Person, make_people, true_utility
from palate.simulations.crowd.population import (
    PEOPLE_SEED,
    STRANGERS_SEED,
    Pool,
    Stranger,
    give_all_labels,
    meet_stranger,
)
from palate.simulations.experiments.methods import pairwise
from palate.simulations.world.truth import CATEGORY_OF

RULES: Final = ("mean", "centred clipping")
FLOWERS: Final = ("multikrum", "bulyan", "fedmedian", "fedtrimmedavg")  # without masks
TRIM: Final = 0.3  # of the trimmed mean: as much as the most liars that are tried
FILE: Final = Path(__file__).parents[1] / "experiments" / "many_liars.toml"


@dataclass(frozen=True)
class Defence:
    """A rule and how many devices are summed under masks before it sees anything.

    1 for a round without masks.
    """

    rule: str  # of `RULES`, or, for a size of 1, of `FLOWERS`
    size: int

    def __post_init__(self) -> None:
        known = RULES + (FLOWERS if self.size == 1 else ())
        if type(self.size) is not int or self.size < 1 or self.rule not in known:
            raise OptionError(
                f"the defence is {self.rule!r} over groups of {self.size!r}; there are {', '.join(known)}"
            )

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.rule}, no masks" if self.size == 1 else f"{self.rule}, groups of {self.size}"


@dataclass(frozen=True)
class LiarsExperiment:
    """What the TOML file asks for; raises OptionError outside the ranges."""

    title: str
    people: int
    strangers: int
    pictures: int
    rounds: int
    cohort: int
    learning_rate: float  # of the server's FedAdam
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    attacks: tuple[str, ...]
    defences: tuple[Defence, ...]
    pushed: str  # the attribute of the taste backdoor

    def __post_init__(self) -> None:
        for name, least in (("people", 4), ("strangers", 2), ("pictures", 300), ("rounds", 1), ("cohort", 4)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(f"{name} is {value!r}; it must be a whole number from {least}")
        if self.cohort > self.people:
            raise OptionError(f"cohort is {self.cohort}; it must be at most people, {self.people}")
        odd = [one for one in self.attacks if one not in ATTACKS]
        if odd:
            raise OptionError(f"the attack {odd[0]!r} is unknown; there are {', '.join(ATTACKS)}")
        if not all(0 < share < 0.5 for share in self.shares):
            raise OptionError(f"shares are {list(self.shares)!r}; each must be above 0 and below 0.5")
        if self.pushed not in CATEGORY_OF:
            raise OptionError(f"pushed is {self.pushed!r}; it must be an attribute of the drawn world")


def read_liars_experiment(path: Path = FILE) -> LiarsExperiment:
    """Read the file; raises FileFormatError for another form, OptionError for a value out of range."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path.name} cannot be read as TOML ({type(error).__name__})") from None
    known = {one.name for one in fields(LiarsExperiment)}
    odd = sorted(set(found) ^ known)
    if odd:
        raise FileFormatError(
            f"{path.name}: the key {odd[0]!r} is missing or unknown; there are {', '.join(sorted(known))}"
        )
    try:
        defences = tuple(
            Defence(str(rule), size) for rule, sizes in found["defences"].items() for size in sizes
        )
        lists: dict[str, Any] = {name: tuple(found[name]) for name in ("seeds", "shares", "attacks")}
        return LiarsExperiment(**{**found, **lists, "defences": defences})
    except (AttributeError, TypeError) as error:
        raise FileFormatError(
            f"{path.name}: seeds, shares and attacks are lists, defences a table of lists ({error})"
        ) from None


@dataclass(frozen=True)
class Participants:
    """The people of one seed, those who judge, and what the liars of the backdoor have."""

    release: EncoderWeights
    people: Sequence[Labels]
    strangers: Sequence[Stranger]
    tastes: Sequence[Person]  # of the strangers
    asked: Pool
    poison: Poison
    seed: int


def draw_participants(
    experiment: LiarsExperiment, release: EncoderWeights, pool: Pool, seed: int
) -> Participants:
    """Draw the people and strangers of a seed; a fifth of the pictures is for the strangers alone."""
    shown, asked = pool.split()
    people = give_all_labels(
        make_people(experiment.people, PEOPLE_SEED, first=seed * experiment.people), shown, seed
    )
    tastes = make_people(experiment.strangers, STRANGERS_SEED, first=seed * experiment.strangers)
    strangers = [meet_stranger(person, asked, seed) for person in tastes]
    has = np.array([experiment.pushed in truth.values() for truth in shown.truths])
    poison = Poison(shown.features[has], shown.features[~has][: 4 * int(has.sum())])
    return Participants(release, people, strangers, tastes, asked, poison, seed)


@dataclass(frozen=True)
class LiarsOutcome:
    """What a run came to.

    Accuracy on strangers, and how often a disliked picture with the pushed attribute wins.
    """

    accuracy: float  # pairwise
    pushed_wins: float  # of pairs (disliked, with the attribute; liked, without), by the truth
    dropped: float  # groups that were too long, share of all


def run_liars(
    crowd: Participants,
    experiment: LiarsExperiment,
    defence: Defence,
    *,
    share: float = 0.0,
    attack: str = "sign flip",
) -> LiarsOutcome:
    """Run all rounds with a share of liars in each cohort, and judge the encoder.

    Args:
        crowd: the people of a seed. The first of them are honest, the last `share` lie.
        experiment: sizes and learning rate.
        defence: rule, and how many devices are summed before it.
        share: of liars, in [0, 0.5).
        attack: one of `ATTACKS`.
    """
    optimizer = RunSettings(strategy="fedadam", server_learning_rate=experiment.learning_rate, tau=1e-6)
    liars = round(share * experiment.cohort)
    honest_people = range(round(experiment.people * (1 - share)))
    lying_people = range(len(honest_people), experiment.people)
    rng = np.random.default_rng([crowd.seed, 7])
    encoder, bound, dropped = crowd.release, 0.0, 0.0
    memory: dict[str, Float32s] = {}
    for number in range(1, experiment.rounds + 1):
        who = choose_cohort(honest_people, experiment.cohort - liars, crowd.seed, number)
        given = [crowd.people[i] for i in who]
        if attack == "label flip" and liars:
            lying = choose_cohort(lying_people, liars, crowd.seed, number)
            given += [flipped(crowd.people[i]) for i in lying]
        changes = _train(encoder, given, derive_seed(crowd.seed, number))
        if not bound:
            bound = _median_length(changes, share)
        after = _median_length(changes[: len(who)], share)
        changes = _clipped(changes, bound)
        if liars and attack != "label flip":
            direction = backdoor_direction(encoder, crowd.poison) if attack == "taste backdoor" else None
            changes = _with_lies(
                changes, attack, defence.size, experiment.cohort, bound, number, rng, direction
            )
        mean, remembered, lost = _combine(changes, defence, liars, bound, number, memory)
        if mean is not None:
            change, memory = server_step(optimizer, number, mean, memory)
            memory |= remembered
            encoder = moved(encoder, change)
        dropped += lost / experiment.rounds
        bound = after
    return LiarsOutcome(*_judge(encoder, crowd, experiment.pushed), dropped)


def flowers_rule(name: str, devices: int, liars: int) -> FedAvg:
    """Return Flower's rule of this name, told how many of the devices lie, as far as it can stand so many.

    The bounds are those of Blanchard et al. (NeurIPS 2017) and El Mhamdi et al. (ICML 2018).
    """
    if name == "multikrum":
        most = min(liars, (devices - 3) // 2)
        return MultiKrum(num_malicious_nodes=most, num_nodes_to_select=devices - most)
    if name == "bulyan":
        return Bulyan(num_malicious_nodes=min(liars, (devices - 3) // 4))
    return FedMedian() if name == "fedmedian" else FedTrimmedAvg(beta=TRIM)


def _train(encoder: EncoderWeights, people: Sequence[Labels], seed: int) -> Float32s:
    """Return everybody's change, (people, d), by the settings of the shipped experiments."""
    with one_thread():
        found = dict(train_together(encoder, people, LocalSettings(), [seed] * len(people)))
    return np.stack([flatten(found[place]) for place in range(len(people))])


def _median_length(changes: Float32s, share: float) -> float:
    """Return the bound that half of all devices say they are below; liars say they are above."""
    return float(np.quantile(np.linalg.norm(changes, axis=1), min(1.0, 0.5 / (1 - share))))


def _clipped(changes: Float32s, bound: float) -> Float32s:
    lengths = np.linalg.norm(changes, axis=1, keepdims=True)
    return np.asarray(changes * np.minimum(1.0, bound / np.maximum(lengths, 1e-12)), dtype=np.float32)


def _groups(size: int, cohort: int, number: int) -> list[list[int]]:
    """Return the round's groups of places in the cohort; each alone where there are no masks."""
    if size == 1:
        return [[place] for place in range(cohort)]
    keys = [place.to_bytes(4, "big") for place in range(cohort)]
    groups = make_groups(keys, size, number.to_bytes(8, "little"))
    return [[int.from_bytes(key, "big") for key in group] for group in groups]


def _with_lies(
    honest: Float32s,
    attack: str,
    size: int,
    cohort: int,
    bound: float,
    number: int,
    rng: np.random.Generator,
    direction: Float32s | None,
) -> Float32s:
    """Return what the cohort sends, (cohort, d): honest devices first, then liars, fitted to their groups."""
    groups = _groups(size, cohort, number)
    spoiled = [group for group in groups if max(group) >= len(honest)]
    seen = Situation(honest, size, len(groups), len(spoiled), bound)
    wanted, mean = target(attack, seen, rng, direction), honest.mean(0)
    sent = np.concatenate([honest, np.zeros((cohort - len(honest), honest.shape[1]), np.float32)])
    for group in spoiled:
        lying = [place for place in group if place >= len(honest)]
        sent[lying] = lie(wanted, mean, len(group), len(lying))
    return sent


def _combine(
    changes: Float32s, defence: Defence, liars: int, bound: float, number: int, memory: dict[str, Float32s]
) -> tuple[Float32s | None, dict[str, Float32s], float]:
    """Return the change before the optimizer or None, the rule's memory, the share of groups dropped."""
    if defence.rule in FLOWERS:
        return aggregate(flowers_rule(defence.rule, len(changes), liars), number, list(changes)), {}, 0.0
    groups = _groups(defence.size, len(changes), number)
    means = np.stack([changes[group].mean(0) for group in groups])
    counts = np.array([len(group) for group in groups])
    kept = drop_long(means, counts, clip=bound)
    if not kept.any():
        return None, {}, 1.0
    means, counts, lost = means[kept], counts[kept], float((~kept).mean())
    if defence.rule == "mean":
        return np.average(means.astype(np.float64), 0, counts).astype(np.float32), {}, lost
    return *centred_clipping(means, counts, memory), lost


def _judge(encoder: EncoderWeights, crowd: Participants, pushed: str) -> tuple[float, float]:
    """Return pairwise accuracy on strangers, and how often the pushed attribute wins wrongly.

    Wrongly: a picture with it that the stranger truly dislikes is put above one without it that they truly
    like.
    """
    has = np.array([pushed in truth.values() for truth in crowd.asked.truths])
    right, wins = [], []
    for person, one in zip(crowd.tastes, crowd.strangers, strict=True):
        fitted = fit_evaluator(encoder, one.liked, one.disliked, tastes={})
        right.append(pairwise(fitted.utilities(one.asked), one.answers))
        worth = np.array([true_utility(person, truth) for truth in crowd.asked.truths])
        scores = fitted.utilities(crowd.asked.features)
        bad, good = scores[has & (worth < person.threshold)], scores[~has & (worth > person.threshold)]
        if len(bad) and len(good):
            wins.append(float((bad[:, None] > good[None]).mean()))
    return float(np.mean(right)), float(np.mean(wins)) if wins else 0.0
