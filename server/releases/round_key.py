"""The round key signs what devices are asked. The release key gives it that right for some weeks.

Where it stands in the flow: `rounds.run` signs every invitation and task of a run with it, before they go
out; devices check that the release key, which the log names that they follow, speaks for it
(`shared.delegation`). The round key is made here and never leaves the server's folder; the release key signs
its delegation whenever it is at hand:

    round.key           the round key, in the form of `sealed_keys`, not sealed: its owner's alone (mode 600)
    round.delegations   what release keys said of it, one after the other, as `shared.delegation` writes them

The release key is at hand when `palate server run` or `release` was given its passphrase, and always where it
lies here unsealed. Where it lies on another machine, a folder that is carried there brings a delegation back
(`ERRAND`), also while a run is going on: files are read anew for each round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.server.releases import sealed_keys
from palate.server.releases.errand import Errand
from palate.server.releases.folder import read_log
from palate.server.releases.release_keys import KeyFiles, Passphrases, begin_log, current_key
from palate.shared.delegation import (
    DELEGATION_BYTES,
    MOST_DELEGATIONS,
    VALID,
    decode_delegation,
    make_delegation,
    sign_message,
)
from palate.shared.durable import storage_error, write_atomically
from palate.shared.errors import FederationError, InvitationError, OptionError, WrongPassphraseError

ROUND_KEY: Final = "round.key"
DELEGATIONS: Final = "round.delegations"

Sign = Callable[[bytes], bytes]
"""Makes a signed message of an invitation or a task."""


def not_signed(message: bytes) -> bytes:
    """Return the message as it is: for tests of the round loop, whose devices check no signature."""
    return message


def round_key(home: Path) -> Ed25519PrivateKey:
    """Return the round key of a server's folder, made at the first call; raises what `sealed_keys` raises."""
    path = home / ROUND_KEY
    return sealed_keys.read_key(path, None) or sealed_keys.make_key(path, None)


def round_public(home: Path) -> bytes:
    """Return the public half of the round key (32 bytes), which is what a delegation is made for."""
    return round_key(home).public_key().public_bytes_raw()


def read_delegations(home: Path, now: datetime) -> list[bytes]:
    """Return the delegations that still speak for the round key, the one that holds longest first.

    What has expired, is damaged or is of an earlier round key is left out. Raises StorageError.
    """
    path = home / DELEGATIONS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, path, "nobody was invited") from None
    public, found = round_public(home), []
    for start in range(0, len(data), DELEGATION_BYTES):
        one = data[start : start + DELEGATION_BYTES]
        try:
            read = decode_delegation(one)
        except InvitationError:
            continue
        if read.round_key == public and read.expires > now.timestamp():
            found.append((read.expires, one))
    return [one for _, one in sorted(found, reverse=True)]


def add_delegation(home: Path, delegation: bytes, now: datetime) -> None:
    """Keep a delegation next to those of other release keys; of the same release key the newest alone stays.

    Raises InvitationError for bytes that are none, OptionError for one of another round key, StorageError.
    """
    new = decode_delegation(delegation)
    if new.round_key != round_public(home):
        raise OptionError(
            f"the delegation is not for the round key in {home / ROUND_KEY}; make one for that key"
        )
    others = [
        one for one in read_delegations(home, now) if decode_delegation(one).release_key != new.release_key
    ]
    kept = b"".join([delegation, *others][:MOST_DELEGATIONS])
    write_atomically(home / DELEGATIONS, kept, consequence="the delegation was not kept")


def delegate(home: Path, release_key: Ed25519PrivateKey, now: datetime) -> None:
    """Let the release key give the round key the right to invite.

    Nothing is done in the first half of the time of a right that is there.
    """
    public, half = release_key.public_key().public_bytes_raw(), (now + VALID / 2).timestamp()
    found = [decode_delegation(one) for one in read_delegations(home, now)]
    if not any(one.release_key == public and one.expires >= half for one in found):
        add_delegation(home, make_delegation(release_key, round_public(home), now=now), now)


def needs_delegation(home: Path, now: datetime) -> bool:
    """Return whether the round key may not invite, or its right is in the second half of its time."""
    found = read_delegations(home, now)
    return not found or decode_delegation(found[0]).expires < (now + VALID / 2).timestamp()


def lend_if_open(home: Path, now: datetime) -> None:
    """Let the release key give its right where it lies here unsealed.

    A folder without any keys and releases gets unsealed ones.

    So rounds in one process, and tests, need nothing else; `palate server run` makes keys with its owner,
    sealed, before a run.
    """
    files = KeyFiles(home)
    nobody = read_log(files.releases) is None and sealed_keys.is_sealed(files.release_file) is None
    if nobody and not (home / DELEGATIONS).exists():
        begin_log(
            files, now, Passphrases(sealed_keys.passphrase_given(), sealed_keys.recovery_passphrase_given())
        )
    with contextlib.suppress(WrongPassphraseError, OptionError):
        key = current_key(files, sealed_keys.passphrase_given())
        if key is not None:
            delegate(home, key, now)


def signer(home: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Sign:
    """Return what signs each message of a run, with the delegations of that time, renewed where possible.

    Raises FederationError, then and now, where the round key may not invite.
    """

    def ready() -> list[bytes]:
        now = clock()
        found = read_delegations(home, now)
        if needs_delegation(home, now):
            lend_if_open(home, now)
            found = read_delegations(home, now)
        if not found:
            raise FederationError(
                f"the round key in {home} may not invite devices, or no longer: the release key must say "
                f"so; give its passphrase in {sealed_keys.PASSPHRASE_VARIABLE} to `palate server run`, or "
                "carry a folder to where it lies: palate server prepare"
            )
        return found

    ready()
    key = round_key(home)
    return lambda message: sign_message(message, ready(), key)


def passing_signer(now: datetime | None = None) -> Sign:
    """Return what signs with keys that end with the process: for rounds without a server's folder."""
    release_key, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    delegation = make_delegation(
        release_key, key.public_key().public_bytes_raw(), now=now or datetime.now(UTC)
    )
    return lambda message: sign_message(message, [delegation], key)


def _ask(home: Path) -> bytes | None:
    return round_public(home) if needs_delegation(home, datetime.now(UTC)) else None


def _describe(request: bytes) -> str:
    if len(request) != 32:
        raise OptionError("what asks for the right to invite is no key; prepare the folder anew")
    return (
        f"the right to invite devices to rounds for {VALID.days} days, for the server's round key "
        f"{request.hex()[:16]}..."
    )


def _answer(request: bytes, key: Ed25519PrivateKey) -> bytes:
    return make_delegation(key, request, now=datetime.now(UTC))


def _take(home: Path, answer: bytes) -> str:
    try:
        add_delegation(home, answer, datetime.now(UTC))
    except InvitationError as error:
        raise OptionError(f"the right to invite cannot be taken: {error}") from None
    return f"the round key may invite devices for {VALID.days} days"


ERRAND: Final = Errand("delegation", _ask, _describe, _answer, _take)
"""The right to invite, as it is carried to a release key on another machine and back."""
