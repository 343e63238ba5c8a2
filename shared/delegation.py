"""Signed invitations: the release key lets a round key invite, and the round key signs what is sent.

Where it stands in the flow: `server.releases.round_key` keeps the round key and signs each invitation and
each task. A device opens what comes (`client.federation.invitations`) before it reads anything in it. The
release key may be sealed, or lie on another machine, while rounds run day and night. So it signs a short
statement instead, like the delegated credentials of TLS (RFC 9345).

    delegation  magic "PALATE" | kind 20 | version 1 | release key 32 | round key 32 | up to 4 | expires 8 |
                signature 64
    signed      magic "PALATE" | kind 21 | version 1 | count 1 | delegations, 148 each | message |
                signature 64

Numbers are little endian and unsigned. A delegation holds for releases up to the number `up to` (2^32 - 1:
any) until `expires`, in seconds since 1970. Its signature is the release key's, over everything before it.
`message` is an invitation or a task in the form of `secure_sum.messages` and `wire`. The last signature is
the round key's, over everything before it. There are 1 to 4 delegations, from different release keys to one
round key: while devices follow a change of the release key, the old one and the new one both count.
`tests/data/delegation_vectors.json` holds test vectors.

**What this stops.** An attacker in the server's place without its keys (on the network, or with code of their
own on the port) gets nothing from devices. **What it does not stop.** A thief of the round key can invite
until the delegation expires. What a device does at all bounds what that is worth
(`client.federation.task_limits`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from palate.shared.errors import InvitationError, InvitationReason, OptionError
from palate.shared.wire import MAGIC, VERSION, kind_of

DELEGATION, SIGNED = 20, 21
ANY_RELEASE: Final = 2**32 - 1

VALID: Final = timedelta(days=30)
"""How long a delegation holds by default.

