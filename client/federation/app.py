"""Flower on the device: the ClientApp that answers one task, and the long-lived node that `palate join` runs.

Where it stands in the flow: a task comes from the server as Flower's message (`fleet`), `member` does what it
asks, and the answer goes back. The ClientApp is the same in a simulation in one process, in Flower's
simulation engine, and on a device.

The node is one process that keeps a connection to the server. It does not start Flower's SuperNode, which
fetches each run's app bundle and executes the code in it, opens a port, and starts a Python process for every
message. This node asks only for the *hash* of a run's bundle, and refuses a run whose bundle it does not
know. It fetches no bundle, so it executes nothing but what its owner installed. (A server that lies about the
hash gains nothing: the hash decides whether to talk, not which code runs.)
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from importlib.metadata import entry_points

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from palate.client.federation.declined import Declined
from palate.client.federation.fleet import (
    HEARTBEAT_SECONDS,
    HOLD_SECONDS,
    RECORD,
    WIRE,
    Fleet,
    ForgottenError,
    NotTakenError,
    RunOver,
    read_record,
)
from palate.client.federation.member import Participant
from palate.client.federation.server_address import Server
from palate.shared.bundle import known_hashes
from palate.shared.errors import FederationError
from palate.shared.reasons import DeclineReason

PARTICIPANTS = "palate.participants"
"""Entry points that give virtual people to Flower's simulation engine; the device does not know who they
are."""

TRAIN = "train"

PAUSE_SECONDS = 1.0  # before the next call, where a server does not hold one until there is a message

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)  # between attempts to find a lost server; the last is repeated

Finder = Callable[[Context], Participant | None]


# --- the app ------------------------------------------------------------------------------------------------


def make_app(find: Finder, deliver: Callable[[Message], None] | None = None) -> ClientApp:
    """Return the ClientApp that answers tasks.

    Whatever fails, the server hears a `DeclineReason`; only the loss of the server is raised
    (`FederationError`).

    Args:
        find: returns the participant for a context, None for nobody.
        deliver: sends a reply before the app returns it, so that the outbox notes it as sent only when it
            went. Flower's own engines deliver what the app returns and need none.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        replies: list[Message] = []
        reason = DeclineReason.FAILED

        def answer(reply: Message) -> None:
            if deliver is not None:
                deliver(reply)
            replies.append(reply)

        def send(wire: bytes) -> None:
            answer(Message(RecordDict({RECORD: ConfigRecord({WIRE: wire})}), reply_to=message))

        try:
            participant = find(context)
            if participant is None:
                send(b"")
            else:
                participant.take_part(_wire_of(message), send)
        except (FederationError, RunOver):
            raise
        except Declined as declined:
            reason = declined.reason
        except Exception:  # noqa: BLE001, S110 - its text may quote a comment, and Flower would send it
            pass
        if not replies:
            answer(refusal(message, reason))
        return replies[0]

    return app


def refusal(message: Message, reason: DeclineReason) -> Message:
    """Return the reply that tells the server one constant reason."""
    unknown = reason is DeclineReason.UNKNOWN_BUNDLE
    code = ErrorCode.INVALID_FAB if unknown else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Message(Error(code=code, reason=reason.value), reply_to=message)


def find_virtual_person(context: Context) -> Participant | None:
    """Return the virtual person of a simulated node, or None where there is nobody: then the node stays out.

    Flower numbers a simulation's nodes. An entry point of the group "palate.participants" returns the person;
    it is called with the number, how many there are, and the run's settings.
    """
    number, count = (context.node_config.get(name) for name in ("partition-id", "num-partitions"))
    if not isinstance(number, int) or not isinstance(count, int):
        return None
    for entry in entry_points(group=PARTICIPANTS):
        participant: Participant = entry.load()(number, count, dict(context.run_config))
        return participant
    return None


app = make_app(find_virtual_person)
"""The app that the bundle names: virtual people under Flower's engines. A device runs `run_node` instead."""


def _wire_of(message: Message) -> bytes:
    """Return the bytes of a task; raises `Declined` for a message of any other form."""
    content = message.content if message.has_content() else RecordDict()
    record = content.get(RECORD)
    wire = record.get(WIRE) if isinstance(record, ConfigRecord) and len(record) == 1 else None
    if len(content) != 1 or not isinstance(wire, bytes):
        raise Declined(DeclineReason.UNREADABLE_TASK)
    return wire


