"""Which release of the shared encoder this device accepted: signed, checked, and kept in the vault.

Where it stands in the flow: `palate release adopt` takes a release from a file or folder, and a joined device
gets one over the wire. `shared.releases.check` checks it against the pinned recovery key, the log that was
accepted before, and the frozen backbone that is installed here. From then on the federation's rounds start
from it (`federation_encoder`). Whether this person's own evaluator uses it too is another question
(`own_encoder`), which nothing here depends on.

All records are written in one change of the vault, so there is never a release without what it was accepted
for. A release older than the accepted one is never taken. The way back is `reset`, which forgets the
releases, the log's head and the key together.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from palate.client.eye.backbone import installed, shipped
from palate.client.releases.stored import (
    BEFORE,
    RELEASE,
    TRUST,
    TYPES,
    Choice,
    encode_trust,
    need_trust,
    read_choice,
    read_release,
    read_trust,
    write_choice,
)
from palate.client.vault.store import ONLY, Change, Records, Store
from palate.shared import durable
from palate.shared.encoder import MAX_BYTES, EncoderWeights, encoder_to_bytes
from palate.shared.errors import ReleaseError, VaultDamagedError
from palate.shared.releases.check import Trust, check_log, check_release, expired
from palate.shared.releases.message import (
    LOG_NAME,
    MOST_BYTES,
    MOST_LOG_BYTES,
    SHIPPED_HASH,
    Card,
    Entry,
    ReleaseLog,
    SignedRelease,
    card_to_json,
    decode_log,
    decode_release,
    encode_release,
    encoder_name,
    read_key,
    time_of,
    write_key,
)


@dataclass(frozen=True)
class Adopted:
    """What was accepted: a release, or before the first one only the log, which is then release 0."""

    release: int
    hash: str  # `encoder_hash`
    new: bool  # False: it was adopted before


@dataclass(frozen=True)
class Standing:
    """What is known here about releases; without an accepted one the encoder is release 0."""

    release: int  # the newest that was accepted: what rounds start from
    hash: str  # its `encoder_hash`
    key: str | None  # the recovery key, as people pin it
    entries: int  # of the log that were accepted
    head: str | None  # the hash of the last of them: equal on all devices that were shown the same log
    release_key: str | None = None  # the key that signs releases now, once a log was accepted
    until: int = 0  # until when the log is good, seconds since 1970
    choice: Choice | None = None  # which encoder this person's evaluator uses
    history: tuple[tuple[Entry, Card], ...] = ()

    @property
    def used(self) -> int:
        """Return the release of the encoder that this person's evaluator uses."""
        return self.release if self.choice is None or self.choice.uses == "new" else self.choice.before

    def to_json(self) -> dict[str, Any]:
        """Return it as `palate release show --json` prints it."""
        choice = self.choice
        return {
            "release": self.release,
            "hash": self.hash,
            "used": self.used,
            "choice": None
            if choice is None
            else {name: value for name, value in vars(choice).items() if name != "fingerprint"},
            "key": self.key,
            "release_key": self.release_key,
            "entries": self.entries,
            "head": self.head,
            "good_until": time_of(self.until) if self.entries else None,
            "history": [{**card_to_json(card), "when": entry.time} for entry, card in self.history],
        }


def federation_encoder(records: Records | None = None) -> EncoderWeights:
    """Return the encoder that rounds start from: the accepted release, or release 0 before there is one.

    It depends on signatures alone, so an answer made with it tells nothing of the labels. An accepted release
    is checked again against what is installed, because after an update of Palate it may no longer fit.

    Args:
        records: the vault, None for the encoder that ships.

    Raises:
        ReleaseError: the accepted release does not fit any more, or release 0 is not the one that Palate
            shipped with.
        VaultError: what the vault raises.
        ModelError: a file is missing.
    """
    release = None if records is None else read_release(records)
    if records is None or release is None or not release.log.releases:
        return shipped()
    try:
        return check_release(release, need_trust(records), installed()).encoder
    except ReleaseError as error:
        raise ReleaseError(
            f"{error}; or go back to the encoder that ships with Palate: palate release reset", error.reason
        ) from None


def release_key(records: Records) -> bytes | None:
    """Return the public key that signs for the server now (32 bytes), None before a log was accepted."""
    trust = read_trust(records)
    return trust.key if trust is not None and trust.entries else None


def is_pinned(records: Records) -> bool:
    """Return whether a recovery key is pinned here, with or without an accepted log that rests on it."""
    return read_trust(records) is not None


def why_not_good(records: Records, now: datetime) -> str:
    """Return in one line why the accepted log is no longer good; empty while it is, or before there is one.

    The device then stays out of rounds: newer releases, or the change of a stolen key, may be withheld from
    it. `now` has a zone.
    """
    trust = read_trust(records)
    if trust is None or not expired(trust, now):
        return ""
    return (
        f"the server's log of releases was good until {time_of(trust.until)[:10]} only: newer releases may "
        "be withheld from this device; ask the person who runs the server for a newer one"
    )


def pin_key(store: Store, text: str) -> bool:
    """Keep the recovery key that the log of releases must rest on; return whether it is new.

    Raises `ReleaseError` for a text that is no key, and if another key is kept.
    """
    key = read_key(text)
    with store.transaction() as change:
        known = read_trust(change)
        if known is None:
            change.put(TRUST, ONLY, encode_trust(Trust(key)))
            return True
        if key != known.recovery and key not in _recovery_keys(read_release(change)):
            raise _other_key(known)
        return False


