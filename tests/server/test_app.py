"""The server's Flower app against a Grid in one process, as Flower's engines lend it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from server_fakes import SHIPPED, FakeDevices, honest, settings

from palate.server.app import HOME_VARIABLE, app
from palate.server.checkpoints import read_checkpoint
from palate.server.metrics import read_metrics
from palate.server.rounds.run import read_note
from palate.shared.delegation import SIGNED, message_in
from palate.shared.encoder import encoder_hash
from palate.shared.errors import FederationError, FileFormatError
from palate.shared.reasons import DeclineReason
from palate.shared.releases.fields import RELEASE
from palate.shared.wire import decode_task, kind_of

Content = Callable[[bytes, int], RecordDict | Error]


@pytest.fixture(autouse=True)
def a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages need to know whose they are; it keeps that once per process."""
    for name, value in (("_run_id", 7), ("_task_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


def good(wire: bytes, device: int) -> RecordDict:
    return RecordDict({"palate": ConfigRecord({"wire": honest(decode_task(message_in(wire)), device)})})


class PlainGrid(Grid):
    """A Grid in this process whose nodes answer at once."""

    def __init__(self, odd: dict[int, Content] | None = None, nodes: Iterable[int] = (101, 102, 103)) -> None:
        self.odd, self.nodes = odd or {}, list(nodes)
        self.sent: list[Message] = []
        self._replies: dict[str, Message | Exception] = {}

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return Run.create_empty(run_id=7)

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        raise AssertionError("the app makes, pushes and pulls messages itself and never calls this")

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid4().hex
            self.sent.append(message)
            ids.append(message.metadata.message_id)
            device = message.metadata.dst_node_id
            wire = cast("bytes", message.content["palate"]["wire"])  # type: ignore[index]
            offered = kind_of(wire) == RELEASE
            try:
                content = record(wire=b"") if offered else self.odd.get(device, good)(wire, device)
                self._replies[ids[-1]] = Message(content, reply_to=message)  # type: ignore[call-overload]
            except ValueError as error:
                self._replies[ids[-1]] = error
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for one in message_ids:
            reply = self._replies.pop(one, None)
            if isinstance(reply, Exception):
                raise reply
            found += [reply] if reply is not None else []
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise AssertionError("the app makes, pushes and pulls messages itself and never calls this")


def run(grid: Grid, home: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    context = Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config={"settings": text})
    app(grid, context)


def test_the_app_runs_rounds_over_a_grid_with_the_bits_of_the_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server_fakes import Clock

    from palate.server.rounds.run import ServerFolder, federate
    from palate.server.strategy import average

    how = settings(rounds=2, strategy="fedadam", server_learning_rate=0.01)
    run(PlainGrid(), tmp_path / "grid", how.to_json(), monkeypatch)
    plain = federate(
        FakeDevices(), ServerFolder(tmp_path / "plain"), how, average=average, patience=Clock().patience()
    )
    found = read_checkpoint(tmp_path / "grid" / "checkpoint.safetensors")
    assert found is not None
    assert encoder_hash(found.encoder) == encoder_hash(plain.encoder) != encoder_hash(SHIPPED)
    assert read_note(tmp_path / "grid" / "ended.json") == {"run": "7", "ended": "finished", "round": 2}


def test_a_message_holds_the_task_alone_and_dies_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = PlainGrid()
    run(grid, tmp_path, settings(rounds=1, deadline_seconds=9.0).to_json(), monkeypatch)
    wires = [cast("bytes", message.content["palate"]["wire"]) for message in grid.sent]  # type: ignore[index]
    assert [kind_of(wire) for wire in wires] == [RELEASE] * 3 + [SIGNED] * 3
    for message in grid.sent:
        assert message.metadata.ttl == 9.0
        assert message.metadata.message_type == "train"
        assert {name: set(record) for name, record in message.content.items()} == {"palate": {"wire"}}
    assert [decode_task(message_in(wire)).round for wire in wires[3:]] == [1, 1, 1]


def record(**values: Any) -> RecordDict:
    return RecordDict({"palate": ConfigRecord(values)})


def loud(wire: bytes, device: int) -> RecordDict:
    """Claims to stand for 1e12 examples, and brings tensors of its own."""
    content = good(wire, device)
    content["metrics"] = MetricRecord({"num-examples": 10**12})
    content["arrays"] = ArrayRecord({"change": Array(np.full(4, 1e9, np.float32))})
    return content


def unreadable(wire: bytes, device: int) -> RecordDict:
    raise ValueError("the reader of messages breaks on it")


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (loud, "content"),
        (lambda wire, device: RecordDict({"palate": MetricRecord({"num-examples": 10**12})}), "content"),
        (lambda wire, device: record(**{f"name-{i}": 1 for i in range(1_000_000)}), "content"),
        (lambda wire, device: record(wire=good(wire, device)["palate"]["wire"], comment="text"), "content"),
        (lambda wire, device: record(wire="text"), "content"),
        (lambda wire, device: record(wire=[b"a", b"b"]), "content"),
        (lambda wire, device: RecordDict(), "content"),
        (lambda wire, device: record(wire=b""), "empty"),
        (lambda wire, device: record(wire=b"PALATE" * 200_000), "kind"),
        (lambda wire, device: Error(code=2, reason="a very secret comment"), "error"),
        (lambda wire, device: Error(code=2, reason=DeclineReason.MASKS_REFUSED.value), "masks refused"),
        (lambda wire, device: Error(code=3, reason=""), "late"),
        (lambda wire, device: Error(code=4, reason=""), "late"),
        (lambda wire, device: Error(code=5, reason=""), "gone"),
        (unreadable, "unreadable"),
    ],
)
def test_an_odd_message_costs_itself_alone(
    odd: Content, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(PlainGrid({102: odd}), tmp_path, settings(rounds=1).to_json(), monkeypatch)
    (metrics,) = read_metrics(tmp_path / "rounds.jsonl")
    assert (metrics["used"], metrics["refused"]) == (2, {reason: 1})
    silent = PlainGrid({102: lambda wire, device: record(wire=b"")})
    run(silent, tmp_path / "silent", settings(rounds=1).to_json(), monkeypatch)
    assert metrics["encoder"] == read_metrics(tmp_path / "silent" / "rounds.jsonl")[0]["encoder"]


def test_what_a_device_says_of_its_error_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(
        PlainGrid({102: lambda wire, device: Error(code=2, reason="a very secret comment")}),
        tmp_path, settings(rounds=1).to_json(), monkeypatch,
    )  # fmt: skip
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"secret" in p.read_bytes()]


def test_a_message_that_was_not_sent_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(PlainGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[Any]:
            return [None, *list(super().push_messages(messages))[1:]]

    run(Deaf(), tmp_path, settings(rounds=1).to_json(), monkeypatch)
    assert read_metrics(tmp_path / "rounds.jsonl")[0]["refused"] == {"unreachable": 1}


def test_too_few_devices_end_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FederationError, match="1 of at least 2 devices"):
        run(PlainGrid(nodes=[101]), tmp_path, settings(wait_seconds=0.05).to_json(), monkeypatch)
    assert read_note(tmp_path / "ended.json")["ended"] == "failed"


def test_settings_that_are_none_and_a_folder_that_is_not_named_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileFormatError):
        run(PlainGrid(), tmp_path, "nonsense", monkeypatch)
    monkeypatch.delenv(HOME_VARIABLE)
    context = Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(FederationError, match="PALATE_SERVER_HOME"):
        app(PlainGrid(), context)
