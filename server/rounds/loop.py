"""The round loop: who is asked, how long to wait, what counts, and what happens when too little comes back.

Where it stands in the flow: `app` gives it devices to talk to (through Flower), and `rounds.run` keeps what
it returns. A round:

    choose a cohort from the connected devices, by (seed, round) alone
    send everyone the same task; the message dies at the deadline, so nobody works on a round that is over
    poll for replies; check each alone; count the useless ones by reason
    stop at the wanted number of updates, or when all have answered, or at the deadline
    with a quorum: average, and move the encoder; without: the encoder stays

That is a round without masks. With a `Privacy` in the settings the cohort is drawn in secret, and
`rounds.masked` collects one noised sum instead of the updates. The budget is checked first, and the round is
booked before the sum can be seen. With a noise plan (`planned`) devices that rest are left out, and the sum
gets its noise before it is used.

Over-sampling with an early end follows Bonawitz et al. (MLSys 2019). No reply can end a run: a bad one costs
only itself. Flower's own loop waits for ever for missing devices, does not cancel what is late, and dies of
one odd reply.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.server.aggregation import Sound, check_replies, in_fixed_order, moved
from palate.server.checkpoints import Checkpoint
from palate.server.releases.round_key import Sign, not_signed
from palate.server.rounds.exchange import Collected, Devices, Exchange, Now, Patience, Tell
from palate.server.rounds.slots import Slots, slots_by_round
from palate.server.secure_sum.trust_region import held_near
from palate.server.settings import RunSettings
from palate.shared.arrays import Float32s
from palate.shared.encoder import EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import FederationError, ModelError
from palate.shared.sum_noise import SumNoise
from palate.shared.update import EncoderUpdate, norm_of
from palate.shared.wire import Task, encode_task

if TYPE_CHECKING:
    from palate.server.rounds.planned import PlannedNoise

OFFER_SECONDS = 20.0
"""How long a round waits for devices to look at a release that they have not seen."""

Book = Callable[[], str]
"""Books a round in the privacy ledger, before its sum can be seen, and returns the ledger's head."""

Spend = Callable[[int, SumNoise, float | None, int], Book]
"""Called before a noised round with its number, its noise, each device's chance, and how many are asked."""

Average = Callable[
    [RunSettings, int, Sequence[EncoderUpdate], Mapping[str, Float32s]], tuple[Float32s, dict[str, Float32s]]
]
"""From settings, round, checked updates and memory to the change of the encoder and the memory after it."""


def no_ledger(*_: object) -> Book:
    """Count nothing: for runs without a ledger."""
    return str


def run_rounds(
    devices: Devices,
    start: Checkpoint,
    *,
    average: Average,
    tell: Tell = lambda _: None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    spend: Spend = no_ledger,
    noise: PlannedNoise | None = None,
    release: EncoderWeights | None = None,
    sign: Sign = not_signed,
    offered: bytes = b"",
    slots: Slots = slots_by_round,
) -> Iterator[Checkpoint]:
    """Yield a checkpoint after each round, from the one after `start` to the last that its settings want.

    Args:
        devices: the devices to talk to.
        start: where the federation stands, with the run's settings.
        average: the averaging strategy.
        tell: called when a progress bar should move.
        patience: how the loop passes time.
        spend: called before each masked round; it ends the run where the budget does.
        noise: the noise plan of settings that hold one; it ends the run after its last step.
        release: the encoder that devices have installed, the one that ships with Palate by default.
        sign: signs what devices are sent (`round_key`).
        offered: the bytes of the newest signed release, sent once to every device.
        slots: gives each masked round its slot.

    Raises:
        FederationError: too few devices connect in time, or too many rounds in a row had no quorum.
        PalateError: what `spend`, `noise`, `sign` and `slots` raise.
    """
    if start.round < start.settings.rounds:
        wait_for_devices(devices, start, tell, patience, noise)
    # A run that was ended by missed rounds, and is started again, gets as many chances as a new one.
    state = start if start.missed < start.settings.missed_rounds else replace(start, missed=0)
    told: set[int] = set()
    while state.round < state.settings.rounds:
        if offered and (new := set(devices.connected()) - told):
            told |= new
            seconds = min(OFFER_SECONDS, start.settings.deadline_seconds)
            exchange = Exchange(devices, state.round + 1, patience)
            exchange.ask(dict.fromkeys(sorted(new), offered), seconds)
        state = run_round(
            devices,
            state,
            average=average,
            tell=tell,
            patience=patience,
            spend=spend,
            noise=noise,
            release=release,
            sign=sign,
            slots=slots,
        )
        yield state
        settings = state.settings
        if state.missed >= settings.missed_rounds:
            raise FederationError(
                f"{state.missed} rounds in a row had fewer than {settings.quorum} usable updates "
                f"({_reasons(state.metrics)}); see that the devices are well, then run again"
            )