A key on another machine is needed once a month, and a stolen round key is worth nothing after a month. The
release key itself has no expiry.
"""

LONGEST: Final = timedelta(days=100)
"""The longest that a device believes: a delegation for ever would be the release key under another name."""

TOLERANCE: Final = timedelta(minutes=5)
"""How far the clocks of device and server may be apart."""

MOST_DELEGATIONS: Final = 4

_START = struct.Struct("<6sBB")
_BODY = struct.Struct("<32s32sIQ")
_SIGNATURE_BYTES = 64
DELEGATION_BYTES: Final = _START.size + _BODY.size + _SIGNATURE_BYTES
SIGNING_BYTES: Final = _START.size + 1 + DELEGATION_BYTES + _SIGNATURE_BYTES
"""What a signed message is longer than the message itself, with one delegation."""


@dataclass(frozen=True)
class Delegation:
    """What a release key said: until when, and up to which release, this round key may invite."""

    release_key: bytes
    round_key: bytes
    up_to: int
    expires: int  # seconds since 1970


@dataclass(frozen=True)
class Opened:
    """A message that was signed, the release key that answers for it, and up to which release it may."""

    message: bytes
    release_key: bytes
    up_to: int


def make_delegation(
    release_key: Ed25519PrivateKey,
    round_public: bytes,
    *,
    now: datetime,
    valid: timedelta = VALID,
    up_to: int = ANY_RELEASE,
) -> bytes:
    """Return the bytes by which the release key lets a round key (32 bytes, public half) invite from now on.

    Raises:
        OptionError: a time that is not above 0 or longer than devices believe, and a release out of
            range.
    """
    if not timedelta(0) < valid <= LONGEST:
        raise OptionError(f"a delegation holds for more than 0 and at most {LONGEST.days} days, not {valid}")
    if not 0 <= up_to <= ANY_RELEASE:
        raise OptionError(f"up_to is {up_to}; it must be from 0 to {ANY_RELEASE:,}")
    public = release_key.public_key().public_bytes_raw()
    content = _START.pack(MAGIC, DELEGATION, VERSION)
    content += _BODY.pack(public, round_public, up_to, int((now + valid).timestamp()))
    return content + release_key.sign(content)


def decode_delegation(data: bytes) -> Delegation:
    """Return the delegation of these bytes, its signature checked.

    Raises InvitationError. The time is for the caller to check.
    """
    _check_start(data, DELEGATION, "a delegation")
    if len(data) != DELEGATION_BYTES:
        raise InvitationError(f"a delegation has {DELEGATION_BYTES} bytes, not {len(data):,}", "size")
    found = Delegation(*_BODY.unpack_from(data, _START.size))
    _verify(data, found.release_key, "the delegation is not signed by the release key that it names")
    return found


def sign_message(message: bytes, delegations: Sequence[bytes], round_key: Ed25519PrivateKey) -> bytes:
    """Return a message with the delegations that speak for it, signed.

    Raises:
        OptionError: none of them or too many.
    """
    if not 1 <= len(delegations) <= MOST_DELEGATIONS:
        raise OptionError(
            f"{len(delegations)} delegations; there must be 1 to {MOST_DELEGATIONS} to sign with"
        )
    content = b"".join(
        (_START.pack(MAGIC, SIGNED, VERSION), bytes([len(delegations)]), *delegations, message)
    )
    return content + round_key.sign(content)


def open_signed_message(data: bytes, *, trusted: bytes | None, now: datetime) -> Opened:
    """Return a message that a round key signed for the release key `trusted`, or for any if that is None.

    Raises:
        InvitationError: "size", "magic", "kind" or "version" for other bytes; "key" where no delegation is of
            the trusted key; "expired" for one whose time is over or too long; "signature" for a wrong one.
    """
    message, delegations = _take_apart(data)
    read = [decode_delegation(one) for one in delegations]
    if len({one.round_key for one in read}) > 1 or len({one.release_key for one in read}) < len(read):
        raise InvitationError("the delegations are not of different keys to one round key", "key")
    chosen = next((one for one in read if trusted in (None, one.release_key)), None)
    if chosen is None:
        raise InvitationError(
            "the invitation is signed for another release key than the one kept here", "key"
        )
    if not (now - TOLERANCE).timestamp() <= chosen.expires <= (now + LONGEST + TOLERANCE).timestamp():
        raise InvitationError(
            "the server's right to invite has expired, or is for longer than devices believe; the person "
            "who runs it renews it",
            "expired",
        )
    _verify(data, chosen.round_key, "the invitation is not signed by the round key that it names")
    return Opened(message, chosen.release_key, chosen.up_to)


def message_in(data: bytes) -> bytes:
    """Return the message that was signed, unchecked, or the bytes themselves if they are not signed.

    For code that counts or groups messages; a device that is to answer takes `open_signed_message`. Raises
    InvitationError.
    """
    return _take_apart(data)[0] if kind_of(data) == SIGNED else data


def _take_apart(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the message and the delegations, nothing checked but the length."""
    _check_start(data, SIGNED, "a signed invitation")
    first = _START.size + 1
    count = data[_START.size] if len(data) > _START.size else 0
    start = first + count * DELEGATION_BYTES
    if not 1 <= count <= MOST_DELEGATIONS or len(data) < start + _SIGNATURE_BYTES:
        raise InvitationError("the signed invitation is cut short, or has no delegation", "size")
    delegations = [data[at : at + DELEGATION_BYTES] for at in range(first, start, DELEGATION_BYTES)]
    return data[start:-_SIGNATURE_BYTES], delegations


def _check_start(data: bytes, kind: int, what: str) -> None:
    if not isinstance(data, bytes) or len(data) < _START.size:
        raise InvitationError(f"the message is too short for {what}", "size")
    magic, found, version = _START.unpack_from(data)
    for name, value, wanted in (
        ("magic", magic, MAGIC),
        ("kind", found, kind),
        ("version", version, VERSION),
    ):
        if value != wanted:
            reason: InvitationReason = name  # type: ignore[assignment]
            raise InvitationError(f"the message is not {what} of this version of Palate ({name})", reason)


def _verify(data: bytes, key: bytes, wrong: str) -> None:
    try:
        public = Ed25519PublicKey.from_public_bytes(key)
        public.verify(data[-_SIGNATURE_BYTES:], data[:-_SIGNATURE_BYTES])
    except (InvalidSignature, ValueError):
        raise InvitationError(wrong, "signature") from None
