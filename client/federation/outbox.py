"""The one door out: all that a device sends to a federation is noted here before it goes.

Where it stands in the flow: the device agreed to a round. This module notes in the vault what will leave;
then the change is made (`contribution`); then this module turns it into bytes, notes which, passes them to
the connection, and notes that they went. `palate outbox` shows the notes: when, to which server, which
release and round, and of the bytes their kind (a masked vector or an update, how many numbers of how many
bits, in which directions), their length and their SHA-256. The notes stay sealed in the vault.

A note says what left, not what was trained. Nobody can tell from a masked vector how long the change under
the mask is, so its note has no norms. They would also be the only part of a note that depends on what the
person kept: without them the notes of all devices are alike (`what_leaves` is all that the note of a masked
round says of its bytes, and `preview` shows the same beforehand). An update without masks does show the norms
of its tensors, so they are in its note.

In a masked round, keys and shares go through `send_handshake`: random numbers made for the round, without a
note.

The order is the promise: no note, no training for the server and no sending. A note without "sent" was cut
short (power, connection), so the bytes may or may not have left; the person should count them as gone.
Nothing else in `client/` encodes an update, and a test holds the source to that.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.store import ONLY, Change, Records, Store, Within
from palate.shared.encoder import SHARED_WEIGHTS
from palate.shared.errors import OptionError
from palate.shared.secure_sum.frame import ADVERT, ENDORSEMENT, REVEALED, SHARES
from palate.shared.secure_sum.messages import masked_bytes
from palate.shared.update import EncoderUpdate, norm_of
from palate.shared.wire import MAGIC, UPDATE_BYTES, encode_update

Send = Callable[[bytes], None]
"""Called at most once for each message, with the bytes that go to the server; empty bytes say "not this
time"."""

OUTBOX, OUTBOX_BEFORE = "outbox", "outbox before"  # types of records

KEPT = 1_000
"""Notes kept one by one. Each takes room in the vault's head, which every change rewrites, so older ones
become a sum."""

HANDSHAKE = (ADVERT, SHARES, ENDORSEMENT, REVEALED)
MAX_SERVER_CHARACTERS = 200
_VERSION = 1
_A_NOTE = "a note in the outbox"


@dataclass(frozen=True)
class SentTensor:
    """One tensor of an update that went out, by name, shape and L2 norm."""

    name: str
    shape: tuple[int, ...]
    norm: float


MASKED_VECTOR, UPDATE_KIND = "masked vector", "update"
ALL_WEIGHTS = "all weights"


@dataclass(frozen=True)
class Leaving:
    """What the bytes are that leave: known before they are made, and the same whatever was trained."""

    kind: str  # `MASKED_VECTOR` or `UPDATE_KIND`
    bytes_up: int
    numbers: int  # in them
    bits: int  # of each number: of the ring, or 32 for floats
    within: str  # the subspace's hash, or `ALL_WEIGHTS`


def what_leaves(count: int | None = None, ring_bits: int = 0, subspace: str = "") -> Leaving:
    """Return what leaves in a masked round of `count` numbers, or (None) in a round without masks."""
    if count is None:
        return Leaving(UPDATE_KIND, UPDATE_BYTES, SHARED_WEIGHTS, 32, ALL_WEIGHTS)
    # One number more says whether the change was cut.
    size = masked_bytes(count + 1, ring_bits)
    return Leaving(MASKED_VECTOR, size, count + 1, ring_bits, subspace or ALL_WEIGHTS)


@dataclass(frozen=True)
class Cover:
    """How the bytes of a masked round are made, and what is known of them before that."""

    leaving: Leaving
    mask: Callable[[EncoderUpdate], bytes]
    clip: float  # the clipping norm (L2)
    noise: float  # standard deviation of the noise that this device adds to each number


