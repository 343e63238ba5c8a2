"""One experiment on virtual people.

Which ways of learning together are worth how much, as a table, a plot and a JSON object.

    palate simulate quickstart
    palate simulate my-experiment.toml --out results --json

A TOML file says how many people there are, from which release they start, how long they learn, and which
methods are compared (`methods`). For each seed other people, other cohorts; people who judge the outcome took
part in no training, and the pictures that they are asked about were shown to nobody in the federation.
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.shared.arrays import Float32s
from palate.shared.checks import check_whole
from palate.shared.encoder import SHARED_SHAPES, TOWER_FEATURES, EncoderWeights, load_encoder
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.update import LocalSettings
from palate.shared.wire import TASK_BYTES, UPDATE_BYTES
from palate.simulations.crowd import people, population
from palate.simulations.crowd.people import make_people
from palate.simulations.crowd.population import (
    PEOPLE_SEED,
    STRANGERS_SEED,
    Pool,
    draw_pool,
    give_all_labels,
    meet_stranger,
)
from palate.simulations.experiments import methods
from palate.simulations.experiments.methods import (
    Plan,
    foresee_alike,
    train_centrally,
    train_deployed,
    train_joint,
    train_on_ray,
    understand,
)

FOLDER = Path(__file__).parent
WEAK = Path(__file__).parents[1] / "weights" / "weak-encoder.safetensors"
RELEASES: Mapping[str, Path | None] = {"weak": WEAK, "shipped": None}
BACKBONES = ("tower", "statistics")
ENGINES = ("process", "ray")
METHODS = (
    "crowd only",
    "local only",
    "FedAvg of all",
    "FedPer",
    "FedRep",
    "without words",
    "reconstruction",
    "central",
)
DEPLOYED = ("without words", "reconstruction")  # by the server and device code that is deployed
FEDERATED = ("FedAvg of all", "FedPer", "FedRep", "without words", "reconstruction")
POINTS = 8  # of a curve over rounds
CURVE_STRANGERS = 30  # people who are asked at each point of a curve
LABELS = (2, 4, 8)  # liked, and as many disliked, of the curve over labels

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much is done, and how much there is."""


@dataclass(frozen=True)
class Comparison:
    """What a TOML file asks for; raises OptionError outside the ranges."""

    title: str
    people: int
    strangers: int
    pictures: int
    rounds: int
    cohort: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    local: LocalSettings
    learning_rate: float
    release: str = "weak"
    backbone: str = "tower"  # "statistics": a tower that was never trained on anything says nothing

    def __post_init__(self) -> None:
        for name, least, most in (
            ("people", 2, 100_000),
            ("strangers", 2, 10_000),
            ("pictures", 300, 1_000_000),
            ("rounds", 4, 100_000),
            ("cohort", 2, 100_000),
        ):
            check_whole(name, getattr(self, name), least, most)
        if self.cohort > self.people:
            raise OptionError(f"cohort is {self.cohort}; it must be at most people, {self.people}")
        for name, value, known in (
            ("release", self.release, tuple(RELEASES)),
            ("backbone", self.backbone, BACKBONES),
        ):
            if value not in known:
                raise OptionError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        odd = [one for one in self.methods if one not in METHODS]
        if odd or "local only" not in self.methods:
            raise OptionError(
                f"methods are {', '.join(self.methods)}; take 'local only' and others of {', '.join(METHODS)}"
            )
        if not self.seeds or any(type(seed) is not int or not 0 <= seed < 2**31 for seed in self.seeds):
            raise OptionError(f"seeds are {list(self.seeds)!r}; give at least one whole number from 0")


