"""Makes release 0 of the shared encoder: from picture features and words to the taste space.

    python -m palate.simulations.world.shards --count 48000 --out build/pictures python -m
    palate.simulations.recipes.encoder --pictures build/pictures --soft runs/picture_tower/soft.npy --run
    runs/encoder

In order: features of drawn pictures, of pictures as they are shown to people, and of pictures softened by the
generator's autoencoder (kept in files, so that a killed run goes on); the picture side by cross-entropy on
what each picture shows, and then by episodes, in which a head fitted on sixteen verdicts of a training person
must predict other verdicts of that person; the sentence side by the vocabulary and by captions; and the crowd
prior, a mixture of Gaussians fitted by expectation-maximisation to the tastes of training people (seed 1001;
benchmarks draw others). About 8 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from palate.client.eye.tower import load_tower, measure_all
from palate.client.reader.sentences import SentenceTower
from palate.shared import encoder as shared
from palate.shared.arrays import Float32s, Float64s
from palate.shared.attributes import load_vocabulary
from palate.shared.encoder import ATTRIBUTE_NAMES, TASTE, TOWER_FEATURES, EncoderWeights, encoder_to_bytes
from palate.simulations.crowd.captions import caption
from palate.simulations.crowd.people import Person, make_people, sample_shown
from palate.simulations.recipes.picture_tower import KEPT
from palate.simulations.world.render import render
from palate.simulations.world.shards import SHARD, load
from palate.simulations.world.truth import ATTRIBUTES, CATEGORY_OF, Pixels, Truth

FIRST_SHOWN = 1_000_000  # the number of the first picture as people are shown them
PEOPLE_SEED = 1001
PART = 500  # pictures per kept file of features
SEED = 3


@dataclass(frozen=True)
class Seen:
    """Pictures as the recipe learns from them.

    Features (n, features), what they truly show (n, 55), and their truths.
    """

    features: Float32s
    shows: Float32s
    truths: tuple[Truth, ...]


def shown_truth(number: int) -> Truth:
    """Return what picture `number` shows, drawn as pictures are for people."""
    return sample_shown(random.Random(f"shown {number}"))


def shows(truths: Sequence[Truth]) -> Float32s:
    """Zeros and ones, (n, 55)."""
    return np.array([[float(t.shows(a)) for a in ATTRIBUTE_NAMES] for t in truths], np.float32).reshape(
        -1, len(ATTRIBUTE_NAMES)
    )


def see(folder: Path, name: str, truths: Sequence[Truth], pixels: Callable[[int], Pixels]) -> Seen:
    """Features of pictures, in files of `PART` that survive an interruption.

    `pixels(i)` gives the i-th picture.

    The statistics and the pictures are kept apart from the tower's features, since they outlive a tower.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(truths), PART):
        stop = min(start + PART, len(truths))
        place = folder / f"{name}-{start:06d}"

        def draw(numbers: range) -> Pixels:
            return np.stack([pixels(i) for i in numbers])

        images = [Image.fromarray(one) for one in _kept(f"{place}-pixels.npy", draw, range(start, stop))]
        known = _kept(f"{place}-statistics.npy", measure_all, images)

        def watch(given: list[Image.Image], known: Float32s = known) -> Float32s:
            return load_tower().look(given, known).features

        parts.append(_kept(f"{place}.npy", watch, images))
        print(f"{name}: {stop} of {len(truths)}", flush=True)
    return Seen(np.concatenate(parts), shows(truths), tuple(truths))


def _kept(name: str, make: Callable[[Any], NDArray[Any]], given: object) -> NDArray[Any]:
    """Return the array in a file, which is made first if missing."""
    path = Path(name)
    if not path.exists():
        with path.with_suffix(".part").open("wb") as f:
            np.save(f, make(given))
        path.with_suffix(".part").replace(path)
    return np.asarray(np.load(path))


def together(parts: Sequence[Seen]) -> Seen:
    """Return all pictures of several lots."""
    return Seen(
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.shows for p in parts]),
        tuple(t for p in parts for t in p.truths),
    )


