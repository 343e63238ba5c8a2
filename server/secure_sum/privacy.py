"""How a round hides single devices: the ring, the clip, the noise, and what a run may spend.

Where it stands in the flow: a run's settings hold a `Privacy`; `rounds.masked` makes of it what each round's
invitation says (`mask_settings`), and the ledger is asked before each round whether its cost still fits the
budget. Where the settings hold a noise plan, `planned` makes the rounds' settings once, for all of the plan's
rounds (`planned_masks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from palate.server.noise_plan.correlated import WIDEST, NoisePlan, best_bands, prefix_error, step_error
from palate.server.secure_sum.clipping import ENOUGH, ClipRule
from palate.server.secure_sum.trust_region import REACH
from palate.shared.checks import check_number, check_whole, is_hex
from palate.shared.coding import finest_step, sensitivity_of
from palate.shared.encoder import SHARED_WEIGHTS
from palate.shared.errors import OptionError
from palate.shared.noise import check_sigma
from palate.shared.secure_sum.masks import MOST_DEVICES, MaskSettings, smallest_sum
from palate.shared.subspace import Subspace, load_subspace
from palate.shared.sum_noise import VOUCHED_SHARE, honest_devices

SAMPLINGS: Final = ("fixed", "poisson")

_NUMBERS: Final = {
    "clip": (1e-4, 25.0),
    "clip_rate": (0.0, 2.0),
    "noise_multiplier": (0.0, 1_000.0),
    "agreement": (0.01, 1.0),
    "threshold_share": (0.51, 0.9),
    "honest_share": (0.0, 1.0),
    "epsilon": (1e-3, 1e6),
    "delta": (1e-15, 0.1),
    "trust_region": (0.0, 1_000.0),
}

MOST_STEPS: Final = 10_000

LEAST_GROUP: Final = (
    20  # two thirds of it, and what a lying server could make of them, are more than devices require
)
AFFORDABLE_NOISE: Final = 0.1  # of the noise in a round's mean, in clips


@dataclass(frozen=True)
class PlanSettings:
    """Noise of the server's own, correlated over the rounds (`correlated`).

    Raises OptionError outside the ranges.

    The plan is for `steps` sums; a device that was in one rests until `separation` sums later, so it is in no
    more than steps / separation of them. The noise has the standard deviation `noise_multiplier` times the
    longest that one device can add in all of them together, so that the plan as a whole costs what one round
    of that multiplier does. It reaches back over `bands` sums, 1 for independent noise; 0 takes as many as
    leave the least noise in what is learned.
    """

    steps: int = 0  # 1 to 10,000
    separation: int = 0  # 1 to steps
    noise_multiplier: float = 0.0  # 0.01 to 1,000
    bands: int = 0  # 0 to steps

    def __post_init__(self) -> None:
        check_whole("steps of the noise plan", self.steps, 1, MOST_STEPS)
        check_whole("separation of the noise plan", self.separation, 1, self.steps)
        check_whole("bands of the noise plan", self.bands, 0, self.steps)
        check_number("noise_multiplier of the noise plan", self.noise_multiplier, 0.01, 1_000)
        object.__setattr__(self, "noise_multiplier", float(self.noise_multiplier))

    def over(self, sensitivity: float) -> NoisePlan:
        """Return the plan for contributions to one sum that are at most so long (L2, in levels)."""
        bands = self.bands or best_bands(self.steps, self.separation)
        return NoisePlan(self.steps, self.separation, bands, self.noise_multiplier, sensitivity)


@dataclass(frozen=True)
class Privacy:
    """What masks, noise and budget a run has; raises OptionError outside the ranges.

    A device's change is cut to the L2 length `clip`; from round to round the clip follows the median of the
    devices' lengths by `clip_rate` (0 keeps it). The noise on a sum of the quorum has the standard deviation
    `noise_multiplier` times the longest that one device can add, also if no more than `honest_share` of its
    devices add theirs: so much more each of them adds. With more devices in the sum there is more. By default
    half of the devices are counted on where a registrar vouches for them, and elsewhere none but a person's
    own, because anybody can invent devices. Sums are taken modulo 2^`ring_bits` in the finest steps
    that fit if the changes agree no more than `agreement` (1: all the same). The encoder goes out as a
    difference of `model_bits` bits per weight. `threshold_share` is the part of a device's neighbours that
    must be there at the end.

    No round begins that would pass `epsilon` at `delta`, for what is released, counted per device. With
    "poisson" each device is asked with the same chance, independently and in secret, which makes rounds
    cheaper; with "fixed" nothing is counted for sampling. With `subspace` devices send their change in the
    few directions of the public subspace that ships with Palate, in which the same noise does far less harm;
    only the last layer of the picture side moves then. With a `group_size` above 0 the cohort is cut into
    groups, each with its own masked sum, and centred clipping is taken over their means (`groups`); 0 is one
    sum, and where nothing is said the run's number of devices decides (`usual_group`). With a `registrar` (an
    Ed25519 public key in 64 hexadecimal digits) only devices that it has certified are taken in. All rounds
    since the last release together move what the encoder says of public pictures by `trust_region` logits at
    the most (`server.secure_sum.trust_region`; 0: as far as they will).

    With a `plan`, for fleets that cannot be sampled, the server adds noise of its own to each sum, and what
    is released is counted by that alone, whatever the devices do. The devices' shares, `noise_multiplier`,
    stay what each device counts for itself; they may be smaller then, as far as the devices' own budgets
    allow. Clip, steps of levels and cohort are then the same in all rounds.
    """

    clip: float = 0.15
    clip_rate: float = 0.2
    noise_multiplier: float = 4.0
    honest_share: float | None = None  # 0 to 1; None is VOUCHED_SHARE with a registrar, else 0
    ring_bits: int = 16
    agreement: float = 1.0
    model_bits: int = 8
    subspace: bool = True
    threshold_share: float = 0.66
    epsilon: float = 8.0
    delta: float = 1e-5
    sampling: str = "fixed"
    group_size: int | None = None
    registrar: str = ""
    trust_region: float = REACH
    plan: PlanSettings | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _NUMBERS.items():
            value = getattr(self, name)
            if value is None and name == "honest_share":
                continue
            check_number(name, value, low, high)
            object.__setattr__(self, name, float(value))
        if type(self.subspace) is not bool:
            raise OptionError(f"subspace is {self.subspace!r}; it must be true or false")
        for name, values in (
            ("ring_bits", range(2, 33)),
            ("model_bits", (6, 8, 32)),
            ("group_size", range(100_001)),
            ("sampling", SAMPLINGS),
        ):
            value = getattr(self, name)
            if name == "group_size" and value is None:
                continue
            if isinstance(value, bool) or value not in values:
                said = (
                    f"from {values[0]} to {values[-1]:,}"
                    if len(values) > 6
                    else f"one of {', '.join(map(str, values))}"
                )
                raise OptionError(f"{name} is {value!r}; it must be {said}")
        if self.registrar != "" and not is_hex(self.registrar):
            raise OptionError("registrar must be an Ed25519 public key in 64 hexadecimal digits, or empty")
        if self.group_size == 1:
            raise OptionError("group_size is 1; a group of one is no sum: take 0 for one sum, or 2 and more")
        if self.plan is not None:
            self._check_plan()

    def _check_plan(self) -> None:
        if not isinstance(self.plan, PlanSettings):
            raise OptionError("plan must be a table with steps, separation and noise_multiplier")
        for name, due, why in (
            ("sampling", "fixed", "it does not count sampling"),
            ("clip_rate", 0.0, "its rounds all have the same clip"),
            ("group_size", 0, "its noise is for one sum a round"),
        ):
            value = getattr(self, name)
            if value not in (due, None):
                raise OptionError(f"{name} is {value!r} together with a noise plan; {why}, so take {due!r}")

    def for_cohort(self, devices: int) -> Privacy:
        """Return the settings for rounds of so many devices.

        They have groups where nothing is said about groups and the noise allows them.
        """
        if self.group_size is not None:
            return self
        size = 0 if self.plan is not None else usual_group(self, devices)
        return replace(self, group_size=size)

    @property
    def directions(self) -> Subspace | None:
        """The subspace in which changes are sent, None for all weights."""
        return load_subspace() if self.subspace else None

    @property
    def count(self) -> int:
        """How many numbers a change has."""
        return SHARED_WEIGHTS if self.directions is None else self.directions.count

    @property
    def counted_share(self) -> float:
        """The part of the devices in a sum whose noise is counted on, without a person's own."""
        if self.honest_share is not None:
            return self.honest_share
        return VOUCHED_SHARE if self.registrar else 0.0

    @property
    def clip_rule(self) -> ClipRule:
        """How the clip follows the devices."""
        return ClipRule(rate=self.clip_rate)


