"""How long things take on this machine: a picture, a comment, scoring, and a cold start.

    python -m benchmarks.speed

The bars are seconds on two cores; cores, threads and the load that the machine already had stand next to each
figure. What personalization costs is a ratio, and measured by `personalization_cost`.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.rows import Row, print_rows
from palate.simulations.crowd.people import make_people, sample_shown, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.world.render import render

COMMAND = "python -m benchmarks.speed"
FIRST = 20_400_000
LIKES = (("vibrant", 0.9), ("watercolour", 0.8), ("golden hour", 0.6), ("flowing lines", 0.6), ("calm", 0.4))
DISLIKES = (("dark", 0.9), ("grainy", 0.6), ("busy", 0.5))
PROMPT = "a house by the sea"


def clock(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Return what the times were taken on."""
    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.machine(),
        "device": "cuda" if torch.cuda.is_available() else "cpu", "load_before": round(load, 2),
    }  # fmt: skip


def shown_pictures(count: int) -> list[tuple[bytes, str, bool]]:
    """PNG files, comments and verdicts of one virtual person on rendered pictures."""
    person = make_people(1, FIRST)[0]
    rng = random.Random(FIRST)
    out = []
    for number in range(FIRST, FIRST + count):
        truth = sample_shown(rng)
        liked = verdict(person, truth, rng)
        buffer = io.BytesIO()
        Image.fromarray(render(truth, number)).save(buffer, "PNG")
        out.append((buffer.getvalue(), comment(person, truth, liked, rng).text, liked))
    return out


