"""How fast virtual people learn together.

Our engine against pfl 0.6 and against Flower's own engine, and what a round costs.

    python -m benchmarks.engines [--quick]

All engines do the same work in the same run: the same people with 6 to 60 labels, rounds of 100 of them, five
local steps on the federated tensors, the same draws, plain averaging. Their final weights are compared, and
where they differ by more than rounding there is no figure. Engines take turns, and a ratio is the median over
turns of the ratio within a turn, so that a busy machine disturbs all alike; the first round of each turn
warms up and does not count. What people say is left to chance here, which changes no speed. Ours does more
than the others: messages are encoded, checked, and noted in a checkpoint as on a real server.

pfl gets an environment of its own under build/, made with uv; torch and Palate are those of the environment
that runs this. Flower is measured twice: with its own apps and loop, as its users write them, where each
round asks a quarter of the people; and with our apps and server, whose loop waits less, where everybody is
asked. Ray's start does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.rows import Row, print_rows
from palate.client.federation.contribution import no_class
from palate.client.federation.local_training import Labels
from palate.client.federation.member import answer_task
from palate.client.vault.store import MemoryStore
from palate.server.checkpoints import Checkpoint
from palate.server.releases.round_key import passing_signer
from palate.server.settings import RunSettings
from palate.shared.arrays import Float64s
from palate.shared.delegation import SIGNING_BYTES
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES, SHARED_SHAPES, flatten, load_encoder
from palate.shared.errors import FederationError
from palate.shared.update import LocalSettings
from palate.shared.wire import TASK_BYTES, UPDATE_BYTES, Task, encode_task
from palate.simulations.crowd.population import count_labels
from palate.simulations.engine.virtual_people import write_population

COMMAND = "python -m benchmarks.engines"
ROOT = Path(__file__).parent.parent
PFL = ROOT / "build" / "pfl-0.6.0"
PEOPLE = 100
STEPS = 5
RATE = 0.02  # at larger rates ReLUs switch, and rounding grows from round to round
FLOWER_PEOPLE = 400  # of whom a quarter is asked in a round
# of what was learned: float rounding grows over thirty local steps to a third of that, other work to far more
APART = 1e-3
CROWD = 10_000
SILENT = 0.3  # share of comments that name no attribute

Weights = Float64s
Engine = Callable[[], tuple[list[float], Weights]]
"""Runs all rounds; returns the seconds of each after the first, and the federated tensors at the end."""


def make_labels(count: int, rng: np.random.Generator) -> Labels:
    """Labels of one person, left to chance."""
    t = load_encoder().tensors
    features = (
        rng.standard_normal((count, PICTURE_FEATURES), np.float32) * t["feature.scale"] + t["feature.mean"]
    )
    phrases = rng.standard_normal((count, SENTENCE_FEATURES), np.float32)
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    phrases[rng.random(count) < SILENT] = 0
    return Labels(features, rng.random(count) < 0.5, phrases)


def make_crowd(count: int, seed: int) -> list[Labels]:
    """People with 6 to 60 labels each, many with few."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    return [make_labels(count_labels(draw), rng) for _ in range(count)]


def settings_for(people: int, rounds: int) -> RunSettings:
    """Return a run in which so many people take part in each round."""
    return RunSettings(
        rounds=rounds, devices=people, quorum=people, local=LocalSettings(steps=STEPS, learning_rate=RATE)
    )


def run_ours(people: Sequence[Labels], settings: RunSettings) -> tuple[list[float], Weights]:
    """Measure our engine in this process: the server's rounds over virtual people."""
    from palate.server.app import grid_devices
    from palate.server.rounds.exchange import Patience
    from palate.server.rounds.loop import run_rounds
    from palate.server.strategy import average
    from palate.simulations.engine.in_process import InProcessGrid

    devices = grid_devices(InProcessGrid(people))
    start, ends = Checkpoint(0, load_encoder(), settings), []
    for state in run_rounds(
        devices, start, average=average, patience=Patience(poll_seconds=0.0), sign=passing_signer()
    ):
        if state.metrics["used"] != settings.devices:
            raise FederationError(f"{state.metrics['used']} of {settings.devices} updates were usable")
        ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)], flatten(state.encoder.tensors).astype(float)


