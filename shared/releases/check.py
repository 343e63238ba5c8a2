"""Check a release before it is used: the log against the pinned key, the encoder against its card.

Where it stands in the flow: a device calls `check_release` with what came from a file or over the wire
(`release`) and with the `Trust` in its vault. Only if everything fits does it get an encoder, and the trust
to keep from then on. The server reads its own log through the same checks.

**What this stops:**

- A server, or somebody in its place, that wants to give a device an encoder of its own: without the release
  key nothing passes.
- A server with the key that shows devices different histories, or takes a device back. What a device accepted
  once stays at its place in the log (no fork, no rollback), so every lie remains in the log of the device
  that was lied to.
- A thief of the release key who wants to keep it: the recovery key names another.
- A frozen backbone that was exchanged for a rigged one, from whose gradients pictures can be rebuilt
  (PEFTLeak, Sami et al., CVPR 2025). The backbone ships with Palate, and a release trained on any other is
  refused.
- A server that withholds what is new: after a while the log is not good any more (`expired`).

**What this does not stop.** Two devices that never accepted anything can be shown two logs signed by the same
keys. Each then holds to its own, and they find out only by comparing (`palate release compare`). A thief of
the release key can sign, and renew the log for those who do not get the change of keys.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from palate.shared.encoder import (
    SHARED_SHAPES,
    EncoderWeights,
    encoder_from_bytes,
    encoder_hash,
    encoder_to_bytes,
    shapes_hash,
)
from palate.shared.errors import ModelError, ReleaseError
from palate.shared.releases.message import (
    BACKBONE_HASH,
    SHIPPED_HASH,
    UNSIGNED,
    Card,
    Entry,
    Keys,
    ReleaseLog,
    SignedRelease,
)
from palate.shared.update import norm_of
from palate.shared.wire import fixed_hash

LARGEST_ENCODER: Final = 1_000.0
"""The longest encoder that a release may hold, L2 over the federated tensors; release 0 has 50."""


@dataclass(frozen=True)
class Trust:
    """What is remembered of a federation's releases: the recovery key, and how far its log was accepted.

    With 0 entries only the key is pinned.
    """

    recovery: bytes  # public: the pinned one, or the one in force after the last accepted entry
    entries: int = 0
    head: str = ""  # hash of the last accepted entry
    release: int = 0  # number of the newest accepted release
    key: bytes = b""  # public: the release key that is in force, once a log was accepted
    stated: int = 0  # when the latest accepted statement was made, seconds since 1970
    until: int = 0  # until when the log is good by that statement


@dataclass(frozen=True)
class Pinned:
    """What must not change between releases, as hashes: what is installed here."""

    fixed: str  # `fixed_hash`
    backbone: str = BACKBONE_HASH
    shipped: str = SHIPPED_HASH  # `encoder_hash` of release 0
    shapes: str = field(default_factory=shapes_hash)

    @classmethod
    def by(cls, installed: EncoderWeights, backbone: str = BACKBONE_HASH) -> Pinned:
        """Return the hashes of an installed release 0 and backbone."""
        return cls(fixed_hash(installed), backbone, encoder_hash(installed))


@dataclass(frozen=True)
class Checked:
    """A release that passed: its encoder, the entry that speaks of it, and what to remember from now on."""

    encoder: EncoderWeights
    entry: Entry
    card: Card
    trust: Trust


def backbone_hash(files: Mapping[str, str], statistics: str) -> str:
    """Return one hash for the frozen part: each file's name and SHA-256, and what the statistics are."""
    digest = hashlib.sha256(b"palate backbone 1\0")
    for name in sorted(files):
        digest.update(f"{name}\n{files[name]}\n".encode())
    digest.update(f"statistics\n{statistics}\n".encode())
    return digest.hexdigest()


