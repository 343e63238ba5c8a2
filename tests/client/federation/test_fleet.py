"""A device's connection: answers that are bombs, floods or drips, calls whose answer was lost, clocks, and
signatures."""

import base64
import gzip
import time
import tracemalloc
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

pytest.importorskip("flwr")

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from palate.client.federation import fleet
from palate.client.federation.fleet import MOST_BYTES, Fleet, LostError
from palate.client.federation.server_address import Server
from palate.shared.errors import FederationError
from tests.client.federation.fake_superlink import Echo, FakeSuperLink, Watch, message

MB = 1_000_000
NOT_A_SERVER = "is not a server of this federation"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call that are given up soon."""
    monkeypatch.setattr(fleet, "CALL_SECONDS", 0.3)
    monkeypatch.setattr(fleet, "LONG_CALL_SECONDS", 0.3)


@pytest.fixture
def device(link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A connection that has entered, and tries each call once."""
    monkeypatch.setattr(fleet, "GLITCH_SECONDS", ())
    made = Fleet(Server(link.address, insecure=True))
    made.enter()
    try:
        yield made
    finally:
        link.odd.clear()
        made.close()


def head(handler: BaseHTTPRequestHandler, *lines: str) -> None:
    """Begin an answer of HTTP/1.1 with these headers."""
    handler.wfile.write("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode())


# --- much out of little -------------------------------------------------------------------------------------


def test_a_compressed_answer_is_refused_without_inflating_it(link: FakeSuperLink, device: Fleet) -> None:
    bomb = gzip.compress(bytes(60 * MB))
    assert len(bomb) < MB // 10

    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, "Content-Encoding: gzip", f"Content-Length: {len(bomb)}")
        handler.wfile.write(bomb)

    link.odd["take"] = answer
    tracemalloc.start()
    try:
        with pytest.raises(LostError, match=NOT_A_SERVER):
            device.take(0.1)
        assert tracemalloc.get_traced_memory()[1] < 4 * MB
        assert link.headers[-1]["accept-encoding"] == "identity"
        # The control: a client that takes compressed answers holds the whole of it.
        plain = httpx.post(f"http://{link.address}/v1/palate/take", content=b"", trust_env=False)
        assert len(plain.content) == 60 * MB
        assert tracemalloc.get_traced_memory()[1] > 60 * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x-unheard-of"])
def test_no_encoding_is_taken(link: FakeSuperLink, device: Fleet, encoding: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, f"Content-Encoding: {encoding}", "Content-Length: 0")

    link.odd["take"] = answer
    with pytest.raises(LostError, match=NOT_A_SERVER):
        device.take(0.1)