def run_round(
    devices: Devices,
    before: Checkpoint,
    *,
    average: Average,
    tell: Tell,
    patience: Patience,
    spend: Spend = no_ledger,
    noise: PlannedNoise | None = None,
    release: EncoderWeights | None = None,
    sign: Sign = not_signed,
    slots: Slots = slots_by_round,
) -> Checkpoint:
    """Run the round after a checkpoint and return the checkpoint after it.

    Raises:
        FederationError: fewer devices than the quorum are connected, and stay so for `wait_seconds`.
        PrivacyBudgetError: the noise plan is at its end.
    """
    settings, number = before.settings, before.round + 1
    if noise is not None:
        noise.check()
    connected = _wait(devices, settings.quorum, before, tell, patience, noise)
    began = patience.clock()
    exchange = Exchange(devices, number, patience)
    if settings.privacy is None:
        cohort = choose_cohort(connected, settings.asked, settings.seed, number)
        got = _collect(devices, cohort, before, tell, patience, sign)
    else:
        from palate.server.rounds.masked import choose_masked_cohort, collect_masked

        cohort, chance = choose_masked_cohort(connected, settings)
        got = collect_masked(
            exchange,
            cohort,
            before,
            load_encoder() if release is None else release,
            derive_seed(settings.seed, number),
            tell,
            lambda sure, asked: spend(number, sure, chance, asked),
            noise,
            sign,
            slots,
        )

    after, change = before.encoder, 0.0
    memory = dict(before.memory)
    counted = bool(got.updates) and got.devices >= settings.quorum
    if counted:
        vector, memory_after = average(settings, number, got.updates, memory)
        try:
            after = moved(before.encoder, vector)
            if settings.privacy is not None and settings.privacy.trust_region:
                near = load_encoder() if release is None else release
                after, got.told["held"] = held_near(after, near, reach=settings.privacy.trust_region)
            memory = {**memory_after, **got.memory}
            change = norm_of(vector)
        except ModelError:
            counted = False
            got.refused["overflow"] += got.devices
    used = got.devices if counted else 0
    metrics: dict[str, Any] = {
        "round": number,
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(patience.clock() - began, 3),
        "connected": len(connected),
        "asked": len(cohort),
        "used": used,
        "counted": counted,
        "refused": dict(sorted(got.refused.items())),
        "update_norm": got.update_norm,
        "change_norm": change,
        "bytes_down": got.bytes_down,
        "bytes_up": got.bytes_up,
        "encoder": encoder_hash(after),
        **got.told,
    }
    return replace(
        before,
        round=number,
        encoder=after,
        memory=memory,
        missed=0 if counted else before.missed + 1,
        updates=before.updates + used,
        metrics=metrics,
        clip=got.clip,
    )


def wait_for_devices(
    devices: Devices, start: Checkpoint, tell: Tell, patience: Patience, noise: PlannedNoise | None = None
) -> None:
    """Wait for the wanted number of devices, or for `wait_seconds` if at least a quorum is there then.

    Only the start of a run waits for all: later a device that went away for a while must not hold up the
    others.

    Raises:
        FederationError: not even a quorum came.
    """
    _wait(devices, start.settings.devices, start, tell, patience, noise)


def choose_cohort(connected: Collection[int], count: int, seed: int, round: int) -> list[int]:  # noqa: A002
    """Return up to `count` of the connected devices, drawn without replacement by seed and round alone."""
    pool = sorted(set(connected))
    return random.Random(f"palate cohort {seed} {round}").sample(pool, min(count, len(pool)))


