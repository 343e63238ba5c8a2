"""Spent privacy stays spent, also when an older vault is put back: a keyring note, and a rule for imports.

Where it stands in the flow: `member` calls `remember` when a device joins, `backup` calls `settle_import`
when a backup is imported. The count itself is a record in the vault (`budget`). A vault can return to an
older state (a restored folder, an imported export, a new vault in place of a lost one), but what was sent
stays sent.

**With a keyring** the count is noted there too, before each round's record is committed, under the vault's
account. The account is the vault's own random id, or the id of the vault that it was exported from where this
keyring knows that one. The note never falls. When a device joins, the larger of vault and note is what was
spent. The place of the folder (as a hash) leads to its account, so a new vault in a folder goes on from what
an earlier one there had spent, erased or lost.

**Without what the note knows** (an export from another machine, a machine without a keyring, a damaged vault
that was opened anyway) nobody can tell what was spent since. The lost vault kept to its budget, unless its
owner had raised it after the export. So the whole budget counts as spent. The owner can allow more with a
larger `--epsilon`, or say at the import what was spent, if they know it.

**What is not noticed.** With a passphrase and no keyring: a whole older folder put back, and a new vault in
place of another. With one: a keyring that was put back too, a new vault in another folder, the same vault on
two machines.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from palate.client.privacy.budget import (
    PRIVACY_SPENT,
    OwnBudget,
    OwnSpent,
    encode_spent,
    read_budget,
    read_spent,
)
from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.keyrings import KeyStore, find_keyring
from palate.client.vault.store import ONLY, Change, MemoryStore, Records
from palate.shared.accounting import epsilon_of_rho
from palate.shared.errors import OptionError, VaultError

if TYPE_CHECKING:
    from palate.client.vault.vault import Vault

ACCOUNT, RESTORED = "privacy account", "privacy restored"  # types of records
NO_KEYRING: Final = (
    "no system keyring is there that could remember what was spent: if an older copy of this vault is put "
    "back, or a new one takes its place, that is not noticed and its privacy budget begins anew"
)
_VERSION = 1
_UNKNOWN_EPSILON = 1e6


@dataclass(frozen=True)
class Restored:
    """That a vault was restored, when (ISO 8601, UTC), and which epsilon counts as spent by then.

    `said`: the owner said so; otherwise it is the whole budget.
    """

    when: str
    epsilon: float
    said: bool

    def describe(self) -> str:
        """Return it in a line."""
        if self.said:
            return f"this vault was restored; you said that epsilon {self.epsilon:.3g} had been spent by then"
        return (
            "this vault was restored, and nobody knows what was spent since it was saved: epsilon "
            f"{self.epsilon:.3g}, its whole "
            "budget, counts as spent; take part again with a larger one: palate join --epsilon"
        )


def remember(vault: Vault) -> tuple[str, ...]:
    """Bring vault and keyring to the same count, the larger; from now on the keyring notes each round first.

    Returns:
        What the owner should know, a line each.

    Raises:
        VaultError: what the vault raises.
        StorageError: there is a keyring, and it does not answer.
    """
    lines = []
    restored = read_restored(vault)
    if restored is not None:
        lines.append(restored.describe())
    memory = vault.key_store or find_keyring()
    if memory is None:
        return (*lines, NO_KEYRING)
    note = _Note(memory, vault)
    vault.watch(PRIVACY_SPENT, ONLY, note.keep)
    with vault.transaction() as change:
        spent = read_spent(change)
        counted = note.read(spent)
        if counted != spent:
            change.put(PRIVACY_SPENT, ONLY, encode_spent(counted))
            lines.append(
                "the system's keyring knows of more spent privacy than this vault: an older copy was put "
                "back, a new one took its "
                f"place, or a round was cut short; epsilon {counted.epsilon:.3g} counts as spent"
            )
    note.keep(encode_spent(counted))
    return tuple(lines)


def account_of(records: Records, own_id: bytes) -> str:
    """Return the account of a vault with the random id `own_id`: under it the keyring notes the count."""
    return records.get(ACCOUNT, ONLY).decode("ascii") if records.has(ACCOUNT, ONLY) else own_id.hex()


def settle_import(change: Change, vault: Vault, *, now: datetime, spent: float | None = None) -> None:
    """Decide what counts as spent in a vault whose records `change` has just put.

    Part of the same transaction.

    If the keyring here knows the account of the exported vault, its note counts from now on. Otherwise the
    vault counts as restored.

    Args:
        change: the transaction of the import.
        vault: the vault that takes the records.
        now: a time with a zone.
        spent: the epsilon that the owner says was spent, None for the whole budget.

    Raises:
        OptionError: `spent` is no finite number from 0.
    """
    if spent is not None and not 0 <= spent < math.inf:
        raise OptionError(f"spent is {spent!r}; it must be a finite number from 0")
    memory = vault.key_store or find_keyring()
    if change.has(ACCOUNT, ONLY):
        if memory is not None and memory.get(_account_name(account_of(change, b""))) is not None:
            return
        change.delete(ACCOUNT, ONLY)
    count_as_spent(change, now=now, spent=spent)


def settle_loss(vault: Vault) -> None:
    """Decide what counts as spent in a vault that is damaged or was rolled back, and was opened anyway.

    The keyring that holds a vault's key has noted every round. Without it the whole budget counts as spent.
    """
    if vault.key_store is None:
        with vault.transaction() as change:
            count_as_spent(change, now=datetime.now(UTC))


def count_as_spent(change: Change, *, now: datetime, spent: float | None = None) -> None:
    """Count an epsilon as spent, None for the whole budget, and note that the vault was restored."""
    before = _read_what_is_left(change)
    epsilon = before.budget.epsilon if spent is None else spent
    rho = _rho_of(epsilon, before.budget.delta)
    least = {one.name: max(getattr(before, one.name), rho) for one in fields(before) if "rho" in one.name}
    if rho:
        least["rounds"] = max(1, before.rounds)  # those that nobody knows count as one
    if spent is None and before.budget.unprotected:
        least["unprotected_rounds"] = max(1, before.unprotected_rounds)
    after = replace(before, **least)
    change.put(PRIVACY_SPENT, ONLY, encode_spent(after))
    note = {
        "when": now.isoformat(timespec="seconds"),
        "epsilon": after.protected_epsilon,
        "said": spent is not None,
    }
    change.put(RESTORED, ONLY, encode_json(_VERSION, note))


def _read_what_is_left(change: Change) -> OwnSpent:
    """Return what was spent, or nothing where that record is lost.

    A lost budget counts as larger than any.
    """
    with contextlib.suppress(VaultError):
        return read_spent(change)
    with contextlib.suppress(VaultError):
        return OwnSpent(read_budget(change))
    return OwnSpent(OwnBudget(_UNKNOWN_EPSILON))


def read_restored(records: Records) -> Restored | None:
    """Return what is noted of a vault that was restored, None for one that never was.

    Raises `VaultDamagedError`.
    """
    if not records.has(RESTORED, ONLY):
        return None
    with readable("the note that this vault was restored"):
        content = decode_json(records.get(RESTORED, ONLY), _VERSION)
        return Restored(str(content["when"]), float(content["epsilon"]), bool(content["said"]))


class _Note:
    """What a keyring knows about one vault: its count, and the account of its folder."""

    def __init__(self, memory: KeyStore, vault: Vault) -> None:
        self._memory, self._vault = memory, vault
        self._own = account_of(vault, vault.store)
        home = hashlib.sha256(str(vault.home.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
        self._place = f"privacy place {home}"
        self._seen: bytes | None = None

    def read(self, spent: OwnSpent) -> OwnSpent:
        """Return the largest of `spent`, the note on this vault, and that on the one in its folder before."""
        placed = self._memory.get(self._place)
        self._seen = self._memory.get(_account_name(self._own))
        notes = [self._seen]
        if placed is not None and placed.decode("ascii", "replace") != self._own:
            notes.append(self._memory.get(_account_name(placed.decode("ascii", "replace"))))
        for note in notes:
            if note is not None:
                spent = _larger(spent, _decode(note))
        return spent

    def keep(self, content: bytes) -> None:
        """Note a count.

        Raises `VaultError` if another process has noted one meanwhile, so that none is lost.
        """
        if self._memory.get(_account_name(self._own)) != self._seen:
            raise VaultError(
                f"another copy of the vault in {self._vault.home} spends privacy too; end one of them, and "
                "join again"
            )
        if self._seen is not None:  # a count whose record was not written after all stays noted
            content = encode_spent(_larger(_decode(content), _decode(self._seen)))
        if content != self._seen:
            self._memory.set(_account_name(self._own), content)
            self._seen = content
        if self._memory.get(self._place) != self._own.encode():
            self._memory.set(self._place, self._own.encode())


def _account_name(account: str) -> str:
    return f"privacy account {account}"


def _larger(one: OwnSpent, other: OwnSpent) -> OwnSpent:
    names = [field.name for field in fields(one) if field.name != "budget"]
    return replace(one, **{name: max(getattr(one, name), getattr(other, name)) for name in names})


def _decode(note: bytes) -> OwnSpent:
    store = MemoryStore()
    store.put(PRIVACY_SPENT, ONLY, note)
    return read_spent(store)


def _rho_of(epsilon: float, delta: float) -> float:
    """Return the least rho, rounded upwards, that spends the whole of an epsilon."""
    if epsilon == 0:
        return 0.0
    low, high = 0.0, 1e-9
    while epsilon_of_rho(high, delta) < epsilon:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of_rho(middle, delta) < epsilon else (low, middle)
    return high
