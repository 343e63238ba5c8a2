"""The evaluator: will this person like this picture? A private Bayesian head on the encoder's taste space.

Where it stands in the flow: after the profile. It is fitted each time, in milliseconds, from the pictures a
person liked and disliked and from the profile's attributes. It ranks candidates for the painter and answers
`palate score`. Nothing of it ever leaves the device. Nothing is carried over from one fit to the next, so
forgetting a comment is exact.

**The model.** A picture has a place z in the taste space and statistics s (in standard deviations of
the person's own pictures). The person likes it with the logit  w · z + v · s + b.

- *Prior.* People come in kinds: a mixture of Gaussians over (w, b), fitted to training people by the
  encoder's recipe. There is also an *outsider*, of whom nothing is known and whose taste may lie in the
  statistics, for example a person who judges photographs and paintings. The evidence of the verdicts decides
  between them. The kinds were learned on drawn pictures: where statistics do not confirm what the encoder
  says of a person's pictures, these pictures are others, and the kinds count less.
- *Profile.* "Likes misty at 0.8" is an observation: a picture that shows misty has a logit higher by about
  0.8 · `gain`, with noise `doubt`. Showing an attribute is a step in z and in s, which the release knows. On
  pictures where the encoder is not confirmed the step is less sure, and a word is worth `strange_gain`
  instead.
- *Verdicts.* A logistic likelihood. Both sides weigh the same in sum, since which pictures were shown is no
  taste. A picture says less if the encoder is unsure what it shows.

Each kind is fitted by Newton's method with Laplace's approximation, and kinds are weighed by their evidence.
Probabilities take the uncertainty into account after MacKay, "The evidence framework applied to
classification networks", Neural Computation 1992.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from palate.client.eye import Features
from palate.shared.attributes import load_vocabulary
from palate.shared.encoder import (
    ATTRIBUTE_NAMES,
    STATISTICS,
    TASTE,
    TOWER_FEATURES,
    EncoderWeights,
    project_pictures,
    standardize,
)
from palate.shared.errors import OptionError

Doubles = NDArray[np.float64]

BIAS = TASTE
WIDTH = TASTE + 1 + STATISTICS
LARGEST_REASONS = 5
BORNE_OUT = 0.8
"""From this agreement (see `_agreement`) pictures count fully as those that the crowd was learned on."""
NOT_BORNE_OUT = 0.6
"""Below this agreement the crowd says nothing.

Means over sixteen pictures lie near 0.84 for drawn ones, and near 0.58 for photographs and paintings.
"""
_NINETY = 1.6449  # standard deviations to either side that hold 90 %


@dataclass(frozen=True)
class Settings:
    """The evaluator's few constants, chosen on training people (never on those of a benchmark).

    gain and doubt are logits; the spreads are prior standard deviations of a weight.
    """

    gain: float = 7.0
    strange_gain: float = 4.0  # instead, where the encoder is not confirmed
    doubt: float = 2.0
    statistics_spread: float = 0.02
    outsider_spread: float = 0.3  # per standard deviation of what it weighs, anchors and statistics alike
    outsider_share: float = 0.3  # where it is
    sharpness: float = 1.0  # of the crowd's weights, for what the eye misses


DEFAULT = Settings()


@dataclass(frozen=True)
class Attribution:
    """What one attribute adds to a picture's logit, by being shown more or less than on average."""

    attribute: str
    weight: float
    more: bool


@dataclass(frozen=True)
class Score:
    """The probability that a person likes a picture, and the attributes that decide it.

    `low` and `high` hold 90 %.
    """

    probability: float
    low: float
    high: float
    because: tuple[Attribution, ...]


