"""What travels between devices and their server, byte for byte.

A tap on the wire, and how to read what it kept.

Where it stands in the flow: a demonstration puts a `Tap` between the devices and the server, the devices join
the tap's port, and afterwards `needles` searches what was kept. No rights of an administrator are needed: the
tap is a small TCP proxy.

Everything is kept in one file per connection and direction, before it is passed on, whether or not it
arrives:

    0001-to-server.bin    0001-to-device.bin    0002-to-server.bin    ...

Reading knows HTTP/1: bodies with their chunks put together and their compression undone. What is in a body
(Protocol Buffers, here) keeps texts and bytes as they are. A stream that cannot be read is an error: a search
that sees nothing proves nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import select
import socket
import ssl
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from palate.shared.secure_sum.frame import MASKED
from palate.shared.secure_sum.messages import masked_bytes
from palate.shared.subspace import load_subspace
from palate.shared.wire import MAGIC, UPDATE, UPDATE_BYTES, VERSION

TO_SERVER, TO_DEVICE = "to-server", "to-device"
LEAST_UNPACKED = 16  # bytes: what chance alone unpacks is shorter
MOST_UNPACKED = 16_000_000
DEPTH = 3  # packings within packings

_READ = 1 << 16
_SOON = 0.2  # seconds
_HANDSHAKE = 20.0
_START_LINE = re.compile(rb"(?:HTTP/1\.[01] (\d{3})\b|[A-Z]+ \S+ HTTP/1\.[01]$)")
_PACKED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")  # where gzip or zlib may begin
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}")
_HEXADECIMAL = re.compile(rb"(?:[0-9a-fA-F]{2}){16,}")


class Tap:
    """Passes connections on to a server on this machine and keeps every byte, both ways.

    Use it in a `with` block.
    """

    def __init__(self, server: tuple[str, int], folder: Path, tls: Path | None = None) -> None:
        """Listen on a free port; `server` is host and port, `folder` gets the files. Raises OSError.

        With `tls`, the server's own folder of certificates, the tap stands in the server's place: it opens
        what devices encrypt, keeps it in the clear, and encrypts it again.
        """
        self._server, self._folder = server, folder
        self._contexts = None if tls is None else _contexts_of(tls)
        folder.mkdir(parents=True, exist_ok=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_SOON)
        self.port = int(self._listener.getsockname()[1])
        """The port to connect to instead of the server's."""
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, name="tap")]

    @property
    def address(self) -> str:
        """HOST:PORT to join instead of the server's."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        """Begin to pass connections on."""
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection; the files are complete afterwards."""
        self._over.set()
        self._threads[0].join()
        self._listener.close()
        with self._guard:
            for one in self._open:
                _hang_up(one)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        number = 0
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                device, _ = self._listener.accept()
                number += 1
                thread = threading.Thread(target=self._connect, args=(number, device), name=f"tap {number}")
                self._threads.append(thread)
                thread.start()

    def _connect(self, number: int, device: socket.socket) -> None:
        names = (self._folder / f"{number:04d}-{way}.bin" for way in (TO_SERVER, TO_DEVICE))
        with contextlib.ExitStack() as held:
            said, heard = (held.enter_context(name.open("wb", buffering=0)) for name in names)
            self._hold(held, device)
            if self._contexts is not None:
                with contextlib.suppress(OSError):  # one side broke off, or there is no server
                    self._relay(held, device, *self._contexts, said, heard)
                return
            try:
                server = socket.create_connection(self._server, timeout=10)
            except OSError:  # no server: what the device says to nobody is kept all the same
                device.settimeout(_SOON)
                with contextlib.suppress(OSError):
                    while data := device.recv(_READ):
                        said.write(data)
                return
            server.settimeout(None)
            self._hold(held, server)
            back = threading.Thread(target=_pass_on, args=(server, device, heard))
            back.start()
            _pass_on(device, server, said)
            back.join()

    def _relay(
        self,
        held: contextlib.ExitStack,
        device: socket.socket,
        as_server: ssl.SSLContext,
        as_device: ssl.SSLContext,
        said: IO[bytes],
        heard: IO[bytes],
    ) -> None:
        """Pass both ways on in one thread: a TLS connection must not be read and written at the same time."""
        device.settimeout(_HANDSHAKE)
        inner = held.enter_context(as_server.wrap_socket(device, server_side=True))
        plain = socket.create_connection(self._server, timeout=_HANDSHAKE)
        self._hold(held, plain)
        server = held.enter_context(as_device.wrap_socket(plain, server_hostname=self._server[0]))
        self._hold(held, inner)
        self._hold(held, server)
        ways = {inner: (server, said), server: (inner, heard)}
        for one in ways:
            one.settimeout(None)
        while not self._over.is_set():
            ready = [one for one in ways if one.pending()] or select.select([*ways], [], [], _SOON)[0]
            for one in ready:
                data = _read_now(one)
                if data is None:
                    continue
                if not data:
                    return
                sink, file = ways[one]
                file.write(data)
                sink.sendall(data)

    def _hold(self, held: contextlib.ExitStack, one: socket.socket) -> None:
        """Close a socket at the end of its connection, and hang up on it at once if the tap is over."""

        def let_go() -> None:
            with self._guard:
                self._open.discard(one)
            one.close()

        held.callback(let_go)
        with self._guard:
            self._open.add(one)
            if self._over.is_set():
                _hang_up(one)


