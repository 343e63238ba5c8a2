"""Each benchmark can be imported.

They are run by hand and rarely, so a name that moved would go unnoticed.
"""

import importlib
from pathlib import Path

import pytest

NAMES = sorted(
    path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py") if path.stem[0] != "_"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    if name == "engines_pfl":
        pytest.importorskip("pfl")
    importlib.import_module(f"benchmarks.{name}")
