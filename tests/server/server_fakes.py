"""Devices in the same process for the server's tests: they answer at once with a cheap change that anyone can
compute."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from palate.server.aggregation import Reply
from palate.server.rounds.exchange import Patience
from palate.server.settings import RunSettings
from palate.shared.delegation import message_in
from palate.shared.encoder import SHARED_SHAPES, encoder_hash, load_encoder
from palate.shared.releases.fields import RELEASE
from palate.shared.update import EncoderUpdate
from palate.shared.wire import Task, decode_task, encode_update, kind_of

SHIPPED = load_encoder()


def change(task: Task, device: int) -> EncoderUpdate:
    """A change that depends on the encoder, the seed and the device, as training would."""
    rng = np.random.default_rng([task.seed % 2**32, task.round, device])
    tensors = {
        name: (0.01 * rng.standard_normal(shape) - 0.001 * task.tensors[name]).astype(np.float32)
        for name, shape in SHARED_SHAPES.items()
    }
    return EncoderUpdate(encoder_hash(task.encoder(SHIPPED)), task.round, tensors)


def honest(task: Task, device: int) -> bytes:
    """The wire bytes that a well-behaved device answers with."""
    return encode_update(change(task, device))


Answer = Callable[[Task, int], bytes | Reply | None]
"""From task and device to wire bytes, a ready reply, or None for a device that never answers."""


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now: float = 0.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def patience(self) -> Patience:
        return Patience(0.5, self.time, self.sleep)


@dataclass
class FakeDevices:
    """A few devices; `odd` says which of them answer otherwise, `delays` how many polls a reply takes."""

    count: int = 3
    first: int = 101  # number of the first one
    odd: dict[int, Answer] = field(default_factory=dict)
    delays: dict[int, int] = field(default_factory=dict)
    backwards: bool = False
    offers: list[bytes] = field(default_factory=list)  # logs of releases, which are answered with nothing
    tasks: list[Task] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _waiting: dict[str, tuple[Task, int, int]] = field(default_factory=dict)
    _offered: dict[str, int] = field(default_factory=dict)

    def connected(self) -> Sequence[int]:
        return range(self.first, self.first + self.count)

    def ask(self, wires: Mapping[int, bytes], round: int, seconds: float) -> Mapping[str, int]:  # noqa: A002
        (wire,) = set(wires.values())
        if kind_of(wire) == RELEASE:
            self.offers.append(wire)
            self._offered = {f"{round}-offer-{device}": device for device in wires}
            return dict(self._offered)
        task = decode_task(message_in(wire))
        assert task.round == round
        self.tasks.append(task)
        self.asked.append(list(wires))
        self.seconds.append(seconds)
        ids = {f"{round}-{device}": device for device in wires}
        self._waiting = {q: (task, d, self.delays.get(d, 0)) for q, d in ids.items()}
        return ids

    def replies(self, questions: Collection[str]) -> Iterable[Reply]:
        while self._offered:
            yield Reply(self._offered.popitem()[0], b"")
        for question, (task, device, polls) in sorted(self._waiting.items(), reverse=self.backwards):
            if polls > 0:
                self._waiting[question] = (task, device, polls - 1)
                continue
            answer = self.odd.get(device, honest)(task, device)
            if answer is None:
                continue
            del self._waiting[question]
            yield answer if isinstance(answer, Reply) else Reply(question, answer)


def settings(**changed: object) -> RunSettings:
    """Settings for three devices, quick to give up."""
    return RunSettings(**{"deadline_seconds": 10.0, "wait_seconds": 20.0, **changed})  # type: ignore[arg-type]