def attribute_steps(z: Float32s, shown: Float32s) -> Float32s:
    """Return what an attribute adds to each statistic: ridge regression of (n, statistics) on (n, 55)."""
    x = np.concatenate([shown, np.ones((len(shown), 1), np.float32)], 1).astype(np.float64)
    solved = np.linalg.solve(x.T @ x + 5.0 * np.eye(x.shape[1]), x.T @ z)
    return solved[:-1].astype(np.float32)


def taste_of(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the picture side in torch.

    Standardized features (n, features) to logits of the taste space (n, 64).
    """
    hidden = F.relu(F.linear(x, parameters["picture.hidden.weight"], parameters["picture.hidden.bias"]))
    return F.linear(hidden, parameters["picture.taste.weight"], parameters["picture.taste.bias"])


def first_weights(g: torch.Generator, usual: Float32s) -> dict[str, Tensor]:
    """Small random weights; each anchor starts at its attribute's frequency."""
    shapes = shared.SHARED_SHAPES
    p = {
        name: torch.randn(shape, generator=g) * (1.4 / shape[1]) ** 0.5
        if len(shape) > 1
        else torch.zeros(shape)
        for name, shape in shapes.items()
    }
    p["picture.taste.weight"] *= 0.5
    p["picture.taste.bias"][: len(ATTRIBUTE_NAMES)] = torch.logit(torch.from_numpy(usual))
    return p


def learn_anchors(
    p: dict[str, Tensor], x: Tensor, y: Tensor, steps: int, g: torch.Generator, told: Sequence[int]
) -> None:
    """Cross-entropy of the anchors `told` with what is shown.

    Features are dropped and shaken, so that no few of them decide.
    """
    trained = [p[n].requires_grad_() for n in p if n.startswith("picture")]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.02)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (steps - step) / (steps * 0.6))
        pick = torch.randint(len(x), (256,), generator=g)
        noisy = x[pick] * (torch.rand(256, x.shape[1], generator=g) > 0.1) + 0.1 * torch.randn(
            256, x.shape[1], generator=g
        )
        loss = F.binary_cross_entropy_with_logits(taste_of(p, noisy)[:, told], y[pick][:, told]) * len(told)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 500 == 0:
            print(f"anchors {step}: {float(loss.detach()):.3f}", flush=True)
    for n in p:
        p[n] = p[n].detach()


def learn_by_episodes(
    p: dict[str, Tensor], x: Tensor, y: Tensor, people: Sequence[Person], crowd: tuple[Float64s, Float64s],
    steps: int, g: torch.Generator,
) -> None:  # fmt: skip
    """Heads fitted on 8 + 8 verdicts predict 16 more.

    The encoder moves so that they do, and keeps its anchors.

    The head is the linear-Gaussian one in closed form, (C Z' (Z C Z' + R)^-1), with the crowd's mean and
    covariance.
    """
    trained = [p[n].requires_grad_() for n in p if n.startswith("picture")]
    optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.02)
    felt = torch.tensor(
        [[w.weights.get(a, 0.0) / w.spread for a in ATTRIBUTE_NAMES] for w in people], dtype=torch.float32
    )
    threshold = torch.tensor([w.threshold for w in people], dtype=torch.float32)
    noise = torch.tensor([w.noise for w in people], dtype=torch.float32)
    mean, covariance = (torch.tensor(c, dtype=torch.float32) for c in crowd)
    total = 0.0
    for step in range(steps):
        who = torch.randint(len(people), (12,), generator=g)
        pick = torch.randint(len(x), (12, 80), generator=g)
        utility = torch.einsum("pna,pa->pn", y[pick], felt[who]) - threshold[who, None]
        uniform = torch.rand(utility.shape, generator=g).clamp(1e-6, 1 - 1e-6)
        liked = (utility + noise[who, None] * torch.logit(uniform) > 0).float()
        order = torch.argsort(
            liked + 1e-3 * torch.rand(liked.shape, generator=g), 1
        )  # disliked first, liked last
        chosen = torch.cat([order[:, :16], order[:, -16:]], 1)
        pick, liked = pick.gather(1, chosen), liked.gather(1, chosen)
        logits = taste_of(p, x[pick.reshape(-1)])
        z = torch.sigmoid(logits).reshape(12, 32, TASTE)
        z = torch.cat([z, torch.ones(12, 32, 1)], 2)
        fit, ask = slice(0, 32, 2), slice(1, 32, 2)
        target = 4.0 * (liked[:, fit] - 0.5)
        zc = z[:, fit] @ covariance
        kernel = zc @ z[:, fit].transpose(1, 2) + 4.0 * torch.eye(16)
        gain = torch.linalg.solve(kernel, (target - z[:, fit] @ mean)[..., None])
        head = mean + (zc.transpose(1, 2) @ gain)[..., 0]
        predicted = torch.einsum("pnd,pd->pn", z[:, ask], head)
        episode = F.binary_cross_entropy_with_logits(predicted, liked[:, ask])
        anchor = F.binary_cross_entropy_with_logits(logits[:, : y.shape[1]], y[pick.reshape(-1)]) * y.shape[1]
        loss = 4.0 * episode + anchor
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(episode.detach())
        if step % 100 == 99:
            print(f"episodes {step + 1}: {total / 100:.4f}", flush=True)
            total = 0.0
    for n in p:
        p[n] = p[n].detach()