def check_log(log: ReleaseLog, trust: Trust, pinned: Pinned) -> Trust:
    """Check a whole log and return what is to be remembered of it.

    Entries up to the one that was accepted before are checked by their hashes alone: their signatures were
    checked then, and the hash of the last of them names them all. A log that is not good any more passes:
    `expired` says so of what is returned. Raises ReleaseError: "empty", "gap", "chain", "unsigned",
    "signature", "key", "parent", "shapes", "fixed", "backbone", "rollback" or "fork".
    """
    _check_size(log, trust, pinned)
    known: list[Keys] = []
    encoders, previous = [log.shipped], log.beginning
    for number, entry in enumerate(log.entries, 1):
        _check_place(number, entry, previous)
        if number > trust.entries:
            _check_signatures(entry, known[-1] if known else None)
        if isinstance(entry.content, Keys):
            _check_keys(number, entry.content, known)
            known.append(entry.content)
        else:
            _check_card(entry.content, encoders, pinned)
            encoders.append(entry.content.hash)
        previous = entry.hash
        if number == trust.entries and previous != trust.head:
            raise ReleaseError(
                f"entry {number} of the release log is not the one that was accepted here before: the "
                "server, or somebody in its place, shows two histories; ask the person who runs it",
                "fork",
            )
    if not trust.entries and trust.recovery not in {keys.recovery for keys in known}:
        raise ReleaseError("the release log is not of the key that is pinned here", "key")
    said, now = log.statement, known[-1]
    _verify(now.release, said.signature, said.signed_bytes(previous), "the statement of the release log")
    stated, until = max((said.when, said.until), (trust.stated, trust.until))
    return Trust(now.recovery, len(log.entries), previous, len(encoders) - 1, now.release, stated, until)


def _check_size(log: ReleaseLog, trust: Trust, pinned: Pinned) -> None:
    """Raise ReleaseError unless the log grows from the shipped encoder and is as long as the one before."""
    if log.shipped != pinned.shipped:
        raise ReleaseError(
            f"the release log begins at the release 0 {log.shipped[:12]}, and the one that ships with this "
            f"Palate is {pinned.shipped[:12]}; use the version of Palate that the server uses",
            "parent",
        )
    if not log.entries:
        raise ReleaseError("the release log is empty: nobody has signed anything yet", "empty")
    if len(log.entries) < trust.entries:
        raise ReleaseError(
            f"the release log ends at entry {len(log.entries)}, and entry {trust.entries} was accepted "
            "here before; ask the server for a newer one",
            "rollback",
        )


def _check_place(number: int, entry: Entry, previous: str) -> None:
    """Raise ReleaseError unless the entry belongs at this place, after the entry with hash `previous`."""
    if entry.number != number:
        raise ReleaseError(f"the release log has entry {entry.number} where entry {number} belongs", "gap")
    if entry.previous != previous:
        raise ReleaseError(f"entry {number} of the release log does not continue the one before", "chain")
    if number == 1 and not isinstance(entry.content, Keys):
        raise ReleaseError("the first entry of the release log names no keys", "key")


def check_next(log: ReleaseLog, card: Card, pinned: Pinned) -> None:
    """Check a card that is to be the next release of a log as `check_log` will once it is signed.

    Raises:
        ReleaseError: as that does.
    """
    _check_card(card, [log.shipped, *(known.hash for _, known in log.releases)], pinned)


def expired(trust: Trust, now: datetime) -> bool:
    """Return whether the accepted log is not good any more at this time (with a zone).

    This is false before a log was accepted.
    """
    return trust.entries > 0 and now.timestamp() > trust.until


def check_release(release: SignedRelease, trust: Trust, pinned: Pinned) -> Checked:
    """Check the newest release of a log and return it; a release that was accepted before passes again.

    Raises:
        ReleaseError: as `check_log` does, and "empty", "encoder" or "norm".
    """
    now = check_log(release.log, trust, pinned)
    if not release.log.releases:
        raise ReleaseError("the release log holds no release yet", "empty")
    entry, card = release.log.releases[-1]
    return Checked(read_encoder(release.encoder, card), entry, card, now)


