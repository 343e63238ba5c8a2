"""What this device's rounds have spent of its person's privacy, and how that is remembered when a vault is lost or put back.

Rounds come in; the epsilon that is spent, and whether one more round is within the budget, go out. The federation books here, the device
settles losses here; it knows the vault only."""
