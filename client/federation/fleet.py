"""One device's connection to a server: Flower's Fleet API, in the two calls that a round needs.

Where it stands in the flow: `app` takes messages and gives replies through this; on the other side is the
server's front. Everything that the device uses of Flower's internals is here: its protobufs, and how a
message is taken apart into objects that are named by their hash. Those parts are internal to Flower 1.42,
which is pinned; `tests/client/federation/test_flower_inside.py` names what changed when another version is
installed.

    take    the next message with its content; the server holds the call until there is one
    give    a reply with all its parts

A call is signed as Flower does it: the time, by the device's key. Nothing that a server sends is trusted. Its
length is counted while it is read. Compression is refused, because a little could become much. No redirection
is followed. No text of a server is ever repeated. And a call that takes too long is cut off from outside.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object

from palate.client.federation.declined import Declined
from palate.client.federation.server_address import Server
from palate.shared.errors import FederationError
from palate.shared.frames import join_frames, split_frames
from palate.shared.reasons import DeclineReason

RECORD, WIRE = "palate", "wire"
OBJECTS: Final = 3  # of a task: the message, its content, the one record in it

HEARTBEAT_SECONDS: Final = (
    30.0  # what the server is told; every call counts as a heartbeat, and two missed ones are a lost device
)
HOLD_SECONDS: Final = 25.0  # how long a server may hold a call until there is a message
CALL_SECONDS: Final = 15.0
LONG_CALL_SECONDS: Final = 60.0  # where many bytes are sent or received
LARGE_BYTES: Final = 50_000
GOODBYE_SECONDS: Final = 2.0
GLITCH_SECONDS: Final = (0.2, 0.6, 1.5)  # waits between attempts, before a server counts as lost
SIGNED_SECONDS: Final = 240.0  # a signature is good for so long; a server takes it for five minutes
CLOCK_SECONDS: Final = 240.0  # from this difference on, a refusal is explained by the clock
MOST_BYTES: Final = 4_000_000

Answer = TypeVar("Answer")


class NotTakenError(FederationError):
    """The server does not take this device: trying again will not help."""


class ForgottenError(FederationError):
    """The server does not know this device any more, as after a restart without its memory; enter again."""


class LostError(FederationError):
    """The server cannot be reached, or what answers is not a server of ours."""


class RunOver(Exception):  # noqa: N818 - an ordinary end
    """The round that was to be answered is over on the server."""


class Fleet:
    """One device's connection; `enter` it before use and each time the server was lost, and `close` it.

    Every method raises `FederationError` when the server cannot be reached or does not behave like one, with
    a line in this program's own words: what a server writes is not repeated. Without encryption no proxy is
    used, whatever the environment says.
    """

    def __init__(self, server: Server) -> None:
        """Prepare a connection; nothing is sent yet."""
        self.node_id = 0
        self._server = server
        self._key = server.key or ec.generate_private_key(ec.SECP256R1())  # cheaper to check than P-384
        self._public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._signed: tuple[float, dict[str, str]] = (0.0, {})
        self._had = ""  # the message that came last
        self._watch = _Watch()
        self._client = httpx.Client(
            verify=server.context(),
            base_url=f"{'http' if server.insecure else 'https'}://{server.address}/v1/",
            trust_env=not server.insecure,
            headers={"accept-encoding": "identity", "content-type": "application/protobuf"},
        )

    def enter(self) -> None:
        """Make the server count on this device from now on.

        Raises `NotTakenError` if it takes no device without a key, and `ForgottenError` if it does not take
        this key: either it does not know the key, or it still counts on an earlier process, which it gives up
        after two heartbeats.
        """
        if self.node_id:
            with contextlib.suppress(ForgottenError):
                self._beat()  # a restarted server still counts on this device, and would not enter it again
                return
        where = self._server.address
        if self._server.key is None:
            register = fleet_pb2.RegisterNodeFleetRequest(public_key=self._public)
            try:
                self._ask("fleet/register-node", register)
            except ForgottenError:
                pass  # it may know this key still; whether it takes it is said below
            except RunOver:
                raise NotTakenError(f"{where} does not take this device") from None
        asked = fleet_pb2.ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        try:
            answer = self._ask("fleet/activate-node", asked)
        except RunOver:
            raise NotTakenError(f"{where} does not take this device") from None
        except ForgottenError:
            if self._server.key is None:
                raise NotTakenError(
                    f"{where} takes only devices whose key it knows; have yours admitted, and join with --key"
                ) from None
            raise ForgottenError(f"{where} does not take this device's key; have it admitted there") from None
        self.node_id = self._parsed(fleet_pb2.ActivateNodeResponse, answer).node_id

    def take(self, hold: float = HOLD_SECONDS) -> tuple[Message, message_pb2.ObjectTree, bytes] | None:
        """Return the next message without its content, the tree of its parts, its record's bytes, or None.

        Wait up to `hold` seconds for it. The next call confirms what was taken, so nothing is lost when a
        connection breaks.
        """
        asked = fleet_pb2.PullMessagesRequest(node=self._node())
        more = {"x-palate-hold": f"{hold:g}", "x-palate-had": self._had}
        body = self._ask("palate/take", asked, frames=(), hold=hold, headers=more)
        with self._sense():
            head, *rest = split_frames(body)
        answer = self._parsed(fleet_pb2.PullMessagesResponse, head)
        if not answer.messages_list or not answer.message_object_trees:
            return None
        with self._sense():
            message = message_from_proto(answer.messages_list[0])
        self._had = message.metadata.message_id
        return message, answer.message_object_trees[0], rest[0] if rest else b""

    def bundle_hash(self, run: int) -> str:
        """Return the hash of a run's bundle, which is not fetched; raises `RunOver`."""
        answer = self._ask("fleet/get-run", run_pb2.GetRunRequest(node=self._node(), run_id=run))
        return str(self._parsed(run_pb2.GetRunResponse, answer).run.fab_hash)

    def give(self, reply: Message) -> None:
        """Send a reply with all its parts; raises `RunOver` if the server no longer waits for it."""
        with inflatable_object.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree = inflatable_object.get_object_tree(reply)
            names = [one.object_id for one in inflatable_object.iterate_object_tree(tree)]  # the record first
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
        self._ask("palate/give", asked, frames=[parts[name] for name in reversed(names)])

    def cut(self) -> None:
        """End the call that is running, from another thread."""
        self._watch.cut()

    def close(self) -> None:
        """Say goodbye, if the server can be reached, and end the connection."""
        if self.node_id:
            goodbyes: list[tuple[str, Any]] = [
                ("fleet/deactivate-node", fleet_pb2.DeactivateNodeRequest(node_id=self.node_id))
            ]
            if self._server.key is None:
                goodbyes.append(
                    ("fleet/unregister-node", fleet_pb2.UnregisterNodeFleetRequest(node_id=self.node_id))
                )
            with contextlib.suppress(FederationError, RunOver):
                for path, request in goodbyes:
                    self._call(path, request.SerializeToString(), GOODBYE_SECONDS)
        self._watch.close()
        self._client.close()

    # --- inside ---------------------------------------------------------------------------------------------

    def _node(self) -> node_pb2.Node:
        return node_pb2.Node(node_id=self.node_id)

    def _beat(self) -> None:
        asked = heartbeat_pb2.SendNodeHeartbeatRequest(
            node=self._node(), heartbeat_interval=HEARTBEAT_SECONDS
        )
        answer = self._ask("fleet/send-node-heartbeat", asked)
        if not self._parsed(heartbeat_pb2.SendNodeHeartbeatResponse, answer).success:
            raise ForgottenError(f"{self._server.address} does not know this device any more")

    def _parsed(self, kind: Callable[[], Answer], data: bytes) -> Answer:
        with self._sense():
            answer = kind()
            answer.ParseFromString(data)  # type: ignore[attr-defined]
            return answer

    def _ask(
        self,
        path: str,
        request: Any,
        *,
        frames: Sequence[bytes] | None = None,
        hold: float = 0.0,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """Make one call, again after a glitch; every failure becomes one of this module's."""
        body = request.SerializeToString()
        if frames is not None:
            body = join_frames([body, *frames])
        seconds = LONG_CALL_SECONDS if len(body) > LARGE_BYTES or frames is not None else CALL_SECONDS
        glitches = 0
        for pause in (*GLITCH_SECONDS, None):
            try:
                return self._call(path, body, hold + seconds, headers)
            except LostError:
                # Before the device has entered, fail at once: its owner has just typed the address.
                if pause is None or not self.node_id or self._watch.closed:
                    raise
                glitches += 1
                time.sleep(pause)
            except RunOver:
                if path == "palate/give" and glitches:  # what was cut off had arrived
                    return b""
                raise
        raise AssertionError("unreachable")

    def _call(self, path: str, body: bytes, seconds: float, headers: dict[str, str] | None = None) -> bytes:
        with self._sense(), self._watch.over(seconds):
            more = self._signature() | (headers or {})
            timeout = httpx.Timeout(CALL_SECONDS, read=seconds)
            with self._client.stream(
                "POST",
                path,
                content=body,
                headers=more,
                timeout=timeout,
                extensions={"trace": self._watch.see},
            ) as response:
                self._check(response)
                size, parts = 0, []
                for part in response.iter_raw():
                    size += len(part)
                    if size > MOST_BYTES:
                        raise ValueError("an answer that is too large")
                    parts.append(part)
                return b"".join(parts)

    def _check(self, response: httpx.Response) -> None:
        where, status = self._server.address, response.status_code
        if status in (401, 412):
            off = _clock_off(response)
            if status == 401 and off is not None and abs(off) > CLOCK_SECONDS:
                way = "ahead of" if off > 0 else "behind"
                raise FederationError(
                    f"this device's clock is {abs(off) / 60:.0f} minutes {way} that of {where}; set it right"
                )
            raise ForgottenError(f"{where} does not know this device any more")
        if status == 403:
            raise RunOver
        if status in (429, 503):
            raise LostError(f"{where} is busy (HTTP status {status})")
        if status != 200:
            raise LostError(f"{where} answers with the HTTP status {status} instead of a task")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("an answer that is compressed")
        length = response.headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > MOST_BYTES:
            raise ValueError("an answer that is too large")

    def _signature(self) -> dict[str, str]:
        """Return the headers that prove the key: the time, signed.

        Reused for some minutes, since signing costs.
        """
        when, headers = self._signed
        if abs(time.time() - when) > SIGNED_SECONDS:
            now = datetime.now(UTC)
            stamp = now.isoformat()
            signature = self._key.sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
            headers = {
                "flwr-public-key": base64.b64encode(self._public).decode(),
                "flwr-timestamp": stamp,
                "flwr-signature": base64.b64encode(signature).decode(),
            }
            self._signed = now.timestamp(), headers
        return headers

    @contextlib.contextmanager
    def _sense(self) -> Iterator[None]:
        """Turn what Flower and httpx raise into this module's errors, in its own words."""
        where = self._server.address
        try:
            yield
        except (FederationError, RunOver):
            raise
        except httpx.TransportError as error:
            raise LostError(f"{where} cannot be reached ({_why(error)})") from None
        except Exception:  # noqa: BLE001 - the bytes are somebody else's, and the parsers raise many kinds
            raise LostError(f"what answers at {where} is not a server of this federation") from None


class _Watch:
    """Cuts off a call that takes too long: httpx's timeouts count from one byte to the next."""

    def __init__(self) -> None:
        self.closed = False
        self._deadline: float | None = None
        self._stream: Any = None
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def see(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a connection; httpx calls this."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._stream = info["return_value"]

    @contextlib.contextmanager
    def over(self, seconds: float) -> Iterator[None]:
        """Watch over what happens in the block."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="deadline", daemon=True)
            self._thread.start()
        # The thread is not woken for a later deadline: it looks again when the one that it knows is over.
        with self._change:
            self._deadline = time.monotonic() + seconds
            if seconds < CALL_SECONDS:
                self._change.notify()
        try:
            yield
        finally:
            self._deadline = None

    def cut(self) -> None:
        """End the connection, so that the thread that reads from it gets an error."""
        stream = self._stream
        with contextlib.suppress(OSError, AttributeError, ValueError):
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the watching."""
        with self._change:
            self.closed = True
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                if self.closed:
                    return
                left = CALL_SECONDS if self._deadline is None else self._deadline - time.monotonic()
                if left > 0:
                    self._change.wait(min(left, CALL_SECONDS))
                    continue
                self._deadline = None
            self.cut()


def read_record(message: Message, tree: message_pb2.ObjectTree, content: bytes) -> Message:
    """Return a message with its content; raises `Declined` for content of another form than a task's."""
    try:
        parts = [part.object_id for part in inflatable_object.iterate_object_tree(tree)]
        if len(parts) != OBJECTS or tree.object_id != message.metadata.message_id:
            raise ValueError
        if inflatable_object.get_object_id(content) != parts[0]:
            raise ValueError
        message.content = RecordDict({RECORD: ConfigRecord.inflate(content)})
    except Exception:  # noqa: BLE001 - the bytes are somebody else's, and the parsers raise many kinds
        raise Declined(DeclineReason.UNREADABLE_TASK) from None
    return message


def _clock_off(response: httpx.Response) -> float | None:
    """Return by how many seconds this device's clock is ahead of the server's.

    None if the server tells no time.
    """
    try:
        return time.time() - parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


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
