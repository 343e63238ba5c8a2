"""A round in which the server sees nothing but noised sums: invitation, roster, deliveries, masks, and what was revealed.

Where it stands in the flow: `rounds` chooses this way when the run's settings hold a `Privacy`. The exchanges are those of secure
aggregation (`masking`, after Bonawitz et al., CCS 2017); between them devices may drop out, and as long as enough come to the end
the sum is that of those who sent their vector. With fewer the round fails whole: there is no partial sum.

    invitation (the encoder as a difference, the settings)   ->   keys, signed
    roster of all keys                                       ->   shares of secrets, encrypted for the neighbours
    the shares that are for a device, and who is alive       ->   trained, clipped, rounded, noised, masked
    who stayed and who dropped out                           ->   a share for each of them

In a sparse cohort devices first endorse the last question, and are shown that the others were asked the same (`shared.agreement`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from palate.server.checkpoints import Checkpoint
from palate.server.releases.round_key import Sign, not_signed
from palate.server.rounds.exchange import Collected, Exchange, Now, Tell
from palate.server.rounds.slots import Slots, slots_by_round
from palate.server.secure_sum.groups import make_groups
from palate.server.secure_sum.masking import MaskedSum
from palate.server.secure_sum.privacy import Privacy, mask_settings
from palate.server.secure_sum.sampling import SEED_BYTES, poisson_cohort
from palate.server.secure_sum.sums import believe
from palate.server.settings import RunSettings
from palate.shared.coding import decode_model, encode_model, sensitivity_of
from palate.shared.encoder import EncoderWeights, encoder_hash, unflatten
from palate.shared.errors import FederationError, MaskError
from palate.shared.secure_sum.messages import Invitation, encode_invitation
from palate.shared.subspace import subspace_hash
from palate.shared.sum_noise import SumNoise, sum_noise
from palate.shared.update import EncoderUpdate
from palate.shared.wire import fixed_hash

if TYPE_CHECKING:
    from palate.server.rounds.planned import PlannedNoise

SHARES = (0.2, 0.15, 0.5, 0.0, 0.15)
SPARSE_SHARES = (0.2, 0.15, 0.4, 0.1, 0.15)
"""Which part of a round's deadline each exchange may take; training is in the third, and the fourth is of sparse cohorts only."""


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
    """Return the mean change of those devices of the cohort that came to the end, as one update; none where too few did.

    `release` is the encoder that devices have installed, `seed` what they derive their randomness from. `spend` is called with
    the round's noise multipliers and the number of devices before anything is asked, and what it returns before a sum can be seen.
    `sign` signs the invitation; what binds the round together is the hash of what was signed. In rounds of a noise plan `noise` gives
    the sum its noise. `slots` gives the round its slot. Raises FederationError when the settings name a registrar and there is no key
    of its for the slot.
    """
    settings, number = before.settings, before.round + 1
    privacy = settings.privacy
    if privacy is None:
        raise ValueError("a masked round needs privacy settings")
    clip = privacy.clip if noise is not None else before.clip or privacy.clip
    directions, count = privacy.directions, privacy.count
    got = Collected(refused=exchange.refused, clip=clip)
    least = settings.least
    if len(cohort) < settings.quorum:
        exchange.refused["few"] += 1
        return got
    masks = (
        noise.masks
        if noise is not None
        else mask_settings(privacy, clip, least=least, most=max(least, _most(len(cohort), privacy)))
    )
    sure = sum_noise(
        masks.noise,
        devices=least,
        sensitivity=sensitivity_of(clip, masks.step, count),
        dimension=count + 1,
        honest_share=privacy.counted_share,
    )
    book = spend(sure, len(cohort)) if privacy.noise_multiplier and noise is None else str
    model = encode_model(before.encoder, release, privacy.model_bits)
    slot, slot_key = slots(number)
    if privacy.registrar and slot_key is None:
        raise FederationError("the settings name a registrar, and this run has none of its slot keys")
    invitation = encode_invitation(
        Invitation(
            round=number,
            release=release.release,
            fixed=fixed_hash(release),
            seed=seed,
            settings=settings.local,
            masks=masks,
            model=model,
            subspace="" if directions is None else subspace_hash(directions),
            rotation=b"" if noise is None else noise.rotation,
            slot=slot,
            step=0 if noise is None else noise.step,
            rest=0 if noise is None else noise.rest,
        )
    )
    context = hashlib.sha256(invitation).digest()
    rotation = context if noise is None else noise.rotation
    base = encoder_hash(decode_model(model, release))
    got.told = {
        "masked": True,
        "slot": slot,
        "clip": clip,
        "noise_multiplier": sure.counted,
        "ring_bits": masks.ring_bits,
    }

    def heard(done: int) -> None:
        tell(Now("training", number, settings.rounds, done, len(cohort)))

    heard(0)
    adverts = exchange.ask(dict.fromkeys(cohort, sign(invitation)), SHARES[0] * settings.deadline_seconds)
    sums: list[_Group] = []
    for members in _groups(adverts, privacy, context):
        masked = MaskedSum(invitation, masks, count + 1, slot_key=slot_key)
        group = _Group(masked, exchange)
        if group.begin({device: adverts[device] for device in members}):
            sums.append(group)
    parts = SPARSE_SHARES if any(group.sparse for group in sums) else SHARES
    steps = (_Group.share, _Group.mask, _Group.endorse, _Group.reveal)
    for part, step in zip(parts[1:], steps, strict=True):
        if step is _Group.reveal and sums:
            got.told["ledger"] = book()
        now = [group for group in sums if step is not _Group.endorse or group.sparse]
        wires = {device: wire for group in now for device, wire in group.wires.items()}
        answers = exchange.ask(wires, part * settings.deadline_seconds, heard) if wires else {}
        sums = [
            group
            for group in sums
            if group not in now
            or step(group, {device: answers[device] for device in group.wires if device in answers})
        ]
    got.bytes_down, got.bytes_up = exchange.bytes_down, exchange.bytes_up
    if noise is not None:
        for group in sums:  # there is one
            group.total = noise.add(number, group.total, group.took_part(), len(cohort))
        got.told |= {"ledger": noise.head, "noise_step": noise.step, "noise_steps": noise.steps}
    if not sums:
        return got
    found = believe(
        [(group.total, group.survivors) for group in sums],
        masks,
        privacy,
        before.memory,
        clip=clip,
        rotation=rotation,
        release=release.release,
        planned=0.0 if noise is None else noise.spread,
        lasting=0.0 if noise is None else noise.lasting,
    )
    exchange.refused.update(found.refused)
    got.clip, got.memory = found.clip, found.memory
    if found.mean is None:
        return got
    mean, counts = found.mean, found.counts
    if noise is not None:
        # By the same number in all rounds: noise of one that counts more than that of the next would not cancel in it.
        mean = (mean * np.float32(counts[0] / settings.devices)).astype(np.float32)
    got.devices = sum(counts)
    change = unflatten(mean) if directions is None else directions.change(mean)
    got.updates = [EncoderUpdate(base, number, change)]
    got.told |= {"groups": len(counts), "dropped": len(adverts) - got.devices, **found.told}
    return got


