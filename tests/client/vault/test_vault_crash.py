"""A crash at any moment leaves the vault in the old or in the new state.

The calls that `durable` makes are recorded, and a model of a file system replays every prefix of them, in
three kinds of crash: everything had reached the disk (a kill), nothing that was not forced had (a power cut),
and a random mixture, in which each unforced change of a name or content arrived, did not, or arrived torn.
Real kills follow.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from palate.client.vault.vault import Vault
from palate.shared import durable
from palate.shared.errors import VaultError, VaultMissingError, WrongPassphraseError

pytestmark = pytest.mark.usefixtures("quick_key")  # thousands of openings

Contents = dict[tuple[str, str], bytes]
FIRST: Contents = {("comment", "a"): b"too gloomy", ("picture", "p"): bytes(700), ("mention", "a"): b"[]"}


@dataclass
class Step:
    """One recorded call; `file` is an identity that no later file shares."""

    kind: str  # link, unlink, rename, mkdir, rmdir, write, truncate, sync, syncdir
    path: str = ""
    target: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """Folders, names and contents at one moment."""

    folders: set[str] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytearray] = field(default_factory=dict)

    @staticmethod
    def read(root: Path) -> "Disk":
        disk = Disk()
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                disk.folders.add(str(path.relative_to(root)))
            else:
                number = len(disk.names)
                disk.names[str(path.relative_to(root))] = number
                disk.data[number] = bytearray(path.read_bytes())
        return disk

    def copy(self) -> "Disk":
        return Disk(set(self.folders), dict(self.names), {k: bytearray(v) for k, v in self.data.items()})

    def lay(self, root: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for folder in sorted(self.folders):
            if (root / folder).parent.is_dir():
                (root / folder).mkdir()
        for name, number in self.names.items():
            if (root / name).parent.is_dir():
                (root / name).write_bytes(self.data.get(number, b""))

    def apply(self, step: Step, torn: random.Random | None = None) -> None:
        if step.kind == "link":
            self.names[step.path] = step.file
            self.data.setdefault(step.file, bytearray())
        elif step.kind == "unlink":
            self.names.pop(step.path, None)
        elif step.kind == "rename":
            self.names.pop(step.path, None)
            self.names[step.target] = step.file
            self.data.setdefault(step.file, bytearray())
        elif step.kind == "mkdir":
            self.folders.add(step.path)
        elif step.kind == "rmdir":
            self.folders.discard(step.path)
        elif step.kind == "truncate":
            self.data[step.file] = bytearray()
        elif step.kind == "write":
            data = step.data
            if torn is not None:
                cut = torn.randrange(len(data) + 1)
                data = data[:cut] + (bytes(len(data) - cut) if torn.random() < 0.5 else b"")
            content = self.data.setdefault(step.file, bytearray())
            content.extend(bytes(max(0, step.offset + len(data) - len(content))))
            content[step.offset : step.offset + len(data)] = data


class RecordingOs:
    """Stands in for `os` in `durable`: does what it is asked and writes down what may be lost in a crash."""

    def __init__(self, root: Path, start: Disk, *, forget_syncs: bool = False) -> None:
        self.root, self.steps, self.forget_syncs = root, list[Step](), forget_syncs
        self.names = dict(start.names)
        self.next_file = 1_000_000
        self.open_files: dict[int, list[int]] = {}  # descriptor -> [file, offset]
        self.open_folders: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def name(self, path: Any) -> str:
        return str(Path(path).relative_to(self.root))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        existed = os.path.exists(path)
        descriptor = os.open(path, flags, mode)
        if os.path.isdir(path):
            self.open_folders[descriptor] = self.name(path)
            return descriptor
        name = self.name(path)
        if not existed:
            self.names[name] = self.next_file
            self.next_file += 1
            self.steps.append(Step("link", name, file=self.names[name]))
        elif flags & os.O_TRUNC:
            self.steps.append(Step("truncate", file=self.names[name]))
        self.open_files[descriptor] = [self.names[name], 0]
        return descriptor

    def close(self, descriptor: int) -> None:
        self.open_files.pop(descriptor, None)
        self.open_folders.pop(descriptor, None)
        os.close(descriptor)

    def write(self, descriptor: int, data: Any) -> int:
        done = os.write(descriptor, data)
        file, offset = self.open_files[descriptor]
        self.steps.append(Step("write", file=file, offset=offset, data=bytes(data[:done])))
        self.open_files[descriptor][1] += done
        return done

    def fsync(self, descriptor: int) -> None:
        if self.forget_syncs:
            return
        if descriptor in self.open_folders:
            self.steps.append(Step("syncdir", self.open_folders[descriptor]))
        else:
            self.steps.append(Step("sync", file=self.open_files[descriptor][0]))

    def replace(self, source: Any, target: Any) -> None:
        os.replace(source, target)
        file = self.names.pop(self.name(source))
        self.names[self.name(target)] = file
        self.steps.append(Step("rename", self.name(source), self.name(target), file))

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self.names.pop(self.name(path))
        self.steps.append(Step("unlink", self.name(path)))

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        os.mkdir(path, mode)
        self.steps.append(Step("mkdir", self.name(path)))

    def rmdir(self, path: Any) -> None:
        os.rmdir(path)
        self.steps.append(Step("rmdir", self.name(path)))


def mark_lasting(steps: list[Step]) -> list[bool]:
    """Say of each step whether a later sync forced it to the disk."""
    lasting = [False] * len(steps)
    for index, step in enumerate(steps):
        for earlier in range(index):
            other = steps[earlier]
            of_file = step.kind == "sync" and other.kind in ("write", "truncate") and other.file == step.file
            of_folder = step.kind == "syncdir" and other.path and str(Path(other.path).parent) == step.path
            if of_file or of_folder:
                lasting[earlier] = True
    return lasting


def crashes(start: Disk, steps: list[Step], mixtures: int, seed: int) -> Iterator[tuple[int, Disk]]:
    """Yield (length of the prefix, disk) for every prefix of the steps and every kind of crash."""
    rng = random.Random(seed)
    for length in range(len(steps) + 1):
        prefix = steps[:length]
        lasting = mark_lasting(prefix)
        for kind in ["kill", "cut", *["mixture"] * mixtures]:
            disk = start.copy()
            for step, sure in zip(prefix, lasting, strict=True):
                if sure or kind == "kill":
                    disk.apply(step)
                elif kind == "mixture":
                    fate = rng.choice(("lost", "whole", "torn"))
                    if fate != "lost":
                        disk.apply(step, rng if fate == "torn" else None)
            yield length, disk


def contents(home: Path, passphrase: str = "pw") -> Contents | None:  # noqa: S107 - a test's own
    """Everything in the vault, or None if there is none; any other failure is the test's."""
    try:
        with Vault.open(home, passphrase) as opened:
            found = {(t, i): opened.get(t, i) for t in opened.types() for i in opened.list(t)}
            assert len(list((home / "records").iterdir())) == len(found), (
                "a crash's leftovers were not cleared away"
            )
            return found
    except VaultMissingError:
        return None


