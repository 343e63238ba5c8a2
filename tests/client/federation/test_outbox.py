"""The one door out: noted before it goes, nothing without a note, and no other way for an update to leave."""

import ast
import errno
import json
import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pytest

from palate.client.federation import outbox
from palate.client.federation.outbox import (
    OUTBOX,
    Cover,
    Earlier,
    Leaving,
    Sent,
    SentTensor,
    read_earlier,
    read_outbox,
    send_update,
    what_leaves,
)
from palate.client.vault.store import MemoryStore
from palate.client.vault.vault import Vault
from palate.shared import durable
from palate.shared.encoder import SHARED_SHAPES
from palate.shared.errors import OptionError, PrivacyBudgetError, StorageError, VaultDamagedError, VaultError
from palate.shared.secure_sum.messages import masked_bytes
from palate.shared.update import EncoderUpdate
from palate.shared.wire import UPDATE_BYTES, decode_update, encode_update

ROOT = Path(__file__).resolve().parents[3]
SERVER = "127.0.0.1:9092"
BASE = "ab" * 32
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("remembered_keys")


def update(round_: int = 4) -> EncoderUpdate:
    """An update whose lengths one can say by heart: 3 in one tensor, 4 in another, 5 in all."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in SHARED_SHAPES.items()}
    tensors["picture.hidden.bias"][1] = 3
    tensors["sentence.taste.bias"][2] = -4
    return EncoderUpdate(BASE, round_, tensors)


def send(store: Any, send: Any = lambda data: None, *, round_: int = 4, now: datetime = NOON) -> Sent:
    return give(store, update(round_), send=send, server=SERVER, release=2, now=now)


def give(store: Any, what: EncoderUpdate, **options: Any) -> Sent:
    return send_update(store, lambda: what, base=what.base, round=what.round, **options)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.create(tmp_path / "vault", "correct horse battery") as made:
        yield made


@pytest.fixture(params=["vault", "memory"])
def store(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("vault") if request.param == "vault" else MemoryStore()


# --- the note -----------------------------------------------------------------------------------------------


def test_the_note_says_what_left_when_and_to_whom(store: Any) -> None:
    left: list[bytes] = []
    note = send(store, left.append)
    (data,) = left
    assert read_outbox(store) == [note]
    assert (note.when, note.server, note.release) == ("2026-03-01T12:00:00.000000+00:00", SERVER, 2)
    assert (note.base, note.round, note.sent) == (BASE, 4, True)
    assert (note.bytes_up, note.sha256) == (len(data), sha256(data).hexdigest())
    assert note.bytes_up == UPDATE_BYTES
    assert note.norm == 5
    norms = {"picture.hidden.bias": 3.0, "sentence.taste.bias": 4.0}
    assert note.tensors == tuple(
        SentTensor(name, shape, norms.get(name, 0.0)) for name, shape in SHARED_SHAPES.items()
    )


def test_what_leaves_is_the_update_and_nothing_else(store: Any) -> None:
    left: list[bytes] = []
    send(store, left.append)
    assert left == [encode_update(update())]
    assert decode_update(left[0], base=BASE, round=4) == update()


def test_the_note_is_on_the_disk_before_the_first_byte_leaves(vault: Vault) -> None:
    seen: list[Sent] = []

    def look(data: bytes) -> None:
        with Vault.open(vault.home, "correct horse battery") as other:
            seen.extend(read_outbox(other))
        assert seen[0].sha256 == sha256(data).hexdigest()

    note = send(vault, look)
    assert [one.sent for one in seen] == [False]
    assert seen[0].id == note.id
    assert [one.sent for one in read_outbox(vault)] == [True]


KILLED = """
import os, sys
from datetime import UTC, datetime
import numpy as np
from palate.client.federation.outbox import send_update
from palate.client.vault.vault import Vault
from palate.shared.encoder import SHARED_SHAPES
from palate.shared.secure_sum.messages import masked_bytes
from palate.shared.update import EncoderUpdate

update = EncoderUpdate("ab" * 32, 4, {n: np.zeros(s, np.float32) for n, s in SHARED_SHAPES.items()})
vault = Vault.open(sys.argv[1], "correct horse battery")
def stop(data):
    os.kill(os.getpid(), 9)
