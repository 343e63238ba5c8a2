"""Whether this machine is idle or charging now: from Linux, or from a platform's own function.

Where it stands in the flow: `consent` reads it before each round, if the person agreed to take part at such
times only. This module reads and judges; it decides, keeps and sends nothing.

A platform such as a phone, which knows more than Linux says, adds a function through the entry-point group
`palate.conditions`. Its name is the condition ("idle" and "charging" replace the readings here, any other
name is a condition of its own). It returns whether the condition is met and why, in a few words. It is called
once before each round, in the joined process, and should return at once. A function that fails has said
nothing, which does not count as yes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.shared.errors import OptionError

GROUP = "palate.conditions"  # of entry points
ALWAYS, IDLE, CHARGING = "always", "idle", "charging"

BUSIEST_LOAD = 0.5
"""From this load average of the last minute per core on, a machine is not idle."""

LEAST_CHARGE = 80.0
"""From this percentage on, a battery counts as if it were charging."""

POWER = Path("/sys/class/power_supply")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")
_WORDS = 60  # characters of a platform's reason


@dataclass(frozen=True)
class Readings:
    """What could be read of this machine; None for what could not."""

    load: float | None = None  # average of the last minute, per core
    plugged_in: bool | None = None  # a machine without a battery is
    charge: float | None = None  # percent of the least charged battery
    told: Mapping[str, tuple[bool, str] | None] = field(default_factory=dict)
    """By condition, what a platform's function returned; None for one that failed."""


def split_conditions(when: str) -> tuple[str, ...]:
    """Return the names in "always" (none), "idle", "idle+charging" and the like.

    Raises OptionError for other forms.
    """
    names = tuple(when.split("+")) if isinstance(when, str) else ()
    odd = not names or len(set(names)) < len(names) or any(not _NAME.fullmatch(name) for name in names)
    if odd or (ALWAYS in names and len(names) > 1):
        raise OptionError(
            f"when is {str(when)[:_WORDS]!r}; it must be always, idle, charging or idle+charging"
        )
    return () if names == (ALWAYS,) else names


def is_met(name: str, readings: Readings) -> tuple[bool, str] | None:
    """Return whether a condition is met and why, in a few words; None if it cannot be read."""
    if name in readings.told:
        return readings.told[name]
    if name == IDLE and readings.load is not None:
        return readings.load < BUSIEST_LOAD, f"load of {readings.load:.2f} per core"
    if name == CHARGING:
        if readings.plugged_in:
            return True, "plugged in"
        if readings.charge is not None and readings.charge >= LEAST_CHARGE:
            return True, f"battery at {readings.charge:.0f} %"
        if readings.plugged_in is False and readings.charge is not None:
            return False, f"on battery at {readings.charge:.0f} %"
    return None


def read_machine(conditions: Iterable[str]) -> Readings:
    """Return what these conditions need, from the platform's functions where there are some."""
    wanted = tuple(conditions)
    if not wanted:
        return Readings()
    added = added_conditions()
    told = {name: _call(added[name]) for name in wanted if name in added}
    load = read_load() if IDLE in wanted and IDLE not in told else None
    plugged, charge = read_power() if CHARGING in wanted and CHARGING not in told else (None, None)
    return Readings(load, plugged, charge, told)


def read_load() -> float | None:
    """Return the load average of the last minute per core, None where the system keeps none (Windows)."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def read_power(folder: Path = POWER, system: str = sys.platform) -> tuple[bool | None, float | None]:
    """Return whether the machine is plugged in, and the percent of its least charged battery, from Linux.

    Without a battery a machine is plugged in. Batteries of mice and the like do not count. None for what
    cannot be read, and for both on other systems, where a platform's function is needed.
    """
    if system != "linux" or not folder.parent.is_dir():
        return None, None
    mains: list[bool] = []
    states: list[str] = []
    charges: list[float] = []
    try:
        supplies = sorted(folder.iterdir()) if folder.is_dir() else []
        for supply in supplies:
            kind = _word(supply / "type")
            if _word(supply / "scope") == "Device":
                continue
            if kind == "Battery" and _word(supply / "present") != "0":
                states.append(_word(supply / "status"))
                charges.append(float(_word(supply / "capacity")))
            elif kind != "Battery" and (supply / "online").exists():
                mains.append(_word(supply / "online") != "0")
    except (OSError, ValueError):
        return None, None
    if not states:
        return True, None
    charge = min(charges)
    if not 0 <= charge <= 100:
        return None, None
    if any(mains) or all(state in ("Charging", "Full", "Not charging") for state in states):
        return True, charge
    return (False if mains or "Discharging" in states else None), charge


def _word(path: Path) -> str:
    """Return the word in a file of the kernel; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            return file.read(100).decode("ascii").strip()
    except FileNotFoundError:
        return ""


def added_conditions() -> Mapping[str, Any]:
    """Return the entry points of the group `palate.conditions`, by name; none is loaded yet."""
    from importlib.metadata import entry_points

    return {
        entry.name: entry
        for entry in entry_points(group=GROUP)
        if _NAME.fullmatch(entry.name) and entry.name != ALWAYS
    }


def check_conditions(when: str) -> None:
    """Raise `OptionError` for a condition that nothing on this machine knows."""
    known = {IDLE, CHARGING, *added_conditions()}
    for name in split_conditions(when):
        if name not in known:
            raise OptionError(
                f"when is {when!r}, and nothing here knows {name!r}; there are {', '.join(sorted(known))}"
            )


def _call(entry: Any) -> tuple[bool, str] | None:
    """Call a platform's function; return None if it fails or returns another form."""
    try:
        met, words = entry.load()()
    except Exception:  # noqa: BLE001 - somebody else's code; its text may not be fit to show
        return None
    if type(met) is not bool or not isinstance(words, str):
        return None
    return met, " ".join(words.split())[:_WORDS] or "as the platform says"
