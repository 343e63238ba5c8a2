"""What would leave this device if it took part now: trained here and shown to its owner, sent nowhere.

Where it stands in the flow: before the door (`outbox`), and apart from it. `palate outbox --preview` and
`palate join --ask` say what the bytes of a round would be, in the same words as the outbox's notes
(`Leaving`; a test compares the two). Then they train with the installed release on the labels at hand, as a
round does, and show what stays here: which tensors change, how long the change is as trained and as clipped,
how much noise is added to it, and which comment moves it most. Nothing here makes wire bytes or opens a
connection; tests hold it to both.

**With too few labels** the very same bytes leave, with a change of nothing under noise and mask: taking part
is no sign of having something to say.

**Which comment moves it most** is found by leaving one out: how similar (cosine) is the change with and
without it? Local training draws at random which labels the head is fitted on, so two changes from the same
labels differ too. Each change is therefore a mean over `DRAWS` draws, and the two that are compared have
different draws. `chance` is the least cosine among several means with all labels: a comment above it cannot
be told from chance.

**How well somebody can tell** that this device took part in one round, who knows every other update and the
encoder, is what the Gaussian mechanism leaves: right with probability Phi(mu / 2), mu = 1 / noise multiplier
(Dong, Roth and Su, "Gaussian differential privacy", JRSS B 2022). Half is guessing. It holds for the noised
sum; against somebody who has this device's part without its mask, there is this device's own noise alone.

The server sets clip and noise in each round's invitation, and the device then checks what they guarantee
against its budget. A preview takes those of the last masked round that this device was in, or else those that
a server begins with by default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.client.eye.backbone import check_backbone
from palate.client.federation.consent import Terms, may_take_part
from palate.client.federation.exposed import what_is_not_protected, what_is_unseen
from palate.client.federation.machine import read_machine
from palate.client.federation.outbox import Leaving, Sent, read_outbox, what_leaves
from palate.client.federation.own_labels import read_labels, teaching_comments
from palate.client.federation.rounds_a_day import invitations_of_the_day
from palate.client.privacy import describe_cost, read_spent, remember
from palate.client.records import Taught
from palate.client.releases import federation_encoder, read_standing
from palate.client.vault.store import Store
from palate.shared.accounting import (
    LEAST_MULTIPLIER,
    MOST_MULTIPLIER,
    Budget,
    epsilon_of_rho,
    rho_of,
    rounds_by_rho,
)
from palate.shared.coding import finest_step, sensitivity_of
from palate.shared.encoder import SHARED_WEIGHTS, EncoderWeights, flatten
from palate.shared.errors import OptionError
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.subspace import Subspace, load_subspace, subspace_hash
from palate.shared.sum_noise import SumNoise, honest_devices, sum_noise
from palate.shared.update import LocalSettings, norm_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from palate.client.device import Device
    from palate.client.federation.local_training import Labels

LAST = 8
"""How many of the newest comments are each left out once."""

DRAWS = 32
CHANCES = 6  # means with all labels that are compared for what chance does

NO_SERVER = "no server yet"

USUAL_CLIP, USUAL_NOISE = 0.15, 4.0
"""Clipping norm (L2) and noise multiplier of the sum in a server's first round, by default."""

RING_BITS = (16, 20, 24, 32)


@dataclass(frozen=True)
class PreviewedTensor:
    """One tensor of the change, and its L2 norm as trained and as clipped."""

    name: str
    shape: tuple[int, ...]
    norm: float
    norm_clipped: float  # of the part that is sent


@dataclass(frozen=True)
class Influence:
    """What one comment does to the change: the cosine between the changes with and without it.

    1 is no effect.
    """

    comment: str  # its id
    words: str  # the person's own: for the screen, never in a file or JSON
    liked: bool
    cosine: float