def time_start(runs: int) -> Row:
    """`palate profile` from a cold shell, on a vault with comments in it."""
    from palate.client.device import Device

    palate = shutil.which(
        "palate", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if palate is None:
        raise FileNotFoundError("the command palate is not installed; run make setup")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "vault"
        with Device.init(home, "benchmark") as device:
            for picture, text, liked in shown_pictures(8):
                device.teach(picture, text, liked)
        environment = {**os.environ, "PALATE_HOME": str(home), "PALATE_PASSPHRASE": "benchmark"}

        def start() -> None:
            subprocess.run([palate, "profile", "--json"], env=environment, capture_output=True, check=True)

        times = [clock(start) for _ in tqdm(range(runs), desc="palate profile", mininterval=1, disable=None)]
    middle = statistics.median(times)
    return Row(
        "start of `palate profile`, seconds",
        round(middle, 3),
        "at most 1.5",
        middle <= 1.5,
        COMMAND,
        {"all": _short(times)},
    )


def time_teach(runs: int) -> Row:
    """Measure one comment in a warm process: read the picture, understand the words, seal both."""
    from palate.client.device import Device

    lessons = shown_pictures(runs + 2)
    with tempfile.TemporaryDirectory() as folder, Device.init(Path(folder) / "vault", "benchmark") as device:
        times = [
            clock(lambda one=one: device.teach(*one))  # type: ignore[misc]
            for one in tqdm(lessons, desc="teach", mininterval=1, disable=None)
        ][2:]
    middle, worst = statistics.median(times), max(times)
    extra = {"worst": round(worst, 3), "all": _short(times)}
    return Row(
        "teach of one comment, warm, seconds", round(middle, 3), "at most 0.3", middle <= 0.3, COMMAND, extra
    )


def time_reading(runs: int) -> list[Row]:
    """Measure the reader alone: processor time of a comment in a warm process, and the memory it adds."""
    from palate.client.reader.extractor import extract_attributes

    before = resident_megabytes()
    extract_attributes("I love the soft light, but it looks like wet cardboard to me.", None)
    added = resident_megabytes() - before
    comments = [text for _, text, _ in shown_pictures(20)]
    started = time.process_time()
    for _ in range(runs):
        for text in comments:
            extract_attributes(text, None)
    each = (time.process_time() - started) / (runs * len(comments)) * 1000
    return [
        Row("reading a comment, warm, ms of one core", round(each, 2), "at most 10", each <= 10, COMMAND),
        Row("memory of the reader, MB", round(added, 1), "at most 80", added <= 80, COMMAND),
    ]


def resident_megabytes() -> float:
    """Return the memory that this process holds now, on Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def time_evaluator(pictures: int, runs: int) -> Row:
    """Fitting the evaluator to 16 verdicts and scoring 100 pictures, the look at each of them included."""
    from palate.client.eye.tower import picture_features
    from palate.client.taste.evaluator import fit_evaluator
    from palate.shared.encoder import load_encoder

    shown = [
        (Image.open(io.BytesIO(data)).convert("RGB"), liked)
        for data, _, liked in shown_pictures(pictures + 16)
    ]
    encoder = load_encoder()
    features = picture_features([picture for picture, _ in shown[:16]])
    liked = np.array([like for _, like in shown[:16]])

    def work() -> None:
        evaluator = fit_evaluator(
            encoder, features[liked], features[~liked], tastes=dict(LIKES) | {a: -s for a, s in DISLIKES}
        )
        evaluator.score(picture_features([picture for picture, _ in shown[16:]]))

    work()
    times = [clock(work) for _ in tqdm(range(runs), desc="evaluator", mininterval=1, disable=None)]
    middle = statistics.median(times)
    row = f"evaluator fit plus scoring {pictures} pictures, seconds"
    return Row(row, round(middle, 3), "at most 1.5", middle <= 1.5, COMMAND, {"all": _short(times)})


def time_pictures(runs: int) -> list[Row]:
    """Measure one personal picture at 20 and at 8 steps, in the default mode."""
    from palate.client.painter.generator import DEFAULT_MODE, Request, load_generator

    generator = load_generator()

    def personal(steps: int) -> Callable[[], object]:
        request = Request(PROMPT, steps=steps, likes=LIKES, dislikes=DISLIKES, seed=FIRST)
        return lambda: generator.generate(request)

    works = {name: personal(steps) for name, steps in (("twenty", 20), ("eight", 8))}
    works["impersonal"] = lambda: generator.generate(Request(PROMPT, seed=FIRST))
    works["four"] = lambda: generator.generate(
        Request(PROMPT, count=4, likes=LIKES, dislikes=DISLIKES, seed=FIRST)
    )
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in tqdm(range(runs), desc="pictures", mininterval=1, disable=None):
        for name, work in works.items():
            times[name].append(clock(work))
    middle = {name: statistics.median(some) for name, some in times.items()}
    extra = {"mode": DEFAULT_MODE, **{f"{name}_seconds": round(value, 3) for name, value in middle.items()}}
    extra["of_four_seconds"] = round(extra.pop("four_seconds") / 4, 3)
    # Another program that keeps a core busy, as machines of people have.
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name, drawn, pictures in (("one", "twenty", 1), ("of_four", "four", 4)):
            seconds = statistics.median(clock(works[drawn]) for _ in range(runs)) / pictures
            extra[f"{name}_beside_a_busy_loop_seconds"] = round(seconds, 3)
    finally:
        busy.kill()
        busy.wait()
    twenty, eight = middle["twenty"], middle["eight"]
    return [
        Row("one 20-step picture, seconds", round(twenty, 3), "at most 2.0", twenty <= 2.0, COMMAND, extra),
        Row("one 8-step picture, seconds", round(eight, 3), "at most 0.9", eight <= 0.9, COMMAND, extra),
    ]


def _short(times: Sequence[float]) -> list[float]:
    return [round(t, 3) for t in times]


def run(quick: bool = False) -> list[Row]:
    """Measures all rows; `quick` takes fewer turns."""
    about = machine()
    print(f"machine: {about}")
    rows = [
        *time_reading(2 if quick else 10),  # first, while nothing else has loaded the reader
        time_start(2 if quick else 7),
        time_teach(3 if quick else 12),
        time_evaluator(100, 1 if quick else 5),
    ]
    rows += time_pictures(2 if quick else 15)
    return [Row(r.row, r.figure, r.bar, r.holds, r.command, {**r.extra, **about}) for r in rows]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    a = p.parse_args()
    print_rows(run(quick=a.quick))


if __name__ == "__main__":
    main()
