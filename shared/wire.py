"""The bytes between server and device: a task goes out, an update comes back. Nothing else has a form.

    task    magic "PALATE" | kind 1 | version 1 | shapes 32 | fixed 32 | release 4 | round 4 | seed 8
            | steps 4 | learning rate 8 | proximal 8 | query share 8 | alignment 8 | tensors | checksum 4
    update  magic "PALATE" | kind 2 | version 1 | shapes 32 | base 32 | round 4 | tensors | checksum 4

Numbers are little endian, whole ones unsigned, others IEEE 754 of 8 bytes. `shapes` is `encoder_hash`'s twin
`shapes_hash`, `base` the `encoder_hash` of the encoder that was trained, `fixed` the `fixed_hash` of the
tensors that come with a release. The tensors are those of `SHARED_SHAPES` in declared order, each row by row
in little-endian float32, with nothing between and no compression. The checksum is the CRC-32 of everything
before it (RFC 1952): it finds damage. That a message comes from whom it should is not told by it: a task goes
out inside a signed message (`delegation`), and an update over Flower's node authentication and TLS.

So every task has the same length, and every update, known before anything is read. Reading is strict: each
value is checked, one way of writing a value is the only one, and what decodes is encoded to the very same
bytes again. Everything else is refused with an `UpdateError` whose `reason` is one word.
`tests/data/wire_vectors.json` holds test vectors.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from palate.shared.arrays import Float32s
from palate.shared.encoder import FIXED_SHAPES, SHARED_WEIGHTS, EncoderWeights, shapes_hash
from palate.shared.errors import OptionError, UpdateError
from palate.shared.update import (
    MAX_NORM,
    MAX_ROUND,
    EncoderUpdate,
    LocalSettings,
    SharedTensors,
    check_hash,
    check_number,
    check_tensors,
    same_tensors,
)

MAGIC: Final = b"PALATE"
VERSION: Final = 1
TASK, UPDATE = 1, 2
_KINDS = {TASK: "a task", UPDATE: "an update"}
_MAX_RELEASE = 2**32 - 1
_MAX_SEED = 2**64 - 1

_START = struct.Struct("<6sBB")
_TASK = struct.Struct("<32s32sIIQIdddd")
_UPDATE = struct.Struct("<32s32sI")
CHECKSUM_BYTES: Final = 4
_TENSOR_BYTES = 4 * SHARED_WEIGHTS

TASK_BYTES: Final = _START.size + _TASK.size + _TENSOR_BYTES + CHECKSUM_BYTES
UPDATE_BYTES: Final = _START.size + _UPDATE.size + _TENSOR_BYTES + CHECKSUM_BYTES


@dataclass(frozen=True, eq=False)
class Task:
    """What the server asks of every device in a round: the encoder to train and how.

    Only the federated tensors travel, as read-only float32 copies; the fixed ones came with the installed
    release, and `fixed` is their hash. Each device derives its own randomness from `seed`.

    Raises:
        UpdateError: tensors other than those of `SHARED_SHAPES` or not finite, and numbers outside their
            range.
    """

    round: int  # from 1
    release: int  # that the encoder grew from, or is
    fixed: str  # `fixed_hash` of the encoder
    tensors: Mapping[str, Float32s] = field(repr=False)
    settings: LocalSettings
    seed: int  # 0 to 2^64 - 1

    def __post_init__(self) -> None:
        check_number("round", self.round, 1, MAX_ROUND)
        check_number("release", self.release, 0, _MAX_RELEASE)
        check_number("seed", self.seed, 0, _MAX_SEED)
        check_hash("fixed", self.fixed)
        object.__setattr__(self, "tensors", check_tensors(self.tensors, "the task"))

    @classmethod
    def for_encoder(
        cls,
        encoder: EncoderWeights,
        *,
        round: int,  # noqa: A002
        settings: LocalSettings,
        seed: int,
    ) -> Task:
        """Return the task of training this encoder; raises UpdateError for numbers outside their range."""
        return cls(round, encoder.release, fixed_hash(encoder), encoder.shared(), settings, seed)

    def encoder(self, installed: EncoderWeights) -> EncoderWeights:
        """Return the encoder to train: these tensors, with the fixed ones of the release installed here.

        Raises:
            UpdateError: the fixed tensors here are not those that the task was made for.
        """
        if fixed_hash(installed) != self.fixed:
            raise UpdateError(
                f"the task is for release {self.release}, whose fixed tensors are not those of release "
                f"{installed.release} here; install the release that the server uses",
                "fixed",
            )
        return installed.with_shared(self.tensors, self.release)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is the same task, bit for bit."""
        if not isinstance(other, Task):
            return NotImplemented
        return self._plain() == other._plain() and same_tensors(self.tensors, other.tensors)

    def __hash__(self) -> int:
        """Agrees with `==`."""
        return hash(self._plain())

    def _plain(self) -> tuple[int, int, str, LocalSettings, int]:
        return self.round, self.release, self.fixed, self.settings, self.seed


def kind_of(data: bytes) -> int:
    """Return the number of a message's kind, 0 for bytes that are not ours."""
    return (
        data[len(MAGIC)]
        if isinstance(data, bytes) and data.startswith(MAGIC) and len(data) > len(MAGIC)
        else 0
    )


