"""What a benchmark returns: one row of the table, with its bar and whether the bar holds."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured figure.

    `figure` is a number, or words where several numbers belong together; `bar` is the rule in words ("at
    least 85 %"); `holds` says whether the figure meets it; `command` measures it again; `extra` holds further
    figures as plain JSON values: counts, the judge's own accuracy, curves, controls.
    """

    row: str
    figure: float | str
    bar: str
    holds: bool
    command: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a row without a name, a bar or a command, and a figure that is no number.

        Raises ValueError.
        """
        for name in ("row", "bar", "command"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} is empty: a row says what it is, what it must reach, and how to measure it"
                )
        if isinstance(self.figure, float) and not math.isfinite(self.figure):
            raise ValueError(f"figure = {self.figure} of {self.row!r} is not finite")


def print_rows(rows: Sequence[Row], *, full: bool = True) -> None:
    """Print rows as a table, and below it, where `full`, each row's further figures."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 150)
    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "figure", "bar"):
        table.add_column(title, overflow="fold")
    for row in rows:
        figure = row.figure if isinstance(row.figure, str) else f"{row.figure:.4g}"
        table.add_row("[green]holds[/]" if row.holds else "[red]FAILS[/]", row.row, figure, row.bar)
    console.print(table)
    for row in rows if full else ():
        console.print(
            f"  {row.row}: {json.dumps(dict(row.extra))}",
            markup=False,
            highlight=False,
            style="dim",
            soft_wrap=True,
        )


def print_run(run: Callable[[bool, Path], list[Row]], out: Path, about: str | None) -> None:
    """Read the arguments, call `run(quick, folder)`, by default with `out`, and print its rows."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    p.add_argument("--out", type=Path, default=out)
    a = p.parse_args()
    print_rows(run(a.quick, a.out))
