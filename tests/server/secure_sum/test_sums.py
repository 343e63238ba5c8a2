"""What the server believes of masked sums: too long is thrown away, longer than lately is scaled down, votes
are checked."""

import hashlib
import math

import numpy as np
import pytest

from palate.server.secure_sum.clipping import ROOM
from palate.server.secure_sum.privacy import Privacy, mask_settings
from palate.server.secure_sum.reach import AGREED, longest_of_honest
from palate.server.secure_sum.sums import TOTAL, Believed, believe, told_of
from palate.shared.coding import VOTE, to_levels
from palate.shared.noise import discrete_gaussian, stream_of
from palate.shared.rotation import rotated
from palate.shared.secure_sum.masks import MaskSettings

DEVICES, CLIP, COUNT = 300, 0.1, 4096
PRIVACY = Privacy(
    honest_share=1.0, noise_multiplier=0.4, clip=CLIP, group_size=0
)  # as long in the mean as that of 900 devices with 1.21
SEED = bytes(32)
SOURCE = stream_of(hashlib.sha256(b"sums").digest())


def masks_of(devices: int = DEVICES) -> MaskSettings:
    return mask_settings(PRIVACY, CLIP, least=devices, most=devices)


def honest_sum(
    agreed: float = 0.08, devices: int = DEVICES, longer: float = 0.5, seed: int = 1
) -> np.ndarray:
    """Levels of people who have a part in common, a part of whom are longer than the clip, with
    their noise."""
    masks, rng = masks_of(devices), np.random.default_rng(seed)
    common = np.random.default_rng(99).standard_normal(COUNT)
    common *= agreed / np.linalg.norm(common)
    total = np.zeros(COUNT + 1, np.int64)
    for number in range(devices):
        own = rng.standard_normal(COUNT)
        change = common + own * math.sqrt(1 - agreed**2) / np.linalg.norm(own)
        length = CLIP * (1.2 if number < longer * devices else 0.9)
        total += to_levels(change * length, step=masks.step, clip=CLIP, seed=SEED, rng=rng)
    return total + discrete_gaussian(masks.noise * math.sqrt(devices), COUNT + 1, SOURCE)


def lied(total: np.ndarray, length: float, votes: float = 0.0) -> np.ndarray:
    """The sum with what a liar adds: so long a vector (L2), and so much in the count of votes."""
    way = np.zeros(COUNT)
    way[:64] = 1 / 8
    return total + np.rint(rotated(np.append(way * length, votes), SEED) / masks_of().step).astype(np.int64)


def believed(
    *totals: np.ndarray,
    memory: dict[str, np.ndarray] | None = None,
    privacy: Privacy = PRIVACY,
    devices: int = DEVICES,
) -> Believed:
    return believe(
        [(total, devices) for total in totals],
        masks_of(devices),
        privacy,
        memory or {},
        clip=CLIP,
        rotation=SEED,
        release=0,
    )


@pytest.fixture(scope="module")
def honest() -> np.ndarray:
    return honest_sum()


def after_rounds(rounds: int = 5) -> dict[str, np.ndarray]:
    memory: dict[str, np.ndarray] = {}
    for number in range(rounds):
        memory = believed(honest_sum(seed=number), memory=memory).memory
    return memory


@pytest.fixture(scope="module")
def memory() -> dict[str, np.ndarray]:
    return after_rounds()


def test_no_sum_is_no_change() -> None:
    assert believed().mean is None


def test_honest_sums_are_kept_whole(honest: np.ndarray, memory: dict[str, np.ndarray]) -> None:
    for known in ({}, memory):
        found = believed(honest, memory=known)
        assert found.refused == {}
        assert found.told["scaled"] == 0
        assert found.counts == [DEVICES]


def test_what_all_devices_together_could_do_is_no_longer_let_through(honest: np.ndarray) -> None:
    assert believed(lied(honest, 0.8 * DEVICES * CLIP)).refused == {"long": 1}
    assert believed(lied(honest, 0.8 * DEVICES * CLIP)).mean is None


def test_a_sum_that_is_longer_than_lately_is_scaled_down_to_that(
    honest: np.ndarray, memory: dict[str, np.ndarray]
) -> None:
    long = lied(honest, longest_of_honest(DEVICES, CLIP, 0.15))
    assert believed(long).told["scaled"] == 0  # where nothing is known yet
    found = believed(long, memory=memory)
    assert found.told["scaled"] == 1
    assert found.refused == {}
    plain = believed(honest, memory=memory)
    assert found.told["mean_norm"] < 1.7 * plain.told["mean_norm"]