@dataclass(frozen=True)
class Noise:
    """Noise against signal, as L2 norms over all numbers that are sent.

    For this device alone, and for the smallest sum that it agrees to.
    """

    devices: int  # in that sum
    signal: float  # this device's part, clipped
    own: float  # expected norm of the noise that this device adds
    in_sum: float  # expected norm of the noise in the sum
    multiplier: float  # standard deviation of the counted noise over the longest change of one device
    multiplier_if_all_add: float  # the same of all devices' noise
    multiplier_alone: float  # the same of this device's own noise
    guess: float  # how often the best guess from the sum, whether this device took part, is right: 0.5 to 1


@dataclass(frozen=True)
class Preview:
    """What would leave now, and what stays here. With fewer than `least_labels` labels all norms are 0."""

    labels: int
    least_labels: int
    release: int
    leaving: Leaving  # the bytes of a masked round, as the outbox notes them
    noise: Noise
    leaving_unmasked: Leaving | None = None  # None unless rounds without masks are agreed to
    norm: float = 0.0  # L2, of the change in the directions that are sent, as are the next two
    norm_clipped: float = 0.0
    clip: float = 0.0
    from_last_round: bool = (
        False  # clip and noise are those of the last masked round, not what servers begin with
    )
    epsilon_spent: float = 0.0  # of the person's budget, by masked rounds so far
    epsilon_after: float | None = None  # after one more such round; None if the budget does not hold it
    epsilon_after_if_all_add: float | None = None  # the same, if the other devices also add their noise
    epsilon_after_alone: float | None = None  # the same, if none of them does
    epsilon_budget: float = 0.0
    stays_out: str = ""  # why this device would answer no masked round now, though there are labels
    tensors: tuple[PreviewedTensor, ...] = ()
    chance: float = 1.0
    influences: tuple[Influence, ...] = ()  # the one that moves the change most first
    unseen: tuple[str, ...] = ()
    unprotected: tuple[str, ...] = ()

    @property
    def learned(self) -> bool:
        """Return whether there is anything of the person's in what would leave."""
        return self.labels >= self.least_labels

    def to_json(self) -> dict[str, Any]:
        """Return the preview as `palate outbox --preview --json` prints it, without the comments' words."""
        content = asdict(self) | {"learned": self.learned}
        for one in content["influences"]:
            del one["words"]
        return content


def preview_device(device: Device, terms: Terms, now: datetime, *, last: int = LAST) -> Preview:
    """Train on a device's labels as they are now, and return what would leave.

    Args:
        device: an open device.
        terms: the terms, agreed to or not.
        now: the time, with a zone.
        last: how many of the newest comments are each left out once.

    Raises:
        VaultError: what the vault raises.
    """
    check_backbone()
    remember(device.vault)
    labels, _ = read_labels(device)
    notes = [note for note in read_outbox(device.vault) if note.masked]
    last_note = notes[-1] if notes else None
    masks = usual_round(terms.least_devices, last_note, honest_share=terms.counted_share)
    pinned = bool(terms.release_key) or read_standing(device.vault).key is not None
    seen = preview_update(
        federation_encoder(device.vault),
        labels,
        teaching_comments(device),
        terms,
        masks=masks,
        last=last,
        release_key_pinned=pinned,
    )
    noise = seen.noise
    sure = SumNoise(noise.multiplier, noise.multiplier_if_all_add, noise.multiplier_alone)
    spent, after, *others = _ask_budget(device.vault, terms, sure)
    today = invitations_of_the_day(device.vault, now)
    permission = may_take_part(terms, read_machine(terms.conditions()), today)
    reasons = [] if permission.allowed else [permission.reason]
    if after is None:
        budget = f"epsilon {terms.epsilon:g} at delta {terms.delta:g}"
        reasons.append(f"one more such round would pass your privacy budget, {budget}")
    return replace(
        seen,
        from_last_round=bool(notes),
        epsilon_spent=spent,
        epsilon_after=after,
        epsilon_after_if_all_add=others[0],
        epsilon_after_alone=others[1],
        epsilon_budget=terms.epsilon,
        stays_out="; ".join(reasons),
    )


