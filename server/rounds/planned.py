"""The server's part in a run with a noise plan: who must not be asked, and the noise of each sum.

Where it stands in the flow: `rounds.run` opens a `PlannedNoise` for a run whose settings hold a plan
(`PlanSettings`). `rounds` leaves out the devices that it names. `rounds.masked` passes each sum to it at
once, and uses only what comes back.

**What is counted.** The ledger pays for all steps of the plan together, before the first sum is noised:
(epsilon, delta) of one Gaussian of the plan's noise multiplier (`correlated`). The devices' own shares of
noise are in the sums too. The server does not count them; they can only help. Every device counts its own
share for itself, as in any round, and relies on nothing here.

**In which order.** The state after a step is on the disk before its sum is used, and the ledger's line comes
after the state. So the state is never behind the ledger. If it is, somebody put an older copy back; more sums
would be noised than were paid for, so the run does not begin. After a kill the next sum is the next step: the
step that was begun is over, and its devices rest as after any other.

**Who rests** is known by the numbers that devices last used, so they are not even asked. A device that comes
back under another number has another pseudonym too, and only the device can know it. So each invitation says
how long to rest, and devices keep to it (`client.federation.resting`). A device that does not rest weakens
only its own protection.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from pathlib import Path

from palate.server.ledger.booking import Ledger
from palate.server.noise_plan.correlated import NoisePlan, prefix_error, step_error
from palate.server.noise_plan.folder import NoiseFolder
from palate.server.secure_sum.privacy import planned_masks
from palate.server.settings import RunSettings
from palate.shared.arrays import Levels
from palate.shared.errors import LedgerDamagedError, OptionError, PrivacyBudgetError
from palate.shared.secure_sum.masks import MOST_DEVICES, MaskSettings
from palate.shared.secure_sum.ring import centred, to_ring

_NODE = "node "


class PlannedNoise:
    """The open noise plan of a run; one process at a time has it (the server holds its folder's lock).

    Raises:
        OptionError: settings without a plan and rings too narrow.
        FileFormatError: the folder holds the noise of another plan.
        PrivacyBudgetError: the budget does not hold the plan.
        LedgerDamagedError: a state older than the ledger.
    """

    def __init__(self, folder: Path, settings: RunSettings, ledger: Ledger) -> None:
        """Read the state of the plan, or begin it; nothing is paid for before the first sum."""
        self.masks, plan = masks_and_plan(settings)
        self.spread = step_error(plan)
        """The largest standard deviation of a step's noise, in levels."""
        self.lasting = prefix_error(plan) / math.sqrt((plan.steps + 1) / 2)
        """That of independent noise that leaves as much in the sum of all steps."""
        self._noise, self._ledger = NoiseFolder(folder, plan), ledger
        self._name = self._noise.name
        self.rotation = hashlib.sha256(b"palate rotation 1" + bytes.fromhex(self._name)).digest()
        """What all rounds of the plan rotate by."""
        _, done = ledger.steps_of(self._name)
        if self._noise.state.step < done:
            raise LedgerDamagedError(
                f"the noise in {folder} is at step {self._noise.state.step}, the ledger at {done}: an older "
                "copy was put back; move the folder away to begin another plan, which is paid for anew"
            )
        self._folder = folder
        self._cost = plan.noise_multiplier, plan.steps
        self.check()
        ledger.check_plan(self._name, plan.noise_multiplier)

    @property
    def head(self) -> str:
        """The ledger's head."""
        return self._ledger.head

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self._noise.state.step

    @property
    def steps(self) -> int:
        """How many the plan has."""
        return self._noise.plan.steps

    def check(self) -> None:
        """Raise PrivacyBudgetError when all steps are done."""
        if self.step >= self.steps:
            raise PrivacyBudgetError(
                f"all {self.steps} steps of the noise plan are done, so the run ends; for another plan, "
                f"which is paid for anew, move {self._folder} away and run again"
            )

    @property
    def rest(self) -> int:
        """How many steps a device that was in a sum keeps out of."""
        return self._noise.plan.separation - 1

    def resting(self) -> set[int]:
        """Return who must not be in the next sum, by the numbers that they last came under."""
        # An earlier version kept identities next to the numbers.
        names = self._noise.resting()
        return {int(name.removeprefix(_NODE)) for name in names if name.startswith(_NODE)}

    def add(self, round: int, total: Levels, devices: Collection[int], asked: int) -> Levels:  # noqa: A002
        """Return an unmasked sum with its step's noise, both modulo the ring.

        The step is spent when this returns.

        `devices` are the numbers of those in the sum; `asked` is how many were invited.

        Raises:
            PrivacyBudgetError: as `check` does.
            StorageError: state or ledger cannot be kept: the sum must not be used then.
        """
        self.check()
        multiplier, steps = self._cost
        self._ledger.book_plan(self._name, multiplier, steps)
        noised = self._noise.add(total, [f"{_NODE}{number}" for number in devices])
        self._ledger.book_plan_round(self._name, round, cohort=asked)
        ring_bits = self.masks.ring_bits
        return centred(to_ring(noised, ring_bits), ring_bits)


def masks_and_plan(settings: RunSettings) -> tuple[MaskSettings, NoisePlan]:
    """Return what all invitations of a run with a noise plan say about masks, and the plan.

    Raises:
        OptionError: nothing fits.
    """
    if settings.privacy is None or settings.privacy.plan is None:
        raise OptionError("the run's settings hold no noise plan")
    most = max(settings.least, min(settings.asked, MOST_DEVICES))
    return planned_masks(settings.privacy, least=settings.least, most=most)
