"""The shared weights installed here: release 0 of the encoder, and the frozen backbone of every release.

Where it stands in the flow: `releases` checks each release against these hashes, `own_encoder` begins with
release 0, and a device checks the backbone when it joins. Nothing else in `client/` loads an encoder; a test
holds the source to that.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

from palate.shared.encoder import EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import ModelError, ReleaseError
from palate.shared.releases.check import Pinned, backbone_hash
from palate.shared.releases.message import BACKBONE_HASH, SHIPPED_HASH

WEIGHTS: Final = Path(__file__).parents[1] / "weights"
FROZEN: Final = (
    "picture_tower.safetensors",
    "vocabulary.safetensors",
    "generator/text_encoder/config.json",
    "generator/text_encoder/model.safetensors",
    "generator/tokenizer/tokenizer.json",
)
"""The files of the frozen backbone: picture tower, sentence tower, and its embeddings of the vocabulary."""

STATISTICS_VERSION: Final = 1
"""Raise it when `statistics.measure_statistics` gives other numbers: they are the part that is no file."""


def installed() -> Pinned:
    """Return the hashes that a release must share with what is installed here.

    Raises:
        ModelError: a file of the backbone is missing.
        ReleaseError: release 0 is not the one that Palate ships with.
    """
    return Pinned.by(shipped(), installed_backbone())


def installed_backbone() -> str:
    """Return the `backbone_hash` of the towers and statistics that are installed, from the files themselves.

    The first call reads 34 MB; later ones look at sizes and times only.

    Raises:
        ModelError: a file is missing.
    """
    from palate.client.eye.statistics import STATISTIC_NAMES

    names = f"version {STATISTICS_VERSION}: {','.join(STATISTIC_NAMES)}"
    try:
        found = tuple(
            ((WEIGHTS / name).stat().st_size, (WEIGHTS / name).stat().st_mtime_ns) for name in FROZEN
        )
        return _hash_backbone(WEIGHTS, found, names)
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read; install Palate again") from None


def check_backbone() -> None:
    """Raise `ModelError` unless the towers installed here are the pinned ones; the first call reads 34 MB.

    An adopted release is checked against the same hash. But a device that adopted none would train on any
    tower that is installed, and a tower made for an attack makes pictures readable from what a round learns
    of them.

    Reference:
        Sami et al., "PEFTLeak", CVPR 2025.
    """
    if installed_backbone() != BACKBONE_HASH:
        raise ModelError(
            "the picture or sentence tower installed here is not the one that ships with this version of "
            "Palate, so this device takes part in no round; install Palate again"
        )


@lru_cache(maxsize=2)
def _hash_backbone(folder: Path, _changed: tuple[tuple[int, int], ...], statistics: str) -> str:
    files = {}
    for name in FROZEN:
        with (folder / name).open("rb") as file:
            files[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return backbone_hash(files, statistics)


@lru_cache(maxsize=1)
def shipped() -> EncoderWeights:
    """Return release 0.

    Raises:
        ReleaseError: it is not the one that Palate ships with.
        ModelError: it is missing.
    """
    encoder = load_encoder()
    if encoder_hash(encoder) != SHIPPED_HASH:
        raise ReleaseError(
            "the encoder that is installed is not the one that Palate ships with; install Palate again",
            "encoder",
        )
    return encoder
