"""What an experiment about privacy found, as rows, a table and a plot; and what travels in its rounds.

Where it stands in the flow: `privacy_cost` runs the experiment and keeps accuracies by the name of the run;
this module sets them against their baselines and adds the bytes, which are those of the wire forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.server.secure_sum.privacy import Privacy
from palate.shared.coding import model_bytes
from palate.shared.encoder import HIDDEN, SHARED_WEIGHTS, TASTE
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.ring import packed_bytes
from palate.shared.update import LocalSettings
from palate.shared.wire import TASK_BYTES, UPDATE_BYTES

if TYPE_CHECKING:
    from rich.table import Table


def run_name(kind: str, value: float, seed: int) -> str:
    """Return the name under which a run's results are kept."""
    return f"{kind} {value:g}, seed {seed}"


def mask_overhead(devices: int) -> dict[str, float]:
    """Return the bytes per device of a masked round without its vector, by running one over zeros."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from palate.client.federation.masked_round import MaskedRound
    from palate.server.secure_sum.unmasking import MaskedSum
    from palate.shared.secure_sum.messages import Invitation, encode_invitation, masked_bytes

    masks, count = MaskSettings(threshold_share=Privacy().threshold_share), 8
    invitation = encode_invitation(Invitation(1, 0, "00" * 32, 1, LocalSettings(), masks, b""))
    ours = [MaskedRound(invitation, identity=Ed25519PrivateKey.generate()) for _ in range(devices)]
    server = MaskedSum(invitation, masks, count)
    adverts = {n: one.advert() for n, one in enumerate(ours)}
    roster, _ = server.adverts(adverts)
    shares = {n: one.shares(roster) for n, one in enumerate(ours)}
    deliveries, _ = server.shares(shares)
    zeros = np.zeros(count, np.int64)
    masked = {n: one.masked(deliveries[n], zeros) for n, one in enumerate(ours)}
    unmask, _ = server.masked(masked)
    asked, endorsed = [unmask], dict[int, bytes]()
    if server.sparse:
        endorsed = {n: one.endorsed(unmask) for n, one in enumerate(ours)}
        asked.append(server.endorsed(endorsed)[0])
    revealed = {n: one.revealed(asked[-1]) for n, one in enumerate(ours)}
    total, survivors = server.revealed(revealed)
    if survivors != devices or total.any():
        raise RuntimeError("the masks of a round over nothing did not cancel")
    vector = packed_bytes(count, masks.ring_bits)
    up = (
        sum(len(data) for sent in (adverts, shares, masked, endorsed, revealed) for data in sent.values())
        / devices
        - vector
    )
    down = len(invitation) + len(roster) + sum(map(len, deliveries.values())) / devices + sum(map(len, asked))
    if masked_bytes(count, masks.ring_bits) < vector:
        raise RuntimeError("a masked vector is shorter than its ring values")
    return {"devices": devices, "up": up, "down": down}


def kinds_of(experiment: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the kinds of runs that an experiment compares, each with its epsilon or its bits."""
    kinds: list[tuple[str, float]] = [("release", 0), ("open", 0), ("epsilon", math.inf)]
    kinds += [("epsilon", float(epsilon)) for epsilon in experiment["epsilons"]]
    kinds += [("plan", float(epsilon)) for epsilon in experiment["plan"]["epsilons"]]
    return kinds + [("bits", float(bits)) for bits in (32, *experiment["bits"])]


def cohorts_of(experiment: Mapping[str, Any]) -> dict[str, int]:
    """Return how many devices a masked round has, on average, by kind of run."""
    expected = round(experiment["private"]["sample_rate"] * experiment["people"])
    in_turn = experiment["people"] // experiment["plan"]["separation"]
    return {"epsilon": expected, "plan": in_turn, "bits": experiment["few_bits"]["cohort"]}


