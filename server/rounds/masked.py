"""A round in which the server sees nothing but noised sums.

Where it stands in the flow: `rounds` takes this way when the run's settings hold a `Privacy`. The exchanges
are those of secure aggregation (`unmasking`, after Bonawitz et al., CCS 2017). Devices may drop out between
them. As long as enough come to the end, the sum is that of all who sent their vector. With fewer the whole
round fails: there is no partial sum.

    invitation (the encoder as a difference, settings)   ->   keys, signed
    roster of all keys                                   ->   shares of secrets, sealed for the neighbours
    the shares for a device, and who is alive            ->   trained, clipped, rounded, noised, masked
    who stayed and who dropped out                       ->   a share for each of them

In a sparse cohort devices first endorse the last question, and are shown that the others got the same one
(`shared.secure_sum.agreement`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from palate.server.checkpoints import Checkpoint
from palate.server.releases.round_key import Sign, not_signed
from palate.server.rounds.exchange import Collected, Exchange, Now, Tell
from palate.server.rounds.slots import Slots, slots_by_round
from palate.server.secure_sum.groups import make_groups
from palate.server.secure_sum.privacy import Privacy, mask_settings
from palate.server.secure_sum.sampling import SEED_BYTES, poisson_cohort
from palate.server.secure_sum.sums import believe
from palate.server.secure_sum.unmasking import MaskedSum, Messages, Refused
from palate.server.settings import RunSettings
from palate.shared.coding import decode_model, encode_model, sensitivity_of
from palate.shared.encoder import EncoderWeights, encoder_hash, unflatten
from palate.shared.errors import FederationError, MaskError
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import Invitation, encode_invitation
from palate.shared.secure_sum.pseudonym import SlotKey
from palate.shared.subspace import subspace_hash
from palate.shared.sum_noise import SumNoise, sum_noise
from palate.shared.update import EncoderUpdate
from palate.shared.wire import fixed_hash

if TYPE_CHECKING:
    from palate.server.rounds.planned import PlannedNoise

SHARES = (0.2, 0.15, 0.5, 0.0, 0.15)
SPARSE_SHARES = (0.2, 0.15, 0.4, 0.1, 0.15)
"""Which part of a round's deadline each exchange may take.

