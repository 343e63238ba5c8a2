"""Attacks on ourselves: each must succeed where nothing is hidden, and be at chance where something is."""

import hashlib

import numpy as np
import pytest
import torch

from palate.client.federation import local_training
from palate.client.federation.local_training import Labels, train_locally
from palate.client.federation.privatize import privatize
from palate.shared.coding import finest_step, from_levels
from palate.shared.encoder import (
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    SHARED_SHAPES,
    flatten,
    load_encoder,
    standardize,
)
from palate.shared.noise import stream_of
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.ring import centred, mask_of, to_ring
from palate.shared.update import EncoderUpdate, LocalSettings
from palate.simulations.attacks import leaks
from palate.simulations.attacks.leaks import best_cosines, infer_preferences, invert_layer, match_gradient

ENCODER = load_encoder()
CONTEXT = hashlib.sha256(b"a round").digest()
COHORT = 50


def labels(count: int, person: int, pictures: int | None = None) -> Labels:
    """`count` labels of so many pictures, as many as labels unless told otherwise."""
    rng = np.random.default_rng([11, person])
    t = ENCODER.tensors
    drawn = t["feature.mean"] + t["feature.scale"] * rng.standard_normal(
        (pictures or count, PICTURE_FEATURES)
    )
    features = np.resize(drawn, (count, PICTURE_FEATURES)).astype(np.float32)
    phrases = rng.standard_normal((count, SENTENCE_FEATURES))
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)
    return Labels(features, np.arange(count) % 2 == 0, phrases.astype(np.float32))


def update(given: Labels) -> EncoderUpdate:
    return train_locally(ENCODER, given, LocalSettings(), round=1, seed=3)


def round_settings(noise_multiplier: float) -> MaskSettings:
    clip = update(labels(24, 0)).norm
    step, noise = finest_step(16, COHORT, clip=clip, noise_multiplier=noise_multiplier)
    return MaskSettings(ring_bits=16, step=step, clip=clip, noise=noise)


def key(purpose: str, person: int) -> bytes:
    return hashlib.sha256(f"{purpose} {person}".encode()).digest()


def seen(total: np.ndarray, devices: int, s: MaskSettings) -> np.ndarray:
    return from_levels(total, devices, step=s.step, clip=s.clip, seed=CONTEXT)[0]


def test_a_change_of_nothing_gives_no_candidates_and_no_crash() -> None:
    nothing = np.zeros(flatten(ENCODER.shared()).size, np.float32)
    found = invert_layer(nothing)
    assert not len(found)
    assert (best_cosines(found, np.ones((3, PICTURE_FEATURES), np.float32)) == 0).all()


def test_the_layers_inputs_come_out_of_a_gradient_made_by_hand() -> None:
    x = np.random.default_rng(1).standard_normal(PICTURE_FEATURES).astype(np.float32)
    tensors = {name: np.zeros_like(tensor) for name, tensor in ENCODER.shared().items()}
    slope = np.linspace(-1, 1, 256, dtype=np.float32)
    tensors["picture.hidden.weight"], tensors["picture.hidden.bias"] = slope[:, None] * x, slope
    assert np.allclose(invert_layer(flatten(tensors)), x, atol=1e-5)


@pytest.mark.parametrize("count", [6, 24])
def test_the_attackers_loss_is_the_one_that_a_device_descends(count: int) -> None:
    given, settings = labels(count, 5), LocalSettings(learning_rate=0.5, alignment=0.3)
    given.phrases[::3] = 0
    start = {name: torch.from_numpy(ENCODER.tensors[name].copy()) for name in SHARED_SHAPES}
    batch = local_training._prepare(ENCODER, [given], settings, [3])
    for name in ("x", "phrases"):  # what the attacker searches
        batch[name].requires_grad_()
    slopes = leaks._slopes(start, local_training._head_prior(ENCODER), batch, settings.alignment)
    change = train_locally(ENCODER, given, settings, round=1, seed=3).tensors
    for name in SHARED_SHAPES:
        expected = -settings.learning_rate * slopes[name].detach().numpy()
        assert np.linalg.norm(change[name] - expected) <= 1e-5 * np.linalg.norm(expected), name


def test_a_raw_change_gives_away_the_one_picture_that_was_labelled() -> None:
    given = labels(6, 1, pictures=1)
    found = invert_layer(flatten(update(given).tensors))
    assert best_cosines(found, standardize(ENCODER, given.features[:1]))[0] > 0.95


