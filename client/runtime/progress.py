"""How a longer job reports its progress, and what else the person should see.

Where it stands: `Device` and the work behind it take a `Progress` and a `Notice`; the command line makes bars
and lines of them.
"""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""

Notice = Callable[[str], None]
"""Called with one line that the person should see."""


def no_progress(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def no_notice(line: str) -> None:
    """Tell nobody."""
