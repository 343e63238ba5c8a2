"""The runs of a long benchmark.

Noted as each is done, so that a benchmark that was stopped goes on from there.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Cell = TypeVar("Cell")
Outcome = TypeVar("Outcome")


def read_cells(path: Path, cell: type[Cell], outcome: type[Outcome]) -> dict[Cell, Outcome]:
    """Return what is noted in a file of JSON lines, as these dataclasses.

    Nothing where there is no file yet.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    rows = [json.loads(line) for line in lines]
    return {cell(**row["cell"]): outcome(**row["outcome"]) for row in rows}


def note_cell(path: Path, cell: Any, outcome: Any) -> None:
    """Append a run that is done, two dataclasses, to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"cell": asdict(cell), "outcome": asdict(outcome)}) + "\n")
