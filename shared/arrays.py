"""Names for the arrays that travel between modules, one for each type of number.

Where it stands in the flow: all folders annotate with these. The shape stands where the array is used. What
is special to one module (a vector of the ring, a curve of the accountant) has its name there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
"""Weights, features, changes of an encoder."""

Float64s = NDArray[np.float64]
"""What is computed with more care than it is kept."""

Levels = NDArray[np.int64]
"""Changes in whole steps, as they are noised and summed."""
