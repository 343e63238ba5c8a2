"""Flower in one process: a Grid whose devices are virtual people, for tests and simulations on one machine.

Where it stands in the flow: the ServerApp and the ClientApp are those of real devices, here without Ray,
SuperLink or a process for each message. There are two ways to answer a round. Both give the same updates, and
a test holds it:

- *one by one*: every message goes through the ClientApp, as on a device;
- *together*: the round's task is read once, and all people that it reaches are trained side by side, in
  threads, by the function that a device trains with (`local_training.train_together`). Virtual people keep no
  outbox, so nothing is noted.

`on_ray` runs the same two apps under Flower's own simulation engine, which can use many machines but is far
slower on one (`benchmarks/engines.py`). The parts of a Grid that Flower calls internal are pinned with flwr
1.42 and tested.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Mapping, Sequence
from uuid import uuid4

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from palate.client.federation.app import TRAIN, make_app, refusal
from palate.client.federation.declined import Declined
from palate.client.federation.fleet import RECORD, WIRE
from palate.client.federation.local_training import CHUNK, LEAST_LABELS, Labels, train_together
from palate.client.federation.member import read_task
from palate.client.runtime.threads import side_by_side
from palate.shared.delegation import SIGNED, message_in
from palate.shared.encoder import EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import InvitationError, UpdateError
from palate.shared.update import MAX_NORM, EncoderUpdate
from palate.shared.wire import TASK, Task, encode_update, kind_of
from palate.simulations.engine.virtual_people import VirtualPerson, open_by_anybody

RUN = 1
FIRST_NODE = SUPERLINK_NODE_ID + 1
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
KEPT_BYTES, LARGE_BYTES = 256_000_000, 32_000_000


class InProcessGrid(Grid):
    """A Grid over virtual people; node `FIRST_NODE + i` is the i-th of them.

    Messages are answered when they are pushed. An app gets a copy, as over a network, so no device sees what
    another did to it. Use one grid at a time in a process: Flower keeps the identity of the running task in a
    global.
    """

    def __init__(
        self,
        people: Sequence[Labels],
        *,
        own: EncoderWeights | None = None,
        together: bool = True,
        workers: int | None = None,
    ) -> None:
        """Put people behind the nodes.

        Args:
            people: their labels.
            own: the release that their devices have installed; the shipped one by default.
            together: train the people of a round side by side.
            workers: threads that train, as many as torch uses by default. The number changes no result.
        """
        self._own = load_encoder() if own is None else own
        self._people = {FIRST_NODE + i: VirtualPerson(labels, self._own) for i, labels in enumerate(people)}
        self._together = together
        self._workers = torch.get_num_threads() if workers is None else workers
        self._app: ClientApp = make_app(lambda context: self._people.get(context.node_id))
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(run_id=RUN)
        _keep_memory()
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, RUN, SUPERLINK_NODE_ID

    def set_run(self, run: Run) -> None:
        """Take the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of all nodes."""
        return list(self._people)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer the messages and return their ids, in order."""
        sent = [_arrived(message) for message in messages]
        answers = self._answer_together(sent) if self._together else map(self._answer, sent)
        for message, answer in zip(sent, answers, strict=True):
            answer.metadata.__dict__["_message_id"] = uuid4().hex
            self._replies[message.metadata.message_id] = answer
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once."""
        return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], **_: object) -> Iterable[Message]:
        """Push messages and pull the replies, which are all there at once."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        records = message.content.config_records
        message.content = RecordDict({name: ConfigRecord(dict(one)) for name, one in records.items()})
        context = Context(RUN, node, {}, RecordDict(), {})
        return self._app(message, context)

    def _answer_together(self, messages: Sequence[Message]) -> list[Message]:
        """Train the people of all messages that carry the same task side by side."""
        answers: dict[int, Message] = {}
        tasks: dict[bytes, list[int]] = {}
        for place, message in enumerate(messages):
            wire = _wire_of(message)
            person = self._people.get(message.metadata.dst_node_id)
            # The steps of a masked round are each device's own.
            together = wire is not None and _is_signed_task(wire)
            if wire is not None and together and person is not None and len(person.labels) >= LEAST_LABELS:
                tasks.setdefault(wire, []).append(place)
            else:
                answers[place] = self._answer(message)
        for wire, places in tasks.items():
            answers.update(self._train(wire, {place: messages[place] for place in places}))
        return [answers[place] for place in range(len(messages))]

    def _train(self, wire: bytes, asked: Mapping[int, Message]) -> dict[int, Message]:
        try:
            # Each device checks the signature by itself; all of them have the same bytes.
            task, encoder = read_task(open_by_anybody(wire).message, self._own)
        except Declined as declined:
            return {place: refusal(message, declined.reason) for place, message in asked.items()}
        base = encoder_hash(encoder)
        # Sorted, so that people trained side by side have about as many labels and little is padded.
        order = sorted(asked, key=lambda place: -len(self._labels_of(asked[place])))
        chunks = [order[first : first + CHUNK] for first in range(0, len(order), CHUNK)]

        def train(places: Sequence[int]) -> dict[int, Message]:
            return self._train_chunk(task, encoder, base, {place: asked[place] for place in places})

        replies = side_by_side(train, chunks, self._workers)
        return {place: reply for some in replies for place, reply in some.items()}

    def _train_chunk(
        self, task: Task, encoder: EncoderWeights, base: str, asked: Mapping[int, Message]
    ) -> dict[int, Message]:
        """Train people side by side; a person whose training fails is answered alone, as on a device."""
        people = [self._labels_of(message) for message in asked.values()]
        seeds = [task.seed] * len(people)
        updates: dict[int, EncoderUpdate] = {}
        # A training that diverges yields no update; what fails for all is tried for each alone.
        with contextlib.suppress(RuntimeError):
            for row, change in train_together(encoder, people, task.settings, seeds, len(people)):
                with contextlib.suppress(UpdateError):
                    updates[row] = EncoderUpdate(base, task.round, change)
        answers = {}
        for row, (place, message) in enumerate(asked.items()):
            update = updates.get(row)
            if update is None or not update.norm <= MAX_NORM:
                answers[place] = self._answer(message)
            else:
                content = RecordDict({RECORD: ConfigRecord({WIRE: encode_update(update)})})
                answers[place] = Message(content, reply_to=message)
        return answers

    def _labels_of(self, message: Message) -> Labels:
        return self._people[message.metadata.dst_node_id].labels


