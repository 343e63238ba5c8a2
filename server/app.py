"""The server's Flower app: Flower's Grid as the `Devices` of our round loop, for Flower's engines.

Where it stands in the flow: the bundle names `app`. In one process, on Ray and in simulations it runs behind
a Grid; the server's folder is found in the environment (`PALATE_SERVER_HOME`), so that no path travels with
the run. The deployed server has no Grid: there `round_process` runs the same rounds over the server's own
socket. One message type, `train`, one record, `palate`, one value in it, `wire`: bytes both ways (see
`shared.wire`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from palate.server.aggregation import Reply
from palate.server.rounds.exchange import Patience
from palate.server.rounds.run import ServerFolder, federate
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.errors import FederationError
from palate.shared.reasons import word_of

HOME_VARIABLE: Final = "PALATE_SERVER_HOME"
RECORD: Final = "palate"
VALUE: Final = "wire"

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
    federate(
        grid_devices(grid),
        folder,
        settings,
        average=average,
        run=str(context.run_id),
        patience=Patience(poll_seconds=0.02),
    )


def grid_devices(grid: Grid) -> GridDevices:
    """Return the devices behind a Grid."""
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
        """Return the numbers of the nodes that are connected now."""
        return list(self._grid.get_node_ids())

    def ask(self, wires: Mapping[int, bytes], round: int, seconds: float) -> Mapping[str, int]:  # noqa: A002
        """Send each device its bytes in a message that dies after `seconds`.

        Returns the messages' ids with their devices.
        """
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
        """Return the replies that are there by now."""
        return self._read(questions)


def read_message(message: Message, question: str) -> Reply:
    """Return what a device's message holds: wire bytes, or the word that says why there are none."""
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
    """Fetches replies with the Grid's own method, one by one: an unreadable one costs itself alone."""

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
