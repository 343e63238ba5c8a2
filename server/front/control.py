"""The server's own socket: what its owner and its round loop say to it, and nobody else can.

Where it stands in the flow: `palate server run`, `stop` and `status` call it through `processes`, the round
loop through `round_process`; `serve` opens it as a Unix socket in the server's folder that only the folder's
owner may open. It has no way to hand over code: a run is started with settings, and what it runs is
installed.

    POST /status                              {"run": number or null, "state": "idle", "running" or how the
                                              last run ended}
    POST /start     settings of a run         {"run": number}
    POST /stop                                {"stopped": whether a run was at work}
    POST /admit                               reads the file of admitted keys anew
    POST /connected                           {"nodes": [...]}
    POST /ask       head, wires               {"questions": {id: node}}; the head is {"round", "seconds",
                                              "nodes": [[node, wire], ...]}
    POST /replies   {"seconds": how long}     head, wires; the head is {"replies": [[question, wire or null,
                                              reason], ...]}

Bodies are JSON; with wires they are frames (`shared.frames`); the first is JSON that names the others
by place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from palate.server.aggregation import Reply
from palate.shared.errors import FederationError
from palate.shared.frames import join_frames, split_frames

if TYPE_CHECKING:
    import httpx

    from palate.server.front.port import Receive, Scope, Send
    from palate.server.front.superlink import SuperLink

REPLY_SECONDS: Final = 1.0  # how long an answer of /replies may wait for the first reply
GATHER_SECONDS: Final = 0.01  # after the first it waits a little, since more come at once
LOOK_SECONDS: Final = 1.0  # how often is looked for devices that are gone
CALL_SECONDS: Final = 300.0  # a server that is gone is noticed at once; a busy one may take long
SOCKET_NAME: Final = "control.sock"


@dataclass
class Control:
    """The ASGI application behind the server's own socket."""

    link: SuperLink
    start: Callable[[str], Awaitable[int]]
    stop: Callable[[], Awaitable[bool]]
    state: Callable[[], dict[str, Any]]
    admit: Callable[[], None]
    _answered: asyncio.Event = field(default_factory=asyncio.Event)
    _looked: float = 0.0

    def __post_init__(self) -> None:
        """Be told of answers."""
        self.link.on_reply = self._answered.set

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        try:
            status, answer = 200, await self._answer(scope["path"], body)
        except Exception as error:  # noqa: BLE001 - who asks is the owner, who is told what went wrong
            status, answer = 400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-length", str(len(answer)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, path: str, body: bytes) -> bytes:
        if path == "/ask":
            return self._ask(body)
        if path == "/replies":
            return await self._replies(json.loads(body))
        found: dict[str, Any]
        if path == "/connected":
            found = {"nodes": self.link.connected()}
        elif path == "/status":
            found = self.state()
        elif path == "/start":
            found = {"run": str(await self.start(body.decode()))}
        elif path == "/stop":
            found = {"stopped": await self.stop()}
        elif path == "/admit":
            self.admit()
            found = {}
        else:
            raise ValueError(f"there is no {path}")
        return json.dumps(found).encode()

    def _ask(self, body: bytes) -> bytes:
        head, *wires = split_frames(body)
        asked = json.loads(head)
        questions = self.link.ask(
            {node: wires[place] for node, place in asked["nodes"]}, asked["round"], asked["seconds"]
        )
        return json.dumps({"questions": questions}).encode()

    async def _replies(self, asked: Mapping[str, Any]) -> bytes:
        loop = asyncio.get_running_loop()
        seconds = min(float(asked["seconds"]), REPLY_SECONDS)
        if not self.link.ready() and seconds > 0:
            self._answered.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._answered.wait()
                await asyncio.sleep(GATHER_SECONDS)
            except TimeoutError:
                pass
        look = loop.time() - self._looked >= LOOK_SECONDS
        if look:
            self._looked = loop.time()
        replies: list[list[Any]] = []
        wires: list[bytes] = []
        for reply in self.link.replies(all_of_them=look):
            replies.append([reply.question, None if reply.wire is None else len(wires), reply.reason])
            if reply.wire is not None:
                wires.append(reply.wire)
        return join_frames([json.dumps({"replies": replies}).encode(), *wires])


class ControlClient:
    """The other end of the socket.

    Every call raises FederationError when nobody answers or the answer is an error.
    """

    def __init__(self, path: Path, gone: Callable[[], None] = lambda: None) -> None:
        """Prepare a connection to the server whose socket lies there.

        `gone` is called first where it does not answer.
        """
        import httpx

        self._gone = gone
        self._client: httpx.Client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server", timeout=CALL_SECONDS
        )

    def call(self, name: str, body: bytes = b"") -> bytes:
        """Make one call."""
        import httpx

        try:
            answer = self._client.post(f"/{name}", content=body)
        except httpx.TransportError:
            self._gone()
            raise FederationError("the server does not answer; see palate server status") from None
        if answer.status_code != 200:
            try:
                why = str(answer.json()["error"])
            except (ValueError, KeyError, TypeError):
                why = f"status {answer.status_code}"
            raise FederationError(f"the server refused: {why[:300]}")
        return answer.content

    def ask_json(self, name: str, body: bytes = b"") -> dict[str, Any]:
        """Make a call that answers with a JSON object."""
        found: dict[str, Any] = json.loads(self.call(name, body))
        return found

    def close(self) -> None:
        """End the connection."""
        self._client.close()


class ControlDevices:
    """The connected devices, as the round loop sees them: `exchange.Devices` over the server's own socket."""

    def __init__(self, client: ControlClient) -> None:
        """Reach them by this client."""
        self._client = client

    def connected(self) -> Sequence[int]:
        """Return the numbers of the devices that are connected now."""
        return list(self._client.ask_json("connected")["nodes"])

    def ask(self, wires: Mapping[int, bytes], round: int, seconds: float) -> Mapping[str, int]:  # noqa: A002
        """Send each device its bytes, to be forgotten after `seconds`.

        Return question ids with the devices they went to.
        """
        places = {wire: place for place, wire in enumerate(dict.fromkeys(wires.values()))}
        nodes = [[node, places[wire]] for node, wire in wires.items()]
        head = json.dumps({"round": round, "seconds": seconds, "nodes": nodes}).encode()
        found = json.loads(self._client.call("ask", join_frames([head, *places])))
        return {str(question): int(node) for question, node in found["questions"].items()}

    def replies(self, questions: Collection[str]) -> Iterable[Reply]:
        """Return the replies that are there by now; waits a little for the first."""
        body = json.dumps({"seconds": REPLY_SECONDS if questions else 0}).encode()
        head, *wires = split_frames(self._client.call("replies", body))
        for question, place, reason in json.loads(head)["replies"]:
            yield Reply(question, None if place is None else wires[place], reason)