@dataclass(frozen=True)
class Evaluator:
    """One person's fitted head. Immutable: scoring any number of pictures changes nothing.

    Per kind of person: share (k,), mean (k, WIDTH) and covariance (k, WIDTH, WIDTH) of (w, b, v).
    """

    encoder: EncoderWeights
    share: Doubles
    mean: Doubles
    covariance: Doubles
    centre: Doubles
    scale: Doubles
    known: float
    """How much of what the crowd leaves open about this person's taste is settled, 0 to 1."""
    trust: float = 1.0
    """How far statistics confirm what the encoder says of these pictures, 0 to 1: the crowd's share."""
    unread: tuple[str, ...] = ()
    """Attributes of the profile that have no place in the taste space and were left aside."""

    def logits(self, features: Features) -> tuple[Doubles, Doubles]:
        """Return mean and variance of the logits of n pictures, each (n,).

        Args:
            features: (n, features).

        Raises:
            OptionError: features of another shape.
        """
        x = _inputs(self.encoder, features, self.centre, self.scale)
        means = x @ self.mean.T  # (n, k)
        variances = np.stack([((x @ c) * x).sum(1) for c in self.covariance], 1)
        mean = means @ self.share
        return mean, (variances + (means - mean[:, None]) ** 2) @ self.share

    def utilities(self, features: Features) -> NDArray[np.float32]:
        """Return expected logits, (n,), which rank pictures."""
        return self.logits(features)[0].astype(np.float32)

    def probabilities(self, features: Features) -> NDArray[np.float32]:
        """Return the probability that the person likes each picture, (n,)."""
        return _likely(*self.logits(features)).astype(np.float32)

    def score(self, features: Features) -> list[Score]:
        """Return a score for each picture's features, (n, features); raises what `logits` raises."""
        mean, variance = self.logits(features)
        probability = _likely(mean, variance)
        spread = _NINETY * np.sqrt(variance)
        low, high = _sigmoid(mean - spread), _sigmoid(mean + spread)
        return [
            Score(float(p), float(min(lo, p)), float(max(hi, p)), reasons)
            for p, lo, hi, reasons in zip(probability, low, high, self._reasons(features), strict=True)
        ]

    def _reasons(self, features: Features) -> list[tuple[Attribution, ...]]:
        """Return how each attribute moves a logit from an average picture's, the strongest first."""
        x = _inputs(self.encoder, features, self.centre, self.scale)
        head = self.share @ self.mean
        n = len(ATTRIBUTE_NAMES)
        seen = x[:, :n] - self.encoder.tensors["taste.usual"][:n]
        # Statistics speak through the attributes that they make up: s is nearly a sum of attributes' typical
        # steps.
        steps = (
            self.encoder.tensors["attribute.statistics"].astype(np.float64) / self.scale
        )  # (55, statistics)
        mix = np.linalg.solve(steps @ steps.T + 4.0 * np.eye(n), steps)
        told = x[:, BIAS + 1 :] @ mix.T
        by_sight, by_statistics = seen * head[:n], told * (steps @ head[BIAS + 1 :])
        more = np.where(np.abs(by_sight) >= np.abs(by_statistics), seen, told) > 0
        found = []
        for row, shown in zip(by_sight + by_statistics, more, strict=True):
            strongest = np.argsort(-np.abs(row), kind="stable")[:LARGEST_REASONS]
            found.append(
                tuple(
                    Attribution(ATTRIBUTE_NAMES[i], float(row[i]), bool(shown[i]))
                    for i in strongest
                    if abs(row[i]) > 0.02
                )
            )
        return found


