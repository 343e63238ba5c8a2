"""A folder that is carried to a signing machine and back: what to sign goes out, what was signed comes in.

Where it stands in the flow: the release key may lie on a machine that runs no server. `palate server prepare
FOLDER` on the server writes what is to be signed; `palate server sign FOLDER` on the signing machine checks
and signs it; `palate server take FOLDER` on the server checks that and appends it to the log.

    to-sign.palate        a message of kind 11: the server's log, and if there is something to release an
                          unsigned entry and its encoder
    parent.safetensors    the encoder of the release before, against which the new one is tested (not where
                          that is release 0)
    signed.palate         the answer, a message of kind 11: the signed log, and the newest encoder
    to-sign.NAME          what else is asked of the release key, and
    signed.NAME           its answer (see `Errand`)

**Who checks what.** The signing machine keeps a folder of releases of its own, with the log as it signed it.
A server that was broken into can ask it for a signature, and cannot make it sign a second history: the
carried log must be the beginning of its own, or go on from it by signatures of its own keys. What was signed
once and never taken is given again as it is, and nothing else is signed before that is taken. The server
takes what continues its own log by the keys in force, and no older answer.

Nothing is lost at a kill: the signing machine writes its own log before the answer, and signing again gives
the same answer; the server takes in one step, and taking again finishes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.server.checkpoints import Checkpoint
from palate.server.releases import round_key
from palate.server.releases.errand import Errand
from palate.server.releases.folder import (
    keep_message,
    keep_release,
    locked,
    next_release,
    read_file,
    read_log,
    release_path,
    trust_of,
)
from palate.shared.durable import storage_error, write_atomically
from palate.shared.encoder import MAX_BYTES, EncoderWeights, load_encoder
from palate.shared.errors import OptionError, ReleaseError
from palate.shared.releases.check import Pinned, check_log, check_next, check_release, read_encoder
from palate.shared.releases.message import (
    MOST_BYTES,
    UNSIGNED,
    USUAL_DAYS,
    Acceptance,
    Card,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    decode_release,
    encode_release,
    write_key,
)

TO_SIGN, SIGNED, PARENT = "to-sign.palate", "signed.palate", "parent.safetensors"
MOST_ERRAND_BYTES: Final = 100_000
_CONSEQUENCE = "the folder cannot be carried like this"


ERRANDS: tuple[Errand, ...] = (round_key.ERRAND,)
"""What is carried along with releases."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote."""

    card: Card | None  # None: only more time for the log
    errands: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What a carried folder asks for, checked as far as is possible before the key is opened."""

    log: ReleaseLog  # that the new entry is appended to: this machine's own
    card: Card | None  # of the release to be signed
    encoder: bytes
    again: Card | None  # a release that was signed before and never taken: nothing else is signed now
    parent: EncoderWeights | None  # of the release to be signed
    foreign: int  # entries of the server's log that this machine did not know, signed by its keys elsewhere
    errands: tuple[tuple[Errand, bytes], ...]


@dataclass(frozen=True)
class Taken:
    """What `take` found in a folder."""

    card: Card | None  # the release that is new here
    entries: int  # how many are new
    log: ReleaseLog
    lines: tuple[str, ...]  # what the errands said


def prepare(
    home: Path,
    folder: Path,
    checkpoint: Checkpoint | None,
    now: datetime,
    *,
    privacy: PrivacySpent | None = None,
    acceptance: Acceptance | None = None,
    errands: Sequence[Errand] = ERRANDS,
) -> Prepared:
    """Write into `folder` what the signing machine is to sign for the server in `home`.

    Without a `checkpoint` that is only more time for the log.

    Raises:
        OptionError: nothing was learned since the latest release.
        StorageError: it cannot be written.
    """
    releases = home / "releases"
    with locked(releases):
        log = read_log(releases) or ReleaseLog()
        card, data = None, b""
        asked = log
        if checkpoint is not None:
            card, data = next_release(log, checkpoint, privacy=privacy, acceptance=acceptance)
            asked = log.with_unsigned(card, int(now.timestamp()))
        _clear(folder)
        if card is not None and log.releases:
            parent = read_file(release_path(releases, log.releases[-1][1].release), MAX_BYTES)
            write_atomically(folder / PARENT, parent, consequence=_CONSEQUENCE)
        carried = []
        for errand in errands:
            request = errand.ask(home)
            if request is not None:
                write_atomically(folder / f"to-sign.{errand.name}", request, consequence=_CONSEQUENCE)
                carried.append(errand.name)
        # The last, so that a folder with it is whole.
        write_atomically(
            folder / TO_SIGN, encode_release(SignedRelease(asked, data)), consequence=_CONSEQUENCE
        )
    return Prepared(card, tuple(carried))


def read_asked(home: Path, folder: Path, public: bytes, *, errands: Sequence[Errand] = ERRANDS) -> Asked:
    """Return what a folder asks of the signing machine in `home`, whose release key is `public`.

    Nothing is signed.

    Checks the log's chain and signatures, that it is the beginning of this machine's own or goes on from it
    by its own keys, the card against the releases before it and the encoder against the card.

    Raises:
        OptionError, ReleaseError: something does not fit, said in one line.
    """
    own = read_log(home / "releases")
    asked = _read_message(folder, TO_SIGN, "palate server prepare FOLDER, on the server")
    given, card = _split(asked.log)
    pinned = Pinned.by(load_encoder())
    base, foreign, again = own, 0, None
    if given.entries:
        foreign = _foreign(given, own, pinned)
        if own is None or foreign:
            base = given
        else:
            newer = own.entries[len(given.entries) :]
            again = next((one.content for one in newer if isinstance(one.content, Card)), None)
    elif own is not None and own.releases:
        again = own.releases[-1][1]
    if base is None:
        raise OptionError("neither the folder nor this machine has a log; begin one with: palate server key")
    if base.keys[-1].release != public:
        raise OptionError(
            f"the releases are signed with the release key {write_key(base.keys[-1].release)}, and the one "
            "here is another"
        )
    parent = None
    if again is not None:
        card = None
    if card is not None:
        # Whatever was wrong with it would be found by each device; the signature is the only thing that is
        # missing.
        read_encoder(asked.encoder, card)
        _check_card(base, card, pinned)
        parent = load_encoder()
        if base.releases:
            data = read_file(folder / PARENT, MAX_BYTES)
            parent = read_encoder(data, base.releases[-1][1])
    encoder = asked.encoder if card is not None else b""
    return Asked(base, card, encoder, again, parent, foreign, tuple(_carried(folder, "to-sign", errands)))


def _carried(folder: Path, start: str, errands: Iterable[Errand]) -> Iterator[tuple[Errand, bytes]]:
    """Yield the errands whose file lies in the folder, each with its bytes."""
    for errand in errands:
        path = folder / f"{start}.{errand.name}"
        if path.exists():
            yield errand, read_file(path, MOST_ERRAND_BYTES)


def sign(
    home: Path,
    folder: Path,
    asked: Asked,
    now: datetime,
    key: Ed25519PrivateKey,
    *,
    days: int = USUAL_DAYS,
) -> ReleaseLog:
    """Sign what `read_asked` returned, keep it here, write the answer, and return the log."""
    releases, when = home / "releases", int(now.timestamp())
    with locked(releases):
        log, data = asked.log, b""
        if asked.card is not None:
            log = log.with_release(asked.card, when, key, days=days)
            data = asked.encoder
        elif asked.again is None:
            log = log.with_statement(when, key, days=days)
        if asked.again is None:
            keep_release(releases, log, data)
        for errand, request in asked.errands:
            write_atomically(
                folder / f"signed.{errand.name}", errand.answer(request, key), consequence=_CONSEQUENCE
            )
        if asked.again is not None:
            data = read_file(release_path(releases, asked.again.release), MAX_BYTES)
        write_atomically(folder / SIGNED, encode_release(SignedRelease(log, data)), consequence=_CONSEQUENCE)
    return log


def read_signed(home: Path, folder: Path) -> tuple[SignedRelease, bool]:
    """Return the answer in a folder and whether this server has no log yet, so that its keys are new to it.

    Raises a PalateError in one line.
    """
    if not (folder / SIGNED).exists() and (folder / TO_SIGN).exists():
        raise OptionError(
            f"nothing in {folder} is signed yet; carry it to the signing machine: palate server sign FOLDER"
        )
    signed = _read_message(folder, SIGNED, "palate server sign FOLDER, on the signing machine")
    own = read_log(home / "releases")
    pinned = Pinned.by(load_encoder())
    if own is None:
        check_log(signed.log, trust_of(signed.log), pinned)
    else:
        check_log(signed.log, check_log(own, trust_of(own), pinned), pinned)
    return signed, own is None


def take(home: Path, folder: Path, signed: SignedRelease, *, errands: Sequence[Errand] = ERRANDS) -> Taken:
    """Append what `read_signed` returned to the server's log; taken once already, finish what is missing.

    Raises:
        OptionError: an answer that leaves out a release.
        ReleaseError: one that does not continue the log here.
    """
    releases = home / "releases"
    with locked(releases):
        own = read_log(releases)
        known = ReleaseLog() if own is None else own
        pinned = Pinned.by(load_encoder())
        check_log(signed.log, check_log(own, trust_of(own), pinned) if own else trust_of(signed.log), pinned)
        new = signed.log.releases[len(known.releases) :]
        if len(new) > 1:
            raise OptionError(
                f"the folder holds {len(new)} releases that this server does not have; copy the folder "
                f"releases of the signing machine to {releases} instead"
            )
        if new:
            check_release(signed, trust_of(signed.log), pinned)
            keep_release(releases, signed.log, signed.encoder)
        elif _newness(signed.log) > _newness(known):
            keep_release(releases, signed.log, b"")
        else:
            keep_message(releases)
        lines = [errand.take(home, data) for errand, data in _carried(folder, "signed", errands)]
        log = read_log(releases) or signed.log
        entries = len(signed.log.entries) - len(known.entries)
        return Taken(new[0][1] if new else None, entries, log, tuple(lines))


def _newness(log: ReleaseLog) -> tuple[int, int, int]:
    return len(log.entries), log.statement.when, log.statement.until


def _split(log: ReleaseLog) -> tuple[ReleaseLog, Card | None]:
    """Return the log before an unsigned release at its end, and its card."""
    last = log.entries[-1] if log.entries else None
    if last is not None and isinstance(last.content, Card) and last.signatures == (UNSIGNED,):
        return replace(log, entries=log.entries[:-1]), last.content
    return log, None


def _foreign(given: ReleaseLog, own: ReleaseLog | None, pinned: Pinned) -> int:
    """Return how many entries of the server's log are new here, all signed by the keys in force.

    Raises ReleaseError for another history.
    """
    if own is None:
        check_log(given, trust_of(given), pinned)
        return len(given.entries)
    count = min(len(given.entries), len(own.entries))
    for number, (theirs, mine) in enumerate(zip(given.entries[:count], own.entries[:count], strict=True), 1):
        if theirs.hash != mine.hash:
            raise ReleaseError(
                f"entry {number} of the server's log is not the one that was signed here: the server shows "
                "another history, or this is another server's folder; nothing was signed",
                "fork",
            )
    if len(given.entries) <= len(own.entries):
        return 0
    check_log(given, check_log(own, trust_of(own), pinned), pinned)
    return len(given.entries) - len(own.entries)


def _check_card(log: ReleaseLog, card: Card, pinned: Pinned) -> None:
    """Check a card against the log that it is to be appended to, as every device will."""
    try:
        check_next(log, card, pinned)
    except ReleaseError as error:
        raise ReleaseError(
            f"the folder is stale or not of this server: {error}; prepare it anew", error.reason
        ) from None


def _read_message(folder: Path, name: str, maker: str) -> SignedRelease:
    path = folder / name
    if not path.exists():
        raise OptionError(f"there is no {name} in {folder}; it is made by: {maker}")
    try:
        return decode_release(read_file(path, MOST_BYTES))
    except ReleaseError as error:
        raise ReleaseError(f"{path}: {error}", error.reason) from None


def _clear(folder: Path) -> None:
    """Remove what an earlier errand left, the request first.

    A folder without a request is not taken for a whole one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (
            folder / TO_SIGN,
            folder / SIGNED,
            folder / PARENT,
            *folder.glob("to-sign.*"),
            *folder.glob("signed.*"),
        ):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, folder, _CONSEQUENCE) from None
