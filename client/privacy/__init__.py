"""What this device's rounds have spent of its person's privacy, and how that survives a lost vault.

Rounds come in; the epsilon that is spent, and whether one more round is within the budget, go out. The
federation books rounds here, backup and device settle losses here. This room knows the vault only.
"""
