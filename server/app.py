"""The server's Flower app: Flower's Grid as the `Devices` of our round loop, and the app that a run executes.

Where it stands in the flow: the bundle names `app`; Flower starts it in a process of its own, which finds the server's folder in
the environment (`PALATE_SERVER_HOME`), so that no path travels with the run. The same app runs in one process, on Ray, and on a
SuperLink. One message type, `train`, one record, `palate`, one value in it, `wire`: bytes both ways (see `shared.wire`).

Deployed, messages are sent and replies fetched with the parts that Flower's own `HttpGrid` is made of. Its `pull_messages` waits up to
minutes for a device that announces a reply and does not upload it, takes any number of objects, and loses all replies of a call
when one of them cannot be read; and both it and a device would ask for three objects where one, the record, says all. Those
parts are internal to Flower 1.42, which is pinned; tests run them against a SuperLink.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)

from palate.server.aggregation import Reply
from palate.server.checkpoints import Checkpoint
from palate.server.exchange import Patience
from palate.server.federation import ServerFolder, federate
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.errors import FederationError, PalateError
from palate.shared.reasons import word_of
from palate.shared.wire import UPDATE_BYTES

HOME_VARIABLE: Final = "PALATE_SERVER_HOME"
RECORD: Final = "palate"
VALUE: Final = "wire"
OBJECTS: Final = 3  # of a reply: a message, its content, and the one record in it
MOST_BYTES: Final = UPDATE_BYTES + 65_536

_REASONS: Final = {
    ErrorCode.MESSAGE_UNAVAILABLE: "late",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "late",
    ErrorCode.NODE_UNAVAILABLE: "gone",
}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run's `settings` ask for, on the server folder that the environment names."""
    settings = RunSettings.from_json(str(context.run_config.get("settings", "")))
    home = os.environ.get(HOME_VARIABLE)
    if not home:
        raise FederationError(f"{HOME_VARIABLE} is not set; start the server with `palate server start`")
    folder = ServerFolder(Path(home))
    deployed = hasattr(grid, "_runtime_client")
    try:
        federate(
            grid_devices(grid),
            folder,
            settings,
            average=average,
            run=str(context.run_id),
            patience=Patience(poll_seconds=0.05 if deployed else 0.02),
            on_round=(lambda state: _log(folder, _line(state))) if deployed else (lambda state: None),
        )
    except Exception as error:
        # Flower keeps an app's output in its database; here it lies with the other logs.
        known = isinstance(error, PalateError)
        _log(folder, f"the run ended: {error}" if known else traceback.format_exc())
        raise


def grid_devices(grid: Grid) -> GridDevices:
    """Returns the devices behind a Grid: reached with care over a SuperLink, with the Grid's own methods elsewhere."""
    if hasattr(grid, "_runtime_client"):
        link = _SuperLink(grid)
        return GridDevices(grid, link.send, link.replies)
    return GridDevices(grid, grid.push_messages, _PlainReader(grid))


class GridDevices:
    """The devices of a federation, reached through Flower's Grid."""

    def __init__(
        self,
        grid: Grid,
        send: Callable[[list[Message]], Iterable[str | None]],
        read: Callable[[Collection[str]], Iterable[Reply]],
    ) -> None:
        """Take a Grid, what sends messages over it, and what fetches replies from it."""
        self._grid, self._send, self._read = grid, send, read

    def connected(self) -> Sequence[int]:
        """Returns the numbers of the nodes that are connected now."""
        return list(self._grid.get_node_ids())

    def ask(self, wires: Mapping[int, bytes], round: int, seconds: float) -> Mapping[str, int]:  # noqa: A002
        """Sends each device its bytes in a message that dies after `seconds`; returns the messages' ids with their devices."""
        contents = {wire: RecordDict({RECORD: ConfigRecord({VALUE: wire})}) for wire in set(wires.values())}
        messages = [
            Message(contents[wire], device, MessageType.TRAIN, ttl=seconds, group_id=str(round))
            for device, wire in wires.items()
        ]
        sent = list(self._send(messages))
        if len(sent) != len(messages):
            return {}
        return {question: device for question, device in zip(sent, wires, strict=True) if question}

    def replies(self, questions: Collection[str]) -> Iterable[Reply]:
        """Returns the replies that are there by now."""
        return self._read(questions)


def read_message(message: Message, question: str) -> Reply:
    """Returns what a device's message holds: wire bytes, or the word that says why there are none."""
    if message.has_error():
        known = _REASONS.get(message.error.code)
        return Reply(question, None, known or word_of(message.error.reason))
    content = message.content
    if set(content) != {RECORD}:
        return Reply(question, None, "content")
    return _read_record(content[RECORD], question)


def _read_record(record: Any, question: str) -> Reply:
    wire = record.get(VALUE) if isinstance(record, ConfigRecord) and len(record) == 1 else None
    return Reply(question, wire) if isinstance(wire, bytes) else Reply(question, None, "content")


