"""Local training: against the same descent written plainly, side by side, and on people who are all of one
mind or silent."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from palate.client.federation import local_training
from palate.client.federation.local_training import (
    LEAST_LABELS,
    MOST_LABELS,
    Labels,
    train_locally,
    train_together,
)
from palate.shared.encoder import (
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    SHARED_SHAPES,
    TASTE,
    EncoderWeights,
    encoder_hash,
    load_encoder,
    project_pictures,
    project_sentences,
    standardize,
)
from palate.shared.errors import OptionError
from palate.shared.update import LocalSettings

SENTENCE = ("sentence.taste.weight", "sentence.taste.bias")
Changes = dict[int, dict[str, NDArray[np.float32]]]


def make_labels(count: int, seed: int, *, spoken: float = 0.7) -> Labels:
    """A person with random pictures, verdicts and phrases."""
    rng = np.random.default_rng([count, seed])
    t = load_encoder().tensors
    features = t["feature.mean"] + 0.5 * t["feature.scale"] * rng.standard_normal((count, PICTURE_FEATURES))
    phrases = rng.standard_normal((count, SENTENCE_FEATURES))
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    phrases[rng.random(count) >= spoken] = 0
    return Labels(features.astype(np.float32), rng.random(count) < 0.5, phrases.astype(np.float32))


def flat(change: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.concatenate([change[name].ravel() for name in SHARED_SHAPES]).astype(np.float64)


def distance(one: dict[str, NDArray[np.float32]], other: dict[str, NDArray[np.float32]]) -> float:
    """How far two changes lie apart, in lengths of the first."""
    return float(np.linalg.norm(flat(one) - flat(other)) / np.linalg.norm(flat(one)))


def are_alike(one: Changes, other: Changes) -> bool:
    """Whether changes are the same up to rounding: 1e-6, or where a hidden unit is at zero within rounding,
    a little more."""
    distances = sorted(distance(one[place], other[place]) for place in one)
    return one.keys() == other.keys() and distances[-2] <= 5e-6 and distances[-1] <= 1e-3


@pytest.fixture
def encoder() -> EncoderWeights:
    return load_encoder()


@pytest.fixture
def threads() -> Iterator[None]:
    """Let a test choose how many threads torch has."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- side by side -------------------------------------------------------------------------------------------

COUNTS = (6, 60, 23, 7, 41, 60, 12)
PEOPLE = [make_labels(count, seed) for seed, count in enumerate(COUNTS)]


@pytest.mark.parametrize(
    "settings", [LocalSettings(steps=5, alignment=0.1), LocalSettings(steps=1, alignment=1.0)], ids=["5", "1"]
)
def test_together_is_one_by_one(encoder: EncoderWeights, settings: LocalSettings) -> None:
    together = dict(train_together(encoder, PEOPLE, settings, range(len(PEOPLE))))
    alone = {
        place: dict(train_locally(encoder, labels, settings, round=1, seed=place).tensors)
        for place, labels in enumerate(PEOPLE)
    }
    assert are_alike(alone, together)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_how_many_are_trained_side_by_side_changes_nothing(encoder: EncoderWeights, chunk: int) -> None:
    usual = dict(
        train_together(encoder, PEOPLE, LocalSettings(steps=5, alignment=0.1), range(len(PEOPLE)), 4)
    )
    other = dict(
        train_together(encoder, PEOPLE, LocalSettings(steps=5, alignment=0.1), range(len(PEOPLE)), chunk)
    )
    assert are_alike(usual, other)


def test_padding_changes_nothing(encoder: EncoderWeights) -> None:
    few, many = make_labels(6, 1), make_labels(60, 2)
    alone = dict(train_together(encoder, [few], LocalSettings(steps=5, alignment=0.1), [4]))[0]
    beside = dict(train_together(encoder, [few, many], LocalSettings(steps=5, alignment=0.1), [4, 6]))[0]
    assert distance(alone, beside) <= 5e-6


def test_nobody_hears_of_a_neighbour(encoder: EncoderWeights) -> None:
    mine, one, other = make_labels(20, 1), make_labels(20, 2), make_labels(20, 3)
    first = dict(train_together(encoder, [mine, one], LocalSettings(steps=5, alignment=0.1), [5, 6]))[0]
    second = dict(train_together(encoder, [mine, other], LocalSettings(steps=5, alignment=0.1), [5, 7]))[0]
    assert all(np.array_equal(first[name], second[name]) for name in SHARED_SHAPES)


