"""What may leave a device: the change of the shared encoder in a round, and how it was trained.

Where it stands in the flow: the device trains (`client.federation.local_training`), and the result is an
`EncoderUpdate`. `wire` makes bytes of it, the outbox sends them, and the server reads them back into the same
type and averages. What the type has no field for cannot travel. There is room for the declared tensors, the
number of the round and one hash, and the hash is checked to be 64 hexadecimal digits. (A device that *wants*
to smuggle text out can write it into weights. The type protects the person from our mistakes, not from a
program that was put in place of ours.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, cast

import numpy as np

from palate.shared.arrays import Float32s
from palate.shared.checks import check_whole, is_hex, is_whole, keep_numbers, shown
from palate.shared.encoder import (
    FIXED_SHAPES,
    SHARED_SHAPES,
    SHARED_WEIGHTS,
    EncoderWeights,
    encoder_hash,
    flatten,
    unflatten,
)
from palate.shared.errors import UpdateError

MAX_NORM: Final = 25.0
"""The longest change that a server takes unless told otherwise: L2 over all tensors.

Honest ones are far shorter.
"""

MAX_ROUND: Final = 2**32 - 1

_PIECE = 4_096  # values; of far more, BLAS would take threads that wait for each other
_LEAST_SQUARE, _MOST_SQUARE = 1e-20, 1e30  # sums between them are told well in float32


@dataclass(frozen=True)
class LocalSettings:
    """How a device trains in one round, the same for all devices of the round.

    Raises OptionError outside the ranges.

    `proximal` is FedProx's mu (Li et al., MLSys 2020), which pulls the weights back to those that were
    received; `query_share` is the part of the labels that the head must predict, having been fitted on the
    others; `alignment` is the weight of the part that brings comments and pictures together.
    """

    steps: int = 1  # 1 to 100
    learning_rate: float = 0.1  # above 0, at most 10
    proximal: float = 0.0  # 0 to 10
    query_share: float = 0.5  # 0.2 to 0.8
    alignment: float = 1.0  # 0 to 10

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 100)
        keep_numbers(self, {"learning_rate": (0.0, 10.0)}, above=True)
        keep_numbers(self, {"proximal": (0.0, 10.0), "query_share": (0.2, 0.8), "alignment": (0.0, 10.0)})


class SharedTensors(Mapping[str, Float32s]):
    """The federated tensors as views of one vector, in declared order, all read-only from here on.

    Raises:
        ValueError: a vector of another length or type.
    """

    def __init__(self, vector: Float32s) -> None:
        """Take the vector, which nothing else may write to."""
        if vector.shape != (SHARED_WEIGHTS,) or vector.dtype != np.float32:
            raise ValueError(f"the vector is not of float32 ({SHARED_WEIGHTS},)")
        vector.flags.writeable = False
        self.vector = vector
        self._views = unflatten(vector)

    def __getitem__(self, name: str) -> Float32s:
        """Return one tensor."""
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        """Name the tensors in declared order."""
        return iter(self._views)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._views)

    @cached_property
    def norm(self) -> float:
        """The length of the vector (L2), as `norm_of` tells it."""
        return norm_of(self.vector)


@dataclass(frozen=True, eq=False)
class EncoderUpdate:
    """The change of the federated tensors, trained minus received: `SHARED_SHAPES`, float32, read-only.

    `base` is the `encoder_hash` of the encoder that was received, `round` counts from 1. Two updates are
    equal if they are so bit for bit.

    Raises:
        UpdateError: a tensor is missing, unknown, of another shape or type, or not finite, and base or
            round is not what it must be.
    """

    base: str
    round: int
    tensors: Mapping[str, Float32s] = field(repr=False)  # a person's update has no place in a log

    def __post_init__(self) -> None:
        check_hash("base", self.base)
        check_number("round", self.round, 1, MAX_ROUND)
        object.__setattr__(self, "tensors", check_tensors(self.tensors, "the update"))

    @property
    def vector(self) -> Float32s:
        """All tensors one after the other, (`SHARED_WEIGHTS`,)."""
        return cast(SharedTensors, self.tensors).vector

    @property
    def norm(self) -> float:
        """The length of the change: L2 over all tensors together."""
        return cast(SharedTensors, self.tensors).norm

    @classmethod
    def difference(cls, before: EncoderWeights, after: EncoderWeights, round: int) -> EncoderUpdate:  # noqa: A002
        """Return what training changed.

        Raises:
            UpdateError: fixed tensors differ or the change is not finite.
        """
        if any(not same_bits(before.tensors[name], after.tensors[name]) for name in FIXED_SHAPES):
            raise UpdateError("the two encoders differ in tensors that training must not change", "fixed")
        with np.errstate(over="ignore"):  # becomes infinite, which is refused below
            change = {name: after.tensors[name] - before.tensors[name] for name in SHARED_SHAPES}
        return cls(encoder_hash(before), round, change)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same update, bit for bit."""
        if not isinstance(other, EncoderUpdate):
            return NotImplemented
        return (self.base, self.round) == (other.base, other.round) and same_tensors(
            self.tensors, other.tensors
        )

    def __hash__(self) -> int:
        """Agrees with `==`."""
        return hash((self.base, self.round))