def run_pfl(python: Path, population: Path, settings: RunSettings) -> tuple[list[float], Weights]:
    """pfl, in its own environment, with one thread and with one for each core: whichever is faster."""
    from safetensors.numpy import load_file

    found = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "weights.safetensors"
        for threads in {1, os.cpu_count() or 1}:
            done = subprocess.run(
                [str(python), "-m", "benchmarks.engines_pfl", str(population), settings.to_json(), str(out)],
                cwd=ROOT, capture_output=True, text=True, check=False,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )  # fmt: skip
            if done.returncode:
                raise FederationError(f"pfl failed: {done.stderr.strip().splitlines()[-1:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
        return min(found, key=statistics.median), flatten(load_file(out)).astype(float)


def run_flower(population: Path, settings: RunSettings) -> tuple[list[float], Weights]:
    """Flower's simulation engine, with Flower's own apps and loop."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "weights.safetensors"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.engines_flower",
                str(population),
                settings.to_json(),
                str(out),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "FLWR_HOME": folder,
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
        )
        if done.returncode:
            raise FederationError(f"Flower failed: {done.stderr.strip().splitlines()[-1:]}")
        return json.loads(done.stdout.splitlines()[-1]), flatten(load_file(out)).astype(float)


def run_ray(people: Sequence[Labels], settings: RunSettings) -> tuple[list[float], Weights]:
    """Run our own apps under Flower's simulation engine; times come from the server's record."""
    from palate.server.metrics import read_metrics
    from palate.simulations.engine.on_ray import run_on_ray

    with tempfile.TemporaryDirectory() as folder:
        state = run_on_ray(people, settings, Path(folder))
        rounds = read_metrics(Path(folder) / "rounds.jsonl")
        if any(one["used"] != settings.devices for one in rounds):
            raise FederationError("not all updates came through Ray")
        return [float(one["seconds"]) for one in rounds[1:]], flatten(state.encoder.tensors).astype(float)


def prepare_pfl() -> Path | None:
    """Return the Python of pfl's environment, made if missing.

    None, after a line that says why, if that fails.
    """
    python = PFL / "bin" / "python"
    check = [str(python), "-c", "import pfl, torch, palate.shared.wire"]
    if python.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return python
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    same = [f"{name}=={__import__(name).__version__}" for name in ("numpy", "scipy")]
    try:
        for command in (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(PFL)],
            [uv, "pip", "install", "--quiet", "--python", str(python), "pfl==0.6.0", *same],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True)
        (place,) = PFL.glob("lib/python*/site-packages")
        # Torch and Palate from next to: the same kernels for both, and two gigabytes less to fetch.
        beside = next(Path(one) for one in sys.path if one.endswith("site-packages"))
        (place / "beside.pth").write_text(
            f"import site; site.addsitedir({str(beside)!r})\n", encoding="utf-8"
        )
        subprocess.run(check, capture_output=True, text=True, check=True)
    except (OSError, ValueError, StopIteration) as error:
        print(f"left out: pfl 0.6.0, for which no environment could be made ({error})")
        return None
    except subprocess.CalledProcessError as error:
        why = (error.stderr or "").strip().splitlines()[-1:] or ["no reason given"]
        print(f"left out: pfl 0.6.0, which could not be installed ({why[0]})")
        return None
    return python


def race(ours: Engine, theirs: Engine, people: int, turns: int, what: str) -> dict[str, Any]:
    """Devices per second of both, and the median ratio over turns.

    Raises FederationError if they learned something else.
    """
    start = flatten(load_encoder().tensors).astype(float)
    speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
    apart = learned = 0.0
    for turn in tqdm(range(turns), desc=what, mininterval=1, disable=None):
        ends = {}
        pair = (("ours", ours), ("theirs", theirs))
        for name, engine in pair if turn % 2 else reversed(pair):
            seconds, ends[name] = engine()
            speeds[name].append(people / statistics.median(seconds))
        apart = max(apart, float(np.linalg.norm(ends["ours"] - ends["theirs"])))
        learned = float(np.linalg.norm(ends["ours"] - start))
    if not apart <= APART * learned:
        raise FederationError(
            f"{what}: the final weights lie {apart:.3g} apart, {learned:.3g} from the start"
        )
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["theirs"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": [round(r, 2) for r in ratios],
        "ours_devices_per_second": [round(s, 1) for s in speeds["ours"]],
        "theirs_devices_per_second": [round(s, 2) for s in speeds["theirs"]],
        "weights_apart": apart,
        "weights_learned": learned,
        "people": people,
    }


def time_rounds(turns: int, rounds: int) -> Row:
    """In-process rounds of 100 devices."""
    people = make_crowd(PEOPLE, 1)
    settings = settings_for(PEOPLE, rounds + 1)
    run_ours(people, settings_for(PEOPLE, 1))
    cpu = time.process_time()
    seconds = [s for _ in range(turns) for s in run_ours(people, settings)[0]]
    cpu = (time.process_time() - cpu) / (turns * (rounds + 1) * PEOPLE)
    speed = PEOPLE / statistics.median(seconds)
    extra = {
        "best": round(PEOPLE / min(seconds), 1),
        "processor_milliseconds_per_device": round(1000 * cpu, 3),
        "weights": sum(math.prod(shape) for shape in SHARED_SHAPES.values()),
        "labels": round(float(np.mean([len(one) for one in people])), 1),
        "steps": settings.local.steps,
    }
    row = "in-process rounds of 100 devices, devices per second"
    return Row(row, round(speed, 1), "at least 400 on two cores", speed >= 400, COMMAND, extra)


def race_pfl(turns: int, rounds: int) -> list[Row]:
    """Ours against pfl."""
    python = prepare_pfl()
    if python is None:
        return []
    people, settings = make_crowd(PEOPLE, 1), settings_for(PEOPLE, rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        write_population(Path(folder), people, load_encoder())
        theirs = partial(run_pfl, python, Path(folder), settings)
        found = race(partial(run_ours, people, settings), theirs, PEOPLE, turns, "pfl")
    ratio = found.pop("ratio")
    row = "devices per second, ours over pfl 0.6.0"
    return [Row(row, round(ratio, 2), "at least 5", ratio >= 5, COMMAND, found)]


def race_flower(turns: int, rounds: int, people: int) -> Row:
    """Ours against Flower's simulation engine as Flower's users have it."""
    crowd, settings = make_crowd(people, 2), settings_for(PEOPLE, rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        write_population(Path(folder), crowd, load_encoder())
        theirs = partial(run_flower, Path(folder), settings)
        found = race(partial(run_ours, crowd, settings), theirs, PEOPLE, turns, "Flower on Ray")
    ratio = found.pop("ratio")
    row = "devices per second, ours over Flower's simulation engine"
    return Row(row, round(ratio, 1), "at least 50", ratio >= 50, COMMAND, {**found, "population": people})


def race_ray(turns: int, rounds: int) -> Row:
    """Measure our engine against our own apps under Flower's simulation engine."""
    crowd, settings = make_crowd(PEOPLE, 2), settings_for(PEOPLE, rounds + 1)
    theirs = partial(run_ray, crowd, settings)
    found = race(partial(run_ours, crowd, settings), theirs, PEOPLE, turns, "our apps on Ray")
    ratio = found.pop("ratio")
    row = "devices per second, ours over our own apps under Flower's simulation engine"
    return Row(row, round(ratio, 1), "above 1", ratio > 1, COMMAND, found)


def measure_memory(people: int) -> Row:
    """Return the largest memory of a process in which a crowd of people lives and rounds are held."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engines", "--crowd", str(people)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    gigabytes = found["peak_bytes"] / 1e9
    row = "memory of 10,000 virtual people in one process, GB"
    return Row(row, round(gigabytes, 3), "at most 1.5", gigabytes <= 1.5 and people == CROWD, COMMAND, found)


def live_in_memory(people: int) -> None:
    """Run a crowd for `measure_memory`.

    A crowd, three rounds of 100 of them, and the most that the process ever took.
    """
    crowd = make_crowd(people, 3)
    labels = sum(map(len, crowd))
    from palate.server.app import grid_devices
    from palate.server.rounds.exchange import Patience
    from palate.server.rounds.loop import run_rounds
    from palate.server.strategy import average
    from palate.simulations.engine.in_process import InProcessGrid

    settings = RunSettings(rounds=3, devices=PEOPLE, quorum=PEOPLE)
    devices = grid_devices(InProcessGrid(crowd))
    start = Checkpoint(0, load_encoder(), settings)
    rounds = list(
        run_rounds(
            devices, start, average=average, patience=Patience(poll_seconds=0.0), sign=passing_signer()
        )
    )
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(
        json.dumps(
            {"peak_bytes": peak, "people": people, "labels": labels, "used": rounds[-1].metrics["used"]}
        )
    )


def time_training(runs: int) -> Row:
    """Measure one device's round on one thread.

    Read the task, train on 40 labels, encode and note the update.
    """
    labels = make_labels(40, np.random.default_rng(4))
    task = encode_task(Task.for_encoder(load_encoder(), round=1, settings=LocalSettings(), seed=1))
    sent: list[bytes] = []
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        answer_task(task, lambda: labels, sent.append, store=MemoryStore(), server="nobody", pause=no_class)
        times.append(time.perf_counter() - began)
    middle = statistics.median(times)
    row = "local training on 40 labels, one round, one core, seconds"
    extra = {"first": round(times[0], 4), "worst": round(max(times), 4), "steps": LocalSettings().steps}
    return Row(row, round(middle, 4), "at most 2", max(times) <= 2 and all(sent), COMMAND, extra)


def count_bytes() -> list[Row]:
    """Return what one device receives and sends in a round, and what that would be with all its weights."""
    people = make_crowd(4, 5)
    from palate.server.app import grid_devices
    from palate.server.rounds.exchange import Patience
    from palate.server.rounds.loop import run_rounds
    from palate.server.strategy import average
    from palate.simulations.engine.in_process import InProcessGrid

    start = Checkpoint(0, load_encoder(), settings_for(4, 1))
    (state,) = run_rounds(
        grid_devices(InProcessGrid(people)),
        start,
        average=average,
        patience=Patience(poll_seconds=0.0),
        sign=passing_signer(),
    )
    down, up = (state.metrics[name] / len(people) for name in ("bytes_down", "bytes_up"))
    if (down, up) != (TASK_BYTES + SIGNING_BYTES, UPDATE_BYTES):
        raise FederationError(f"{down:.0f} and {up:.0f} bytes were sent; the wire form says otherwise")
    both = (down + up) / 1e6
    weights = count_weights(ROOT / folder for folder in ("client/weights", "shared/weights"))
    share = (down + up) / (2 * 4 * sum(weights.values()))
    return [
        Row(
            "bytes per device and round, both ways, MB",
            round(both, 4),
            "at most 2.5",
            both <= 2.5,
            COMMAND,
            {"down": down, "up": up},
        ),
        Row(
            "bytes of a round over those of all weights, trainable and frozen",
            f"1/{1 / share:.0f}",
            "at most 1/50",
            share <= 1 / 50,
            COMMAND,
            {"weights": sum(weights.values()), "by_file": weights},
        ),
    ]


def count_weights(folders: Iterable[Path]) -> dict[str, int]:
    """Return how many weights each file holds that a device is installed with."""
    from safetensors import safe_open

    found = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            found[path.relative_to(ROOT).as_posix()] = sum(
                math.prod(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
            )
    return found


def machine() -> dict[str, Any]:
    """Return what the times were taken on."""
    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_before": round(load, 2)}


def run(quick: bool = False) -> list[Row]:
    """Measures all rows.

    `quick` takes fewer turns and leaves out Ray, whose start alone takes half a minute.
    """
    about = machine()
    print(f"machine: {about}")
    rows = [time_rounds(1 if quick else 3, 3 if quick else 10)]
    rows += race_pfl(1 if quick else 9, 2 if quick else 5)
    rows += [] if quick else [race_flower(1, 4, FLOWER_PEOPLE), race_ray(1, 4)]
    rows += [measure_memory(500 if quick else CROWD), time_training(3 if quick else 15), *count_bytes()]
    return [Row(r.row, r.figure, r.bar, r.holds, r.command, {**r.extra, **about}) for r in rows]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--crowd", type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.crowd is None:
        print_rows(run(quick=a.quick))
    else:
        live_in_memory(a.crowd)


if __name__ == "__main__":
    main()