send_update(
    vault, lambda: update, base=update.base, round=4,
    send=stop, server="127.0.0.1:9092", release=2, now=datetime.now(UTC),
)
"""


def test_a_device_that_is_killed_while_it_sends_keeps_the_note(vault: Vault) -> None:
    with Popen([sys.executable, "-c", KILLED, str(vault.home)], stderr=PIPE) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == -9, said
    (note,) = read_outbox(vault)
    assert not note.sent
    assert note.bytes_up == UPDATE_BYTES


def test_a_failed_sending_is_told_and_stays_without_sent(store: Any) -> None:
    def fail(data: bytes) -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        send(store, fail)
    assert [one.sent for one in read_outbox(store)] == [False]


def test_nothing_leaves_when_the_vault_is_closed(vault: Vault) -> None:
    left: list[bytes] = []
    vault.close()
    with pytest.raises(VaultError, match="closed"):
        send(vault, left.append)
    assert not left


def test_nothing_leaves_when_the_disk_is_full(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bytes] = []

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", full)
        with pytest.raises(StorageError):
            send(vault, left.append)
    assert not left
    assert read_outbox(vault) == []
    send(vault, left.append)
    assert len(left) == 1


def test_notes_lie_sealed(vault: Vault) -> None:
    note = send(vault)
    files = [path.read_bytes() for path in vault.home.rglob("*") if path.is_file()]
    needles = [SERVER, note.sha256, note.base, "picture.hidden.bias", note.when]
    assert len(files) >= 2
    assert not [needle for needle in needles for data in files if needle.encode() in data]
    assert all(needle in json.dumps(note.to_json()) for needle in needles)  # they are what is kept


def test_times_are_written_in_utc_and_notes_come_oldest_first(store: Any) -> None:
    east = timezone(timedelta(hours=9))
    send(store, now=datetime(2026, 3, 1, 21, 30, tzinfo=east), round_=5)  # 12:30 UTC
    send(store, now=NOON, round_=4)
    send(store, now=NOON, round_=4)
    notes = read_outbox(store)
    assert [one.when[11:16] for one in notes] == ["12:00", "12:00", "12:30"]
    assert [one.round for one in notes] == [4, 4, 5]
    with pytest.raises(ValueError, match="zone"):
        send(store, now=datetime(2026, 3, 1))
    assert len(read_outbox(store)) == 3


@pytest.mark.parametrize("server", ["", "x" * 201])
def test_a_server_without_a_sensible_name_gets_nothing(store: Any, server: str) -> None:
    left: list[bytes] = []
    with pytest.raises(OptionError, match="1 to 200 characters"):
        give(store, update(), send=left.append, server=server, release=0, now=NOON)
    assert not left
    assert read_outbox(store) == []


# --- what is noted of a masked round ------------------------------------------------------------------------

COVER = Cover(what_leaves(4_096, 16, "cd" * 32), lambda update: bytes(masked_bytes(4_097, 16)), 0.5, 0.25)


def test_the_note_of_a_masked_round_says_what_left_and_no_length_of_what_was_trained(store: Any) -> None:
    left: list[bytes] = []
    note = give(store, update(), send=left.append, server=SERVER, release=2, now=NOON, cover=COVER)
    assert read_outbox(store) == [note]
    assert note.leaving == Leaving("masked vector", len(left[0]), 4_097, 16, "cd" * 32)
    assert note.sha256 == sha256(left[0]).hexdigest()
    assert (note.masked, note.norm, note.tensors, note.clip, note.noise) == (True, None, (), 0.5, 0.25)
    small, large = (
        give(store, one, send=left.append, server=SERVER, release=2, now=NOON, cover=COVER)
        for one in (update(), EncoderUpdate(BASE, 4, {n: t * 0 for n, t in update().tensors.items()}))
    )
    assert replace(small, id="") == replace(large, id="")


def test_the_note_is_written_before_the_update_is_made(store: Any) -> None:
    seen: list[Sent] = []

    def make() -> EncoderUpdate:
        seen.extend(read_outbox(store))
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        send_update(
            store, make, base=BASE, round=4, send=lambda data: None, server=SERVER, release=2, now=NOON
        )
    assert [(one.sha256, one.bytes_up, one.sent) for one in seen] == [("", UPDATE_BYTES, False)]
    assert read_outbox(store) == seen


def test_what_stops_the_first_note_stops_everything(store: Any) -> None:
    def refuse(store: Any) -> None:
        raise PrivacyBudgetError("too much")

    with pytest.raises(PrivacyBudgetError):
        give(store, update(), send=pytest.fail, server=SERVER, release=2, now=NOON, first=refuse)
    assert read_outbox(store) == []


def test_bytes_other_than_those_that_were_noted_are_not_sent(store: Any) -> None:
    cover = replace(COVER, mask=lambda update: b"short")
    with pytest.raises(ValueError, match="not what was noted"):
        give(store, update(), send=pytest.fail, server=SERVER, release=2, now=NOON, cover=cover)


def test_a_note_of_the_first_version_is_read_without_the_lengths_that_never_left(store: Any) -> None:
    old = {
        "version": 1, "id": "a", "when": "2026-03-01T12:00:00.000000+00:00", "server": SERVER, "release": 0,
        "base": BASE, "round": 1, "bytes_up": 8_330, "sha256": "ef" * 32, "norm": 4.681,
        "tensors": [{"name": "picture.hidden.bias", "shape": [128], "norm": 4.681}], "sent": True,
        "masked": True, "clip": 0.15, "noise": 0.1,
    }  # fmt: skip
    with store.transaction() as change:
        change.put(OUTBOX, "a", json.dumps(old).encode())
        change.put(OUTBOX, "b", json.dumps(old | {"masked": False, "bytes_up": UPDATE_BYTES}).encode())
    masked, plain = read_outbox(store)
    assert (masked.bytes_up, masked.norm, masked.tensors) == (8_330, None, ())
    assert (plain.leaving, plain.norm) == (what_leaves(), 4.681)


# --- many notes ---------------------------------------------------------------------------------------------


def test_old_notes_become_a_sum_so_that_the_vault_stays_small(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "KEPT", 3)
    assert read_earlier(store) == Earlier(0, 0, "")
    for number in range(1, 8):
        send(store, round_=number, now=NOON + timedelta(minutes=number))
    assert [one.round for one in read_outbox(store)] == [5, 6, 7]
    assert read_earlier(store) == Earlier(4, 4 * UPDATE_BYTES, "2026-03-01T12:04:00.000000+00:00")


def test_a_clock_that_was_put_back_does_not_hide_the_newest_note(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "KEPT", 2)
    send(store, round_=1)
    send(store, round_=2, now=NOON + timedelta(hours=1))
    send(store, round_=3, now=NOON - timedelta(days=400))
    assert [(one.round, one.sent) for one in read_outbox(store)] == [(3, True), (2, True)]
    assert read_earlier(store).updates == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[]", b'{"version": 2}', b'{"version": 1}', b'{"version": 1, "tensors": 7}', b"\xff"],
)
def test_a_note_of_another_version_is_one_clear_line(store: Any, content: bytes) -> None:
    with store.transaction() as change:
        change.put(OUTBOX, "a", content)
        change.put(outbox.OUTBOX_BEFORE, "only", content)
    for read in (read_outbox, read_earlier):
        with pytest.raises(VaultDamagedError, match="a note in the outbox cannot be read"):
            read(store)


def test_notes_of_infinite_length_are_impossible_and_tiny_ones_exact(store: Any) -> None:
    tensors = {name: np.full(shape, 1e-45, np.float32) for name, shape in SHARED_SHAPES.items()}
    note = give(
        store, EncoderUpdate(BASE, 1, tensors), send=lambda data: None, server=SERVER, release=0, now=NOON
    )
    assert note.norm is not None
    assert 0 < note.norm < 1e-40
    assert read_outbox(store)[0] == note
    assert all(math.isfinite(one.norm) for one in note.tensors)


# --- the only door ------------------------------------------------------------------------------------------

MAKES_BYTES = {"encode_update", "add_checksum"}


def ways_out(source: str) -> list[str]:
    """Where this source names a function that makes the bytes of an update, however it gets at it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and node.module == "palate.shared.wire" and "*" in names:
                names = ["encode_update"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        found += [f"line {getattr(node, 'lineno', 0)}: {name}" for name in names if name in MAKES_BYTES]
    return found


def test_no_other_file_of_the_device_can_make_the_bytes_of_an_update() -> None:
    files = sorted(path for path in (ROOT / "client").rglob("*.py") if path.name != "outbox.py")
    assert len(files) > 30
    uses = {str(path.relative_to(ROOT)): ways_out(path.read_text(encoding="utf-8")) for path in files}
    assert not {path: found for path, found in uses.items() if found}


def test_the_outbox_makes_them_in_one_place_between_the_two_notes() -> None:
    tree = ast.parse((ROOT / "client" / "federation" / "outbox.py").read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in MAKES_BYTES and isinstance(node.ctx, ast.Load)
    ]
    (door,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "send_update"]
    assert len(calls) == 1
    assert calls[0] in set(ast.walk(door))


@pytest.mark.parametrize(
    "line",
    [
        "from palate.shared.wire import encode_update",
        "from palate.shared.wire import encode_update as pack\npack(1)",
        "from palate.shared.wire import *",
        "from palate.shared import wire\nwire.encode_update(1)",
        "import palate.shared.wire as w\nw.add_checksum(b'')",
        "import palate.shared.wire\ngetattr(palate.shared.wire, 'encode_update')(1)",
        "from palate.client.federation import outbox\noutbox.encode_update(1)",
    ],
)
def test_the_search_for_other_ways_out_finds_them(line: str) -> None:
    assert ways_out(line)


def test_the_search_leaves_reading_and_the_door_itself_alone() -> None:
    assert not ways_out(
        "from palate.shared.wire import decode_task\nfrom palate.client.federation.outbox import send_update"
    )


def test_the_memory_log_is_a_log_like_the_vault(vault: Vault) -> None:
    memory = MemoryStore()
    for store in (memory, vault):
        assert isinstance(store.transaction(), AbstractContextManager)
        with store.transaction() as change:
            change.put("a", "2", b"two")
            change.put("a", "1", b"one")
            change.put("b", "3", b"three")
            change.delete("b", "3")
        assert (store.list("a"), store.list("b"), store.has("a", "1"), store.has("b", "3")) == (
            ("1", "2"),
            (),
            True,
            False,
        )
        with pytest.raises(KeyError):
            store.get("b", "3")
