"""A server that asks encoders learns nothing from what a device says.

Where devices tell that training failed, it learns everything.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from palate.client.federation import local_training, masked_answers
from palate.client.federation.local_training import LEAST_LABELS, Labels
from palate.client.federation.task_limits import FARTHEST, MASKING, TRAINING
from palate.shared.encoder import PICTURE_FEATURES, SHARED_SHAPES, EncoderWeights, load_encoder
from palate.shared.secure_sum.frame import ADVERT, MASKED, REVEALED, SHARES
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.update import LocalSettings, norm_of
from palate.simulations.attacks.oracle import (
    FREE,
    LOUDEST,
    TAKEN,
    Seen,
    answer_now,
    answer_openly,
    ask_now,
    ask_openly,
    labels_of,
    make_targets,
    watch,
)

OWN = load_encoder()
TARGETS = make_targets(OWN, 30)
WHOLE = (ADVERT, SHARES, MASKED, REVEALED)
RNG = np.random.default_rng(7)
OTHERS = [labels_of(OWN, RNG.standard_normal((12, PICTURE_FEATURES)), RNG) for _ in range(2)]


@pytest.fixture
def gullible(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Devices that go along with any encoder and settings, and train without a bound.

    Nothing but the change of nothing is left.
    """
    for check in ("check_settings", "check_encoder"):
        monkeypatch.setattr(masked_answers, check, lambda *_: None)
    monkeypatch.setattr(local_training, "BOUND", math.inf)
    return


def kinds(seen: Seen) -> tuple[int | str, ...]:
    return tuple(one if isinstance(one, str) else one[0] for one in seen.answers)


def test_where_devices_tell_that_training_failed_the_attack_is_right() -> None:
    """The control: without it the other tests would say nothing."""
    right = [ask_openly(OWN, target) == target.truth for target in TARGETS[:6]]
    assert right == [True] * 6


def test_the_attack_as_it_was_is_declined_by_all_thirty_alike_before_a_label_is_read() -> None:
    pairs = [ask_now(OWN, target, taken=False) for target in TARGETS]
    assert {one for pair in pairs for one in pair} == {Seen(("SETTINGS_REFUSED",), "", ())}


