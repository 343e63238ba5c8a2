"""Few directions instead of all weights: where noise must hide each number, little is lost.

Where it stands in the flow: noise for a given epsilon has the same size in every coordinate, so it does less
harm to a change of few coordinates in which little noise matters as much as in any other. A `Subspace` comes
with a release and is made of public pictures alone. `client.federation.privatize` writes a device's change in
its coordinates before it clips; the server writes the mean of many back as weights. (Projecting to a public
subspace: Zhou, Wu, Banerjee, ICLR 2021; here it needs no public labels.)

Only the last layer of the picture side moves, z = sigmoid(W h + b): measured, that is nearly all of what a
federation gains. Its change G, of W and b together, is a product of slopes and hidden values h. On public
pictures the mean of [h 1] [h 1]^T is Q L Q^T, and the coordinates are

    V = G Q L^(-1/2)      on the device, for the largest `rank` eigenvalues: (64, 257) to (64, rank)
    G = V L^(-1/2) Q^T    on the server

Both together make a step along natural directions of the inputs (as in K-FAC: Martens, Grosse, ICML 2015),
and the same noise in each coordinate moves what the encoder says of public pictures equally, wherever it
falls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from palate.shared.arrays import Float32s
from palate.shared.checks import check_whole
from palate.shared.encoder import HIDDEN, SHARED_SHAPES, TASTE, EncoderWeights, standardize
from palate.shared.errors import ModelError, OptionError
from palate.shared.shipped import check_shipped

SHIPPED: Final = Path(__file__).parent / "weights" / "subspace-0.safetensors"
MAX_BYTES: Final = 2_000_000

_WEIGHT, _BIAS = "picture.taste.weight", "picture.taste.bias"


@dataclass(frozen=True, eq=False)
class Subspace:
    """The directions, Q L^(-1/2) of the module's docstring: (257, rank) float32, last row for the bias.

    Raises:
        OptionError: another shape or type, or values that are not finite.
    """

    directions: Float32s

    def __post_init__(self) -> None:
        given = np.asarray(self.directions)
        if given.ndim != 2 or given.shape[0] != HIDDEN + 1 or not 1 <= given.shape[1] <= HIDDEN + 1:
            raise OptionError(
                f"the subspace has the shape {given.shape}; it must be ({HIDDEN + 1}, 1 to {HIDDEN + 1})"
            )
        if given.dtype != np.float32 or not np.isfinite(given).all():
            raise OptionError("the subspace must be float32 and finite")
        kept = given.copy()
        kept.flags.writeable = False
        object.__setattr__(self, "directions", kept)

    @property
    def count(self) -> int:
        """How many coordinates a change has."""
        return TASTE * int(self.directions.shape[1])

    def coordinates(self, change: Mapping[str, Float32s]) -> Float32s:
        """Return the coordinates (64 * rank,) of a change of the federated tensors.

        The other tensors do not count.
        """
        both = np.concatenate([change[_WEIGHT], change[_BIAS][:, None]], axis=1)  # (64, 257)
        return np.asarray(both @ self.directions, dtype=np.float32).ravel()

    def change(self, coordinates: Float32s) -> dict[str, Float32s]:
        """Return the change of the federated tensors that stands for these coordinates (64 * rank,).

        Others stay at zero.

        Raises:
            OptionError: another number of coordinates.
        """
        given = np.asarray(coordinates, dtype=np.float32)
        if given.shape != (self.count,):
            raise OptionError(
                f"the coordinates have the shape {given.shape}; the subspace has {self.count:,}"
            )
        both = given.reshape(TASTE, -1) @ self.directions.T
        tensors = {name: np.zeros(shape, np.float32) for name, shape in SHARED_SHAPES.items()}
        tensors[_WEIGHT], tensors[_BIAS] = np.ascontiguousarray(both[:, :-1]), both[:, -1].copy()
        return tensors


@lru_cache(maxsize=2)
def load_subspace(path: Path = SHIPPED) -> Subspace:
    """Return the subspace that ships with Palate, or that of a file.

    Raises:
        ModelError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    check_shipped(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        return Subspace(load(data)["directions"].astype(np.float32))
    except (OSError, SafetensorError, KeyError, OptionError):
        raise ModelError(f"the subspace {path} cannot be read; install Palate anew") from None


def subspace_hash(subspace: Subspace) -> str:
    """Return the SHA-256 of the directions, row by row in little-endian float32, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(subspace.directions, dtype="<f4").tobytes()).hexdigest()


def subspace_of(encoder: EncoderWeights, features: Float32s, rank: int) -> Subspace:
    """Return the directions of largest spread of the encoder's hidden values on public pictures (n, 216).

    Raises:
        OptionError: a rank that is not from 1 to 257 or that so few pictures do not span.
    """
    check_whole("rank", rank, 1, min(HIDDEN + 1, len(features)))
    t = encoder.tensors
    hidden = np.maximum(
        standardize(encoder, features) @ t["picture.hidden.weight"].T + t["picture.hidden.bias"], 0
    )
    inputs = np.concatenate([hidden, np.ones_like(hidden[:, :1])], axis=1).astype(np.float64)
    spread, directions = np.linalg.eigh(inputs.T @ inputs / len(inputs))  # smallest first
    spread, directions = spread[::-1][:rank], directions[:, ::-1][:, :rank]
    if spread[-1] <= 1e-9 * spread[0]:
        raise OptionError(f"rank is {rank}; these pictures span fewer directions, so take less")
    return Subspace((directions / np.sqrt(spread)).astype(np.float32))
