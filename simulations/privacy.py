"""What privacy and few bytes cost: accuracy against epsilon, and accuracy against bits, over virtual people.

    python -m palate.simulations.privacy [EXPERIMENT] --out FOLDER [--json]

Devices train with the code that is deployed, make levels of their changes with it and add their own shares of noise; the sum goes
through the ring as masks would leave it, and the server takes mean, clip and encoder from it with its own functions. Only the masks
are left out: they cancel exactly (tests say so). Four kinds of runs are compared, on the same people:

    open       no masks, no noise, float32 both ways: Adam on all weights (`methods`)
    epsilon    Poisson sampling of devices; a public subspace of the last layer (`shared.subspace`), clipped, noised for epsilon after
               all rounds at delta = people^-1.1, counted by `shared.accounting`; "none" is the same without noise
    plan       the same changes without sampling: everybody takes part in turn, and noise of the server's that cancels over the rounds
               (`server.correlated`) for epsilon at the same delta
    bits       all weights, cohorts as small as they are deployed, levels in a ring of so many bits up

Privacy is counted per device, one device being one person, for what the sums of all rounds tell together, with the cohort secret.
Accuracies are those of people whom nobody trained on, from 8 liked and 8 disliked pictures (`methods.understand`). Results are
written after each run, so that an experiment which was ended goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from palate.client.reconstruction import Labels, one_thread, train_together
from palate.client.shielding import shield
from palate.server.aggregation import moved, unflatten
from palate.server.clipping import ClipRule, next_clip
from palate.server.correlated import NoiseState, add_noise
from palate.server.privacy import PlanSettings, Privacy, planned_masks
from palate.server.rounds import choose_cohort, derive_seed
from palate.server.sampling import poisson_cohort
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.accounting import Budget, Cost, calibrate, epsilon_by_pld, epsilon_by_rdp, noise_multiplier
from palate.shared.coding import (
    WEIGHTS,
    decode_model,
    encode_model,
    finest_step,
    from_levels,
    sensitivity_of,
)
from palate.shared.encoder import EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.masks import MOST_DEVICES, MaskSettings
from palate.shared.noise import stream_of
from palate.shared.ring import centred, to_ring
from palate.shared.subspace import Subspace, subspace_of
from palate.shared.update import EncoderUpdate, Floats, LocalSettings
from palate.simulations.experiment import ASKED_SHARE, FOLDER, RELEASES, STRANGERS_SEED, WEAK
from palate.simulations.methods import COOLING, understand
from palate.simulations.people import make_people
from palate.simulations.population import (
    PEOPLE_SEED,
    Pool,
    Stranger,
    draw_pool,
    give_all_labels,
    meet_stranger,
)
from palate.simulations.privacy_report import (
    cohorts_of,
    mask_overhead,
    plot,
    rows_of,
    run_name,
    table_of,
)

PUBLIC_PICTURES: Final = (
    26_000_000  # the first of those that the subspace is made of: no person is shown them
)
SURVIVORS: Final = (
    0.9  # of the expected cohort: the noise is reckoned for so many, and a round of fewer does not count
)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Private:
    """Rounds with noise; `clip` is where it starts, `learning_rate`, `beta_1` and `tau` are the server's FedAdam's."""

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
    """Rounds with a noise plan; everybody takes part once in `separation` rounds. What is not said here is as in `Private`."""

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
class Experiment:
    """What a TOML file asks for; raises OptionError outside the ranges."""

    title: str
    release: str
    people: int
    strangers: int
    pictures: int
    public_pictures: int
    seeds: tuple[int, ...]
    epsilons: tuple[float, ...]
    bits: tuple[int, ...]
    private: Private
    plan: Planned
    open: Open
    few_bits: FewBits

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise OptionError(f"release is {self.release!r}; it must be one of {', '.join(RELEASES)}")
        if (
            not 1 < self.few_bits.cohort <= self.few_bits.people <= self.people
            or self.open.cohort > self.people
        ):
            raise OptionError("cohorts and few_bits.people must not be larger than people")
        if not 0 < self.private.sample_rate < 1 or self.private.sample_rate * self.people > MOST_DEVICES:
            raise OptionError(
                f"private.sample_rate is {self.private.sample_rate!r}; it must be above 0, below 1, and ask at most "
                f"{MOST_DEVICES:,} devices"
            )
        if not 1 < self.people // max(1, self.plan.separation) <= MOST_DEVICES:
            raise OptionError(
                f"plan.separation is {self.plan.separation!r}; a round must have 2 to {MOST_DEVICES:,} of the {self.people:,} people"
            )
        if not self.seeds or not all(epsilon > 0 for epsilon in (*self.epsilons, *self.plan.epsilons)):
            raise OptionError("give at least one seed, and epsilons above 0")

    @property
    def delta(self) -> float:
        """The chance that goes with every epsilon."""
        return float(self.people**-1.1)


def read_experiment(name: str) -> Experiment:
    """Reads an experiment that ships with Palate, by its name, or any TOML file.

    Raises FileFormatError for a file that is missing or of another form, OptionError for values out of range.
    """
    shipped = FOLDER / f"{name}.toml"
    path = shipped if shipped.exists() else Path(name)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise FileFormatError(
            f"{name!r} is no experiment about privacy and no TOML file; take 'privacy'"
        ) from None
    tables = {"private": Private, "plan": Planned, "open": Open, "few_bits": FewBits}
    for key, kind in tables.items():
        found[key] = _filled(kind, found.get(key), f"{path.name}: {key}")
    experiment: Experiment = _filled(Experiment, found, path.name)
    return experiment


def _filled(kind: type, found: Any, what: str) -> Any:
    names = [one.name for one in fields(kind)]
    if not isinstance(found, dict) or set(found) != set(names):
        odd = sorted(set(found) ^ set(names))[0] if isinstance(found, dict) else "everything"
        raise FileFormatError(f"{what}: {odd} is missing or unknown; the keys are {', '.join(names)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


# --- one run ------------------------------------------------------------------------------------------------------


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
    plan: PlanSettings | None = None  # of the server's noise, beside that of the devices

    @property
    def count(self) -> int:
        """How many coordinates a change has."""
        return WEIGHTS if self.subspace is None else self.subspace.count

    def masks(self, clip: float) -> MaskSettings:
        """The settings of a round with this clip."""
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
    """Returns the encoder after all rounds, and the noise multiplier that every one of them kept to at least.

    `settings` and `cohorts` give the server's settings and who is asked, by round. Without `coded` changes are averaged as they are.
    """
    encoder, memory, kept_to = release, dict[str, Floats](), math.inf
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
                total += shield(update, masks, context, source, coded.subspace)
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
    """The server's noise of a plan, and the masks that leave room for it, as `server.planned` has them."""

    def __init__(self, coded: Coded, seed: int) -> None:
        privacy = Privacy(
            clip=coded.clip,
            clip_rate=0.0,
            noise_multiplier=coded.multiplier,
            ring_bits=coded.ring_bits,
            model_bits=coded.model_bits,
            plan=coded.plan,
        )
        self.masks, self.plan = planned_masks(privacy, least=coded.least, most=coded.most, count=coded.count)
        self._state = NoiseState()
        self._seed = hashlib.sha256(f"palate privacy plan {seed}".encode()).digest()

    def add(self, total: NDArray[np.int64], cohort: Sequence[int]) -> NDArray[np.int64]:
        """Returns a round's sum with its noise; raises OptionError for a person who should rest."""
        noised, self._state = add_noise(self.plan, self._state, total, list(map(str, cohort)), self._seed)
        return noised