def adopt(store: Store, release: SignedRelease, *, key: str | None = None) -> Adopted:
    """Check a release and accept it: rounds start from it from now on.

    This person's evaluator uses it once it was tried on the person's own labels (`own_encoder`). Before the
    first release, only the log is accepted. Nothing is changed unless everything fits.

    Args:
        store: the vault.
        release: the log, with the encoder of its newest release.
        key: the text of the server's recovery key, needed the first time only.

    Raises:
        ReleaseError: the release is refused; the reason in one line and in one word.
        VaultError: what the vault raises.
    """
    given = None if key is None else read_key(key)
    pinned = installed()
    with store.transaction() as change:
        known = read_trust(change)
        if known is None and given is None:
            raise ReleaseError(
                "no release key is pinned here; get its text from the person who runs the server, and give "
                "it with --key",
                "key",
            )
        trust = known if known is not None else Trust(given or b"")
        if release.log.releases:
            checked = check_release(release, trust, pinned)
            now, hash_ = checked.trust, checked.card.hash
        else:
            if release.encoder:
                raise ReleaseError("the log holds no release, and an encoder comes with it", "encoder")
            now, hash_ = check_log(release.log, trust, pinned), SHIPPED_HASH
        if given is not None and given not in _recovery_keys(release):
            raise _other_key(trust)
        if now != known:
            if now.release > trust.release:
                _keep_before(change)
            change.put(RELEASE, ONLY, encode_release(release))
            change.put(TRUST, ONLY, encode_trust(now))
    return Adopted(now.release, hash_, now.release > trust.release)


def _keep_before(change: Change) -> None:
    """Keep the encoder that the evaluator uses now, next to a newer release that is still to be tried.

    The same number of bytes is written in every case: how long this takes must not tell a server what the
    owner uses.
    """
    choice, release = read_choice(change), read_release(change)
    if choice is not None and choice.uses != "new":
        before, data = choice.before, change.get(BEFORE, ONLY)
    elif release is not None and release.log.releases:
        before, data = release.log.releases[-1][1].release, release.encoder
    else:
        before, data = 0, encoder_to_bytes(shipped())
    change.put(BEFORE, ONLY, data)
    write_choice(change, Choice(before))


def offer(store: Store, data: bytes) -> Adopted | ReleaseError:
    """Accept a release that came over the wire (a message of kind 11), or return why it was refused.

    Without a pinned key everything is refused: a server cannot introduce itself. Raises what the vault
    raises.
    """
    try:
        return adopt(store, decode_release(data))
    except ReleaseError as refusal:
        return refusal


def read_source(path: Path) -> SignedRelease:
    """Return the release in a file (`release-00001.palate`), or the newest in a server's folder `releases`.

    It is not checked yet. Raises `ReleaseError` for anything else, `StorageError` for what cannot be read.
    """
    if not path.is_dir():
        return decode_release(_read_file(path, MOST_BYTES))
    log = decode_log(_read_file(path / LOG_NAME, MOST_LOG_BYTES))
    if not log.releases:
        raise ReleaseError(f"the release log in {path} holds no release yet", "empty")
    return SignedRelease(log, _read_file(path / encoder_name(log.releases[-1][1].release), MAX_BYTES))


def read_standing(records: Records) -> Standing:
    """Return what is known here about releases; raises what the vault raises."""
    trust, release = read_trust(records), read_release(records)
    history = release.log.releases if release is not None else ()
    accepted = trust is not None and trust.entries > 0
    return Standing(
        release=history[-1][1].release if history else 0,
        hash=history[-1][1].hash if history else SHIPPED_HASH,
        key=None if trust is None else write_key(trust.recovery),
        entries=0 if trust is None else trust.entries,
        head=trust.head if trust is not None and accepted else None,
        release_key=write_key(trust.key) if trust is not None and accepted else None,
        until=0 if trust is None else trust.until,
        choice=read_choice(records),
        history=history,
    )


def read_accepted(records: Records) -> ReleaseLog:
    """Return the log as it was accepted; raises `ReleaseError` where none was."""
    release = read_release(records)
    if release is None:
        raise ReleaseError("no release log was accepted here yet; see palate release adopt", "empty")
    return release.log


def reset(store: Store) -> int:
    """Go back to release 0, forget the accepted release, the log's head and the key.

    Return which release was in use.

    This works on records that cannot be read too. From then on, nothing protects against an older release or
    another history until a key is pinned again.
    """
    with store.transaction() as change:
        trust: Trust | None = None
        with contextlib.suppress(VaultDamagedError):
            trust = read_trust(change)
        for type_ in TYPES:
            if change.has(type_, ONLY):
                change.delete(type_, ONLY)
    return 0 if trust is None else trust.release


def _recovery_keys(release: SignedRelease | None) -> set[bytes]:
    """Return all recovery keys that were ever in force: people may have pinned any of them."""
    return set() if release is None else {keys.recovery for keys in release.log.keys}


def _other_key(known: Trust) -> ReleaseError:
    return ReleaseError(
        f"another release key is pinned here, {write_key(known.recovery)}; if the server really has a new "
        "beginning, forget the old one with: palate release reset",
        "key",
    )


def _read_file(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise durable.storage_error(error, path, "no release was adopted") from None
