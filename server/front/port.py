"""The public port: what devices need, and nothing else.

Where it stands in the flow: devices connect here (`palate join`, or Flower's own SuperNode); `superlink`
behind it keeps what waits for whom. `serve` puts this application on the network, with TLS. Pure ASGI:
Flower's own stack of web layers takes some fifty times as long for a call.

    POST /v1/fleet/<call>     the Fleet API of Flower 1.42: register, activate, pull, push, and so on
    POST /v1/palate/take      the next message with its record in one answer, held until there is one
    POST /v1/palate/give      a reply with all its parts

Everything else is "Not Found", whatever its spelling. A call is looked at in this order, and the first thing
that is wrong ends it:

    path and method           no other route exists
    no Content-Encoding       so that what is read is as long as what was sent
    rate limit                an address that failed to sign too often waits before the next signature
    signature                 Flower's: the time, signed by the node's key; five minutes may pass, either way
    body                      a limit for each call and one for all together, counted while they are read
    node                      the number in the request is that of the key

A reply is taken only as an answer to this node's own open question. Any call that passes counts as a
heartbeat, and so does waiting.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import logging
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from palate.server.front.fleet_calls import MOST_RECORD, FlowerError, RefusedError, parse, status_of
from palate.server.front.superlink import SuperLink
from palate.shared.frames import join_frames, split_frames

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FLEET, OURS = "/v1/fleet/", "/v1/palate/"
KEY_HEADER, TIME_HEADER, SIGNATURE_HEADER = b"flwr-public-key", b"flwr-timestamp", b"flwr-signature"
HOLD_HEADER: Final = b"x-palate-hold"  # how many seconds a device is ready to wait for a message
HAD_HEADER: Final = b"x-palate-had"  # the id of the message that a device got last
PROXY_HEADERS: Final = frozenset(
    (b"via", b"forwarded", b"x-forwarded-for")
)  # one of them, where a proxy hands a call on

SMALL: Final = 4_096  # bytes of a request without content
LARGE: Final = MOST_RECORD + 16_384
LIMITS: Final = {"push-messages": 65_536, "push-object": LARGE, "give": LARGE}  # the others are small
BUFFERED: Final = 32_000_000  # bytes of all bodies that are being read at once
BODY_SECONDS: Final = 20.0  # a body that takes longer is given up

HOLD_SECONDS: Final = 8.0  # for a device that does not say how long it waits
MOST_HOLD_SECONDS: Final = 25.0
CLOCK_SECONDS: Final = 300.0  # how far a device's clock may be off
MOST_FAILURES: Final = (
    20  # signatures of one address that may be wrong in a row; each is forgiven after `FORGIVEN_SECONDS`
)
FORGIVEN_SECONDS: Final = 2.0
MOST_KNOWN: Final = 50_000  # keys, and addresses, that are remembered

_ECDSA = ec.ECDSA(hashes.SHA256())
_log = logging.getLogger("palate.server.front")


@dataclass
class _Key:
    """A device's public key, and its signature that was checked last.

    Until the time of that signature is over it is not checked again.
    """

    pem: bytes
    public: ec.EllipticCurvePublicKey
    stamp: bytes = b""
    signature: bytes = b""


@dataclass
class Front:
    """The ASGI application of the public port."""

    link: SuperLink
    clock: Callable[[], float] = time.time
    _keys: OrderedDict[bytes, _Key] = field(default_factory=OrderedDict)
    _failures: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    _waiting: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    _peers: dict[Any, int] = field(default_factory=dict)  # which node last called on a connection
    _calling: dict[int, Any] = field(default_factory=dict)  # the connection on which a node last called
    _buffered: int = 0
    _room: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        """Be told of messages for devices that wait."""
        self.link.on_message = self._wake
        self._calls: Mapping[str, Callable[[Any], Any]] = {
            "register-node": self.link.register,
            "activate-node": self.link.activate,
            "deactivate-node": self.link.deactivate,
            "unregister-node": self.link.unregister,
            "send-node-heartbeat": self.link.heartbeat,
            "pull-messages": self.link.pull,
            "push-messages": self.link.push,
            "get-run": self.link.get_run,
            "get-fab": self.link.get_fab,
            "push-object": self.link.push_object,
            "pull-object": self.link.pull_object,
            "confirm-message-received": self.link.confirm,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        try:
            await _respond(send, 200, await self._answer(scope, receive), b"application/protobuf")
        except _HungUpError:
            pass
        except RefusedError as refused:
            await _refuse(send, refused.status, json.dumps({"detail": refused.detail}), refused.after)
        except FlowerError as error:
            await _refuse(send, *status_of(error))
        except Exception:  # noqa: BLE001 - a fault of ours costs one call, and is in the log
            _log.exception("a call could not be answered")
            await _refuse(send, 500, json.dumps({"detail": "Internal server error."}))

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        call, ours = _call_of(scope)
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RefusedError(415, "send it without Content-Encoding")
        key = self._authenticate(headers, _address(scope))
        body = await self._read(receive, headers, LIMITS.get(call, SMALL))
        parts = _frames(body) if ours else [body]
        request = parse(call, parts[0])
        self._check_node(call, request, key)
        if call in ("register-node", "activate-node"):
            answer = self._calls[call](request)
            return bytes(answer.SerializeToString())
        node = request.node_id if call in ("deactivate-node", "unregister-node") else request.node.node_id
        self.link.is_alive(node)
        if not PROXY_HEADERS & headers.keys():
            self._calls_on(scope.get("client"), node)
        had = headers[HAD_HEADER].decode("latin-1") if HAD_HEADER in headers else None
        if call in ("take", "pull-messages") and not (had is not None and self.link.missed(node, had)):
            await self._hold(node, headers, receive)
        if call == "take":
            message, content = self.link.take(request, had)
            return join_frames([message.SerializeToString(), content])
        if call == "give":
            self.link.give(request, parts[1:])
            return b""
        return bytes(self._calls[call](request).SerializeToString())

    # --- who calls ------------------------------------------------------------------------------------------

    def _authenticate(self, headers: Mapping[bytes, bytes], address: str) -> _Key:
        """Return the key that signed the time, or refuse; what fails counts against the address."""
        name = headers.get(KEY_HEADER, b"")
        stamp, signature = headers.get(TIME_HEADER, b""), headers.get(SIGNATURE_HEADER, b"")
        known = self._keys.get(name)
        try:
            age = self.clock() - datetime.fromisoformat(stamp.decode("ascii")).timestamp()
        except (ValueError, UnicodeError, OverflowError):
            age = float("inf")
        if known is not None and stamp == known.stamp and signature == known.signature:
            if not -CLOCK_SECONDS < age < CLOCK_SECONDS:
                raise RefusedError(401, "Invalid SuperNode authentication: the time")
            self._keys.move_to_end(name)
            return known
        self._check_failures(address)
        try:
            if known is None:
                pem = b64decode(name, validate=True)
                public = load_pem_public_key(pem)
                if not isinstance(public, ec.EllipticCurvePublicKey):
                    raise ValueError
                known = _Key(pem, public)
            known.public.verify(b64decode(signature, validate=True), stamp, _ECDSA)
        except (ValueError, TypeError, binascii.Error, InvalidSignature, UnsupportedAlgorithm):
            self._count_failure(address)
            raise RefusedError(401, "Invalid SuperNode authentication") from None
        # Only now, so that the answer tells nothing to who does not have the key.
        if not -CLOCK_SECONDS < age < CLOCK_SECONDS:
            raise RefusedError(401, "Invalid SuperNode authentication: the time")
        known.stamp, known.signature = stamp, signature
        return known

    def _check_node(self, call: str, request: Any, key: _Key) -> None:
        if call in ("register-node", "activate-node"):
            if request.public_key != key.pem:
                raise RefusedError(401, "Invalid SuperNode authentication")
            return
        claimed = request.node_id if call in ("deactivate-node", "unregister-node") else request.node.node_id
        if self.link.node_of(key.pem) != claimed:
            raise RefusedError(401, "Invalid SuperNode authentication")
        # Only keys of registered nodes are remembered, so that nobody fills this.
        self._keys[_header_of(key.pem)] = key
        while len(self._keys) > MOST_KNOWN:
            self._keys.popitem(last=False)

    def _check_failures(self, address: str) -> None:
        count, since = self._failures.get(address, (0.0, 0.0))
        if count - (self.clock() - since) / FORGIVEN_SECONDS >= MOST_FAILURES:
            raise RefusedError(
                429, "too many calls that were not signed rightly", after=int(FORGIVEN_SECONDS) + 1
            )

    def _count_failure(self, address: str) -> None:
        now = self.clock()
        count, since = self._failures.pop(address, (0.0, now))
        self._failures[address] = max(0.0, count - (now - since) / FORGIVEN_SECONDS) + 1, now
        while len(self._failures) > MOST_KNOWN:
            self._failures.popitem(last=False)

    # --- what is read ---------------------------------------------------------------------------------------

    async def _read(self, receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
        """Return the body, counted while it is read."""
        announced = headers.get(b"content-length", b"")
        if announced and (not announced.isdigit() or int(announced[:20]) > limit):
            raise RefusedError(413, "too large")
        parts, size = [], 0
        async with self._reserved(int(announced) if announced else limit):
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    while True:
                        event = await receive()
                        if event["type"] == "http.disconnect":
                            raise _HungUpError
                        part = event.get("body", b"")
                        size += len(part)
                        if size > limit:
                            raise RefusedError(413, "too large")
                        parts.append(part)
                        if not event.get("more_body"):
                            return b"".join(parts)
            except TimeoutError:
                raise RefusedError(408, "too slow") from None

    @asynccontextmanager
    async def _reserved(self, size: int) -> AsyncIterator[None]:
        """Wait until so many bytes more may be buffered; small bodies need not wait."""
        if size <= SMALL:
            yield
            return
        try:
            async with asyncio.timeout(BODY_SECONDS), self._room:
                await self._room.wait_for(lambda: self._buffered + size <= BUFFERED)
        except TimeoutError:
            raise RefusedError(503, "busy", after=5) from None
        self._buffered += size
        try:
            yield
        finally:
            self._buffered -= size
            async with self._room:
                self._room.notify_all()

    # --- waiting --------------------------------------------------------------------------------------------

    async def _hold(self, node: int, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        """Wait until a message for a node is there, or its patience is over.

        Newer calls of a node end older ones.
        """
        try:
            seconds = min(max(float(headers.get(HOLD_HEADER, HOLD_SECONDS)), 0.0), MOST_HOLD_SECONDS)
        except ValueError:
            raise RefusedError(400, "how long to wait is no number") from None
        older = self._waiting.pop(node, None)
        if older is not None and not older.done():
            older.set_result(None)
        if self.link.waits(node) or not seconds > 0:
            return
        woken = self._waiting[node] = asyncio.get_running_loop().create_future()
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((woken, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not woken.done():
                self.link.hung_up(node)
                raise _HungUpError
        finally:
            gone.cancel()
            if self._waiting.get(node) is woken:
                del self._waiting[node]

    def _wake(self, node: int) -> None:
        woken = self._waiting.get(node)
        if woken is not None and not woken.done():
            woken.set_result(None)

    def _calls_on(self, client: Any, node: int) -> None:
        """Note on which connection a node called last.

        A proxy's are not noted, for they say nothing of one device.
        """
        before = self._peers.get(client)
        if before not in (None, node):
            self._calling.pop(before, None)
        self._peers[client], self._calling[node] = node, client

    def connection_lost(self, client: Any) -> None:
        """Note that a connection ended.

        A device of ours keeps one open, so it has left, or it comes back at once.
        """
        node = self._peers.pop(client, None)
        if node is not None and self._calling.get(node) == client:
            del self._calling[node]
            self.link.hung_up(node)

    def connection_idle(self, client: Any) -> None:
        """Note that this server ends a connection on which nothing came for long.

        That says nothing about the device.
        """
        node = self._peers.pop(client, None)
        if node is not None and self._calling.get(node) == client:
            del self._calling[node]

    def keep_waiting_alive(self) -> None:
        """Note that all devices that wait are alive; to be called every few seconds."""
        for node in self._waiting:
            self.link.is_alive(node)


class _HungUpError(Exception):
    """The device is not there any more to hear an answer."""


def _call_of(scope: Scope) -> tuple[str, bool]:
    """Return the call that a path names, and whether it is one of ours."""
    path = scope["path"]
    call = CALLS.get(path)
    # What the path was before its percent signs were decoded must be the same: there is one spelling.
    if call is None or scope["method"] != "POST" or scope.get("raw_path", path.encode()) != path.encode():
        raise RefusedError(404, "Not Found")
    return call, path.startswith(OURS)


CALLS: Final[Mapping[str, str]] = {
    **{
        FLEET + call: call
        for call in (
            "register-node",
            "activate-node",
            "deactivate-node",
            "unregister-node",
            "send-node-heartbeat",
            "pull-messages",
            "push-messages",
            "get-run",
            "get-fab",
            "push-object",
            "pull-object",
            "confirm-message-received",
        )
    },
    **{OURS + call: call for call in ("take", "give")},
}


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def _frames(body: bytes) -> list[bytes]:
    try:
        return split_frames(body)
    except ValueError:
        raise RefusedError(400, "not frames") from None


def _header_of(pem: bytes) -> bytes:
    return binascii.b2a_base64(pem, newline=False)


async def _respond(send: Send, status: int, body: bytes, kind: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, words: str, after: int = 0) -> None:
    more = [(b"retry-after", str(after).encode())] if after else []
    await _respond(send, status, words.encode(), b"application/json", *more, (b"connection", b"close"))