def read_comparison(name: str) -> Comparison:
    """Read an experiment that ships with Palate, by its name, or any TOML file.

    Raises:
        FileFormatError: the file is missing or has another form.
        OptionError: a value is out of range.
    """
    path = FOLDER / f"{name}.toml" if name in shipped_experiments() else Path(name)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise FileFormatError(
            f"{name!r} is no experiment and no file; there are {', '.join(shipped_experiments())}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path.name} is not TOML: {error}") from None
    server, local = found.pop("server", {}), found.pop("local", {})
    known = {one.name for one in fields(Comparison)} - {"local", "learning_rate"}
    for table, keys, where in (
        (found, known, ""),
        (server, {"learning_rate"}, "server."),
        (local, {one.name for one in fields(LocalSettings)}, "local."),
    ):
        if not isinstance(table, dict):
            raise FileFormatError(f"{path.name}: [{where.rstrip('.')}] must be a table")
        unknown = sorted(set(table) - keys)
        if unknown:
            raise FileFormatError(
                f"{path.name} has the unknown key {where}{unknown[0]}; there are {', '.join(sorted(keys))}"
            )
    missing = sorted(known - set(found) - {"release", "backbone"})
    if missing:
        raise FileFormatError(f"{path.name} lacks the key {missing[0]}")
    for key in ("seeds", "methods"):
        if not isinstance(found[key], list):
            raise FileFormatError(f"{path.name}: {key} must be a list")
        found[key] = tuple(found[key])
    rate = server.get("learning_rate", 0.001)
    if not isinstance(rate, int | float) or not 1e-6 <= rate <= 10:
        raise OptionError(f"server.learning_rate is {rate!r}; it must be a number from 0.000001 to 10")
    return Comparison(**found, local=LocalSettings(**local), learning_rate=float(rate))


def shipped_experiments() -> list[str]:
    """Return the names of the shipped comparisons; files without methods belong to other commands."""
    found = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.toml")}
    return sorted(name for name, content in found.items() if "methods" in content)


@dataclass(frozen=True)
class MethodOutcome:
    """One method with one seed: accuracies in [0, 1], mean over strangers."""

    accuracy: float  # from 8 + 8 verdicts
    with_comments: float  # from 8 + 8 verdicts with comments
    by_round: tuple[tuple[int, float], ...]
    by_labels: tuple[tuple[int, float], ...]
    devices_per_second: float | None
    checksum: str


