"""Nobody who may write in a folder leads what we write into another file.

Leftovers go; a folder is taken back from others.
"""

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from palate.shared import durable
from palate.shared.errors import StorageError, VaultBusyError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX links and permissions")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the person's that has nothing to do with us."""
    (tmp_path / "elsewhere").mkdir()
    victim = tmp_path / "elsewhere" / "victim"
    victim.write_bytes(b"precious")
    return victim


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The file that is written, in a folder of its own."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "file"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_at_a_name_that_can_be_foretold_is_of_no_use(victim: Path, place: Path) -> None:
    for name in ("file.new", "file.part", ".file.new"):
        (place.parent / name).symlink_to(victim)
    durable.write_atomically(place, b"ours")
    durable.write_atomically(place, b"ours again", consequence="nothing was kept")
    assert victim.read_bytes() == b"precious"
    assert place.read_bytes() == b"ours again"
    assert not place.is_symlink()
    assert mode_of(place) == 0o600


def test_where_the_name_is_fixed_and_links_are_followed_the_same_attack_works(
    victim: Path, place: Path
) -> None:
    beside = place.with_name("file.new")
    beside.symlink_to(victim)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, b"ours")
    os.close(descriptor)
    os.replace(beside, place)
    assert victim.read_bytes() == b"ours"
    assert place.is_symlink()


def test_even_a_link_at_the_random_name_is_not_written_through(
    victim: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable.secrets, "token_hex", lambda count: "0" * 2 * count)
    (place.parent / f"file.{'0' * 16}.new").symlink_to(victim)
    with pytest.raises(FileExistsError):
        durable.write_atomically(place, b"ours")
    with pytest.raises(StorageError, match="nothing was kept") as caught:
        durable.write_atomically(place, b"ours", consequence="nothing was kept")
    assert "\n" not in str(caught.value)
    assert victim.read_bytes() == b"precious"


def test_no_link_is_followed_where_a_file_is_overwritten_read_or_locked(victim: Path, place: Path) -> None:
    place.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), durable.holding(place) as scrub:
        scrub()
    with pytest.raises(OSError, match="symbolic links"):
        durable.read_file(place, 100)
    with pytest.raises(OSError, match="symbolic links"), durable.locked(place, 0, "the file"):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        durable.make_private(place)
    assert victim.read_bytes() == b"precious"


def test_a_pipe_in_a_files_place_does_not_hang_who_reads(place: Path) -> None:
    os.mkfifo(place)
    with pytest.raises(OSError, match="not a regular file"):
        durable.read_file(place, 100)


def test_what_a_killed_writer_left_goes_with_a_later_writing_and_what_is_written_now_stays(
    place: Path,
) -> None:
    old, young, other = (
        durable.name_beside(place),
        durable.name_beside(place),
        place.with_name("file.mine.new"),
    )
    for path in (old, young, other):
        path.write_bytes(b"half")
    hours_ago = time.time() - 2 * durable.LEFTOVER_SECONDS
    for path in (old, other):
        os.utime(path, (hours_ago, hours_ago))
    durable.write_atomically(place, b"ours")
    assert not old.exists()
    assert young.exists()
    assert other.exists()
    durable.clear_beside(place)
    assert sorted(one.name for one in place.parent.iterdir()) == ["file", "file.mine.new"]


def test_a_folder_and_a_file_are_taken_back_from_others(place: Path) -> None:
    place.write_bytes(b"")
    place.chmod(0o666)
    place.parent.chmod(0o777)
    assert durable.make_private(place.parent) == (0o777, 0o700)
    assert durable.make_private(place) == (0o666, 0o600)
    assert (mode_of(place.parent), mode_of(place)) == (0o700, 0o600)
    assert durable.make_private(place.parent) is None


def test_what_is_another_users_is_refused_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(place.parent, 65534, 65534)
    monkeypatch.setattr(durable.os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionError, match="another user, 65534; name a place of your own"):
        durable.make_private(place.parent)


def test_root_may_use_another_users_place_and_not_make_one_there(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(place.parent, 65534, 65534)
    assert durable.make_private(place.parent) == (0o755, 0o700)
    with pytest.raises(PermissionError, match="another user, 65534"):
        durable.make_private(place.parent, ours=True)


def test_a_disk_without_modes_is_used_as_it_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    place.parent.chmod(0o777)
    monkeypatch.setattr(durable.os, "fchmod", refuse)
    assert durable.make_private(place.parent) == (0o777, 0o777)


def test_a_lock_on_a_file_that_has_lost_its_name_keeps_nobody_out(place: Path) -> None:
    inside, go_on, seen = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        with durable.locked(place, 0, "the folder"):
            inside.set()
            go_on.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(20)
    with pytest.raises(VaultBusyError, match="the folder is in use"), durable.locked(place, 0, "the folder"):
        pass
    with (
        pytest.raises(StorageError, match="the folder is in use"),
        durable.locked(place, 0, "the folder", busy=StorageError),
    ):
        pass
    place.unlink()  # as erasing a vault does
    with durable.locked(place, 0, "the folder"):
        seen.append("second")
    go_on.set()
    holder.join()
    assert seen == ["second"]


def test_a_taken_lock_lives_as_long_as_its_descriptor_and_its_copies(place: Path) -> None:
    descriptor = durable.take_lock(place)
    assert descriptor is not None
    assert durable.take_lock(place) is None
    copy = os.dup(descriptor)
    os.close(descriptor)
    assert durable.take_lock(place) is None
    place.unlink()  # the holder's file has lost its name, and keeps nobody out
    other = durable.take_lock(place)
    assert other is not None
    os.close(copy)
    os.close(other)
