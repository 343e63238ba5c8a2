"""The tap keeps every byte, the reader undoes HTTP, and the search finds what is there, however it is
written, and nothing else."""

import base64
import contextlib
import gzip
import json
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.encoder import SHARED_SHAPES
from palate.shared.secure_sum.messages import encode_masked
from palate.shared.update import EncoderUpdate
from palate.shared.wire import encode_update
from palate.simulations.federation_demo.capture import (
    TO_DEVICE,
    TO_SERVER,
    Stream,
    Tap,
    find_updates,
    read_bodies,
    read_capture,
)
from palate.simulations.federation_demo.indiscreet_device import tell_everything
from palate.simulations.federation_demo.needles import Found, Needle, Needles, search
from palate.simulations.federation_demo.people import Private, make_needles

COMMENT = "I don't like the heavy crosshatching, it's far too Busy!"


def post(body: bytes, *fields: str) -> bytes:
    """A request with a body of known length."""
    head = ["POST /v1/fleet/push-object HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + body


def chunked(body: bytes, size: int, *fields: str) -> bytes:
    """An answer in chunks."""
    head = "\r\n".join(["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *fields, "", ""]).encode()
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def stream(data: bytes) -> Stream:
    return Stream(1, TO_SERVER, data)


# --- the tap ------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A web server that answers with what it got, backwards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))[::-1]
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield ("127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_tap_passes_everything_on_and_keeps_it_by_connection_and_direction(
    echo: tuple[str, int], tmp_path: Path
) -> None:
    bodies = [bytes([i]) * 300_000 + b"end" for i in range(3)]
    with Tap(echo, tmp_path) as tap:
        for body in bodies:
            asked = Request(f"http://{tap.address}/", data=body, headers={"Connection": "close"})
            with urlopen(asked, timeout=10) as answer:  # noqa: S310 - of our own making
                assert answer.read() == body[::-1]
    kept = {(one.connection, one.way): one.data for one in read_capture(tmp_path)}
    assert set(kept) == {(i, way) for i in (1, 2, 3) for way in (TO_SERVER, TO_DEVICE)}
    for number, body in enumerate(bodies, 1):
        assert read_bodies(kept[number, TO_SERVER]) == [body]
        assert read_bodies(kept[number, TO_DEVICE]) == [body[::-1]]


def test_what_is_said_to_a_server_that_is_gone_is_kept_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with Tap(address, tmp_path) as tap, socket.create_connection(("127.0.0.1", tap.port)) as device:
        device.sendall(b"is anybody there")
        device.settimeout(10)
        assert device.recv(100) == b""
    assert [one.data for one in read_capture(tmp_path)] == [b"", b"is anybody there"]


def test_a_server_that_dies_hangs_up_on_the_device(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Tap(server.getsockname(), tmp_path) as tap:
        device = socket.create_connection(("127.0.0.1", tap.port))
        theirs, _ = server.accept()
        device.sendall(b"half a requ")
        assert theirs.recv(100) == b"half a requ"
        # As a kill does it: what was not read is answered by a reset.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        device.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert device.recv(100) == b""
        device.close()


def test_the_end_of_the_tap_ends_connections_that_are_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with Tap(server.getsockname(), tmp_path) as tap:
            device = socket.create_connection(("127.0.0.1", tap.port))
            theirs, _ = server.accept()
            device.sendall(b"the last word")
            assert theirs.recv(100) == b"the last word"
        device.settimeout(10)
        assert device.recv(100) == b""
        device.close()
        theirs.close()
    assert b"the last word" in [one.data for one in read_capture(tmp_path)]


# --- reading ------------------------------------------------------------------------------------------------


def test_bodies_of_every_form_are_read() -> None:
    body = COMMENT.encode() * 20
    messages = [
        (post(body), body),
        (b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n", b""),
        (post(gzip.compress(body), "Content-Encoding: gzip"), body),
        (post(zlib.compress(body), "content-encoding: deflate"), body),
        (post(zlib.compress(body, wbits=-15), "content-encoding: deflate"), body),
        (chunked(body, 7), body),
        (chunked(gzip.compress(body), 5, "Content-Encoding: gzip"), body),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\n" + body, body),  # until the connection ends
    ]
    assert read_bodies(b"".join(data for data, _ in messages)) == [body for _, body in messages]


def test_fields_after_the_last_chunk_are_searched_too() -> None:
    data = chunked(b"body", 2)[:-2] + b"X-Note: secret\r\n\r\n" + post(b"next")
    assert read_bodies(data) == [b"bodyX-Note: secret", b"next"]


@pytest.mark.parametrize("make", [post, lambda body: chunked(body, 100)])
def test_a_message_that_was_cut_short_is_read_as_far_as_it_goes(make: Callable[[bytes], bytes]) -> None:
    body = bytes(range(256)) * 4
    data = make(body)
    for length in range(len(data)):
        found = read_bodies(data[:length])
        assert len(found) <= 1
        assert not found or body.startswith(found[0])


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        post(b"zstd", "Content-Encoding: zstd"),
        post(b"not gzip", "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
def test_a_stream_that_cannot_be_read_is_an_error_and_no_clean_search(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be searched"):
        search([stream(data)], [])


def test_updates_are_recognised_by_the_hash_that_the_outbox_notes() -> None:
    import hashlib

    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHARED_SHAPES.items()}
    wires = [encode_update(EncoderUpdate("ab" * 32, number, zeros)) for number in (1, 2)]
    data = post(b"\x0a\x05" + wires[0] + b"\x12") + post(wires[1]) + post(wires[1][:-1])
    assert find_updates(stream(data)) == [hashlib.sha256(wire).hexdigest() for wire in wires]
    key = Ed25519PrivateKey.generate()
    masked = [encode_masked(bytes([n]) * 32, key, np.full(22, n, np.uint16), 16) for n in (1, 2)]
    data = post(b"\x0a\x05" + masked[0] + b"\x12") + post(masked[1]) + post(masked[1][:-1])
    assert find_updates(stream(data), count=21) == [hashlib.sha256(wire).hexdigest() for wire in masked]


# --- the search ---------------------------------------------------------------------------------------------


def noise(megabytes: int = 2) -> bytes:
    """What is sent rightly: weights, tokens, texts of the protocol."""
    rng = np.random.default_rng(5)
    weights = (rng.normal(size=megabytes * 250_000) * 0.05).astype("<f4").tobytes()
    tokens = base64.b64encode(rng.bytes(50_000 * megabytes)) + rng.bytes(20_000 * megabytes).hex().encode()
    texts = b"flwr-signature: shared, required, uncalm, swarm; the message is of another kind "
    texts += b"and so is the other\r\n"
    times = b"".join(
        b"flwr-timestamp: 2026-11-21T07:49:%09.6f+00:00\r\n" % second
        for second in rng.uniform(0, 60, 10_000 * megabytes)
    )
    return post(weights) + post(tokens + texts * 100 + times)


def needles() -> Needles:
    made = Needles()
    made.add_comment("the comment", COMMENT)
    for attribute in ("red", "calm", "flat colour", "canvas"):
        made.add_attribute(attribute)
    return made


def kinds(found: list[Found]) -> set[str]:
    return {one.needle.kind for one in found}


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.encode(),
        lambda text: text.lower().encode(),
        lambda text: text.upper().encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32-le"),
        lambda text: json.dumps({"comment": text}).encode(),
        lambda text: json.dumps(text.split()).encode(),
        lambda text: text.replace(" ", "_").replace("'", "\u2019").encode(),
        lambda text: b"\x0a" + bytes([len(text)]) + text.encode(),  # a string in Protocol Buffers
        lambda text: gzip.compress(text.encode()),
        lambda text: b"head" + zlib.compress(text.encode("utf-16")) + b"tail",
        lambda text: base64.b64encode(text.encode()),
        lambda text: b'{"a": "word' + base64.urlsafe_b64encode(gzip.compress(text.encode())) + b'"}',
        lambda text: text.encode().hex().encode(),
    ],
)
@pytest.mark.parametrize("send", [post, lambda body: chunked(body, 5), lambda body: chunked(body, 1)])
def test_a_comment_is_found_however_it_is_written_and_sent(
    write: Callable[[str], bytes], send: Callable[[bytes], bytes]
) -> None:
    made = needles()
    found = search([stream(send(noise(0) + write(COMMENT) + noise(0)))], list(made))
    assert {"comment", "words of a comment"} <= kinds(found)


def test_a_comment_is_found_in_a_compressed_body_in_an_address_and_in_the_fields() -> None:
    quoted = COMMENT.replace(" ", "+")
    for data in (
        chunked(gzip.compress(COMMENT.encode()), 9, "Content-Encoding: gzip"),
        f"GET /?q={quoted} HTTP/1.1\r\nHost: here\r\n\r\n".encode(),
        post(b"", f"X-Note: {COMMENT}"),
        post(COMMENT.encode()[:20]) + post(COMMENT.encode()[20:]),
        post(COMMENT.encode())[:-3],  # cut short by a kill
    ):
        found = kinds(search([stream(data)], list(needles())))
        assert "words of a comment" in found
        assert "comment" in found or data.endswith(b"too Bu")


def test_four_words_in_a_row_are_found_and_three_are_not() -> None:
    assert kinds(search([stream(post(b"said: HEAVY crosshatching, it's not"))], list(needles()))) == {
        "words of a comment"
    }
    assert search([stream(post(b"said: heavy crosshatching, it was"))], list(needles())) == []


@pytest.mark.parametrize(
    "data",
    [
        b'{"likes": ["red"]}',
        b'{"red": 0.5}',
        b"likes: blue, red",
        b"\x12\x03red\x1d",
        "likes red.".encode("utf-16-le"),
        b"Flat Colour",
        b"flat_colour",
        b"x-canvas: 1",
        b"\x0a\x06canvas\x10",
    ],
)
def test_attributes_are_found_as_words_of_their_own(data: bytes) -> None:
    assert kinds(search([stream(post(data))], list(needles()))) == {"attribute"}


def test_nothing_is_found_in_weights_tokens_and_the_texts_of_the_protocol() -> None:
    made = needles()
    rng = np.random.default_rng(6)
    made.add_weights("head", "somebody's", rng.normal(size=40_000) * 0.05)
    made.add_weights("head", "somebody's, in part", rng.normal(size=4_000) * 0.05)
    made.add_bytes("picture", "one", rng.bytes(50_000))
    assert len(made) > 12_000
    assert search([stream(noise())], list(made)) == []


@pytest.mark.parametrize("precision", ["<f8", "<f4", "<f2"])
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("offset", range(5))
def test_seven_weights_in_a_row_are_found_at_any_place(precision: str, first: int, offset: int) -> None:
    head = np.random.default_rng(7).normal(size=300)
    made = Needles()
    made.add_weights("head", "somebody's", head)
    part = head[100 + first :][:7].astype(precision).tobytes()
    found = search([stream(post(bytes(offset) + noise(0) + part + b"tail"))], list(made))
    assert kinds(found) == {f"head in fp{8 * int(precision[-1])}"}


@pytest.mark.parametrize(
    "write",
    [
        lambda run: json.dumps(run.tolist()),
        lambda run: json.dumps(run.astype(np.float32).tolist()),
        lambda run: " ".join(f"{one:.6f}" for one in run),
        lambda run: " ".join(f"{one:.9e}" for one in run * 1e-7),
        lambda run: str(np.round(run, 3).tolist()),
        lambda run: ";".join(str(round(one, 4)) for one in run),
    ],
)
def test_weights_are_found_as_text(write: Callable[[Any], str]) -> None:
    head = np.random.default_rng(8).normal(size=300)
    made = Needles()
    made.add_weights("head", "somebody's", head)
    made.add_weights("head", "somebody's, small", head * 1e-7)
    for text in (write(head[50:60]).encode(), write(head[50:60]).encode("utf-16")):
        assert kinds(search([stream(post(text))], list(made))) == {"head as text"}


@pytest.mark.parametrize("start", [0, 1, 777, 4_000, 9_872])
def test_any_128_bytes_of_a_picture_are_found(start: int) -> None:
    picture = np.random.default_rng(9).bytes(10_000)
    made = Needles()
    made.add_bytes("kept picture", "one", picture)
    found = search([stream(post(b"x" + picture[start : start + 128]))], list(made))
    assert kinds(found) == {"kept picture"}
    assert found[0].stream == "0001-to-server"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_an_attribute_is_found_as_a_word_and_not_within_a_name_of_the_protocol(encoding: str) -> None:
    made = Needles()
    made.add_attribute("honest")
    made.add_attribute("bold outlines")
    named = '{"honest_share": null, "dishonest": 1}'.encode(encoding)
    assert search([stream(post(named))], list(made)) == []
    for said in ('{"likes": ["honest"]}', "likes=HONEST;", "an honest look, honest_share"):
        assert kinds(search([stream(post(said.encode(encoding)))], list(made))) == {"attribute"}
    assert kinds(search([stream(post(b'{"bold_outlines": 0.8}'))], list(made))) == {"attribute"}


def test_monotonous_pieces_are_no_needles() -> None:
    made = Needles()
    made.add_bytes("picture", "white", b"\xff" * 10_000)
    made.add_weights("head", "zero", np.zeros(1_000))
    assert len(made) == 0


def test_what_cannot_be_told_from_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="2 words"):
        Needles().add_comment("short", "too busy!")
    with pytest.raises(ValueError, match="3 characters"):
        Needles().add_secret("passphrase", "anna", "abc")


@pytest.fixture
def private() -> Private:
    """Somebody with a dozen comments and weights of every kind."""
    rng = np.random.default_rng(10)
    words = re.findall(
        r"\w+", "misty canvas light harbour crowd brush pale heavy outline weather tile shadow"
    )
    comments = [" ".join(rng.permutation(words)[:7]) for _ in range(12)]
    pictures = [(rng.bytes(32).hex(), rng.bytes(8_000)) for _ in range(12)]
    return Private(
        "a passphrase of hers",
        tuple((f"{i:08x}", text) for i, text in enumerate(comments)),
        ("misty", "red", "flat colour"),
        tuple(pictures),
        tuple((f"{i}.png", rng.bytes(9_000)) for i in range(12)),
        rng.normal(size=(12, 216)),
        rng.normal(size=4_000),
        rng.normal(size=1_800) * 0.1,
    )


def test_everything_that_an_indiscreet_device_sends_is_found(private: Private) -> None:
    made = make_needles("anna", private)
    found = search([stream(noise() + post(tell_everything(private)))], list(made))
    assert kinds(found) == set(made.kinds())
    whole = {one.needle.name for one in found if one.needle.kind == "comment"}
    assert whole == {f"anna, comment {i:08x}" for i in range(4)}  # plain, UTF-16, gzip, base64 in JSON


def test_each_kind_is_found_alone(private: Private) -> None:
    """So that no kind is only found because another one is sent along."""
    first: dict[str, Needle] = {}
    for one in make_needles("anna", private):
        first.setdefault(one.kind, one)
    assert len(first) == 19
    for one in first.values():
        found = search([stream(post(b'"' + one.data + b'"'))], [one])
        assert {hit.needle for hit in found} == {one}, one.kind
        assert search([stream(post(b'"' + one.data[2:] + b'"'))], [one]) == [], one.kind
