"""Write docs/results.md, the table of all rows in benchmarks/results.json, and count them in README.md.

    python -m benchmarks.report

`python -m benchmarks` does so by itself; a test fails where page and results differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "results.md"
RESULTS = Path(__file__).parent / "results.json"
TITLE = "| what | figure | bar | holds | command |\n|---|---|---|---|---|\n"
_COUNTS = re.compile(
    r"\[All \d+ rows\]\(docs/results\.md\) stand next to their bars; \d+ miss(?:es)? (?:them|it)\."
)
_TOP = """---
hide: [navigation, toc]
---

# Results

Measured on virtual people, prompts and pictures that took no part in any training, and on real comments
and pictures. A separate model judges; it saw rendered pictures only, and each command prints its accuracy.
`make bench` measures every row again and writes `benchmarks/results.json`, which also says at which commit
and with which counts each row was taken. [Limits](limits.md) says what the figures do not mean.

{count} rows, {missed} of them miss their bar. Those are work to be done.

"""


def table_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        f"| {one['row']} | {_short(one['figure'])} | {one['bar']} | {'yes' if one['holds'] else '**no**'} "
        f"| `{one['command']}` |\n"
        for one in results
    ]
    return TITLE + "".join(lines)


def page_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page docs/results.md."""
    return _TOP.format(count=len(results), missed=_missed(results)) + table_of(results)


def count_in(readme: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return the README with the numbers of rows and misses; raises ValueError without that sentence."""
    missed = _missed(results)
    sentence = (
        f"[All {len(results)} rows](docs/results.md) stand next to their bars; {missed} "
        f"{'misses it' if missed == 1 else 'miss them'}."
    )
    changed, found = _COUNTS.subn(sentence, readme)
    if found != 1:
        raise ValueError(f"README.md counts the results {found} times; it must do so once")
    return changed


def write_report(results: Sequence[Mapping[str, Any]], page: Path = PAGE, readme: Path = README) -> None:
    """Write the page, and the counts into the README; raises ValueError as `count_in` does."""
    counted = count_in(readme.read_text(encoding="utf-8"), results)
    page.write_text(page_of(results), encoding="utf-8")
    readme.write_text(counted, encoding="utf-8")


def _missed(results: Sequence[Mapping[str, Any]]) -> int:
    return sum(not one["holds"] for one in results)


def _short(figure: float | str) -> str:
    if isinstance(figure, str):
        return figure
    return f"{figure:.4g}" if abs(figure) >= 10 else f"{round(figure, 3):g}"


if __name__ == "__main__":
    write_report(json.loads(RESULTS.read_text(encoding="utf-8")))
