"""Let these tests import the tools of the documentation, which are not installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
