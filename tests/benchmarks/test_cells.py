"""A long benchmark's notes are read back."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import note_cell, read_cells


@dataclass(frozen=True)
class Run:
    seed: int


@dataclass(frozen=True)
class Found:
    accuracy: float


def test_what_was_noted_is_read_back_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    assert read_cells(path, Run, Found) == {}
    note_cell(path, Run(1), Found(0.5))
    note_cell(path, Run(2), Found(0.75))
    assert read_cells(path, Run, Found) == {Run(1): Found(0.5), Run(2): Found(0.75)}
