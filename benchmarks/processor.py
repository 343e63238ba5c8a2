"""Processor seconds of processes that are at work, by what they are, at the end of each round.

Read from Linux's /proc.

Wall time says how long a round takes on a machine with whatever else it does; processor time says what the
round itself takes. The first round of a run is left out: it loads libraries.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LOOK_SECONDS = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12  # fields of /proc/PID/stat behind the name


def processor_seconds(process: int) -> float:
    """Return the processor time, user's and system's, of a process with all its threads.

    0 when it has ended.
    """
    found = _stat(process)
    return (int(found[_USER]) + int(found[_SYSTEM])) / _TICKS if found else 0.0


def descendants(process: int) -> dict[int, str]:
    """Return the processes that a process started, and those started by these, with their command lines."""
    parents: dict[int, int] = {}
    for entry in PROC.glob("[0-9]*"):
        if found := _stat(int(entry.name)):
            parents[int(entry.name)] = int(found[_PARENT])
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    lines = {}
    for one in family - {process}:
        with contextlib.suppress(OSError):
            lines[one] = (
                (PROC / str(one) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
    return lines


@dataclass(frozen=True)
class Mark:
    """How many processor seconds each kind of process had used when so many rounds had ended."""

    rounds: int
    used: Mapping[str, float]


class Accounts:
    """Notes what each kind of process has used whenever a round has ended.

    A `with` block in which it looks.
    """

    def __init__(self, look: Callable[[], Mapping[str, list[int]]], rounds: Callable[[], int]) -> None:
        """`look` gives the processes by kind, `rounds` how many rounds have ended."""
        self.marks: list[Mark] = []
        self._look, self._rounds = look, rounds
        self._used: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="accounts", daemon=True)

    def __enter__(self) -> Accounts:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and end."""
        self._over.set()
        self._thread.join()

    def per_round(self) -> dict[str, float]:
        """Return the processor seconds of a round by kind, a mean over all rounds but the first.

        Empty for fewer than two.
        """
        if len(self.marks) < 2:
            return {}
        first, last = self.marks[0], self.marks[-1]
        rounds = last.rounds - first.rounds
        return {kind: (used - first.used.get(kind, 0.0)) / rounds for kind, used in last.used.items()}

    def _watch(self) -> None:
        while True:
            over = self._over.is_set()
            for kind, processes in self._look().items():
                for one in processes:
                    key = (kind, one)
                    self._used[key] = max(processor_seconds(one), self._used.get(key, 0.0))
            ended = self._rounds()
            if ended > (self.marks[-1].rounds if self.marks else 0):
                totals: dict[str, float] = {}
                for (kind, _), used in self._used.items():
                    totals[kind] = totals.get(kind, 0.0) + used
                self.marks.append(Mark(ended, totals))
            if over:
                return
            self._over.wait(LOOK_SECONDS)


def _stat(process: int) -> list[str]:
    try:
        return (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
