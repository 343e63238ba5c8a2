"""The picture tower: a small network that says what a picture shows, and the features for taste.

Everything visual shares this step. A picture comes in. Out come features (the network's 128, and the
`statistics`), probabilities of the subject, and probabilities of 55 attributes in 13 categories. Evaluator
and encoder take the features. The reader calls `what_is_shown` when a comment says "these colours". The
painter checks that a picture still shows the subject of its prompt. The network (`tower_network`, about a
million weights) was trained by `simulations/recipes/picture_tower.py` on drawn pictures, some softened as
generated ones are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from palate.client.eye.colours import colours_shown
from palate.client.eye.statistics import STATISTIC_NAMES, measure_statistics
from palate.shared.encoder import ATTRIBUTE_NAMES, CATEGORIES, TOWER_FEATURES
from palate.shared.errors import ModelError, OptionError
from palate.shared.shipped import check_shipped

if TYPE_CHECKING:
    from palate.client.eye.tower_network import PictureNetwork

Features = NDArray[np.float32]
"""One row for each of n pictures: (n, len(FEATURE_NAMES)) where the features themselves are meant."""

SHIPPED = Path(__file__).parents[1] / "weights" / "picture_tower.safetensors"
SIDE = 128

SUBJECTS: tuple[str, ...] = (
    "house", "tree", "mountain", "boat", "flower", "fish",
    "city", "cat", "bird", "lighthouse", "balloon", "mushroom",
)  # fmt: skip

FEATURE_NAMES: tuple[str, ...] = (*(f"tower_{i}" for i in range(TOWER_FEATURES)), *STATISTIC_NAMES)
"""The names of the picture features, in order."""


def _logits() -> dict[str, slice]:
    places, start = {"subject": slice(0, len(SUBJECTS))}, len(SUBJECTS)
    for category, values in CATEGORIES.items():
        places[category] = slice(start, start + len(values) + 1)
        start += len(values) + 1
    return places


LOGITS_OF: Mapping[str, slice] = _logits()
"""The places of the network's answers: the subject, then each category's values and, last, "none of them"."""
LOGITS = max(place.stop for place in LOGITS_OF.values())


@dataclass(frozen=True)
class Look:
    """What the tower says of n pictures.

    features (n, len(FEATURE_NAMES)); subjects (n, 12) and attributes (n, 55) are probabilities in the order
    of `SUBJECTS` and `ATTRIBUTE_NAMES`. Within a category, the probabilities of the attributes and of "none
    of them" sum to one.
    """

    features: Features
    subjects: Features
    attributes: Features


class PictureTower:
    """The loaded network; load it with `load_tower`."""

    def __init__(self, network: PictureNetwork) -> None:
        self._network = network

    def look(self, pictures: Sequence[Image.Image], statistics: Features | None = None) -> Look:
        """Look at any number of pictures of any size, at about 10 ms each on one core.

        Args:
            pictures: n pictures.
            statistics: (n, len(STATISTIC_NAMES)), their `measure_statistics`, if they are known already.
        """
        import torch

        if statistics is None:
            statistics = measure_all(pictures)
        features, logits = [np.zeros((0, TOWER_FEATURES), np.float32)], [np.zeros((0, LOGITS), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pictures), 32):
                part = np.stack([_square(one) for one in pictures[start : start + 32]])
                x = torch.from_numpy(part).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
                seen, answers = self._network(x.contiguous(memory_format=torch.channels_last))
                features.append(seen.numpy())
                logits.append(answers.numpy())
        answers = np.concatenate(logits)
        shares = {name: _softmax(answers[:, place]) for name, place in LOGITS_OF.items()}
        attributes = np.concatenate([shares[category][:, :-1] for category in CATEGORIES], 1)
        return Look(np.concatenate([np.concatenate(features), statistics], 1), shares["subject"], attributes)


def measure_all(pictures: Sequence[Image.Image]) -> Features:
    """Return the statistics of n pictures, (n, len(STATISTIC_NAMES)), on at most four threads."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(measure_statistics, pictures))
    return np.array(rows, np.float32).reshape(-1, len(STATISTIC_NAMES))


