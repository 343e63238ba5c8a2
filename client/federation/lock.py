"""Which process of this device has joined a federation: one for each vault, and `palate leave` ends it.

Where it stands in the flow: next to `member`. The joined process holds the lock `federation.lock` in the
vault's folder as long as it lives; the operating system releases it when the process ends, however it ends.
`federation.json` says which process that is: its number and when it started, nothing personal. Before a
signal is sent, both must hold: the lock is held now, and the process of that number started at that time. So
a number that was given to another process meanwhile is never signalled.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from palate.shared import durable
from palate.shared.errors import FederationError, VaultBusyError

LOCK, NOTE = "federation.lock", "federation.json"
LEAVE_SECONDS = 15.0
"""How long a joined process may take to end; it first says goodbye to its server."""

_NOTE_BYTES = 1_000


@contextlib.contextmanager
def membership(home: Path) -> Iterator[None]:
    """Make this process the joined one of this home while the block runs.

    Raises `FederationError` if there is one already.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(durable.locked(home / LOCK, 0.0, f"the federation lock in {home}"))
            note = {"process": os.getpid(), "born": birth_of(os.getpid())}
            durable.write_atomically(home / NOTE, json.dumps(note).encode())
        except VaultBusyError:
            raise FederationError(
                f"the device in {home} has joined a federation already; `palate leave` ends that"
            ) from None
        except OSError as error:
            raise durable.storage_error(error, home, "this device did not join") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                durable.remove(home / NOTE)
                durable.remove(home / LOCK)


def find_member(home: Path) -> int | None:
    """Return the number of the process that has joined from this home, or None.

    Raises `FederationError` in doubt.
    """
    if not _is_held(home):
        return None
    try:
        note = json.loads(durable.read_file(home / NOTE, _NOTE_BYTES))
        process, born = note["process"], note["born"]
        if type(process) is not int or process < 2 or not isinstance(born, str):
            raise ValueError("not a note")
    except (OSError, ValueError, KeyError, TypeError):
        process, born = 0, ""
    # The note may be of an earlier process while the present one has only just begun.
    if not process or birth_of(process) != born or not _is_held(home):
        raise FederationError(
            f"a process has joined from {home}, and which one cannot be told; try again in a moment, or end "
            "it by hand"
        )
    return process


def leave(home: Path, wait_seconds: float = LEAVE_SECONDS) -> int | None:
    """End the joined process of this home and return its number once it is gone; None if none had joined.

    Raises `FederationError` if it is unclear which process that is, if it may not be signalled, or if it does
    not end in time.
    """
    process = find_member(home)
    if process is None:
        return None
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        try:
            os.kill(process, signal.SIGTERM)
        except PermissionError:
            raise FederationError(
                f"process {process}, which has joined, is another user's; it was not ended"
            ) from None
    deadline = time.monotonic() + wait_seconds
    while _is_held(home):
        if time.monotonic() >= deadline:
            raise FederationError(
                f"process {process} was asked to leave and still runs after {wait_seconds:g} s; end it by "
                "hand"
            )
        time.sleep(0.05)
    return process


def birth_of(process: int) -> str:
    """Return when a process started, in the words of the system.

    Empty where that cannot be read (on Windows).
    """
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may hold anything; the 20th field after it counts clock ticks since
            # the boot.
            fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
            return fields.rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
    try:
        asked = ["ps", "-o", "lstart=", "-p", str(process)]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _is_held(home: Path) -> bool:
    """Return whether a living process holds the lock; make no file."""
    if not (home / LOCK).exists():
        return False
    try:
        with durable.locked(home / LOCK, 0.0, "the federation lock"):
            return False
    except VaultBusyError:
        return True
    except OSError as error:
        raise durable.storage_error(error, home, "nothing was ended") from error