@dataclass(frozen=True)
class Sent:
    """The note on one update."""

    id: str
    when: str  # ISO 8601, UTC, to the microsecond
    server: str
    release: int
    base: str  # `encoder_hash` of the encoder that was trained
    round: int
    kind: str  # of the bytes, as are the next five
    bytes_up: int
    numbers: int
    bits: int
    within: str
    sha256: str  # empty: they were not made yet
    norm: float | None  # L2 over all tensors; None where masks hide it
    tensors: tuple[SentTensor, ...]  # none where masks hide them
    sent: bool  # False: the sending was cut short, or is going on
    masked: bool = False  # the server saw only the sum with others
    clip: float = 0.0  # the clipping norm (L2); 0 where nothing was clipped
    noise: float = 0.0  # standard deviation of the noise that this device added to each number

    @property
    def leaving(self) -> Leaving:
        """Return what left, without the hash of the bytes."""
        return Leaving(self.kind, self.bytes_up, self.numbers, self.bits, self.within)

    def to_json(self) -> dict[str, Any]:
        """Return the note as `palate outbox --json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Earlier:
    """The sum of the notes that are no longer kept one by one."""

    updates: int = 0
    bytes_up: int = 0
    last: str = ""  # when the newest of them was sent, ISO 8601, UTC; empty if there is none


def send_update(
    store: Store,
    make: Callable[[], EncoderUpdate],
    *,
    send: Send,
    server: str,
    release: int,
    base: str,
    round: int,  # noqa: A002
    now: datetime,
    cover: Cover | None = None,
    first: Callable[[Store], object] = lambda _: None,
) -> Sent:
    """Note what will leave, have the update made, note its bytes, send them, note that they went.

    Return the note.

    Args:
        store: where the notes are kept.
        make: makes the update; called once the first note is written.
        send: takes the bytes; what it raises is raised, and the note stays without "sent".
        server: the server's name, at most 200 characters.
        release: of the encoder that is trained.
        base: `encoder_hash` of that encoder; the update must have the same.
        round: of the update, which must have the same.
        now: the time of sending, with a zone.
        cover: makes the bytes of a masked round; without it the update goes as it is.
        first: called in the same transaction as the first note, before anything is made; what it raises stops
            everything.

    Raises:
        VaultError: a note cannot be written, so nothing is sent; or the last note, after the bytes have left.
        StorageError: the same.
        OptionError: a server named in no characters, or in too many.
    """
    if not 1 <= len(server) <= MAX_SERVER_CHARACTERS:
        raise OptionError(
            f"a server is named in 1 to {MAX_SERVER_CHARACTERS} characters, not in {len(server)}"
        )
    if now.tzinfo is None:
        raise ValueError("the time of sending needs a zone")
    leaving = what_leaves() if cover is None else cover.leaving
    when = now.astimezone(UTC).isoformat(timespec="microseconds")
    note = Sent(
        id=f"{when}-{secrets.token_hex(4)}",  # sorted by id is sorted by time
        when=when,
        server=server,
        release=release,
        base=base,
        round=round,
        **asdict(leaving),
        sha256="",
        norm=None,
        tensors=(),
        sent=False,
        masked=cover is not None,
        clip=0.0 if cover is None else cover.clip,
        noise=0.0 if cover is None else cover.noise,
    )
    with store.transaction() as change:
        first(Within(change))
        change.put(OUTBOX, note.id, _encode_note(note))
        _sum_up_oldest(change, spare=note.id)
    update = make()
    data = encode_update(update) if cover is None else cover.mask(update)
    if (update.base, update.round, len(data)) != (base, round, leaving.bytes_up):
        raise ValueError("what was made is not what was noted")
    note = replace(note, sha256=hashlib.sha256(data).hexdigest())
    if cover is None:
        tensors = tuple(SentTensor(name, t.shape, norm_of(t)) for name, t in update.tensors.items())
        note = replace(note, norm=update.norm, tensors=tensors)
    _note_again(store, note)
    send(data)
    note = replace(note, sent=True)
    _note_again(store, note)
    return note


def send_handshake(data: bytes, send: Send) -> None:
    """Send what a masked round needs besides the change: keys and shares, nothing personal.

    Raises ValueError for bytes of any other kind.
    """
    if data[: len(MAGIC)] != MAGIC or data[len(MAGIC)] not in HANDSHAKE:
        raise ValueError("only what masked rounds need may leave without a note")
    send(data)


def read_outbox(records: Records) -> list[Sent]:
    """Return the notes on what was sent, at most `KEPT`, the oldest first; raises `VaultDamagedError`."""
    return [_decode_note(records.get(OUTBOX, id_)) for id_ in records.list(OUTBOX)]


def read_earlier(records: Records) -> Earlier:
    """Return the sum of what was sent before the notes that are kept; raises `VaultDamagedError`."""
    if not records.has(OUTBOX_BEFORE, ONLY):
        return Earlier()
    with readable(_A_NOTE):
        content = decode_json(records.get(OUTBOX_BEFORE, ONLY), _VERSION)
        return Earlier(int(content["updates"]), int(content["bytes_up"]), str(content["last"]))


def _note_again(store: Store, note: Sent) -> None:
    with store.transaction() as change:
        if change.has(OUTBOX, note.id):  # unless another process sent a thousand meanwhile
            change.put(OUTBOX, note.id, _encode_note(note))


def _sum_up_oldest(change: Change, *, spare: str) -> None:
    """Keep at most `KEPT` notes and add the others to the sum.

    `spare` is the newest, whatever the clock says.
    """
    before = read_earlier(change)
    others = [id_ for id_ in change.list(OUTBOX) if id_ != spare]
    for id_ in others[: max(0, len(others) + 1 - KEPT)]:
        note = _decode_note(change.get(OUTBOX, id_))
        change.delete(OUTBOX, id_)
        before = Earlier(before.updates + 1, before.bytes_up + note.bytes_up, max(before.last, note.when))
        change.put(OUTBOX_BEFORE, ONLY, encode_json(_VERSION, asdict(before)))


def _encode_note(note: Sent) -> bytes:
    return encode_json(_VERSION, asdict(note))


def _decode_note(data: bytes) -> Sent:
    with readable(_A_NOTE):
        content = decode_json(data, _VERSION)
        if "kind" not in content:  # of the first version, which noted the norms of what was trained
            content |= _what_an_old_note_says(content)
        tensors = tuple(
            SentTensor(str(t["name"]), tuple(int(n) for n in t["shape"]), float(t["norm"]))
            for t in content.pop("tensors")
        )
        return Sent(**content, tensors=tensors)


def _what_an_old_note_says(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a note of the first version lacks, and drop the norms of a masked round."""
    if not content["masked"]:
        return asdict(what_leaves()) | {"bytes_up": content["bytes_up"]}
    unknown = Leaving(MASKED_VECTOR, int(content["bytes_up"]), 0, 0, "not noted")
    return asdict(unknown) | {"norm": None, "tensors": ()}