def fit_evaluator(
    encoder: EncoderWeights,
    liked: Features,
    disliked: Features,
    *,
    tastes: Mapping[str, float] = MappingProxyType({}),
    directions: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
    settings: Settings = DEFAULT,
) -> Evaluator:
    """Fit a person's head to the pictures that they like and dislike, and to their profile.

    Without pictures and tastes the result is the crowd's opinion: the non-personal scorer.

    Args:
        encoder: the release, perhaps with the person's adapter.
        liked: features (n, features); n may be 0.
        disliked: features (m, features); m may be 0.
        tastes: attributes with signed strengths in [-1, 1], as `Profile.signed()` gives them. A term of the
            vocabulary counts as the anchors that it shows.
        directions: for attributes that the vocabulary does not have, their direction (64,) in the taste
            space: `project_sentences` of the phrase.
        settings: the constants.

    Raises:
        OptionError: features of another shape, values that are not finite, or a strength outside [-1, 1].
    """
    both = np.concatenate([_rows(liked), _rows(disliked)])
    n_liked, n_disliked = len(_rows(liked)), len(_rows(disliked))
    centre, scale = _own_scale(encoder, both)
    x = _inputs(encoder, both, centre, scale)
    y = np.concatenate([np.ones(n_liked), np.zeros(n_disliked)])
    weight = np.ones(len(y))
    if n_liked and n_disliked:
        weight = np.where(y > 0, len(y) / (2 * n_liked), len(y) / (2 * n_disliked))
    rows, strengths, unread = _observations(encoder, tastes, directions, scale)

    trust = _trust(encoder, both)
    worth = strengths * (settings.gain * trust + settings.strange_gain * (1 - trust))
    shares, kinds = _prior(encoder, settings, trust)
    evidence, means, covariances = [], [], []
    for number, (mean, covariance) in enumerate(kinds):
        outsider = number == len(kinds) - 1  # takes the encoder at its word, confirmed or not
        seen = x if outsider else x * _clearness(x, mean, covariance)[:, None]
        fitted = _fit_kind(mean, covariance, seen, y, weight, rows, worth, settings.doubt)
        evidence.append(fitted[0])
        means.append(fitted[1])
        covariances.append(fitted[2])
    posterior = np.log(np.maximum(shares, 1e-12)) + np.array(evidence)
    posterior = np.exp(posterior - posterior.max())
    posterior /= posterior.sum()
    kept = posterior > 1e-3
    share = posterior[kept] / posterior[kept].sum()
    mean, covariance = np.array(means)[kept], np.array(covariances)[kept]
    known = _settled(shares, kinds, share, mean, covariance)
    return Evaluator(encoder, share, mean, covariance, centre, scale, known, trust, unread)


def _rows(features: Features) -> Features:
    given = np.asarray(features, dtype=np.float32)
    if given.size == 0:
        return np.zeros((0, TOWER_FEATURES + STATISTICS), np.float32)
    if given.ndim != 2:
        raise OptionError(f"picture features have the shape {given.shape}; give one row per picture")
    return given


def _own_scale(encoder: EncoderWeights, features: Features) -> tuple[Doubles, Doubles]:
    """Return centre and scale of the statistics over a person's pictures.

    With few pictures they are drawn to the release's own.
    """
    s = standardize(encoder, features)[:, TOWER_FEATURES:].astype(np.float64)
    n, prior = len(s), 4.0
    centre = s.sum(0) / (n + prior)
    spread = np.sqrt((((s - centre) ** 2).sum(0) + prior) / (n + prior))
    return centre, np.maximum(spread, 0.2)


def _inputs(encoder: EncoderWeights, features: Features, centre: Doubles, scale: Doubles) -> Doubles:
    """Return what the head weighs: (n, WIDTH) of taste space, one, and statistics cut at ±3."""
    rows = _rows(features)
    z = project_pictures(encoder, rows).astype(np.float64)
    s = (standardize(encoder, rows)[:, TOWER_FEATURES:] - centre) / scale
    return np.concatenate([z, np.ones((len(z), 1)), np.clip(s, -3, 3)], 1)