def _weights_of(mean: Floats, subspace: Subspace | None) -> dict[str, Floats]:
    return unflatten(mean) if subspace is None else subspace.change(mean)


def _stages(plan: Open | FewBits, seed: int) -> Callable[[int], RunSettings]:
    """The settings of `methods`: Adam whose learning rate falls."""
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
    """Rounds without masks, noise or few bits."""

    def cohorts(number: int) -> list[int]:
        return choose_cohort(range(len(people)), plan.cohort, seed, number)

    settings = _stages(plan, seed)
    return learn(release, people, settings, cohorts, seed)[0]


def learn_in_bits(
    release: EncoderWeights, people: Sequence[Labels], plan: FewBits, bits: int, seed: int
) -> EncoderWeights:
    """Rounds with all weights in so many bits (32: as they are)."""
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
    """Rounds of Poisson samples with noise; returns the encoder and the noise multiplier that was kept to."""
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
        beta_2=0.0,  # with a tau far above the mean change this is plain momentum; what noise adds to it stays noise
        tau=plan.tau,
        local=LocalSettings(alignment=plan.alignment),
    )

    def cohorts(number: int) -> list[int]:
        return poisson_cohort(range(len(people)), plan.sample_rate, coins(seed, number))

    return learn(release, people, lambda number: settings, cohorts, seed, coded)


def learn_planned(
    release: EncoderWeights,
    people: Sequence[Labels],
    plan: Planned,
    like: Private,
    subspace: Subspace,
    multiplier: float,
    seed: int,
) -> tuple[EncoderWeights, float]:
    """Rounds in which everybody takes part in turn, with a plan's noise; returns the encoder and the plan's noise multiplier."""
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

    return learn(release, people, lambda number: settings, cohorts, seed, coded)


def coins(seed: int, number: int) -> bytes:
    """Returns what decides who is drawn in a round: secret on a server, of the seed here, so that a run can be repeated."""
    return hashlib.sha256(f"palate privacy cohort {seed} {number}".encode()).digest()


# --- the experiment -----------------------------------------------------------------------------------------------


