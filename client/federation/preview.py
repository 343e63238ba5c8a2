"""What would leave this device if it took part now: trained here and shown to its owner, sent nowhere.

Where it stands in the flow: before the door (`outbox`), and apart from it. `palate outbox --preview` and `palate join --ask` say what
the bytes of a round would be, in the words in which the outbox notes them when they went (`Leaving`; a test compares the two). Then
they train with the installed release on the labels at hand, as a round does, and show what stays here: which tensors change, how long
the change is as trained and as cut, how much noise goes on top of it, and which comment moves it most. Nothing here makes wire
bytes or opens a connection; tests hold it to both.

**With too few labels** the very same bytes leave, with a change of nothing under noise and mask: who takes part is no sign of who has
something to say.

**Which comment moves it most** is told by leaving one out: how alike (cosine) is the change with and without it? Local training draws
which labels the head is fitted on, so two changes from the same labels differ too. Each change is therefore a mean over `DRAWS`
draws, the two that are compared have different ones, and beside the cosines stands `chance`, the least of several between means
with all labels: a comment that lies above it cannot be told from chance.

**How well somebody can tell** that this device took part in one round, who knows every other update and the encoder, is what the
Gaussian mechanism leaves: right with probability Phi(mu / 2), mu = 1 / noise multiplier (Dong, Roth, Su, JRSS B 2022). Half is
guessing. It holds for the noised sum; whoever holds this device's part without its mask faces this device's own noise alone.

Clip and noise are the server's to set in each round's invitation, and the device checks what they guarantee against its budget then.
A preview takes those of the last masked round that this device was in, or else those that a server begins with unless told otherwise.
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
from palate.client.federation.machine import read_machine
from palate.client.federation.outbox import ALL_WEIGHTS, UPDATE_KIND, Leaving, Sent, read_outbox, what_leaves
from palate.client.federation.own_labels import read_labels, teaching_comments
from palate.client.federation.rounds_a_day import invitations_of_the_day
from palate.client.privacy.budget import describe_cost, read_spent
from palate.client.privacy.rollback import remember
from palate.client.records import Taught
from palate.client.releases.accepted import federation_encoder, read_standing
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
"""Comments of which each is left out once, the newest."""

DRAWS = 32
CHANCES = 6  # means with all labels that are compared for what chance does

NO_SERVER = "no server yet"

USUAL_CLIP, USUAL_NOISE = 0.15, 4.0
"""What a server's first round has unless its settings say otherwise: L2 bound, and noise multiplier of the sum."""

RING_BITS = (16, 20, 24, 32)


@dataclass(frozen=True)
class PreviewedTensor:
    """One tensor of the change, and how long it is (L2) as trained and as clipped."""

    name: str
    shape: tuple[int, ...]
    norm: float
    norm_clipped: float  # of what of it is sent


@dataclass(frozen=True)
class Influence:
    """What one comment does to the change: the cosine between the changes with and without it; 1 is nothing."""

    comment: str  # its id
    words: str  # the person's own; for the screen, in no file and no JSON
    liked: bool
    cosine: float


@dataclass(frozen=True)
class Noise:
    """Noise against signal, as L2 lengths over all numbers that are sent, for one device and for the smallest sum it agrees to."""

    devices: int  # in that sum
    signal: float  # this device's part, clipped
    own: float  # expected length of the noise that this device adds
    in_sum: float  # expected length of the noise in the sum
    multiplier: float  # standard deviation of the noise that is counted over the longest that one device adds
    multiplier_if_all_add: float  # the same of all devices' noise
    multiplier_alone: float  # the same of this device's own noise
    guess: float  # how often the best guess whether this device took part is right, from the sum: 0.5 to 1


@dataclass(frozen=True)
class Preview:
    """What would leave now, and what stays here. Without `LEAST_LABELS` labels the change is nothing: lengths are 0."""

    labels: int
    least_labels: int
    release: int
    leaving: Leaving  # the bytes of a masked round, as the outbox notes them
    noise: Noise
    leaving_unmasked: Leaving | None = None  # None unless rounds without masks are agreed to
    norm: float = 0.0  # of the change that is made numbers of, L2, as are the two below; under noise and mask
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
        """Say whether there is anything of the person's in what would leave."""
        return self.labels >= self.least_labels

    def to_json(self) -> dict[str, Any]:
        """Return the preview as `palate outbox --preview --json` prints it: comments by id, without their words."""
        content = asdict(self) | {"learned": self.learned}
        for one in content["influences"]:
            del one["words"]
        return content


