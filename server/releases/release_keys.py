"""The two keys of a log of releases: made, changed, and used to say for how much longer the log is good.

Where it stands in the flow: `palate server key` calls this, on the server or on a signing machine;
`sealed_keys` seals the files.

    release.key       signs releases and says until when the log is good: needed a few times a year
    recovery.key      signs changes of keys: needed when the release key was lost or stolen; move it away
    *.key.next        a new key whose entry in the log is being written

The log names both keys in its first entry. Each change is written in the order new key, log, move: killed at
any moment, either the old pair or the new one is in force, and `current_public` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.server.releases import sealed_keys
from palate.server.releases.folder import keep_release, locked, read_log
from palate.shared.durable import storage_error
from palate.shared.errors import OptionError
from palate.shared.releases.message import USUAL_DAYS, ReleaseLog, write_key

RELEASE_KEY: Final = "release.key"
RECOVERY_KEY: Final = "recovery.key"


@dataclass(frozen=True)
class KeyFiles:
    """Where the keys of a server or a signing machine lie."""

    home: Path
    recovery: Path | None = None  # the recovery key's file, if it lies elsewhere: on a stick, say

    @property
    def releases(self) -> Path:
        """The folder of the log."""
        return self.home / "releases"

    @property
    def release_file(self) -> Path:
        """The release key."""
        return self.home / RELEASE_KEY

    @property
    def recovery_file(self) -> Path:
        """The recovery key."""
        return self.recovery or self.home / RECOVERY_KEY


@dataclass(frozen=True)
class Passphrases:
    """What opens and seals the two keys; None for a key that is not sealed."""

    release: str | None
    recovery: str | None


def begin_log(
    files: KeyFiles, now: datetime, passphrases: Passphrases, *, days: int = USUAL_DAYS
) -> ReleaseLog:
    """Make both keys and the log whose first entry names them.

    What is there already is used. Returns the log.
    """
    with locked(files.releases):
        log = read_log(files.releases)
        if log is not None:
            return log
        pair = []
        for path, passphrase, variable in (
            (files.release_file, passphrases.release, sealed_keys.PASSPHRASE_VARIABLE),
            (files.recovery_file, passphrases.recovery, sealed_keys.RECOVERY_VARIABLE),
        ):
            found = sealed_keys.read_key(path, passphrase, variable=variable)
            pair.append(found or sealed_keys.make_key(path, passphrase))
        log = ReleaseLog.begin(pair[0], pair[1], int(now.timestamp()), days=days)
        keep_release(files.releases, log, b"")
        return log


def change_keys(
    files: KeyFiles,
    now: datetime,
    passphrases: Passphrases,
    *,
    release: bool = True,
    recovery: bool = False,
    days: int = USUAL_DAYS,
) -> ReleaseLog:
    """Put a new release key, a new recovery key or both in force, signed by the recovery key before.

    Return the log.

    The release key before is not needed when it is replaced: it may be lost.

    Raises:
        OptionError: there is no log or no recovery key.
    """
    with locked(files.releases):
        log = read_log(files.releases)
        if log is None:
            raise OptionError("there is no release key to change yet; make one with: palate server key")
        _finish(files, log)
        by = _need_recovery(files, log, passphrases)
        key = None if release else current_key(files, passphrases.release)
        key = key or sealed_keys.make_key(_next(files.release_file), passphrases.release)
        new = sealed_keys.make_key(_next(files.recovery_file), passphrases.recovery) if recovery else by
        log = log.with_keys(key, new, int(now.timestamp()), by=by, days=days)
        keep_release(files.releases, log, b"")
        _finish(files, log)
        return log


def renew(files: KeyFiles, now: datetime, passphrase: str | None, *, days: int = USUAL_DAYS) -> ReleaseLog:
    """Say with the release key that the log is good for so many days from now.

    Returns the log. No entry is added.
    """
    with locked(files.releases):
        log = read_log(files.releases)
        key = current_key(files, passphrase)
        if log is None or key is None:
            raise OptionError("there is no log of releases to renew yet; begin one with: palate server key")
        log = log.with_statement(int(now.timestamp()), key, days=days)
        keep_release(files.releases, log, b"")
        return log


def current_key(files: KeyFiles, passphrase: str | None) -> Ed25519PrivateKey | None:
    """Return the release key that is in force, or None if there is neither a log nor a key.

    Finishes a change of keys that was cut short.

    Raises:
        OptionError: the log is there and its key is not, and what `sealed_keys.read_key` raises.
    """
    log = read_log(files.releases)
    if log is not None:
        _finish(files, log)
        found = sealed_keys.read_public(files.release_file)
        if found is None:
            raise OptionError(
                f"the release key {write_key(log.keys[-1].release)} does not lie here; where it lies on a "
                "signing machine, carry a folder there: palate server prepare FOLDER; otherwise restore it "
                "from a backup, or replace it: palate server key --rotate"
            )
        if found != log.keys[-1].release:
            raise OptionError(
                f"the releases are signed with {write_key(log.keys[-1].release)}, and {files.release_file} "
                "is not that key; restore it from a backup, or replace it: palate server key --rotate"
            )
    return sealed_keys.read_key(files.release_file, passphrase)


def _finish(files: KeyFiles, log: ReleaseLog) -> None:
    """Move new keys that the log names into place, where a kill came between."""
    for path, public in (
        (files.release_file, log.keys[-1].release),
        (files.recovery_file, log.keys[-1].recovery),
    ):
        beside = _next(path)
        if sealed_keys.read_public(beside) == public and sealed_keys.read_public(path) != public:
            try:
                sealed_keys.move_key(beside, path)
            except OSError as error:
                raise storage_error(error, path, f"the new key is in {beside}") from None


def _need_recovery(files: KeyFiles, log: ReleaseLog, passphrases: Passphrases) -> Ed25519PrivateKey:
    path = files.recovery_file
    public = sealed_keys.read_public(path)
    if public is None:
        raise OptionError(
            f"keys are changed with the recovery key, and {path} is not there; say where it lies with "
            "--recovery FILE"
        )
    if public != log.keys[-1].recovery:
        raise OptionError(
            f"keys are changed with the recovery key {write_key(log.keys[-1].recovery)}, and {path} is "
            "another key"
        )
    found = sealed_keys.read_key(path, passphrases.recovery, variable=sealed_keys.RECOVERY_VARIABLE)
    if found is None:  # taken away between the two readings
        raise OptionError(f"{path} is not there any more; nothing was changed")
    return found


def _next(path: Path) -> Path:
    return path.with_name(path.name + ".next")
