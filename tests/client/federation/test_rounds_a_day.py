"""Invitations are counted by the hour: never fewer than there were within a day, whatever the clock does, in
little room."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from palate.client.federation.rounds_a_day import INVITATIONS, count_invitation, invitations_of_the_day
from palate.client.vault.store import ONLY, MemoryStore
from palate.shared.errors import VaultDamagedError

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def store_with(*times: datetime) -> MemoryStore:
    store = MemoryStore()
    for when in times:
        count_invitation(store, when)
    return store


def test_those_of_the_last_day_count() -> None:
    store = store_with(*(NOON - timedelta(hours=hours) for hours in (60, 30, 23, 1)))
    assert invitations_of_the_day(store, NOON) == 2
    assert invitations_of_the_day(store, NOON + timedelta(hours=24)) == 0
    assert invitations_of_the_day(MemoryStore(), NOON) == 0


def test_ten_thousand_a_day_are_counted_one_by_one() -> None:
    store = store_with(*(NOON + timedelta(seconds=8 * number) for number in range(10_000)))
    assert invitations_of_the_day(store, NOON + timedelta(seconds=80_000)) == 10_000
    assert len(store.get(INVITATIONS, ONLY)) < 2_000


def test_a_clock_that_is_put_back_wins_nobody_a_round() -> None:
    store = store_with(NOON + timedelta(days=400), NOON + timedelta(hours=3))
    assert invitations_of_the_day(store, NOON) == 2
    count_invitation(store, NOON)
    assert invitations_of_the_day(store, NOON) == 3


@settings(deadline=None)
@given(some.lists(some.integers(-200_000, 200_000), max_size=30))
def test_never_fewer_than_there_were_within_a_day_and_at_most_an_hour_more(seconds: list[int]) -> None:
    times = sorted(NOON + timedelta(seconds=one) for one in seconds)
    store = store_with(*times)
    now = max([NOON, *times])
    found = invitations_of_the_day(store, now)
    assert sum(when > now - timedelta(hours=24) for when in times) <= found
    assert found <= sum(when > now - timedelta(hours=25) for when in times)


def test_hours_are_the_same_in_every_zone() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    assert store_with(NOON.astimezone(there)).get(INVITATIONS, ONLY) == store_with(NOON).get(
        INVITATIONS, ONLY
    )
    with pytest.raises(ValueError, match="zone"):
        store_with(NOON.replace(tzinfo=None))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"version": 2, "hours": {}}',
        b'{"version": 1, "hours": 5}',
        b'{"version": 1, "hours": {"x": 1}}',
        b'{"version": 1, "hours": {"2026-03-01T12:00:00": 1}}',
        b'{"version": 1, "hours": {"2026-03-01T12:00:00+00:00": -1}}',
    ],
)
def test_a_count_of_another_form_is_one_clear_line_and_stays(content: bytes) -> None:
    store = MemoryStore()
    store.put(INVITATIONS, ONLY, content)
    for use in (invitations_of_the_day, count_invitation):
        with pytest.raises(VaultDamagedError, match="the count of invitations"):
            use(store, NOON)
    assert store.get(INVITATIONS, ONLY) == content
