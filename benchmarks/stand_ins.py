"""A server alone under thousands of devices.

Stand-ins with real keys, messages, hashes and sizes, which neither train nor mask.

    python -m benchmarks.stand_ins [--devices 1000] [--rounds 3]

What a server can serve cannot be seen with devices that compute on the same machine. A stand-in keeps one
connection, takes a task, checks that its bytes are those of the hash it is named by, and gives random bytes
as long as the answer to it would be. A round is four exchanges with the sizes of a masked round; this program
asks them through the server's own socket, as the process that runs the rounds does, while a run waits for
more devices than there will be. The first round does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.processor import processor_seconds
from benchmarks.rows import Row, print_rows
from palate.client.federation.fleet import RECORD, WIRE
from palate.server.front.control import ControlClient, ControlDevices
from palate.server.rounds.exchange import Exchange, Patience
from palate.server.rounds.run import read_note
from palate.shared.frames import join_frames, split_frames
from palate.simulations.federation_demo.processes import Stage, free_port

COMMAND = "python -m benchmarks.stand_ins"
ROOT = Path(__file__).parent.parent

CROWDS = ((1_000, 60.0), (3_000, 120.0))
"""Stand-ins, and the seconds that a round may take."""

DOWN, UP = (6_000, 25_000, 5_000, 7_000), (200, 5_000, 9_000, 3_000)
"""Bytes of the four exchanges, for each device: those of a masked round of a hundred."""

SAME_FOR_ALL = (True, True, False, True)  # a delivery is for one device
JOIN_SECONDS, ANSWER_SECONDS = 300.0, 240.0
HOLD, BEAT_SECONDS = b"25", 300.0
PROCESSES = 2


def run(quick: bool = False, rounds: int = 3) -> list[Row]:
    """Measures a round for each size of crowd."""
    return [run_crowd(*crowd, 2 if quick else rounds) for crowd in ([(50, 60.0)] if quick else CROWDS)]


def run_crowd(devices: int, bar: float, rounds: int) -> Row:
    """Round of so many stand-ins; raises FederationError when the server does not hold them."""
    with tempfile.TemporaryDirectory(prefix="palate-stand-ins-") as place, Stage(Path(place)) as stage:
        port = free_port()
        stage.serve("start", "--port", str(port))
        server = int(read_note(stage.server.home / "server.json")["pid"])
        socket = Path(read_note(stage.server.home / "server.json")["socket"])
        # A run must be at work for anybody to be asked; it waits for one device more, and asks nothing
        # itself.
        waiting = ("--wait", "36000", "--devices", str(devices + 1), "--quorum", str(devices + 1))
        stage.serve("run", "--detach", "--unmasked", *waiting)
        shares = [len(range(part, devices, PROCESSES)) for part in range(PROCESSES)]
        crowd = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.stand_ins", "--be", str(count), f"127.0.0.1:{port}"],
                cwd=ROOT, stdin=subprocess.PIPE,
            )
            for count in shares
        ]  # fmt: skip
        try:
            with contextlib.closing(ControlClient(socket)) as client:
                link = ControlDevices(client)
                stage.until("all stand-ins are there", lambda: len(link.connected()) == devices, JOIN_SECONDS)
                nodes, took, whole, used = link.connected(), [], [], 0.0
                for number in range(1, rounds + 1):
                    before, began = processor_seconds(server), time.monotonic()
                    whole.append(one_round(link, nodes, number))
                    if number > 1:
                        took.append(time.monotonic() - began)
                        used += processor_seconds(server) - before
        finally:
            for one in crowd:
                one.communicate()
    middle = statistics.median(took)
    extra: dict[str, Any] = {
        "seconds": [round(one, 2) for one in took], "answers": whole, "load": round(os.getloadavg()[0], 1),
        "server_processor_seconds_for_a_device_and_round": round(used / len(took) / devices, 4),
    }  # fmt: skip
    answered = all(count == devices for answers in whole for count in answers)
    return Row(
        f"round of {devices:,} stand-ins, seconds", round(middle, 2), f"at most {bar:g}, all answered",
        answered and middle <= bar, f"{COMMAND} --devices {devices}", extra,
    )  # fmt: skip


def one_round(link: ControlDevices, nodes: Sequence[int], number: int) -> list[int]:
    """Asks the four exchanges of a round and returns how many answered each in full."""
    exchange, answered = Exchange(link, number, Patience(poll_seconds=0.0)), []
    for kind, size in enumerate(DOWN):
        same = bytes([kind]) + secrets.token_bytes(size)
        wires: Mapping[int, bytes] = {
            node: same if SAME_FOR_ALL[kind] else bytes([kind]) + secrets.token_bytes(size) for node in nodes
        }
        answers = exchange.ask(wires, ANSWER_SECONDS)
        answered.append(sum(len(answer) == UP[kind] for answer in answers.values()))
    return answered


# --- the stand-ins ------------------------------------------------------------------------------------------


def be_stand_ins(count: int, address: str) -> None:
    """Run so many stand-ins on one loop until stdin is closed or one fails: what `run_crowd` starts."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def all_of_them() -> None:
        tasks: list[asyncio.Future[Any]] = [asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)]
        for _ in range(count):
            tasks.append(asyncio.create_task(StandIn(address).live()))
            await asyncio.sleep(0.002)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            if (error := one.exception()) is not None:
                print(f"a stand-in ended: {error!r}", file=sys.stderr, flush=True)
        os._exit(0)  # the thread that reads stdin would be waited for

    asyncio.run(all_of_them())


