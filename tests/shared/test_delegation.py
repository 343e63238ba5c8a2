"""Signed invitations: only the key that is trusted, only for a while, and nothing of other bytes."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as some

from palate.shared.delegation import (
    ANY_RELEASE,
    DELEGATION_BYTES,
    LONGEST,
    SIGNING_BYTES,
    VALID,
    Delegation,
    decode_delegation,
    make_delegation,
    message_in,
    open_signed_message,
    sign_message,
)
from palate.shared.errors import InvitationError, OptionError

VECTORS = Path(__file__).resolve().parent.parent / "data" / "delegation_vectors.json"
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(number: int) -> bytes:
    return key(number).public_key().public_bytes_raw()


RELEASE, ROUND, OLD, STRANGER = 1, 2, 3, 4
LENT = make_delegation(key(RELEASE), public(ROUND), now=NOON)
WIRE = sign_message(b"an invitation", [LENT], key(ROUND))


def refused(data: bytes, *, trusted: int | None = RELEASE, now: datetime = NOON) -> str:
    with pytest.raises(InvitationError) as caught:
        open_signed_message(data, trusted=None if trusted is None else public(trusted), now=now)
    return caught.value.reason


def vectors() -> dict[str, str]:
    limited = make_delegation(key(RELEASE), public(ROUND), now=NOON, valid=timedelta(days=1), up_to=7)
    old = make_delegation(key(OLD), public(ROUND), now=NOON)
    two = sign_message(b"an invitation", [LENT, old], key(ROUND))
    made = {"delegation": LENT, "limited": limited, "signed": WIRE, "two delegations": two}
    return {name: data.hex() for name, data in made.items()}


def test_the_bytes_are_those_of_the_vectors() -> None:
    assert vectors() == json.loads(VECTORS.read_text(encoding="utf-8"))


def test_what_is_signed_is_read_back() -> None:
    until = int((NOON + VALID).timestamp())
    assert decode_delegation(LENT) == Delegation(public(RELEASE), public(ROUND), ANY_RELEASE, until)
    opened = open_signed_message(WIRE, trusted=public(RELEASE), now=NOON)
    assert (opened.message, opened.release_key, opened.up_to) == (
        b"an invitation",
        public(RELEASE),
        ANY_RELEASE,
    )
    assert len(WIRE) == len(b"an invitation") + SIGNING_BYTES
    assert message_in(WIRE) == b"an invitation"
    assert message_in(b"anything else") == b"anything else"


def test_only_the_trusted_key_speaks_and_without_one_the_first() -> None:
    assert refused(WIRE, trusted=STRANGER) == "key"
    assert open_signed_message(WIRE, trusted=None, now=NOON).release_key == public(RELEASE)


def test_while_the_release_key_changes_the_old_one_and_the_new_one_speak() -> None:
    both = sign_message(b"x", [LENT, make_delegation(key(OLD), public(ROUND), now=NOON)], key(ROUND))
    for number in (RELEASE, OLD):
        assert open_signed_message(both, trusted=public(number), now=NOON).release_key == public(number)


def test_a_delegation_ends_and_clocks_may_be_five_minutes_apart() -> None:
    end = NOON + VALID
    assert open_signed_message(WIRE, trusted=None, now=end + timedelta(minutes=4, seconds=59))
    assert refused(WIRE, now=end + timedelta(minutes=5, seconds=1)) == "expired"
    far = make_delegation(key(RELEASE), public(ROUND), now=NOON, valid=LONGEST)
    wire = sign_message(b"x", [far], key(ROUND))
    assert open_signed_message(wire, trusted=None, now=NOON - timedelta(minutes=4))
    assert refused(wire, now=NOON - timedelta(minutes=6)) == "expired"


def test_a_round_key_without_a_right_and_a_right_without_the_round_key_are_worth_nothing() -> None:
    assert refused(sign_message(b"x", [LENT], key(STRANGER))) == "signature"
    own = make_delegation(key(STRANGER), public(STRANGER), now=NOON)
    assert refused(sign_message(b"x", [own], key(STRANGER))) == "key"
    forged = own[:8] + public(RELEASE) + own[40:]
    assert refused(sign_message(b"x", [forged], key(STRANGER))) == "signature"
    mixed = [make_delegation(key(RELEASE), public(STRANGER), now=NOON), LENT]
    assert refused(sign_message(b"x", mixed, key(ROUND))) == "key"
    assert refused(sign_message(b"x", [LENT, LENT], key(ROUND))) == "key"


@settings(deadline=None)
@given(some.integers(0, 8 * len(WIRE) - 1))
def test_no_bit_can_be_changed(bit: int) -> None:
    changed = bytearray(WIRE)
    changed[bit // 8] ^= 1 << bit % 8
    assert refused(bytes(changed), trusted=None)


@settings(deadline=None)
@given(some.binary(max_size=400) | some.integers(0, len(WIRE)).map(lambda end: WIRE[:end][:-1]))
def test_other_bytes_are_one_clear_line(data: bytes) -> None:
    assert refused(data) in ("size", "magic", "kind", "version", "signature", "key")
    with pytest.raises(InvitationError):
        decode_delegation(data)


def test_what_makes_no_sense_is_not_signed() -> None:
    for valid in (timedelta(0), LONGEST + timedelta(seconds=1)):
        with pytest.raises(OptionError):
            make_delegation(key(RELEASE), public(ROUND), now=NOON, valid=valid)
    for lent in ([], [LENT] * 5):
        with pytest.raises(OptionError, match="1 to 4"):
            sign_message(b"x", lent, key(ROUND))
    with pytest.raises(OptionError, match="up_to"):
        make_delegation(key(RELEASE), public(ROUND), now=NOON, up_to=-1)
    assert len(LENT) == DELEGATION_BYTES


if __name__ == "__main__":  # makes the vectors anew: python -m tests.shared.test_delegation
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"wrote {VECTORS}\n")
