"""The server's memory between rounds: one file, from which a run goes on bit for bit.

The file is replaced in one step after every round.

Where it stands in the flow: `rounds` returns a `Checkpoint` after each round, `rounds.run` writes it here
before anything else happens, and after a kill or a power cut reads it back. What a round does depends on
nothing but the checkpoint, the settings and the devices' answers: cohort and seeds are derived from (seed,
round), so no state of a random generator is kept.

    checkpoint.safetensors   encoder.<name>     the encoder after the round: federated and fixed tensors
                             memory.<name>      what the averaging strategy remembers (FedAdam's moments)
                             header "palate"    JSON: format, round, release, settings, missed, updates,
                                                metrics, clip, sha256 of the tensors
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from palate.server.settings import RunSettings
from palate.shared.arrays import Float32s
from palate.shared.durable import storage_error, write_atomically
from palate.shared.encoder import EncoderWeights
from palate.shared.errors import FileFormatError, PalateError

FORMAT: Final = "palate checkpoint 1"
MAX_BYTES: Final = 64_000_000


@dataclass(frozen=True)
class Checkpoint:
    """Where a federation stands after `round` rounds; 0 is before the first."""

    round: int
    encoder: EncoderWeights  # its release is the one that training started from
    settings: RunSettings
    memory: Mapping[str, Float32s] = field(default_factory=dict)  # of the averaging strategy
    missed: int = 0  # rounds in a row without a quorum
    updates: int = 0  # that went into the encoder since its release
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of the last round
    clip: float = 0.0  # of the next masked round; 0 before the first


def checkpoint_to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return a checkpoint as safetensors bytes; the same checkpoint always gives the same bytes."""
    from safetensors.numpy import save

    tensors = {f"encoder.{name}": tensor for name, tensor in checkpoint.encoder.tensors.items()}
    tensors |= {f"memory.{name}": tensor for name, tensor in checkpoint.memory.items()}
    header = {
        "format": FORMAT,
        "round": checkpoint.round,
        "release": checkpoint.encoder.release,
        "settings": json.loads(checkpoint.settings.to_json()),
        "missed": checkpoint.missed,
        "updates": checkpoint.updates,
        "metrics": dict(checkpoint.metrics),
        "clip": checkpoint.clip,
        "sha256": _digest(tensors),
    }
    return bytes(
        save({n: np.ascontiguousarray(t) for n, t in tensors.items()}, {"palate": json.dumps(header)})
    )


def checkpoint_from_bytes(data: bytes, place: str) -> Checkpoint:
    """Return the checkpoint of these bytes.

    Raises:
        FileFormatError: they are damaged, cut short or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    advice = f"{place} is no sound checkpoint; move it away to start from the latest release"
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["palate"])
        if header["format"] != FORMAT:
            raise FileFormatError(f"{place} has the form {header['format']!r}; this version reads {FORMAT!r}")
        tensors = load(data)
        if _digest(tensors) != header["sha256"]:
            raise FileFormatError(advice)
        return Checkpoint(
            round=int(header["round"]),
            encoder=EncoderWeights(int(header["release"]), _under("encoder.", tensors)),
            settings=RunSettings.from_json(json.dumps(header["settings"])),
            memory=_under("memory.", tensors),
            missed=int(header["missed"]),
            updates=int(header["updates"]),
            metrics=dict(header["metrics"]),
            clip=float(header.get("clip", 0.0)),
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise FileFormatError(advice) from None
    except PalateError as error:
        raise FileFormatError(f"{place} cannot be used: {error}") from None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in one step; raises StorageError, and the old one stays as it was."""
    write_atomically(
        path,
        checkpoint_to_bytes(checkpoint),
        consequence=f"round {checkpoint.round} is lost and the checkpoint before it stays",
    )


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint, or None if there is none.

    Raises:
        FileFormatError: it is damaged.
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, path, "nothing was changed") from None
    if len(data) > MAX_BYTES:
        raise FileFormatError(f"{path} has more than {MAX_BYTES:,} bytes, so it is no checkpoint")
    return checkpoint_from_bytes(data, str(path))


def _digest(tensors: Mapping[str, Float32s]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype.str} {tensors[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _under(prefix: str, tensors: Mapping[str, Float32s]) -> dict[str, Float32s]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
