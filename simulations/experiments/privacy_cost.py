"""What privacy and few bytes cost: accuracy against epsilon, and accuracy against bits, over virtual people.

    python -m palate.simulations.experiments.privacy_cost [EXPERIMENT] --out FOLDER [--json]

Rounds are those of `private_rounds`. Four kinds of runs are compared, on the same people:

    open       no masks, no noise, float32 both ways: Adam on all weights (`methods`)
    epsilon    Poisson sampling; a public subspace of the last layer (`shared.subspace`), clipped and
               noised for epsilon after all rounds at delta = people^-1.1, counted by `shared.accounting`;
               "none" is the same without noise
    plan       the same changes without sampling: everybody takes part in turn, and the server's noise cancels
               over the rounds (`noise_plan.correlated`), for epsilon at the same delta
    bits       all weights, cohorts as small as they are deployed, levels in a ring of so many bits up

Privacy is counted per device, one device being one person, for what the sums of all rounds tell together,
with the cohort secret. Accuracies are those of people whom nobody trained on, from 8 liked and 8 disliked
pictures (`methods.understand`). Results are written after each run, so that an experiment which was ended
goes on where it was.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from palate.client.federation.local_training import Labels
from palate.client.runtime.threads import one_thread
from palate.shared.accounting import Budget, Cost, calibrate, epsilon_by_pld, epsilon_by_rdp
from palate.shared.encoder import EncoderWeights, load_encoder
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.secure_sum.masks import MOST_DEVICES
from palate.shared.subspace import Subspace, subspace_of
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import (
    PEOPLE_SEED,
    STRANGERS_SEED,
    draw_pool,
    give_all_labels,
    meet_stranger,
)
from palate.simulations.experiments.comparison import FOLDER, RELEASES, WEAK
from palate.simulations.experiments.methods import understand
from palate.simulations.experiments.privacy_cost_report import (
    cohorts_of,
    kinds_of,
    mask_overhead,
    plot,
    rows_of,
    run_name,
    table_of,
)
from palate.simulations.experiments.private_rounds import (
    FewBits,
    Open,
    Planned,
    Private,
    learn_in_bits,
    learn_openly,
    learn_planned,
    learn_privately,
)

PUBLIC_PICTURES: Final = (
    26_000_000  # the first of those that the subspace is made of: no person is shown them
)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PrivacyExperiment:
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
                f"private.sample_rate is {self.private.sample_rate!r}; it must be above 0, below 1, and "
                "ask at most "
                f"{MOST_DEVICES:,} devices"
            )
        if not 1 < self.people // max(1, self.plan.separation) <= MOST_DEVICES:
            raise OptionError(
                f"plan.separation is {self.plan.separation!r}; a round must have 2 to {MOST_DEVICES:,} "
                f"of the {self.people:,} people"
            )
        if not self.seeds or not all(epsilon > 0 for epsilon in (*self.epsilons, *self.plan.epsilons)):
            raise OptionError("give at least one seed, and epsilons above 0")

    @property
    def delta(self) -> float:
        """The chance that goes with every epsilon."""
        return float(self.people**-1.1)


def read_privacy_experiment(name: str) -> PrivacyExperiment:
    """Read an experiment that ships with Palate, by its name, or any TOML file.

    Raises:
        FileFormatError: the file is missing or has another form.
        OptionError: a value is out of range.
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
    experiment: PrivacyExperiment = _filled(PrivacyExperiment, found, path.name)
    return experiment


