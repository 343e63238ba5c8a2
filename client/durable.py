"""Writes files so that a kill, a power cut or a full disk leaves the old or the new content, never a mixture.

The sealed store (`vault`) does all its writing through these few functions. The order of things is the argument: data
is written to a new file and forced to the disk *before* a rename makes it visible, and the folder is forced to the disk
*after* it (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, shows what goes wrong otherwise). The
tests record the calls made here and replay every crash that they allow.

A lock of the operating system (`flock` on POSIX, `msvcrt` on Windows) keeps two writers apart; it is released when its
holder dies, so there is no stale lock to remove by hand.
"""

# The calls of `os` are spelled out because their order, and each single one, is what is tested.

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from palate.shared.errors import StorageError, VaultBusyError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone needs to be told


def write_file(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file for its owner's eyes only (0600) and force its content to the disk.

    `replace` says that a leftover of the same name may be overwritten; the name itself is not durable before
    `sync_folder`. A file that could not be written whole is removed again. Raises `OSError`.
    """
    flags = os.O_WRONLY | os.O_CREAT | _BINARY | (os.O_TRUNC if replace else os.O_EXCL)
    descriptor = os.open(path, flags, 0o600)
    try:
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Give `path` new content in one step: beside it, forced to the disk, renamed over it, folder forced too."""
    beside = path.with_name(path.name + ".new")
    write_file(beside, data, replace=True)
    rename(beside, path)
    sync_folder(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename over an existing file, in one step; lasting only after `sync_folder`."""
    os.replace(source, target)


def remove(path: Path) -> None:
    """Remove a file; one that is gone already is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, for its owner's eyes only; one that exists is left as it is."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name", str(path))
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder if it is empty; otherwise leave it and what is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk (Windows has no such call and needs none)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and say so
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def holding(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the file that has this name now, and give a function that overwrites it with zeros.

    Used around a rename: the old file loses its name by it, and its bytes would stay on the disk until something else
    needs the room. Best effort: disks that write elsewhere (flash, copy-on-write) keep the old bytes, and Windows,
    which does not rename over a file that is held, does nothing here.
    """
    if sys.platform == "win32":
        yield lambda: None
        return
    descriptor = os.open(path, os.O_WRONLY | _BINARY)

    def scrub() -> None:
        _write_all(descriptor, bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)

    try:
        yield scrub
    finally:
        os.close(descriptor)


def read_file(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most `limit_bytes`; raises `OSError`, with `EFBIG` for a longer one."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, "too large", str(path))
    return data


@contextlib.contextmanager
def locked(path: Path, wait_seconds: float, owner: str) -> Iterator[None]:
    """Hold the lock file `path` for as long as the block runs; `owner` names in the error what is locked.

    Raises `VaultBusyError` when another process (or another opening in this one) still holds it after `wait_seconds`.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o600)
        try:
            if _take_lock(descriptor) and _still_named(descriptor, path):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise VaultBusyError(
                f"{owner} is in use by another process, and still was after {wait_seconds:g} s; "
                "let that one finish or end it, then try again (nothing was changed)"
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)  # closing releases the lock


def storage_error(error: OSError, place: Path, consequence: str) -> StorageError:
    """Say in one line what the operating system refused, and what that means for the person."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return StorageError(
            f"the disk is full: {place} cannot be written; {consequence}; free some room and try again"
        )
    reason = error.strerror or type(error).__name__
    return StorageError(f"{place} cannot be used ({reason}); {consequence}")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _take_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _still_named(descriptor: int, path: Path) -> bool:
    # Erasing a vault removes its lock file: a lock on a file that has lost its name keeps nobody out.
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