@dataclass(frozen=True)
class Results:
    """All outcomes, by method and in the order of the seeds."""

    experiment: Comparison
    outcomes: Mapping[str, Sequence[MethodOutcome]]

    def gap_closed(self, what: str = "accuracy") -> list[float]:
        """For each seed: the share of the gap between local only and central that reconstruction closes.

        Empty where there is none.
        """
        if not {"central", "reconstruction"} <= set(self.outcomes):
            return []
        three = [
            [getattr(one, what) for one in trio]
            for trio in zip(
                *(self.outcomes[m] for m in ("local only", "reconstruction", "central")), strict=True
            )
        ]
        if any(high <= low for low, _, high in three):  # no gap to close
            return []
        return [(ours - low) / (high - low) for low, ours, high in three]

    def to_json(self) -> dict[str, Any]:
        """Return one object: methods, the gap closed, speed, and a checksum of all final weights."""
        methods = {}
        for name, outcomes in self.outcomes.items():
            mean, low, high = interval([one.accuracy for one in outcomes])
            said = interval([one.with_comments for one in outcomes])
            methods[name] = {
                "accuracy": mean,
                "low": low,
                "high": high,
                "accuracy_with_comments": said[0],
                "low_with_comments": said[1],
                "high_with_comments": said[2],
                "bytes_per_device_round": TASK_BYTES + UPDATE_BYTES if name in FEDERATED else 0,
                "by_round": [list(point) for point in outcomes[0].by_round],
                "by_labels": [list(point) for point in outcomes[0].by_labels],
            }
        speeds = [
            o.devices_per_second for o in self.outcomes.get("reconstruction", []) if o.devices_per_second
        ]
        sums = "".join(one.checksum for outcomes in self.outcomes.values() for one in outcomes)
        gap, said_gap = self.gap_closed(), self.gap_closed("with_comments")
        return {
            "title": self.experiment.title,
            "seeds": list(self.experiment.seeds),
            "methods": methods,
            "gap_closed": interval(gap)[0] if gap else None,
            "gap_closed_interval": list(interval(gap)[1:]) if gap else None,
            "gap_closed_with_comments": interval(said_gap)[0] if said_gap else None,
            "devices_per_second": round(float(np.mean(speeds)), 1) if speeds else None,
            "checksum": hashlib.sha256(sums.encode()).hexdigest(),
        }


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over seeds and its 95 % interval (Student's t); of one value, the value alone."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return round(mean, 4), round(mean, 4), round(mean, 4)
    reach = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return round(mean, 4), round(mean - reach, 4), round(mean + reach, 4)


def run_comparison(
    experiment: Comparison, cache: Path, progress: Progress, engine: str = "process"
) -> Results:
    """Run all methods with all seeds.

    Args:
        experiment: what to compare.
        cache: keeps features of pictures and what each method reached with each seed, so a run that was
            stopped goes on.
        progress: called with what is being done, how much is done, and how much there is.
        engine: what runs the deployed code (reconstruction, with and without words): "process", or "ray" for
            Flower's own simulation engine, which can use many machines. The other methods always run here.

    Raises:
        OptionError: the engine is unknown or not installed.
    """
    if engine not in ENGINES:
        raise OptionError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")
    if engine == "ray" and find_spec("ray") is None:
        raise OptionError("the engine ray is not installed; install it with: pip install 'palate[simulate]'")
    drawn = 0

    def draw(count: int) -> None:
        nonlocal drawn
        drawn += count
        progress("drawing pictures", drawn, experiment.pictures)

    release = load_encoder() if experiment.release == "shipped" else load_encoder(WEAK)
    pool = draw_pool(experiment.pictures, cache, draw)
    if experiment.backbone == "statistics":
        pool = _without_tower(pool, release)
    shown, asked = pool.split()
    outcomes: dict[str, list[MethodOutcome]] = {name: [] for name in experiment.methods}
    total = len(experiment.seeds) * len(experiment.methods)
    for number, seed in enumerate(experiment.seeds):
        people = give_all_labels(
            make_people(experiment.people, PEOPLE_SEED, first=number * experiment.people), shown, seed
        )
        new = make_people(experiment.strangers, STRANGERS_SEED, first=number * experiment.strangers)
        strangers = [meet_stranger(person, asked, seed) for person in new]
        for place, name in enumerate(experiment.methods):
            done = number * len(experiment.methods) + place
            what = f"{name}, seed {seed}"

            def tell(share: float, what: str = what, done: int = done) -> None:
                progress(what, done + share, total)

            tell(0.0)
            kept = cache / f"outcome-{_digest(experiment, name, seed, number, engine)}.json"
            outcome = _read_outcome(kept)
            if outcome is None:
                outcome = _try_method(name, experiment, release, people, strangers, seed, tell, engine)
                kept.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
            outcomes[name].append(outcome)
    progress("done", total, total)
    return Results(experiment, outcomes)


def _digest(experiment: Comparison, method: str, seed: int, number: int, engine: str) -> str:
    """Return a name for one outcome, the same for the same work."""
    work = asdict(replace(experiment, title="", methods=("local only",), seeds=(seed,)))
    if engine != "process" and method in DEPLOYED:
        work["engine"] = engine
    code = hashlib.sha256()
    for module in (methods, population, people):
        code.update(Path(str(module.__file__)).read_bytes())
    code.update(Path(__file__).read_bytes())
    return hashlib.sha256(f"{json.dumps(work)} {method} {number} {code.hexdigest()}".encode()).hexdigest()[
        :24
    ]


def _read_outcome(path: Path) -> MethodOutcome | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found |= {key: tuple(map(tuple, found[key])) for key in ("by_round", "by_labels")}
        return MethodOutcome(**found)
    except (OSError, ValueError, TypeError, KeyError):  # none, or cut short by a kill
        return None


def _try_method(
    name: str,
    experiment: Comparison,
    release: EncoderWeights,
    people: Sequence[Any],
    strangers: Sequence[Any],
    seed: int,
    tell: Callable[[float], None],
    engine: str,
) -> MethodOutcome:
    local = experiment.local if name != "without words" else replace(experiment.local, alignment=0.0)
    plan = Plan(experiment.rounds, experiment.cohort, experiment.learning_rate, local, seed)
    few = strangers[:CURVE_STRANGERS]
    at = {max(1, round(experiment.rounds * (i + 1) / POINTS)) for i in range(POINTS)}
    by_round: list[tuple[int, float]] = []
    shared_head: list[Float32s | None] = [None]
    asking = 0.0

    def ask(encoder: EncoderWeights, head: Float32s | None, who: Sequence[Any]) -> NDArray[Any]:
        return understand(encoder, who, comments=False) if head is None else foresee_alike(encoder, head, who)

    def watch(number: int, encoder: EncoderWeights, head: Float32s | None) -> None:
        nonlocal asking
        shared_head[0] = head
        tell(number / experiment.rounds)
        if number in at:
            began = time.monotonic()
            by_round.append((number, round(float(ask(encoder, head, few).mean()), 4)))
            asking += time.monotonic() - began

    began = time.monotonic()
    encoder = release
    if name in DEPLOYED:
        train = train_on_ray if engine == "ray" else train_deployed
        encoder = train(release, people, plan, watch)
    elif name == "central":
        encoder = train_centrally(release, people, plan, watch)
    elif name in FEDERATED:
        short = {"FedAvg of all": "fedavg", "FedPer": "fedper", "FedRep": "fedrep"}[name]
        encoder = train_joint(release, people, plan, watch, method=short)
    seconds = time.monotonic() - began - asking
    if not by_round:  # nobody learned: the same all along
        level = round(
            float(understand(encoder, few, comments=False, labels=0 if name == "crowd only" else 8).mean()), 4
        )
        by_round += [(1, level), (experiment.rounds, level)]
    given = 0 if name == "crowd only" else 8
    head = shared_head[0]
    plain = (
        ask(encoder, head, strangers) if given else understand(encoder, strangers, comments=False, labels=0)
    )
    said = plain if head is not None or not given else understand(encoder, strangers, comments=True)
    by_labels = [
        (n, float(understand(encoder, few, comments=False, labels=n).mean()))
        for n in (LABELS if given and head is None else ())
    ]
    digest = hashlib.sha256(b"".join(encoder.tensors[n].tobytes() for n in SHARED_SHAPES)).hexdigest()
    return MethodOutcome(
        round(float(plain.mean()), 4),
        round(float(said.mean()), 4),
        tuple(by_round),
        tuple((n, round(a, 4)) for n, a in by_labels),
        experiment.rounds * experiment.cohort / seconds if name in FEDERATED else None,
        digest,
    )


def _without_tower(pool: Pool, release: EncoderWeights) -> Pool:
    features = pool.features.copy()
    features[:, :TOWER_FEATURES] = release.tensors["feature.mean"][:TOWER_FEATURES]
    return Pool(pool.truths, features)


def write_results(results: Results, out: Path) -> list[Path]:
    """Write results.json and plots.png into a folder and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    path.write_text(json.dumps(results.to_json(), indent=1) + "\n", encoding="utf-8")
    return [path, plot(results, out / "plots.png")]


def plot(results: Results, path: Path) -> Path:
    """Draw accuracy against rounds, against labels, and against bytes sent."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (by_round, by_labels, by_bytes) = plt.subplots(1, 3, figsize=(15, 4.9), sharey=True)
    experiment = results.experiment
    colours = dict(zip(METHODS, plt.colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    for name, outcomes in results.outcomes.items():
        style = {"color": colours[name], "label": name, "linewidth": 2.6 if name == "reconstruction" else 1.4}
        style["linestyle"] = "-" if name in FEDERATED else "--"
        rounds = [number for number, _ in outcomes[0].by_round]
        mean = np.mean([[a for _, a in one.by_round] for one in outcomes], 0)
        by_round.plot(rounds, mean, marker="o", markersize=3, **style)
        if name in FEDERATED:
            each = (TASK_BYTES + UPDATE_BYTES) * experiment.cohort / experiment.people / 1e6
            by_bytes.plot([n * each for n in rounds], mean, marker="o", markersize=3, **style)
        if outcomes[0].by_labels:
            labels = [2 * number for number, _ in outcomes[0].by_labels]
            mean = np.mean([[a for _, a in one.by_labels] for one in outcomes], 0)
            by_labels.plot(labels, mean, marker="o", markersize=3, **style)
    by_round.set(xlabel="round", ylabel="pairwise accuracy, people not trained on")
    by_labels.set(xlabel="verdicts known of the person")
    by_bytes.set(xlabel="megabytes per device, both ways")
    for axes in (by_round, by_labels, by_bytes):
        axes.grid(alpha=0.3)
    figure.suptitle(experiment.title, fontsize=10)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.legend(*by_round.get_legend_handles_labels(), loc="lower center", ncols=len(METHODS), fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
