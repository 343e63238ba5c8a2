"""Public pictures and what they truly show: what an encoder can be tried on where there is nobody's taste.

Where it stands in the flow: the server holds a run's encoder near the last release by what both say of these
pictures (`server.secure_sum.trust_region`), and tries an encoder on them before it becomes a release
(`server.releases.acceptance`). They are drawn, so that what each shows is known; nobody was ever asked about
them. `simulations.recipes.public_pictures` makes the file.

    features   (pictures, 216) float16   of each picture, as the shipped eye sees it
    shows      (pictures, 55) uint8      1 where the picture shows the attribute, in the order of
                                         `ATTRIBUTE_NAMES`
    words      (55, 384) float16         each attribute's own name, as the shipped sentence tower reads it
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from palate.shared.arrays import Float32s
from palate.shared.encoder import ATTRIBUTE_NAMES, PICTURE_FEATURES, SENTENCE_FEATURES
from palate.shared.errors import ModelError, OptionError

SHIPPED: Final = Path(__file__).parent / "weights" / "public-pictures-0.safetensors"
MAX_BYTES: Final = 400_000


@dataclass(frozen=True, eq=False)
class PublicPictures:
    """Features (n, 216), what is shown (n, 55) and the attributes' names as embeddings (55, 384), read-only.

    Raises:
        OptionError: other shapes, fewer than two pictures, or values that are not finite.
    """

    features: Float32s
    shows: NDArray[np.bool_]
    words: Float32s

    def __post_init__(self) -> None:
        n = len(self.features)
        shapes = {
            "features": (n, PICTURE_FEATURES),
            "shows": (n, len(ATTRIBUTE_NAMES)),
            "words": (len(ATTRIBUTE_NAMES), SENTENCE_FEATURES),
        }
        for name, shape in shapes.items():
            given = np.asarray(getattr(self, name))
            if given.shape != shape or n < 2 or not np.isfinite(given).all():
                raise OptionError(
                    f"{name} of the public pictures has the shape {given.shape}; it must be {shape}, "
                    "finite, of 2 pictures or more"
                )
            kept = given.astype(np.bool_ if name == "shows" else np.float32)
            kept.flags.writeable = False
            object.__setattr__(self, name, kept)

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self.features)


@lru_cache(maxsize=2)
def load_public_pictures(path: Path = SHIPPED) -> PublicPictures:
    """Return the pictures that ship with Palate, or those of a file.

    Raises:
        ModelError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise OptionError(f"{path} has more than {MAX_BYTES:,} bytes")
        found = load(data)
        return PublicPictures(found["features"], found["shows"], found["words"])
    except (OSError, SafetensorError, KeyError, ValueError, OptionError):
        raise ModelError(f"the public pictures {path} cannot be read; install Palate anew") from None
