"""A device as the front sees it: calls of the Fleet API that are signed as Flower signs them, put to the ASGI
application itself."""

import asyncio
import base64
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, node_pb2
from flwr.supercore.inflatable import inflatable_object as objects

from palate.server.front.port import Front
from palate.server.front.superlink import SuperLink
from palate.shared.frames import join_frames, split_frames


class Answer:
    """What came back."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, dict[bytes, bytes](), b""

    async def send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            self.status, self.headers = event["status"], dict(event["headers"])
        else:
            self.body += event["body"]


class Body:
    """A request's body as an ASGI server hands it over: in parts, and then the news that the device hung up,
    if it does."""

    def __init__(self, *parts: bytes, pause: float = 0.0, hangs_up: float | None = None) -> None:
        self._parts, self._pause, self._hangs_up = list(parts or (b"",)), pause, hangs_up
        self.read = 0

    async def __call__(self) -> dict[str, Any]:
        if self._parts:
            if self._pause:
                await asyncio.sleep(self._pause)
            part = self._parts.pop(0)
            self.read += len(part)
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        if self._hangs_up is None:
            await asyncio.sleep(1_000)
        await asyncio.sleep(self._hangs_up or 0.0)
        return {"type": "http.disconnect"}


async def call(
    front: Front,
    path: str,
    body: bytes | Body = b"",
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    address: str = "192.0.2.1",
) -> Answer:
    """Put one call to the application."""
    answer = Answer()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": (address, 1234),
    }
    await front(scope, body if isinstance(body, Body) else Body(body), answer.send)
    return answer


class Caller:
    """A device with a key of its own."""

    def __init__(self, front: Front, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.front, self.node = front, 0
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def signed(self, *, off: float = 0.0) -> dict[str, str]:
        """The headers that prove the key, with a clock that is so many seconds ahead."""
        stamp = datetime.fromtimestamp(time.time() + off, UTC).isoformat()
        signature = self.key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "flwr-public-key": base64.b64encode(self.public).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": base64.b64encode(signature).decode(),
        }

    async def fleet(self, name: str, request: Any, **more: Any) -> Answer:
        """One call of the Fleet API."""
        headers = self.signed() | more.pop("headers", {})
        return await call(self.front, f"/v1/fleet/{name}", request.SerializeToString(), headers, **more)

    async def join(self) -> "Caller":
        """Register and be counted on."""
        await self.fleet("register-node", fleet_pb2.RegisterNodeFleetRequest(public_key=self.public))
        await self.activate()
        return self

    async def activate(self) -> Answer:
        asked = fleet_pb2.ActivateNodeRequest(public_key=self.public, heartbeat_interval=30)
        answer = await self.fleet("activate-node", asked)
        if answer.status == 200:
            self.node = fleet_pb2.ActivateNodeResponse.FromString(answer.body).node_id
        return answer

    def me(self) -> Any:
        return node_pb2.Node(node_id=self.node)

    def asks(self) -> Any:
        """A request for the next message."""
        return fleet_pb2.PullMessagesRequest(node=self.me())

    async def take(self, hold: float = 0.0, had: str | None = None, body: Body | None = None) -> Any:
        """The next message with its record; None if there is none; the status where it is refused."""
        headers = (
            self.signed() | {"x-palate-hold": str(hold)} | ({} if had is None else {"x-palate-had": had})
        )
        data = join_frames([self.asks().SerializeToString()])
        answer = await call(self.front, "/v1/palate/take", body or data, headers)
        if answer.status != 200:
            return answer.status
        head, content = split_frames(answer.body)
        found = fleet_pb2.PullMessagesResponse.FromString(head)
        if not found.messages_list:
            return None
        message = message_from_proto(found.messages_list[0])
        message.content = RecordDict({"palate": ConfigRecord.inflate(content)})
        return message

    def reply(
        self, message: Message, wire: bytes = b"answer", *, node: int | None = None
    ) -> tuple[Any, list[bytes]]:
        """A push of a reply, and its parts, the message first."""
        return self.pushed(self.replying(message, wire), node=node)

    def replying(self, message: Message, wire: bytes | None) -> Message:
        """The reply itself; without bytes one that says that the device failed."""
        if wire is None:
            return Message(Error(code=0, reason="the device failed"), reply_to=message)
        return Message(RecordDict({"palate": ConfigRecord({"wire": wire})}), reply_to=message)

    def pushed(self, reply: Message, *, node: int | None = None) -> tuple[Any, list[bytes]]:
        """Any message as a push, and its parts, the message first."""
        with objects.no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree = objects.get_object_tree(reply)
            names = [one.object_id for one in objects.iterate_object_tree(tree)][::-1]
            parts = {name: part.deflate() for name, part in objects.get_all_nested_objects(reply).items()}
        bare = remove_content_from_message(reply) if reply.has_content() else reply
        request = fleet_pb2.PushMessagesRequest(
            node=node_pb2.Node(node_id=self.node if node is None else node),
            messages_list=[message_to_proto(bare)],
            message_object_trees=[tree],
            clientapp_runtime_list=[0.0],
        )
        return request, [parts[name] for name in names]

    async def give(self, message: Message, wire: bytes | None = b"answer") -> int:
        """Answer a message; the status."""
        request, parts = self.pushed(self.replying(message, wire))
        return await self.give_parts(request, parts)

    async def give_parts(self, request: Any, parts: list[bytes]) -> int:
        data = join_frames([request.SerializeToString(), *parts])
        return (await call(self.front, "/v1/palate/give", data, self.signed())).status


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def opened(admitted: dict[bytes, str] | None = None) -> tuple[SuperLink, Front]:
    """A front with a run at work."""
    link = SuperLink(admitted)
    link.start_run("{}")
    return link, Front(link)