def fixed_hash(weights: EncoderWeights) -> str:
    """Return the SHA-256 of the tensors that stay as they are between releases, in hexadecimal."""
    digest = hashlib.sha256()
    for name in FIXED_SHAPES:
        digest.update(np.ascontiguousarray(weights.tensors[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def encode_task(task: Task) -> bytes:
    """Return the bytes of a task, always `TASK_BYTES` of them; the same task always gives the same bytes."""
    s = task.settings
    numbers = (task.release, task.round, task.seed)
    trained = (s.steps, s.learning_rate, s.proximal, s.query_share, s.alignment)
    header = _TASK.pack(bytes.fromhex(shapes_hash()), bytes.fromhex(task.fixed), *numbers, *trained)
    return _close(TASK, header, cast(SharedTensors, task.tensors).vector)


def encode_update(update: EncoderUpdate) -> bytes:
    """Return the bytes of an update, always `UPDATE_BYTES` of them.

    The same update always gives the same bytes.

    On a device only the outbox calls this.
    """
    header = _UPDATE.pack(bytes.fromhex(shapes_hash()), bytes.fromhex(update.base), update.round)
    return _close(UPDATE, header, update.vector)


def decode_task(data: bytes) -> Task:
    """Return the task of these bytes.

    Raises:
        UpdateError: unless they are exactly what `encode_task` returns for one.
    """
    header, tensors = _open(data, TASK, _TASK, TASK_BYTES)
    _, fixed, release, round_, seed, *trained = header
    try:
        settings = LocalSettings(*trained)
    except OptionError as error:
        raise UpdateError(f"the task's {error}", "settings") from None
    return Task(round_, release, fixed.hex(), tensors, settings, seed)


def decode_update(data: bytes, *, base: str, round: int, max_norm: float = MAX_NORM) -> EncoderUpdate:  # noqa: A002
    """Return the update of these bytes; it must be of this round, change this encoder, and not be too long.

    `base` is the `encoder_hash` of the encoder that was sent out, `max_norm` the largest L2 norm allowed.

    Raises:
        UpdateError: unless the bytes are exactly what `encode_update` returns for such an update.
    """
    header, tensors = _open(data, UPDATE, _UPDATE, UPDATE_BYTES)
    _, found, of_round = header
    if of_round != round:
        raise UpdateError(f"the update is of round {of_round}; this is round {round}", "round")
    if found != check_hash("base", base):
        raise UpdateError(
            f"the update changes the encoder {found.hex()[:12]}; this round's is {base[:12]}", "base"
        )
    update = EncoderUpdate(base, of_round, tensors)
    if not update.norm <= max_norm:
        raise UpdateError(f"the update's norm is {update.norm:.4g}; at most {max_norm:g} is allowed", "norm")
    return update


def add_checksum(*parts: bytes | memoryview) -> bytes:
    """Return the parts one after the other, followed by their CRC-32, the way every unsigned message ends."""
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join((*parts, checksum.to_bytes(CHECKSUM_BYTES, "little")))


def checksum_fits(data: bytes) -> bool:
    """Return whether a message ends with the checksum of what is before it."""
    content = memoryview(data)[:-CHECKSUM_BYTES]
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little") == data[-CHECKSUM_BYTES:]


def _close(kind: int, header: bytes, weights: Float32s) -> bytes:
    return add_checksum(
        _START.pack(MAGIC, kind, VERSION), header, np.ascontiguousarray(weights, dtype="<f4").data
    )


def _open(data: bytes, kind: int, layout: struct.Struct, size: int) -> tuple[tuple[Any, ...], SharedTensors]:
    """Return header and tensors of a message, sound on the outside.

    The values are for the caller to check.
    """
    if not isinstance(data, bytes) or len(data) < _START.size:
        raise UpdateError(f"the message is not {_KINDS[kind]}; it must have {size:,} bytes", "size")
    magic, found_kind, version = _START.unpack_from(data)
    if magic != MAGIC:
        raise UpdateError("the message is not of Palate's federation; it must begin with PALATE", "magic")
    if found_kind != kind:
        found = _KINDS.get(found_kind, f"of kind {found_kind}")
        raise UpdateError(f"the message is {found}; it must be {_KINDS[kind]}", "kind")
    if version != VERSION:
        raise UpdateError(
            f"the message has version {version} of the wire form; this Palate reads version {VERSION}",
            "version",
        )
    if len(data) != size:
        raise UpdateError(f"the message has {len(data):,} bytes; {_KINDS[kind]} has {size:,}", "size")
    if not checksum_fits(data):
        raise UpdateError("the message was damaged on its way; its checksum does not fit", "damaged")
    header = layout.unpack_from(data, _START.size)
    if header[0] != bytes.fromhex(shapes_hash()):
        raise UpdateError(
            "the message is of an encoder with other tensors; use the same version of Palate on both sides",
            "shapes",
        )
    weights = np.frombuffer(data, "<f4", SHARED_WEIGHTS, _START.size + layout.size)
    return header, SharedTensors(weights.astype(np.float32, copy=False))