def test_the_noise_of_all_rounds_and_what_was_learned_are_told_apart(memory: dict[str, np.ndarray]) -> None:
    told = told_of(memory, 0)
    each = masks_of().step * math.hypot(masks_of().noise, 0.5) * math.sqrt(COUNT / DEVICES)
    assert told["total_noise_norm"] == pytest.approx(each * math.sqrt(5), rel=1e-3)
    assert told["total_signal_norm"] == pytest.approx(5 * 0.08 * CLIP, rel=0.25)


def test_the_sum_of_all_rounds_begins_anew_with_a_release(
    honest: np.ndarray, memory: dict[str, np.ndarray]
) -> None:
    masks = masks_of()
    found = believe([(honest, DEVICES)], masks, PRIVACY, memory, clip=CLIP, rotation=SEED, release=1)
    assert found.mean is not None
    assert np.array_equal(found.memory[TOTAL], found.mean)
    assert told_of(found.memory, 0) == {}


def test_noise_alone_is_seen_as_such() -> None:
    masks = masks_of()
    total = discrete_gaussian(masks.noise * math.sqrt(DEVICES), COUNT + 1, SOURCE)
    told = believed(total).told
    assert told["total_signal_norm"] < told["total_noise_norm"] / 3


# --- votes --------------------------------------------------------------------------------------------------


def test_a_count_that_no_devices_could_have_given_leaves_the_clip(honest: np.ndarray) -> None:
    votes = DEVICES * VOTE * CLIP
    for lie in (3 * votes, -3 * votes, 40 * votes):
        found = believed(lied(honest, 0.0, lie))
        assert found.refused == {"vote": 1}
        assert found.clip == CLIP
        assert found.mean is not None  # the change itself is taken


@pytest.mark.parametrize("side", [-1, 1])
def test_a_liar_in_each_of_twenty_rounds_moves_the_clip_of_one_sum_by_a_fifth_at_the_most(
    honest: np.ndarray, side: int
) -> None:
    clip = CLIP
    for _ in range(20):
        masks = mask_settings(PRIVACY, clip, least=DEVICES, most=DEVICES)
        most = DEVICES * VOTE * clip
        vote = rotated(np.append(np.zeros(COUNT), side * most), SEED) / masks.step
        found = believe(
            [(np.rint(vote).astype(np.int64), DEVICES)],
            masks,
            PRIVACY,
            {},
            clip=clip,
            rotation=SEED,
            release=0,
        )
        assert found.refused == {}
        clip = found.clip
    assert clip == pytest.approx(CLIP * ROOM**-side)


def test_one_liar_moves_the_median_of_groups_little_and_honest_groups_carry_the_clip_where_it_should_be() -> (
    None
):
    privacy = Privacy(noise_multiplier=0.0, clip=CLIP, group_size=20)
    masks = mask_settings(privacy, CLIP, least=14, most=39)

    def group(longer: float, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        changes = rng.standard_normal((20, COUNT))
        changes /= np.linalg.norm(changes, axis=1, keepdims=True)
        lengths = CLIP * np.where(rng.random(20) < longer, 1.2, 0.8)
        levels = [
            to_levels(v * n, step=masks.step, clip=CLIP, seed=SEED, rng=rng)
            for v, n in zip(changes, lengths, strict=True)
        ]
        return np.asarray(sum(levels))

    def clip_after(groups: list[np.ndarray]) -> float:
        return believe(
            [(total, 20) for total in groups],
            masks,
            privacy,
            {},
            clip=CLIP,
            rotation=SEED,
            release=0,
        ).clip

    honest = [group(0.5, seed) for seed in range(10)]
    for votes in (20 * VOTE * CLIP, -20 * VOTE * CLIP):
        lie = np.rint(rotated(np.append(np.zeros(COUNT), votes), SEED) / masks.step).astype(np.int64)
        assert clip_after([*honest[:-1], lie]) == pytest.approx(clip_after(honest), rel=0.02)
    clip = CLIP
    for seed in range(30):
        found = believe(
            [(group(0.95, 100 + 10 * seed + n), 20) for n in range(6)],
            masks,
            privacy,
            {},
            clip=clip,
            rotation=SEED,
            release=0,
        )
        clip = found.clip
        if clip > 1.5 * CLIP:
            break
    assert clip > 1.5 * CLIP  # farther than one sum may


def test_what_is_remembered_has_names_of_its_own(memory: dict[str, np.ndarray]) -> None:
    assert set(memory) == {AGREED, TOTAL, "totals"}
    assert all(one.dtype == np.float32 for one in memory.values())
