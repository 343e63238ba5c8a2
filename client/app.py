"""Flower on the device: the ClientApp that answers one task, and the long-lived node that `palate join` runs.

Where it stands in the flow: a task comes from the server as Flower's message, `joining` does what it asks, the answer goes back.
The ClientApp is the same in a simulation in one process, in Flower's simulation engine, and on a device.

The node is one process that keeps a connection to Flower's Fleet API. It does not start Flower's SuperNode, which fetches each
run's app bundle and executes the code in it, opens a port, and starts a Python process for every message. This node asks
only for the *hash* of a run's bundle and refuses a run whose bundle it does not know; it fetches no bundle, so there
is nothing of it to execute, and what it executes is what its owner installed. (A server that lies about the hash gains
nothing by it: the hash decides about talking, not about code.)

The lower half, `Fleet`, is all that knows the inside of Flower 1.42: the client under `flwr.supernode.fleet_http_connection`.
The function there of that name is not used, because it ends the process from a timer when it cannot connect, sends the
process an interrupt when a restarted server does not know the node, and logs what the server says.
"""

from __future__ import annotations

import contextlib
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from palate.client.joining import Participant
from palate.client.reasons import Declined
from palate.client.server_address import Server
from palate.shared.bundle import known_hashes
from palate.shared.errors import FederationError
from palate.shared.reasons import Reason

PARTICIPANTS = "palate.participants"
"""Entry points that lend virtual people to Flower's simulation engine; the device knows nothing of who they are."""

TRAIN = "train"
RECORD, WIRE = "palate", "wire"

POLL_SECONDS = ((3.0, 0.05), (30.0, 0.2), (math.inf, 1.0))
"""For how long after a message how often is asked for the next: quickly within a round, seldom by a thousand idle devices."""

LEISURE = 3.0  # a pause lasts at least so many times as long as the question before it

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)  # between attempts to find a lost server; the last is repeated

Finder = Callable[[Context], Participant | None]


# --- the app ------------------------------------------------------------------------------------------------------


def make_app(find: Finder, deliver: Callable[[Message], None] | None = None) -> ClientApp:
    """Return the ClientApp in which the participant that `find` names for a context answers tasks.

    `deliver` puts a reply on its way before the app returns it, so that the outbox notes it as sent only when it went;
    Flower's own engines deliver what the app returns and need none. Whatever fails, the server hears one of `Reason`'s
    constants; only the loss of the server itself is raised (`FederationError`).
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        replies: list[Message] = []
        reason = Reason.FAILED

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


def refusal(message: Message, reason: Reason) -> Message:
    """Return the reply that tells the server one constant reason."""
    unknown = reason is Reason.UNKNOWN_BUNDLE
    code = ErrorCode.INVALID_FAB if unknown else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Message(Error(code=code, reason=reason.value), reply_to=message)


def lend_participant(context: Context) -> Participant | None:
    """Return the virtual person of a simulated node, or None where there is nobody: then the node stays out.

    A simulation's nodes are numbered by Flower; who they are is known to an entry point of the group "palate.participants",
    called with the number, how many there are, and the run's settings.
    """
    number, count = (context.node_config.get(name) for name in ("partition-id", "num-partitions"))
    if not isinstance(number, int) or not isinstance(count, int):
        return None
    for entry in entry_points(group=PARTICIPANTS):
        participant: Participant = entry.load()(number, count, dict(context.run_config))
        return participant
    return None


app = make_app(lend_participant)
"""The app that the bundle names: virtual people under Flower's engines. A device runs `run_node` instead."""


def _wire_of(message: Message) -> bytes:
    """Return the bytes of a task; raises `Declined` for a message of any other form."""
    content = message.content if message.has_content() else RecordDict()
    record = content.get(RECORD)
    wire = record.get(WIRE) if isinstance(record, ConfigRecord) and len(record) == 1 else None
    if len(content) != 1 or not isinstance(wire, bytes):
        raise Declined(Reason.UNREADABLE_TASK)
    return wire


# --- the node -----------------------------------------------------------------------------------------------------


