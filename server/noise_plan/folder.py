"""Keeps what correlated noise needs between rounds: the secret seed, and the sealed state after each step.

Where it stands in the flow: the round loop hands a sum to `NoiseFolder.add` and gets it back with noise,
after the new state is on the disk. A server that is killed goes on with the next step: the step that was
begun is over, whether or not its sum was used, and its devices rest as long as after any other.

    noise/seed           32 random bytes, made once, readable by the server's user alone (mode 600)
    noise/state.sealed   magic "PALATE NOISE 1" | nonce 12 | AES-256-GCM( header length 4 | header, JSON |
                         noise, int64 )

The noise of past steps is as secret as what it covers, so the state is sealed by a key derived from the seed,
and bound to the plan: damage, or the state of another plan, does not open.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from palate.server.noise_plan.correlated import NoisePlan, NoiseState, add_noise, resting
from palate.shared.arrays import Levels
from palate.shared.durable import make_folder, storage_error, write_atomically
from palate.shared.errors import FileFormatError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"PALATE NOISE 1"
_NONCE_BYTES, _SEED_BYTES = 12, 32


class NoiseFolder:
    """A plan's noise in a folder, which is made if need be.

    One process at a time uses it (the server holds its folder's lock).

    Raises:
        FileFormatError: seed or state is damaged or belongs to another plan.
        StorageError: the disk refuses.
    """

    def __init__(self, folder: Path, plan: NoisePlan) -> None:
        """Read the seed and the state, or make the seed and begin at step 0."""
        self.plan = plan
        self._path = folder / "state.sealed"
        self._seed = _read_or_make_seed(folder / "seed", has_state=self._path.exists())
        self.state = self._read()

    @property
    def name(self) -> str:
        """What this plan with this seed is called in the ledger, 64 hexadecimal digits.

        It says nothing of the seed.
        """
        named = b"palate noise plan and seed 1" + bytes.fromhex(self.plan.hash) + self._seed
        return hashlib.sha256(named).hexdigest()

    def resting(self) -> set[str]:
        """Return the devices that must not be asked in the next round."""
        return resting(self.plan, self.state)

    def add(self, total: Levels, devices: Collection[str]) -> Levels:
        """Return the sum of these devices' contributions with this step's noise.

        The step is over when this returns.

        Raises:
            OptionError: as `add_noise` does.
            StorageError: the state cannot be kept: then the sum must not be used.
        """
        noised, after = add_noise(self.plan, self.state, total, devices, self._seed)
        write_atomically(
            self._path, seal_state(self.plan, after, self._seed), consequence="the round must not be used"
        )
        self.state = after
        return noised

    def _read(self) -> NoiseState:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return NoiseState()
        except OSError as error:
            raise storage_error(error, self._path, "nothing was changed") from None
        return open_state(self.plan, data, self._seed, str(self._path))


def seal_state(plan: NoisePlan, state: NoiseState, seed: bytes) -> bytes:
    """Return a state as sealed bytes."""
    header = json.dumps(
        {
            "step": state.step,
            "shape": state.past.shape,
            "took_part": {str(k): v for k, v in state.took_part.items()},
        }
    ).encode()
    content = struct.pack("<I", len(header)) + header + np.ascontiguousarray(state.past, "<i8").tobytes()
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return MAGIC + nonce + _cipher(seed).encrypt(nonce, content, MAGIC + bytes.fromhex(plan.hash))


def open_state(plan: NoisePlan, data: bytes, seed: bytes, place: str) -> NoiseState:
    """Return the state of sealed bytes.

    Raises:
        FileFormatError: they are damaged or not of this plan and seed.
    """
    from cryptography.exceptions import InvalidTag

    body = data.removeprefix(MAGIC)
    try:
        if len(body) == len(data):
            raise ValueError("another form")
        nonce, sealed = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
        content = _cipher(seed).decrypt(nonce, sealed, MAGIC + bytes.fromhex(plan.hash))
    except (InvalidTag, ValueError):
        raise FileFormatError(
            f"{place} is damaged, or is the noise of another plan: go on with the settings that the plan "
            "began with, or move its folder away to begin a new plan"
        ) from None
    # What the seal opens was written by this program, so from here on nothing needs to be doubted.
    (size,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + size])
    past = np.frombuffer(content, "<i8", offset=4 + size).reshape(header["shape"]).astype(np.int64)
    return NoiseState(header["step"], past, {int(k): tuple(v) for k, v in header["took_part"].items()})


def _cipher(seed: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers import aead
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return aead.AESGCM(HKDF(SHA256(), 32, salt=None, info=b"palate noise state").derive(seed))


def _read_or_make_seed(path: Path, *, has_state: bool) -> bytes:
    try:
        make_folder(path.parent)
        if not path.exists() and not has_state:
            # Written next to it and renamed, so that a kill leaves a whole seed or none; never readable by
            # others.
            write_atomically(path, secrets.token_bytes(_SEED_BYTES))
        seed = path.read_bytes()
    except OSError as error:
        raise storage_error(error, path, "without the seed there is no noise, and no round") from None
    if len(seed) != _SEED_BYTES:
        raise FileFormatError(f"{path} is no seed of a noise plan; move its folder away to begin a new plan")
    return seed