def read_encoder(data: bytes, card: Card) -> EncoderWeights:
    """Return the encoder of a file, which must be the very one that the card speaks of.

    Raises ReleaseError ("encoder", "norm").

    Before the hash of the bytes is found to be the signed one, nothing in them is read.
    """
    wrong = f"the file is not the encoder of release {card.release}; take the release again"
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise ReleaseError(wrong, "encoder")
    try:
        encoder = encoder_from_bytes(data)
    except (ModelError, OverflowError, RecursionError, AttributeError):
        raise ReleaseError(wrong, "encoder") from None
    same = (encoder.release, encoder_hash(encoder), fixed_hash(encoder)) == (
        card.release,
        card.hash,
        card.fixed,
    )
    # Written anew it must give the same bytes: there is no room for anything but the tensors.
    if not same or encoder_to_bytes(encoder) != data:
        raise ReleaseError(wrong, "encoder")
    if not math.hypot(*(norm_of(encoder.tensors[name]) for name in SHARED_SHAPES)) <= LARGEST_ENCODER:
        raise ReleaseError(
            f"the weights of release {card.release} are out of bounds: longer than {LARGEST_ENCODER:g}",
            "norm",
        )
    return encoder


def _check_card(card: Card, encoders: list[str], pinned: Pinned) -> None:
    """Check a card against the releases before it (`encoders`, from release 0 on) and the frozen part."""
    if card.release != len(encoders):
        raise ReleaseError(
            f"release {card.release} follows release {len(encoders) - 1} in the log; a release is left out",
            "gap",
        )
    if card.hash in encoders:
        raise ReleaseError(
            f"release {card.release} is release {encoders.index(card.hash)} under a new number", "rollback"
        )
    if card.parent != encoders[-1]:
        raise ReleaseError(f"release {card.release} did not grow from the release before it", "parent")
    if card.shapes != pinned.shapes:
        raise ReleaseError(
            f"release {card.release} has other tensors than this version of Palate; use the version that "
            "made it",
            "shapes",
        )
    if card.fixed != pinned.fixed:
        raise ReleaseError(
            f"release {card.release} has other fixed tensors than the encoder that is installed here", "fixed"
        )
    if card.backbone != pinned.backbone:
        raise ReleaseError(
            f"release {card.release} was trained on the backbone {card.backbone[:12]}, and the one "
            f"installed here is {pinned.backbone[:12]}; use the version of Palate that the server uses",
            "backbone",
        )


def _check_keys(number: int, keys: Keys, known: list[Keys]) -> None:
    """Check that each key is the one in force or a new one: a key that was given up does not come back."""
    for named, before in (
        (keys.release, [one.release for one in known]),
        (keys.recovery, [one.recovery for one in known]),
    ):
        other = {key for one in known for key in (one.release, one.recovery)} - set(before[-1:])
        if named in other or (known and keys == known[-1]):
            raise ReleaseError(f"entry {number} of the release log names a key that was used before", "key")


def _check_signatures(entry: Entry, known: Keys | None) -> None:
    """Check an entry's signatures against the keys in force before it.

    The first entry vouches for itself, and is bound by the pin.
    """
    content = entry.content
    signers: tuple[bytes, ...]
    if isinstance(content, Keys):
        signers = (content.recovery if known is None else known.recovery, content.release, content.recovery)
    else:
        signers = (b"" if known is None else known.release,)
    for signer, signature in zip(signers, entry.signatures, strict=True):
        _verify(signer, signature, entry.signed_bytes, f"entry {entry.number} of the release log")


def _verify(signer: bytes, signature: bytes, signed: bytes, what: str) -> None:
    if signature == UNSIGNED:
        raise ReleaseError(f"{what} is not signed", "unsigned")
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, signed)
    except (InvalidSignature, ValueError):
        raise ReleaseError(f"{what} is signed by another key than the one in force", "signature") from None