def run_experiment(experiment: Experiment, out: Path, cache: Path, tell: Tell = print) -> dict[str, Any]:
    """Runs what is not yet in `out/results.json`, which is written after each run, and returns all results."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    asked = json.loads(json.dumps(asdict(experiment)))
    results: dict[str, Any] = {"experiment": asked, "overhead": {}, "runs": {}}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if {**before["experiment"], "seeds": 0} == {**asked, "seeds": 0}:
            results |= {"runs": before["runs"], "overhead": before["overhead"]}
    for devices in sorted(set(cohorts_of(asked).values())):
        if str(devices) not in results["overhead"]:
            tell(f"a masked round of {devices} devices, for its bytes")
            results["overhead"][str(devices)] = mask_overhead(devices)

    release = load_encoder() if experiment.release == "shipped" else load_encoder(WEAK)
    pool = draw_pool(experiment.pictures, cache)
    split = round(len(pool) * (1 - ASKED_SHARE))
    shown, asked_pool = (Pool(pool.truths[p], pool.features[p]) for p in (slice(split), slice(split, None)))
    public = draw_pool(experiment.public_pictures, cache, first=PUBLIC_PICTURES).features
    subspace = subspace_of(release, public, experiment.private.rank)
    plan, delta = experiment.private, experiment.delta
    multipliers = {
        epsilon: calibrate(Budget(epsilon, delta), plan.rounds, plan.sample_rate)
        for epsilon in experiment.epsilons
    }
    names: list[tuple[str, float]] = [("release", 0), ("open", 0), ("epsilon", math.inf)]
    names += [("epsilon", epsilon) for epsilon in experiment.epsilons]
    names += [("plan", epsilon) for epsilon in experiment.plan.epsilons]
    names += [("bits", bits) for bits in (32, *experiment.bits)]
    for seed in experiment.seeds:
        missing = [one for one in names if run_name(*one, seed) not in results["runs"]]
        if not missing:
            continue
        tell(f"seed {seed}: {experiment.people:,} people give their labels")
        people = give_all_labels(
            make_people(experiment.people, PEOPLE_SEED, first=seed * experiment.people), shown, seed
        )
        new = make_people(experiment.strangers, STRANGERS_SEED, first=seed * experiment.strangers)
        strangers = [meet_stranger(person, asked_pool, seed) for person in new]
        for kind, value in missing:
            run: dict[str, Any] = {}
            with one_thread():
                encoder = release
                if kind == "open":
                    encoder = learn_openly(release, people, experiment.open, seed)
                elif kind == "bits":
                    some = people[: experiment.few_bits.people]
                    encoder = learn_in_bits(release, some, experiment.few_bits, int(value), seed)
                elif kind == "plan":
                    multiplier = calibrate(Budget(value, delta), 1)
                    encoder, kept_to = learn_planned(
                        release, people, experiment.plan, plan, subspace, multiplier, seed
                    )
                    run = spent_by([(Cost(kept_to), 1)], delta)
                elif kind == "epsilon":
                    multiplier = multipliers.get(value, 0.0)
                    encoder, kept_to = learn_privately(release, people, plan, subspace, multiplier, seed)
                    kept_to = min(kept_to, multiplier)  # where no round had enough devices, nothing was spent
                    if multiplier:
                        run = spent_by([(Cost(kept_to, plan.sample_rate), plan.rounds)], delta)
            run["accuracy"] = _accuracy(encoder, strangers)
            results["runs"][run_name(kind, value, seed)] = run
            part = path.with_suffix(".part")
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
            tell(f"{run_name(kind, value, seed)}: {run}")
    return results


def spent_by(rounds: Sequence[tuple[Cost, int]], delta: float) -> dict[str, float]:
    """Returns the noise multiplier of the first kind of rounds, and the epsilon of all by both accountants."""
    return {
        "noise_multiplier": rounds[0][0].noise_multiplier,
        "epsilon": epsilon_by_pld(rounds, delta),
        "epsilon_by_rdp": epsilon_by_rdp(rounds, delta),
    }


def _accuracy(encoder: EncoderWeights, strangers: Sequence[Stranger]) -> float:
    return round(float(understand(encoder, strangers, comments=False).mean()), 5)


def main(
    experiment: Annotated[str, typer.Argument(help="'privacy', or a TOML file.")] = "privacy",
    out: Annotated[Path, typer.Option(help="Folder for results.json and privacy.png.")] = Path("privacy-out"),
    cache: Annotated[
        Path | None, typer.Option(help="Where features of drawn pictures are kept.", show_default="OUT/cache")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
    ] = False,
) -> None:
    """Measure what privacy and few bytes cost, over virtual people."""
    from rich.console import Console

    from palate.shared.errors import PalateError

    notes = Console(stderr=True)
    try:
        asked = read_experiment(experiment)
        results = run_experiment(
            asked,
            out,
            out / "cache" if cache is None else cache,
            lambda line: notes.print(line, highlight=False),
        )
    except PalateError as error:
        notes.print(str(error), markup=False)
        raise typer.Exit(1) from None
    path = plot(results, out / "privacy.png")
    if json_:
        typer.echo(json.dumps({**results, "rows": rows_of(results)}))
        return
    Console().print(table_of(results))
    typer.echo(f"wrote {out / 'results.json'} and {path}")


if __name__ == "__main__":
    typer.run(main)