def usual_group(privacy: Privacy, devices: int) -> int:
    """Return the size of the smallest groups that rounds of so many devices can afford, 0 for one sum.

    A group's sum has the noise of its own devices alone, so at the same epsilon the mean over all groups has
    more noise by the root of their number. That is affordable up to `AFFORDABLE_NOISE`, which one sum of 900
    devices with the noise of epsilon 2 has if all of them are counted on; twice as much costs three points of
    accuracy, three times as much six. Fewer than `ENOUGH` groups hold no liar off, and devices refuse sums of
    few. So groups come with masks that have no noise from 100 devices on, and with noise in large cohorts.
    """
    low, high = LEAST_GROUP, min(MOST_DEVICES // 2, devices // ENOUGH) + 1
    most = high
    while low < high:
        middle = (low + high) // 2
        affordable = noise_over_clip(replace(privacy, group_size=middle), devices) <= AFFORDABLE_NOISE
        low, high = (low, middle) if affordable else (middle + 1, high)
    return low if low < most else 0


def noise_over_clip(privacy: Privacy, devices: int, least: int | None = None) -> float:
    """Return how many times longer than the clip the noise in a round's mean is (L2).

    The noise of a plan cancels over the rounds. It counts as the independent noise that leaves as much in the
    sum of all rounds.

    Args:
        privacy: the run's privacy settings.
        devices: how many devices come to the end.
        least: the smallest sum. Each device adds noise as if the sum were of so many and `honest_share` of
            them added theirs. By default all devices; with groups it is two thirds of each.
    """
    plan = privacy.plan
    planned = prefix_error(plan.over(1.0)) / math.sqrt((plan.steps + 1) / 2) if plan is not None else 0.0
    size = min(privacy.group_size or devices, devices)
    fewest = max(1, math.ceil(2 * size / 3)) if privacy.group_size else least or devices
    shares = privacy.noise_multiplier * more_noise(privacy, least=fewest, most=size)
    return math.hypot(shares, planned) * math.sqrt(privacy.count * devices / size) / devices


def more_noise(privacy: Privacy, *, least: int, most: int) -> float:
    """Return how many times `noise_multiplier` the noise of `most` devices is.

    Each of them adds what keeps a sum of `least` safe.
    """
    return math.sqrt(most / honest_devices(privacy.counted_share, least))


def enough_devices(privacy: Privacy, times: float, least_share: float) -> int:
    """Return from how many devices on a round's noise is about `times` clips long (`noise_over_clip`).

    `least_share` is the part of them that makes the smallest sum. Returns at most 10^9.
    """
    low, high = 1, 10**9
    while low < high:
        middle = (low + high) // 2
        least = max(1, math.ceil(least_share * middle))
        low, high = (low, middle) if noise_over_clip(privacy, middle, least) <= times else (middle + 1, high)
    return low


def own_multiplier(privacy: Privacy, least: int, sure: int) -> float:
    """Return the noise multiplier that a device counts for itself on its usual terms.

    Sums of `sure` devices are sure.

    With a registrar it counts on the noise of `VOUCHED_SHARE` of them, without one on its own alone.
    """
    share = VOUCHED_SHARE if privacy.registrar else 0.0
    counted = honest_devices(share, max(1, min(sure, least)))
    return privacy.noise_multiplier * math.sqrt(counted / honest_devices(privacy.counted_share, least))


def sum_that_is_sure(privacy: Privacy, devices: int, quorum: int) -> int:
    """Return over how few of `devices` a server that lies to them could get a sum (`masks.smallest_sum`)."""
    settings = MaskSettings(least=max(2, min(quorum, MOST_DEVICES)), threshold_share=privacy.threshold_share)
    return smallest_sum(min(devices, MOST_DEVICES), settings)


def mask_settings(privacy: Privacy, clip: float, *, least: int, most: int) -> MaskSettings:
    """Return what an invitation says about masks, for a sum of `least` to `most` devices.

    Each device adds noise as if only `least` came to the end, and of them only those that are counted on
    added theirs, so that there is always enough.

    Raises:
        OptionError: the ring is too narrow.
    """
    # The ring must hold the noise of all, each of which adds the share that the smallest sum needs.
    step, noise = finest_step(
        privacy.ring_bits,
        most,
        clip=clip,
        noise_multiplier=privacy.noise_multiplier * more_noise(privacy, least=least, most=most),
        agreement=privacy.agreement,
        count=privacy.count,
    )
    return MaskSettings(
        ring_bits=privacy.ring_bits,
        step=step,
        clip=clip,
        noise=noise,
        least=least,
        threshold_share=privacy.threshold_share,
    )


def planned_masks(
    privacy: Privacy, *, least: int, most: int, count: int | None = None
) -> tuple[MaskSettings, NoisePlan]:
    """Return what the invitations of a noise plan's rounds say about masks, and the plan on their grid.

    The ring holds the sum of `most` devices, their noise and the plan's. The plan's noise is added before the
    sum is taken out of the ring, so a sum that wraps around is noised already, and costs no privacy.

    Args:
        privacy: settings with a plan.
        least: the smallest number of devices in a sum.
        most: the largest.
        count: how many numbers a change has, where they are not those of the settings.

    Raises:
        OptionError: the ring is too narrow.
        ValueError: there is no plan.
    """
    plan, clip = privacy.plan, privacy.clip
    if plan is None:
        raise ValueError("there is no noise plan in the settings")
    count = privacy.count if count is None else count
    unit = plan.over(1.0)
    shares = privacy.noise_multiplier * more_noise(privacy, least=least, most=most)
    step, _ = finest_step(
        privacy.ring_bits,
        most,
        clip=clip,
        noise_multiplier=math.hypot(shares, step_error(unit)),
        agreement=privacy.agreement,
        count=count,
    )
    while unit.sigma * sensitivity_of(clip, step, count) > WIDEST:  # a wide ring could hold finer levels
        step *= 2
    sensitivity = sensitivity_of(clip, step, count)
    masks = MaskSettings(
        ring_bits=privacy.ring_bits,
        step=step,
        clip=clip,
        noise=check_sigma(
            privacy.noise_multiplier * sensitivity / math.sqrt(honest_devices(privacy.counted_share, least))
        ),
        least=least,
        threshold_share=privacy.threshold_share,
    )
    return masks, plan.over(sensitivity)
