"""A server of a few lines that can misbehave in every way that a test needs: Flower's Fleet calls, and `take`
and `give`."""

import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.task_identity import TaskIdentity

from palate.client.federation.app import run_node
from palate.client.federation.member import Participant
from palate.client.federation.server_address import Server
from palate.shared.bundle import known_hashes
from palate.shared.frames import join_frames, split_frames

RUN = 77
Odd = int | bytes | Callable[[BaseHTTPRequestHandler], None]
"""What a call is answered with in place of the truth: a status, a body, or whatever the function writes on
the connection."""


def message(wire: bytes = b"task", *, kind: str = "train", content: RecordDict | None = None) -> Message:
    """A message as a server makes it."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1
    record = RecordDict({"palate": ConfigRecord({"wire": wire})}) if content is None else content
    return Message(record, 5, kind, ttl=60)


class Echo:
    """A participant that answers with the task's bytes reversed, or fails as it is told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure, self.seen = failure, list[bytes]()

    def take_part(self, task: bytes, send: Callable[[bytes], None]) -> None:
        self.seen.append(task)
        if self.failure is not None:
            raise self.failure
        send(task[::-1])


class FakeSuperLink:
    """As much of a server as a node uses; `odd` replaces the answers to a call."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, int] = {}
        self.online: set[int] = set()
        self.waiting: list[Message] = []
        self.replies: list[Message] = []
        self.calls: list[str] = []
        self.headers: list[dict[str, str]] = []  # of the calls
        self.runtimes: list[float] = []
        self.objects: dict[str, bytes] = {}
        self.odd: dict[str, Odd] = {}
        self.fab_hash = min(known_hashes())
        self.tree: message_pb2.ObjectTree | None = None
        self.holds = False  # whether a call is held until there is a message
        self._taken: tuple[str, bytes] = ("", b"")
        self._serve(0)

    def _serve(self, port: int) -> None:
        link = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                name = self.path.rpartition("/")[2]
                link.calls.append(name)
                link.headers.append({key.lower(): value for key, value in self.headers.items()})
                answer: Any = link.odd.get(name)
                if answer is None:
                    answer = getattr(link, name.replace("-", "_"))(body, link.headers[-1])
                if callable(answer):
                    answer(self)
                    return
                status, data = (answer, b"") if isinstance(answer, int) else (200, answer)
                data = data if isinstance(data, bytes) else data.SerializeToString()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a node that hangs up on an answer that is too large

        self._http = Quiet(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def restart(self, *, forget: bool) -> None:
        if forget:
            self.nodes.clear()
            self.online.clear()
        self._serve(int(self.address.rpartition(":")[2]))

    def ask(self, asked: Message) -> str:
        """Put a message into the queue and return its id."""
        asked.metadata.__dict__["_message_id"] = asked.object_id
        for name, part in inflatable_object.get_all_nested_objects(asked).items():
            self.objects[name] = part.deflate()
        self.waiting.append(asked)
        return asked.object_id

    # --- the calls ------------------------------------------------------------------------------------------

    def register_node(self, body: bytes, _: Mapping[str, str]) -> Any:
        key = fleet_pb2.RegisterNodeFleetRequest.FromString(body).public_key
        if key in self.nodes:
            return 412
        self.nodes[key] = 1000 + len(self.calls)
        return fleet_pb2.RegisterNodeFleetResponse(node_id=self.nodes[key])

    def activate_node(self, body: bytes, _: Mapping[str, str]) -> Any:
        number = self.nodes.get(fleet_pb2.ActivateNodeRequest.FromString(body).public_key)
        if number is None or number in self.online:  # as Flower does
            return 412
        self.online.add(number)
        return fleet_pb2.ActivateNodeResponse(node_id=number)

    def deactivate_node(self, body: bytes, _: Mapping[str, str]) -> Any:
        self.online.discard(fleet_pb2.DeactivateNodeRequest.FromString(body).node_id)
        return fleet_pb2.DeactivateNodeResponse()

    def unregister_node(self, body: bytes, _: Mapping[str, str]) -> Any:
        gone = fleet_pb2.UnregisterNodeFleetRequest.FromString(body).node_id
        self.nodes = {key: number for key, number in self.nodes.items() if number != gone}
        return fleet_pb2.UnregisterNodeFleetResponse()

    def send_node_heartbeat(self, body: bytes, _: Mapping[str, str]) -> Any:
        if heartbeat_pb2.SendNodeHeartbeatRequest.FromString(body).node.node_id not in self.nodes.values():
            return 401
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)

    def get_run(self, body: bytes, _: Mapping[str, str]) -> Any:
        asked = run_pb2.GetRunRequest.FromString(body)
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=asked.run_id, fab_hash=self.fab_hash))

    def take(self, body: bytes, headers: Mapping[str, str]) -> Any:
        (request,) = split_frames(body)
        if fleet_pb2.PullMessagesRequest.FromString(request).node.node_id not in self.nodes.values():
            return 401
        if self._taken[0] and headers["x-palate-had"] != self._taken[0]:
            return self._taken[1]
        if not self.waiting:
            if self.holds:
                time.sleep(float(headers["x-palate-hold"]))
            return join_frames([fleet_pb2.PullMessagesResponse().SerializeToString(), b""])
        asked = self.waiting.pop(0)
        tree = self.tree or inflatable_object.get_object_tree(asked)
        bare = message_to_proto(Message(RecordDict(), metadata=asked.metadata))
        answer = fleet_pb2.PullMessagesResponse(messages_list=[bare], message_object_trees=[tree])
        first = next(
            iter(inflatable_object.iterate_object_tree(tree))
        ).object_id  # the record, if there is one
        body = join_frames([answer.SerializeToString(), self.objects.get(first, b"")])
        self._taken = (asked.metadata.message_id, body)
        return body

    def give(self, body: bytes, _: Mapping[str, str]) -> Any:
        head, *parts = split_frames(body)
        asked = fleet_pb2.PushMessagesRequest.FromString(head)
        self.runtimes += asked.clientapp_runtime_list
        reply, tree = message_from_proto(asked.messages_list[0]), asked.message_object_trees[0]
        if reply.metadata.reply_to_message_id in {one.metadata.reply_to_message_id for one in self.replies}:
            return 403
        names = [part.object_id for part in inflatable_object.iterate_object_tree(tree)][::-1]
        assert [inflatable_object.get_object_id(part) for part in parts] == names  # the record last
        if not reply.has_error():
            objects = dict(zip(names, parts, strict=True))
            whole = inflatable_utils.inflate_object_from_contents(names[0], objects)
            assert isinstance(whole, Message)
            reply = whole
        self.replies.append(reply)
        return b""


class Watch:
    """Runs a node until nothing is left to do, and keeps what it says.

    Each wait of the node sets off the next event.
    """

    def __init__(self, link: FakeSuperLink) -> None:
        self.link, self.lines, self.waits = link, list[str](), list[float]()
        self.events: list[Callable[[], object]] = []

    def run(self, participant: Participant, hold: float = 2.0) -> list[str]:
        def wait(seconds: float) -> None:
            self.waits.append(seconds)
            if self.events:
                self.events.pop(0)()

        server = Server(self.link.address, insecure=True)
        keep_on = lambda: bool(self.link.waiting or self.events)  # noqa: E731
        run_node(participant, server, tell=self.lines.append, keep_on=keep_on, wait=wait, hold=hold)
        return self.lines