def _filled(kind: type, found: Any, what: str) -> Any:
    names = [one.name for one in fields(kind)]
    if not isinstance(found, dict) or set(found) != set(names):
        odd = sorted(set(found) ^ set(names))[0] if isinstance(found, dict) else "everything"
        raise FileFormatError(f"{what}: {odd} is missing or unknown; the keys are {', '.join(names)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


# --- the experiment -----------------------------------------------------------------------------------------


def run_privacy_experiment(
    experiment: PrivacyExperiment, out: Path, cache: Path, tell: Tell = print
) -> dict[str, Any]:
    """Run what is not yet in `out/results.json` and return all results.

    Args:
        experiment: what to compare.
        out: folder of results.json, which is written after each run.
        cache: folder of pictures' features.
        tell: called with a line for each run.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    results = _read_results(path, experiment)
    for devices in sorted(set(cohorts_of(results["experiment"]).values())):
        if str(devices) not in results["overhead"]:
            tell(f"a masked round of {devices} devices, for its bytes")
            results["overhead"][str(devices)] = mask_overhead(devices)

    release = load_encoder() if experiment.release == "shipped" else load_encoder(WEAK)
    shown, asked = draw_pool(experiment.pictures, cache).split()
    public = draw_pool(experiment.public_pictures, cache, first=PUBLIC_PICTURES).features
    subspace = subspace_of(release, public, experiment.private.rank)
    kinds = kinds_of(results["experiment"])
    for seed in experiment.seeds:
        missing = [one for one in kinds if run_name(*one, seed) not in results["runs"]]
        if not missing:
            continue
        tell(f"seed {seed}: {experiment.people:,} people give their labels")
        people = give_all_labels(
            make_people(experiment.people, PEOPLE_SEED, first=seed * experiment.people), shown, seed
        )
        new = make_people(experiment.strangers, STRANGERS_SEED, first=seed * experiment.strangers)
        strangers = [meet_stranger(person, asked, seed) for person in new]
        for kind, value in missing:
            with one_thread():
                encoder, run = _learn(experiment, kind, value, release, people, subspace, seed)
            accuracy = float(understand(encoder, strangers, comments=False).mean())
            run = {**run, "accuracy": round(accuracy, 5)}
            results["runs"][run_name(kind, value, seed)] = run
            part = path.with_suffix(".part")
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
            tell(f"{run_name(kind, value, seed)}: {run}")
    return results


def _read_results(path: Path, experiment: PrivacyExperiment) -> dict[str, Any]:
    """Return what is known of an experiment.

    The runs in the file if they are of the same one, whatever its seeds.
    """
    asked = json.loads(json.dumps(asdict(experiment)))
    results: dict[str, Any] = {"experiment": asked, "overhead": {}, "runs": {}}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if {**before["experiment"], "seeds": 0} == {**asked, "seeds": 0}:
            results |= {"runs": before["runs"], "overhead": before["overhead"]}
    return results


def _learn(
    experiment: PrivacyExperiment,
    kind: str,
    value: float,
    release: EncoderWeights,
    people: Sequence[Labels],
    subspace: Subspace,
    seed: int,
) -> tuple[EncoderWeights, dict[str, float]]:
    """Return the encoder after the rounds of one kind, and what privacy they spent.

    Nothing where there was no noise.
    """
    private, delta = experiment.private, experiment.delta
    if kind == "open":
        return learn_openly(release, people, experiment.open, seed), {}
    if kind == "bits":
        some = people[: experiment.few_bits.people]
        return learn_in_bits(release, some, experiment.few_bits, int(value), seed), {}
    if kind == "plan":
        multiplier = calibrate(Budget(value, delta), 1)
        encoder, kept_to = learn_planned(
            release, people, experiment.plan, private, subspace, multiplier, seed
        )
        return encoder, spent_by([(Cost(kept_to), 1)], delta)
    if kind == "epsilon":
        if math.isinf(value):
            return learn_privately(release, people, private, subspace, 0.0, seed)[0], {}
        multiplier = calibrate(Budget(value, delta), private.rounds, private.sample_rate)
        encoder, kept_to = learn_privately(release, people, private, subspace, multiplier, seed)
        kept_to = min(kept_to, multiplier)  # where no round had enough devices, nothing was spent
        return encoder, spent_by([(Cost(kept_to, private.sample_rate), private.rounds)], delta)
    return release, {}


def spent_by(rounds: Sequence[tuple[Cost, int]], delta: float) -> dict[str, float]:
    """Return the noise multiplier of the first kind of rounds, and the epsilon of all by both accountants."""
    return {
        "noise_multiplier": rounds[0][0].noise_multiplier,
        "epsilon": epsilon_by_pld(rounds, delta),
        "epsilon_by_rdp": epsilon_by_rdp(rounds, delta),
    }


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
        asked = read_privacy_experiment(experiment)
        results = run_privacy_experiment(
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