Training is in the third, and the fourth is of sparse cohorts only.
"""


def choose_masked_cohort(connected: Sequence[int], settings: RunSettings) -> tuple[list[int], float | None]:
    """Return who is asked, and with which chance each device was, None if that may not be counted.

    Who is asked is drawn in secret: privacy by sampling is counted only where nobody can know.
    """
    pool = sorted(set(connected))
    if settings.privacy is not None and settings.privacy.sampling == "poisson":
        chance = settings.asked / len(pool)
        if chance < 1:
            return poisson_cohort(pool, chance, secrets.token_bytes(SEED_BYTES)), chance
    drawn = secrets.SystemRandom().sample(pool, min(settings.asked, len(pool)))
    return sorted(drawn), None


@dataclass(frozen=True)
class _Plan:
    """What is settled before anything is sent."""

    number: int  # of the round
    asked: int  # devices
    settings: RunSettings
    privacy: Privacy
    noise: PlannedNoise | None
    clip: float
    masks: MaskSettings
    sure: SumNoise  # that the sum carries


def collect_masked(
    exchange: Exchange,
    cohort: Sequence[int],
    before: Checkpoint,
    release: EncoderWeights,
    seed: int,
    tell: Tell,
    spend: Callable[[SumNoise, int], Callable[[], str]],
    noise: PlannedNoise | None = None,
    sign: Sign = not_signed,
    slots: Slots = slots_by_round,
) -> Collected:
    """Run a masked round; return the mean change as one update, or none where too few came to the end.

    Args:
        exchange: the questions and answers of this round.
        cohort: the devices to ask.
        before: the checkpoint after the round before.
        release: the encoder that devices have installed; the invitation holds the difference from it.
        seed: what devices derive their randomness from.
        tell: called when a progress bar should move.
        spend: called with the round's noise and the number of devices before anything is sent. What it
            returns is called before a sum can be seen, and returns the ledger's head.
        noise: the noise plan, which gives the sum its noise.
        sign: signs the invitation. The hash of what was signed binds the round together.
        slots: gives the round its slot.

    Raises:
        FederationError: the settings name a registrar, and there is no key of the registrar for the slot.
    """
    privacy = before.settings.privacy
    if privacy is None:
        raise ValueError("a masked round needs privacy settings")
    clip = privacy.clip if noise is not None else before.clip or privacy.clip
    got = Collected(refused=exchange.refused, clip=clip)
    if len(cohort) < before.settings.quorum:
        exchange.refused["few"] += 1
        return got
    plan = _plan_round(before, privacy, clip, len(cohort), noise)
    book = spend(plan.sure, len(cohort)) if privacy.noise_multiplier and noise is None else str
    slot, slot_key = slots(plan.number)
    if privacy.registrar and slot_key is None:
        raise FederationError("the settings name a registrar, and this run has none of its slot keys")
    model = encode_model(before.encoder, release, privacy.model_bits)
    invitation = encode_invitation(_invite(plan, release, model, seed, slot))
    context = hashlib.sha256(invitation).digest()
    got.told = {
        "masked": True,
        "slot": slot,
        "clip": clip,
        "noise_multiplier": plan.sure.counted,
        "ring_bits": plan.masks.ring_bits,
    }

    def heard(done: int) -> None:
        tell(Now("training", plan.number, plan.settings.rounds, done, plan.asked))

    heard(0)
    seconds = SHARES[0] * plan.settings.deadline_seconds
    adverts = exchange.ask(dict.fromkeys(cohort, sign(invitation)), seconds)
    groups = _open_groups(plan, exchange, adverts, invitation, slot_key)
    groups = _unmask(plan, groups, exchange, book, heard, got)
    got.bytes_down, got.bytes_up = exchange.bytes_down, exchange.bytes_up
    if noise is not None:
        for group in groups:  # there is one
            group.total = noise.add(plan.number, group.total, group.took_part(), plan.asked)
        got.told |= {"ledger": noise.head, "noise_step": noise.step, "noise_steps": noise.steps}
    if groups:
        base = encoder_hash(decode_model(model, release))
        _take_mean(plan, groups, before, base, context, release.release, got)
        if got.updates:
            got.told["dropped"] = len(adverts) - got.devices
    return got


def _plan_round(
    before: Checkpoint, privacy: Privacy, clip: float, asked: int, noise: PlannedNoise | None
) -> _Plan:
    """Return the mask settings of a round that asks so many devices, and the noise of its sum."""
    least = before.settings.least
    if noise is not None:
        masks = noise.masks
    else:
        most = asked if not privacy.group_size else min(asked, 2 * privacy.group_size - 1)
        masks = mask_settings(privacy, clip, least=least, most=max(least, most))
    sure = sum_noise(
        masks.noise,
        devices=least,
        sensitivity=sensitivity_of(clip, masks.step, privacy.count),
        dimension=privacy.count + 1,
        honest_share=privacy.counted_share,
    )
    return _Plan(before.round + 1, asked, before.settings, privacy, noise, clip, masks, sure)


def _invite(plan: _Plan, release: EncoderWeights, model: bytes, seed: int, slot: int) -> Invitation:
    """Return the invitation to a round, with the encoder as the difference `model` from the release."""
    directions, noise = plan.privacy.directions, plan.noise
    return Invitation(
        round=plan.number,
        release=release.release,
        fixed=fixed_hash(release),
        seed=seed,
        settings=plan.settings.local,
        masks=plan.masks,
        model=model,
        subspace="" if directions is None else subspace_hash(directions),
        rotation=b"" if noise is None else noise.rotation,
        slot=slot,
        step=0 if noise is None else noise.step,
        rest=0 if noise is None else noise.rest,
    )


def _open_groups(
    plan: _Plan, exchange: Exchange, adverts: dict[int, bytes], invitation: bytes, slot_key: SlotKey | None
) -> list[_Group]:
    """Return a masked sum for each group of the devices that answered the invitation."""
    groups = []
    for members in _members(adverts, plan.privacy, hashlib.sha256(invitation).digest()):
        masked = MaskedSum(invitation, plan.masks, plan.privacy.count + 1, slot_key=slot_key)
        group = _Group(masked, exchange)
        if group.begin({device: adverts[device] for device in members}):
            groups.append(group)
    return groups


def _unmask(
    plan: _Plan,
    groups: list[_Group],
    exchange: Exchange,
    book: Callable[[], str],
    heard: Callable[[int], None],
    got: Collected,
) -> list[_Group]:
    """Take the groups from their rosters to their sums, and return those that came to the end.

    The round is booked in the ledger before the last exchange, after which sums can be seen.
    """
    parts = SPARSE_SHARES if any(group.sparse for group in groups) else SHARES
    steps = (_Group.share, _Group.mask, _Group.endorse, _Group.reveal)
    for part, step in zip(parts[1:], steps, strict=True):
        if step is _Group.reveal and groups:
            got.told["ledger"] = book()
        now = [group for group in groups if step is not _Group.endorse or group.sparse]
        wires = {device: wire for group in now for device, wire in group.wires.items()}
        answers = exchange.ask(wires, part * plan.settings.deadline_seconds, heard) if wires else {}
        groups = [
            group
            for group in groups
            if group not in now
            or step(group, {device: answers[device] for device in group.wires if device in answers})
        ]
    return groups


def _take_mean(
    plan: _Plan,
    groups: Sequence[_Group],
    before: Checkpoint,
    base: str,
    context: bytes,
    release: int,
    got: Collected,
) -> None:
    """Put into `got` the mean of what the groups' sums are believed to say.

    `base` is the hash of the encoder they trained.
    """
    noise, directions = plan.noise, plan.privacy.directions
    found = believe(
        [(group.total, group.survivors) for group in groups],
        plan.masks,
        plan.privacy,
        before.memory,
        clip=plan.clip,
        rotation=context if noise is None else noise.rotation,
        release=release,
        planned=0.0 if noise is None else noise.spread,
        lasting=0.0 if noise is None else noise.lasting,
    )
    got.refused.update(found.refused)
    got.clip, got.memory = found.clip, found.memory
    if found.mean is None:
        return
    mean, counts = found.mean, found.counts
    if noise is not None:
        # By the same number in all rounds: noise of one that counts more than that of the next would not
        # cancel in it.
        mean = (mean * np.float32(counts[0] / plan.settings.devices)).astype(np.float32)
    got.devices = sum(counts)
    change = unflatten(mean) if directions is None else directions.change(mean)
    got.updates = [EncoderUpdate(base, plan.number, change)]
    got.told |= {"groups": len(counts), **found.told}


class _Group:
    """One masked sum on its way through the exchanges; each step returns whether it goes on."""

    def __init__(self, masked: MaskedSum, exchange: Exchange) -> None:
        self._masked, self._exchange = masked, exchange
        self.wires: Mapping[int, bytes] = {}  # what each device is to be sent next
        self.total = np.zeros(0, np.int64)
        self.survivors = 0

    def begin(self, answers: Messages) -> bool:
        return self._advance(self._masked.adverts, answers)

    def share(self, answers: Messages) -> bool:
        return self._advance(self._masked.shares, answers)

    def mask(self, answers: Messages) -> bool:
        return self._advance(self._masked.masked, answers)

    def endorse(self, answers: Messages) -> bool:
        return self._advance(self._masked.endorsed, answers)

    def reveal(self, answers: Messages) -> bool:
        def step(given: Messages) -> tuple[Messages, Refused]:
            self.total, self.survivors = self._masked.revealed(given)
            return {}, {}

        return self._advance(step, answers)

    @property
    def sparse(self) -> bool:
        return self._masked.sparse

    def took_part(self) -> frozenset[int]:
        """Return the devices in the sum."""
        return self._masked.took_part()

    def _advance(
        self, step: Callable[[Messages], tuple[bytes | Messages, Refused]], answers: Messages
    ) -> bool:
        """Take a step with these answers.

        What it returns goes to each device, or to all whose answer was good.
        """
        try:
            sent, refused = step(answers)
        except MaskError as error:
            self._exchange.refused[f"sum: {error.reason}"] += 1
            return False
        self._exchange.refused.update(refused.values())
        good = [device for device in answers if device not in refused]
        self.wires = dict.fromkeys(good, sent) if isinstance(sent, bytes) else sent
        return True


def _members(adverts: dict[int, bytes], privacy: Privacy, context: bytes) -> list[list[int]]:
    """Return the devices that answered, in one group or in several.

    The round's hash and the answers decide who is in which.
    """
    if not privacy.group_size or len(adverts) < 2 * privacy.group_size:
        return [sorted(adverts)]
    by_advert = {wire: device for device, wire in adverts.items()}
    groups = make_groups(list(by_advert), privacy.group_size, context)
    return [[by_advert[wire] for wire in group] for group in groups]
