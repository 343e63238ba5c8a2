"""The long-lived node, against a server of a few lines that can misbehave in every way needed."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("flwr")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import MetricRecord, RecordDict
from flwr.proto import heartbeat_pb2, message_pb2

from palate.client.federation import fleet
from palate.client.federation.app import PAUSE_SECONDS, run_node
from palate.client.federation.fleet import Fleet, NotTakenError
from palate.client.federation.server_address import Server
from palate.shared.errors import FederationError, OptionError
from palate.shared.frames import join_frames
from palate.shared.reasons import DeclineReason
from tests.client.federation.fake_superlink import RUN, Echo, FakeSuperLink, Odd, Watch, message

NEEDLE = "Grandmother Ottilie"


@pytest.fixture
def watch(link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(fleet, "GLITCH_SECONDS", (0.01,))
    return Watch(link)


# --- rounds -------------------------------------------------------------------------------------------------


def test_a_node_answers_and_says_goodbye(link: FakeSuperLink, watch: Watch) -> None:
    link.ask(message(b"abc"))
    link.ask(message(b"xyz"))
    lines = watch.run(Echo())
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba", b"zyx"]
    assert lines == [f"joined {link.address}; waiting for rounds (Ctrl-C or `palate leave` ends it)"]
    assert link.calls[-2:] == ["deactivate-node", "unregister-node"]
    assert link.calls.count("get-run") == 1


def test_a_task_takes_two_calls_and_no_heartbeat(link: FakeSuperLink, watch: Watch) -> None:
    for number in range(5):
        link.ask(message(b"task %d" % number))
    watch.run(Echo())
    assert link.calls[2:-2] == ["take", "get-run", "give", *["take", "give"] * 4]


def test_a_node_tells_nothing_by_how_long_it_trained(link: FakeSuperLink, watch: Watch) -> None:
    link.ask(message())
    watch.run(Echo())
    assert link.runtimes == [0.0]


def test_a_run_with_another_bundle_is_refused_and_neither_is_it_fetched_nor_are_its_tasks_read(
    link: FakeSuperLink, watch: Watch
) -> None:
    link.fab_hash = "0" * 64
    link.ask(message())
    link.ask(message())
    echo = Echo()
    lines = watch.run(echo)
    assert [reply.error.reason for reply in link.replies] == [DeclineReason.UNKNOWN_BUNDLE.value] * 2
    assert "get-fab" not in link.calls
    assert echo.seen == []
    assert lines[1:] == [
        f"declined run {RUN}: {DeclineReason.UNKNOWN_BUNDLE.value}; its task was not read, and nothing of "
        "the bundle was fetched"
    ]


def test_no_bundle_is_fetched_of_a_run_that_is_known_either(link: FakeSuperLink, watch: Watch) -> None:
    link.ask(message())
    watch.run(Echo())
    assert link.replies[0].has_content()
    assert "get-fab" not in link.calls
    assert not hasattr(Fleet, "get_fab")


def test_other_kinds_of_message_are_not_answered(link: FakeSuperLink, watch: Watch) -> None:
    for kind in ("query", "evaluate", "train.personalize"):
        link.ask(message(kind=kind))
    echo = Echo()
    watch.run(echo)
    assert [reply.error.reason for reply in link.replies] == [DeclineReason.UNKNOWN_MESSAGE.value] * 3
    assert echo.seen == []


def test_exceptions_reach_neither_the_wire_nor_the_lines(
    link: FakeSuperLink, watch: Watch, capfd: pytest.CaptureFixture[str]
) -> None:
    link.ask(message())
    lines = watch.run(Echo(RuntimeError(NEEDLE)))
    assert link.replies[0].error.reason == DeclineReason.FAILED.value
    assert NEEDLE not in "".join(lines) + "".join(capfd.readouterr())
    assert lines[1:] == [f"declined a task: {DeclineReason.FAILED.value}"]


def test_a_message_of_a_thousand_parts_is_declined_unread(link: FakeSuperLink, watch: Watch) -> None:
    asked = message()
    name = link.ask(asked)
    part = message_pb2.ObjectTree(object_id="0" * 64)
    link.tree = message_pb2.ObjectTree(object_id=name, children=[part] * 1000)
    echo = Echo()
    watch.run(echo)
    assert [reply.error.reason for reply in link.replies] == [DeclineReason.UNREADABLE_TASK.value]
    assert echo.seen == []


def test_a_record_that_is_garbage_or_of_another_type_is_declined(link: FakeSuperLink, watch: Watch) -> None:
    def spoil(how: Callable[[bytes], bytes], wire: bytes) -> None:
        link.ask(message(wire))
        name = next(
            name for name, part in link.objects.items() if part.startswith(b"ConfigRecord") and wire in part
        )
        link.objects[name] = how(link.objects[name])

    for number, how in enumerate(
        (
            lambda _: b"garbage",
            lambda part: part + b"\xff",
            lambda part: part[:-3] + b"\xff\xff\xff",
            lambda _: b"",
        )
    ):
        spoil(how, b"task %d" % number)
    link.ask(message(content=RecordDict({"palate": MetricRecord({"wire": 1})})))
    echo = Echo()
    watch.run(echo)
    assert [reply.error.reason for reply in link.replies] == [DeclineReason.UNREADABLE_TASK.value] * 5
    assert echo.seen == []


def test_a_round_that_is_over_is_left_alone(link: FakeSuperLink, watch: Watch) -> None:
    link.ask(message())
    link.odd["get-run"] = 403
    assert watch.run(Echo())[1:] == ["a round was over before it was answered"]
    assert link.replies == []


def test_a_reply_that_comes_too_late_is_told_and_the_node_goes_on(link: FakeSuperLink, watch: Watch) -> None:
    link.odd["give"] = 403
    watch.events += [lambda: link.odd.clear(), lambda: link.ask(message(b"abc")), lambda: None]
    link.ask(message())
    assert watch.run(Echo())[1:] == ["a round was over before it was answered"]
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]


# --- a server that is gone, forgets, or is none -------------------------------------------------------------


@pytest.mark.parametrize("forget", [False, True])
def test_a_node_survives_a_restart_of_the_server_and_goes_on(
    link: FakeSuperLink, watch: Watch, forget: bool
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


@pytest.mark.parametrize("says", [401, heartbeat_pb2.SendNodeHeartbeatResponse(success=False)])
def test_a_server_that_forgot_the_node_is_entered_again_under_the_same_key(
    link: FakeSuperLink, watch: Watch, says: Any
) -> None:
    """A node's number follows from its key, so the server's plans for it hold."""
    seen: list[set[bytes]] = []
    link.odd["send-node-heartbeat"] = says if isinstance(says, int) else says.SerializeToString()
    watch.events += [
        lambda: (seen.append(set(link.nodes)), link.nodes.clear(), link.online.clear()),
        lambda: link.ask(message(b"abc")),
        lambda: seen.append(set(link.nodes)),
    ]
    watch.run(Echo())
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]
    assert watch.lines[-1] == f"found {link.address} again; waiting for rounds"
    assert len(seen[0]) == 1
    assert seen[0] == seen[1]


def test_an_unreachable_server_is_one_clear_line(link: FakeSuperLink, watch: Watch) -> None:
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
        ("register-node", 403, "does not take this device"),
        ("activate-node", 403, "does not take this device"),
        ("activate-node", b"garbage that is no protobuf", "is not a server of this federation"),
        ("register-node", 404, "answers with the HTTP status 404"),
        ("register-node", 307, "answers with the HTTP status 307"),
        ("register-node", 503, r"is busy \(HTTP status 503\)"),
        ("register-node", b"x" * 5_000_000, "is not a server of this federation"),
    ],
)
def test_a_server_that_is_none_or_refuses_is_one_clear_line(
    link: FakeSuperLink, watch: Watch, call: str, odd: Odd, said: str
) -> None:
    link.odd[call] = odd
    with pytest.raises(FederationError, match=said) as caught:
        watch.run(Echo())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\x00",
        b"\xff\xff\xff\xff" + b"a length beyond the end",
        join_frames([b"garbage that is no protobuf", b""]),
        join_frames([b"\x12\x02\x0a\x00", b""]),
        500,
    ],
    ids=["empty", "short", "long", "no protobuf", "no message", "500"],
)
def test_garbage_in_place_of_a_task_is_looked_past_until_the_server_is_itself_again(
    link: FakeSuperLink, watch: Watch, odd: Odd
) -> None:
    link.odd["take"] = odd
    watch.events += [lambda: link.odd.clear(), lambda: link.ask(message(b"abc")), lambda: None]
    lines = watch.run(Echo())
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]
    assert all("\n" not in line and "garbage" not in line for line in lines)


# --- keys ---------------------------------------------------------------------------------------------------


def connect_with(
    key: ec.EllipticCurvePrivateKey, link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> Server:
    """A server that asks for keys, without the TLS that keys go with."""
    monkeypatch.setattr(Server, "__post_init__", lambda self: None)
    link.odd |= {"register-node": 412, "unregister-node": 412}
    return Server(link.address, insecure=True, key=key)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_registered_device_waits_until_its_killed_process_is_given_up(
    link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    server = connect_with(key, link, monkeypatch)
    link.nodes[pem(key)] = 5
    link.online.add(5)  # of the process that was killed
    link.ask(message(b"abc"))
    waits, lines = list[float](), list[str]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if sum(waits) >= 2 * fleet.HEARTBEAT_SECONDS:  # when a server gives it up at the latest
            link.online.clear()

    run_node(Echo(), server, tell=lines.append, keep_on=lambda: bool(link.waiting), wait=wait)
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba"]
    assert lines[0] == "the server does not take this device's key yet; trying for a minute"
    assert lines[1].startswith("joined")
    assert link.nodes == {pem(key): 5}  # a registered device stays registered
    assert "register-node" not in link.calls


@pytest.mark.parametrize("at_once", [True, False])
def test_a_key_that_is_not_registered_or_no_longer_ends_the_node(
    link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    server = connect_with(key, link, monkeypatch)
    if not at_once:
        link.nodes[pem(key)] = 5
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        link.nodes.clear()
        link.online.clear()

    with pytest.raises(NotTakenError, match="does not take this device's key; have it admitted"):
        run_node(Echo(), server, tell=lambda _: None, wait=wait)
    assert 2 * fleet.HEARTBEAT_SECONDS < sum(waits) < 3 * fleet.HEARTBEAT_SECONDS


def test_a_key_without_encryption_is_refused() -> None:
    with pytest.raises(OptionError, match="--insecure goes neither"):
        Server("127.0.0.1:1", insecure=True, key=ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(OptionError, match="no PEM certificates"):
        Server("127.0.0.1:1", root_certificates="nothing of the kind")


# --- patience -----------------------------------------------------------------------------------------------


def test_a_server_that_holds_no_call_is_asked_once_a_second(link: FakeSuperLink, watch: Watch) -> None:
    watch.events += [lambda: None, lambda: None, lambda: None]
    watch.run(Echo())
    assert watch.waits == [PAUSE_SECONDS] * 3
    assert link.calls.count("take") == 3


def test_a_server_that_holds_calls_is_asked_again_at_once(link: FakeSuperLink, watch: Watch) -> None:
    link.holds = True
    turns = iter([True, True, True, False])
    server = Server(link.address, insecure=True)
    run_node(
        Echo(), server, tell=lambda _: None, keep_on=lambda: next(turns), wait=watch.waits.append, hold=0.1
    )
    assert watch.waits == []
    asked = [one["x-palate-hold"] for one in link.headers if "x-palate-hold" in one]
    assert asked == ["0.1"] * 3


def test_a_proxy_of_the_environment_is_not_used_without_encryption(
    link: FakeSuperLink, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    link.ask(message(b"abc"))
    watch.run(Echo())
    assert len(link.replies) == 1


def test_tls_with_a_server_that_speaks_none_is_one_clear_line(link: FakeSuperLink) -> None:
    with pytest.raises(FederationError, match="does not speak TLS"):
        run_node(Echo(), Server(link.address), tell=lambda _: None)
