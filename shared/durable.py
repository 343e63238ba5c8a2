"""Writes files so that a kill, a power cut or a full disk leaves the old or the new content, never a mixture.

Where it stands in the flow: the device's sealed store and the server's folder do all their writing here. The
order of the steps is the argument: data is written to a new file and forced to the disk *before* a rename
makes it visible, and the folder is forced to the disk *after* it (Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014, shows what goes wrong otherwise). The tests record the calls made here and replay
every crash that they allow.

**A folder that others may write in.** The new file has a random name and is opened only if nothing of that
name is there. No link is followed, neither here nor where a file is read, locked or overwritten. So nobody
can place a link that leads our bytes, or our zeros, into another file (CWE-59, CWE-377). A later writer
removes what a killed one left. `make_private` takes the folder back from others. On Windows this does
nothing: it has no modes, and only an administrator may make links.

A lock of the operating system (`flock` on POSIX, `msvcrt` on Windows) keeps two writers apart. It ends when
its holder dies, so there is no stale lock to remove by hand.
"""

# The calls of `os` are spelled out because their order, and each single one, is what is tested.

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from palate.shared.errors import PalateError, StorageError, VaultBusyError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LEFTOVER_SECONDS = 3600.0
"""From this age on a new file that was never renamed is taken for a killed writer's."""

_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone needs to be told
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(
    os, "O_NONBLOCK", 0
)  # a pipe that was put in a file's place would be waited for without end
_BESIDE = re.compile(r"\.[0-9a-f]{16}\.new")


def create_file(path: Path) -> int:
    """Open a new file for its owner's eyes only (0600) and return its descriptor.

    Raises `OSError`, `FileExistsError` among them if there is anything of that name, a link included.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY, 0o600)


def write_file(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a new file as `create_file` opens it; if it is to be `lasting`, force its content to the disk.

    The name itself is not durable before `sync_folder`. A file that could not be written whole is removed
    again.
    """
    descriptor = create_file(path)
    try:
        try:
            _write_all(descriptor, data)
            if lasting:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def name_beside(path: Path) -> Path:
    """Return a random name next to `path`, for what is to take its place."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")


def write_beside(path: Path, data: bytes, *, lasting: bool = True) -> Path:
    """Write what is to take the place of `path` next to it, under a random name, and return where.

    Raises `OSError`.
    """
    beside = name_beside(path)
    write_file(beside, data, lasting=lasting)
    return beside


def write_atomically(
    path: Path, data: bytes, *, consequence: str | None = None, lasting: bool = True
) -> None:
    """Give `path` new content in one step: a new file, forced to the disk, takes its name.

    Args:
        path: the file.
        data: its new content.
        consequence: what it means for the person that the file cannot be written. With it the folder is made
            if need be, and what the operating system refuses is a `StorageError` that ends with this text.
        lasting: force the file and its name to the disk. What is only for looking at need not be lasting.

    Raises:
        StorageError: with a `consequence`, the file cannot be written.
        OSError: without one.
    """
    try:
        if consequence is not None:
            make_folder(path.parent)
        beside = write_beside(path, data, lasting=lasting)
        try:
            rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        if lasting:
            sync_folder(path.parent)
    except OSError as error:
        if consequence is None:
            raise
        raise storage_error(error, path, consequence) from None
    clear_beside(path, LEFTOVER_SECONDS)


def clear_beside(path: Path, least_seconds: float = 0.0) -> None:
    """Remove what killed writers left next to `path`, of at least this age.

    The holder of the writers' lock may remove all.
    """
    with contextlib.suppress(OSError), os.scandir(path.parent) as folder:
        for item in folder:
            left = item.name.startswith(path.name) and _BESIDE.fullmatch(item.name[len(path.name) :])
            if left and time.time() - item.stat(follow_symlinks=False).st_mtime >= least_seconds:
                remove(Path(item.path))


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


def make_private(path: Path, *, ours: bool = False, through_link: bool = False) -> tuple[int, int] | None:
    """Take from others what they may do with a folder or file.

    Returns the mode before and after, None if it was private.

    A disk without modes keeps the one that it shows. Raises `OSError` for what is another user's, who could
    undo it (root may use such a thing, unless it is to be `ours`), and for a link, unless its target is
    meant.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(path, os.O_RDONLY | _NO_WAIT | (0 if through_link else _NO_LINK))
    try:
        status = os.fstat(descriptor)
        us = os.geteuid()
        if status.st_uid not in (us, 0) and (ours or us != 0):
            raise PermissionError(
                errno.EPERM,
                f"it belongs to another user, {status.st_uid}; name a place of your own",
                str(path),
            )
        mode = stat.S_IMODE(status.st_mode)
        if not mode & 0o077:
            return None
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode & 0o700)
        return mode, stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


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

    Used around a rename: the old file loses its name by it, and its bytes would stay on the disk until
    something else needs the room. Best effort: disks that write elsewhere (flash, copy-on-write) keep the old
    bytes, and Windows, which does not rename over a file that is held, does nothing here.
    """
    if sys.platform == "win32":
        yield lambda: None
        return
    descriptor = os.open(path, os.O_WRONLY | _NO_LINK | _BINARY)

    def scrub() -> None:
        _write_all(descriptor, bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)

    try:
        yield scrub
    finally:
        os.close(descriptor)


def read_file(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most `limit_bytes`.

    Raises `OSError`, `EFBIG` for a longer one, `ELOOP` for a link.
    """
    descriptor = os.open(path, os.O_RDONLY | _NO_LINK | _NO_WAIT | _BINARY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, "too large", str(path))
    return data


@contextlib.contextmanager
def locked(
    path: Path, wait_seconds: float, owner: str, *, busy: type[PalateError] = VaultBusyError
) -> Iterator[None]:
    """Hold the lock file `path` for as long as the block runs.

    Args:
        path: the lock's file, which is made if need be.
        wait_seconds: how long to wait for another holder.
        owner: what is locked, as the error calls it.
        busy: the error to raise.

    Raises:
        PalateError: `busy`, where another process (or another opening in this one) still holds it after the
            wait.
    """
    deadline = time.monotonic() + wait_seconds
    while (descriptor := take_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise busy(
                f"{owner} is in use by another process, and still was after {wait_seconds:g} s; "
                "let that one finish or end it, then try again (nothing was changed)"
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)  # closing releases the lock


def take_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock file `path`, or None where somebody else holds it.

    The lock lives as long as the descriptor and its copies, those of a started process too. Raises `OSError`.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK | _BINARY, 0o600)
        try:
            taken = _flock(descriptor)
            if taken and _still_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not taken:
            return None


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


def _flock(descriptor: int) -> bool:
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