class _PlainReader:
    """Fetches replies with the Grid's own method, one by one, so that an unreadable one costs itself alone."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __call__(self, questions: Collection[str]) -> Iterator[Reply]:
        for question in sorted(questions):
            try:
                messages = list(self._grid.pull_messages([question]))
            except Exception:  # noqa: BLE001 - whatever a device's message does to Flower's reader, it costs that reply
                yield Reply(question, None, "unreadable")
                continue
            for message in messages:
                yield read_message(message, question)


class _SuperLink:
    """Sends messages over a SuperLink, and fetches replies, of each its one record, never waiting for a device.

    What a round did not wait for would lie in the SuperLink until the run ends, so it is asked for once more beside the questions of
    later rounds, and dropped without being read.
    """

    def __init__(self, grid: Any) -> None:
        self._client, self._node, self._grid = grid._runtime_client, grid.node, grid
        self._announced: dict[str, tuple[str, str]] = {}  # question: message id, its record's
        self._waiting: set[str] = set()  # questions without an answer so far

    def send(self, messages: list[Message]) -> list[str]:
        """Sends messages and returns their ids, empty for one that was not taken."""
        objects: dict[str, Any] = {}
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                objects |= get_all_nested_objects(message)
            answer = self._client.PushMessages(
                PushAppMessagesRequest(
                    messages_list=[message_to_proto(remove_content_from_message(m)) for m in messages],
                    message_object_trees=[get_object_tree(message) for message in messages],
                )
            )
            wanted = set(answer.objects_to_push)
            # Records last: a device takes its record for all of the message, and has the message forgotten.
            for name, part in sorted(objects.items(), key=lambda one: isinstance(one[1], ConfigRecord)):
                if name in wanted:
                    self._client.PushObject(
                        PushObjectRequest(
                            node=self._node,
                            run_id=self._grid.run.run_id,
                            object_id=name,
                            object_content=part.deflate(),
                            session_id=answer.session_id,
                        )
                    )
        return list(answer.message_ids)

    def replies(self, questions: Collection[str]) -> Iterator[Reply]:
        """Returns the replies to these questions that are there by now."""
        late = self._waiting - set(questions)  # nobody asks about them any more
        self._waiting |= set(questions)
        for over in late & set(self._announced):
            self._drop(over, self._announced.pop(over)[0])
        asked = self._waiting - set(self._announced)
        if asked:
            answer = self._client.PullMessages(PullAppMessagesRequest(message_ids=sorted(asked)))
            for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                question, message_id = proto.metadata.reply_to_message_id, proto.metadata.message_id
                if question not in asked:
                    continue
                objects = list(islice(iterate_object_tree(tree), OBJECTS + 1))  # the innermost first
                failed = proto.HasField("error")
                if question in late or failed or len(objects) != OBJECTS:
                    self._drop(question, message_id)
                    if question not in late:
                        yield (
                            read_message(message_from_proto(proto), question)
                            if failed
                            else Reply(question, None, "content")
                        )
                    continue
                self._announced[question] = (message_id, objects[0].object_id)
        for question in sorted(set(questions) & set(self._announced)):
            reply = self._fetch(question)
            if reply is not None:
                del self._announced[question]
                self._waiting.discard(question)
                yield reply

    def _drop(self, question: str, message_id: str) -> None:
        """Have the SuperLink forget a reply, and its question, which a device may never have fetched."""
        self._waiting.discard(question)
        for one in (message_id, question):
            self._confirm(one)

    def _confirm(self, message_id: str) -> None:
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._grid.run.run_id, message_object_id=message_id
            )
        )

    def _fetch(self, question: str) -> Reply | None:
        """Returns the reply if its record was uploaded by now."""
        message_id, record = self._announced[question]
        try:
            answer = self._client.PullObject(
                PullObjectRequest(node=self._node, run_id=self._grid.run.run_id, object_id=record)
            )
            if not answer.object_found:
                return Reply(question, None, "unreadable")
            if not answer.object_available:
                return None
            self._confirm(message_id)
            if len(answer.object_content) > MOST_BYTES:
                return Reply(question, None, "size")
            if get_object_id(answer.object_content) != record:
                return Reply(question, None, "unreadable")
            return _read_record(ConfigRecord.inflate(answer.object_content), question)
        except Exception:  # noqa: BLE001 - as above
            return Reply(question, None, "unreadable")


def _line(state: Checkpoint) -> str:
    """Say what a round was like."""
    metrics = state.metrics
    refused = ", ".join(f"{count} {reason}" for reason, count in metrics["refused"].items())
    line = (
        f"round {state.round}: {metrics['used']} of {metrics['asked']} updates in {metrics['seconds']:.2f} s"
    )
    return line + (f" ({refused})" if refused else "")


def _log(folder: ServerFolder, text: str) -> None:
    """Add to the runs' log; a full disk is no reason to end a run here."""
    with contextlib.suppress(OSError):
        place = folder.home / "logs" / "runs.log"
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")
