"""Rest between the rounds of a noise plan: a device keeps out until its own noise has run its course.

Where it stands in the flow: `masked_answers` asks here before it takes part in a round of a noise plan, and notes here that it did before its
masked change leaves. What the server's ledger says of a plan holds for devices that are not in more of its sums than every
`separation` steps. The server leaves out those who were in a sum by the number that they are connected under; a device that comes
back under another number, and under another pseudonym, is known by nobody but itself. Whoever does not rest weakens their own
protection alone, so this is where the rule belongs.

In one step a device may be asked again: the sum of a step is used once, so what it was in before was not used.
"""

from __future__ import annotations

from palate.client.vault.store import Store
from palate.shared.errors import VaultDamagedError
from palate.shared.secure_sum.messages import Invitation

RESTING = "noise plan"  # type of record; the id is the plan's rotation


def must_rest(store: Store, invitation: Invitation) -> bool:
    """Say whether this device took part in the plan of this invitation too few steps ago; raises VaultDamagedError."""
    if not invitation.rotation or not store.has(RESTING, invitation.rotation.hex()):
        return False
    try:
        last = int(store.get(RESTING, invitation.rotation.hex()))
    except ValueError:
        raise VaultDamagedError("when this device took part in a noise plan cannot be read") from None
    return last != invitation.step and invitation.step - last < invitation.rest + 1


def note_part(store: Store, invitation: Invitation) -> None:
    """Note that this device takes part in a round of a plan, before its change leaves; raises what the vault raises."""
    if invitation.rotation:
        with store.transaction() as change:
            change.put(RESTING, invitation.rotation.hex(), str(invitation.step).encode())
