"""The long-lived node, against a Fleet API of a few lines that can misbehave in every way needed."""

import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("flwr")

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.task_identity import TaskIdentity

from palate.client import app as node
from palate.client.app import Fleet, NotTakenError, run_node
from palate.client.joining import Participant
from palate.client.server_address import Server
from palate.shared.bundle import known_hashes
from palate.shared.errors import FederationError, OptionError
from palate.shared.reasons import Reason

NEEDLE = "Grandmother Ottilie"
RUN = 77


def message(wire: bytes = b"task", *, kind: str = "train", content: RecordDict | None = None) -> Message:
    """A message as a server's strategy makes it."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1
    record = RecordDict({"palate": ConfigRecord({"wire": wire})}) if content is None else content
    return Message(record, 5, kind, ttl=60)


class Echo:
    """A participant that answers with the task's bytes reversed, or fails as it is told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure, self.seen = failure, list[bytes]()

    def take_part(self, task: bytes, send: Callable[[bytes], None]) -> None:
        self.seen.append(task)
        if self.failure is not None:
            raise self.failure
        send(task[::-1])


# --- a Fleet API of a few lines -----------------------------------------------------------------------------------


class SuperLink:
    """As much of Flower's Fleet API as a node uses; `odd` replaces the answer to one call: a status, or bytes."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, int] = {}
        self.online: set[int] = set()
        self.waiting: list[Message] = []
        self.replies: list[Message] = []
        self.calls: list[str] = []
        self.runtimes: list[float] = []
        self.objects: dict[str, bytes] = {}
        self.late: dict[str, int] = {}  # how often a part is asked for before it is here
        self.odd: dict[str, int | bytes] = {}
        self.fab_hash = min(known_hashes())
        self.tree: message_pb2.ObjectTree | None = None
        self._serve(0)

    def _serve(self, port: int) -> None:
        link = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                name = self.path.rpartition("/")[2]
                link.calls.append(name)
                odd = link.odd.get(name)
                status, data = (odd, b"") if isinstance(odd, int) else (200, odd)
                if data is None:
                    answer = getattr(link, name.replace("-", "_"))(body)
                    status, data = (
                        (answer, b"") if isinstance(answer, int) else (200, answer.SerializeToString())
                    )
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a node that hangs up on an answer that is too large

        self._http = Quiet(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def restart(self, *, forget: bool) -> None:
        if forget:
            self.nodes.clear()
            self.online.clear()
        self._serve(int(self.address.rpartition(":")[2]))

    def ask(self, asked: Message) -> None:
        asked.metadata.__dict__["_message_id"] = asked.object_id
        for name, part in inflatable_object.get_all_nested_objects(asked).items():
            self.objects[name] = part.deflate()
        self.waiting.append(asked)

    def register_node(self, body: bytes) -> Any:
        key = fleet_pb2.RegisterNodeFleetRequest.FromString(body).public_key
        if key in self.nodes:
            return 412
        self.nodes[key] = 1000 + len(self.calls)
        return fleet_pb2.RegisterNodeFleetResponse(node_id=self.nodes[key])

    def activate_node(self, body: bytes) -> Any:
        number = self.nodes.get(fleet_pb2.ActivateNodeRequest.FromString(body).public_key)
        if number is None or number in self.online:  # as Flower does
            return 412
        self.online.add(number)
        return fleet_pb2.ActivateNodeResponse(node_id=number)

    def deactivate_node(self, body: bytes) -> Any:
        self.online.discard(fleet_pb2.DeactivateNodeRequest.FromString(body).node_id)
        return fleet_pb2.DeactivateNodeResponse()

    def unregister_node(self, body: bytes) -> Any:
        gone = fleet_pb2.UnregisterNodeFleetRequest.FromString(body).node_id
        self.nodes = {key: number for key, number in self.nodes.items() if number != gone}
        return fleet_pb2.UnregisterNodeFleetResponse()

    def send_node_heartbeat(self, body: bytes) -> Any:
        if heartbeat_pb2.SendNodeHeartbeatRequest.FromString(body).node.node_id not in self.nodes.values():
            return 401
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)

    def pull_messages(self, body: bytes) -> Any:
        if fleet_pb2.PullMessagesRequest.FromString(body).node.node_id not in self.nodes.values():
            return 401
        if not self.waiting:
            return fleet_pb2.PullMessagesResponse()
        asked = self.waiting.pop(0)
        tree = self.tree or inflatable_object.get_object_tree(asked)
        bare = message_to_proto(Message(RecordDict(), metadata=asked.metadata))
        return fleet_pb2.PullMessagesResponse(messages_list=[bare], message_object_trees=[tree])

    def get_run(self, body: bytes) -> Any:
        asked = run_pb2.GetRunRequest.FromString(body)
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=asked.run_id, fab_hash=self.fab_hash))

    def pull_object(self, body: bytes) -> Any:
        name = message_pb2.PullObjectRequest.FromString(body).object_id
        content, late = self.objects.get(name), self.late.get(name, 0)
        self.late[name] = late - 1
        found, here = content is not None, content is not None and late <= 0
        return message_pb2.PullObjectResponse(
            object_found=found, object_available=here, object_content=(content or b"") if here else b""
        )

    def confirm_message_received(self, body: bytes) -> Any:
        return message_pb2.ConfirmMessageReceivedResponse()

    def push_messages(self, body: bytes) -> Any:
        asked = fleet_pb2.PushMessagesRequest.FromString(body)
        self.runtimes += asked.clientapp_runtime_list
        self._reply = message_from_proto(asked.messages_list[0])
        self._root = asked.message_object_trees[0].object_id
        if self._reply.has_error():
            self.replies.append(self._reply)
        parts = inflatable_object.iterate_object_tree(asked.message_object_trees[0])
        self._names = [part.object_id for part in parts]  # the record first
        return fleet_pb2.PushMessagesResponse(objects_to_push=self._names, session_id="s")

    def push_object(self, body: bytes) -> Any:
        asked = message_pb2.PushObjectRequest.FromString(body)
        self.objects[asked.object_id] = asked.object_content
        if asked.object_id == self._names[0] and not self._reply.has_error():  # it must come last
            whole = inflatable_utils.inflate_object_from_contents(
                self._root, self.objects, keep_object_contents=True
            )
            assert isinstance(whole, Message)
            self.replies.append(whole)
        return message_pb2.PushObjectResponse(stored=True)


@pytest.fixture
def link() -> Iterator[SuperLink]:
    made = SuperLink()
    try:
        yield made
    finally:
        made.stop()


class Watch:
    """Runs a node until nothing is left to do, and keeps what it says."""

    def __init__(self, link: SuperLink) -> None:
        self.link, self.lines, self.waits = link, list[str](), list[float]()
        self.events: list[Callable[[], None]] = []

    def run(self, participant: Participant, **options: Any) -> list[str]:
        def wait(seconds: float) -> None:
            self.waits.append(seconds)
            if self.events:
                self.events.pop(0)()

        server = Server(self.link.address, insecure=True)
        keep_on = lambda: bool(self.link.waiting or self.events)  # noqa: E731
        run_node(participant, server, tell=self.lines.append, keep_on=keep_on, wait=wait, **options)
        return self.lines


@pytest.fixture
def watch(link: SuperLink, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(node, "GLITCH_SECONDS", (0.01,))
    return Watch(link)


# --- the node -----------------------------------------------------------------------------------------------------


def test_a_node_answers_and_says_goodbye(link: SuperLink, watch: Watch) -> None:
    link.ask(message(b"abc"))
    link.ask(message(b"xyz"))
    lines = watch.run(Echo())
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba", b"zyx"]
    assert lines == [f"joined {link.address}; waiting for rounds (Ctrl-C or `palate leave` ends it)"]
    assert link.calls[-2:] == ["deactivate-node", "unregister-node"]
    assert link.calls.count("get-run") == 1


def test_a_node_tells_nothing_by_how_long_it_trained(link: SuperLink, watch: Watch) -> None:
    link.ask(message())
    watch.run(Echo())
    assert link.runtimes == [0.0]


def test_a_run_with_another_bundle_is_refused_and_neither_it_nor_its_tasks_are_fetched(
    link: SuperLink, watch: Watch
) -> None:
    link.fab_hash = "0" * 64
    link.ask(message())
    link.ask(message())
    echo = Echo()
    lines = watch.run(echo)
    assert [reply.error.reason for reply in link.replies] == [Reason.UNKNOWN_BUNDLE.value] * 2
    assert not {"get-fab", "pull-object"} & set(link.calls)
    assert echo.seen == []
    assert lines[1:] == [f"declined run {RUN}: {Reason.UNKNOWN_BUNDLE.value}; nothing of it was fetched"]


def test_no_bundle_is_fetched_of_a_run_that_is_known_either(link: SuperLink, watch: Watch) -> None:
    link.ask(message())
    watch.run(Echo())
    assert link.replies[0].has_content()
    assert "get-fab" not in link.calls
    assert not hasattr(Fleet, "get_fab")


def test_other_kinds_of_message_are_not_answered(link: SuperLink, watch: Watch) -> None:
    for kind in ("query", "evaluate", "train.personalize"):
        link.ask(message(kind=kind))
    watch.run(Echo())
    assert {reply.error.reason for reply in link.replies} == {Reason.UNKNOWN_MESSAGE.value}
    assert "pull-object" not in link.calls


def test_exceptions_reach_neither_the_wire_nor_the_lines(
    link: SuperLink, watch: Watch, capfd: pytest.CaptureFixture[str]
) -> None:
    link.ask(message())
    lines = watch.run(Echo(RuntimeError(NEEDLE)))
    assert link.replies[0].error.reason == Reason.FAILED.value
    assert NEEDLE not in "".join(lines) + "".join(capfd.readouterr())
    assert lines[1:] == [f"declined a task: {Reason.FAILED.value}"]


def test_a_message_of_a_thousand_parts_is_declined_before_any_is_fetched(
    link: SuperLink, watch: Watch
) -> None:
    asked = message()
    link.ask(asked)
    part = message_pb2.ObjectTree(object_id="0" * 64)
    link.tree = message_pb2.ObjectTree(object_id=asked.object_id, children=[part] * 1000)
    watch.run(Echo())
    assert link.replies[0].error.reason == Reason.UNREADABLE_TASK.value
    assert "pull-object" not in link.calls


def test_parts_that_are_garbage_or_of_another_type_are_declined(link: SuperLink, watch: Watch) -> None:
    link.ask(message())
    name = next(name for name, part in link.objects.items() if part.startswith(b"ConfigRecord"))
    for content in (b"garbage", link.objects[name] + b"\xff", link.objects[name][:-3] + b"\xff\xff\xff"):
        link.objects[name] = content
        link.waiting[:] = link.waiting or [message()]
        link.waiting[0].metadata.__dict__["_message_id"] = link.waiting[0].object_id
        watch.run(Echo())
    link.ask(message(content=RecordDict({"palate": MetricRecord({"wire": 1})})))
    watch.run(Echo())
    assert {reply.error.reason for reply in link.replies} == {Reason.UNREADABLE_TASK.value}


@pytest.mark.parametrize(
    ("late", "seconds", "answers"), [(3, 60.0, [b"cba", b"zyx"]), (10**6, 0.05, [b"zyx"])]
)
def test_parts_that_are_still_being_uploaded_are_waited_for_but_not_for_ever(
    link: SuperLink, watch: Watch, monkeypatch: Any, late: int, seconds: float, answers: list[bytes]
) -> None:
    monkeypatch.setattr(node, "UPLOAD_SECONDS", seconds)
    monkeypatch.setattr(node, "UPLOAD_POLL_SECONDS", 0.001)
    link.ask(message(b"abc"))
    link.late = dict.fromkeys(link.objects, late)
    link.ask(message(b"xyz"))
    assert watch.run(Echo())[1:] == ["a round was over before it was answered"] * (2 - len(answers))
    assert [reply.content["palate"]["wire"] for reply in link.replies] == answers
    assert link.calls.count("confirm-message-received") == len(answers)


def test_a_round_that_is_over_is_left_alone(link: SuperLink, watch: Watch) -> None:
    link.ask(message())
    link.odd["get-run"] = 403
    lines = watch.run(Echo())
    assert lines[1:] == ["a round was over before it was answered"]
    assert link.replies == []


@pytest.mark.parametrize("forget", [False, True])
def test_a_node_survives_a_restart_of_the_server_and_goes_on(
    link: SuperLink, watch: Watch, forget: bool
) -> None:
    """With its memory, the server knows the node again; without, the node enters anew."""

    def restart() -> None:
        link.restart(forget=forget)
        link.ask(message(b"abc"))

    watch.events += [link.stop, lambda: None, restart, lambda: None, lambda: None]
    lines = watch.run(Echo())
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]
    assert lines[1:] == [
        f"{link.address} cannot be reached (nothing listens there); looking for it until it is back",
        f"found {link.address} again; waiting for rounds",
    ]


def test_a_server_that_forgot_the_node_is_entered_again_under_a_fresh_key(
    link: SuperLink, watch: Watch
) -> None:
    seen: list[set[bytes]] = []
    watch.events += [
        lambda: seen.append(set(link.nodes)) or link.nodes.clear(),
        lambda: link.ask(message(b"abc")),
        lambda: seen.append(set(link.nodes)),
    ]
    watch.run(Echo())
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]
    assert watch.lines[-1] == f"found {link.address} again; waiting for rounds"
    assert not seen[0] & seen[1]


def test_an_unreachable_server_is_one_clear_line(link: SuperLink, watch: Watch) -> None:
    link.stop()
    try:
        with pytest.raises(FederationError, match=r"cannot be reached \(nothing listens there\)"):
            watch.run(Echo())
    finally:
        link.restart(forget=True)
    assert watch.lines == []


@pytest.mark.parametrize(
    ("call", "odd", "said"),
    [
        ("register-node", 412, "takes only devices whose key it knows"),
        ("activate-node", b"garbage that is no protobuf", "is not a server of this federation"),
        ("register-node", 404, "answers with the HTTP status 404"),
        ("register-node", 307, "answers with the HTTP status 307"),
        ("register-node", b"x" * 5_000_000, "is not a server of this federation"),
    ],
)
def test_a_server_that_is_none_or_refuses_is_one_clear_line(
    link: SuperLink, watch: Watch, call: str, odd: int | bytes, said: str
) -> None:
    link.odd[call] = odd
    with pytest.raises(FederationError, match=said) as caught:
        watch.run(Echo())
    assert "\n" not in str(caught.value)


def connect_with(key: ec.EllipticCurvePrivateKey, link: SuperLink, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that asks for keys, without the TLS that keys go with."""
    monkeypatch.setattr(Server, "__post_init__", lambda self: None)
    link.odd |= {"register-node": 412, "unregister-node": 412}
    return Server(link.address, insecure=True, key=key)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return node.public_key_to_bytes(key.public_key())


