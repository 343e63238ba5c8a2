"""Backups: a whole vault as one sealed file, and what counts as spent privacy after an import.

Where it stands in the flow: `palate export` and `palate import` call it. `vault.export` has the file;
`privacy.rollback` decides what counts as spent in a vault that was restored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from palate.client.privacy import ACCOUNT, remember, settle_import
from palate.client.vault.export import export_records, import_records
from palate.client.vault.format import Name
from palate.client.vault.store import ONLY
from palate.client.vault.vault import Vault
from palate.shared.errors import StorageError


def export_vault(vault: Vault, path: Path | str, passphrase: str) -> int:
    """Write all records of `vault` and the id of its privacy account into one sealed file.

    Return how many there were.

    Raises what `export_records` raises.
    """
    with contextlib.suppress(StorageError):  # a keyring that does not answer keeps nobody from a backup
        remember(vault)
    return _count(export_records(vault, path, passphrase, {(ACCOUNT, ONLY): vault.store.hex().encode()}))


def import_vault(vault: Vault, path: Path | str, passphrase: str, *, spent: float | None = None) -> int:
    """Import a file into an empty vault, which counts as restored; return how many records there were.

    Args:
        vault: an open vault without records.
        path: the exported file.
        passphrase: of the file.
        spent: the epsilon that the owner says was spent, None for the whole budget.

    Raises:
        OptionError: `spent` is no finite number from 0.
        PalateError: what `import_records` raises.
    """
    now = datetime.now(UTC)
    return _count(
        import_records(
            vault, path, passphrase, lambda change: settle_import(change, vault, now=now, spent=spent)
        )
    )


def _count(names: Iterable[Name]) -> int:
    return sum(type_ != ACCOUNT for type_, _ in names)