class _Group:
    """One masked sum on its way through the exchanges; each step returns whether it goes on."""

    def __init__(self, masked: MaskedSum, exchange: Exchange) -> None:
        self._masked, self._exchange = masked, exchange
        self.wires: dict[int, bytes] = {}  # what each device is to be sent next
        self.total = np.zeros(0, np.int64)
        self.survivors = 0

    def begin(self, adverts: dict[int, bytes]) -> bool:
        def step() -> None:
            roster, refused = self._masked.adverts(adverts)
            self._count(refused)
            self.wires = {device: roster for device in adverts if device not in refused}

        return self._try(step)

    def share(self, answers: dict[int, bytes]) -> bool:
        def step() -> None:
            self.wires, refused = self._masked.shares(answers)
            self._count(refused)

        return self._try(step)

    def mask(self, answers: dict[int, bytes]) -> bool:
        def step() -> None:
            unmask, refused = self._masked.masked(answers)
            self._count(refused)
            self.wires = {device: unmask for device in answers if device not in refused}

        return self._try(step)

    def endorse(self, answers: dict[int, bytes]) -> bool:
        def step() -> None:
            agreement, refused = self._masked.endorsed(answers)
            self._count(refused)
            self.wires = {device: agreement for device in answers if device not in refused}

        return self._try(step)

    def reveal(self, answers: dict[int, bytes]) -> bool:
        def step() -> None:
            self.total, self.survivors = self._masked.revealed(answers)

        return self._try(step)

    @property
    def sparse(self) -> bool:
        return self._masked.sparse

    def took_part(self) -> frozenset[int]:
        """The devices in the sum."""
        return self._masked.took_part()

    def _count(self, refused: Mapping[int, str]) -> None:
        self._exchange.refused.update(refused.values())

    def _try(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except MaskError as error:
            self._exchange.refused[f"sum: {error.reason}"] += 1
            return False
        return True


def _most(cohort: int, privacy: Privacy) -> int:
    return cohort if not privacy.group_size else min(cohort, 2 * privacy.group_size - 1)


def _groups(adverts: dict[int, bytes], privacy: Privacy, context: bytes) -> list[list[int]]:
    """The devices that answered, as one group or cut into several by the round's hash and what they answered."""
    if not privacy.group_size or len(adverts) < 2 * privacy.group_size:
        return [sorted(adverts)]
    by_advert = {wire: device for device, wire in adverts.items()}
    groups = make_groups(list(by_advert), privacy.group_size, context)
    return [[by_advert[wire] for wire in group] for group in groups]
