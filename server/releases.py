"""The releases folder: numbered encoders that devices may take over, each with a card that says what it is.

Where it stands in the flow: rounds move the encoder a little each and live in the checkpoint; once in a while the person who
runs the server makes a release of it (`palate server release`), which devices can install.

    release-00001.safetensors   the encoder, as `shared.encoder.encoder_to_bytes` writes it
    release-00001.json          its card: format, release, parent, hash, shapes, sha256 of the file, round, updates, when

The card is written last, so a release without one is unfinished and does not count. Both files are written in one step each.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from palate.server.checkpoints import Checkpoint
from palate.server.durable import storage_error, write_atomically
from palate.shared.encoder import (
    MAX_BYTES,
    EncoderWeights,
    encoder_from_bytes,
    encoder_hash,
    encoder_to_bytes,
    load_encoder,
    shapes_hash,
)
from palate.shared.errors import FileFormatError, ModelError, OptionError

FORMAT: Final = "palate release 1"
_CARD = re.compile(r"release-(\d{5})\.json")


@dataclass(frozen=True)
class Release:
    """The card of a release; nothing in it is about a single device."""

    release: int
    parent: int  # the release that training started from
    hash: str  # `encoder_hash`: what devices pin
    shapes: str  # `shapes_hash` of the version of Palate that made it
    sha256: str  # of the file
    round: int  # after which it was made
    updates: int  # that went into it since its parent
    when: str  # ISO 8601, UTC
    format: str = FORMAT


def make_release(folder: Path, checkpoint: Checkpoint, now: datetime) -> Release:
    """Makes the next release of a checkpoint's encoder and returns its card.

    Raises OptionError when nothing was learned since the latest release, StorageError when it cannot be written.
    """
    earlier = list_releases(folder)
    latest = earlier[-1].release if earlier else checkpoint.encoder.release
    digest = encoder_hash(checkpoint.encoder)
    known = {card.hash: card.release for card in earlier} | {encoder_hash(load_encoder()): 0}
    if digest in known:
        raise OptionError(
            f"the encoder after round {checkpoint.round} is that of release {known[digest]}; "
            "train it first with `palate server run`"
        )
    number = latest + 1
    data = encoder_to_bytes(EncoderWeights(number, checkpoint.encoder.tensors))
    card = Release(
        release=number,
        parent=checkpoint.encoder.release,
        hash=digest,
        shapes=shapes_hash(),
        sha256=hashlib.sha256(data).hexdigest(),
        round=checkpoint.round,
        updates=checkpoint.updates,
        when=now.isoformat(timespec="seconds"),
    )
    consequence = f"release {number} was not made"
    write_atomically(release_path(folder, number), data, consequence=consequence)
    write_atomically(
        _card_path(folder, number), json.dumps(asdict(card), indent=2).encode(), consequence=consequence
    )
    return card


def list_releases(folder: Path) -> list[Release]:
    """Returns the cards of all finished releases by number; raises FileFormatError for a card that is not one."""
    try:
        numbers = sorted(int(found[1]) for path in folder.iterdir() if (found := _CARD.fullmatch(path.name)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, folder, "nothing was changed") from None
    return [_read_card(_card_path(folder, number)) for number in numbers]


def read_release(folder: Path, number: int) -> EncoderWeights:
    """Returns the encoder of a release, checked against its card.

    Raises ModelError when file and card do not belong together, or when the release was made for other tensors than this
    version of Palate has; FileFormatError for a card that is not one; StorageError when a file cannot be read.
    """
    card = _read_card(_card_path(folder, number))
    path = release_path(folder, number)
    if card.shapes != shapes_hash():
        raise ModelError(
            f"release {number} has the tensors {card.shapes[:12]}, and this version of Palate has {shapes_hash()[:12]}; "
            "use the version that made it"
        )
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise ModelError(f"{path} is not the file that its card speaks of; take the release again")
    encoder = encoder_from_bytes(data)
    if encoder.release != number or encoder_hash(encoder) != card.hash:
        raise ModelError(f"{path} is not the encoder that its card speaks of; take the release again")
    return encoder


def newest_encoder(folder: Path) -> EncoderWeights:
    """Returns the encoder to start from: that of the newest release, or the one that ships with Palate."""
    cards = list_releases(folder)
    return read_release(folder, cards[-1].release) if cards else load_encoder()


def release_path(folder: Path, number: int) -> Path:
    """Returns where the encoder of a release lies."""
    return folder / f"release-{number:05d}.safetensors"


def _card_path(folder: Path, number: int) -> Path:
    return folder / f"release-{number:05d}.json"


def _read_card(path: Path) -> Release:
    try:
        found: Any = json.loads(_read(path))
        card = Release(**found)
    except (ValueError, TypeError):
        raise FileFormatError(f"{path} is no card of a release; take the release again") from None
    if card.format != FORMAT:
        raise FileFormatError(f"{path} has the form {card.format!r}; this version reads {FORMAT!r}")
    return card


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise storage_error(error, path, "the release cannot be used") from None
