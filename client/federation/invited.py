"""How many rounds this device was asked into within the last day: a few counts by the hour, kept in the vault.

Where it stands in the flow: `joining` counts an invitation as soon as the person's terms let this device go along with it, before it reads
what is in it; `consent` compares the count with the rounds a day that are agreed to. Whether the round comes to anything does not
matter: each invitation that is looked into is a question, so a server that asks, breaks off and asks again gets no more answers
a day than an honest one. An invitation to a device that stays out by its terms is not counted, or it would stay out for ever.

    record "invitations"   JSON: how many in which hour (UTC)

A day is the current hour and the 24 before it, so up to an hour more than a day: never fewer than there were. Hours that lie ahead
count as of today, so that a clock that is put back wins nobody a round. Whatever the number, the record stays a few hundred bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from palate.client.vault.store import ONLY, Change, Store
from palate.shared.errors import VaultDamagedError

INVITATIONS: Final = "invitations"  # type of record

_VERSION = 1
_HOUR = timedelta(hours=1)
_KEPT_HOURS = 24


def count_invitation(change: Change, now: datetime) -> None:
    """Count one invitation at a time with a zone; raises VaultDamagedError for a count that cannot be read."""
    hour = _hour_of(now)
    hours = {one: count for one, count in _read(change).items() if one >= hour - _KEPT_HOURS * _HOUR}
    hours[hour] = hours.get(hour, 0) + 1
    content = {"version": _VERSION, "hours": {one.isoformat(): hours[one] for one in sorted(hours)}}
    change.put(INVITATIONS, ONLY, json.dumps(content).encode())


def invitations_of_the_day(store: Store | Change, now: datetime) -> int:
    """Return how many were counted within a day, and at times that lie ahead; raises what the vault raises."""
    first = _hour_of(now) - _KEPT_HOURS * _HOUR
    return sum(count for hour, count in _read(store).items() if hour >= first)


def _hour_of(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("the time of an invitation needs a zone")
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _read(store: Store | Change) -> Mapping[datetime, int]:
    if not store.has(INVITATIONS, ONLY):
        return {}
    try:
        content = json.loads(store.get(INVITATIONS, ONLY))
        if content["version"] != _VERSION:
            raise ValueError("unknown version")
        found = {datetime.fromisoformat(hour): count for hour, count in content["hours"].items()}
        if any(hour.tzinfo is None or type(count) is not int or count < 1 for hour, count in found.items()):
            raise ValueError("no count")
        return found
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VaultDamagedError("the count of invitations cannot be read by this version of Palate") from None
