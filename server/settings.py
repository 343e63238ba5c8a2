"""What a run is told: how many rounds and devices, how long to wait, and how to average.

Where it stands in the flow: `palate server run` fills it from its options, Flower carries it as one JSON text
in the run's configuration, `server.app` reads it back in its first line, and every checkpoint keeps it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from palate.server.secure_sum.privacy import PlanSettings, Privacy
from palate.shared.checks import check_wholes, keep_numbers
from palate.shared.errors import FileFormatError, OptionError
from palate.shared.update import MAX_NORM, MAX_ROUND, LocalSettings

STRATEGIES: Final = ("fedavg", "fedadam", "fedprox")
_GONE: Final[Mapping[str, Sequence[object]]] = {"liars": [0], "trim": [0.2]}
_GONE_OF_PRIVACY: Final[Mapping[str, Sequence[object]]] = {"rule": ["mean", "centred clipping"]}
"""Settings that earlier versions wrote into checkpoints, with the values that a run of today has anyway."""

_WHOLE: Final = {
    "rounds": (1, MAX_ROUND),
    "devices": (1, 100_000),
    "quorum": (1, 100_000),
    "missed_rounds": (1, 1_000),
    "seed": (0, 2**63 - 1),
}
_NUMBERS: Final = {
    "over_sampling": (1.0, 10.0),
    "deadline_seconds": (0.05, 86_400.0),
    "wait_seconds": (0.0, 604_800.0),
    "server_learning_rate": (1e-6, 10.0),
    "beta_1": (0.0, 0.9999),
    "beta_2": (0.0, 0.999999),
    "tau": (1e-12, 1.0),
    "max_norm": (1e-6, 1e6),
}


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run; raises OptionError outside the ranges.

    `rounds` is the number of the last round, counted from the first one that this server ever held. A round
    asks `devices` times `over_sampling` devices, ends when `devices` usable updates are there, when all have
    answered, or at the deadline, and counts if at least `quorum` are. After `missed_rounds` in a row that did
    not, the run ends.

    `server_learning_rate` scales the average change (1 is plain averaging; for FedAdam 0.001 to 0.1 is
    usual). `beta_1`, `beta_2` and `tau` are FedAdam's (Reddi et al., ICLR 2021). `max_norm` is the longest
    change that is taken (L2).

    With `privacy` rounds are masked: the server sees noised sums over many devices only. Then a round asks
    all of its devices and waits for all of them until the deadline. With a noise plan in it, a sum is divided
    by `devices`, not by how many came, so that the noise of one round cancels in the next.
    """

    rounds: int = 3
    devices: int = 3
    quorum: int = 2
    missed_rounds: int = 3
    over_sampling: float = 1.0
    deadline_seconds: float = 120.0
    wait_seconds: float = 120.0
    seed: int = 1
    strategy: str = "fedavg"
    server_learning_rate: float = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3
    max_norm: float = MAX_NORM
    local: LocalSettings = field(default_factory=LocalSettings)
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        check_wholes(self, _WHOLE)
        keep_numbers(self, _NUMBERS)
        if self.quorum > self.devices:
            raise OptionError(f"quorum is {self.quorum}; it must be at most devices, {self.devices}")
        if self.strategy not in STRATEGIES:
            raise OptionError(f"strategy is {self.strategy!r}; it must be one of {', '.join(STRATEGIES)}")
        if self.privacy is not None:
            object.__setattr__(self, "privacy", self.privacy.for_cohort(self.devices))
        if (self.strategy == "fedprox") != (self.local.proximal > 0):
            raise OptionError(
                f"strategy is {self.strategy!r} and proximal is {self.local.proximal:g}; "
                "fedprox needs a proximal above 0, and the others need 0"
            )

    @property
    def asked(self) -> int:
        """How many devices a round asks."""
        return math.ceil(self.devices * self.over_sampling - 1e-9)

    @property
    def least(self) -> int:
        """How few devices a masked sum may be of: the quorum, or in groups two thirds of one."""
        size = (self.privacy.group_size or 0) if self.privacy is not None else 0
        return max(2, self.quorum if not size else -(-2 * size // 3))

    def to_json(self) -> str:
        """Return the settings as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunSettings:
        """Return the settings of a JSON text; an empty text gives the defaults.

        Raises:
            FileFormatError: the text is no such object, or a key is unknown.
            OptionError: a value is out of range.
        """
        try:
            found = json.loads(text or "{}")
        except ValueError:
            raise FileFormatError(
                "the run's settings are not JSON; submit the run with `palate server run`"
            ) from None
        known = _known(cls, found, "the run's settings", _GONE)
        if "local" in known:
            known["local"] = LocalSettings(
                **_known(LocalSettings, known["local"], "the run's local settings")
            )
        if known.get("privacy") is not None:
            private = _known(Privacy, known["privacy"], "the run's privacy settings", _GONE_OF_PRIVACY)
            if private.get("plan") is not None:
                private["plan"] = PlanSettings(
                    **_known(PlanSettings, private["plan"], "the noise plan's settings")
                )
            known["privacy"] = Privacy(**private)
        return cls(**known)


def _known(
    kind: type, found: Any, what: str, gone: Mapping[str, Sequence[object]] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the keys of a JSON object that a dataclass has; `gone` are keys and values that are left out."""
    names = [one.name for one in dataclasses.fields(kind)]
    if not isinstance(found, dict):
        raise FileFormatError(
            f"{what} are a {type(found).__name__}; they must be an object with {', '.join(names)}"
        )
    found = {key: value for key, value in found.items() if value not in gone.get(key, ())}
    unknown = next((str(key) for key in found if key not in names), None)
    if unknown is not None:
        raise FileFormatError(
            f"{what} have the unknown key {unknown[:60]!r}; the keys are {', '.join(names)}"
        )
    return dict(found)
