"""Lets these tests import the benchmarks, which are run from the repository's root and are not installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
