"""The ClientApp: one answer for one task, and no word of an exception in it."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from palate.client.federation import app as node
from palate.client.federation.app import make_app
from palate.client.federation.declined import Declined
from palate.client.federation.member import Participant
from palate.shared.reasons import DeclineReason

NEEDLE = "Grandmother Ottilie"
RUN = 77
SUPERLINK = 1


def message(wire: Any = b"task", *, kind: str = "train", content: RecordDict | None = None) -> Message:
    """A message as a server's strategy makes it."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, SUPERLINK
    record = RecordDict({"palate": ConfigRecord({"wire": wire})}) if content is None else content
    return Message(record, 5, kind, ttl=60)


class Echo:
    """A participant that answers with the task's bytes reversed, or fails as it is told."""

    def __init__(self, failure: BaseException | None = None, after: bool = False) -> None:
        self.failure, self.after, self.seen = failure, after, list[bytes]()

    def take_part(self, task: bytes, send: Callable[[bytes], None]) -> None:
        self.seen.append(task)
        if self.failure is not None and not self.after:
            raise self.failure
        send(task[::-1])
        if self.failure is not None:
            raise self.failure


def reply_to(participant: Participant | None, asked: Message) -> Message:
    context = Context(RUN, 5, {}, RecordDict(), {})
    return make_app(lambda _: participant)(asked, context)


# --- the app ------------------------------------------------------------------------------------------------


def test_the_answer_is_one_record_with_one_value() -> None:
    reply = reply_to(Echo(), message(b"abc"))
    assert {name: dict(record) for name, record in reply.content.items()} == {"palate": {"wire": b"cba"}}


def test_where_there_is_nobody_the_answer_is_empty() -> None:
    assert reply_to(None, message()).content["palate"]["wire"] == b""
    context = Context(RUN, 5, {"home": "somewhere"}, RecordDict(), {})
    assert node.app(message(), context).content["palate"]["wire"] == b""


def test_a_virtual_person_is_lent_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Entry:
        def load(self) -> Any:
            return lambda number, count, settings: asked.append((number, count, settings)) or Echo()

    monkeypatch.setattr(
        node, "entry_points", lambda group: [Entry()] if group == "palate.participants" else []
    )
    context = Context(RUN, 5, {"partition-id": 3, "num-partitions": 9}, RecordDict(), {"settings": "x"})
    assert node.app(message(b"ab"), context).content["palate"]["wire"] == b"ba"
    assert asked == [(3, 9, {"settings": "x"})]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError(f"while reading {NEEDLE}"), DeclineReason.FAILED),
        (KeyError(NEEDLE), DeclineReason.FAILED),
        (MemoryError(NEEDLE), DeclineReason.FAILED),
        (Declined(DeclineReason.OLDER_RELEASE), DeclineReason.OLDER_RELEASE),
    ],
)
def test_an_exception_becomes_a_constant_reason(
    failure: Exception, reason: DeclineReason, capfd: pytest.CaptureFixture[str]
) -> None:
    reply = reply_to(Echo(failure), message())
    assert reply.error.reason == reason.value
    assert NEEDLE not in repr(reply) + "".join(capfd.readouterr())
    assert NEEDLE.encode() not in reply.deflate()


def test_an_exception_after_the_answer_changes_nothing() -> None:
    reply = reply_to(Echo(RuntimeError(NEEDLE), after=True), message(b"abc"))
    assert reply.content["palate"]["wire"] == b"cba"


def test_a_participant_that_says_nothing_has_failed() -> None:
    class Silent:
        def take_part(self, task: bytes, send: Callable[[bytes], None]) -> None:
            pass

    assert reply_to(Silent(), message()).error.reason == DeclineReason.FAILED.value


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"wire": b"task"})}),
        RecordDict({"palate": ConfigRecord({"wire": "text"})}),
        RecordDict({"palate": ConfigRecord({"wire": b"task", "more": 1})}),
        RecordDict({"palate": ConfigRecord({"wire": b"task"}), "more": ConfigRecord()}),
        RecordDict({"palate": MetricRecord({"wire": 1})}),
        RecordDict({"palate": ArrayRecord()}),
    ],
    ids=["nothing", "name", "type", "value", "record", "metrics", "arrays"],
)
def test_a_message_of_another_form_is_declined_unread(content: RecordDict) -> None:
    echo = Echo()
    assert reply_to(echo, message(content=content)).error.reason == DeclineReason.UNREADABLE_TASK.value
    assert echo.seen == []
