"""The calls of devices, as bytes: Flower's Fleet API and two of ours, and what a reply looks like.

Where it stands in the flow: `front` reads calls by this, `superlink` answers them. Whatever a device sends is
somebody else's bytes: what is not exactly of the form is refused with a status and constant words. Protobufs
and records are those of Flower 1.42, which is pinned; `tests/server/front/test_flower_inside.py` names what
changed in another version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from flwr.app import ConfigRecord
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_object import get_object_id

from palate.server.aggregation import Reply
from palate.shared.checks import is_hex
from palate.shared.wire import UPDATE_BYTES

__all__ = [
    "MOST_RECORD",
    "REQUESTS",
    "FlowerError",
    "RefusedError",
    "names_of_parts",
    "parse",
    "read_record",
    "status_of",
]

RECORD: Final = "palate"
VALUE: Final = "wire"
OBJECTS: Final = 3  # of a message with content: the message, its content, and the one record in it
MOST_RECORD: Final = UPDATE_BYTES + 65_536

REQUESTS: Final[Mapping[str, Any]] = {
    "register-node": fleet_pb2.RegisterNodeFleetRequest,
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "unregister-node": fleet_pb2.UnregisterNodeFleetRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "push-object": message_pb2.PushObjectRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
    "take": fleet_pb2.PullMessagesRequest,
    "give": fleet_pb2.PushMessagesRequest,
}
"""The calls of a device: those of Flower's Fleet API, and two of ours that do the work of several in one."""


class RefusedError(Exception):
    """A call is answered with an HTTP status and a few constant words."""

    def __init__(self, status: int, detail: str, *, after: int = 0) -> None:
        """Take the status, the words, and after how many seconds another try may help."""
        super().__init__(detail)
        self.status, self.detail, self.after = status, detail, after


def read_record(content: bytes, name: str, question: str) -> Reply:
    """Return the wire bytes in the record of a device's answer, or the word that says why there are none."""
    if len(content) > MOST_RECORD:
        return Reply(question, None, "size")
    try:
        if get_object_id(content) != name:
            return Reply(question, None, "unreadable")
        record = ConfigRecord.inflate(content)
    except Exception:  # noqa: BLE001 - the bytes are somebody else's, and the parsers raise many kinds
        return Reply(question, None, "unreadable")
    wire = record.get(VALUE) if len(record) == 1 else None
    return Reply(question, wire) if isinstance(wire, bytes) else Reply(question, None, "content")


def names_of_parts(tree: Any) -> list[str]:
    """Return the names of the parts of a message, the innermost first.

    None for a tree that branches, or is too deep, or names oddly.
    """
    names: list[str] = []
    while len(names) < OBJECTS:
        if not is_hex(tree.object_id):
            return []
        names.append(tree.object_id)
        if not tree.children:
            return names[::-1] if len(set(names)) == len(names) else []
        if len(tree.children) > 1:
            return []
        tree = tree.children[0]
    return []


def status_of(error: FlowerError) -> tuple[int, str]:
    """Return the HTTP status of one of Flower's errors and its public part, JSON."""
    spec = API_ERROR_MAP[error.code]
    return spec.http_status_code, json.dumps(error.to_json(spec.public_message))


def parse(call: str, body: bytes) -> Any:
    """Return the request of a call of the Fleet API from its bytes.

    Raises:
        RefusedError: bytes that are none.
    """
    try:
        return REQUESTS[call].FromString(body)
    except Exception:  # noqa: BLE001 - as above
        raise RefusedError(400, "not a request of this kind") from None