def bytes_of(results: Mapping[str, Any], kind: str, value: float) -> tuple[float, float]:
    """Return the bytes per device and round, down and up, with keys, shares and roster if there are masks."""
    experiment = results["experiment"]
    if kind in ("open", "release") or (kind, value) == ("bits", 32):
        return TASK_BYTES, UPDATE_BYTES
    over = results["overhead"][str(cohorts_of(experiment)[kind])]
    private = experiment["private"]
    if kind == "bits":
        down = model_bytes(experiment["few_bits"]["model_bits"])
        return down + over["down"], packed_bytes(SHARED_WEIGHTS + 1, int(value)) + over["up"]
    down = model_bytes(private["model_bits"], TASTE * (HIDDEN + 1))  # the other rows stay as in the release
    return down + over["down"], packed_bytes(TASTE * private["rank"] + 1, private["ring_bits"]) + over["up"]


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each kind of run: mean accuracy, and the paired difference to its baseline.

    Runs with noise are set against the better of the runs that have none: open, and the same rounds without
    the noise.
    """
    experiment, runs = results["experiment"], results["runs"]
    rows = []
    without_noise = max((("open", 0.0), ("epsilon", math.inf)), key=lambda one: _mean_accuracy(results, *one))
    for kind, value in kinds_of(experiment):
        baseline: tuple[str, float] = ("bits", 32.0) if kind == "bits" else ("open", 0)
        noised = kind == "plan" or (kind == "epsilon" and math.isfinite(value))
        if noised:
            baseline = without_noise
        seeds = [
            s
            for s in experiment["seeds"]
            if all(run_name(*one, s) in runs for one in ((kind, value), baseline))
        ]
        if not seeds:
            continue
        found = np.array([runs[run_name(kind, value, s)]["accuracy"] for s in seeds])
        gap = found - np.array([runs[run_name(*baseline, s)]["accuracy"] for s in seeds])
        down, up = bytes_of(results, kind, value)
        row: dict[str, Any] = {
            "kind": kind,
            "value": value if math.isfinite(value) else None,
            "seeds": len(seeds),
        }
        row |= {
            "accuracy": float(found.mean()),
            "difference": float(gap.mean()),
            "half_width": _half_width(gap),
        }
        row |= {"bytes_down": down, "bytes_up": up, "times_fewer": (TASK_BYTES + UPDATE_BYTES) / (down + up)}
        if noised:
            each = [runs[run_name(kind, value, s)] for s in seeds]
            row |= {name: max(one[name] for one in each) for name in ("epsilon", "epsilon_by_rdp")}
            row["noise_multiplier"] = min(one["noise_multiplier"] for one in each)
        rows.append(row)
    return rows


def _mean_accuracy(results: Mapping[str, Any], kind: str, value: float) -> float:
    """Return the mean over the seeds that were run; below every accuracy where none was."""
    names = (run_name(kind, value, seed) for seed in results["experiment"]["seeds"])
    found = [results["runs"][name]["accuracy"] for name in names if name in results["runs"]]
    return float(np.mean(found)) if found else -1.0


def _half_width(values: np.ndarray[Any, Any]) -> float | None:
    """Return half of a 95 % interval of the mean, by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def table_of(results: Mapping[str, Any]) -> Table:
    """Return the table of all rows."""
    from rich.table import Table

    experiment = results["experiment"]
    cohorts = cohorts_of(experiment)
    caption = (
        "pairwise accuracy on people that nobody trained on; epsilon per device at delta = "
        f"{experiment['people']:,}^-1.1; "
        f"bytes with keys, shares and roster of cohorts of {cohorts['epsilon']} (epsilon), "
        f"{cohorts['plan']} (noise plan) and "
        f"{cohorts['bits']} (bits)"
    )
    table = Table(title=experiment["title"], caption=caption)
    for title in (
        "run",
        "accuracy",
        "points from baseline (95 %)",
        "epsilon: tight, by RDP",
        "kB down",
        "kB up",
        "fewer",
    ):
        table.add_column(title, justify="left" if title == "run" else "right")
    for row in rows_of(results):
        value = row["value"]
        name = {"release": "the release", "open": "open, all weights", "bits": f"{value or 0:g} bits"}.get(
            row["kind"], "no noise" if value is None else f"epsilon {value:g}"
        )
        if row["kind"] == "plan":
            name = f"plan, epsilon {value:g}"
        spread = "" if row["half_width"] is None else f" ± {100 * row['half_width']:.1f}"
        spent = f"{row['epsilon']:.3f}, {row['epsilon_by_rdp']:.3f}" if "epsilon" in row else ""
        table.add_row(
            name,
            f"{row['accuracy']:.4f}",
            f"{100 * row['difference']:+.1f}{spread}",
            spent,
            f"{row['bytes_down'] / 1000:.0f}",
            f"{row['bytes_up'] / 1000:.0f}",
            f"{row['times_fewer']:.1f} ×",
        )
    return table


def plot(results: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy against epsilon and against bytes per device and round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = rows_of(results)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    noised = [row for row in rows if row["kind"] == "epsilon" and row["value"] is not None]
    left.plot(
        [r["value"] for r in noised], [r["accuracy"] for r in noised], marker="o", label="with noise, sampled"
    )
    planned = [row for row in rows if row["kind"] == "plan"]
    left.plot(
        [r["value"] for r in planned],
        [r["accuracy"] for r in planned],
        marker="s",
        color="C4",
        label="with a noise plan, not sampled",
    )
    lines = [
        ("no noise", "epsilon", "--"),
        ("open, all weights", "open", "-"),
        ("the release", "release", ":"),
    ]
    for place, (label, kind, style) in enumerate(lines, 1):
        for row in rows:
            if row["kind"] == kind and (kind != "epsilon" or row["value"] is None):
                left.axhline(row["accuracy"], linestyle=style, color=f"C{place}", label=label)
    left.set_xscale("log", base=2)
    left.set_xticks([row["value"] for row in noised], [f"{row['value']:g}" for row in noised])
    left.set(xlabel="epsilon per device, all rounds", ylabel="pairwise accuracy, people not trained on")
    for kind, label in (
        ("bits", "all weights, few bits"),
        ("epsilon", "subspace, with noise"),
        ("open", "open"),
    ):
        points = [row for row in rows if row["kind"] == kind]
        sizes = [(row["bytes_down"] + row["bytes_up"]) / 1000 for row in points]
        right.plot(sizes, [row["accuracy"] for row in points], marker="o", linestyle="", label=label)
        for row, size in zip(points, sizes, strict=True):
            named = "" if kind == "open" else "no noise" if row["value"] is None else f"{row['value']:g}"
            right.annotate(
                named, (size, row["accuracy"]), textcoords="offset points", xytext=(5, 4), fontsize=8
            )
    right.set(xlabel="kilobytes per device and round, both ways")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(results["experiment"]["title"], fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
