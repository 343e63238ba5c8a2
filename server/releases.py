"""The releases folder: numbered encoders that devices may take over, and the signed log that says what each one is.

Where it stands in the flow: rounds move the encoder a little each and live in the checkpoint; once in a while the person who
runs the server makes a release of it (`palate server release`), which devices check and adopt (`palate release adopt`).

    releases.log                the log of all releases and changes of the key, as `shared.release` writes it
    release-00001.safetensors   the encoder, as `shared.encoder.encoder_to_bytes` writes it
    release-00001.palate        log and encoder as one message: what a device needs, in one file

The log is what counts, and is written after the encoder it speaks of: an encoder without an entry is unfinished. Each file is
written in one step. The key (`signing`) lies one folder up, so that this folder can be handed out as it stands.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.server import signing
from palate.server.checkpoints import Checkpoint
from palate.shared.durable import locked, make_folder, storage_error, write_atomically
from palate.shared.encoder import (
    MAX_BYTES,
    EncoderWeights,
    encoder_hash,
    encoder_to_bytes,
    load_encoder,
    shapes_hash,
)
from palate.shared.errors import OptionError, ReleaseError, StorageError
from palate.shared.release import (
    BACKBONE_HASH,
    LOG_NAME,
    MOST_LOG_BYTES,
    Card,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    decode_log,
    encode_log,
    encode_release,
    encoder_name,
    message_name,
    write_key,
)
from palate.shared.release_check import Pinned, Trust, check_log, read_encoder
from palate.shared.wire import fixed_hash

LOCK_SECONDS: Final = 10.0


def make_release(
    folder: Path,
    checkpoint: Checkpoint,
    now: datetime,
    *,
    key: Ed25519PrivateKey,
    privacy: PrivacySpent | None = None,
) -> Card:
    """Makes the next release of a checkpoint's encoder, signs it, and returns its card.

    `privacy` is what the rounds up to here have spent. Raises OptionError when nothing was learned since the latest release or
    when the key is not the log's; ReleaseError for an encoder that no device would take and for a log that cannot be gone on with;
    StorageError when it cannot be written.
    """
    with _locked(folder):
        log = read_log(folder) or ReleaseLog(key.public_key().public_bytes_raw())
        _check_key(log, key)
        digest = encoder_hash(checkpoint.encoder)
        known = {card.hash: card.release for _, card in log.releases} | {log.shipped: 0}
        if digest in known:
            raise OptionError(
                f"the encoder after round {checkpoint.round} is that of release {known[digest]}; "
                "train it first with `palate server run`"
            )
        number = len(log.releases) + 1
        data = encoder_to_bytes(EncoderWeights(number, checkpoint.encoder.tensors))
        card = Card(
            release=number,
            round=checkpoint.round,
            updates=checkpoint.updates,
            hash=digest,
            parent=log.releases[-1][1].hash if log.releases else log.shipped,
            shapes=shapes_hash(),
            fixed=fixed_hash(checkpoint.encoder),
            backbone=BACKBONE_HASH,
            sha256=hashlib.sha256(data).hexdigest(),
            privacy=privacy,
        )
        log = log.with_release(card, int(now.timestamp()), key)
        # What a device would refuse is not released.
        check_log(log, Trust(log.first_key), _pinned())
        read_encoder(data, card)
        consequence = f"release {number} was not made"
        write_atomically(release_path(folder, number), data, consequence=consequence)
        write_atomically(folder / LOG_NAME, encode_log(log), consequence=consequence)
        message = encode_release(SignedRelease(log, data))
        write_atomically(message_path(folder, number), message, consequence="the one file was not written")
        return card


def rotate_key(folder: Path, now: datetime, *, key_path: Path, passphrase: str | None) -> bytes:
    """Makes another key, writes into the log that it takes the old one's place, and returns its public half.

    Killed at any moment, either the old key or the new one is in force, and `current_key` finds it. Devices that accepted the old key
    follow by themselves at their next release. Raises what `current_key` raises, and OptionError if there is no key yet.
    """
    with _locked(folder):
        key = current_key(folder, key_path, passphrase)
        if key is None:
            raise OptionError("there is no release key to change yet; make one with: palate server key")
        log = read_log(folder) or ReleaseLog(key.public_key().public_bytes_raw())
        beside = _next_key_path(key_path)
        new = signing.make_key(beside, passphrase)
        log = log.with_rotation(new, int(now.timestamp()), key)
        write_atomically(folder / LOG_NAME, encode_log(log), consequence="the key was not changed")
        try:
            signing.move_key(beside, key_path)
        except OSError as error:
            raise storage_error(error, key_path, f"the new key is in {beside}") from None
        return log.keys[-1]


def current_key(folder: Path, key_path: Path, passphrase: str | None) -> Ed25519PrivateKey | None:
    """Returns the key that the log is signed with now, or None if there is neither a log nor a key.

    Finishes a change of the key that was cut short. Raises OptionError when the log is there and its key is not, and what
    `signing.read_key` raises.
    """
    current_public(folder, key_path)
    return signing.read_key(key_path, passphrase)


def current_public(folder: Path, key_path: Path) -> bytes | None:
    """Returns the public half of `current_key`, which needs no passphrase; raises what that raises."""
    log = read_log(folder)
    if log is not None and signing.read_public(key_path) != log.keys[-1]:
        beside = _next_key_path(key_path)
        if signing.read_public(beside) != log.keys[-1]:
            raise OptionError(
                f"the releases are signed with {write_key(log.keys[-1])}, and {key_path} is not that key; restore it from a backup"
            )
        try:
            signing.move_key(beside, key_path)
        except OSError as error:
            raise storage_error(error, key_path, "nothing was signed") from None
    return signing.read_public(key_path)


def read_log(folder: Path) -> ReleaseLog | None:
    """Returns the log, checked from its first entry on, or None if there is none.

    Raises ReleaseError when it was damaged or made for another version of Palate, StorageError when it cannot be read.
    """
    path = folder / LOG_NAME
    if not path.exists():
        return None
    try:
        log = decode_log(_read(path, MOST_LOG_BYTES))
        check_log(log, Trust(log.first_key), _pinned())
    except ReleaseError as error:
        raise ReleaseError(f"{path}: {error}", error.reason) from None
    return log


def list_releases(folder: Path) -> list[Card]:
    """Returns the cards of all releases by number; raises what `read_log` raises."""
    log = read_log(folder)
    return [card for _, card in log.releases] if log else []


def read_release(folder: Path, number: int) -> EncoderWeights:
    """Returns the encoder of a release, checked against its card.

    Raises OptionError for a number that there is not, ReleaseError when file and card do not belong together, and what `read_log`
    raises.
    """
    cards = list_releases(folder)
    if not 1 <= number <= len(cards):
        raise OptionError(f"there is no release {number} in {folder}; the newest is {len(cards)}")
    return read_encoder(_read(release_path(folder, number), MAX_BYTES), cards[number - 1])


def newest_encoder(folder: Path) -> EncoderWeights:
    """Returns the encoder to start from: that of the newest release, or the one that ships with Palate."""
    cards = list_releases(folder)
    return read_release(folder, len(cards)) if cards else load_encoder()


def newest_message(folder: Path) -> bytes | None:
    """Returns the message of kind 11 that carries the newest release to a device, or None if there is no release yet."""
    log = read_log(folder)
    if log is None or not log.releases:
        return None
    card = log.releases[-1][1]
    data = _read(release_path(folder, card.release), MAX_BYTES)
    read_encoder(data, card)
    return encode_release(SignedRelease(log, data))


def release_path(folder: Path, number: int) -> Path:
    """Returns where the encoder of a release lies."""
    return folder / encoder_name(number)


def message_path(folder: Path, number: int) -> Path:
    """Returns where log and encoder of a release lie as one file."""
    return folder / message_name(number)


def card_to_json(card: Card) -> dict[str, Any]:
    """Returns a card as the command line prints it."""
    return asdict(card)


def _check_key(log: ReleaseLog, key: Ed25519PrivateKey) -> None:
    if key.public_key().public_bytes_raw() != log.keys[-1]:
        raise OptionError(f"the releases are signed with {write_key(log.keys[-1])}; this is another key")


def _pinned() -> Pinned:
    return Pinned.by(load_encoder())


def _next_key_path(key_path: Path) -> Path:
    return key_path.with_name(key_path.name + ".next")


def _locked(folder: Path) -> Any:
    make_folder(folder)
    return locked(folder / ".lock", LOCK_SECONDS, f"the releases folder {folder}", busy=StorageError)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise storage_error(error, path, "the release cannot be used") from None
