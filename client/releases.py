"""Which encoder this device uses: the one that ships with Palate, or a signed release that was checked and is kept in the vault.

Where it stands in the flow: `palate release adopt` takes a release from a file or folder, a joined device gets one offered over
the wire; `shared.release_check` checks it against the pinned key, the log that was accepted before and the frozen backbone that
is installed here; from then on `own_encoder` returns it to the evaluator, the adapter and the federation. Nothing else in
`client/` loads an encoder; a test holds the source to that.

    record "release"         the message of kind 11 as it was accepted: log and encoder
    record "release trust"   JSON: the key, how many entries of the log were accepted, the hash of the last, the newest release

Both are written in one change of the vault, so there is never a release without what it was accepted for. No release older than
the accepted one is ever taken; the way back is `reset`, which forgets the releases, the log's head and the key, all together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from palate.client import durable
from palate.client.outbox import Log
from palate.client.records import ONLY, Records
from palate.shared.encoder import MAX_BYTES, EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import ModelError, ReleaseError, VaultDamagedError
from palate.shared.release import (
    LOG_NAME,
    MOST_BYTES,
    MOST_LOG_BYTES,
    SHIPPED_HASH,
    Card,
    Entry,
    ReleaseLog,
    SignedRelease,
    decode_log,
    decode_release,
    encode_release,
    encoder_name,
    read_key,
    write_key,
)
from palate.shared.release_check import Pinned, Trust, backbone_hash, check_release

RELEASE, TRUST = "release", "release trust"  # types of records

WEIGHTS: Final = Path(__file__).parent / "weights"
FROZEN: Final = (
    "picture_tower.safetensors",
    "vocabulary.safetensors",
    "generator/text_encoder/config.json",
    "generator/text_encoder/model.safetensors",
    "generator/tokenizer/tokenizer.json",
)
"""The files of the frozen backbone: the picture tower, and the sentence tower with its embeddings of the vocabulary."""

STATISTICS_VERSION: Final = 1
"""To be raised when `statistics.measure_statistics` gives other numbers: they are a part of the backbone that is no file."""

_VERSION = 1


@dataclass(frozen=True)
class Adopted:
    """A release that this device uses now."""

    release: int
    hash: str  # `encoder_hash`
    new: bool  # False: it was adopted before


@dataclass(frozen=True)
class Standing:
    """What is known here about releases; without an adopted one the encoder is release 0."""

    release: int
    hash: str  # `encoder_hash`
    key: str | None  # as people pin it
    entries: int  # of the log that were accepted
    head: str | None  # the hash of the last of them: equal on all devices that were shown the same log
    history: tuple[tuple[Entry, Card], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as `palate release show --json` prints it."""
        return {
            "release": self.release,
            "hash": self.hash,
            "key": self.key,
            "entries": self.entries,
            "head": self.head,
            "history": [{**asdict(card), "when": entry.time} for entry, card in self.history],
        }


def own_encoder(records: Records | None = None) -> EncoderWeights:
    """Return the encoder that a device uses: the adopted release of this vault, else (or without a vault) release 0.

    An adopted release is checked again against what is installed: after an update of Palate it may no longer fit. Raises
    `ReleaseError` then, and for a release 0 that is not the one that Palate shipped with; what the vault raises; `ModelError`
    if a file is missing.
    """
    if records is None or not records.has(RELEASE, ONLY):
        return _shipped()
    try:
        return check_release(_read_release(records), _need_trust(records), installed()).encoder
    except ReleaseError as error:
        raise ReleaseError(
            f"{error}; or go back to the encoder that ships with Palate: palate release reset", error.reason
        ) from None


def pin_key(log: Log, text: str) -> bool:
    """Keep the key that releases must be signed with, unless it is kept already; return whether it is new.

    Raises `ReleaseError` for a text that is no key, and if another key is kept.
    """
    key = read_key(text)
    with log.transaction() as change:
        known = _read_trust(change)
        if known is None:
            change.put(TRUST, ONLY, _encode_trust(Trust(key)))
            return True
        earlier = _read_release(change).log.keys if change.has(RELEASE, ONLY) else ()
        if key not in (known.key, *earlier):
            raise _other_key(known)
        return False


def adopt(log: Log, release: SignedRelease, *, key: str | None = None) -> Adopted:
    """Check a release and use it from now on; `key` is the text of the server's key, needed the first time only.

    Nothing is changed unless everything fits. Raises `ReleaseError`, with the reason in one line and in one word; what the vault
    raises.
    """
    given = None if key is None else read_key(key)
    pinned = installed()
    with log.transaction() as change:
        known = _read_trust(change)
        if known is None and given is None:
            raise ReleaseError(
                "no release key is pinned here; get its text from the person who runs the server, and give it with --key",
                "key",
            )
        trust = known if known is not None else Trust(given or b"")
        checked = check_release(release, trust, pinned)
        if given is not None and given not in release.log.keys:
            raise _other_key(trust)
        if checked.trust != known:
            change.put(RELEASE, ONLY, encode_release(release))
            change.put(TRUST, ONLY, _encode_trust(checked.trust))
    return Adopted(checked.card.release, checked.card.hash, checked.card.release > trust.release)


