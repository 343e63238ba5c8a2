"""Writes the server's files so that a kill, a power cut or a full disk leaves the old or the new content, never a mixture.

Data is written to a new file and forced to the disk before a rename makes it visible, and the folder is forced to the disk
after it (Pillai et al., OSDI 2014). The device's vault does the same with seals and scrubbing on top; neither side imports
the other, so these few lines exist twice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from palate.shared.errors import StorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone needs to be told


def write_atomically(path: Path, data: bytes, *, consequence: str) -> None:
    """Give `path` new content in one step; raises StorageError, which ends with the `consequence`, if it cannot be done."""
    beside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(beside, data)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path, consequence) from None


def storage_error(error: OSError, path: Path, consequence: str) -> StorageError:
    """Say in one line what the operating system refused, and what that means."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return StorageError(
            f"the disk is full: {path} cannot be written; {consequence}; free some room and start again"
        )
    return StorageError(f"{path} cannot be used ({error.strerror or type(error).__name__}); {consequence}")


@contextlib.contextmanager
def held(path: Path, wait_seconds: float, owner: str) -> Iterator[None]:
    """Hold a lock file while the block runs; the operating system releases it when its holder dies.

    Raises StorageError, which names the `owner`, when another process still holds it after `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while not _taken(descriptor):
            if time.monotonic() >= deadline:
                raise StorageError(
                    f"{owner} is in use by another process; let that one finish or end it, then try again"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    if sys.platform == "win32":  # has no such call and needs none
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and say so
            raise
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
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
