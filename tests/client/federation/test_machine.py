"""Idle and charging: what the kernel's files say, what a platform's function says, and what happens when
neither can be read."""

import os
from pathlib import Path
from typing import Any

import pytest

from palate.client.federation import machine
from palate.client.federation.machine import (
    Readings,
    check_conditions,
    is_met,
    read_load,
    read_machine,
    read_power,
    split_conditions,
)
from palate.shared.errors import OptionError

BATTERY = {"type": "Battery", "present": "1", "status": "Discharging", "capacity": "43"}
MAINS = {"type": "Mains", "online": "0"}


def supplies(folder: Path, **listed: dict[str, str]) -> Path:
    """Files as Linux lays them out in /sys/class/power_supply."""
    power = folder / "power_supply"
    power.mkdir()
    for name, files in listed.items():
        (power / name).mkdir()
        for file, word in files.items():
            (power / name / file).write_text(word + "\n")
    return power


class Lent:
    """An entry point of a platform."""

    def __init__(self, name: str, answer: Any) -> None:
        self.name, self.answer = name, answer

    def load(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def lend(monkeypatch: pytest.MonkeyPatch) -> Any:
    def lend_these(*lent: Lent) -> None:
        def entry_points(*, group: str) -> list[Lent]:
            assert group == "palate.conditions"
            return list(lent)

        monkeypatch.setattr("importlib.metadata.entry_points", entry_points)

    return lend_these


# --- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", ["", "many", "-5", "4000", "nan", "\x00"])
def test_a_battery_that_says_nonsense_is_unknown(capacity: str, tmp_path: Path) -> None:
    power = supplies(tmp_path, BAT0=BATTERY | {"capacity": capacity})
    assert read_power(power, "linux") == (None, None)


def test_bytes_that_are_no_text_are_unknown(tmp_path: Path) -> None:
    power = supplies(tmp_path, BAT0=BATTERY)
    (power / "BAT0" / "status").write_bytes(b"\xff\xfe")
    assert read_power(power, "linux") == (None, None)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_list_that_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    power = supplies(tmp_path, BAT0=BATTERY)
    power.chmod(0)
    try:
        assert read_power(power, "linux") == (None, None)
    finally:
        power.chmod(0o700)


def test_other_systems_and_machines_without_the_list_are_unknown(tmp_path: Path) -> None:
    assert read_power(supplies(tmp_path, AC=MAINS), "darwin") == (None, None)
    assert read_power(tmp_path / "sys" / "power_supply", "linux") == (None, None)


def test_a_system_without_load_averages_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")
    assert read_load() is None
    assert is_met("idle", read_machine(["idle"])) is None


# --- charging -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "plugged_in", "charge"),
    [
        ({}, True, None),  # no battery: a machine that stands at a wall
        ({"AC": MAINS}, True, None),
        ({"AC": MAINS, "BAT0": BATTERY}, False, 43),
        ({"BAT0": BATTERY}, False, 43),
        ({"AC": MAINS | {"online": "1"}, "BAT0": BATTERY}, True, 43),
        ({"BAT0": BATTERY | {"status": "Charging"}}, True, 43),
        ({"BAT0": BATTERY | {"status": "Full", "capacity": "100"}}, True, 100),
        ({"BAT0": BATTERY | {"status": "Not charging"}}, True, 43),
        ({"BAT0": BATTERY | {"status": "Unknown"}}, None, 43),
        ({"BAT0": BATTERY, "BAT1": BATTERY | {"status": "Full", "capacity": "90"}}, False, 43),
        ({"BAT0": BATTERY | {"present": "0"}}, True, None),
        ({"mouse": BATTERY | {"scope": "Device", "capacity": "3"}}, True, None),
        ({"dock": {"type": "USB", "online": "1"}, "BAT0": BATTERY}, True, 43),
    ],
)
def test_linux_lists_say_whether_the_machine_is_plugged_in(
    listed: dict[str, dict[str, str]], plugged_in: bool | None, charge: float | None, tmp_path: Path
) -> None:
    assert read_power(supplies(tmp_path, **listed), "linux") == (plugged_in, charge)