def offer(log: Log, data: bytes) -> Adopted | ReleaseError:
    """Take what came over the wire as a release (a message of kind 11): return it adopted, or why it was refused.

    Without a pinned key everything is refused: a server cannot introduce itself. Raises what the vault raises.
    """
    try:
        return adopt(log, decode_release(data))
    except ReleaseError as refusal:
        return refusal


def read_source(path: Path) -> SignedRelease:
    """Return the release of a file (`release-00001.palate`), or the newest of a folder (a server's `releases`), unchecked.

    Raises `ReleaseError` for anything else, `StorageError` for what cannot be read.
    """
    if not path.is_dir():
        return decode_release(_read_file(path, MOST_BYTES))
    log = decode_log(_read_file(path / LOG_NAME, MOST_LOG_BYTES))
    if not log.releases:
        raise ReleaseError(f"the release log in {path} holds no release yet", "empty")
    return SignedRelease(log, _read_file(path / encoder_name(log.releases[-1][1].release), MAX_BYTES))


def read_standing(records: Records) -> Standing:
    """Return what is known here about releases; raises what the vault raises."""
    trust = _read_trust(records)
    log: ReleaseLog | None = _read_release(records).log if records.has(RELEASE, ONLY) else None
    history = log.releases if log is not None else ()
    return Standing(
        release=history[-1][1].release if history else 0,
        hash=history[-1][1].hash if history else SHIPPED_HASH,
        key=None if trust is None else write_key(trust.key),
        entries=0 if trust is None else trust.entries,
        head=None if trust is None or not trust.entries else trust.head,
        history=history,
    )


def pinned_key(records: Records) -> bytes | None:
    """Return the key (32 bytes) that releases must be signed with now, None if none is pinned; raises what the vault raises."""
    trust = _read_trust(records)
    return None if trust is None else trust.key


def reset(log: Log) -> int:
    """Go back to release 0, forget the adopted release, the log's head and the key; return which release was in use.

    Works on records that cannot be read too. From then on nothing protects against an older release or another history, until a
    key is pinned again.
    """
    with log.transaction() as change:
        trust: Trust | None = None
        with contextlib.suppress(VaultDamagedError):
            trust = _read_trust(change)
        for type_ in (RELEASE, TRUST):
            if change.has(type_, ONLY):
                change.delete(type_, ONLY)
    return 0 if trust is None else trust.release


def installed() -> Pinned:
    """Return the hashes that a release must have in common with what is installed here; raises `ModelError`."""
    return Pinned.by(_shipped(), installed_backbone())


def installed_backbone() -> str:
    """Return the `backbone_hash` of the towers and statistics that are installed, from the files themselves.

    The first call reads 34 MB; later ones look at sizes and times only. Raises `ModelError` if a file is missing.
    """
    from palate.client.statistics import STATISTICS

    names = f"version {STATISTICS_VERSION}: {','.join(STATISTICS)}"
    try:
        found = tuple(
            ((WEIGHTS / name).stat().st_size, (WEIGHTS / name).stat().st_mtime_ns) for name in FROZEN
        )
        return _hash_backbone(WEIGHTS, found, names)
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read; install Palate anew") from None


@lru_cache(maxsize=2)
def _hash_backbone(folder: Path, found: tuple[tuple[int, int], ...], statistics: str) -> str:
    files = {}
    for name in FROZEN:
        with (folder / name).open("rb") as file:
            files[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return backbone_hash(files, statistics)


@lru_cache(maxsize=1)
def _shipped() -> EncoderWeights:
    encoder = load_encoder()
    if encoder_hash(encoder) != SHIPPED_HASH:
        raise ReleaseError(
            "the encoder that is installed is not the one that Palate ships with; install Palate anew",
            "encoder",
        )
    return encoder


def _other_key(known: Trust) -> ReleaseError:
    return ReleaseError(
        f"another release key is pinned here, {write_key(known.key)}; if the server really has a new beginning, "
        "forget the old one with: palate release reset",
        "key",
    )


def _read_release(records: Records) -> SignedRelease:
    try:
        return decode_release(records.get(RELEASE, ONLY))
    except ReleaseError:
        raise VaultDamagedError(
            "the release in the vault cannot be read by this version of Palate; forget it with: palate release reset"
        ) from None


def _need_trust(records: Records) -> Trust:
    trust = _read_trust(records)
    if trust is None:
        raise VaultDamagedError("the vault holds a release and not what it was accepted for")
    return trust


def _read_trust(records: Records) -> Trust | None:
    if not records.has(TRUST, ONLY):
        return None
    try:
        content = json.loads(records.get(TRUST, ONLY))
        if content.pop("version") != _VERSION:
            raise ValueError("unknown version")
        return Trust(**{**content, "key": bytes.fromhex(content["key"])})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VaultDamagedError(
            "what the vault knows about releases cannot be read by this version of Palate"
        ) from None


def _encode_trust(trust: Trust) -> bytes:
    return json.dumps({"version": _VERSION, **asdict(trust), "key": trust.key.hex()}).encode()


def _read_file(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise durable.storage_error(error, path, "no release was adopted") from None