def norm_of(tensor: Float32s) -> float:
    """Return the L2 length of one tensor, to about six digits, and not finite if and only if a value is not.

    Squares are summed in float32 piece by piece, and the pieces in float64; all in float64 where float32 has
    not the range.
    """
    values = tensor.ravel()
    with np.errstate(all="ignore"):
        pieces = (values[first : first + _PIECE] for first in range(0, values.size, _PIECE))
        total = sum(float(piece @ piece) for piece in pieces)
        if not _LEAST_SQUARE < total < _MOST_SQUARE:
            total = float(np.square(values, dtype=np.float64).sum())
    return math.sqrt(total)


def same_bits(one: Float32s, other: Float32s) -> bool:
    """Return whether two tensors are equal bit for bit."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def same_tensors(one: Mapping[str, Float32s], other: Mapping[str, Float32s]) -> bool:
    """Return whether two sets of tensors have the same names and are equal bit for bit."""
    return set(one) == set(other) and all(same_bits(one[name], other[name]) for name in one)


def check_hash(name: str, value: str) -> bytes:
    """Return the 32 bytes of a SHA-256; raises UpdateError unless it is 64 lower-case hexadecimal digits."""
    if not is_hex(value):
        raise UpdateError(
            f"{name} is {shown(value)}; it must be a SHA-256 in 64 lower-case hexadecimal digits", "hash"
        )
    return bytes.fromhex(value)


def check_number(name: str, value: int, least: int, most: int) -> None:
    """Raise UpdateError unless the value is a whole number in the range (True and 1.0 are none)."""
    if not is_whole(value, least, most):
        raise UpdateError(
            f"{name} is {shown(value)}; it must be a whole number from {least} to {most:,}", "number"
        )


def check_tensors(tensors: Mapping[str, Float32s], whose: str) -> SharedTensors:
    """Return the federated tensors, copied unless what they lie in cannot change.

    The error is short and quick to make, however many tensors and however long their names.

    Raises:
        UpdateError: unless they are exactly those of `SHARED_SHAPES`, by name, shape and type, and finite.
    """
    kept = tensors
    if not isinstance(kept, SharedTensors):
        declared = ", ".join(SHARED_SHAPES)
        if not isinstance(tensors, Mapping):
            raise UpdateError(f"{whose} is no mapping of names to tensors; it has {declared}", "tensors")
        missing = next((name for name in SHARED_SHAPES if name not in tensors), None)
        if missing is not None:
            raise UpdateError(f"{whose} lacks the tensor {missing!r}; it has {declared}", "tensors")
        if len(tensors) != len(SHARED_SHAPES):
            unknown = next(name for name in tensors if name not in SHARED_SHAPES)
            raise UpdateError(f"{whose} has an unknown tensor {shown(unknown)}; it has {declared}", "tensors")
        for name, shape in SHARED_SHAPES.items():
            tensor = tensors[name]
            if not isinstance(tensor, np.ndarray) or tensor.dtype != np.float32 or tensor.shape != shape:
                raise UpdateError(f"{whose}'s {name!r} is not of float32 {shape}", "tensors")
        kept = SharedTensors(flatten(tensors))
    if not math.isfinite(kept.norm):  # in float64 no finite values of float32 have an infinite length
        name = next(name for name, tensor in kept.items() if not np.isfinite(tensor).all())
        raise UpdateError(f"{whose}'s {name!r} holds values that are not finite", "finite")
    return kept