def test_whose_training_diverges_costs_nobody_else(encoder: EncoderWeights) -> None:
    wild = replace(PEOPLE[3], phrases=PEOPLE[3].phrases * np.float32(1e38))
    settings = LocalSettings(steps=5, alignment=10.0)
    alone = dict(train_together(encoder, [PEOPLE[2]], settings, [1]))[0]
    beside = dict(train_together(encoder, [PEOPLE[2], wild], settings, [1, 1]))
    assert distance(alone, beside[0]) <= 5e-6
    assert not all(np.isfinite(array).all() for array in beside[1].values())


# --- against the same descent, written plainly --------------------------------------------------------------


def plain_descent(
    encoder: EncoderWeights, labels: Labels, settings: LocalSettings, seed: int
) -> dict[str, NDArray[np.float32]]:
    """One device with weights as weights and the head from the normal equations, all in float64.

    Only the draws are shared.
    """
    batch = {
        name: tensor.double()
        for name, tensor in local_training._prepare(encoder, [labels], settings, [seed]).items()
    }
    x, liked, phrases, spoken = (batch[name][0] for name in ("x", "liked", "phrases", "spoken"))
    crowd = {n: torch.tensor(encoder.tensors[f"crowd.{n}"]).double() for n in ("share", "mean", "covariance")}
    mean = crowd["share"] @ crowd["mean"]
    spread = torch.einsum(
        "k,kij->ij",
        crowd["share"],
        crowd["covariance"] + torch.einsum("ki,kj->kij", *[crowd["mean"] - mean] * 2),
    )
    start = {name: torch.from_numpy(encoder.tensors[name].copy()).double() for name in SHARED_SHAPES}
    weights = {name: tensor.clone() for name, tensor in start.items()}
    for step in range(settings.steps):
        w = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        hidden = F.relu(x @ w["picture.hidden.weight"].T + w["picture.hidden.bias"])
        tastes = hidden @ w["picture.taste.weight"].T + w["picture.taste.bias"]
        inputs = torch.cat([torch.sigmoid(tastes), torch.ones(len(x), 1).double()], 1)
        fitted = batch["support"][step, 0] == 1
        known, told = inputs[fitted], 4 * liked[fitted] - 2
        precision = torch.linalg.inv(spread) + known.T @ known / local_training.HEAD_NOISE
        head = mean + torch.linalg.solve(
            precision, known.T @ (told - known @ mean) / local_training.HEAD_NOISE
        )
        loss = F.binary_cross_entropy_with_logits(inputs[~fitted] @ head, liked[~fitted])
        if settings.alignment and spoken.any():
            said = F.normalize(phrases @ w[SENTENCE[0]].T + w[SENTENCE[1]], dim=1)
            own = torch.arange(len(x))[spoken == 1]
            loss = loss + settings.alignment * F.cross_entropy((said @ tastes.T)[own], own)
        slopes = torch.autograd.grad(loss, list(w.values()), allow_unused=True)
        for name, slope in zip(w, slopes, strict=True):
            pull = settings.proximal * (weights[name] - start[name]) + (0 if slope is None else slope)
            weights[name] = weights[name] - settings.learning_rate * pull
    return {name: (weights[name] - start[name]).numpy() for name in SHARED_SHAPES}


@pytest.mark.parametrize(
    "settings",
    [
        LocalSettings(steps=5, alignment=0.1),
        LocalSettings(steps=1, alignment=1.0),
        LocalSettings(steps=5, proximal=2.0, alignment=0.5),
        LocalSettings(steps=5, alignment=0.0),
        LocalSettings(steps=5, query_share=0.2, learning_rate=0.3, alignment=0.1),
    ],
    ids=["usual", "one step", "proximal", "no words", "few asked"],
)
@pytest.mark.parametrize("count", [6, 30])
def test_training_is_the_plain_descent(encoder: EncoderWeights, settings: LocalSettings, count: int) -> None:
    labels = make_labels(count, 12)
    ours = dict(train_locally(encoder, labels, settings, round=1, seed=3).tensors)
    plain = plain_descent(encoder, labels, settings, 3)
    assert distance(plain, ours) <= 2e-5
    for name in SHARED_SHAPES:
        assert np.linalg.norm(plain[name] - ours[name]) <= 1e-4 * np.linalg.norm(plain[name]), name


def test_a_pull_back_shortens_the_change(encoder: EncoderWeights) -> None:
    free = train_locally(encoder, PEOPLE[2], LocalSettings(steps=5, alignment=0.1), round=1, seed=1).norm
    assert (
        train_locally(
            encoder, PEOPLE[2], LocalSettings(steps=5, proximal=5.0, alignment=0.1), round=1, seed=1
        ).norm
        < 0.8 * free
    )


# --- the same for the same seed -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(encoder: EncoderWeights) -> None:
    one, same, other = (
        train_locally(encoder, PEOPLE[4], LocalSettings(steps=5, alignment=0.1), round=2, seed=seed)
        for seed in (9, 9, 2**64 - 1)
    )
    assert one == same
    assert one != other
    assert (one.base, one.round) == (encoder_hash(encoder), 2)


