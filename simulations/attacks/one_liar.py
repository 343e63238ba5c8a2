"""One device in each round lies, among hundreds that are honest, in the recommended private run.

What it does to the encoder.

Where it stands in the flow: `benchmarks.one_liar` runs it for each aim, with the server's bounds and without.
People train with the device's own function, changes become levels with its own, noise is drawn for the sum as
for devices together, and the total goes through the ring; the server's own functions take it from there. The
liar is strong (Kerckhoffs' principle): it knows the encoder, what all the honest ones send, the bound and
what it was computed from, and only the noise it does not know. Under masks its vector may be as long as the
ring is wide, so it sends what moves the sum as far its way as is kept.

    nobody       everybody is honest
    negate       each attribute reads as its opposite
    shuffle      each attribute reads as the next one
    backdoor     misty reads as neon, and everything else stays
    vote         honest changes; the liar votes for a longer clip as much as may be
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from palate.client.federation.local_training import Labels, train_together
from palate.client.runtime.threads import one_thread
from palate.server.aggregation import moved
from palate.server.releases.acceptance import accept, faults, kept_of
from palate.server.rounds.loop import derive_seed
from palate.server.secure_sum.clipping import next_clip
from palate.server.secure_sum.groups import drop_long, longest_sum
from palate.server.secure_sum.privacy import Privacy, mask_settings
from palate.server.secure_sum.reach import CEILING_IN_SUBSPACE, share_of
from palate.server.secure_sum.sampling import poisson_cohort
from palate.server.secure_sum.sums import Believed, believe
from palate.server.secure_sum.trust_region import held_near, taste_logits
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.arrays import Float32s, Levels
from palate.shared.coding import VOTE, decode_model, encode_model, from_levels, to_levels
from palate.shared.encoder import ATTRIBUTE_NAMES, EncoderWeights, encoder_hash
from palate.shared.noise import discrete_gaussian, stream_of
from palate.shared.public_pictures import load_public_pictures
from palate.shared.rotation import rotated
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.ring import centred, to_ring
from palate.shared.subspace import Subspace
from palate.shared.update import EncoderUpdate
from palate.simulations.crowd.population import Stranger
from palate.simulations.experiments.methods import understand
from palate.simulations.experiments.private_rounds import coins

AIMS: Final = ("nobody", "negate", "shuffle", "backdoor", "vote")
FROM, TO = "misty", "neon"  # of the backdoor
MARGIN: Final = 0.98  # of the longest that is kept: the liar does not know the noise


@dataclass(frozen=True)
class OneLiarOutcome:
    """What a run came to.

    Correlations are of the attributes' logits on public pictures with those of the start.
    """

    accuracy: float  # of people who took no part, pairwise
    least_correlation: float
    mean_correlation: float
    own: float  # the backdoor's attribute with itself
    other: float  # and with the one that it is to read as
    kept: float  # the least of `acceptance.kept_of`
    noise_over_signal: float
    released: bool  # by `acceptance.faults`
    clip: float  # at the end, over that of the settings
    rounds: int  # that counted
    liar: float  # longest part of a liar in a sum, in clips
    held: int  # tastes at the edge of the trust region in the last round


def run_with_one_liar(
    release: EncoderWeights,
    subspace: Subspace,
    people: Sequence[Labels],
    strangers: Sequence[Stranger],
    settings: RunSettings,
    aim: str,
    *,
    bounded: bool = True,
    seed: int = 1,
) -> OneLiarOutcome:
    """Run all rounds of the settings and return what became of the encoder.

    Each person takes part with the same chance, `settings.devices` of them on average.

    Args:
        release: where the run starts.
        subspace: that changes travel in.
        people: everybody's labels.
        strangers: people who judge the outcome.
        settings: of the run, with masks.
        aim: what the liar wants, one of `AIMS`.
        bounded: with the server's bounds; False is the positive control.
        seed: of cohorts, training and noise.

    Raises:
        ValueError: the aim is unknown, or the settings have no masks.
    """
    if aim not in AIMS or settings.privacy is None:
        raise ValueError(f"{aim!r} is no aim, or there are no masks; the aims are {', '.join(AIMS)}")
    privacy = replace(settings.privacy, group_size=settings.privacy.group_size or 0)
    encoder, memory, clip = release, dict[str, Float32s](), privacy.clip
    rounds, liar, held = 0, 0.0, 0
    source = stream_of(hashlib.sha256(f"palate one liar {seed}".encode()).digest())
    for number in range(1, settings.rounds + 1):
        chance = settings.devices / len(people)
        cohort = poisson_cohort(range(len(people)), chance, coins(seed, number))
        masks = mask_settings(privacy, clip, least=settings.least, most=max(settings.least, len(cohort)))
        context = hashlib.sha256(f"palate one liar {seed} {number}".encode()).digest()
        sent = decode_model(encode_model(encoder, release, privacy.model_bits), release)
        total = _honest_sum(
            sent, [people[i] for i in cohort], settings, masks, subspace, context, seed, number
        )
        share = share_of(memory, CEILING_IN_SUBSPACE) if bounded else 1.0
        lie, voted = _lie(aim, sent, subspace, total, len(cohort), masks, context, share, bounded)
        liar = max(liar, float(np.linalg.norm(lie)) / clip)
        total = total + np.rint(rotated(np.append(lie, voted), context) / masks.step).astype(np.int64)
        noise = discrete_gaussian(masks.noise * math.sqrt(len(cohort)), len(total), source)
        total = centred(to_ring(total + noise, privacy.ring_bits), privacy.ring_bits)
        judge = believe if bounded else _believe_as_before
        found = judge(
            [(total, len(cohort))],
            masks,
            privacy,
            memory,
            clip=clip,
            rotation=context,
            release=release.release,
        )
        clip = found.clip
        if found.mean is None:
            continue
        rounds += 1
        update = EncoderUpdate(encoder_hash(sent), number, subspace.change(found.mean))
        vector, kept = average(settings, number, [update], memory)
        memory = {**kept, **found.memory}
        encoder = moved(encoder, vector)
        if bounded:
            encoder, held = held_near(encoder, release)
    accuracy = float(understand(encoder, strangers, comments=False).mean())
    return _outcome(encoder, release, memory, accuracy, clip / privacy.clip, rounds, liar, held)


def _honest_sum(
    encoder: EncoderWeights,
    people: Sequence[Labels],
    settings: RunSettings,
    masks: MaskSettings,
    subspace: Subspace,
    context: bytes,
    seed: int,
    number: int,
) -> Levels:
    """Return the sum of honest devices' levels, without noise, (d + 1,)."""
    total = np.zeros(subspace.count + 1, np.int64)
    seeds = [derive_seed(seed, number) % 2**62] * len(people)
    rng = np.random.default_rng([seed, number])
    with one_thread():
        for _, change in train_together(encoder, people, settings.local, seeds):
            vector = subspace.coordinates(change)
            total += to_levels(vector, step=masks.step, clip=masks.clip, seed=context, rng=rng)
    return total