def _ask_budget(
    store: Store, terms: Terms, sure: SumNoise
) -> tuple[float, float | None, float | None, float | None]:
    """Return what is spent at these terms' delta, and after a round: counted, if all add noise, if none.

    The last three are None where the round is above the terms' epsilon.
    """
    spent = read_spent(store)
    before = epsilon_of_rho(spent.rho, terms.delta)
    if sure.counted < LEAST_MULTIPLIER:
        return before, None, None, None
    after, if_all_add, alone = (
        epsilon_of_rho(rho + rho_of(min(multiplier, MOST_MULTIPLIER)), terms.delta)
        for rho, multiplier in (
            (spent.rho, sure.counted),
            (spent.rho_if_all_add, sure.all_add),
            (spent.rho_alone, sure.alone),
        )
    )
    return (before, after, if_all_add, alone) if after <= terms.epsilon else (before, None, None, None)


def usual_round(
    least_devices: int, note: Sent | None = None, count: int | None = None, *, honest_share: float = 0.0
) -> MaskSettings:
    """Return the round that a preview expects: that of the last masked round's note, or the servers' default.

    The ring is the narrowest of the usual ones that holds the sum of `least_devices`.

    Args:
        least_devices: the smallest sum.
        note: on the last masked round, if there was one.
        count: how many numbers are sent, by default those of the installed subspace.
        honest_share: the part of the devices whose noise the server counts on, taken to be the owner's own
            figure.

    Raises:
        OptionError: no ring holds the sum.
    """
    count = load_subspace().count if count is None else count
    clip = note.clip if note is not None and note.clip > 0 else USUAL_CLIP
    multiplier = USUAL_NOISE * math.sqrt(least_devices / honest_devices(honest_share, least_devices))
    for bits in RING_BITS if note is None or not note.bits else (note.bits, *RING_BITS):
        try:
            step, noise = finest_step(
                bits, least_devices, clip=clip, noise_multiplier=multiplier, count=count
            )
        except OptionError:
            continue
        if note is not None and note.clip > 0:
            noise = note.noise / step
        return MaskSettings(ring_bits=bits, step=step, clip=clip, noise=noise, least=least_devices)
    raise OptionError(f"least devices is {least_devices}; no ring holds the sum of so many")


def describe_usual_cost(terms: Terms) -> str:
    """Return in a line what a round costs of the budget with the noise that servers begin with."""
    masks, count = usual_round(terms.least_devices, honest_share=terms.counted_share), load_subspace().count
    noise = measure_noise(0.0, masks, terms.least_devices, count, terms.counted_share)
    multipliers = (noise.multiplier, noise.multiplier_if_all_add, noise.multiplier_alone)
    cost = describe_cost(*(epsilon_of_rho(rho_of(one), terms.delta) for one in multipliers))
    held = rounds_by_rho(Budget(terms.epsilon, terms.delta), noise.multiplier)
    return f"a round as servers begin with {cost}; your budget holds {held:,} such rounds in all"


