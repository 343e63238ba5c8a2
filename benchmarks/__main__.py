"""Run every row of the benchmark table and write benchmarks/results.json, and from it docs/results.md.

    python -m benchmarks [--quick] [--only NAME ...] [--out FILE]

Rows of modules that are not run this time stay in the file as they were. The exit status is 1 when a row does
not hold.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import PAGE, README, RESULTS, write_report
from benchmarks.rows import Row, print_rows

MODULES = (
    "comments_read", "visible", "evaluator", "real_pictures", "speed", "personalization_cost",
    "generator", "unseen_words", "personalization", "engines", "masks", "ledger", "leaks", "evidence",
    "federated_pick", "deployed", "stand_ins", "soak", "privacy", "canary", "oracle", "release_trial",
)  # fmt: skip


def commit_of(folder: Path) -> str:
    """Return the commit of a folder, with "+" if files that count differ; "unknown" outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout

    try:
        changed = [
            line
            for line in git("status", "--porcelain").splitlines()
            if not line.endswith((RESULTS.name, PAGE.name, README.name))
        ]
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def merge(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the old results with the new ones in place of the same rows, and further ones at the end."""
    fresh = {one["row"]: one for one in new}
    return [fresh.pop(one["row"], one) for one in old] + list(fresh.values())


def to_result(row: Row, commit: str, seconds: float) -> dict[str, Any]:
    """Return one entry of results.json.

    Row, figure, bar, holds, command, commit, and what stands next to them.
    """
    plain = asdict(row)
    extra = plain.pop("extra")
    return {**plain, "holds": bool(row.holds), "commit": commit, "seconds": round(seconds, 1), "extra": extra}


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write the results; the old file stays until the new one is whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(list(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--quick", action="store_true", help="small counts: does everything run? Nothing is written"
    )
    p.add_argument(
        "--only", nargs="+", choices=MODULES, default=MODULES, metavar="NAME", help=", ".join(MODULES)
    )
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args(arguments)
    commit = commit_of(Path(__file__).parent)
    results = json.loads(a.out.read_text(encoding="utf-8")) if a.out.exists() else []
    rows: list[Row] = []
    broken = []
    for number, name in enumerate(a.only, 1):
        print(f"[{number}/{len(a.only)}] {name}", flush=True)
        started = time.monotonic()
        try:
            done: list[Row] = importlib.import_module(f"benchmarks.{name}").run(quick=a.quick)
        except Exception:  # noqa: BLE001 - one broken benchmark must not cost the figures of the others
            traceback.print_exc()
            broken.append(name)
            continue
        print_rows(done, full=False)
        rows += done
        seconds = time.monotonic() - started
        results = merge(results, [to_result(row, commit, seconds) for row in done])
        if not a.quick:
            write_results(a.out, results)
            if a.out == RESULTS:
                write_report(results)
    if len(a.only) > 1:
        print("\nAll rows:")
        print_rows(rows)
    if broken:
        print(f"did not run: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken or not all(row.holds for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