def run_node(
    participant: Participant,
    server: Server,
    *,
    tell: Callable[[str], None],
    keep_on: Callable[[], bool] = lambda: True,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Take part in the server's rounds until `keep_on` says no, asked before each message.

    `tell` gets a line for each event. A server that is lost later on is looked for again until it is back; one that cannot
    be reached at first, or does not take this device, raises `FederationError`. Whatever ends it, it says goodbye.
    """
    with contextlib.closing(Fleet(server)) as fleet:
        node = _Node(fleet, participant, tell)
        _enter_patiently(fleet, tell, wait)
        tell(f"joined {server.address}; waiting for rounds (Ctrl-C or `palate leave` ends it)")
        lost, idle_since = 0, time.monotonic()
        while keep_on():
            try:
                if lost:
                    _enter_patiently(fleet, tell, wait)
                    tell(f"found {server.address} again; waiting for rounds")
                    lost, idle_since = 0, time.monotonic()
                asked = time.monotonic()
                if node.answer_next():
                    idle_since = time.monotonic()
                    continue
            except NotTakenError:
                raise
            except FederationError as error:
                if not lost:
                    tell(f"{error}; looking for it until it is back")
                wait(RETRY_SECONDS[min(lost, len(RETRY_SECONDS) - 1)])
                lost += 1
                continue
            idle = (now := time.monotonic()) - idle_since
            pause = next(pause for until, pause in POLL_SECONDS if idle < until)
            wait(max(pause, min(LEISURE * (now - asked), POLL_SECONDS[-1][1])))


def _enter_patiently(fleet: Fleet, tell: Callable[[str], None], wait: Callable[[float], None]) -> None:
    """Enter, waiting for as long as the server may count on an earlier process of this device that was killed."""
    told = False
    for pause in (*[2.0] * math.ceil(1.2 * HEARTBEAT_SECONDS), None):
        try:
            fleet.enter()
            return
        except ForgottenError as error:
            if pause is None:
                raise NotTakenError(str(error)) from None
            if not told:
                tell("the server does not take this device's key yet; trying for half a minute")
            told = True
            wait(pause)


class _Node:
    """Answers the messages that come over a connection."""

    def __init__(self, fleet: Fleet, participant: Participant, tell: Callable[[str], None]) -> None:
        self._fleet, self._tell = fleet, tell
        self._app = make_app(lambda _: participant, fleet.push)
        self._known: dict[int, bool] = {}

    def answer_next(self) -> bool:
        """Answer one message if there is one, and say whether there was; raises `FederationError`."""
        pulled = self._fleet.pull()
        if pulled is None:
            return False
        message, tree = pulled
        run = message.metadata.run_id
        try:
            if not self._knows(run):
                raise Declined(Reason.UNKNOWN_BUNDLE)
            if message.metadata.message_type != TRAIN:
                raise Declined(Reason.UNKNOWN_MESSAGE)
            task = self._fleet.fetch(message, tree)
            reply = self._app(task, Context(run, self._fleet.node_id, {}, RecordDict(), {}))
            if reply.has_error():
                self._tell(f"declined a task: {reply.error.reason}")
        except RunOver:
            self._tell("a round was over before it was answered")
        except Declined as declined:
            if declined.reason is not Reason.UNKNOWN_BUNDLE:  # that was told once for the run
                self._tell(f"declined a task: {declined.reason.value}")
            with contextlib.suppress(RunOver):
                self._fleet.push(refusal(message, declined.reason))
        return True

    def _knows(self, run: int) -> bool:
        if run not in self._known:
            self._known[run] = self._fleet.bundle_hash(run) in known_hashes()
            if not self._known[run]:
                self._tell(f"declined run {run}: {Reason.UNKNOWN_BUNDLE.value}; nothing of it was fetched")
        return self._known[run]


# --- the connection -----------------------------------------------------------------------------------------------

Answer = TypeVar("Answer")

HEARTBEAT_SECONDS = (
    10.0  # what the server is told; it misses a node after two of them. The least that Flower takes.
)
TIMEOUT_SECONDS = 15.0
GOODBYE_SECONDS = 2.0
GLITCH_SECONDS = (0.2, 0.6, 1.5)  # waits between attempts, before a server counts as lost
UPLOAD_SECONDS, UPLOAD_POLL_SECONDS = 10.0, 0.05
LARGEST_ANSWER_BYTES = 4_000_000
OBJECTS = 3  # of a task: the message, its content, the one record in it


class NotTakenError(FederationError):
    """The server does not take this device: trying again will not help."""


class ForgottenError(FederationError):
    """The server does not know this device any more, as after a restart without its memory: it must enter again."""


class RunOver(Exception):  # noqa: N818 - an ordinary end
    """What was to be answered is over on the server."""


class Fleet:
    """One device's connection to Flower's Fleet API; `enter` it before use, as often as the server was lost, and `close` it.

    Every method raises `FederationError` when the server cannot be reached or does not behave like one, with a line of this
    program's own words: what a server writes is not repeated. Answers are limited in size, redirections are not followed,
    and without encryption no proxy is used, whatever the environment says.
    """

    def __init__(self, server: Server) -> None:
        """Prepare a connection; nothing is sent yet."""
        self.node_id = 0
        self._server = server
        self._client, self._public = _connect(server)
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def enter(self) -> None:
        """Make the server count on this device from now on.

        Raises `NotTakenError` if it takes no device without a key, and `ForgottenError` if it does not take this key: either it
        does not know it, or it still counts on an earlier process, which it gives up after two heartbeats.
        """
        if self.node_id:
            with contextlib.suppress(ForgottenError):
                self._beat()  # a server that was restarted still counts on this device, and would not begin to anew
                return
        where = self._server.address
        try:
            if self._server.key is None:
                # Where the server has forgotten this device its old key might still be in its books.
                if self.node_id:
                    self._client.close()
                    self._client, self._public = _connect(self._server)
                register = fleet_pb2.RegisterNodeFleetRequest(public_key=self._public)
                self._ask(self._client.RegisterNode, register)
            asked = fleet_pb2.ActivateNodeRequest(
                public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS
            )
            self.node_id = self._ask(self._client.ActivateNode, asked).node_id
        except RunOver:
            raise NotTakenError(f"{where} does not take this device") from None
        except ForgottenError:
            if self._server.key is None:
                raise NotTakenError(
                    f"{where} takes only devices whose key it knows; have yours registered, and join with --key"
                ) from None
            raise ForgottenError(
                f"{where} does not take this device's key; have it registered there"
            ) from None
        if not self._heart.is_alive():
            self._heart.start()

    def pull(self) -> tuple[Message, message_pb2.ObjectTree] | None:
        """Return the next message, without its content, and the tree of its parts; None if there is none."""
        answer = self._ask(self._client.PullMessages, fleet_pb2.PullMessagesRequest(node=self._node()))
        if not answer.messages_list or not answer.message_object_trees:
            return None
        with self._sense():
            return message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]

    def bundle_hash(self, run: int) -> str:
        """Return the hash of a run's bundle, which itself is not asked for; raises `RunOver`."""
        return str(
            self._ask(self._client.GetRun, run_pb2.GetRunRequest(node=self._node(), run_id=run)).run.fab_hash
        )

    def fetch(self, message: Message, tree: message_pb2.ObjectTree) -> Message:
        """Return a message with its content; raises `Declined` for content of another form than a task's, and `RunOver`.

        Of its parts only the record is asked for: a busy server answers what it is asked one after the other.
        """
        run = message.metadata.run_id
        # The innermost comes first.
        parts = [part.object_id for part in inflatable_object.iterate_object_tree(tree)]
        if len(parts) != OBJECTS or tree.object_id != message.metadata.message_id:
            raise Declined(Reason.UNREADABLE_TASK)
        asked = message_pb2.PullObjectRequest(node=self._node(), run_id=run, object_id=parts[0])
        answer = self._ask(self._client.PullObject, asked)
        until = time.monotonic() + UPLOAD_SECONDS  # a task is announced before all of it was uploaded
        while answer.object_found and not answer.object_available and time.monotonic() < until:
            time.sleep(UPLOAD_POLL_SECONDS)
            answer = self._ask(self._client.PullObject, asked)
        if not (answer.object_found and answer.object_available):
            raise RunOver
        try:
            if inflatable_object.get_object_id(answer.object_content) != parts[0]:
                raise Declined(Reason.UNREADABLE_TASK)
            message.content = RecordDict({RECORD: ConfigRecord.inflate(answer.object_content)})
        except Exception:  # noqa: BLE001 - the bytes are somebody else's, and the parsers raise many kinds
            raise Declined(Reason.UNREADABLE_TASK) from None
        done = message_pb2.ConfirmMessageReceivedRequest(
            node=self._node(), run_id=run, message_object_id=message.metadata.message_id
        )
        self._ask(self._client.ConfirmMessageReceived, done)
        return message

    def push(self, reply: Message) -> None:
        """Send a reply with all its parts; raises `RunOver` if nobody waits for it any more."""
        run = reply.metadata.run_id
        with inflatable_object.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree = inflatable_object.get_object_tree(reply)
            parts = {
                name: part.deflate() for name, part in inflatable_object.get_all_nested_objects(reply).items()
            }
        bare = remove_content_from_message(reply) if reply.has_content() else reply
        asked = fleet_pb2.PushMessagesRequest(
            node=self._node(),
            messages_list=[message_to_proto(bare)],
            message_object_trees=[tree],
            clientapp_runtime_list=[0.0],  # how long training took would tell how much there was to train on
        )
        answer = self._ask(self._client.PushMessages, asked)
        wanted, session = set(answer.objects_to_push), answer.session_id
        # The record goes last: the server takes it for all of the reply.
        for name, part in reversed(parts.items()):
            if name in wanted:
                one = message_pb2.PushObjectRequest(
                    node=self._node(), run_id=run, object_id=name, object_content=part, session_id=session
                )
                if not self._ask(self._client.PushObject, one).stored:
                    raise RunOver

    def close(self) -> None:
        """Say goodbye, if the server is there to hear it, and end the connection."""
        self._over.set()
        self._client._client.timeout = httpx.Timeout(GOODBYE_SECONDS)
        if self.node_id:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                self._client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=self.node_id))
                if self._server.key is None:
                    self._client.UnregisterNode(fleet_pb2.UnregisterNodeFleetRequest(node_id=self.node_id))
        self._client.close()

    # --- inside -------------------------------------------------------------------------------------------------

    def _node(self) -> node_pb2.Node:
        return node_pb2.Node(node_id=self.node_id)

    def _beat(self) -> None:
        asked = heartbeat_pb2.SendNodeHeartbeatRequest(
            node=self._node(), heartbeat_interval=HEARTBEAT_SECONDS
        )
        if not self._ask(self._client.SendNodeHeartbeat, asked).success:
            raise ForgottenError(f"{self._server.address} does not know this device any more")

    def _beat_on(self) -> None:
        """Tell the server again and again that this device is there; what fails is for the main thread to notice."""
        while not self._over.wait(HEARTBEAT_SECONDS / 2):
            with contextlib.suppress(FederationError, RunOver):
                self._beat()

    def _ask(self, call: Callable[[Any], Answer], request: Any) -> Answer:
        """Make one call, again after a glitch; every failure becomes one of this module's."""
        for pause in (*GLITCH_SECONDS, None):
            try:
                with self._sense():
                    return call(request)
            except LostError:
                # Somebody who has just typed an address is answered at once.
                if pause is None or not self.node_id:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _sense(self) -> Iterator[None]:
        """Turn what Flower and httpx raise into this module's errors, in this module's words."""
        where = self._server.address
        try:
            yield
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status in (401, 412):
                raise ForgottenError(f"{where} does not know this device any more") from None
            if status == 403:
                raise RunOver from None
            raise LostError(f"{where} answers with the HTTP status {status} instead of a task") from None
        except httpx.TransportError as error:
            raise LostError(f"{where} cannot be reached ({_why(error)})") from None
        except Exception:  # noqa: BLE001 - the bytes are somebody else's, and the parsers raise many kinds
            raise LostError(f"what answers at {where} is not a server of this federation") from None


