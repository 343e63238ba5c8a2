"""Rounds with noise and in few bits over virtual people.

They have all that masked rounds have except the masks, which cancel exactly.

Where it stands in the flow: `privacy_cost` says what to compare; this module trains. Devices train with the
code that is deployed, make levels of their changes with it and add their own shares of noise; the sum goes
through the ring as masks would leave it, and the server takes mean, clip and encoder from it with its own
functions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.client.federation.local_training import Labels, train_together
from palate.client.federation.privatize import privatize
from palate.server.aggregation import moved
from palate.server.noise_plan.correlated import NoiseState, add_noise
from palate.server.rounds.loop import choose_cohort, derive_seed
from palate.server.secure_sum.clipping import ClipRule, next_clip
from palate.server.secure_sum.privacy import PlanSettings, Privacy, planned_masks
from palate.server.secure_sum.sampling import poisson_cohort
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.accounting import noise_multiplier
from palate.shared.arrays import Float32s
from palate.shared.coding import decode_model, encode_model, finest_step, from_levels, sensitivity_of
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights, encoder_hash, unflatten
from palate.shared.noise import stream_of
from palate.shared.secure_sum.masks import MOST_DEVICES, MaskSettings
from palate.shared.secure_sum.ring import centred, to_ring
from palate.shared.subspace import Subspace
from palate.shared.update import EncoderUpdate, LocalSettings
from palate.simulations.experiments.methods import COOLING

SURVIVORS: Final = (
    0.9  # of the expected cohort: the noise is set for so many, and a round of fewer does not count
)


@dataclass(frozen=True)
class Private:
    """Rounds with noise.

    `clip` is where it starts, `learning_rate`, `beta_1` and `tau` are the server's FedAdam's.
    """

    rounds: int
    sample_rate: float
    rank: int
    clip: float
    clip_rate: float
    ring_bits: int
    model_bits: int
    alignment: float
    learning_rate: float
    beta_1: float
    tau: float


@dataclass(frozen=True)
class Planned:
    """Rounds with a noise plan; everybody takes part once in `separation` rounds.

    What is not said here is as in `Private`.
    """

    epsilons: tuple[float, ...]
    rounds: int
    separation: int
    clip: float
    learning_rate: float
    beta_1: float


@dataclass(frozen=True)
class Open:
    """Rounds as they are without masks."""

    rounds: int
    cohort: int
    alignment: float
    learning_rate: float


@dataclass(frozen=True)
class FewBits:
    """Rounds with all weights in few bits, without noise; `people` are the first of everybody."""

    people: int
    rounds: int
    cohort: int
    alignment: float
    learning_rate: float
    model_bits: int
    agreement: float
    clip: float
    clip_rate: float


@dataclass(frozen=True)
class Coded:
    """How changes become levels, and how the encoder goes out."""

    ring_bits: int
    model_bits: int
    clip: float
    clip_rate: float
    least: int  # survivors
    most: int
    agreement: float = 1.0
    multiplier: float = 0.0
    subspace: Subspace | None = None
    plan: PlanSettings | None = None  # of the server's noise, next to that of the devices

    @property
    def count(self) -> int:
        """How many coordinates a change has."""
        return SHARED_WEIGHTS if self.subspace is None else self.subspace.count

    def masks(self, clip: float) -> MaskSettings:
        """Return the settings of a round with this clip."""
        step, noise = finest_step(
            self.ring_bits,
            self.most,
            clip=clip,
            noise_multiplier=self.multiplier * math.sqrt(self.most / self.least),
            agreement=self.agreement,
            count=self.count,
        )
        return MaskSettings(self.ring_bits, step, clip, noise, min(self.least, MOST_DEVICES))


def learn(
    release: EncoderWeights,
    people: Sequence[Labels],
    settings: Callable[[int], RunSettings],
    cohorts: Callable[[int], Sequence[int]],
    seed: int,
    coded: Coded | None = None,
) -> tuple[EncoderWeights, float]:
    """Return the encoder after all rounds, and the noise multiplier that each of them kept to at least.

    Args:
        release: where the rounds start.
        people: everybody's labels.
        settings: the server's settings, by round.
        cohorts: who takes part, by round.
        seed: of training, rotations and noise.
        coded: how changes become levels; None averages them as they are.
    """
    encoder, memory, kept_to = release, dict[str, Float32s](), math.inf
    clip = coded.clip if coded else 0.0
    source = stream_of(hashlib.sha256(f"palate privacy noise {seed}".encode()).digest())
    added = _PlannedNoise(coded, seed) if coded and coded.plan else None
    for number in range(1, settings(1).rounds + 1):
        cohort = cohorts(number)
        if coded and not coded.least <= len(cohort) <= coded.most:
            continue
        sent = decode_model(encode_model(encoder, release, coded.model_bits), release) if coded else encoder
        base, seeds = encoder_hash(sent), [derive_seed(seed, number) % 2**62] * len(cohort)
        changes = train_together(sent, [people[i] for i in cohort], settings(number).local, seeds)
        if coded is None:
            updates = [EncoderUpdate(base, number, change) for _, change in changes]
        else:
            masks = added.masks if added else coded.masks(clip)
            context = hashlib.sha256(
                f"palate privacy round {seed} {0 if added else number}".encode()
            ).digest()
            total = np.zeros(coded.count + 1, np.int64)
            for _, change in changes:
                update = EncoderUpdate(base, number, change)
                total += privatize(update, masks, context, source, coded.subspace)
            if added:
                total = added.add(total, cohort)
            total = centred(to_ring(total, coded.ring_bits), coded.ring_bits)  # as masks leave it
            mean, below = from_levels(total, len(cohort), step=masks.step, clip=clip, seed=context)
            if not added:
                kept_to = min(
                    kept_to,
                    noise_multiplier(
                        masks.noise,
                        devices=coded.least,
                        sensitivity=sensitivity_of(clip, masks.step, coded.count),
                        dimension=coded.count + 1,
                    ),
                )
            clip = next_clip(clip, below, ClipRule(rate=coded.clip_rate))
            updates = [EncoderUpdate(base, number, _weights_of(mean, coded.subspace))]
        vector, memory = average(settings(number), number, updates, memory)
        encoder = moved(encoder, vector)
    return encoder, kept_to if added is None else added.plan.noise_multiplier


class _PlannedNoise:
    """The server's noise of a plan, and the masks that leave room for it, as `rounds.planned` has them."""

    def __init__(self, coded: Coded, seed: int) -> None:
        privacy = Privacy(
            clip=coded.clip,
            clip_rate=0.0,
            noise_multiplier=coded.multiplier,
            honest_share=1.0,
            ring_bits=coded.ring_bits,
            model_bits=coded.model_bits,
            plan=coded.plan,
        )
        self.masks, self.plan = planned_masks(privacy, least=coded.least, most=coded.most, count=coded.count)
        self._state = NoiseState()
        self._seed = hashlib.sha256(f"palate privacy plan {seed}".encode()).digest()

    def add(self, total: NDArray[np.int64], cohort: Sequence[int]) -> NDArray[np.int64]:
        """Return a round's sum with its noise; raises OptionError for a person who should rest."""
        noised, self._state = add_noise(self.plan, self._state, total, list(map(str, cohort)), self._seed)
        return noised


