"""Slots never come twice, and with a registrar there is a key for each."""

from pathlib import Path

import pytest

from palate.server.rounds.slots import kept_slots, slots_by_round
from palate.shared.errors import FederationError, FileFormatError
from palate.shared.secure_sum.pseudonym import decode_slot_keys
from tests.shared.pseudonym_cases import registrar_in


def test_a_round_that_is_begun_anew_has_another_slot_also_after_a_restart(tmp_path: Path) -> None:
    slots = kept_slots(tmp_path, None)
    assert [slots(number)[0] for number in (1, 2, 2, 2, 3)] == [1, 2, 3, 4, 5]
    assert kept_slots(tmp_path, None)(3) == (6, None)


def test_where_the_count_was_lost_the_number_of_rounds_is_a_start(tmp_path: Path) -> None:
    assert kept_slots(tmp_path, None)(40) == (40, None)
    assert slots_by_round(7) == (7, None)


def test_a_slot_without_a_key_ends_the_run_in_one_line_and_is_not_used_up(tmp_path: Path) -> None:
    registrar, file = registrar_in(tmp_path, 2)
    slots = kept_slots(tmp_path, registrar.public)
    for number in (1, 2):
        slot, key = slots(number)
        assert key == decode_slot_keys(file).key(slot)
    for _ in range(2):
        with pytest.raises(FederationError, match="no key of the registrar's for slot 3") as caught:
            slots(3)
        assert "\n" not in str(caught.value)
    registrar.make_slots(1)
    assert slots(3)[0] == 3


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"last": -1}', '{"last": "7"}', '{"last": true}'])
def test_a_damaged_count_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "slot.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"slot\.json is damaged"):
        kept_slots(tmp_path, None)(1)