def _lie(
    aim: str,
    encoder: EncoderWeights,
    subspace: Subspace,
    total: Levels,
    devices: int,
    masks: MaskSettings,
    context: bytes,
    share: float,
    bounded: bool,
) -> tuple[Float32s, float]:
    """Return what the liar adds to the sum: a change (d,), and what it adds to the count of votes."""
    nothing = np.zeros(subspace.count, np.float32)
    votes = devices * VOTE * masks.clip
    if aim == "nobody":
        return nothing, 0.0
    mean, below = from_levels(total, devices, step=masks.step, clip=masks.clip, seed=context)
    if aim == "vote":
        return nothing, -votes * (2 * below - 1) - votes  # so that nobody seems to be shorter than the clip
    way = direction(aim, encoder, subspace).astype(np.float64)
    honest = mean.astype(np.float64) * devices
    noise = masks.step * math.hypot(masks.noise, 0.5)
    d = len(way)

    def longest(share: float) -> float:
        return longest_sum(devices, clip=masks.clip, noise=noise, coordinates=d, share=share)

    expected = d * noise**2 * devices

    def part(bound: float) -> float:
        """Return how long the liar's part may be for a sum of this length, with the likely noise."""
        along = float(honest @ way)
        room = along**2 + (MARGIN * bound) ** 2 - expected - float(honest @ honest)
        return max(0.0, math.sqrt(max(0.0, room)) - along)

    near = part(longest(share))
    if not bounded:
        return (near * way).astype(np.float32), 0.0
    far = part(longest(CEILING_IN_SUBSPACE))  # is scaled down to the other bound, and the liar's part with it
    after = far * min(1.0, longest(share) / (MARGIN * longest(CEILING_IN_SUBSPACE)))
    return ((far if after > near else near) * way).astype(np.float32), 0.0


