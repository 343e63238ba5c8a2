"""Flower's books in memory, as the server keeps them: nodes, messages, and what waits for whom.

Where it stands in the flow: `superlink` keeps one. Three things differ from Flower's: a node's number follows
from its public key, so that a device keeps it over a restart of the server without books on disk; what waits
for a node lies in a queue of that node, where Flower walks through all messages at each call; and it is said
when a message was uploaded whole. The attributes used here are internal to Flower 1.42, which is pinned;
`tests/server/front/test_flower_inside.py` names what changed in another version.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from flwr.app import Message
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState


class Books(InMemoryLinkState):
    """Flower's books in memory, with a queue for each node and a word when a message was uploaded whole."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.queues: defaultdict[int, deque[str]] = defaultdict(deque)
        self.on_whole: Callable[[str], None] = lambda _: None

    def create_node(self, owner_aid: str, owner_name: str, public_key: bytes, *rest: Any, **more: Any) -> int:
        """Make a node whose number follows from its key, and return that number, 0 where Flower made none."""
        drawn = super().create_node(owner_aid, owner_name, public_key, *rest, **more)
        if drawn == 0:
            return 0
        number = number_of(public_key)
        node = self.nodes.pop(drawn)
        self.owner_to_node_ids[owner_aid].discard(drawn)
        if number in self.nodes:  # of another key: 2^63 tries
            del self.node_public_key_to_node_id[public_key]
            raise ValueError("Public key already in use")
        node.node_id = number
        self.nodes[number] = node
        self.node_public_key_to_node_id[public_key] = number
        self.owner_to_node_ids[owner_aid].add(number)
        return number

    def forget_node(self, number: int) -> None:
        """Remove all that is known of a node."""
        node = self.nodes.pop(number, None)
        if node is not None:
            self.node_public_key_to_node_id.pop(node.public_key, None)
            self.owner_to_node_ids[node.owner_aid].discard(number)
        self.queues.pop(number, None)

    def store_message_ins(self, message: Message) -> str | None:
        """Keep an instruction, and queue it for its node."""
        known = message.metadata.message_id in self.message_ins_store
        stored: str | None = super().store_message_ins(message)
        if stored and not known:
            self.queues[message.metadata.dst_node_id].append(stored)
        return stored

    def get_message_ins(self, node_id: int, *_: Any, **__: Any) -> list[Message]:
        """Return the next whole instruction of a node, as a list of at most one."""
        queue = self.queues.get(node_id)
        while queue:
            message = self.message_ins_store.get(queue[0])
            if message is not None and not self.is_whole(queue[0]):
                break
            one = queue.popleft()
            self._check_stored_messages({one})
            message = self.message_ins_store.get(one)
            if message is not None and not message.metadata.delivered_at:
                message.metadata.delivered_at = str(time.time())
                return [message]
        if not queue:
            self.queues.pop(node_id, None)
        return []

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Keep a part of a message, and say so when the message is whole."""
        session = self._object_push_sessions.get(session_id)
        stored = bool(super().store_object(run_id, session_id, object_id, object_content))
        if stored and session is not None and not session.pending_object_ids:
            for root in session.root_object_ids:
                self.on_whole(root)
        return stored

    def is_whole(self, message_id: str) -> bool:
        """Return whether all objects of a message are here."""
        return message_id not in self._object_push_session_by_root


def number_of(public_key: bytes) -> int:
    """Return the number of the node with this public key (PEM): 63 bits of its SHA-256.

    So it is the same after a restart.
    """
    return int.from_bytes(hashlib.sha256(b"palate node 1\0" + public_key).digest()[:8], "big") >> 1 | 2
