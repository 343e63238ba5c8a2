"""Rest between the rounds of a noise plan: a device stays out until its own noise has run its course.

Where it stands in the flow: `masked_answers` calls `must_rest` before it takes part in a round of a noise
plan, and `note_part` before its masked change leaves. What the server's ledger says of a plan holds for
devices that are in its sums at most every `separation` steps. The server leaves out those who were in a sum,
by the number of their connection. A device that comes back under another number and another pseudonym is
known to nobody but itself. A device that does not rest weakens its own protection alone, so the rule belongs
here.

Within one step a device may be asked again: the sum of a step is used once, so its first part in that step
was not used.
"""

from __future__ import annotations

from palate.client.vault.json_records import readable
from palate.client.vault.store import Records, Store
from palate.shared.secure_sum.messages import Invitation

RESTING = "noise plan"  # type of record; the id is the plan's rotation


def must_rest(records: Records, invitation: Invitation) -> bool:
    """Return whether this device took part in the plan of this invitation too few steps ago.

    Raises `VaultDamagedError`.
    """
    if not invitation.rotation or not records.has(RESTING, invitation.rotation.hex()):
        return False
    with readable("the step of this device's last part in a noise plan"):
        last = int(records.get(RESTING, invitation.rotation.hex()))
    return last != invitation.step and invitation.step - last < invitation.rest + 1


def note_part(store: Store, invitation: Invitation) -> None:
    """Note that this device takes part in a round of a plan, before its change leaves.

    Raises what the vault raises.
    """
    if invitation.rotation:
        with store.transaction() as change:
            change.put(RESTING, invitation.rotation.hex(), str(invitation.step).encode())