def _observations(
    encoder: EncoderWeights,
    tastes: Mapping[str, float],
    directions: Mapping[str, NDArray[np.float32]],
    scale: Doubles,
) -> tuple[Doubles, Doubles, tuple[str, ...]]:
    """Return the profile as rows (t, WIDTH) and strengths (t,), and the attributes without a place."""
    vocabulary = load_vocabulary()
    place = {name: i for i, name in enumerate(ATTRIBUTE_NAMES)}
    steps = encoder.tensors["attribute.statistics"].astype(np.float64) / scale
    rows, values, unread = [], [], []
    for attribute, strength in sorted(tastes.items()):
        if not (math.isfinite(strength) and -1 <= strength <= 1):
            raise OptionError(f"the strength of {attribute!r} is {strength}; it must be from -1 to 1")
        row = np.zeros(WIDTH)
        shown = {attribute: 1.0} if attribute in place else dict(vocabulary.shows(attribute))
        for name, weight in shown.items():
            if name in place:
                row[place[name]] += weight
                row[BIAS + 1 :] += weight * steps[place[name]]
        if not row.any() and attribute in directions:
            direction = np.asarray(directions[attribute], dtype=np.float64)
            if direction.shape != (TASTE,) or not np.isfinite(direction).all():
                raise OptionError(
                    f"the direction of {attribute!r} has the shape {direction.shape}; it must be ({TASTE},), "
                    "finite"
                )
            row[:TASTE] = direction
            row[BIAS + 1 :] = direction[: len(place)] @ steps
        if not row.any():
            unread.append(attribute)
            continue
        rows.append(row)
        values.append(strength)
    return np.array(rows).reshape(-1, WIDTH), np.array(values), tuple(unread)


def _trust(encoder: EncoderWeights, features: Features) -> float:
    """Return how far a person's pictures are like those that the crowd was learned on, 0 to 1.

    1 without pictures.
    """
    agreement = _agreement(encoder, features)
    usual = 2.0  # so many pictures speak for the drawn world before any is seen
    mean = (agreement.sum() + usual * BORNE_OUT) / (len(agreement) + usual)
    return float(np.clip((mean - NOT_BORNE_OUT) / (BORNE_OUT - NOT_BORNE_OUT), 0, 1))


def _agreement(encoder: EncoderWeights, features: Features) -> Doubles:
    """Return how well each picture's statistics confirm what the encoder says that it shows, (n,) in [-1, 1].

    Every attribute has its typical step in the statistics. The sum of the steps of all that a picture is said
    to show is what its statistics should be; the agreement is the cosine between that and what they are.
    """
    n = len(ATTRIBUTE_NAMES)
    said = project_pictures(encoder, features).astype(np.float64)[:, :n]
    said = (said - encoder.tensors["taste.usual"][:n]) @ encoder.tensors["attribute.statistics"]
    seen = np.clip(standardize(encoder, features)[:, TOWER_FEATURES:].astype(np.float64), -3, 3)
    lengths = np.sqrt((said**2).sum(1) * (seen**2).sum(1))
    return np.asarray((said * seen).sum(1) / np.maximum(lengths, 1e-9), dtype=np.float64)


def _prior(
    encoder: EncoderWeights, settings: Settings, trust: float
) -> tuple[Doubles, list[tuple[Doubles, Doubles]]]:
    """Return the kinds' shares (k,) and their mean (WIDTH,) and covariance (WIDTH, WIDTH), the outsider last.

    trust, 0 to 1, is what the crowd's shares are multiplied by; the outsider has the rest.
    """
    t = encoder.tensors
    outsider = 1 - (1 - settings.outsider_share) * trust
    shares = np.append(t["crowd.share"].astype(np.float64) * (1 - outsider), outsider)
    kinds = []
    for crowd_mean, crowd_covariance in zip(t["crowd.mean"], t["crowd.covariance"], strict=True):
        mean = np.zeros(WIDTH)
        mean[: BIAS + 1] = crowd_mean * settings.sharpness
        covariance = np.eye(WIDTH) * settings.statistics_spread**2
        covariance[: BIAS + 1, : BIAS + 1] = crowd_covariance * settings.sharpness**2
        kinds.append((mean, covariance))
    spread = np.full(WIDTH, settings.outsider_spread)
    usual = t["taste.usual"].astype(np.float64)
    spread[:BIAS] /= np.sqrt(usual * (1 - usual))  # the standard deviation of what is shown or is not
    spread[BIAS] = 1.0
    kinds.append((np.zeros(WIDTH), np.diag(spread**2)))
    return shares / shares.sum(), kinds


