"""What could be rebuilt of a person from what leaves the device: raw, masked, and summed with noise.

    python -m benchmarks.leaks [--quick] [--out FILE]

The attacks are those of `simulations.attacks.leaks`. Raw changes are the positive control: an attack that
fails there says nothing. What chance alone finds is measured with the same candidates against people whom the
vector has nothing to do with. Masked vectors are made by the device's own code for levels and by the ring's
key stream, sums by the server's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.rows import Row, print_rows
from palate.client.federation.local_training import Labels, train_locally, train_together
from palate.client.federation.privatize import privatize
from palate.client.runtime.threads import one_thread
from palate.shared.arrays import Float32s, Float64s
from palate.shared.coding import finest_step, from_levels
from palate.shared.encoder import (
    ATTRIBUTE_NAMES,
    EncoderWeights,
    encoder_hash,
    flatten,
    load_encoder,
    standardize,
)
from palate.shared.noise import stream_of
from palate.shared.secure_sum.ring import centred, mask_of, to_ring
from palate.shared.update import EncoderUpdate, LocalSettings
from palate.simulations.attacks.leaks import best_cosines, infer_preferences, invert_layer, match_gradient
from palate.simulations.crowd.people import Person, make_people
from palate.simulations.crowd.population import Pool, draw_pool, give_labels

COMMAND = "python -m benchmarks.leaks"
RING_BITS, COHORT = 16, 50
SEED = 5001  # of the attacked people: strangers to all recipes and experiments
ROUND_SEED = 77
LABELS = 24
CONTEXT = hashlib.sha256(b"leaks").digest()


def make_settings(clip: float, noise_multiplier: float, ring_bits: int = RING_BITS) -> SimpleNamespace:
    """Return the grid of a round with a cohort's worth of noise, as the server would choose it."""
    step, noise = finest_step(ring_bits, COHORT, clip=clip, noise_multiplier=noise_multiplier)
    return SimpleNamespace(step=step, clip=clip, noise=noise)


def label_people(people: Sequence[Person], pool: Pool, count: int) -> list[Labels]:
    """`count` labels of everybody."""
    import random

    return [give_labels(one, pool, count, random.Random(f"leaks {one.seed} {one.id}")) for one in people]


def train_all(encoder: EncoderWeights, people: Sequence[Labels]) -> Float32s:
    """Return everybody's raw change after one local step, (people, d)."""
    with one_thread():
        found = dict(train_together(encoder, people, LocalSettings(), [ROUND_SEED] * len(people)))
    return np.stack([flatten(found[place]) for place in range(len(people))])


def shield_all(encoder: EncoderWeights, changes: Float32s, settings: Any) -> NDArray[np.int64]:
    """Return everybody's noised levels by the device's own code, (people, d + 1)."""
    from palate.shared.encoder import unflatten

    base = encoder_hash(encoder)
    bar = tqdm(changes, desc="shielding", unit="device", mininterval=5, disable=None)
    return np.stack(
        [
            privatize(
                EncoderUpdate(base, 1, unflatten(one)), settings, CONTEXT, stream_of(_key("noise", place))
            )
            for place, one in enumerate(bar)
        ]
    )


def masked_all(levels: NDArray[np.int64], settings: Any) -> Float32s:
    """Return what a server makes of each device's masked vector alone, (people, d)."""
    rows = []
    for place, one in enumerate(levels):
        ring = to_ring(one, RING_BITS)
        ring = ring + mask_of(_key("mask", place), len(one), RING_BITS)
        rows.append(_seen(centred(ring & ring.dtype.type(2**RING_BITS - 1), RING_BITS), 1, settings))
    return np.stack(rows)


def _seen(total: NDArray[np.int64], devices: int, settings: Any) -> Float32s:
    mean, _ = from_levels(total, devices, step=settings.step, clip=settings.clip, seed=CONTEXT)
    return mean


def _key(purpose: str, place: int) -> bytes:
    return hashlib.sha256(f"leaks {purpose} {place}".encode()).digest()


# --- inputs -------------------------------------------------------------------------------------------------