def test_a_raw_change_gives_away_much_of_24_pictures_and_comments() -> None:
    own, other = labels(24, 2), labels(24, 3)
    vector = flatten(update(own).tensors)
    for layer, of in (
        ("picture.hidden", lambda one: standardize(ENCODER, one.features)),
        ("sentence.taste", lambda one: one.phrases),
    ):
        found = invert_layer(vector, layer)
        near, chance = best_cosines(found, of(own)).mean(), best_cosines(found, of(other)).mean()
        assert near > chance + 0.2


def test_searching_for_a_gradient_finds_more_than_chance_in_a_raw_change() -> None:
    own, other = labels(6, 4), labels(6, 5)
    vector = flatten(update(own).tensors)
    found = match_gradient(ENCODER, vector, np.ones(6, bool), LocalSettings(), seed=3, searches=60)
    assert found.shape == (6, PICTURE_FEATURES)
    near, chance = (best_cosines(found, standardize(ENCODER, one.features)).mean() for one in (own, other))
    assert near > chance + 0.2


def test_neither_attack_finds_anything_in_one_devices_masked_vector() -> None:
    s = round_settings(0.0)
    own = labels(24, 6)
    levels = privatize(update(own), s, CONTEXT, stream_of(key("noise", 6)))
    ring = to_ring(levels, 16) + mask_of(key("mask", 6), len(levels), 16)
    vector = seen(centred(ring & ring.dtype.type(2**16 - 1), 16), 1, s)
    open_vector = seen(levels, 1, s)
    others = [standardize(ENCODER, labels(24, person).features) for person in range(100, 160)]
    truth = standardize(ENCODER, own.features)
    for attack in (
        invert_layer,
        lambda v: match_gradient(ENCODER, v, np.ones(24, bool), LocalSettings(), seed=3, searches=5),
    ):
        found = attack(vector)
        chance = [best_cosines(found, other).mean() for other in others]
        assert best_cosines(found, truth).mean() <= np.quantile(chance, 0.99) + 0.01
    # The control: without the mask the very same levels give the pictures away.
    control = invert_layer(open_vector)
    chance = [best_cosines(control, other).mean() for other in others]
    assert best_cosines(control, truth).mean() > max(chance) + 0.1


def test_a_noised_sum_of_fifty_gives_away_no_ones_pictures() -> None:
    s = round_settings(1.0)
    people = [labels(24, 200 + person) for person in range(8)]
    # Eight who are asked about and 42 who send nothing but their noise: harder to hide in than fifty.
    silent = {name: np.zeros_like(tensor) for name, tensor in ENCODER.shared().items()}
    given = [update(one) for one in people]
    given += [EncoderUpdate(given[0].base, 1, silent)] * (COHORT - len(people))
    levels = [privatize(one, s, CONTEXT, stream_of(key("share", i))) for i, one in enumerate(given)]
    found = invert_layer(seen(np.sum(levels, axis=0), COHORT, s))
    inside = [best_cosines(found, standardize(ENCODER, one.features)).mean() for one in people]
    outside = [
        best_cosines(found, standardize(ENCODER, labels(24, 300 + person).features)).mean()
        for person in range(60)
    ]
    assert np.mean(inside) <= np.quantile(outside, 0.99)


# --- preferences --------------------------------------------------------------------------------------------


def tastes_and_vectors(noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(12)
    tastes = rng.choice([-1.0, 0.0, 1.0], (120, 10))
    return tastes, (tastes @ rng.standard_normal((10, 400)) + noise * rng.standard_normal((120, 400))).astype(
        np.float32
    )


def test_tastes_are_inferred_from_vectors_that_hold_them() -> None:
    tastes, vectors = tastes_and_vectors(1.0)
    found = infer_preferences(vectors[:80], tastes[:80], vectors[80:], tastes[80:])
    assert found.accuracy > 0.95
    assert found.prior < 0.65
    assert found.pairs == int((tastes[80:] != 0).sum())


def test_tastes_are_not_inferred_from_noise() -> None:
    tastes, vectors = tastes_and_vectors(1.0)
    noise = np.random.default_rng(13).standard_normal(vectors.shape).astype(np.float32)
    found = infer_preferences(noise[:80], tastes[:80], noise[80:], tastes[80:])
    assert found.accuracy == pytest.approx(0.5, abs=0.12)
