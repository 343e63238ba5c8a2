"""Lends the independent judge to `palate demo`, which finds it through the entry point group "palate.judges".

The device never imports the simulations; an installation without them has a demo without a judge.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from palate.simulations.judge import VALUES, Judge, load_judge, measure_judge
from palate.simulations.world.truth import SUBJECTS

MEASURED_ON = 300  # renders: two seconds, and the shares are known to about two points


class ShowcaseJudge:
    """The judge, asked about Pillow's pictures; see `palate.client.demo.showcase.DemoJudge`."""

    def __init__(self, judge: Judge) -> None:
        """Measure the judge first, so that its accuracy stands next to everything it says."""
        self._judge = judge
        self.accuracy = str(measure_judge(judge, MEASURED_ON))

    def rate(self, pictures: Sequence[Image.Image], tastes: Mapping[str, float]) -> list[float]:
        """Return for each picture the sum of its attributes' probabilities, weighted by the taste."""
        weights = np.array([tastes.get(value, 0.0) for value in VALUES], dtype=np.float32)
        return [float(one) for one in self._judge(_arrays(pictures)).values @ weights]

    def name_subjects(self, pictures: Sequence[Image.Image]) -> list[str]:
        """Return the likeliest subject of each picture."""
        return [SUBJECTS[int(one)] for one in self._judge(_arrays(pictures)).subjects.argmax(1)]


def make_judge() -> ShowcaseJudge:
    """Return the judge; raises FileNotFoundError when its weights are missing."""
    return ShowcaseJudge(load_judge())


def _arrays(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(picture.convert("RGB"), dtype=np.uint8) for picture in pictures])