def rebuild(
    vectors: Float32s, truths: Sequence[Float32s], attack: Callable[[int, Float32s], Float32s]
) -> dict[str, float]:
    """Return how near an attack comes to each person's rows, and to everybody else's.

    The figure of a person is the mean over rows of the best cosine; of chance the mean and the 99th
    percentile over all pairs of a vector with another person. `attack` gets a person's place and vector and
    returns candidates.
    """
    own, others = [], []
    for place, vector in enumerate(vectors):
        found = attack(place, vector)
        own.append(float(best_cosines(found, truths[place]).mean()))
        others += [float(best_cosines(found, truth).mean()) for i, truth in enumerate(truths) if i != place]
    return _figures(own, others)


def inputs(encoder: EncoderWeights, pool: Pool, people: int, searches: int) -> dict[str, dict[str, float]]:
    """Return all attacks on inputs, by name."""
    found: dict[str, dict[str, float]] = {}
    crowd = make_people(people, SEED)
    many = label_people(crowd, pool, LABELS)
    few = [Labels(*(np.repeat(a[:1], 6, 0) for a in (one.features, one.liked, one.phrases))) for one in many]
    # Verdicts that are all the same teach a head nothing that changes with the picture: every other one is
    # turned round.
    few = [Labels(one.features, np.arange(6) % 2 == 0, one.phrases) for one in few]
    update = train_locally(encoder, many[0], LocalSettings(), round=1, seed=ROUND_SEED)
    changes = train_all(encoder, many)
    if not np.allclose(flatten(update.tensors), changes[0], atol=1e-6):
        raise ValueError("training side by side gives another change than a device's own training")
    pictures = [standardize(encoder, one.features) for one in many]
    words = [one.phrases[np.abs(one.phrases).sum(1) > 0] for one in many]
    found["raw, one picture"] = rebuild(
        train_all(encoder, few), [standardize(encoder, one.features[:1]) for one in few], _of_pictures
    )
    found["raw, 24 pictures"] = rebuild(changes, pictures, _of_pictures)

    found["raw, words of 24 comments"] = rebuild(changes, words, _of_words)
    attacked, order = min(4, people), _order(LABELS)

    def matched(place: int, vector: Float32s) -> Float32s:
        spoken = np.abs(many[place].phrases[order]).sum(1) > 0
        return match_gradient(encoder, vector, spoken, LocalSettings(), seed=ROUND_SEED, searches=searches)

    found["raw, 24 pictures, matched"] = rebuild(changes[:attacked], pictures[:attacked], matched)
    clip = float(np.median(np.linalg.norm(changes, axis=1)))
    for multiplier in (0.0, 1.0):
        settings = make_settings(clip, multiplier)
        levels = shield_all(encoder, changes, settings)
        noise = f"noise multiplier {multiplier:g}"
        if not multiplier:
            masked = masked_all(levels, settings)
            found["masked, 24 pictures"] = rebuild(masked, pictures, _of_pictures)
            found["masked, words of 24 comments"] = rebuild(masked, words, _of_words)
            found["masked, 24 pictures, matched"] = rebuild(masked[:attacked], pictures[:attacked], matched)
        total = levels[:COHORT].sum(0)
        mean = _seen(total, min(COHORT, len(levels)), settings)
        outside = label_people(make_people(len(pictures), SEED, first=10_000), pool, LABELS)
        found[f"sum of {min(COHORT, len(levels))}, {noise}"] = _of_sum(
            _of_pictures(0, mean), pictures, [standardize(encoder, one.features) for one in outside]
        )
        found[f"sum of {min(COHORT, len(levels))}, words, {noise}"] = _of_sum(
            _of_words(0, mean), words, [o.phrases[np.abs(o.phrases).sum(1) > 0] for o in outside]
        )
    return found


def _of_pictures(_place: int, vector: Float32s) -> Float32s:
    return invert_layer(vector)


def _of_words(_place: int, vector: Float32s) -> Float32s:
    return invert_layer(vector, "sentence.taste")


