"""Virtual people as devices of a federation.

The pictures they are shown, the labels they give, and who stays unseen.

Non-IID by nature: every person has another taste, belongs to a cohort, and gives another number of labels.
People of a federation (seed 3001 upward), pictures that they are shown (numbers from 22 million) and
everybody who is asked only at the end are strangers to the recipes and to the benchmarks of one device.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from palate.client.eye.tower import SHIPPED as TOWER
from palate.client.eye.tower import picture_features
from palate.client.federation.local_training import Labels
from palate.client.reader.sentences import SentenceTower, load_term_embeddings
from palate.client.taste.profile import Evidence, build_profile
from palate.shared.arrays import Float32s
from palate.shared.attributes import Mention
from palate.shared.encoder import PICTURE_FEATURES, SENTENCE_FEATURES
from palate.shared.errors import OptionError
from palate.simulations.crowd.people import Person, sample_shown, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.world.render import render
from palate.simulations.world.truth import CATEGORY_OF, Truth

Bools = NDArray[np.bool_]

FIRST_PICTURE = 22_000_000
PEOPLE_SEED = 3001
STRANGERS_SEED = 4001
ASKED_SHARE = 0.2  # of a pool: pictures that only strangers are asked about
FEWEST, MOST = 6, 60  # labels of a person in a federation
BATCH = 50  # pictures drawn between two reports of progress


@dataclass(frozen=True)
class Pool:
    """Pictures that people are shown: what each truly shows, and its features (n, 216)."""

    truths: tuple[Truth, ...]
    features: Float32s

    def __len__(self) -> int:
        return len(self.truths)

    def split(self) -> tuple[Pool, Pool]:
        """Return the pictures for people of a federation, and those for strangers alone."""
        at = round(len(self) * (1 - ASKED_SHARE))
        return Pool(self.truths[:at], self.features[:at]), Pool(self.truths[at:], self.features[at:])


@dataclass(frozen=True)
class Stranger:
    """Somebody outside the federation: a few labels to be understood by, and verdicts to be foreseen."""

    liked: Float32s  # (8, 216)
    disliked: Float32s  # (8, 216)
    tastes: Mapping[str, float]  # what the comments on these said, as `Profile.signed` gives it
    asked: Float32s  # (m, 216)
    answers: Bools  # (m,)


def pool_truth(number: int) -> Truth:
    """Return what picture `number` shows."""
    return sample_shown(random.Random(f"pool {number}"))


def draw_pool(
    count: int, folder: Path, progress: Callable[[int], object] | None = None, first: int = FIRST_PICTURE
) -> Pool:
    """Draw and look at `count` pictures, or read from `folder` what the same tower saw before.

    Args:
        count: how many pictures.
        folder: where features are kept between runs; made if missing.
        progress: called with each number of pictures done.
        first: number of the first picture. Pictures of one number are the same in every pool.

    Returns:
        What each picture truly shows, and its features (count, 216).
    """
    truths = tuple(pool_truth(i) for i in range(first, first + count))
    tower = hashlib.sha256(TOWER.read_bytes()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for start in range(first, first + count, BATCH):
        numbers = range(start, min(start + BATCH, first + count))
        path = folder / f"pool-{tower}-{numbers.start}-{len(numbers)}.npy"
        kept = _read_rows(path, len(numbers))
        if kept is None:
            kept = picture_features([Image.fromarray(render(truths[i - first], i)) for i in numbers])
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, kept)
            part.replace(path)
        rows.append(kept)
        if progress is not None:
            progress(len(numbers))
    return Pool(truths, np.concatenate(rows))


def _read_rows(path: Path, count: int) -> Float32s | None:
    if not path.exists():
        return None
    rows: Float32s = np.load(path, allow_pickle=False)
    return rows if rows.shape == (count, PICTURE_FEATURES) else None


@cache
def _meanings() -> dict[str, Float32s]:
    """Return the sentence tower's direction of each term's own name, (384,)."""
    rows, names = load_term_embeddings(SentenceTower())
    found: dict[str, Float32s] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(name, row)
    return found


def give_labels(person: Person, pool: Pool, count: int, rng: random.Random) -> Labels:
    """Show a person `count` pictures and note verdicts and what the comments name."""
    places = rng.sample(range(len(pool)), count)
    liked = np.zeros(count, bool)
    phrases = np.zeros((count, SENTENCE_FEATURES), np.float32)
    for row, place in enumerate(places):
        truth = pool.truths[place]
        liked[row] = verdict(person, truth, rng)
        named = [one.attribute for one in _mentions(person, truth, bool(liked[row]), rng)]
        if named:
            phrases[row] = np.mean([_meanings()[attribute] for attribute in named], 0)
    return Labels(pool.features[places], liked, phrases)


def count_labels(rng: random.Random) -> int:
    """Return how many labels a person gives, 6 to 60: many give few (log-uniform)."""
    return round(float(FEWEST * (MOST / FEWEST) ** rng.random()))


def give_all_labels(people: Sequence[Person], pool: Pool, seed: int) -> list[Labels]:
    """Return the labels of everybody in a federation; each depends on seed and person alone."""
    labels = []
    for person in people:
        rng = random.Random(f"labels {seed} {person.seed} {person.id}")
        labels.append(give_labels(person, pool, count_labels(rng), rng))
    return labels


def meet_stranger(person: Person, pool: Pool, seed: int, given: int = 8, asked: int = 60) -> Stranger:
    """Have somebody judge pictures until `given` are liked and as many disliked, and then `asked` more.

    Args:
        person: whose taste decides.
        pool: pictures that no federation was shown.
        seed: decides with the person which pictures come.
        given: pictures of each verdict that the stranger is to be understood by, with comments.
        asked: pictures whose verdicts are to be foreseen.

    Raises:
        OptionError: the pool is too small for that.
    """
    rng = random.Random(f"stranger {seed} {person.seed} {person.id}")
    order = rng.sample(range(len(pool)), len(pool))
    sides: dict[bool, list[int]] = {True: [], False: []}
    said: list[Evidence] = []
    while min(map(len, sides.values())) < given and order:
        place = order.pop()
        truth = pool.truths[place]
        liked = verdict(person, truth, rng)
        if len(sides[liked]) < given:
            sides[liked].append(place)
            stamp = f"{len(said):03d}"
            said.append(Evidence(stamp, stamp, _mentions(person, truth, liked, rng)))
    if len(order) < asked:
        raise OptionError(
            f"{len(pool)} pictures are too few for what person {person.id} is asked; take more pictures"
        )
    rest = order[:asked]
    answers = np.array([verdict(person, pool.truths[i], rng) for i in rest])
    tastes = build_profile(said).signed()
    return Stranger(
        pool.features[sides[True]], pool.features[sides[False]], tastes, pool.features[rest], answers
    )


def _mentions(person: Person, truth: Truth, liked: bool, rng: random.Random) -> tuple[Mention, ...]:
    """Return what the person means by a comment; `benchmarks/extraction` measures how well one is read."""
    remark = comment(person, truth, liked, rng)
    return tuple(Mention(name, CATEGORY_OF[name], sign, 0.7, name) for name, sign in remark.mentions)