def test_how_many_threads_torch_has_changes_no_bit(encoder: EncoderWeights, threads: None) -> None:
    updates = []
    for count in (1, 2):
        torch.set_num_threads(count)
        updates.append(
            train_locally(encoder, PEOPLE[1], LocalSettings(steps=5, alignment=0.1), round=1, seed=1)
        )
        assert torch.get_num_threads() == count
    assert updates[0] == updates[1]


def test_training_leaves_the_process_generators_alone(encoder: EncoderWeights) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train_locally(encoder, PEOPLE[0], LocalSettings(steps=5, alignment=0.1), round=1, seed=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_of_many_labels_others_are_drawn_for_each_seed(encoder: EncoderWeights) -> None:
    many = make_labels(MOST_LABELS + 30, 4)
    batch = local_training._prepare(encoder, [many], LocalSettings(steps=5, alignment=0.1), [1])
    assert batch["x"].shape[1] == MOST_LABELS
    assert batch["valid"].sum() == MOST_LABELS
    first, second = (
        local_training._prepare(encoder, [many], LocalSettings(steps=5, alignment=0.1), [seed])["phrases"]
        for seed in (1, 2)
    )
    assert {row.tobytes() for row in first[0].numpy()} != {row.tobytes() for row in second[0].numpy()}
    assert train_locally(encoder, many, LocalSettings(steps=5, alignment=0.1), round=1, seed=1).norm > 0


# --- what cannot be trained on ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, LEAST_LABELS - 1])
def test_fewer_than_six_labels_are_refused(encoder: EncoderWeights, count: int) -> None:
    with pytest.raises(OptionError, match=f"{count} labels; local training needs at least 6"):
        train_locally(encoder, make_labels(count, 0), LocalSettings(steps=5, alignment=0.1), round=1, seed=1)
    with pytest.raises(OptionError, match="needs at least 6"):
        list(
            train_together(
                encoder, [PEOPLE[0], make_labels(count, 0)], LocalSettings(steps=5, alignment=0.1), [1, 2]
            )
        )


def test_six_labels_are_enough_whatever_share_is_asked(encoder: EncoderWeights) -> None:
    for share in (0.2, 0.5, 0.8):
        batch = local_training._prepare(
            encoder, [PEOPLE[0]], LocalSettings(steps=5, query_share=share, alignment=0.1), [1]
        )
        fitted = batch["support"].sum(2)
        assert ((fitted >= 1) & (fitted <= 5)).all()
        assert (fitted == fitted[0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["features", "phrases"])
def test_labels_that_are_not_finite_are_refused(name: str, value: float) -> None:
    good = make_labels(8, 0)
    bad = getattr(good, name).copy()
    bad[3, 5] = value
    with pytest.raises(OptionError, match=f"labels: {name}"):
        replace(good, **{name: bad})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("features", (8, PICTURE_FEATURES - 1)),
        ("features", (7, PICTURE_FEATURES)),
        ("phrases", (8, 1)),
        ("phrases", (9, SENTENCE_FEATURES)),
        ("liked", (8, 1)),
    ],
)
def test_labels_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=f"labels: {name}"):
        replace(make_labels(8, 0), **{name: np.zeros(shape, bool if name == "liked" else np.float32)})


# --- people of one mind, and silent ones --------------------------------------------------------------------


@pytest.mark.parametrize("liked", [True, False])
def test_a_person_who_likes_all_or_nothing_still_teaches(encoder: EncoderWeights, liked: bool) -> None:
    labels = replace(make_labels(12, 5), liked=np.full(12, liked))
    assert (
        0 < train_locally(encoder, labels, LocalSettings(steps=5, alignment=0.1), round=1, seed=1).norm < 25
    )


def test_without_a_phrase_the_sentence_side_stays(encoder: EncoderWeights) -> None:
    silent = make_labels(12, 5, spoken=0.0)
    beside = dict(
        train_together(encoder, [silent, make_labels(12, 6)], LocalSettings(steps=5, alignment=0.1), [1, 1])
    )
    assert not any(beside[0][name].any() for name in SENTENCE)
    assert all(beside[1][name].any() for name in SENTENCE)
    assert beside[0]["picture.hidden.weight"].any()


def test_without_alignment_the_sentence_side_stays_and_phrases_do_not_count(encoder: EncoderWeights) -> None:
    settings = LocalSettings(steps=5, alignment=0.0)
    said = train_locally(encoder, make_labels(12, 5), settings, round=1, seed=1)
    silent = replace(make_labels(12, 5), phrases=np.zeros((12, SENTENCE_FEATURES), np.float32))
    assert said == train_locally(encoder, silent, settings, round=1, seed=1)
    assert not any(said.tensors[name].any() for name in SENTENCE)


