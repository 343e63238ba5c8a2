"""How long a device keeps out of a noise plan's rounds after it was in one."""

from dataclasses import replace

import pytest

from palate.client.federation.resting import RESTING, must_rest, note_part
from palate.client.vault.store import MemoryStore
from palate.shared.errors import VaultDamagedError
from palate.shared.secure_sum.messages import decode_invitation
from tests.shared.mask_cases import invitation

PLAN = replace(decode_invitation(invitation()), rotation=bytes(range(32)), step=4, rest=2)


def test_a_device_rests_for_so_many_steps_of_that_plan_and_may_come_again_in_the_same_step() -> None:
    store = MemoryStore()
    assert not must_rest(store, PLAN)
    note_part(store, PLAN)
    steps = {step: must_rest(store, replace(PLAN, step=step)) for step in range(4, 9)}
    assert steps == {4: False, 5: True, 6: True, 7: False, 8: False}
    assert not must_rest(store, replace(PLAN, step=5, rotation=bytes(32)))  # another plan
    assert not must_rest(store, replace(PLAN, step=5, rest=0))


def test_rounds_of_no_plan_know_no_rest() -> None:
    store = MemoryStore()
    plain = replace(PLAN, rotation=b"", step=0, rest=0)
    note_part(store, plain)
    assert store.list(RESTING) == ()
    assert not must_rest(store, plain)


def test_a_note_that_cannot_be_read_is_said() -> None:
    store = MemoryStore()
    store.put(RESTING, PLAN.rotation.hex(), b"?")
    with pytest.raises(VaultDamagedError):
        must_rest(store, PLAN)
