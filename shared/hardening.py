"""What a process with secrets does first: no image of its memory, no passphrase in its environment.

Where it stands in the flow: `main` of the command line calls `harden` before everything else, and so does
every other process that holds keys. What needs a passphrase calls `given`. On Linux:

- `PR_SET_DUMPABLE` 0 and a core limit of 0: a crash writes no core file and passes none to a crash reporter.
  No other process of the same user may attach to this one or read its memory. The files under /proc that show
  it belong to root.
- A variable `PALATE_...PASSPHRASE` is taken out of `os.environ`, so that no child gets it. Its bytes, which
  the kernel shows as /proc/PID/environ as long as a process lives, are overwritten with zeros.

**What remains.** Until `harden` has run (a fraction of a second) the variable can be read. The shell or
service manager that set it still has it. Root reads everything. Python's own copies of a string are freed,
not wiped, and memory may be swapped out. On macOS the core limit and `os.environ` apply. On Windows
`os.environ` alone applies, and Windows Error Reporting may keep a dump.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Final

SECRET: Final = re.compile(r"PALATE_(\w+_)?PASSPHRASE")
"""The environment's variables that are passphrases."""

_PR_SET_DUMPABLE: Final = 4
_taken: dict[str, str] = {}


def harden() -> None:
    """Close this process to core dumps and other processes, and take the passphrases out of its environment.

    What a system does not offer is left out without a word: nothing depends on it. Call it once, before there
    are threads.
    """
    _close_memory()
    _taken.update({name: value for name, value in os.environ.items() if SECRET.fullmatch(name)})
    places = _places(*_taken)
    for name in _taken:
        os.environ.pop(name, None)
    _overwrite(places)


def given(variable: str) -> str | None:
    """Return the passphrase from the environment under this name, or None where there was none."""
    return os.environ.get(variable) or _taken.get(variable) or None


def _close_memory() -> None:
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _places(*names: str) -> list[tuple[int, int]]:
    """Return where these variables lie in the block that the kernel gave this process: address and length."""
    if sys.platform != "linux" or not names:
        return []
    import ctypes

    begins = tuple(f"{name}=".encode() for name in names)
    found: list[tuple[int, int]] = []
    with contextlib.suppress(OSError, ValueError):
        table = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
        index = 0
        while table and (address := table[index]):
            entry = ctypes.string_at(address)
            if entry.startswith(begins):
                found.append((address, len(entry)))
            index += 1
    return found


def _overwrite(places: list[tuple[int, int]]) -> None:
    if places:
        import ctypes

        for address, length in places:
            ctypes.memset(address, 0, length)
