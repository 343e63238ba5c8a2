"""What a person agreed to: no terms, no part; and terms that hold whatever the clock, the battery or the
vault say."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as some

from palate.client.federation import consent
from palate.client.federation.consent import (
    CONSENT,
    Consent,
    Permission,
    Terms,
    agree,
    may_take_part,
    newest_terms,
    note_leaving,
    read_history,
    read_public_key,
    read_terms,
    refuse,
)
from palate.client.federation.machine import Readings
from palate.client.federation.outbox import OUTBOX
from palate.client.federation.rounds_a_day import count_invitation
from palate.client.vault.store import ONLY, MemoryStore
from palate.client.vault.vault import Vault
from palate.shared.errors import OptionError, VaultDamagedError
from palate.shared.releases.message import write_key

SERVER = "127.0.0.1:8000"
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TERMS = Terms(SERVER)


def ago(**before: float) -> datetime:
    return NOON - timedelta(**before)


# --- the decision -------------------------------------------------------------------------------------------


def test_nobody_takes_part_who_has_not_agreed() -> None:
    assert may_take_part(None, Readings(0.0, True, 100.0), 0) == Permission(
        False, "its owner has not agreed to take part"
    )


def test_at_any_time_asks_for_nothing() -> None:
    assert may_take_part(TERMS, Readings(), 0) == Permission(True, "at any time")


@pytest.mark.parametrize(
    ("when", "readings", "allowed", "reason"),
    [
        ("idle", Readings(load=0.1), True, "idle: load of 0.10 per core"),
        ("idle", Readings(load=0.9), False, "not idle: load of 0.90 per core"),
        ("idle", Readings(), False, "whether this device is idle cannot be read"),
        ("charging", Readings(plugged_in=False, charge=12), False, "not charging: on battery at 12 %"),
        ("idle+charging", Readings(0.1, True), True, "idle: load of 0.10 per core; charging: plugged in"),
        ("idle+charging", Readings(0.1, False, 12), False, "not charging: on battery at 12 %"),
        ("idle+charging", Readings(0.9, True), False, "not idle: load of 0.90 per core"),
        ("idle+charging", Readings(0.1), False, "whether this device is charging cannot be read"),
        ("unmetered", Readings(0.1, True), False, "whether this device is unmetered cannot be read"),
        ("idle", Readings(0.1, told={"idle": None}), False, "whether this device is idle cannot be read"),
    ],
)
def test_every_condition_must_be_met(when: str, readings: Readings, allowed: bool, reason: str) -> None:
    assert may_take_part(replace(TERMS, when=when), readings, 0) == Permission(allowed, reason)


def test_what_cannot_be_read_counts_as_no_unless_the_person_said_otherwise() -> None:
    careful = replace(TERMS, when="idle+charging")
    bold = replace(careful, in_doubt=True)
    assert not may_take_part(careful, Readings(), 0).allowed
    assert may_take_part(bold, Readings(), 0).allowed
    # Doubt is not the same as a reading that says no.
    assert not may_take_part(bold, Readings(load=0.9), 0).allowed
    assert not may_take_part(bold, Readings(plugged_in=False, charge=12), 0).allowed


def test_no_more_rounds_a_day_than_agreed() -> None:
    terms = replace(TERMS, rounds_a_day=2)
    assert may_take_part(terms, Readings(), 1).allowed
    assert may_take_part(terms, Readings(), 2) == Permission(
        False, "2 rounds within a day, and 2 are agreed to"
    )
    assert not may_take_part(terms, Readings(), 3).allowed


def test_more_than_a_thousand_rounds_a_day_can_be_agreed_to_and_are_counted() -> None:
    store = MemoryStore()
    agree(store, replace(TERMS, rounds_a_day=1_500), NOON)
    asked = Consent(store, SERVER)
    for number in range(1_500):
        assert asked.allows(NOON).allowed
        count_invitation(store, NOON - timedelta(seconds=number))
    assert asked.allows(NOON) == Permission(False, "1500 rounds within a day, and 1500 are agreed to")


readings = some.builds(
    Readings,
    some.none() | some.floats(0, 10),
    some.none() | some.booleans(),
    some.none() | some.floats(0, 100),
)


@given(
    readings,
    some.integers(0, 6),
    some.sampled_from(["always", "idle", "charging", "idle+charging"]),
    some.booleans(),
)
def test_stricter_terms_never_allow_what_looser_ones_refuse(
    read: Readings, today: int, when: str, in_doubt: bool
) -> None:
    loose = replace(TERMS, when=when, in_doubt=in_doubt, rounds_a_day=4)
    strict = [
        replace(loose, in_doubt=False),
        replace(loose, rounds_a_day=2),
        replace(loose, when="idle+charging"),
    ]
    if any(may_take_part(one, read, today).allowed for one in strict):
        assert may_take_part(loose, read, today).allowed


# --- the terms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"server": ""}, "a server is named"),
        ({"server": "x" * 201}, "a server is named"),
        ({"when": "sometimes-maybe,"}, "it must be always"),
        ({"rounds_a_day": 0}, "rounds a day is 0; it must be a whole number from 1 to 10,000"),
        ({"rounds_a_day": 2.0}, "rounds a day is 2.0"),
        ({"least_devices": 1}, "least devices is 1; it must be a whole number from 2"),
        ({"least_devices": True}, "least devices is True"),
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be a number above 0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"epsilon": True}, "epsilon is True"),
        ({"delta": 0.5}, "delta is 0.5"),
        ({"honest_share": 1.1}, "honest share is 1.1; it must be a number from 0 to 1"),
        ({"honest_share": float("nan")}, "honest share is nan"),
        ({"honest_share": True}, "honest share is True"),
        ({"allow_unmasked": 1}, "allow unmasked must be yes or no"),
        ({"release_key": "ab"}, "release key must be an Ed25519 public key"),
        ({"registrar": "g" * 64}, "registrar must be an Ed25519 public key"),
    ],
)
def test_terms_out_of_range_are_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        replace(TERMS, **changes)
    assert "\n" not in str(caught.value)


def test_what_nobody_chose_is_careful() -> None:
    assert (TERMS.allow_unmasked, TERMS.in_doubt, TERMS.least_devices, TERMS.epsilon) == (
        False,
        False,
        10,
        8.0,
    )
    assert "never this device's update without masks" in " ".join(TERMS.describe())
    assert "or this device's update without masks" in " ".join(replace(TERMS, allow_unmasked=True).describe())


def test_without_a_registrar_no_number_of_devices_is_promised_and_nobody_is_counted_on() -> None:
    said = " ".join(TERMS.describe())
    assert TERMS.counted_share == 0.0
    assert "at least" not in said
    assert "this server can make all the others up" in said
    assert "counting this device's own noise alone" in said
    assert replace(TERMS, honest_share=1.0).counted_share == 0.0
    pinned = replace(TERMS, registrar="ab" * 32)
    assert pinned.counted_share == 0.5
    assert "sums over at least 10 devices that the registrar vouches for" in " ".join(pinned.describe())
    assert "counting on the noise of 50% of the devices" in " ".join(pinned.describe())


def test_keys_are_read_in_the_forms_that_people_have_them() -> None:
    public = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    raw = public.public_bytes_raw()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    ssh = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for text in (
        write_key(raw),
        raw.hex(),
        f" {raw.hex().upper()}\n",
        pem,
        ssh,
        f"{ssh} somebody@somewhere\n",
    ):
        assert read_public_key(text) == raw.hex()
    pinned = replace(TERMS, release_key=raw.hex())
    assert (pinned.release_key_bytes(), pinned.registrar_bytes()) == (raw, None)


def test_what_is_no_public_key_is_refused_and_not_repeated() -> None:
    private = Ed25519PrivateKey.generate()
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in (
        "",
        "ab",
        "palate1abc",
        write_key(bytes(32))[:-1] + "b",
        "g" * 64,
        "a" * 63,
        "ssh-ed25519 AAAA",
        "\x00",
        "schlüssel",
        secret,
        pem,
    ):
        with pytest.raises(OptionError, match="no Ed25519 public key") as caught:
            read_public_key(text)
        assert secret.splitlines()[1] not in str(caught.value)


# --- what is kept -------------------------------------------------------------------------------------------


def test_terms_are_kept_in_the_vault_with_each_change(tmp_path: Path, remembered_keys: None) -> None:
    other = Terms("palate.example.org:8000", when="idle+charging", least_devices=50)
    with Vault.create(tmp_path / "vault", "correct horse") as vault:
        assert read_terms(vault, SERVER) is newest_terms(vault) is None
        assert agree(vault, TERMS, NOON).what == "agreed"
        assert agree(vault, TERMS, NOON + timedelta(1)).what == "joined"
        assert agree(vault, replace(TERMS, epsilon=1.0), NOON + timedelta(2)).what == "changed"
        agree(vault, other, NOON + timedelta(3))
        note_leaving(vault, other.server, NOON + timedelta(4))
    with Vault.open(tmp_path / "vault", "correct horse") as vault:
        assert read_terms(vault, SERVER) == replace(TERMS, epsilon=1.0)
        assert newest_terms(vault) == other
        dropped, events = read_history(vault)
        assert dropped == 0
        assert [(one.server, one.what) for one in events] == [
            (SERVER, "agreed"), (SERVER, "joined"), (SERVER, "changed"), (other.server, "agreed"),
            (other.server, "left"),
        ]  # fmt: skip
        assert [one.terms for one in events] == [TERMS, None, replace(TERMS, epsilon=1.0), other, None]
        assert events[0].when == "2026-03-01T12:00:00.000000+00:00"


def test_a_no_takes_back_an_earlier_yes_for_that_server_alone() -> None:
    store = MemoryStore()
    agree(store, TERMS, NOON)
    agree(store, Terms("other:8000"), NOON)
    refuse(store, SERVER, NOON)
    assert read_terms(store, SERVER) is None
    assert newest_terms(store) == Terms("other:8000")
    assert not Consent(store, SERVER).allows(NOON).allowed
    assert Consent(store, "other:8000").allows(NOON).allowed
    assert agree(store, TERMS, NOON).what == "agreed"


def test_the_history_keeps_the_newest_and_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        consent, "KEPT", 20
    )  # the record is read and written whole, so a thousand would take long
    store = MemoryStore()
    for day in range(consent.KEPT + 3):
        agree(store, replace(TERMS, least_devices=2 + day % 2), NOON + timedelta(days=day))
    dropped, events = read_history(store)
    assert (dropped, len(events)) == (3, consent.KEPT)
    assert events[-1].when.startswith((NOON + timedelta(days=consent.KEPT + 2)).date().isoformat())


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b'{"version": 2, "terms": [], "events": [], "dropped": 0}',
        b'{"version": 1, "terms": [{"server": "x"}], "events": [], "dropped": "many"}',
        b'{"version": 1, "terms": [{"server": "x", "least_devices": 1}], "events": [], "dropped": 0}',
        b'{"version": 1, "terms": [{"server": "x", "later": 1}], "events": [], "dropped": 0}',
        b'{"version": 1, "terms": [], "events": [{}], "dropped": 0}',
        b'{"version": 1, "terms": 5, "events": [], "dropped": 0}',
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_a_no_and_never_a_crash(content: bytes) -> None:
    store = MemoryStore()
    store.put(CONSENT, ONLY, content)
    with pytest.raises(VaultDamagedError, match="what was agreed to cannot be read"):
        read_terms(store, SERVER)
    with pytest.raises(VaultDamagedError):
        agree(store, TERMS, NOON)  # and is not written over
    assert Consent(store, SERVER).allows(NOON) == Permission(False, "what its owner agreed to cannot be read")
    assert store.get(CONSENT, ONLY) == content


def test_rounds_of_the_day_are_counted_from_invitations_whatever_came_of_them() -> None:
    store = MemoryStore()
    agree(store, replace(TERMS, rounds_a_day=2), NOON)
    asked = Consent(store, SERVER)
    count_invitation(store, ago(days=2))
    count_invitation(store, ago(hours=2))
    assert asked.allows(NOON).allowed
    count_invitation(store, ago(hours=1))
    assert store.list(OUTBOX) == ()
    assert not asked.allows(NOON).allowed
    assert asked.allows(NOON + timedelta(days=1)).allowed


def test_changed_terms_count_at_the_next_round() -> None:
    store = MemoryStore()
    asked: list[tuple[str, ...]] = []

    def read(conditions: Iterable[str]) -> Readings:
        asked.append(tuple(conditions))
        return Readings(load=0.9)

    mine = Consent(store, SERVER, read=read)
    assert (mine.allows(NOON).allowed, asked) == (False, [])  # nothing agreed to, nothing read
    agree(store, TERMS, NOON)
    assert mine.allows(NOON).allowed
    agree(store, replace(TERMS, when="idle"), NOON)
    assert mine.allows(NOON) == Permission(False, "not idle: load of 0.90 per core")
    assert asked == [(), ("idle",)]


def test_a_vault_that_is_gone_says_no(tmp_path: Path, remembered_keys: None) -> None:
    with Vault.create(tmp_path / "vault", "correct horse") as vault:
        agree(vault, TERMS, NOON)
        mine = Consent(vault, SERVER)
        assert mine.allows(NOON).allowed
        shutil.rmtree(tmp_path / "vault")
        assert mine.allows(NOON) == Permission(False, "what its owner agreed to cannot be read")


def test_the_record_is_as_it_was_written_first() -> None:
    """A vector: what a later version must still read."""
    store = MemoryStore()
    agree(store, TERMS, NOON)
    terms = {
        "server": SERVER, "when": "always", "rounds_a_day": 24, "least_devices": 10, "epsilon": 8.0,
        "delta": 1e-05,
        "honest_share": 0.5, "allow_unmasked": False, "in_doubt": False, "release_key": "", "registrar": "",
        "certificate": "",
    }  # fmt: skip
    event = {"when": "2026-03-01T12:00:00.000000+00:00", "server": SERVER, "what": "agreed", "terms": terms}
    assert json.loads(store.get(CONSENT, ONLY)) == {
        "version": 1,
        "terms": [terms],
        "events": [event],
        "dropped": 0,
    }
    del terms["honest_share"]  # as the first version wrote it
    with store.transaction() as change:
        change.put(
            CONSENT, ONLY, json.dumps({"version": 1, "terms": [terms], "events": [], "dropped": 0}).encode()
        )
    assert read_terms(store, SERVER) == TERMS
