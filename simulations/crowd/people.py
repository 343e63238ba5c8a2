"""Virtual people whose taste is known, so that claims about personalization can be checked.

A person likes a few of the world's attributes and dislikes a few others, each with a weight; the subject
never counts. Tastes are neither independent nor alike: a crowd leans towards some attributes, cohorts
("quiet", "bold", ...) lean their own way, and every person has picks that are rare or go against their
cohort. A verdict on a picture is the utility of what it shows plus logistic noise, compared with the person's
own threshold: the choice model of Bradley and Terry (Biometrika, 1952). The noise is set for each person so
that a scorer which knows the true taste orders a liked and a disliked picture rightly in 90 to 94 of 100
pairs; no scorer can be expected to do better.

What people say about a picture is in `remarks`. Experiments, tests and recipes draw populations with
`make_people`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

from palate.shared.arrays import Float64s
from palate.simulations.world.truth import CATEGORY_OF, Truth, sample_truth

LIKED = (6, 8)  # how many attributes a person likes, smallest and largest number
DISLIKED = (5, 7)
CONTRARY = 0.05  # the share of picks that go against the person's cohort
ODD = 0.10  # the share of picks that owe nothing to crowd or cohort
TYPICAL = (0.4, 1.0)  # the size of a weight that the person shares with the cohort
UNUSUAL = (0.2, 0.7)  # the size of a contrary or odd one
PULL = 8.0  # how strongly a cohort draws its people; 0 makes all tastes independent
# Pairwise accuracy of the true taste against a person's noisy verdicts: the lowest and the highest.
ORACLE = (0.92, 0.94)
LIKE_RATE = (0.42, 0.58)  # the share of shown pictures that a person likes

_REFERENCE_PICTURES = 600

# What nearly everybody leans to (positive) or away from.
CROWD: Mapping[str, float] = MappingProxyType(
    {
        "golden hour": 0.6, "blue": 0.5, "calm": 0.4, "joyful": 0.4, "vibrant": 0.3, "watercolour": 0.3,
        "bright": 0.3,
        "grainy": -0.4, "crosshatching": -0.3, "rainy": -0.4, "busy": -0.3, "tilted": -0.4, "pixel art": -0.3,
        "neon": -0.2, "dark": -0.2,
    }
)  # fmt: skip

# What each cohort likes and dislikes beyond the crowd.
COHORTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "quiet": (
            ("muted", "misty", "calm", "minimalist", "low contrast", "watercolour", "cool", "snowy"),
            ("neon", "vibrant", "busy", "dramatic", "high contrast", "bold outlines", "stained glass"),
        ),
        "bold": (
            ("vibrant", "neon", "high contrast", "bold outlines", "stained glass", "red", "joyful", "bright"),
            ("muted", "misty", "low contrast", "melancholic", "rainy", "grainy", "crosshatching"),
        ),
        "old masters": (
            ("impasto", "earthy", "dramatic", "spotlit", "canvas", "intricate", "warm", "dark"),
            ("pixel art", "flat colour", "simplified", "pastel", "line art", "pink", "smooth"),
        ),
        "graphic": (
            ("flat colour", "line art", "symmetrical", "simplified", "monochrome", "pixel art",
             "angular lines", "mosaic"),
            ("impasto", "swirling brushstrokes", "canvas", "intricate", "golden hour", "dreamy",
             "watercolour"),
        ),
        "dreamer": (
            ("dreamy", "purple", "pastel", "moonlit", "flowing lines", "smooth", "pink",
             "swirling brushstrokes"),
            ("angular lines", "earthy", "mosaic", "close-up", "black and white", "bright", "red"),
        ),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """How a person writes: rates and shares are in [0, 1]."""

    typo_rate: float  # for each word that can carry one
    lower_case: bool
    american: bool
    exclaims: float
    talkative: float


@dataclass(frozen=True)
class Person:
    """One virtual person.

    `weights` holds only the attributes that the person feels about, in [-1, 1]; `spread` is the standard
    deviation of their sum over shown pictures, so that a utility is in units of it, as are `threshold` and
    `noise` (the scale of the logistic noise on a verdict).
    """

    seed: int
    id: int
    cohort: str
    weights: Mapping[str, float]
    spread: float
    threshold: float
    noise: float
    voice: Voice

    @property
    def likes(self) -> tuple[str, ...]:
        """The liked attributes, the strongest first."""
        return tuple(sorted((a for a, w in self.weights.items() if w > 0), key=lambda a: -self.weights[a]))

    @property
    def dislikes(self) -> tuple[str, ...]:
        """The disliked attributes, the strongest first."""
        return tuple(sorted((a for a, w in self.weights.items() if w < 0), key=lambda a: self.weights[a]))


def make_people(n: int, seed: int, *, first: int = 0) -> list[Person]:
    """Draw the people `first` to `first + n - 1` of the population `seed`.

    Each person depends on (seed, id) alone: populations of different seeds share nobody, and a longer list
    begins with the shorter one. All populations share `CROWD` and `COHORTS`, as people of one culture do.

    Args:
        n: how many people, from 0.
        seed: of the population.
        first: id of the first person, from 0.

    Raises:
        ValueError: a count or an id is negative.
    """
    if n < 0 or first < 0:
        raise ValueError(f"n = {n} and first = {first} must not be negative")
    return [_make_person(seed, number) for number in range(first, first + n)]


def sample_shown(rng: random.Random) -> Truth:
    """Draw a picture to show to people: with four or five attributes, most feel something about it."""
    wanted = rng.choice((4, 5, 5))
    while True:
        truth = sample_truth(rng)
        for _ in range(40):  # some beginnings leave too little room: they are dropped
            if len(truth.attributes) >= wanted:
                return truth
            truth = sample_truth(rng, truth.subject, truth.attributes)


def true_utility(person: Person, truth: Truth) -> float:
    """Return how much this person really likes what a picture shows, in deviations over shown pictures."""
    return sum(person.weights.get(value, 0.0) for value in truth.values()) / person.spread


def verdict(person: Person, truth: Truth, rng: random.Random) -> bool:
    """Return whether the person says, this time, that they like it.

    Utility plus noise above the threshold.
    """
    uniform = min(max(rng.random(), 1e-12), 1 - 1e-12)
    return true_utility(person, truth) + person.noise * math.log(uniform / (1 - uniform)) > person.threshold


def _make_person(seed: int, number: int) -> Person:
    rng = random.Random(f"palate person {seed} {number}")
    cohort = rng.choice(tuple(COHORTS))
    target, like_rate = rng.uniform(*ORACLE), rng.uniform(*LIKE_RATE)
    for _ in range(200):
        weights = _draw_weights(rng, cohort)
        sums = _reference_shows() @ np.array([weights.get(a, 0.0) for a in CATEGORY_OF])
        spread = float(sums.std())
        fitted = _fit_noise(sums / spread, like_rate, target)
        if fitted is not None:
            break
    else:
        raise RuntimeError(
            f"no taste drawn for person {number} of seed {seed} can reach an accuracy of {target:.3f}"
        )
    voice = Voice(
        typo_rate=rng.choice((0.0, 0.0, 0.005, 0.01, 0.02, 0.04)),
        lower_case=rng.random() < 0.4,
        american=rng.random() < 0.5,
        exclaims=rng.random() ** 2 * 0.5,
        talkative=rng.random(),
    )
    return Person(seed, number, cohort, MappingProxyType(weights), spread, fitted[0], fitted[1], voice)


def _draw_weights(rng: random.Random, cohort: str) -> dict[str, float]:
    """Return a sparse signed taste: picks for and against, drawn by leaning, some contrary and some odd."""
    lean = dict.fromkeys(CATEGORY_OF, 0.0)
    lean.update({a: value / 2 for a, value in CROWD.items()})
    for sign, attributes in zip((1.0, -1.0), COHORTS[cohort], strict=True):
        for attribute in attributes:
            lean[attribute] += sign
    weights: dict[str, float] = {}
    for sign, numbers in ((1, LIKED), (-1, DISLIKED)):
        for _ in range(rng.randint(*numbers)):
            free = [a for a in lean if a not in weights]
            chance = rng.random()
            pull = 0.0 if chance < ODD else -PULL if chance < ODD + CONTRARY else PULL
            pick = rng.choices(free, [math.exp(sign * pull * lean[a]) for a in free])[0]
            size = rng.uniform(*(TYPICAL if pull > 0 else UNUSUAL))
            weights[pick] = sign * round(size, 3)
    return weights


@cache
def _reference_shows() -> Float64s:
    """Return what each of many shown pictures carries.

    (pictures, attributes), zeros and ones, always the same.
    """
    rng = random.Random("palate reference pictures")
    shown = [set(sample_shown(rng).values()) for _ in range(_REFERENCE_PICTURES)]
    return np.array([[float(a in values) for a in CATEGORY_OF] for values in shown])


def _fit_noise(utilities: Float64s, like_rate: float, target: float) -> tuple[float, float] | None:
    """Return the threshold and noise scale for this share of likes and this accuracy.

    None when out of reach.
    """

    def probabilities(noise: float) -> tuple[float, Float64s]:
        low, high = float(utilities.min()) - 12 * noise, float(utilities.max()) + 12 * noise
        for _ in range(30):
            threshold = (low + high) / 2
            p = 0.5 * (1 + np.tanh((utilities - threshold) / (2 * noise)))
            low, high = (threshold, high) if p.mean() > like_rate else (low, threshold)
        return threshold, p

    if _pairwise(utilities, probabilities(0.01)[1]) < target:
        return None
    low, high = 0.01, 2.0
    for _ in range(16):
        noise = (low + high) / 2
        if _pairwise(utilities, probabilities(noise)[1]) > target:
            low = noise
        else:
            high = noise
    return probabilities(noise)[0], noise


def _pairwise(scores: Float64s, liked: Float64s) -> float:
    """Return the chance that a liked picture scores above a disliked one, ties half.

    Probabilities may be given.
    """
    levels, place = np.unique(np.round(scores, 9), return_inverse=True)
    up = np.bincount(place, liked, len(levels))  # (levels,)
    down = np.bincount(place, 1 - liked, len(levels))
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))