def direction(aim: str, encoder: EncoderWeights, subspace: Subspace) -> Float32s:
    """Return the way in which an aim wants the last layer to move, in the subspace's coordinates.

    (d,), of length 1.
    """
    t = encoder.tensors
    layer = np.concatenate([t["picture.taste.weight"], t["picture.taste.bias"][:, None]], axis=1).astype(
        np.float64
    )
    rows = layer @ np.linalg.pinv(
        subspace.directions.astype(np.float64).T
    )  # (64, rank): coordinates of what it says
    wanted = np.zeros_like(rows)
    names = len(ATTRIBUTE_NAMES)
    if aim == "negate":
        wanted[:names] = -rows[:names]
    elif aim == "shuffle":
        wanted[:names] = np.roll(rows[:names], 1, axis=0) - rows[:names]
    elif aim == "backdoor":
        place, other = ATTRIBUTE_NAMES.index(FROM), ATTRIBUTE_NAMES.index(TO)
        wanted[place] = rows[other] - rows[place]
    else:
        raise ValueError(f"{aim!r} wants no way to move; negate, shuffle and backdoor do")
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    wanted = np.divide(wanted, lengths, out=np.zeros_like(wanted), where=lengths > 0)
    return np.asarray(wanted.ravel() / np.linalg.norm(wanted), dtype=np.float32)


def _believe_as_before(
    sums: Sequence[tuple[Levels, int]],
    masks: MaskSettings,
    privacy: Privacy,
    *_: object,
    clip: float,
    rotation: bytes,
    **__: object,
) -> Believed:
    """Return what a server without the bounds makes of one sum: the positive control."""
    ((total, devices),) = sums
    mean, share = from_levels(total, devices, step=masks.step, clip=clip, seed=rotation)
    noise = masks.step * math.hypot(masks.noise, 0.5)
    if not drop_long(mean[None], [devices], clip=clip, noise=noise).all():
        return Believed(clip=clip, refused={"long": 1})
    return Believed(mean, [devices], next_clip(clip, share, privacy.clip_rule))


def _outcome(
    encoder: EncoderWeights,
    release: EncoderWeights,
    memory: Mapping[str, Float32s],
    accuracy: float,
    clip: float,
    rounds: int,
    liar: float,
    held: int,
) -> OneLiarOutcome:
    public = load_public_pictures()
    names = len(ATTRIBUTE_NAMES)
    now, then = (taste_logits(one, public.features)[:, :names] for one in (encoder, release))
    same = np.array([np.corrcoef(now[:, i], then[:, i])[0, 1] for i in range(names)])
    place, other = ATTRIBUTE_NAMES.index(FROM), ATTRIBUTE_NAMES.index(TO)
    tried = accept(release, encoder, memory, first=release)
    return OneLiarOutcome(
        accuracy=accuracy,
        least_correlation=float(same.min()),
        mean_correlation=float(same.mean()),
        own=float(same[place]),
        other=float(np.corrcoef(now[:, place], then[:, other])[0, 1]),
        kept=float(kept_of(encoder, release, public).min()),
        noise_over_signal=tried.noise_over_signal,
        released=not faults(tried),
        clip=clip,
        rounds=rounds,
        liar=liar,
        held=held,
    )