@pytest.mark.parametrize("count", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_what_is_seen_within_a_devices_ranges_is_what_would_be_seen_of_the_twin(count: int) -> None:
    pairs = [ask_now(OWN, target, taken=True) for target in TARGETS[:count]]
    assert all(one == twin for one, twin in pairs)
    assert {kinds(one) for one, _ in pairs} == {WHOLE}
    assert all(len(one.notes) == 1 and one.spent for one, _ in pairs)


@pytest.mark.slow
@pytest.mark.usefixtures("gullible")
def test_thirty_people_who_go_along_with_everything_answer_as_their_twins_would() -> None:
    pairs = [ask_now(OWN, target, taken=False) for target in TARGETS]
    assert all(one == twin for one, twin in pairs)
    assert {kinds(one) for one, _ in pairs} == {WHOLE}


@pytest.mark.usefixtures("gullible")
def test_training_that_fails_is_booked_noted_and_sent_like_any_other() -> None:
    target = TARGETS[0]
    encoder = watch(OWN, target.question)
    failing = [seed for seed in range(8) if answer_openly(encoder, target.labels, LOUDEST, seed) == "failed"]
    assert failing
    assert answer_openly(encoder, target.twin, LOUDEST, failing[0]) == "vector"
    one, twin = (
        answer_now(OWN, encoder, labels, OTHERS, LOUDEST, FREE, failing[0])
        for labels in (target.labels, target.twin)
    )
    assert one == twin
    assert kinds(one) == WHOLE
    assert len(one.notes) == 1
    assert '"rounds": 1' in one.spent


@pytest.mark.parametrize("count", [0, 1, LEAST_LABELS - 1])
def test_too_few_labels_look_like_any_number(count: int) -> None:
    few = labels_of(OWN, np.zeros((count, PICTURE_FEATURES)), np.random.default_rng(1))
    seen = [answer_now(OWN, OWN, one, OTHERS, LocalSettings(), TAKEN, 3) for one in (few, OTHERS[0])]
    assert seen[0] == seen[1]
    assert kinds(seen[0]) == WHOLE


def test_pictures_that_cannot_be_looked_at_look_like_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = answer_now(OWN, OWN, OTHERS[0], OTHERS, LocalSettings(), TAKEN, 3)

    def fail(*_: object, **__: object) -> None:
        raise OSError("a picture is gone")

    monkeypatch.setattr(local_training, "train_locally", fail)
    assert answer_now(OWN, OWN, OTHERS[0], OTHERS, LocalSettings(), TAKEN, 3) == before


def test_a_change_that_cannot_be_made_levels_looks_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.shared.errors import OptionError

    before = answer_now(OWN, OWN, OTHERS[0], OTHERS, LocalSettings(), TAKEN, 3)
    privatize = masked_answers.privatize

    def fail(update: object, *arguments: object, **options: object) -> object:
        if np.any(update.vector):  # type: ignore[attr-defined]
            raise OptionError("not finite")
        return privatize(update, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(masked_answers, "privatize", fail)
    assert answer_now(OWN, OWN, OTHERS[0], OTHERS, LocalSettings(), TAKEN, 3) == before


# --- any encoder and any settings within a device's ranges --------------------------------------------------

numbers = {
    name: some.floats(max(low, 1e-6), high) for name, (low, high) in TRAINING.items() if name != "steps"
}
local = some.builds(LocalSettings, steps=some.integers(*map(int, TRAINING["steps"])), **numbers)
masking = some.builds(
    MaskSettings,
    ring_bits=some.integers(*map(int, MASKING["ring_bits"])),
    clip=some.floats(*MASKING["clip"]),
    step=some.sampled_from([1e-6, 1e-4, 1e-3]),
    noise=some.floats(10.0, MASKING["noise"][1]),
    least=some.just(2),
)


def odd_encoder(seed: int, shape: str) -> EncoderWeights:
    """An encoder as far off as is taken: in a random direction, in few weights, or in the biases."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, sizes in SHARED_SHAPES.items():
        step = rng.standard_normal(sizes).astype(np.float32)
        if shape == "few":
            step *= rng.random(sizes) < 0.001
        elif shape == "dead" and name == "picture.hidden.bias":
            step = -np.abs(step)
        length = norm_of(step)
        made[name] = OWN.tensors[name] + step * np.float32(0.99 * FARTHEST[name] / length if length else 0)
    return OWN.with_shared(made)


def odd_labels(seed: int) -> Labels:
    """Labels as odd as pictures and words can make them: far out, all alike, without words, all liked."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 70))
    x = rng.standard_normal((count, PICTURE_FEATURES)) * rng.choice([0.0, 1.0, 1e3, 1e30])
    made = labels_of(OWN, np.clip(x, -1e30, 1e30), rng)
    phrases = made.phrases * np.float32(rng.choice([0.0, 1e-30, 1.0]))
    return Labels(made.features, made.liked | bool(rng.random() < 0.3), phrases)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(local, masking, some.integers(0, 2**32), some.sampled_from(["any", "few", "dead"]))
def test_no_encoder_and_no_settings_that_are_taken_tell_people_apart(
    asked: LocalSettings, masks: MaskSettings, seed: int, shape: str
) -> None:
    encoder = odd_encoder(seed, shape)
    seen = {
        answer_now(OWN, encoder, odd_labels(seed + place), OTHERS, asked, masks, seed % 1000)
        for place in range(3)
    }
    assert len(seen) == 1


@settings(max_examples=25, deadline=None)
@given(local, some.integers(0, 2**32), some.sampled_from(["any", "few", "dead"]))
def test_within_its_ranges_training_always_comes_to_numbers(
    asked: LocalSettings, seed: int, shape: str
) -> None:
    labels = odd_labels(seed)
    if len(labels) >= LEAST_LABELS:
        update = local_training.train_locally(odd_encoder(seed, shape), labels, asked, round=1, seed=seed)
        assert math.isfinite(update.norm)