@pytest.mark.parametrize(
    ("announced", "piece"),
    [
        (["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n" % (50_000, bytes(50_000))),
        (["Connection: close"], bytes(50_000)),
    ],
    ids=["chunked", "until the end"],
)
@pytest.mark.parametrize("call", ["take", "get-run"])
def test_an_answer_without_a_length_is_cut_while_it_is_read(
    link: FakeSuperLink, device: Fleet, announced: list[str], piece: bytes, call: str
) -> None:
    sent = 0

    def flood(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        head(handler, *announced)
        while sent < 200 * MB:
            handler.wfile.write(piece)
            sent += len(piece)

    link.odd[call] = flood
    tracemalloc.start()
    try:
        with pytest.raises(LostError, match=NOT_A_SERVER):
            device.take(0.1) if call == "take" else device.bundle_hash(1)
        assert tracemalloc.get_traced_memory()[1] < 3 * MOST_BYTES
    finally:
        tracemalloc.stop()
    time.sleep(0.2)
    assert sent < 50 * MB  # what lies in the system's buffers, and no more


@pytest.mark.parametrize("length", [str(MOST_BYTES + 1), "9" * 400, "-1", "one"])
def test_an_answer_that_announces_too_much_is_not_read(
    link: FakeSuperLink, device: Fleet, length: str
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, f"Content-Length: {length}")
        handler.wfile.write(bytes(1000))

    link.odd["take"] = answer
    with pytest.raises(LostError):
        device.take(0.1)


def test_an_answer_longer_than_announced_is_cut_at_its_length(link: FakeSuperLink, device: Fleet) -> None:
    """HTTP ends a body at its length; what follows is no part of it and of no other answer."""
    name = link.ask(message(b"abc"))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = link.take(*_request_of(device))
        head(handler, f"Content-Length: {len(body)}")
        handler.wfile.write(body + b"x" * MB)

    link.odd["take"] = answer
    taken = device.take(0.1)
    assert taken is not None
    assert taken[0].metadata.message_id == name
    link.odd.clear()
    assert device.take(0.1) is None


def _request_of(device: Fleet) -> tuple[bytes, dict[str, str]]:
    from flwr.proto import fleet_pb2, node_pb2

    from palate.shared.frames import join_frames

    asked = fleet_pb2.PullMessagesRequest(node=node_pb2.Node(node_id=device.node_id))
    return join_frames([asked.SerializeToString()]), {"x-palate-had": "", "x-palate-hold": "0"}


# --- slowly -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["headers", "body"])
def test_an_answer_byte_by_byte_is_cut_by_the_deadline(
    link: FakeSuperLink, quick: None, device: Fleet, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    link_seconds = 20.0

    def drip(handler: BaseHTTPRequestHandler) -> None:
        until = time.monotonic() + link_seconds
        if where == "headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        else:
            head(handler, "Content-Length: 100000")
        while time.monotonic() < until:
            handler.wfile.write(b"x")
            time.sleep(0.05)

    link.odd["take"] = drip
    began = time.monotonic()
    with pytest.raises(LostError):
        device.take(0.1)
    assert time.monotonic() - began < 10

    # The control: without the watch the call lasts as long as somebody drips.
    monkeypatch.setattr(fleet._Watch, "cut", lambda self: None)
    link_seconds = 2.0
    began = time.monotonic()
    with pytest.raises(LostError):
        device.take(0.1)
    assert time.monotonic() - began > 1.8


def test_a_call_after_one_that_was_cut_has_all_of_its_time(
    link: FakeSuperLink, quick: None, device: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(3.0)

    link.odd["take"] = slow
    with pytest.raises(LostError):
        device.take(0.1)
    monkeypatch.setattr(fleet, "LONG_CALL_SECONDS", 30.0)
    link.odd.clear()
    link.holds = True
    assert device.take(1.0) is None


# --- lost on the way ----------------------------------------------------------------------------------------


def test_a_message_whose_answer_was_lost_is_asked_for_again(
    link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "GLITCH_SECONDS", (0.01,) * 3)
    asked = [link.ask(message(b"abc")), link.ask(message(b"xyz"))]
    take, broken = link.take, list[str]()

    def lose(body: bytes, headers: Any) -> Any:
        """Take the message out of the queue, and break off in the middle of the first answer with each."""
        answer = take(body, headers)
        name = link._taken[0]
        if name in broken or not name:
            return answer
        broken.append(name)

        def half(handler: BaseHTTPRequestHandler) -> None:
            head(handler, f"Content-Length: {len(answer)}", "Connection: close")
            handler.wfile.write(answer[: len(answer) // 2])

        return half

    monkeypatch.setattr(link, "take", lose)
    watch = Watch(link)
    watch.events += [lambda: None]
    watch.run(Echo())
    assert broken == asked
    assert [reply.content["palate"]["wire"] for reply in link.replies] == [b"cba", b"zyx"]
    had = [one["x-palate-had"] for one in link.headers if "x-palate-had" in one]
    assert had == ["", "", asked[0], asked[0], asked[1]]


def test_a_reply_whose_answer_was_lost_counts_as_given(
    link: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "GLITCH_SECONDS", (0.01,))
    give, lost = link.give, list[bytes]()

    def lose(body: bytes, headers: Any) -> Any:
        answer = give(body, headers)
        if lost:
            return answer
        lost.append(body)
        return lambda handler: None  # hangs up

    monkeypatch.setattr(link, "give", lose)
    link.ask(message(b"abc"))
    watch = Watch(link)
    lines = watch.run(Echo())
    assert link.calls.count("give") == 2
    assert len(link.replies) == 1
    assert len(lines) == 1  # and none that says that the round was over


# --- clocks and signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "said"), [(7, "7 minutes behind"), (-7, "7 minutes ahead of")])
def test_a_refusal_by_a_server_of_another_time_says_that_the_clock_is_wrong_and_not_the_key(
    link: FakeSuperLink, minutes: int, said: str
) -> None:
    def refuse(handler: BaseHTTPRequestHandler, off: float = 60.0 * minutes) -> None:
        date = formatdate(time.time() + off, usegmt=True)
        handler.wfile.write(
            f"HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    link.odd["register-node"] = refuse
    with pytest.raises(FederationError, match=f"this device's clock is {said} .*; set it right") as caught:
        Watch(link).run(Echo())
    assert "key" not in str(caught.value)
    # The control: at the same time it is the key.
    link.odd["register-node"] = link.odd["activate-node"] = lambda handler: refuse(handler, 100.0)
    with pytest.raises(FederationError, match="takes only devices whose key it knows"):
        Watch(link).run(Echo())


@pytest.mark.parametrize("date", ["", "Date: yesterday\r\n", "Date: Mon, 99 Foo 2026 25:00:00 GMT\r\n"])
def test_a_refusal_without_a_readable_time_is_put_down_to_the_key(link: FakeSuperLink, date: str) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"HTTP/1.1 401 Unauthorized\r\n{date}Content-Length: 0\r\n\r\n".encode())

    link.odd["register-node"] = link.odd["activate-node"] = refuse
    with pytest.raises(FederationError, match="takes only devices whose key it knows"):
        Watch(link).run(Echo())


def test_one_signature_serves_several_calls_and_is_made_anew_after_its_time(
    link: FakeSuperLink, device: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        device.take(0.1)
    assert len({one["flwr-signature"] for one in link.headers}) == 1
    now = time.time()
    for moved in (fleet.SIGNED_SECONDS - 20, fleet.SIGNED_SECONDS + 20, -fleet.SIGNED_SECONDS - 20):
        monkeypatch.setattr(time, "time", lambda moved=moved: now + moved)
        device.take(0.1)
    signatures = [one["flwr-signature"] for one in link.headers[-4:]]
    assert signatures[0] == signatures[1]
    assert len(set(signatures)) == 2 + 1


def test_a_signature_is_of_the_time_by_the_key_that_is_named(link: FakeSuperLink, device: Fleet) -> None:
    device.take(0.1)
    sent = link.headers[-1]
    public = load_pem_public_key(base64.b64decode(sent["flwr-public-key"]))
    assert isinstance(public, ec.EllipticCurvePublicKey)
    signature, stamp = base64.b64decode(sent["flwr-signature"]), sent["flwr-timestamp"].encode()
    public.verify(signature, stamp, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(signature, stamp + b"0", ec.ECDSA(hashes.SHA256()))