def fill(home: Path, records: Contents) -> None:
    with Vault.open(home, "pw") as opened, opened.transaction() as change:
        for name, content in records.items():
            change.put(*name, content)


def record(
    root: Path, deed: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *, forget_syncs: bool = False
) -> tuple[Disk, list[Step]]:
    start = Disk.read(root)
    recorder = RecordingOs(root, start, forget_syncs=forget_syncs)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", recorder)
        deed()
    return start, recorder.steps


@pytest.fixture(params=[3, pytest.param(60, marks=pytest.mark.slow)], ids=["sampled", "many"])
def mixtures(request: pytest.FixtureRequest) -> int:
    """How many random mixtures are tried after each step."""
    return int(request.param)


def check_all(
    root: Path,
    start: Disk,
    steps: list[Step],
    mixtures: int,
    look: Callable[[Path], Any],
    old: Any,
    new: Any,
) -> int:
    """Open every crash state; it must be old or new, and new once the change was reported as made."""
    seen = {"old": 0, "new": 0}
    scene = root.parent / "scene"
    for length, disk in crashes(start, steps, mixtures, seed=len(steps)):
        disk.lay(scene)
        state = look(scene / "vault")
        assert state in (old, new), f"neither old nor new after step {length} of {len(steps)}"
        seen["old" if state == old else "new"] += 1
        if length == len(steps):
            assert state == new, "the change was reported as made and is lost"
        # Recovery itself changed the disk: the state it chose is the one that stays, and the vault works on.
        assert look(scene / "vault") == state
    assert seen["old"] > len(steps) // 3
    assert seen["new"] > mixtures
    return sum(seen.values())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a vault in it that holds the first records."""
    root = tmp_path / "root"
    root.mkdir()
    Vault.create(root / "vault", "pw").close()
    fill(root / "vault", FIRST)
    return root


def test_the_first_records_are_there_together_or_not_at_all(
    tmp_path: Path, mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Vault.create(root / "vault", "pw").close()
    start, steps = record(root, lambda: fill(root / "vault", FIRST), monkeypatch)
    check_all(root, start, steps, mixtures, contents, {}, FIRST)


def test_replacing_adding_and_forgetting_happen_together_or_not_at_all(
    root: Path, mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deed() -> None:
        with Vault.open(root / "vault", "pw") as opened, opened.transaction() as change:
            change.delete("picture", "p")
            change.put("comment", "a", b"better")
            change.put("comment", "b", b"another")

    new: Contents = {
        ("comment", "a"): b"better",
        ("comment", "b"): b"another",
        ("mention", "a"): b"[]",
    }
    start, steps = record(root, deed, monkeypatch)
    check_all(root, start, steps, mixtures, contents, FIRST, new)


def test_a_change_after_a_crash_stands_on_what_the_crash_left(
    root: Path, mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, steps = record(root, lambda: fill(root / "vault", {("comment", "b"): b"2"}), monkeypatch)
    scene = root.parent / "scene"
    for _, disk in crashes(start, steps, max(1, mixtures // 4), seed=1):
        disk.lay(scene)
        before = contents(scene / "vault")
        assert before is not None
        fill(scene / "vault", {("comment", "c"): b"3"})
        assert contents(scene / "vault") == before | {("comment", "c"): b"3"}


def test_a_crash_while_recovering_from_a_crash_changes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, steps = record(root, lambda: fill(root / "vault", {("comment", "b"): b"2"}), monkeypatch)
    scene = root.parent / "again"
    for length, disk in list(crashes(start, steps, 0, seed=2))[::3]:
        disk.lay(scene)
        middle, recovery = record(scene, lambda: Vault.open(scene / "vault", "pw").close(), monkeypatch)
        chosen = contents(scene / "vault")
        for _, second in crashes(middle, recovery, 2, seed=length):
            second.lay(scene)
            assert contents(scene / "vault") == chosen


def test_changing_the_passphrase_leaves_the_old_or_the_new_one(
    root: Path, mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deed() -> None:
        with Vault.open(root / "vault", "pw") as opened:
            opened.change_passphrase("new")

    def opens(home: Path) -> list[str]:
        found = []
        for passphrase in ("pw", "new"):
            try:
                assert contents(home, passphrase) == FIRST
                found.append(passphrase)
            except WrongPassphraseError:
                pass
        return found

    start, steps = record(root, deed, monkeypatch)
    check_all(root, start, steps, mixtures, opens, ["pw"], ["new"])


def test_creating_leaves_no_vault_or_an_empty_one(
    tmp_path: Path, mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    start, steps = record(root, lambda: Vault.create(root / "vault", "pw").close(), monkeypatch)
    check_all(root, start, steps, mixtures, contents, None, {})
    for _, disk in crashes(start, steps, 1, seed=3):
        disk.lay(tmp_path / "scene")
        if contents(tmp_path / "scene" / "vault") is None:
            Vault.create(tmp_path / "scene" / "vault", "pw").close()
        assert contents(tmp_path / "scene" / "vault") == {}


def test_erasing_leaves_the_whole_vault_or_none(
    root: Path, mixtures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, steps = record(root, lambda: Vault.erase(root / "vault"), monkeypatch)
    check_all(root, start, steps, mixtures, contents, FIRST, None)
    for _, disk in crashes(start, steps, 1, seed=4):
        disk.lay(root.parent / "scene")
        home = root.parent / "scene" / "vault"
        if contents(home) is None:
            Vault.create(home, "pw").close()
            assert contents(home) == {}


def test_the_simulation_finds_a_writer_that_forgets_to_sync(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, steps = record(
        root, lambda: fill(root / "vault", {("comment", "b"): b"2"}), monkeypatch, forget_syncs=True
    )
    outcomes: list[str] = []
    for length, disk in crashes(start, steps, 3, seed=5):
        disk.lay(root.parent / "scene")
        try:
            state = contents(root.parent / "scene" / "vault")
            if length == len(steps) and state == FIRST:
                outcomes.append("lost")
        except VaultError as error:
            outcomes.append(type(error).__name__)
    assert "lost" in outcomes
    assert "VaultDamagedError" in outcomes


WORKER = """
import sys
from palate.client.vault import vault
vault.derive_key = lambda passphrase, salt: (passphrase.encode() + salt + bytes(32))[:32]
with vault.Vault.open(sys.argv[1], "pw") as opened:
    number = int(opened.get("count", "a")) if opened.has("count", "a") else 0
    print("ready", flush=True)
    while True:
        number += 1
        with opened.transaction() as change:
            change.put("count", "a", str(number).encode())
            change.put("count", "b", str(number).encode() * 1000)
            if change.has("odd", "x"):
                change.delete("odd", "x")
            else:
                change.put("odd", "x", b"x")
        print(number, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_a_killed_process_leaves_the_last_or_the_next_state(kills: int, tmp_path: Path) -> None:
    home = tmp_path / "vault"
    Vault.create(home, "pw").close()
    rng = random.Random(kills)
    reached = 0
    for _ in range(kills):
        command = [sys.executable, "-c", WORKER, str(home)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 0.1)
            worker.kill()
            reported = max([reached, *map(int, worker.stdout.read().split())])
        with Vault.open(home, "pw") as opened:
            if reported == 0 and not opened.has("count", "a"):
                continue
            reached = int(opened.get("count", "a"))
            assert reached in (reported, reported + 1)
            assert opened.get("count", "b") == str(reached).encode() * 1000
            assert opened.has("odd", "x") == (reached % 2 == 1)
            opened.verify()
    assert reached > 0


PASSPHRASE_WORKER = """
import sys
from palate.client.vault import vault
vault.derive_key = lambda passphrase, salt: (passphrase.encode() + salt + bytes(32))[:32]
with vault.Vault.open(sys.argv[1], sys.argv[2]) as opened:
    print("ready", flush=True)
    for number in range(int(sys.argv[2]) + 1, 10_000_000):
        opened.change_passphrase(str(number))
        print(number, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_a_killed_change_of_the_passphrase_leaves_the_last_or_the_next_one(
    kills: int, tmp_path: Path
) -> None:
    home = tmp_path / "vault"
    with Vault.create(home, "0") as vault_, vault_.transaction() as change:
        for name, content in FIRST.items():
            change.put(*name, content)
    rng = random.Random(kills)
    passphrase = 0
    for _ in range(kills):
        command = [sys.executable, "-c", PASSPHRASE_WORKER, str(home), str(passphrase)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            time.sleep(rng.random() * 0.1)
            worker.kill()
            reported = max([passphrase, *map(int, worker.stdout.read().split())])
        opening = []
        for number in range(max(0, reported - 1), reported + 3):
            try:
                assert contents(home, str(number)) == FIRST
                opening.append(number)
            except WrongPassphraseError:
                pass
        assert opening in ([reported], [reported + 1])
        (passphrase,) = opening
    assert passphrase > 0
