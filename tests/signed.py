"""Signed invitations for tests: a release key and a round key that are known to everybody."""

from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.delegation import make_delegation, sign_message

RELEASE_KEY = Ed25519PrivateKey.from_private_bytes(b"release key of the tests".ljust(32, b"."))
ROUND_KEY = Ed25519PrivateKey.from_private_bytes(b"round key of the tests".ljust(32, b"."))
PUBLIC = RELEASE_KEY.public_key().public_bytes_raw()


@cache
def delegation(key: Ed25519PrivateKey = RELEASE_KEY) -> bytes:
    """What the release key says of the round key."""
    return make_delegation(key, ROUND_KEY.public_key().public_bytes_raw(), now=datetime.now(UTC))


def signed(message: bytes, key: Ed25519PrivateKey = RELEASE_KEY) -> bytes:
    """An invitation or a task, signed for a release key."""
    return sign_message(message, [delegation(key)], ROUND_KEY)
