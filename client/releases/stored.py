"""What the vault keeps about releases, record by record: bytes in the vault, values here.

Where it stands in the flow: `accepted` writes what was accepted, `own_encoder` what this person's evaluator
uses. Both read it here.

    record "release"          the message of kind 11 as it was accepted: log and encoder
    record "release trust"    JSON: the keys, how many entries of the log were accepted, the hash of
                              the last, until when the log is good
    record "release choice"   JSON: which encoder the evaluator used before the newest release,
                              whether it still uses that, and why
    record "release before"   the file of that encoder
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.store import ONLY, Change, Records
from palate.shared.errors import ReleaseError, VaultDamagedError
from palate.shared.releases.check import Trust
from palate.shared.releases.message import SignedRelease, decode_release

RELEASE, TRUST = "release", "release trust"  # types of records
CHOICE, BEFORE = "release choice", "release before"
TYPES: Final = (RELEASE, TRUST, CHOICE, BEFORE)

_VERSION = 2
_WHAT = "what the vault knows about releases"


@dataclass(frozen=True)
class Choice:
    """Which of two encoders this person's evaluator uses: the newest accepted release or the one before."""

    before: int  # release of the encoder from before; 0 is the one that ships
    uses: Literal["untried", "new", "before"] = "untried"
    by: Literal["labels", "owner"] = "labels"
    labels: int = 0  # that it was tried on; with too few of them, what follows stays 0 and 1
    loss_before: float = 0.0
    loss_new: float = 0.0
    chance: float = 1.0
    fingerprint: str = ""  # of the labels and tastes that it was tried on


def read_release(records: Records) -> SignedRelease | None:
    """Return what was accepted, None if nothing was; raises `VaultDamagedError`."""
    if not records.has(RELEASE, ONLY):
        return None
    try:
        return decode_release(records.get(RELEASE, ONLY))
    except ReleaseError:
        raise VaultDamagedError(
            "the release in the vault cannot be read by this version of Palate; "
            "forget it with: palate release reset"
        ) from None


def read_trust(records: Records) -> Trust | None:
    """Return what is remembered of the log, None if no key is pinned; raises `VaultDamagedError`."""
    if not records.has(TRUST, ONLY):
        return None
    with readable(_WHAT):
        content = decode_json(records.get(TRUST, ONLY), _VERSION)
        for name in ("recovery", "key"):
            content[name] = bytes.fromhex(content[name])
        return Trust(**content)


def encode_trust(trust: Trust) -> bytes:
    """Return the bytes of record "release trust"."""
    keys = {"recovery": trust.recovery.hex(), "key": trust.key.hex()}
    return encode_json(_VERSION, {**asdict(trust), **keys})


def need_trust(records: Records) -> Trust:
    """Return the trust that an accepted release rests on; raises `VaultDamagedError` where it is missing."""
    trust = read_trust(records)
    if trust is None:
        raise VaultDamagedError("the vault holds a release and not what it was accepted for")
    return trust


def read_choice(records: Records) -> Choice | None:
    """Return which encoder the evaluator uses, None if there is no release to choose.

    Raises `VaultDamagedError`.
    """
    if not records.has(CHOICE, ONLY):
        return None
    with readable(_WHAT, "forget it with: palate release reset"):
        choice = Choice(**decode_json(records.get(CHOICE, ONLY), _VERSION))
        if choice.uses not in ("untried", "new", "before") or choice.by not in ("labels", "owner"):
            raise ValueError("unknown choice")
        return choice


def write_choice(change: Change, choice: Choice) -> None:
    """Write record "release choice"."""
    change.put(CHOICE, ONLY, encode_json(_VERSION, asdict(choice)))