def learn_words(
    p: dict[str, Tensor], embeddings: Tensor, targets: Tensor, weight: Tensor, steps: int, g: torch.Generator
) -> None:
    """Turn sentence embeddings (n, 384) toward what they say is shown, (n, 64) directions, by cosine."""
    trained = [p[n].requires_grad_() for n in p if n.startswith("sentence")]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (steps - step) / (steps * 0.6))
        pick = torch.multinomial(weight, 256, replacement=True, generator=g)
        said = embeddings[pick] + 0.01 * torch.randn(256, embeddings.shape[1], generator=g)
        said = F.normalize(F.linear(said, p["sentence.taste.weight"], p["sentence.taste.bias"]), dim=1)
        loss = (1 - (said * targets[pick]).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print(f"words: mean cosine {1 - float(loss.detach()):.3f}", flush=True)
    for n in p:
        p[n] = p[n].detach()


def words_and_meanings(truths: Sequence[Truth], tower: SentenceTower) -> tuple[Float32s, Float32s, Float32s]:
    """Embeddings (n, 384), directions (n, 64), how often to draw each: the vocabulary, then captions."""
    vocabulary = load_vocabulary()
    place = {a: i for i, a in enumerate(ATTRIBUTE_NAMES)}
    phrases, targets = [], []
    for phrase, term in {**{t.name: t.name for t in vocabulary.terms}, **vocabulary.aliases}.items():
        row = np.zeros(TASTE, np.float32)
        for name, amount in ({term: 1.0} if term in place else vocabulary.shows(term)).items():
            if name in place:
                row[place[name]] = amount
        if np.linalg.norm(row) > 0.3:
            phrases.append(phrase)
            targets.append(row)
    terms = len(phrases)
    for i, truth in enumerate(truths):
        if truth.attributes:
            phrases.append(caption(random.Random(f"words {i}"), truth))
            targets.append(np.pad(shows([truth])[0], (0, TASTE - len(ATTRIBUTE_NAMES))))
    y = np.array(targets)
    weight = np.concatenate(
        [np.full(terms, 0.8 / terms), np.full(len(phrases) - terms, 0.2 / max(1, len(phrases) - terms))]
    )
    return (
        tower.embed(phrases),
        (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32),
        weight.astype(np.float32),
    )


def heads_of(people: Sequence[Person]) -> Float64s:
    """Return the true heads of people, (n, 65): a weight per dimension, and the threshold as a bias.

    In logits of a person whose verdicts are as noisy as is usual: some people's noise is so small that in
    logits of their own they would stretch every kind of the crowd.
    """
    noise = float(np.median([p.noise for p in people]))
    heads = np.zeros((len(people), TASTE + 1))
    for row, person in zip(heads, people, strict=True):
        row[: len(ATTRIBUTE_NAMES)] = [
            person.weights.get(a, 0.0) / person.spread / noise for a in ATTRIBUTE_NAMES
        ]
        row[TASTE] = -person.threshold / noise
    return heads


def fit_crowd(heads: Float64s, kinds: int, floor: float, seed: int) -> tuple[Float64s, Float64s, Float64s]:
    """Return a mixture of Gaussians by expectation-maximisation.

    Shares (k,), means (k, d), covariances (k, d, d).

    `floor` is added to every variance: whatever a kind has not been seen to feel, somebody may.
    """
    rng = np.random.default_rng(seed)
    ridge = floor * np.eye(heads.shape[1])
    best: tuple[float, tuple[Float64s, Float64s, Float64s]] | None = None
    for _ in range(8):
        nearest = _nearest(heads, kinds, rng)
        share = np.bincount(nearest, minlength=kinds) / len(heads)
        means = np.array([heads[nearest == k].mean(0) for k in range(kinds)])
        covariances = np.repeat(np.cov((heads - means[nearest]).T)[None] + ridge, kinds, 0)
        likelihood = -np.inf
        for _ in range(60):
            logs = np.stack(
                [
                    np.log(s)
                    - 0.5
                    * (
                        np.linalg.slogdet(c)[1]
                        + np.einsum("nd,nd->n", heads - m, np.linalg.solve(c, (heads - m).T).T)
                    )
                    for s, m, c in zip(share, means, covariances, strict=True)
                ],
                1,
            )
            top = logs.max(1, keepdims=True)
            belongs = np.exp(logs - top)
            now = float((np.log(belongs.sum(1)) + top[:, 0]).mean())
            belongs /= belongs.sum(1, keepdims=True)
            total = belongs.sum(0) + 1e-6
            share, means = total / total.sum(), belongs.T @ heads / total[:, None]
            for k in range(kinds):
                away = heads - means[k]
                covariances[k] = (away * belongs[:, k : k + 1]).T @ away / total[k] + ridge
            if now - likelihood < 1e-4:
                break
            likelihood = now
        if best is None or likelihood > best[0]:
            best = (likelihood, (share, means, covariances))
    if best is None:
        raise ValueError(f"kinds = {kinds} and {len(heads)} heads: no mixture could be fitted")
    print(f"crowd: log likelihood {best[0]:.2f}, shares {np.round(best[1][0], 3)}", flush=True)
    return best[1]


def _nearest(heads: Float64s, kinds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the cluster of each head, (n,), by k-means++ (Arthur and Vassilvitskii, SODA 2007)."""
    centres = heads[rng.integers(len(heads))][None]
    while len(centres) < kinds:
        far = ((heads[:, None] - centres[None]) ** 2).sum(2).min(1)
        centres = np.concatenate([centres, heads[rng.choice(len(heads), p=far / far.sum())][None]])
    nearest = np.zeros(len(heads), np.int64)
    for _ in range(25):
        nearest = ((heads**2).sum(1)[:, None] - 2 * heads @ centres.T + (centres**2).sum(1)).argmin(1)
        centres = np.array(
            [heads[nearest == k].mean(0) if (nearest == k).sum() > 1 else centres[k] for k in range(kinds)]
        )
    return nearest


def make_release(
    pictures: Path,
    soft: Path,
    run: Path,
    out: Path,
    drawn: int,
    shown: int,
    episodes: int,
    without: Sequence[str],
) -> EncoderWeights:
    """Run the whole recipe and writes the encoder and its card.

    An encoder `without` some categories is for experiments: it was told nothing of what these look like, nor
    any verdict.
    """
    told = [i for i, a in enumerate(ATTRIBUTE_NAMES) if CATEGORY_OF[a] not in without]
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(SEED)
    shards, truths = load(pictures)
    last = len(truths) - KEPT
    numbers = list(range(1, last, last // drawn))[:drawn]
    softened = np.load(soft, mmap_mode="r")
    soft_truths = [truths[i] for i in range(0, last, max(1, last // len(softened)))][: len(softened)]
    shown_truths = [shown_truth(FIRST_SHOWN + i) for i in range(shown)]
    lots = [
        see(run, "shown", shown_truths, lambda i: render(shown_truths[i], FIRST_SHOWN + i)),
        see(run, "soft", soft_truths, lambda i: np.array(softened[i])),
        see(
            run,
            "drawn",
            [truths[n] for n in numbers],
            lambda i: np.array(shards[numbers[i] // SHARD][numbers[i] % SHARD]),
        ),
    ]
    seen = together([Seen(x.features[:-200], x.shows[:-200], x.truths[:-200]) for x in lots])
    kept = [Seen(x.features[-200:], x.shows[-200:], x.truths[-200:]) for x in lots]

    mean, scale = seen.features.mean(0), np.maximum(seen.features.std(0), 1e-2)
    standard = np.clip((seen.features - mean) / scale, -shared.CLIP, shared.CLIP).astype(np.float32)
    usual = seen.shows.mean(0)
    p = first_weights(g, usual)
    x, y = torch.from_numpy(standard), torch.from_numpy(seen.shows)
    learn_anchors(p, x, y, 5000, g, told)
    people = make_people(3000, PEOPLE_SEED)
    heads = heads_of(people)
    crowd = fit_crowd(heads, shared.CROWDS, 0.05, SEED)
    if not without:
        learn_by_episodes(
            p, x, y, people, (heads.mean(0), np.cov(heads.T) + 0.05 * np.eye(TASTE + 1)), episodes, g
        )
    embeddings, targets, weight = words_and_meanings(shown_truths[:2500], SentenceTower())
    learn_words(p, torch.from_numpy(embeddings), torch.from_numpy(targets), torch.from_numpy(weight), 3000, g)

    tensors = {n: t.numpy().astype(np.float16).astype(np.float32) for n, t in p.items()}
    weights = EncoderWeights(
        0,
        {
            **tensors,
            "feature.mean": mean.astype(np.float32),
            "feature.scale": scale.astype(np.float32),
            "attribute.statistics": attribute_steps(standard[:, TOWER_FEATURES:], seen.shows),
            "taste.usual": torch.sigmoid(taste_of(p, x)).mean(0).numpy(),
            "crowd.share": crowd[0].astype(np.float32),
            "crowd.mean": crowd[1].astype(np.float32),
            "crowd.covariance": crowd[2].astype(np.float32),
        },
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(encoder_to_bytes(weights))
    write_card(weights, kept, out, without)
    return weights


def write_card(weights: EncoderWeights, kept: Sequence[Seen], out: Path, without: Sequence[str]) -> None:
    """Measures the anchors on pictures that were kept back and writes the card next to the weights."""
    quality = {}
    for name, lot in zip(("as_shown_to_people", "softened", "drawn"), kept, strict=True):
        z = shared.project_pictures(weights, lot.features)[:, : len(ATTRIBUTE_NAMES)]
        areas = []
        for i in range(len(ATTRIBUTE_NAMES)):
            up, down = z[lot.shows[:, i] > 0, i], z[lot.shows[:, i] == 0, i]
            if len(up):
                areas.append(
                    float((up[:, None] > down[None]).mean() + 0.5 * (up[:, None] == down[None]).mean())
                )
        quality[name] = {
            "mean_area_under_curve": round(float(np.mean(areas)), 4),
            "brier": round(float(((z - lot.shows) ** 2).mean()), 4),
        }
    card = {
        "name": f"shared encoder without {', '.join(without)}" if without else "shared encoder, release 0",
        "recipe": "python -m palate.simulations.recipes.encoder"
        + "".join(f" --without {c}" for c in without),
        "shared_weights": sum(int(np.prod(s)) for s in shared.SHARED_SHAPES.values()),
        "bytes": out.stat().st_size,
        "hash": shared.encoder_hash(weights),
        "data": "rendered pictures below number 2 million; tastes of 3,000 training people (seed 1001); "
        "the vocabulary; captions",
        "measured_on_kept_pictures": quality,
        "limits": "Anchors are learned from drawn pictures; on photographs they lean on statistics of "
        "colour and texture.",
    }
    out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    p.add_argument("--soft", type=Path, default=Path("runs/picture_tower/soft.npy"))
    p.add_argument("--run", type=Path, default=Path("runs/encoder"))
    p.add_argument("--out", type=Path, default=shared.SHIPPED)
    p.add_argument("--drawn", type=int, default=3000)
    p.add_argument("--shown", type=int, default=14000)
    p.add_argument("--episodes", type=int, default=600)
    p.add_argument("--without", action="append", default=[], choices=list(ATTRIBUTES), metavar="CATEGORY")
    a = p.parse_args()
    make_release(a.pictures, a.soft, a.run, a.out, a.drawn, a.shown, a.episodes, a.without)


if __name__ == "__main__":
    main()