def _keep_memory() -> None:
    """Let the process keep the memory that a round has freed, where the C library has a setting for it.

    A round of 100 devices allocates and frees 40 MB of messages. Giving the pages back and getting them
    again, zeroed, costs a tenth of the round.
    """
    with contextlib.suppress(OSError, AttributeError):  # of other systems and other C libraries
        tune = ctypes.CDLL(None).mallopt
        tune(TRIM_THRESHOLD, KEPT_BYTES)
        tune(MMAP_THRESHOLD, LARGE_BYTES)


def _wire_of(message: Message) -> bytes | None:
    """Return the bytes of a task, or None for a message that the ClientApp answers as on a device."""
    record = message.content.get(RECORD)
    if (
        message.metadata.message_type != TRAIN
        or len(message.content) != 1
        or not isinstance(record, ConfigRecord)
    ):
        return None
    wire = record.get(WIRE)
    return wire if len(record) == 1 and isinstance(wire, bytes) else None


def _is_signed_task(wire: bytes) -> bool:
    """Return whether a message is a signed task; the ClientApp answers anything else as on a device."""
    try:
        return kind_of(wire) == SIGNED and kind_of(message_in(wire)) == TASK
    except InvitationError:
        return False


def _arrived(message: Message) -> Message:
    """Return the message with an id of its own, as over a network; the content is still the sender's."""
    copy = Message(
        message.content,
        message.metadata.dst_node_id,
        message.metadata.message_type,
        ttl=message.metadata.ttl,
        group_id=message.metadata.group_id,
    )
    copy.metadata.__dict__["_message_id"] = uuid4().hex
    return copy
