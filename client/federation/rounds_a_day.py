"""How many rounds this device was invited to within the last day: a count for each hour, kept in the vault.

Where it stands in the flow: `member` counts an invitation as soon as the owner's terms let this device accept
it, before it reads the content. `consent` compares the count with the rounds a day that the owner agreed to.
It does not matter what comes of the round: a server that asks, breaks off and asks again gets no more answers
a day than an honest one. An invitation that the terms refuse is not counted; otherwise the device would stay
out for ever.

    record "invitations"   JSON: how many in which hour (UTC)

A day is the current hour and the 24 before it, so it may count up to one hour too much, never too little.
Hours in the future count as today, so a clock that is put back gains nobody a round. The record stays a few
hundred bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.store import ONLY, Change, Records

INVITATIONS: Final = "invitations"  # type of record

_VERSION = 1
_HOUR = timedelta(hours=1)
_KEPT_HOURS = 24


def count_invitation(change: Change, now: datetime) -> None:
    """Count an invitation that this device accepts, and drop hours that are over.

    Raises what the vault raises.
    """
    hour = _hour_of(now)
    hours = {one: count for one, count in _read(change).items() if one >= hour - _KEPT_HOURS * _HOUR}
    hours[hour] = hours.get(hour, 0) + 1
    content = {"hours": {one.isoformat(): hours[one] for one in sorted(hours)}}
    change.put(INVITATIONS, ONLY, encode_json(_VERSION, content))


def invitations_of_the_day(records: Records, now: datetime) -> int:
    """Return how many were counted within a day, and at times in the future; raises what the vault raises."""
    first = _hour_of(now) - _KEPT_HOURS * _HOUR
    return sum(count for hour, count in _read(records).items() if hour >= first)


def _hour_of(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("the time of an invitation needs a zone")
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _read(records: Records) -> Mapping[datetime, int]:
    """Return the count of each hour."""
    if not records.has(INVITATIONS, ONLY):
        return {}
    with readable("the count of invitations"):
        hours = decode_json(records.get(INVITATIONS, ONLY), _VERSION)["hours"]
        found = {datetime.fromisoformat(hour): count for hour, count in hours.items()}
        if any(hour.tzinfo is None or type(count) is not int or count < 1 for hour, count in found.items()):
            raise ValueError("no count")
        return found