def derive_seed(seed: int, round: int) -> int:  # noqa: A002
    """Return the 64-bit seed that the devices of a round get."""
    return int.from_bytes(hashlib.sha256(f"palate task {seed} {round}".encode()).digest()[:8], "little")


def _wait(
    devices: Devices,
    wanted: int,
    before: Checkpoint,
    tell: Tell,
    patience: Patience,
    noise: PlannedNoise | None,
) -> Sequence[int]:
    """Return the connected devices that may be asked: those that do not rest after a sum they were in."""
    settings = before.settings
    resting = set[int]() if noise is None else noise.resting()
    deadline = patience.clock() + settings.wait_seconds
    told = -1
    while True:
        there = devices.connected()
        connected = [device for device in there if device not in resting]
        if len(connected) >= wanted:
            return connected
        if len(connected) != told:
            told = len(connected)
            tell(Now("waiting", before.round + 1, settings.rounds, told, wanted))
        if patience.clock() >= deadline:
            break
        patience.sleep(patience.poll_seconds)
    if len(connected) >= settings.quorum:
        return connected
    rest = len(there) - len(connected)
    more = f", and {rest} more rest by the noise plan" if rest else ""
    raise FederationError(
        f"{len(connected)} of at least {settings.quorum} devices were connected after "
        f"{settings.wait_seconds:g} s{more}; start more with `palate join`, or ask for fewer, then run "
        "again"
    )


def _collect(
    devices: Devices,
    cohort: Sequence[int],
    before: Checkpoint,
    tell: Tell,
    patience: Patience,
    sign: Sign,
) -> Collected:
    """Ask the cohort, without masks.

    Returns the usable updates in an order that depends on their content alone.
    """
    settings, number = before.settings, before.round + 1
    base = encoder_hash(before.encoder)
    task = Task.for_encoder(
        before.encoder, round=number, settings=settings.local, seed=derive_seed(settings.seed, number)
    )
    wire = sign(encode_task(task))
    got = Collected(bytes_down=len(wire) * len(cohort))
    refused = got.refused
    sound: list[Sound] = []
    deadline = patience.clock() + settings.deadline_seconds
    waiting = set(devices.ask(dict.fromkeys(cohort, wire), number, settings.deadline_seconds))
    if len(waiting) < len(cohort):
        refused["unreachable"] = len(cohort) - len(waiting)
    tell(Now("training", number, settings.rounds, 0, settings.devices))
    told = 0
    while waiting and len(sound) < settings.devices:
        there = devices.replies(frozenset(waiting))
        for reply, found in check_replies(there, base=base, round=number, max_norm=settings.max_norm):
            if reply.question not in waiting:  # an answer to nothing we asked, or a second one
                refused["unasked"] += 1
                continue
            waiting.remove(reply.question)
            got.bytes_up += len(reply.wire) if isinstance(reply.wire, bytes) else 0
            _sort_in(found, sound, settings.devices, refused)
        if not waiting or len(sound) >= settings.devices:
            break
        if len(sound) != told:
            told = len(sound)
            tell(Now("training", number, settings.rounds, told, settings.devices))
        if patience.clock() >= deadline:
            refused["late"] += len(waiting)
            waiting.clear()
            break
        patience.sleep(patience.poll_seconds)
    if waiting:
        refused["surplus"] += len(waiting)
    got.updates, got.devices = in_fixed_order(sound), len(sound)
    got.update_norm = float(np.mean([one.update.norm for one in sound])) if sound else 0.0
    return got


def _sort_in(found: Sound | str, sound: list[Sound], wanted: int, refused: Counter[str]) -> None:
    """Keep an update while fewer than `wanted` are there, and count anything else by its reason."""
    if isinstance(found, str):
        refused[found] += 1
    elif len(sound) < wanted:
        sound.append(found)
    else:
        refused["surplus"] += 1


def _reasons(metrics: Mapping[str, Any]) -> str:
    refused = metrics.get("refused", {})
    return ", ".join(f"{count} {reason}" for reason, count in refused.items()) or "nobody answered"