def _clearness(x: Doubles, mean: Doubles, covariance: Doubles) -> Doubles:
    """Return the factor by which each picture's logit shrinks because the encoder is unsure, (n,) in (0, 1].

    An anchor of 0.5 is a picture that shows the attribute or does not. The logit's variance from that is
    about E[w²] z (1 − z), and the expected answer is that of a logit divided by √(1 + π/8 · variance)
    (MacKay, 1992). The weights are the prior's.
    """
    n = len(ATTRIBUTE_NAMES)
    squares = (mean**2 + np.diag(covariance))[:n]
    return np.asarray(1 / np.sqrt(1 + np.pi / 8 * (x[:, :n] * (1 - x[:, :n])) @ squares), dtype=np.float64)


def _fit_kind(
    prior_mean: Doubles,
    prior_covariance: Doubles,
    x: Doubles,
    y: Doubles,
    weight: Doubles,
    rows: Doubles,
    values: Doubles,
    doubt: float,
) -> tuple[float, Doubles, Doubles]:
    """Return log evidence, mean and covariance of one kind's head, given verdicts and profile.

    It is Laplace's approximation.
    """
    precision = np.linalg.inv(prior_covariance)
    fixed = precision + rows.T @ rows / doubt**2
    pull = precision @ prior_mean + rows.T @ values / doubt**2
    head = np.linalg.solve(fixed, pull)
    hessian = fixed
    for _ in range(40):
        p = _sigmoid(x @ head)
        gradient = x.T @ (weight * (p - y)) + fixed @ head - pull
        hessian = x.T @ (x * (weight * p * (1 - p))[:, None]) + fixed
        step = np.linalg.solve(hessian, gradient)
        size = float(np.abs(x @ step).max()) if len(x) else 0.0
        head = head - step * min(1.0, 4.0 / max(size, 1e-9))  # a logit moves by at most 4 at a time
        if size < 1e-6:
            break
    logit = x @ head
    fit = -float((weight * np.logaddexp(0, np.where(y > 0, -logit, logit))).sum())
    away = head - prior_mean
    fit -= 0.5 * float(away @ precision @ away) + 0.5 * float((((rows @ head - values) / doubt) ** 2).sum())
    evidence = fit + 0.5 * (np.linalg.slogdet(precision)[1] - np.linalg.slogdet(hessian)[1])
    return (
        float(evidence),
        np.asarray(head, dtype=np.float64),
        np.asarray(np.linalg.inv(hessian), dtype=np.float64),
    )


def _settled(
    prior_share: Doubles,
    kinds: Sequence[tuple[Doubles, Doubles]],
    share: Doubles,
    mean: Doubles,
    covariance: Doubles,
) -> float:
    """Return how much of the variance of the anchors' weights the data removed, 0 to 1."""
    n = len(ATTRIBUTE_NAMES)
    before = _variance(
        prior_share, np.array([m[:n] for m, _ in kinds]), np.array([np.diag(c)[:n] for _, c in kinds])
    )
    after = _variance(share, mean[:, :n], np.array([np.diag(c)[:n] for c in covariance]))
    return float(np.clip(1 - after.sum() / before.sum(), 0, 1))


def _variance(share: Doubles, means: Doubles, variances: Doubles) -> Doubles:
    middle = share @ means
    return np.asarray(share @ (variances + (means - middle) ** 2))


def _likely(mean: Doubles, variance: Doubles) -> Doubles:
    return _sigmoid(mean / np.sqrt(1 + math.pi * variance / 8))


def _sigmoid(x: Doubles) -> Doubles:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
