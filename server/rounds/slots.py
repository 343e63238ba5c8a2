"""Which slot a masked round has: a number that never comes twice, and the registrar's key for it.

Where it stands in the flow: `rounds.run` gives `rounds` a `Slots`, `rounds.masked` asks it once for each
round before the invitation goes out. A round that is begun anew after a kill has the number of before and
another slot, so that devices, which show a pseudonym once, can take part in it again
(`shared.secure_sum.pseudonym`).

    slot.json    {"last": the newest slot that was given out}, written before the invitation leaves
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from palate.server.registrar import find_slot_key
from palate.shared.durable import storage_error, write_atomically
from palate.shared.errors import FederationError, FileFormatError
from palate.shared.secure_sum.pseudonym import SlotKey

_FILE = "slot.json"

Slots = Callable[[int], tuple[int, SlotKey | None]]
"""Called with a round's number.

Returns its slot, and the registrar's key for it where there is a registrar.
"""


def slots_by_round(round: int) -> tuple[int, SlotKey | None]:  # noqa: A002
    """Return a round's number as its slot: for runs in one go and without a registrar."""
    return round, None


def kept_slots(home: Path, registrar: bytes | None) -> Slots:
    """Return slots that are counted in a server's folder; with a registrar there must be a key for each.

    What it returns raises FederationError where the slot keys are at their end, and StorageError or
    FileFormatError when the count cannot be kept or read.
    """

    def next_slot(round: int) -> tuple[int, SlotKey | None]:  # noqa: A002
        slot, key = peek_slot(home, registrar, round)
        written = json.dumps({"last": slot}).encode()
        write_atomically(home / _FILE, written, consequence="the round did not begin")
        return slot, key

    return next_slot


def peek_slot(home: Path, registrar: bytes | None, round: int) -> tuple[int, SlotKey | None]:  # noqa: A002
    """Return the slot that a round would have, and its key; raises what the slots of `kept_slots` do."""
    slot = max(_read(home / _FILE) + 1, round)  # where the count was lost, rounds are at least a start
    key = None if registrar is None else find_slot_key(home, registrar, slot)
    if registrar is not None and key is None:
        raise FederationError(
            f"there is no key of the registrar's for slot {slot}; make more with palate server slots, or "
            "take the registrar's with palate server slots --take, and give them to the devices' owners"
        )
    return slot, key


def _read(path: Path) -> int:
    try:
        last = json.loads(path.read_text(encoding="utf-8"))["last"]
        if type(last) is not int or last < 0:
            raise ValueError("no count")
        return last
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise storage_error(error, path, "the round did not begin") from None
    except (ValueError, KeyError, TypeError):
        raise FileFormatError(
            f'{path} is damaged; write {{"last": N}} into it, N being at least the number of rounds so far'
        ) from None
