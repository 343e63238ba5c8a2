"""What a round was like, for people and programs: one line of JSON per round, and event files for TensorBoard.

Where it stands in the flow: `federation` calls `record` after each checkpoint. Every figure is about the round as a whole, none
about a device. Lines are kept in step with the checkpoint: a run that resumes drops lines of rounds that were not kept and
adds the line of a round whose checkpoint was written just before the server died, so each round has exactly one line.

The event files are for looking at, and a disk that has no room for them does not end a run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palate.server.events import EventFile
from palate.shared.durable import storage_error, write_atomically


class MetricsLog:
    """Open metrics of one server folder: `rounds.jsonl` and a folder of TensorBoard events. Close it, or use `with`."""

    def __init__(self, lines: Path, events: Path | None, *, after: Mapping[str, Any]) -> None:
        """Bring the lines in step with the checkpoint, whose metrics are `after` (empty before the first round).

        Raises StorageError when they cannot be written.
        """
        self._lines = lines
        self._events: EventFile | None = None
        last = int(after.get("round", 0))
        kept = [line for line in read_metrics(lines) if line["round"] <= last]
        if last and (not kept or kept[-1]["round"] < last):
            kept.append(dict(after))
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(lines, text.encode(), consequence="the metrics stay as they were")
        if events is not None:
            with contextlib.suppress(OSError):
                self._events = EventFile(events)

    def record(self, metrics: Mapping[str, Any]) -> None:
        """Add a round; raises StorageError when the line cannot be written."""
        try:
            with self._lines.open("ab") as file:
                file.write(json.dumps(dict(metrics)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self._lines, "the round itself is kept in the checkpoint") from None
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.add(int(metrics["round"]), scalars(metrics))

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(lines: Path) -> list[dict[str, Any]]:
    """Return the metrics of all rounds so far; a last line that was cut short by a kill is left out."""
    try:
        text = lines.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, lines, "nothing was changed") from None
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("round"), int):
                found.append(value)
    return found


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a round under the names that TensorBoard shows: `refused` becomes one curve per reason."""
    found = {
        f"round/{name}": float(value) for name, value in metrics.items() if type(value) in (int, float, bool)
    }
    found |= {f"refused/{reason}": float(count) for reason, count in metrics.get("refused", {}).items()}
    return {name: value for name, value in found.items() if name != "round/round"}
