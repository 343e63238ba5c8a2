"""What this device's rounds have spent of its person's privacy, and how that survives a lost vault.

Rounds come in; the epsilon that is spent, and whether one more round is within the budget, go out. The
federation books rounds here, backups settle imports here. This room knows the vault only.
"""

from palate.client.privacy.budget import (
    DEFAULT_DELTA,
    DEFAULT_EPSILON,
    OwnBudget,
    OwnSpent,
    book_round,
    check_round,
    describe_cost,
    read_spent,
    write_budget,
)
from palate.client.privacy.rollback import ACCOUNT, read_restored, remember, settle_import, settle_loss

__all__ = [
    "ACCOUNT",
    "DEFAULT_DELTA",
    "DEFAULT_EPSILON",
    "OwnBudget",
    "OwnSpent",
    "book_round",
    "check_round",
    "describe_cost",
    "read_restored",
    "read_spent",
    "remember",
    "settle_import",
    "settle_loss",
    "write_budget",
]