def _contexts_of(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what the tap shows devices, and what it checks the server by."""
    as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    as_server.load_cert_chain(folder / "server.pem", folder / "server.key")
    return as_server, ssl.create_default_context(cafile=str(folder / "ca.crt"))


def _read_now(one: ssl.SSLSocket) -> bytes | None:
    """Return what is there to read, empty at the end.

    None for data of TLS itself, such as a session ticket.
    """
    one.settimeout(0)
    try:
        return one.recv(_READ)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
    finally:
        one.settimeout(None)


def _pass_on(source: socket.socket, sink: socket.socket, file: IO[bytes]) -> None:
    try:
        while data := source.recv(_READ):
            file.write(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # one side broke off, as when it is killed: so does the other
        _hang_up(source)
        _hang_up(sink)


def _hang_up(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


# --- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """What was sent over one connection in one direction."""

    connection: int
    way: str  # TO_SERVER or TO_DEVICE
    data: bytes

    @property
    def name(self) -> str:
        """How findings name it, such as "0001-to-server"."""
        return f"{self.connection:04d}-{self.way}"


def read_capture(folder: Path) -> list[Stream]:
    """Return everything that a tap kept, in the order of connections; raises OSError."""
    found = []
    for path in sorted(folder.glob("*.bin")):
        number, _, way = path.stem.partition("-")
        found.append(Stream(int(number), way, path.read_bytes()))
    return found


def read_bodies(data: bytes) -> list[bytes]:
    """Return the bodies of the HTTP/1 messages of a stream: chunks put together, compression undone.

    The last message may be cut short, as by a kill. Raises ValueError for a stream of another protocol, and
    for a compression that is not known here: to search it would be to search blindly.
    """
    bodies: list[bytes] = []
    place = 0
    while place < len(data):
        end = data.find(b"\r\n\r\n", place)
        head = data[place : end if end >= 0 else len(data)].split(b"\r\n")
        start = _START_LINE.match(head[0])
        if end < 0 and len(head) == 1:
            return bodies  # cut short in its first line
        if start is None:
            raise ValueError(
                f"byte {place:,} of the stream begins no HTTP/1 message, so it cannot be searched"
            )
        if end < 0:
            return bodies
        fields = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(b":") for line in head[1:])
        }
        place = end + 4
        length = fields.get(b"content-length", b"")
        status = start.group(1)
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            body, place = _join_chunks(data, place)
        elif length.isdigit():
            body, place = data[place : place + int(length)], place + int(length)
        elif status is not None and not status.startswith(b"1") and status not in (b"204", b"304"):
            body, place = data[place:], len(data)
        else:
            body = b""
        bodies.append(_decompress(body, fields.get(b"content-encoding", b"")))
    return bodies


def _join_chunks(data: bytes, place: int) -> tuple[bytes, int]:
    """Return a chunked body and where the next message begins; a body that is cut short as far as it goes."""
    parts = []
    while (line := data.find(b"\r\n", place)) >= 0:
        try:
            size = int(data[place:line].partition(b";")[0], 16)
        except ValueError:
            raise ValueError(
                f"byte {place:,} of the stream begins no chunk, so it cannot be searched"
            ) from None
        parts.append(data[line + 2 : line + 2 + size])
        place = line + 2 + size + 2
        if size == 0:
            if not b"\r\n".startswith(
                data[line + 2 : line + 4]
            ):  # fields after the last chunk, ended by an empty line
                end = data.find(b"\r\n\r\n", line + 2)
                parts.append(data[line + 2 : end if end >= 0 else len(data)])
                place = end + 4 if end >= 0 else len(data)
            return b"".join(parts), place
    return b"".join(parts), len(data)


def _decompress(body: bytes, encoding: bytes) -> bytes:
    if encoding in (b"", b"identity"):
        return body
    if encoding in (b"gzip", b"x-gzip", b"deflate"):
        for format_ in (47, -15):  # gzip or zlib by their heads; deflate without one
            found = _inflate(body, format_)
            if found is not None:
                return found
    raise ValueError(
        f"a body is compressed by {encoding!r}, which cannot be undone here, so it cannot be searched"
    )


def _inflate(data: bytes | memoryview, format_: int = 47) -> bytes | None:
    """Return what compressed data holds, as far as it goes, or None if it is none."""
    try:
        return zlib.decompressobj(format_).decompress(data, MOST_UNPACKED)
    except zlib.error:
        return None


def unpack(data: bytes, depth: int = DEPTH) -> Iterator[bytes]:
    """Yield whatever else some bytes may hold.

    Gzip and zlib streams at any place, base64 and hexadecimal text, nested too.
    """
    found = [_inflate(memoryview(data)[match.start() :]) for match in _PACKED.finditer(data)]
    for match in _BASE64.finditer(data):
        text = match.group().translate(bytes.maketrans(b"-_", b"+/"))
        # Its beginning may be lost among letters that stand before it.
        found += [_decode_base64(text[skip:]) for skip in range(4)]
    found += [bytes.fromhex(match.group().decode()) for match in _HEXADECIMAL.finditer(data)]
    for one in found:
        if one is not None and len(one) >= LEAST_UNPACKED:
            yield one
            if depth > 1:
                yield from unpack(one, depth - 1)


def _decode_base64(text: bytes) -> bytes:
    """Return what base64 text without its padding holds, as far as it goes."""
    if len(text) % 4 == 1:
        text = text[:-1]
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def read_layers(stream: Stream) -> Iterator[tuple[str, bytes]]:
    """Yield what there is to search in a stream, by name.

    As it was sent, its bodies, and what is packed in either.

    Bodies are joined, so that what is spread over several of them is found too. Raises what `read_bodies`
    raises.
    """
    bodies = b"".join(read_bodies(stream.data))
    yield "as sent", stream.data
    yield "bodies", bodies
    for layer in (stream.data, bodies):
        unpacked = b"\n".join(unpack(layer))
        if unpacked:
            yield "unpacked", unpacked


def find_updates(stream: Stream, ring_bits: int = 16, count: int | None = None) -> list[str]:
    """Return the SHA-256 of every whole update in a stream, in hexadecimal, as the outbox notes it.

    Both kinds are found: plain updates, and masked ones of `count` numbers (by default those of the shipped
    subspace) in so many bits.
    """
    bodies = b"".join(read_bodies(stream.data))
    found = []
    numbers = (load_subspace().count if count is None else count) + 1
    for kind, size in ((UPDATE, UPDATE_BYTES), (MASKED, masked_bytes(numbers, ring_bits))):
        mark = re.compile(re.escape(MAGIC + bytes([kind, VERSION])))
        whole = [bodies[match.start() :][:size] for match in mark.finditer(bodies)]
        found += [hashlib.sha256(one).hexdigest() for one in whole if len(one) == size]
    return found
