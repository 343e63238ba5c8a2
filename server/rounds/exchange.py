"""What a round needs from the outside: devices, a clock, a listener, and a place for what came back.

Where it stands in the flow: `rounds` decides what happens, `app` and simulations give it devices behind these
protocols, and there are two ways to collect updates: one by one (`rounds`) and under masks (`rounds.masked`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from palate.server.aggregation import Reply
from palate.shared.arrays import Float32s
from palate.shared.update import EncoderUpdate


class Devices(Protocol):
    """The devices of a federation, as the round loop sees them."""

    def connected(self) -> Sequence[int]:
        """Return the numbers of the devices that are connected now."""

    def ask(self, wires: Mapping[int, bytes], round: int, seconds: float) -> Mapping[str, int]:  # noqa: A002
        """Send each device its bytes, to be forgotten after `seconds`.

        Returns question ids with the devices they went to.
        """

    def replies(self, questions: Collection[str]) -> Iterable[Reply]:
        """Return the replies to these questions that are there by now, each once."""


@dataclass(frozen=True)
class Now:
    """What a run is doing at this moment, for a progress bar."""

    doing: str  # "waiting" for devices or "training"
    round: int
    rounds: int
    done: int  # devices that are there, or updates that are usable
    wanted: int


Tell = Callable[[Now], None]


@dataclass(frozen=True)
class Patience:
    """How the loop passes time; tests put a clock of their own here."""

    poll_seconds: float = 0.2
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Collected:
    """What a round brought in."""

    updates: list[EncoderUpdate] = field(
        default_factory=list
    )  # to be averaged; of a masked round the mean alone
    devices: int = 0  # whose updates are in it
    refused: Counter[str] = field(default_factory=Counter)  # the other answers, by reason
    bytes_down: int = 0
    bytes_up: int = 0
    update_norm: float = 0.0  # mean length of the devices' changes, where they can be seen
    memory: Mapping[str, Float32s] = field(default_factory=dict)  # of the rule over groups
    clip: float = 0.0  # of the next round; 0 where nothing is clipped
    told: dict[str, Any] = field(default_factory=dict)  # more for the round's metrics


class Exchange:
    """Questions and answers of one round, counted."""

    def __init__(self, devices: Devices, round: int, patience: Patience) -> None:  # noqa: A002
        """Ask these devices in this round."""
        self._devices, self._round, self._patience = devices, round, patience
        self.refused: Counter[str] = Counter()
        self.bytes_down = self.bytes_up = 0

    def ask(
        self, wires: Mapping[int, bytes], seconds: float, heard: Callable[[int], None] = lambda _: None
    ) -> dict[int, bytes]:
        """Send each device its bytes, and return the answers that hold bytes.

        Waits for all answers, for at most `seconds`.

        `heard` is called with the number of answers so far. What is no use is counted by reason in `refused`.
        """
        questions = dict(self._devices.ask(wires, self._round, seconds))
        self.bytes_down += sum(len(wires[device]) for device in questions.values())
        if len(questions) < len(wires):
            self.refused["unreachable"] += len(wires) - len(questions)
        deadline = self._patience.clock() + seconds
        answers: dict[int, bytes] = {}
        while questions:
            before = len(questions)
            for reply in self._devices.replies(frozenset(questions)):
                device = questions.pop(reply.question, None)
                if device is None:  # an answer to nothing we asked, or a second one
                    self.refused["unasked"] += 1
                elif reply.wire is None:
                    self.refused[reply.reason or "content"] += 1
                elif not reply.wire:
                    self.refused["empty"] += 1
                else:
                    self.bytes_up += len(reply.wire)
                    answers[device] = reply.wire
            if len(questions) != before:
                heard(len(answers))
            if not questions or self._patience.clock() >= deadline:
                break
            self._patience.sleep(self._patience.poll_seconds)
        self.refused["late"] += len(questions)
        if not self.refused["late"]:
            del self.refused["late"]
        return answers
