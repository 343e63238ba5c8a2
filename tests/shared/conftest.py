"""Lets tests import the small masked round that lies beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