def _weights_of(mean: Float32s, subspace: Subspace | None) -> dict[str, Float32s]:
    return unflatten(mean) if subspace is None else subspace.change(mean)


def _stages(plan: Open | FewBits, seed: int) -> Callable[[int], RunSettings]:
    """Return the settings of `methods`: Adam whose learning rate falls."""
    rounds, cohort = plan.rounds, plan.cohort

    def at(number: int) -> RunSettings:
        cooled = next(rate for until, rate in COOLING if number <= max(1, round(rounds * until)))
        return RunSettings(
            rounds=rounds,
            devices=cohort,
            quorum=max(1, cohort // 2),
            seed=seed,
            strategy="fedadam",
            server_learning_rate=plan.learning_rate * cooled,
            tau=1e-6,
            local=LocalSettings(alignment=plan.alignment),
        )

    return at


def learn_openly(release: EncoderWeights, people: Sequence[Labels], plan: Open, seed: int) -> EncoderWeights:
    """Run rounds without masks, noise or few bits."""

    def cohorts(number: int) -> list[int]:
        return choose_cohort(range(len(people)), plan.cohort, seed, number)

    settings = _stages(plan, seed)
    return learn(release, people, settings, cohorts, seed)[0]


def learn_in_bits(
    release: EncoderWeights, people: Sequence[Labels], plan: FewBits, bits: int, seed: int
) -> EncoderWeights:
    """Run rounds with all weights in so many bits (32: as they are)."""
    coded = None
    if bits < 32:
        size = plan.cohort
        coded = Coded(bits, plan.model_bits, plan.clip, plan.clip_rate, size, size, plan.agreement)

    def cohorts(number: int) -> list[int]:
        return choose_cohort(range(len(people)), plan.cohort, seed, number)

    settings = _stages(plan, seed)
    return learn(release, people, settings, cohorts, seed, coded)[0]


def learn_privately(
    release: EncoderWeights,
    people: Sequence[Labels],
    plan: Private,
    subspace: Subspace,
    multiplier: float,
    seed: int,
) -> tuple[EncoderWeights, float]:
    """Run noised rounds of Poisson samples; return the encoder and the noise multiplier that was kept to."""
    expected = plan.sample_rate * len(people)
    coded = Coded(
        plan.ring_bits,
        plan.model_bits,
        plan.clip,
        plan.clip_rate,
        least=max(2, math.floor(SURVIVORS * expected)),
        most=min(MOST_DEVICES, math.ceil(expected / SURVIVORS)),
        agreement=1.0,
        multiplier=multiplier,
        subspace=subspace,
    )
    settings = RunSettings(
        rounds=plan.rounds,
        devices=math.ceil(expected),
        quorum=coded.least,
        seed=seed,
        strategy="fedadam",
        server_learning_rate=plan.learning_rate,
        beta_1=plan.beta_1,
        # with a tau far above the mean change this is plain momentum; what noise adds to it stays noise
        beta_2=0.0,
        tau=plan.tau,
        local=LocalSettings(alignment=plan.alignment),
    )

    def cohorts(number: int) -> list[int]:
        return poisson_cohort(range(len(people)), plan.sample_rate, coins(seed, number))

    return learn(release, people, lambda _: settings, cohorts, seed, coded)


def learn_planned(
    release: EncoderWeights,
    people: Sequence[Labels],
    plan: Planned,
    like: Private,
    subspace: Subspace,
    multiplier: float,
    seed: int,
) -> tuple[EncoderWeights, float]:
    """Run rounds in turn with a plan's noise; return the encoder and the plan's noise multiplier."""
    size = len(people) // plan.separation
    coded = Coded(
        like.ring_bits,
        like.model_bits,
        plan.clip,
        0.0,
        least=size,
        most=size,
        subspace=subspace,
        plan=PlanSettings(plan.rounds, plan.separation, multiplier),
    )
    settings = RunSettings(
        rounds=plan.rounds,
        devices=size,
        quorum=size,
        seed=seed,
        strategy="fedadam",
        server_learning_rate=plan.learning_rate,
        beta_1=plan.beta_1,
        beta_2=0.0,  # plain momentum, as in `learn_privately`
        tau=like.tau,
        local=LocalSettings(alignment=like.alignment),
    )
    turns = choose_cohort(range(len(people)), len(people), seed, 0)

    def cohorts(number: int) -> list[int]:
        first = (number - 1) % plan.separation * size
        return turns[first : first + size]

    return learn(release, people, lambda _: settings, cohorts, seed, coded)


def coins(seed: int, number: int) -> bytes:
    """Return what decides who is drawn in a round.

    Secret on a server, here from the seed, to repeat a run.
    """
    return hashlib.sha256(f"palate privacy cohort {seed} {number}".encode()).digest()