# --- the node -----------------------------------------------------------------------------------------------


def run_node(
    participant: Participant,
    server: Server,
    *,
    tell: Callable[[str], None],
    keep_on: Callable[[], bool] = lambda: True,
    wait: Callable[[float], None] = time.sleep,
    hold: float = HOLD_SECONDS,
) -> None:
    """Take part in the server's rounds until `keep_on` returns False; say goodbye at the end.

    A server that is lost is looked for until it is back.

    Args:
        participant: answers the tasks.
        server: where the server is.
        tell: called with a line for each event.
        keep_on: called before each message and every `hold` seconds.
        wait: waits for so many seconds.
        hold: how many seconds the server may hold a call until there is a message.

    Raises:
        FederationError: the server cannot be reached at first, or does not take this device.
    """
    with contextlib.closing(Fleet(server)) as fleet:
        node = _Node(fleet, participant, tell)
        _enter_patiently(fleet, tell, wait)
        tell(f"joined {server.address}; waiting for rounds (Ctrl-C or `palate leave` ends it)")
        lost = 0
        while keep_on():
            try:
                if lost:
                    _enter_patiently(fleet, tell, wait)
                    tell(f"found {server.address} again; waiting for rounds")
                    lost = 0
                asked = time.monotonic()
                if not node.answer_next(hold) and time.monotonic() - asked < min(hold, PAUSE_SECONDS) / 2:
                    wait(PAUSE_SECONDS)
            except NotTakenError:
                raise
            except FederationError as error:
                if not lost:
                    tell(f"{error}; looking for it until it is back")
                wait(RETRY_SECONDS[min(lost, len(RETRY_SECONDS) - 1)])
                lost += 1


def _enter_patiently(fleet: Fleet, tell: Callable[[str], None], wait: Callable[[float], None]) -> None:
    """Enter.

    Wait as long as the server may still count on an earlier process of this device that was killed.
    """
    told = False
    for pause in (*[2.0] * math.ceil(1.2 * HEARTBEAT_SECONDS), None):
        try:
            fleet.enter()
            return
        except ForgottenError as error:
            if pause is None:
                raise NotTakenError(str(error)) from None
            if not told:
                tell("the server does not take this device's key yet; trying for a minute")
            told = True
            wait(pause)


class _Node:
    """Answers the messages that come over a connection."""

    def __init__(self, fleet: Fleet, participant: Participant, tell: Callable[[str], None]) -> None:
        self._fleet, self._tell = fleet, tell
        self._app = make_app(lambda _: participant, fleet.give)
        self._known: dict[int, bool] = {}

    def answer_next(self, hold: float) -> bool:
        """Answer one message if one comes within `hold` seconds; return whether one came.

        Raises `FederationError`.
        """
        taken = self._fleet.take(hold)
        if taken is None:
            return False
        message = taken[0]
        run = message.metadata.run_id
        try:
            if not self._knows(run):
                raise Declined(DeclineReason.UNKNOWN_BUNDLE)
            if message.metadata.message_type != TRAIN:
                raise Declined(DeclineReason.UNKNOWN_MESSAGE)
            task = read_record(*taken)
            reply = self._app(task, Context(run, self._fleet.node_id, {}, RecordDict(), {}))
            if reply.has_error():
                self._tell(f"declined a task: {reply.error.reason}")
        except RunOver:
            self._tell("a round was over before it was answered")
        except Declined as declined:
            if declined.reason is not DeclineReason.UNKNOWN_BUNDLE:  # that was told once for the run
                self._tell(f"declined a task: {declined.reason.value}")
            with contextlib.suppress(RunOver):
                self._fleet.give(refusal(message, declined.reason))
        return True

    def _knows(self, run: int) -> bool:
        if run not in self._known:
            self._known[run] = self._fleet.bundle_hash(run) in known_hashes()
            if not self._known[run]:
                self._tell(
                    f"declined run {run}: {DeclineReason.UNKNOWN_BUNDLE.value}; its task was not read, and "
                    "nothing of the bundle was fetched"
                )
        return self._known[run]
