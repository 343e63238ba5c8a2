"""Flower's SuperLink inside this process: who is connected, what waits for whom, and what was answered.

Where it stands in the flow: `front` puts devices' calls to it, `control` puts the round loop's questions to
it, `serve` makes one. All that the server uses of Flower's inside stands here, in `books` and in
`fleet_calls`. Those parts are internal to Flower 1.42, which is pinned;
`tests/server/front/test_flower_inside.py` names what changed when another version is installed.

Flower's own server offers three APIs on one port, and two of them (Control and Runtime) run code for anybody
who reaches them. Here only the Fleet API exists. A run begins through `start_run`, which takes settings and
no code: the bundle is always our own.

Everything here runs in one thread, the one of the event loop.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from flwr.app import ConfigRecord, Message, MessageType, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.common.serde import message_to_proto, user_config_to_proto
from flwr.proto import control_pb2, fab_pb2, fleet_pb2, message_pb2
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.superlink.config_loader import get_federation_manager
from flwr.superlink.servicer.control import control_handlers
from flwr.superlink.servicer.fleet import fleet_handlers as fleet

from palate.server.aggregation import Reply
from palate.server.front.books import Books
from palate.server.front.fleet_calls import OBJECTS, RECORD, VALUE, RefusedError, names_of_parts, read_record
from palate.shared.bundle import bundle_bytes, known_hashes
from palate.shared.reasons import word_of

FORGET_SECONDS: Final = 900.0  # a node that was away for so long is no longer known
GONE_SECONDS: Final = 3.0  # after a device hung up, it has so long to call again before it counts as gone
ALIVE_SECONDS: Final = 2.0  # between two notes that a node is alive
MOST_NODES: Final = 20_000

_ACCOUNT = AccountInfo(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME)
_REASONS: Final = {
    ErrorCode.MESSAGE_UNAVAILABLE: "late",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "late",
    ErrorCode.NODE_UNAVAILABLE: "gone",
}


class SuperLink:
    """The connected devices, and one run at a time that asks them questions.

    `admitted` maps the public keys (PEM) of the devices that may join to their names; None lets every device
    join. `on_message(node)` is called when a message for a node is there whole, `on_reply()` when an answer
    is.
    """

    def __init__(self, admitted: Mapping[bytes, str] | None = None) -> None:
        """Begin without devices and without a run."""
        manager = get_federation_manager()
        store = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME).store()
        self._books = Books(manager, store)
        self._books.on_whole = self._whole
        self._store = store
        manager.ensure_default_federations_exist(flwr_aid=NOOP_FLWR_AID)
        self.on_message: Callable[[int], None] = lambda _: None
        self.on_reply: Callable[[], None] = lambda: None
        self.closed = admitted is not None
        self._run: int | None = None
        self._task: int | None = None
        self._asked: dict[str, int] = {}  # questions that are open, with the node that was asked
        self._answered: set[str] = set()  # of these, those with a whole answer
        self._records: dict[str, str] = {}  # the names of the records in their answers
        self._open: dict[int, tuple[str, ...]] = {}  # objects of the message that a node took last
        self._taken: dict[
            int, tuple[str, Any, bytes]
        ] = {}  # what a node took last, while its question is open
        self._alive: dict[int, float] = {}
        if admitted is not None:
            self.admit(admitted)

    # --- devices --------------------------------------------------------------------------------------------

    def admit(self, keys: Mapping[bytes, str]) -> None:
        """Take over which devices may join, where only admitted ones may; those left out are forgotten."""
        for number, node in list(self._books.nodes.items()):
            if node.public_key not in keys:
                self._forget(number)
        for key, name in keys.items():
            if key not in self._books.node_public_key_to_node_id:
                self._books.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=name or None)

    def node_of(self, public_key: bytes) -> int | None:
        """Return the number of the node with this public key (PEM), or None."""
        number: int | None = self._books.get_node_id_by_public_key(public_key)
        return number

    def register(self, request: Any) -> Any:
        """Take in a device that nobody admitted.

        It is refused where only admitted ones may join, and when there are too many.
        """
        if not self.closed and len(self._books.nodes) >= MOST_NODES:
            raise RefusedError(503, "too many devices", after=60)
        return fleet.register_node(request, self._books, self.closed)

    def activate(self, request: Any) -> Any:
        """Count on a device from now on."""
        return fleet.activate_node(request, self._books)

    def deactivate(self, request: Any) -> Any:
        """Count on a device no more."""
        return fleet.deactivate_node(request, self._books)

    def unregister(self, request: Any) -> Any:
        """Forget a device that nobody admitted."""
        answer = fleet.unregister_node(request, self._books, self.closed)
        self._forget(request.node_id)
        return answer

    def heartbeat(self, request: Any) -> Any:
        """Note that a device is alive."""
        return fleet.send_node_heartbeat(request, self._books)

    def is_alive(self, node: int) -> None:
        """Note that a device made a call; cheap, and done again only after some time."""
        now = time.monotonic()
        if now - self._alive.get(node, -ALIVE_SECONDS) < ALIVE_SECONDS:
            return
        self._alive[node] = now
        known = self._books.nodes.get(node)
        if known is not None and known.last_activated_at:
            self._books.acknowledge_node_heartbeat(node, known.heartbeat_interval)

    def hung_up(self, node: int) -> None:
        """Note that a device's connection is gone: unless it calls again soon, so is the device."""
        known = self._books.nodes.get(node)
        if known is not None and known.online_until:
            known.online_until = min(known.online_until, time.time() + GONE_SECONDS)
            self._alive.pop(node, None)

    def _work_until(self, node: int, when: float) -> None:
        """Count on a device while it works on a question, in which time it makes no call."""
        known = self._books.nodes.get(node)
        if known is not None and known.online_until:
            known.online_until = max(known.online_until, when)

    def waits(self, node: int) -> bool:
        """Return whether a whole message waits for a node."""
        queue = self._books.queues.get(node)
        return queue is not None and len(queue) > 0 and self._books.is_whole(queue[0])

    def pull(self, request: Any) -> Any:
        """Return the next message for a node, without its content."""
        messages, trees = [], []
        node = request.node.node_id
        for message in self._books.get_message_ins(node_id=node, limit=1):
            name = message.metadata.message_id
            try:
                tree = self._store.get_object_tree(name)
            except NoObjectInStoreError:
                self._books.delete_messages({name})
                continue
            self._open[node] = tuple(part.object_id for part in iterate_object_tree(tree))
            trees.append(tree)
            messages.append(message_to_proto(message))
        return fleet_pb2.PullMessagesResponse(messages_list=messages, message_object_trees=trees)

    def missed(self, node: int, had: str) -> bool:
        """Return whether a node took a message that it did not get: `had` is the one that it got last."""
        taken = self._taken.get(node)
        return taken is not None and taken[0] != had

    def take(self, request: Any, had: str | None = None) -> tuple[Any, bytes]:
        """Return the next message for a node with the bytes of its record.

        A node that says which message it `had` last, and not the one that it took last, gets that one again:
        it was lost on the way.
        """
        node = request.node.node_id
        if had is not None and self.missed(node, had):
            return self._taken[node][1:]
        self._taken.pop(node, None)
        answer, content = self.pull(request), b""
        if answer.messages_list:
            names = self._open.pop(node)
            content = self._books.get_object(answer.messages_list[0].metadata.run_id, names[0]) or b""
            self._store.delete(names[-1])
            self._taken[node] = names[-1], answer, content
            metadata = answer.messages_list[0].metadata
            self._work_until(node, metadata.created_at + metadata.ttl)
        return answer, content

    def push(self, request: Any) -> Any:
        """Take a reply whose parts are still to come: to this node's own question, in its own name."""
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise RefusedError(400, "one message at a time")
        metadata = request.messages_list[0].metadata
        question = metadata.reply_to_message_id
        # Flower's handler takes a message without a question for an instruction to another node.
        if not question or metadata.src_node_id != request.node.node_id:
            raise RefusedError(403, "not a reply of this node")
        if self._asked.get(question) != request.node.node_id:
            raise RefusedError(403, "nobody waits for this")
        names = names_of_parts(request.message_object_trees[0])
        if len(names) not in (1, OBJECTS) or names[-1] != metadata.message_id:
            raise RefusedError(400, "not the form of a reply")
        if names[-1] in self._store or question in self._books.message_ins_id_to_message_res_id:
            raise RefusedError(403, "answered already")
        try:
            answer = fleet.push_messages(request, self._books)
        except (ValueError, TypeError, KeyError):  # what Flower's readers raise for metadata that are none
            raise RefusedError(400, "not the form of a reply") from None
        if question not in self._books.message_ins_id_to_message_res_id:  # too late: Flower says nothing
            raise RefusedError(403, "nobody waits for this")
        # The store knows one tree for each name, and another device may have made that up before.
        self._records[question] = names[0] if len(names) == OBJECTS else ""
        return answer

    def give(self, request: Any, parts: list[bytes]) -> None:
        """Take a reply with all its parts, the innermost last."""
        answer = self.push(request)
        run = request.messages_list[0].metadata.run_id
        wanted = set(answer.objects_to_push)
        names = names_of_parts(request.message_object_trees[0])[::-1]
        if len(parts) != len(names):
            raise RefusedError(400, "not the parts of this reply")
        for name, part in zip(names, parts, strict=True):
            if name in wanted and not self._books.store_object(run, answer.session_id, name, part):
                raise RefusedError(403, "not the parts of this reply")

    def push_object(self, request: Any) -> Any:
        """Take one part of a reply."""
        if not request.session_id:
            raise RefusedError(400, "a part of no reply")
        return fleet.push_object(request, self._books)

    def pull_object(self, request: Any) -> Any:
        """Return one part of the message that this node took last."""
        if request.object_id not in self._open.get(request.node.node_id, ()):
            return message_pb2.PullObjectResponse(object_found=False, object_available=False)
        return fleet.pull_object(request, self._books)

    def confirm(self, request: Any) -> Any:
        """Forget the parts of the message that this node took last."""
        if request.message_object_id not in self._open.pop(request.node.node_id, ()):
            raise RefusedError(403, "not a message of this node")
        return fleet.confirm_message_received(request, self._books, self._store)

    def get_run(self, request: Any) -> Any:
        """Return what Flower knows of a run, such as the hash of its bundle."""
        return fleet.get_run(request, self._books)

    def get_fab(self, request: Any) -> Any:
        """Return the bundle, which holds no code."""
        return fleet.get_fab(request, self._books)

    def forget_absent(self) -> None:
        """Forget nodes that have been away for long, and messages that nobody took in time."""
        now = time.time()
        if not self.closed:
            for number, node in list(self._books.nodes.items()):
                seen = node.online_until or _seconds(node.registered_at)
                if now - seen > FORGET_SECONDS:
                    self._forget(number)
        for number, queue in list(self._books.queues.items()):
            self._books._check_stored_messages(set(queue))
            kept = [one for one in queue if one in self._books.message_ins_store]
            if kept:
                self._books.queues[number] = deque(kept)
            else:
                del self._books.queues[number]

    # --- a run ----------------------------------------------------------------------------------------------

    def start_run(self, settings: str) -> int:
        """Begin a run of our own bundle and return its number.

        `settings` are JSON that nodes of Flower's may read.
        """
        self.end_run(SubStatus.STOPPED)
        bundle = bundle_bytes()
        request = control_pb2.StartRunRequest(
            fab=fab_pb2.Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle),
            override_config=user_config_to_proto({"settings": settings}),
        )
        run = int(control_handlers.start_run(request, _ACCOUNT, self._books, None).run_id)
        if self._books.run_ids[run].run.fab_hash not in known_hashes():
            raise RuntimeError("the run is not of our bundle")
        task = int(self._books.run_ids[run].run.primary_task_id or 0)
        self._books.claim_task(task)
        self._books.activate_task(task)
        self._run, self._task = run, task
        return run

    def keep_run(self) -> None:
        """Tell Flower's books that the run is alive, or they end it after a minute."""
        if self._task is not None:
            self._books.acknowledge_task_heartbeat(self._task)

    def end_run(self, how: str = SubStatus.COMPLETED) -> None:
        """End the run at work, if there is one, and forget its messages."""
        if self._run is None or self._task is None:
            return
        self._books.finish_task(self._task, how, "")
        self._books.cleanup_run(self._run)
        self._run = self._task = None
        self._asked, self._answered, self._records = {}, set(), {}
        self._open, self._taken = {}, {}

    def connected(self) -> list[int]:
        """Return the numbers of the nodes that are connected now."""
        return sorted(self._books.get_nodes(self._run)) if self._run is not None else []

    def ask(self, wires: Mapping[int, bytes], round: int, seconds: float) -> dict[str, int]:  # noqa: A002
        """Send each node its bytes in a message that dies after `seconds`.

        Return the messages' ids with their nodes.

        What was asked before and has no answer yet is over: it is forgotten, and an answer to it is refused.
        """
        if self._run is None:
            raise RefusedError(409, "no run is at work")
        for question in list(self._asked):
            self._drop(question)
        contents = {wire: RecordDict({RECORD: ConfigRecord({VALUE: wire})}) for wire in set(wires.values())}
        session = self._books.start_session(self._run)
        objects: dict[str, Any] = {}
        with no_object_id_recompute():
            for node, wire in wires.items():
                message = make_message(self._metadata(node, round, seconds), contents[wire])
                name = message.metadata.__dict__["_message_id"] = message.object_id
                tree = get_object_tree(message)
                objects |= get_all_nested_objects(message)
                bare = remove_content_from_message(message)
                if self._books.store_message_and_object_tree(bare, tree, session)[0]:
                    self._asked[name] = node
            for name, part in objects.items():
                self._books.store_object(self._run, session, name, part.deflate())
        return dict(self._asked)

    def ready(self) -> bool:
        """Return whether an answer to an open question is here whole."""
        return bool(self._answered)

    def replies(self, *, all_of_them: bool = False) -> Iterator[Reply]:
        """Yield the answers that are here, each once.

        With `all_of_them` also who is gone, or too late, in Flower's words.
        """
        questions = set(self._answered)
        if all_of_them:  # except answers that are still uploaded: Flower would count them as handed out
            known = self._books.message_ins_id_to_message_res_id
            questions |= {one for one in self._asked if one not in known}
        if not questions or self._run is None:
            return
        for message in self._books.get_message_res(questions, self._run):
            question = message.metadata.reply_to_message_id
            node = self._asked.get(question)
            if node is None or (not message.has_error() and question not in self._answered):
                continue
            yield self._read(message, question)
            self._drop(question, message.metadata.message_id)

    # --- inside ---------------------------------------------------------------------------------------------

    def _read(self, message: Message, question: str) -> Reply:
        if message.has_error():
            return Reply(question, None, _REASONS.get(message.error.code) or word_of(message.error.reason))
        name = self._records.get(question)
        if not name:
            return Reply(question, None, "content")
        return read_record(self._books.get_object(message.metadata.run_id, name) or b"", name, question)

    def _metadata(self, node: int, round: int, seconds: float) -> Metadata:  # noqa: A002
        return Metadata(
            run_id=self._run or 0,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node,
            reply_to_message_id="",
            group_id=str(round),
            created_at=time.time(),
            ttl=seconds,
            message_type=MessageType.TRAIN,
        )

    def _whole(self, message_id: str) -> None:
        """Wake the device that waits for an instruction, or the round loop that waits for an answer."""
        message = self._books.message_ins_store.get(message_id)
        if message is not None:
            self.on_message(message.metadata.dst_node_id)
            return
        answer = self._books.message_res_store.get(message_id)
        if answer is not None and answer.metadata.reply_to_message_id in self._asked:
            self._answered.add(answer.metadata.reply_to_message_id)
            self.on_reply()

    def _drop(self, question: str, *answers: str) -> None:
        """Forget a question with its answer."""
        node = self._asked.pop(question, None)
        if node is not None and self._taken.get(node, ("",))[0] == question:
            del self._taken[node]
        self._answered.discard(question)
        self._records.pop(question, None)
        known = self._books.message_ins_id_to_message_res_id.get(question)
        for name in {question, *answers, *([known] if known else [])}:
            self._store.delete(name)
        self._books.delete_messages({question})

    def _forget(self, number: int) -> None:
        self._books.forget_node(number)
        self._open.pop(number, None)
        self._taken.pop(number, None)
        self._alive.pop(number, None)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