def test_every_federated_tensor_learns(encoder: EncoderWeights) -> None:
    change = train_locally(encoder, PEOPLE[2], LocalSettings(steps=5, alignment=0.1), round=1, seed=1).tensors
    assert set(change) == set(SHARED_SHAPES)
    for name, shape in SHARED_SHAPES.items():
        assert change[name].shape == shape
        assert change[name].any(), name


# --- learning -----------------------------------------------------------------------------------------------


def make_society(
    teacher: EncoderWeights, people: int, labels: int, seed: int
) -> tuple[list[Labels], list[Labels]]:
    """People who judge by heads of their own on the teacher's taste space and name what they see.

    Their labels, and held-out ones.

    Pictures differ in eight ways, as drawn ones differ in a few dozen.
    """
    rng = np.random.default_rng(seed)
    t = teacher.tensors
    ways = rng.standard_normal((8, PICTURE_FEATURES)) / np.sqrt(8)
    words = rng.standard_normal((TASTE, SENTENCE_FEATURES)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    told, held_out = [], []
    for _ in range(people):
        shown = rng.standard_normal((2 * labels, len(ways))) @ ways
        features = (t["feature.mean"] + 0.5 * t["feature.scale"] * shown).astype(np.float32)
        z = project_pictures(teacher, features)
        kind = rng.choice(len(t["crowd.share"]), p=t["crowd.share"] / t["crowd.share"].sum())
        head = rng.multivariate_normal(t["crowd.mean"][kind], t["crowd.covariance"][kind])
        logits = z @ head[:-1]
        liked = logits > np.median(logits)
        phrases = words[np.argmax(z - z.mean(0), axis=1)]
        for part, into in ((slice(labels), told), (slice(labels, None), held_out)):
            into.append(Labels(features[part], liked[part], phrases[part]))
    return told, held_out


def verdict_loss(encoder: EncoderWeights, told: Labels, asked: Labels) -> float:
    """Cross-entropy of held-out verdicts under the ridge head of the others, by numpy alone."""
    t = {
        name: encoder.tensors[f"crowd.{name}"].astype(np.float64) for name in ("share", "mean", "covariance")
    }
    mean = t["share"] @ t["mean"]
    away = t["mean"] - mean
    spread = np.einsum("k,kij->ij", t["share"], t["covariance"] + away[:, :, None] * away[:, None])
    known, new = (
        np.c_[project_pictures(encoder, one.features), np.ones(len(one))].astype(float)
        for one in (told, asked)
    )
    kernel = known @ spread @ known.T + 4.0 * np.eye(len(told))
    head = mean + spread @ known.T @ np.linalg.solve(kernel, 4.0 * told.liked - 2 - known @ mean)
    return float(np.logaddexp(0, np.where(asked.liked, -1, 1) * (new @ head)).mean())


def picture_found(encoder: EncoderWeights, labels: Labels) -> float:
    """The share of comments whose own picture is nearest to what they say."""
    said = project_sentences(encoder, labels.phrases)
    t = encoder.tensors
    hidden = np.maximum(
        standardize(encoder, labels.features) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"], 0
    )
    tastes = hidden @ t["picture.taste.weight"].T + t["picture.taste.bias"]
    return float((np.argmax(said @ tastes.T, 1) == np.arange(len(labels))).mean())


def test_training_together_foresees_held_out_verdicts_better_and_brings_words_to_pictures(
    encoder: EncoderWeights,
) -> None:
    told, held_out = make_society(encoder, people=30, labels=30, seed=8)
    rng = np.random.default_rng(1)
    worn = encoder.with_shared(  # an encoder that has forgotten a good part
        {
            name: (tensor + tensor.std() * rng.standard_normal(tensor.shape)).astype(np.float32)
            for name, tensor in encoder.shared().items()
        }
    )
    now = worn
    settings = LocalSettings(steps=5, alignment=0.1)
    for turn in range(32):
        changes = dict(train_together(now, told, settings, range(100 * turn, 100 * turn + 30)))
        mean = {name: np.mean([changes[i][name] for i in changes], 0) for name in SHARED_SHAPES}
        now = now.with_shared({name: now.tensors[name] + 2 * mean[name] for name in SHARED_SHAPES})
    before, after = (
        float(np.mean([verdict_loss(one, *pair) for pair in zip(told, held_out, strict=True)]))
        for one in (worn, now)
    )
    assert after < before - 0.02
    found = [float(np.mean([picture_found(one, labels) for labels in held_out])) for one in (worn, now)]
    assert found[1] > found[0] + 0.1  # of 30 pictures: by chance 0.03