class LostError(FederationError):
    """The server cannot be reached, or what answers is none."""


def _connect(server: Server) -> tuple[FleetHttpClient, bytes]:
    """Return a client that signs with the server's key for this device or a fresh one, and the public half of it in PEM."""
    key = server.key or ec.generate_private_key(ec.SECP256R1())  # cheaper to check than P-384
    scheme = "http" if server.insecure else "https"
    signed = (NodeAuthHttpInterceptor(key, key.public_key()),)
    client = FleetHttpClient(f"{scheme}://{server.address}", interceptors=signed, verify=False)
    client._client.close()  # Flower's own follows redirections, goes through proxies, and reads answers of any size
    client._client = httpx.Client(
        verify=server.context(),
        timeout=TIMEOUT_SECONDS,
        trust_env=not server.insecure,
        event_hooks={"response": [_refuse_large]},
    )
    return client, public_key_to_bytes(key.public_key())


def _refuse_large(response: httpx.Response) -> None:
    """Refuse an answer by its announced length, before it is read."""
    length = response.headers.get("content-length", "")
    if not length.isdigit() or int(length) > LARGEST_ANSWER_BYTES:
        response.close()
        raise ValueError("an answer that is too large, or of unknown length")


def _why(error: httpx.TransportError) -> str:
    """Return in a few words of our own why a connection failed."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return "its certificate is not one that this device trusts; see --root-certificates"
        if isinstance(seen, ssl.SSLError):
            return "it does not speak TLS"
        if isinstance(seen, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(seen, OSError) and type(seen).__name__ == "gaierror":
            return "there is no machine of that name"
        seen = seen.__cause__ or seen.__context__
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else "the connection broke"