def test_a_registered_device_waits_until_its_killed_process_is_given_up(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    server = connect_with(key, link, monkeypatch)
    link.nodes[pem(key)] = 5
    link.online.add(5)  # of the process that was killed
    link.ask(message(b"abc"))
    waits, lines = list[float](), list[str]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) >= 20:
            link.online.clear()

    run_node(Echo(), server, tell=lines.append, keep_on=lambda: bool(link.waiting), wait=wait)
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]
    assert lines[0] == "the server does not take this device's key yet; trying for half a minute"
    assert lines[1].startswith("joined")
    assert link.nodes == {pem(key): 5}  # a registered device stays registered


@pytest.mark.parametrize("at_once", [True, False])
def test_a_key_that_is_not_registered_or_no_longer_ends_the_node(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    server = connect_with(key, link, monkeypatch)
    if not at_once:
        link.nodes[pem(key)] = 5
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        link.nodes.clear()

    with pytest.raises(NotTakenError, match="does not take this device's key; have it registered"):
        run_node(Echo(), server, tell=lambda _: None, wait=wait)
    assert 20 < sum(waits) < 30


@pytest.mark.parametrize(
    ("name", "value"), [("POLL_SECONDS", ((0.0, 0.05), (0.0, 0.2), (math.inf, 1.0))), ("LEISURE", 1e9)]
)
def test_an_idle_node_asks_less_often_and_so_does_that_of_a_slow_server(
    link: SuperLink, watch: Watch, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr(node, "LEISURE", 0.0)
    watch.events += [lambda: None, lambda: monkeypatch.setattr(node, name, value), lambda: None]
    watch.run(Echo())
    assert watch.waits == [0.05, 0.05, 1.0]


def test_a_proxy_of_the_environment_is_not_used_without_encryption(
    link: SuperLink, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    link.ask(message(b"abc"))
    watch.run(Echo())
    assert len(link.replies) == 1


def test_a_heartbeat_that_fails_is_no_trouble(
    link: SuperLink, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "HEARTBEAT_SECONDS", 0.02)
    link.odd["send-node-heartbeat"] = 401
    beaten = threading.Event()
    watch.events += [lambda: beaten.wait(0.3) or None, lambda: link.ask(message(b"abc")), lambda: None]
    watch.run(Echo())
    assert len(link.replies) == 1
    assert link.calls.count("send-node-heartbeat") >= 2


def test_a_key_without_encryption_is_refused() -> None:
    with pytest.raises(OptionError, match="--insecure goes neither"):
        Server("127.0.0.1:1", insecure=True, key=ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(OptionError, match="no PEM certificates"):
        Server("127.0.0.1:1", root_certificates="nothing of the kind")


def test_tls_with_a_server_that_speaks_none_is_one_clear_line(link: SuperLink) -> None:
    with pytest.raises(FederationError, match="does not speak TLS"):
        run_node(Echo(), Server(link.address), tell=lambda _: None)