def preview_update(
    encoder: EncoderWeights,
    labels: Labels,
    comments: Sequence[Taught],
    terms: Terms,
    *,
    settings: LocalSettings | None = None,
    masks: MaskSettings | None = None,
    within: Subspace | None = None,
    last: int = LAST,
    draws: int = DRAWS,
    release_key_pinned: bool = False,
) -> Preview:
    """Return what would leave; the same input gives the same preview.

    Args:
        encoder: the release to train.
        labels: this device's labels.
        comments: those that the labels were made of, in the same order.
        terms: the terms, agreed to or not.
        settings: of local training, by default those that ship.
        masks: of the round, by default `usual_round`.
        within: the subspace in which the change is sent, by default the installed one.
        last: how many of the newest comments are each left out once.
        draws: how many draws a mean change is over.
        release_key_pinned: whether a release key is pinned, in the terms or elsewhere.

    Raises:
        OptionError: not as many comments as labels.
    """
    from palate.client.federation.local_training import LEAST_LABELS, train_locally

    if len(comments) != len(labels):
        raise OptionError(f"{len(comments)} comments for {len(labels)} labels; there must be one for each")
    settings = LocalSettings() if settings is None else settings
    within = load_subspace() if within is None else within
    if masks is None:
        masks = usual_round(terms.least_devices, count=within.count, honest_share=terms.counted_share)
    seen = Preview(
        labels=len(labels),
        least_labels=LEAST_LABELS,
        release=encoder.release,
        leaving=what_leaves(within.count, masks.ring_bits, subspace_hash(within)),
        leaving_unmasked=what_leaves() if terms.allow_unmasked else None,
        clip=masks.clip,
        noise=measure_noise(0.0, masks, terms.least_devices, within.count, terms.honest_share),
        unseen=what_is_unseen(),
        unprotected=what_is_not_protected(terms, release_key_pinned=release_key_pinned),
    )
    if not seen.learned:
        return seen
    update = train_locally(encoder, labels, settings, round=1, seed=0)
    sent = within.coordinates(update.tensors)
    norm, inside = norm_of(sent), within.change(sent)
    keep = min(1.0, masks.clip / norm) if norm else 1.0
    tensors = tuple(
        PreviewedTensor(name, tensor.shape, norm_of(tensor), keep * norm_of(inside[name]))
        for name, tensor in update.tensors.items()
    )
    chance, influences = _leave_out(encoder, labels, comments, settings, last, draws)
    return replace(
        seen,
        norm=norm,
        norm_clipped=keep * norm,
        tensors=tensors,
        noise=measure_noise(keep * norm, masks, terms.least_devices, within.count, terms.counted_share),
        chance=chance,
        influences=influences,
    )


def measure_noise(
    signal: float, masks: MaskSettings, least_devices: int, count: int, honest_share: float = 0.0
) -> Noise:
    """Return how a part of `count` numbers and norm `signal` compares with the noise.

    Both alone and in the smallest sum that the device agrees to.

    The guess counts the noise of `honest_share` of the devices in that sum, and at least this device's own.
    """
    devices = max(least_devices, masks.least)
    own = masks.noise * masks.step * math.sqrt(count)
    reach = sensitivity_of(masks.clip, masks.step, count)
    sure = sum_noise(
        masks.noise, devices=devices, sensitivity=reach, dimension=count + 1, honest_share=honest_share
    )
    guess = NormalDist().cdf(0.5 / sure.counted) if sure.counted else 1.0
    in_sum = own * math.sqrt(devices)
    return Noise(devices, signal, own, in_sum, sure.counted, sure.all_add, sure.alone, guess)


def _leave_out(
    encoder: EncoderWeights,
    labels: Labels,
    comments: Sequence[Taught],
    settings: LocalSettings,
    last: int,
    draws: int,
) -> tuple[float, tuple[Influence, ...]]:
    """Return what chance does to the change, and what each of the newest comments does, strongest first."""
    from palate.client.federation.local_training import LEAST_LABELS, Labels
    from palate.client.runtime.threads import one_thread

    with one_thread():
        whole = _mean_change(encoder, labels, settings, 0, draws)
        others = [_mean_change(encoder, labels, settings, 1 + n, draws) for n in range(CHANCES)]
        chance = min(_cosine(whole, other) for other in others)
        if len(labels) - 1 < LEAST_LABELS:  # without any of them nothing is learned
            return chance, ()
        found = []
        for place in range(max(0, len(labels) - last), len(labels)):
            kept = np.arange(len(labels)) != place
            rest = Labels(labels.features[kept], labels.liked[kept], labels.phrases[kept])
            cosine = _cosine(whole, _mean_change(encoder, rest, settings, 1, draws))
            one = comments[place].comment
            found.append(Influence(one.id, one.text, one.liked is True, cosine))
    return chance, tuple(sorted(found, key=lambda one: one.cosine))


def _mean_change(
    encoder: EncoderWeights, labels: Labels, settings: LocalSettings, block: int, draws: int
) -> NDArray[np.float64]:
    """Return the mean change over a block of draws, float64, (weights,)."""
    from palate.client.federation.local_training import train_together

    seeds = range(block * draws, (block + 1) * draws)
    total = np.zeros(SHARED_WEIGHTS)
    for _, change in train_together(encoder, [labels] * draws, settings, seeds):
        total += flatten(change)
    return total / draws


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 1.0
