"""Lets the server's tests import their fake devices from beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