class StandIn:
    """One stand-in: a key, a connection, and what it says."""

    def __init__(self, address: str) -> None:
        """Make a key and sign the time with it, once: a server takes a signature for five minutes."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._host, _, self._port = address.rpartition(":")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._sign = lambda stamp: self._key.sign(stamp, ec.ECDSA(hashes.SHA256()))
        self._signed_at, self._head = 0.0, b""
        self._had = ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def live(self) -> None:
        """Register, then take tasks and give answers without end."""
        from flwr.common.serde import message_from_proto
        from flwr.proto import fleet_pb2, node_pb2

        register = fleet_pb2.RegisterNodeFleetRequest(public_key=self._public)
        await self._call("fleet/register-node", register.SerializeToString())
        activate = fleet_pb2.ActivateNodeRequest(public_key=self._public, heartbeat_interval=BEAT_SECONDS)
        entered = await self._call("fleet/activate-node", activate.SerializeToString())
        node = node_pb2.Node(node_id=fleet_pb2.ActivateNodeResponse.FromString(entered).node_id)
        take = join_frames([fleet_pb2.PullMessagesRequest(node=node).SerializeToString()])
        while True:
            first, *rest = split_frames(await self._call("palate/take", take))
            answer = fleet_pb2.PullMessagesResponse.FromString(first)
            if answer.messages_list:
                message = message_from_proto(answer.messages_list[0])
                self._had = message.metadata.message_id
                wire = _wire_of(answer.message_object_trees[0], rest[0])
                await self._call("palate/give", _reply(node, message, secrets.token_bytes(UP[wire[0]])))

    async def _call(self, path: str, body: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        writer.write(
            b"POST /v1/%s HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\nx-palate-hold: %s\r\n"
            b"x-palate-had: %s\r\n%scontent-length: %d\r\n\r\n"
            % (path.encode(), HOLD, self._had.encode(), self._headers(), len(body))
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        size = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        content = await reader.readexactly(size)
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"{path}: {head[:30]!r}")
        return content

    def _headers(self) -> bytes:
        if time.monotonic() - self._signed_at > 240.0 or not self._head:
            stamp = datetime.now(UTC).isoformat().encode()
            key, signature = base64.b64encode(self._public), base64.b64encode(self._sign(stamp))
            self._head = b"flwr-public-key: %s\r\nflwr-timestamp: %s\r\nflwr-signature: %s\r\n" % (
                key,
                stamp,
                signature,
            )
            self._signed_at = time.monotonic()
        return self._head


def _wire_of(tree: Any, record: bytes) -> bytes:
    """Return the bytes of a task, whose record must be the one that the tree names; raises RuntimeError."""
    from flwr.app import ConfigRecord
    from flwr.supercore.inflatable import inflatable_object

    named = next(iter(inflatable_object.iterate_object_tree(tree))).object_id
    if inflatable_object.get_object_id(record) != named:
        raise RuntimeError("a task is not what its hash says")
    wire = ConfigRecord.inflate(record)[WIRE]
    if not isinstance(wire, bytes):
        raise RuntimeError("a task holds no bytes")
    return wire


def _reply(node: Any, message: Any, wire: bytes) -> bytes:
    """Return the body of a call that gives an answer."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.common.serde import message_to_proto
    from flwr.proto import fleet_pb2
    from flwr.supercore.inflatable import inflatable_object

    message.content = RecordDict({RECORD: ConfigRecord({WIRE: b""})})
    reply = Message(RecordDict({RECORD: ConfigRecord({WIRE: wire})}), reply_to=message)
    with inflatable_object.no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        tree = inflatable_object.get_object_tree(reply)
        names = [one.object_id for one in inflatable_object.iterate_object_tree(tree)]
        objects = inflatable_object.get_all_nested_objects(reply)
        parts = {name: part.deflate() for name, part in objects.items()}
    asked = fleet_pb2.PushMessagesRequest(
        node=node,
        messages_list=[message_to_proto(remove_content_from_message(reply))],
        message_object_trees=[tree],
        clientapp_runtime_list=[0.0],
    )
    return join_frames([asked.SerializeToString(), *(parts[name] for name in reversed(names))])


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--devices", type=int, help="measure so many stand-ins alone")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--be", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.be is not None:
        be_stand_ins(int(a.be[0]), a.be[1])
    elif a.devices is not None:
        print_rows([run_crowd(a.devices, 60.0 if a.devices <= 1_000 else 120.0, a.rounds)])
    else:
        print_rows(run(rounds=a.rounds))


if __name__ == "__main__":
    main()