def _figures(own: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    return {
        "mean_best_cosine": round(float(np.mean(own)), 4),
        "most": round(float(np.max(own)), 4),
        "chance": round(float(np.mean(others)), 4),
        "chance_99": round(float(np.quantile(others, 0.99)), 4),
        "people": len(own),
    }


def _of_sum(found: Float32s, members: Sequence[Float32s], outside: Sequence[Float32s]) -> dict[str, float]:
    own = [float(best_cosines(found, one).mean()) for one in members]
    others = [float(best_cosines(found, one).mean()) for one in outside]
    return _figures(own, others)


def _order(count: int) -> NDArray[np.int64]:
    """Return the order in which a device takes its labels, which the round's seed gives away."""
    import torch

    return np.asarray(torch.randperm(count, generator=torch.Generator().manual_seed(ROUND_SEED)).numpy())


# --- preferences --------------------------------------------------------------------------------------------


def preferences(encoder: EncoderWeights, pool: Pool, known: int, victims: int) -> dict[str, dict[str, float]]:
    """Measure preference inference from raw changes, masked vectors, and sums of a cohort."""
    crowd = make_people(known + victims, SEED, first=20_000)
    tastes = np.array([[one.weights.get(name, 0.0) for name in ATTRIBUTE_NAMES] for one in crowd])
    changes = train_all(encoder, label_people(crowd, pool, LABELS))
    clip = float(np.median(np.linalg.norm(changes, axis=1)))
    found = {"raw": _infer(changes, tastes, known)}
    rng = np.random.default_rng(1)
    for multiplier in (0.0, 1.0):
        settings = make_settings(clip, multiplier)
        levels = shield_all(encoder, changes, settings)
        if not multiplier:
            found["masked"] = _infer(masked_all(levels, settings), tastes, known)
        sums = []
        for place in range(len(levels)):
            others = rng.choice(np.delete(np.arange(len(levels)), place), COHORT - 1, replace=False)
            sums.append(_seen(levels[place] + levels[others].sum(0), COHORT, settings))
        found[f"sum of {COHORT}, noise multiplier {multiplier:g}"] = _infer(np.stack(sums), tastes, known)
    return found


def _infer(vectors: Float32s, tastes: Float64s, known: int) -> dict[str, float]:
    one = infer_preferences(vectors[:known], tastes[:known], vectors[known:], tastes[known:])
    return {"accuracy": round(one.accuracy, 4), "prior": round(one.prior, 4), "pairs": one.pairs}


# --- rows ---------------------------------------------------------------------------------------------------


def run(*, quick: bool = False, cache: Path = Path("demo-out") / "liars" / "cache") -> list[Row]:
    """Measures everything and returns the rows."""
    encoder = load_encoder()
    pool = draw_pool(400 if quick else 1500, cache)
    rebuilt = inputs(encoder, pool, *((6, 20) if quick else (50, 300)))
    taste = preferences(encoder, pool, *((60, 20) if quick else (300, 200)))
    control = rebuilt["raw, one picture"]["mean_best_cosine"]
    masked = {name: one for name, one in rebuilt.items() if name.startswith("masked")}
    summed = {name: one for name, one in rebuilt.items() if "multiplier 1" in name}
    closed = [one["mean_best_cosine"] <= one["chance_99"] for one in (*masked.values(), *summed.values())]
    most = max(one["accuracy"] - one["prior"] for name, one in taste.items() if name != "raw")
    gained = taste["raw"]["accuracy"] - taste["raw"]["prior"]
    batch = rebuilt["raw, 24 pictures"]
    return [
        Row(
            "control: pictures rebuilt from a raw change",
            f"cosine {control:.3f} of one picture, {batch['mean_best_cosine']:.3f} of 24 (chance "
            f"{batch['chance']:.3f})",
            "above 0.9 for one picture, above the 99th percentile of chance for 24, or the test is void",
            control > 0.9 and batch["mean_best_cosine"] > batch["chance_99"],
            COMMAND,
            rebuilt,
        ),
        Row(
            "pictures and words rebuilt from a masked vector, or from a noised sum of 50",
            f"{sum(closed)} of {len(closed)} attacks at chance",
            "all at most the 99th percentile of chance",
            all(closed),
            COMMAND,
            {**masked, **summed},
        ),
        Row(
            "control: likes and dislikes told from a raw change",
            100 * gained,
            "at least 5 points above the prior, or the test is void",
            gained >= 0.05,
            COMMAND,
            taste,
        ),
        Row(
            "likes and dislikes told from a masked vector or a sum of 50",
            100 * most,
            "at most 2 points above the prior",
            most <= 0.02,
            COMMAND,
            taste,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="few people: does everything run?")
    p.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    p.add_argument("--cache", type=Path, default=Path("demo-out") / "liars" / "cache")
    a = p.parse_args(arguments)
    rows = run(quick=a.quick, cache=a.cache)
    print_rows(rows)
    if a.out is not None:
        found = [{"row": r.row, "figure": r.figure, "holds": r.holds, "extra": dict(r.extra)} for r in rows]
        a.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
