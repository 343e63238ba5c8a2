"""What the vault knows about releases, record by record: bytes in the vault, values here.

Where it stands in the flow: `releases` writes what was accepted, `own_encoder` what this person's evaluator uses; both read it here.

    record "release"          the message of kind 11 as it was accepted: log and encoder
    record "release trust"    JSON: the keys, how many entries of the log were accepted, the hash of the last, until when the log is good
    record "release choice"   JSON: which encoder the evaluator used before the newest release, whether it uses that still, and why
    record "release before"   the file of that encoder
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final, Literal

from palate.client.vault.store import ONLY, Change, Records
from palate.shared.errors import ReleaseError, VaultDamagedError
from palate.shared.releases.check import Trust
from palate.shared.releases.message import SignedRelease, decode_release

RELEASE, TRUST = "release", "release trust"  # types of records
CHOICE, BEFORE = "release choice", "release before"
TYPES: Final = (RELEASE, TRUST, CHOICE, BEFORE)

_VERSION = 2
_UNREADABLE = "what the vault knows about releases cannot be read by this version of Palate"


@dataclass(frozen=True)
class Choice:
    """Which of two encoders this person's evaluator uses: that of the newest accepted release, or the one from before it."""

    before: int  # release of the encoder from before; 0 is the one that ships
    uses: Literal["untried", "new", "before"] = "untried"
    by: Literal["labels", "owner"] = "labels"
    labels: int = 0  # that were asked; what follows is 0 and 1 where they were too few
    loss_before: float = 0.0
    loss_new: float = 0.0
    chance: float = 1.0
    fingerprint: str = ""  # of the labels and tastes that were asked


def read_release(records: Records) -> SignedRelease | None:
    """Return what was accepted, None if nothing was; raises `VaultDamagedError`."""
    if not records.has(RELEASE, ONLY):
        return None
    try:
        return decode_release(records.get(RELEASE, ONLY))
    except ReleaseError:
        raise VaultDamagedError(
            "the release in the vault cannot be read by this version of Palate; forget it with: palate release reset"
        ) from None


def read_trust(records: Records) -> Trust | None:
    """Return what is remembered of the log, None if no key is pinned; raises `VaultDamagedError`."""
    if not records.has(TRUST, ONLY):
        return None
    try:
        content = json.loads(records.get(TRUST, ONLY))
        if content.pop("version") != _VERSION:
            raise ValueError("unknown version")
        for name in ("recovery", "key"):
            content[name] = bytes.fromhex(content[name])
        return Trust(**content)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VaultDamagedError(_UNREADABLE) from None


def encode_trust(trust: Trust) -> bytes:
    """Return the bytes of record "release trust"."""
    keys = {"recovery": trust.recovery.hex(), "key": trust.key.hex()}
    return json.dumps({"version": _VERSION, **asdict(trust), **keys}).encode()


def need_trust(records: Records) -> Trust:
    """Return the trust that an accepted release rests on; raises `VaultDamagedError` where it is missing."""
    trust = read_trust(records)
    if trust is None:
        raise VaultDamagedError("the vault holds a release and not what it was accepted for")
    return trust


def read_choice(records: Records) -> Choice | None:
    """Return which encoder the evaluator uses, None if there is no release to choose; raises `VaultDamagedError`."""
    if not records.has(CHOICE, ONLY):
        return None
    try:
        content = json.loads(records.get(CHOICE, ONLY))
        if content.pop("version") != _VERSION:
            raise ValueError("unknown version")
        choice = Choice(**content)
        if choice.uses not in ("untried", "new", "before") or choice.by not in ("labels", "owner"):
            raise ValueError("unknown choice")
        return choice
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VaultDamagedError(f"{_UNREADABLE}; forget it with: palate release reset") from None


def write_choice(change: Change, choice: Choice) -> None:
    """Write record "release choice"."""
    change.put(CHOICE, ONLY, json.dumps({"version": _VERSION, **asdict(choice)}).encode())