@lru_cache(maxsize=2)
def load_tower(path: Path = SHIPPED) -> PictureTower:
    """Return the tower of a weights file, loaded once.

    Raises:
        ModelError: the file is missing, damaged, exchanged, or no tower.
    """
    from palate.client.eye.tower_network import from_tensors

    check_shipped(path)
    try:
        from safetensors.torch import load_file

        return PictureTower(from_tensors(load_file(path), LOGITS))
    except FileNotFoundError:
        raise ModelError(
            f"the picture tower {path} is not there; install Palate again, or run its recipe"
        ) from None
    except Exception as error:  # noqa: BLE001 - safetensors and torch raise many kinds for a damaged file
        raise ModelError(
            f"{path} is not a picture tower ({type(error).__name__}); install Palate again"
        ) from None


def picture_features(pictures: Sequence[Image.Image]) -> Features:
    """Return the features of n pictures, (n, len(FEATURE_NAMES)), by the shipped tower."""
    return load_tower().look(pictures).features


def what_is_shown(picture: Image.Image) -> dict[str, float]:
    """Return the probability that a picture shows each attribute, from the tower and from its colours.

    Where arithmetic can see an attribute (colours, light, contrast), the mean of both counts, since the tower
    knows drawn pictures only. For technique, mood and the like it is the tower alone.
    """
    shown = dict(zip(ATTRIBUTE_NAMES, load_tower().look([picture]).attributes[0].tolist(), strict=True))
    for name, probability in colours_shown(picture).items():
        shown[name] = 0.5 * (shown[name] + probability) if name in shown else probability
    return {name: round(float(probability), 4) for name, probability in shown.items()}


_WORDS_FOR: Mapping[str, str] = {
    "house": "house home cottage cabin hut villa farmhouse bungalow barn mansion chalet",
    "tree": "tree oak pine birch willow fir maple palm sapling cedar",
    "mountain": "mountain peak summit alp alps volcano ridge cliff",
    "boat": "boat ship sailboat sailing yacht vessel schooner dinghy galleon",
    "flower": "flower rose tulip daisy sunflower blossom bloom lily poppy petal",
    "fish": "fish goldfish salmon trout carp koi tuna",
    "city": "city town skyline skyscraper skyscrapers metropolis downtown tower towers buildings",
    "cat": "cat kitten kitty tomcat feline tabby",
    "bird": "bird sparrow robin finch songbird crow parrot pigeon dove swallow",
    "lighthouse": "lighthouse beacon",
    "balloon": "balloon airship",
    "mushroom": "mushroom toadstool fungus",
}  # fmt: skip


def subject_of_prompt(prompt: str) -> str | None:
    """Return the subject of `SUBJECTS` that a prompt names first, by its name or a common word, or None."""
    for word in re.findall(r"[a-z]+", prompt.lower()):
        for subject, words in _WORDS_FOR.items():
            if any(word in (one, one + "s", one + "es") for one in words.split()):
                return subject
    return None


def subject_probability(pictures: Sequence[Image.Image], subject: str) -> Features:
    """Return the probability that each picture shows a subject, (n,).

    Raises:
        OptionError: a subject that the tower cannot know.
    """
    if subject not in SUBJECTS:
        raise OptionError(f"subject={subject!r}: the tower knows {', '.join(SUBJECTS)}")
    return load_tower().look(pictures).subjects[:, SUBJECTS.index(subject)]


def _square(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the middle of a picture as (128, 128, 3) uint8."""
    rgb = picture.convert("RGB")
    if rgb.size != (SIDE, SIDE):
        width, height = rgb.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        rgb = rgb.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(rgb)


def _softmax(logits: Features) -> Features:
    shifted = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf)) if len(logits) else logits
    return np.asarray(shifted / shifted.sum(1, keepdims=True), dtype=np.float32)
