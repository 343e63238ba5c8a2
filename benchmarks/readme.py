"""Writes the table of all rows into README.md, from benchmarks/results.json.

    python -m benchmarks.readme

`python -m benchmarks` does so by itself; a test fails where the two differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "results.json"
TITLE = "| what | figure | bar | holds | command |\n|---|---|---|---|---|\n"
_TABLE = re.compile(re.escape(TITLE) + r"(?:\|.*\n)*")


def table_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        f"| {one['row']} | {_short(one['figure'])} | {one['bar']} | "
        f"{'yes' if one['holds'] else '**no**'} | `{one['command']}` |\n"
        for one in results
    ]
    return TITLE + "".join(lines)


def write_table(results: Sequence[Mapping[str, Any]], readme: Path = README) -> None:
    """Put the table in place of the one in the README; raises ValueError unless there is exactly one."""
    text = readme.read_text(encoding="utf-8")
    changed, found = _TABLE.subn(lambda _: table_of(results), text)
    if found != 1:
        raise ValueError(f"{readme.name} has {found} tables of results; it must have one")
    readme.write_text(changed, encoding="utf-8")


def _short(figure: float | str) -> str:
    if isinstance(figure, str):
        return figure
    return f"{figure:.4g}" if abs(figure) >= 10 else f"{round(figure, 3):g}"


if __name__ == "__main__":
    write_table(json.loads(RESULTS.read_text(encoding="utf-8")))
