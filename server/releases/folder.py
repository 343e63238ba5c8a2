"""The releases folder: numbered encoders, and the signed log that says what each of them is.

Where it stands in the flow: rounds move the encoder a little each and live in the checkpoint; once in a while
the person who runs the server makes a release of it (`palate server release`), which devices check and adopt
(`palate release adopt`).

    releases.log                the log of all releases and changes of keys (`shared.releases.log`)
    release-00001.safetensors   the encoder, as `shared.encoder.encoder_to_bytes` writes it
    release-00001.palate        log and encoder as one message: what a device needs, in one file

The log is what counts, and is written after the encoder it speaks of: an encoder without an entry is
unfinished. Each file is written in one step. The keys (`release_keys`) lie one folder up, so that this
folder can be handed out as it stands. Where the release key lies on a signing machine, that machine keeps
such a folder of its own (`carrying`).
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.server.checkpoints import Checkpoint
from palate.shared import durable
from palate.shared.durable import make_folder, storage_error, write_atomically
from palate.shared.encoder import (
    MAX_BYTES,
    EncoderWeights,
    encoder_hash,
    encoder_to_bytes,
    load_encoder,
    shapes_hash,
)
from palate.shared.errors import OptionError, ReleaseError, StorageError
from palate.shared.releases.check import Pinned, Trust, check_log, read_encoder
from palate.shared.releases.message import (
    BACKBONE_HASH,
    LOG_NAME,
    MOST_LOG_BYTES,
    USUAL_DAYS,
    Acceptance,
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
from palate.shared.wire import fixed_hash

LOCK_SECONDS: Final = 10.0


def make_release(
    folder: Path,
    checkpoint: Checkpoint,
    now: datetime,
    *,
    key: Ed25519PrivateKey,
    privacy: PrivacySpent | None = None,
    acceptance: Acceptance | None = None,
    days: int = USUAL_DAYS,
) -> Card:
    """Make the next release of a checkpoint's encoder, sign it, and return its card.

    Args:
        folder: the releases folder.
        checkpoint: where the federation stands.
        now: the time of the release.
        key: the release key in force.
        privacy: what the rounds up to here have spent.
        acceptance: what the test on public pictures found.
        days: for how many days from now on the log is good.

    Raises:
        OptionError: nothing was learned since the latest release, there is no log yet, or the key is another.
        ReleaseError: no device would take the encoder, or the log cannot be continued.
        StorageError: it cannot be written.
    """
    with locked(folder):
        log = read_log(folder)
        if log is None:
            raise OptionError("no log of releases was begun here yet; make the keys with: palate server key")
        if key.public_key().public_bytes_raw() != log.keys[-1].release:
            raise OptionError(
                f"the releases are signed with the release key {write_key(log.keys[-1].release)}; this is "
                "another key"
            )
        card, data = next_release(log, checkpoint, privacy=privacy, acceptance=acceptance)
        log = log.with_release(card, int(now.timestamp()), key, days=days)
        keep_release(folder, log, data)
        return card


def next_release(
    log: ReleaseLog,
    checkpoint: Checkpoint,
    *,
    privacy: PrivacySpent | None = None,
    acceptance: Acceptance | None = None,
) -> tuple[Card, bytes]:
    """Return the card and the encoder's file of the next release on this log.

    Raises:
        OptionError: nothing new was learned.
    """
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
        acceptance=acceptance,
    )
    return card, data


def keep_release(folder: Path, log: ReleaseLog, data: bytes) -> None:
    """Write a signed log and the encoder of its newest release.

    Empty `data` leaves the encoder that lies there.

    What a device would refuse is not written. Killed at any moment, the log of before or the new one is there
    with its encoder.
    """
    check_log(log, trust_of(log), _pinned())
    consequence = "the log of releases stays as it was"
    if log.releases and data:
        card = log.releases[-1][1]
        read_encoder(data, card)
        write_atomically(release_path(folder, card.release), data, consequence=consequence)
    write_atomically(folder / LOG_NAME, encode_log(log), consequence=consequence)
    keep_message(folder)


def keep_message(folder: Path) -> None:
    """Write the newest release as one message, where a kill came before that was done."""
    log = read_log(folder)
    if log is None or not log.releases:
        return
    number = log.releases[-1][1].release
    path = message_path(folder, number)
    if not release_path(folder, number).exists():  # a signing machine that was set up anew has the log alone
        return
    message = newest_message(folder) or b""
    if not path.exists() or path.read_bytes() != message:
        write_atomically(path, message, consequence="the one file was not written")


def read_log(folder: Path) -> ReleaseLog | None:
    """Return the log, checked from its first entry on, or None if there is none.

    Raises:
        ReleaseError: it was damaged or made for another version of Palate.
        StorageError: it cannot be read.
    """
    path = folder / LOG_NAME
    if not path.exists():
        return None
    try:
        log = decode_log(read_file(path, MOST_LOG_BYTES))
        check_log(log, trust_of(log), _pinned())
    except ReleaseError as error:
        raise ReleaseError(f"{path}: {error}", error.reason) from None
    return log


def trust_of(log: ReleaseLog) -> Trust:
    """Return the trust of a person who pinned the recovery key of this log, to check the log in itself."""
    return Trust(log.keys[-1].recovery if log.keys else b"")


def list_releases(folder: Path) -> list[Card]:
    """Return the cards of all releases by number; raises what `read_log` raises."""
    log = read_log(folder)
    return [card for _, card in log.releases] if log else []


def read_release(folder: Path, number: int) -> EncoderWeights:
    """Return the encoder of a release, checked against its card.

    Raises:
        OptionError: a number that there is not.
        ReleaseError: file and card do not belong together, and what `read_log` raises.
    """
    cards = list_releases(folder)
    if not 1 <= number <= len(cards):
        raise OptionError(f"there is no release {number} in {folder}; the newest is {len(cards)}")
    return read_encoder(read_file(release_path(folder, number), MAX_BYTES), cards[number - 1])


def newest_encoder(folder: Path) -> EncoderWeights:
    """Return the encoder to start from: that of the newest release, or the one that ships with Palate."""
    cards = list_releases(folder)
    return read_release(folder, len(cards)) if cards else load_encoder()


def newest_message(folder: Path) -> bytes | None:
    """Return the message of kind 11 that brings a device up to date, or None if there is no log yet.

    Before the first release it holds the log alone, from which a device learns which release key is in force.
    """
    log = read_log(folder)
    if log is None:
        return None
    if not log.releases:
        return encode_release(SignedRelease(log, b""))
    card = log.releases[-1][1]
    data = read_file(release_path(folder, card.release), MAX_BYTES)
    read_encoder(data, card)
    return encode_release(SignedRelease(log, data))


def release_path(folder: Path, number: int) -> Path:
    """Return where the encoder of a release lies."""
    return folder / encoder_name(number)


def message_path(folder: Path, number: int) -> Path:
    """Return where log and encoder of a release lie as one file."""
    return folder / message_name(number)


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder against another process that would write to it."""
    make_folder(folder)
    return durable.locked(folder / ".lock", LOCK_SECONDS, f"the releases folder {folder}", busy=StorageError)


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a file, at most one more than `most`; raise StorageError."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise storage_error(error, path, "the release cannot be used") from None


def _pinned() -> Pinned:
    return Pinned.by(load_encoder())