def preview_device(device: Device, terms: Terms, now: datetime, *, last: int = LAST) -> Preview:
    """Train on a device's labels as they are now and say what would leave; raises what the vault raises.

    `terms` may be such that nobody has agreed to yet. `now` has a zone.
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
    """What is spent at these terms' delta, and what one more round makes of it, None if that is above their epsilon.

    After the round: as it is counted, if all add their noise, and if no other device does.
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
    """Return the round that a preview expects: that of a note on the last masked one, or what servers begin with.

    `count` is how many numbers are sent, by default those of the installed subspace. A server is taken to count on the noise of as
    many devices as this one does, `honest_share`.

    The ring is the narrowest of the usual ones that holds the sum of `least_devices`.
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
    """Return in a line what a round costs of the budget if a server keeps to the noise that servers begin with."""
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
    """Say what would leave: `comments` are those of the labels, in the same order; the same input gives the same preview.

    `within` is the subspace in which the change is sent, by default the installed one.

    Raises OptionError if there are not as many comments as labels.
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
    """Say how a part of `count` numbers and length `signal` stands against the noise, alone and in the smallest sum that the device agrees to.

    What can be guessed is reckoned with the noise of `honest_share` of the devices in that sum, and at least this device's own.
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
    """What chance does to the change, and what each of the newest comments does, the strongest first."""
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
    """The mean change over a block of draws, float64, (weights,)."""
    from palate.client.federation.local_training import train_together

    seeds = range(block * draws, (block + 1) * draws)
    total = np.zeros(SHARED_WEIGHTS)
    for _, change in train_together(encoder, [labels] * draws, settings, seeds):
        total += flatten(change)
    return total / draws


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 1.0


# --- in words -----------------------------------------------------------------------------------------------------


def what_is_unseen() -> tuple[str, ...]:
    """Return what no message to a server has room for, or what masks take from it."""
    return (
        "your comments, pictures, attributes and profile, and your own model: no message has room for them",
        "how many labels you have, and whether training came to anything: messages have one length and one time, whoever sends them",
        "in a masked round this device's change: the server gets numbers that are random alone, and opens their sum",
    )


def what_is_not_protected(terms: Terms, *, release_key_pinned: bool = False) -> tuple[str, ...]:
    """Return what taking part on these terms does give away, or leaves to trust."""
    open_ = ["that this device takes part or stays out of a round, when, and from which address"]
    if terms.registrar:
        open_ += [
            f"what the sum over at least {terms.least_devices} devices says of all of them together",
            "devices that work with the server: if all others in a sum do, this device's noise alone stands before its change; the "
            f"budget counts on {terms.honest_share:.0%} of the devices to add theirs (--honest-share)",
        ]
    else:
        open_.append(
            "no registrar is pinned, so a server that cheats can invent the other devices: then it has this device's change behind its "
            "own noise alone, which is what the budget counts; pin one with --registrar"
        )
    if not (terms.release_key or release_key_pinned):
        open_.append(
            "no release key is pinned, so no release of the server can be told from a forged one, and whoever invites first is believed; pin "
            "with --release-key what palate server key prints"
        )
    if terms.allow_unmasked:
        open_.append(
            "rounds without masks are agreed to: there the server sees this device's change, and from it much of what it was "
            "trained on can be rebuilt"
        )
    return tuple(open_)


def cost_after(preview: Preview) -> str:
    """Return in words what is spent after one more such round."""
    figures = (preview.epsilon_after, preview.epsilon_after_if_all_add, preview.epsilon_after_alone)
    counted, if_all_add, alone = (0.0 if one is None else one for one in figures)
    return describe_cost(counted, if_all_add, alone)


def describe_bytes(leaving: Leaving) -> str:
    """Return in words what bytes that leave are; of a note in the outbox the same as of a preview."""
    within = (
        "over all weights"
        if leaving.within == ALL_WEIGHTS
        else f"in the public directions {leaving.within[:12]}"
    )
    if not leaving.numbers:  # a note of an earlier version
        return f"{leaving.bytes_up:,} bytes: a {leaving.kind}"
    what = "an update as it is" if leaving.kind == UPDATE_KIND else f"a {leaving.kind}"
    return f"{leaving.bytes_up:,} bytes: {what}, {leaving.numbers:,} numbers of {leaving.bits} bits {within}"


def describe_shortly(preview: Preview) -> list[str]:
    """Return the few lines that a person is shown before being asked."""
    lines = [f"would leave in a round: {describe_bytes(preview.leaving)}"]
    noise = preview.noise
    if not preview.learned:
        lines.append(
            f"under noise and mask a change of nothing: {preview.labels} labels, and to learn from them takes {preview.least_labels}"
        )
    else:
        lines.append(
            f"under noise and mask a change trained on {preview.labels} labels, of length {preview.norm:.3g}, cut to "
            f"{preview.norm_clipped:.3g}, beside noise of length {noise.own:.3g}; who knows all but the noise that is counted guesses "
            f"whether you took part, right {noise.guess:.0%} of the time"
        )
    if preview.leaving_unmasked is not None:
        lines.append(
            f"in a round without masks, which you allow: {describe_bytes(preview.leaving_unmasked)}; much of what it was trained on "
            "can be rebuilt from it"
        )
    if preview.stays_out:
        lines.append(f"this device would stay out of a round now: {preview.stays_out}")
    elif preview.epsilon_after is not None:
        lines.append(
            f"privacy spent: epsilon {preview.epsilon_spent:.3g} of {preview.epsilon_budget:g}; after such a round {cost_after(preview)}"
        )
    return [*lines, f"not protected: {'; '.join(preview.unprotected[:2])}; more in `palate outbox --preview`"]
