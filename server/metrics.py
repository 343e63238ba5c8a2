"""What each round was like, for people and programs: one line of JSON per round.

Where it stands in the flow: `rounds.run` calls `record` after each checkpoint. Every figure is about the
round as a whole, none is about a single device. The lines follow the checkpoint. A run that resumes drops the
lines of rounds that were not kept. It adds the line of a round whose checkpoint was written just before the
server died. So each round has exactly one line.

`write_curves` turns the lines into files for TensorBoard. It needs `tensorboardX`, the extra `tensorboard`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from palate.shared.durable import storage_error, write_atomically
from palate.shared.errors import OptionError


class MetricsLog:
    """The metrics of one server folder, `rounds.jsonl`."""

    def __init__(self, lines: Path, *, after: Mapping[str, Any]) -> None:
        """Bring the lines in step with the checkpoint, whose metrics are `after` (empty before round 1).

        Raises StorageError when they cannot be written.
        """
        self._lines = lines
        last = int(after.get("round", 0))
        kept = [line for line in read_metrics(lines) if line["round"] <= last]
        if last and (not kept or kept[-1]["round"] < last):
            kept.append(dict(after))
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(lines, text.encode(), consequence="the metrics stay as they were")

    def record(self, metrics: Mapping[str, Any]) -> None:
        """Add a round; raises StorageError when the line cannot be written."""
        try:
            with self._lines.open("ab") as file:
                file.write(json.dumps(dict(metrics)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self._lines, "the round itself is kept in the checkpoint") from None


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
    """Return the figures of a round under the names of the curves: one curve for each reason in `refused`."""
    found = {
        f"round/{name}": float(value) for name, value in metrics.items() if type(value) in (int, float, bool)
    }
    found |= {f"refused/{reason}": float(count) for reason, count in metrics.get("refused", {}).items()}
    return {name: value for name, value in found.items() if name != "round/round"}


def write_curves(lines: Path, folder: Path) -> int:
    """Write the metrics of all rounds so far as TensorBoard's files into a new or empty folder.

    Return how many rounds.

    Args:
        lines: `rounds.jsonl` of a server folder.
        folder: where the files go; it is made if need be.

    Raises:
        OptionError: tensorboardX is not installed, or the folder is not empty.
        StorageError: the folder cannot be written.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise OptionError(
            "curves need tensorboardX, which is not installed; install it with: pip install "
            "'palate[tensorboard]'"
        ) from None
    rounds = read_metrics(lines)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OptionError(f"{folder} is there already; name a new or an empty folder")
        with SummaryWriter(str(folder)) as writer:
            for metrics in rounds:
                when = datetime.fromisoformat(metrics["when"]).timestamp() if "when" in metrics else None
                for name, value in scalars(metrics).items():
                    writer.add_scalar(name, value, metrics["round"], when)
    except OSError as error:
        raise storage_error(error, folder, "the metrics are as they were") from None
    return len(rounds)