@pytest.mark.parametrize(
    ("readings", "answer"),
    [
        (Readings(plugged_in=True), (True, "plugged in")),
        (Readings(plugged_in=True, charge=5), (True, "plugged in")),
        (Readings(plugged_in=False, charge=79.9), (False, "on battery at 80 %")),
        (Readings(plugged_in=False, charge=80.0), (True, "battery at 80 %")),
        (Readings(plugged_in=None, charge=90.0), (True, "battery at 90 %")),
        (Readings(plugged_in=None, charge=20.0), None),
        (Readings(plugged_in=False), None),
        (Readings(), None),
    ],
)
def test_charging_is_plugged_in_or_nearly_full(readings: Readings, answer: tuple[bool, str] | None) -> None:
    assert is_met("charging", readings) == answer


# --- idle ---------------------------------------------------------------------------------------------------


def test_idle_is_less_than_half_a_load_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for load, idle in ((1.96, True), (2.0, False), (9.0, False)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        answer = is_met("idle", read_machine(["idle"]))
        assert answer == (idle, f"load of {load / 4:.2f} per core")


# --- what a platform adds -----------------------------------------------------------------------------------


def test_a_platforms_function_replaces_what_is_read_here(lend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_load", lambda: pytest.fail("not asked"))
    lend(
        Lent("idle", lambda: (False, "the screen is on")), Lent("charging", lambda: pytest.fail("not asked"))
    )
    assert is_met("idle", read_machine(["idle"])) == (False, "the screen is on")


def test_a_platform_may_lend_conditions_of_its_own(lend: Any) -> None:
    lend(Lent("unmetered", lambda: (True, "on the home network")))
    check_conditions("idle+unmetered")
    assert is_met("unmetered", read_machine(["unmetered"])) == (True, "on the home network")
    with pytest.raises(OptionError, match="nothing here knows 'asleep'; there are charging, idle, unmetered"):
        check_conditions("asleep")


@pytest.mark.parametrize(
    "answer",
    [
        ImportError("a secret"),
        lambda: 1 / 0,
        lambda: True,
        lambda: (1, "yes"),
        lambda: (True, None),
        lambda: ("yes", "yes"),
        lambda: None,
        "not a function",
    ],
)
def test_a_platforms_function_that_fails_has_said_nothing(lend: Any, answer: Any) -> None:
    lend(Lent("idle", answer))
    assert is_met("idle", read_machine(["idle"])) is None


def test_a_platforms_words_are_few_and_on_one_line(lend: Any) -> None:
    lend(Lent("idle", lambda: (True, "so\n  " + "y" * 500)), Lent("charging", lambda: (True, "")))
    told = read_machine(["idle", "charging"]).told
    assert told["idle"] == (True, ("so " + "y" * 500)[:60])
    assert told["charging"] == (True, "as the platform says")


def test_a_platform_cannot_lend_always_or_names_that_nobody_can_write(lend: Any) -> None:
    lend(
        Lent("always", lambda: (True, "")), Lent("Idle", lambda: (True, "")), Lent("a+b", lambda: (True, ""))
    )
    assert not machine.added_conditions()


# --- how conditions are named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "when", ["", "+", "idle+", "idle+idle", "always+idle", "Idle", "idle,charging", "i" * 40]
)
def test_conditions_of_another_form_are_one_line(when: str) -> None:
    with pytest.raises(OptionError, match="it must be always, idle, charging or idle") as caught:
        split_conditions(when)
    assert "\n" not in str(caught.value)


def test_conditions_are_joined_by_plus() -> None:
    assert split_conditions("always") == ()
    assert split_conditions("idle") == ("idle",)
    assert split_conditions("charging+idle") == ("charging", "idle")
