"""Blind signatures: a registrar signs what it does not see, and everybody can check the signature.

Where it stands in the flow: `pseudonym` makes certificates with it. It is
RSABSSA-SHA384-PSSZERO-Deterministic of RFC 9474 (Denis, Jacobs and Wood, 2023), after Chaum (CRYPTO 1982):
the device multiplies the encoded message by the e-th power of a random number, the registrar takes the e-th
root of the product, the device divides the number away again. What is left is an ordinary RSA-PSS signature
without salt, so that `cryptography` checks it; the encoding and four modular powers are ours.

**Unforgeable.** Somebody who had k values signed has at most k signatures (Lysyanskaya, "Security Analysis of
RSA-BSSA", PKC 2023; random oracle, one-more-RSA). A key signs nothing but blinded values of this one purpose.

**Blind, whatever the registrar's key is.** RFC 9474 warns that a registrar with a crooked key may learn
something of a message that it could guess. Messages here hold a fresh public key that nobody can guess, and
the exponent is fixed, so there is nothing to guess with; more than that, what comes out is independent of
what was signed, for any modulus. Let x be a blinded value, y its signature with y^e = x, and (m, s) any
signature with s^e = H(m). Then r = y / s is a number with H(m) * r^e = x, and there is exactly one: each
signature fits each blinded value by exactly one random number, and all are equally likely. That needs
H(m) and r to have inverses, which `blind` makes sure of (a modulus with small prime factors would else mark
some messages). Whether `unblind` works says nothing of the message either: it does so exactly if y^e = x, and
the registrar knows both. The salt that PSS would add is left out, because a signature that is decided by its
message and key has no room for a mark.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA384

from palate.shared.errors import MaskError

EXPONENT: Final = 65_537
"""The one public exponent: a registrar that could choose it could make blinded values depend on messages."""

MODULUS_BITS: Final = 2_048
MODULUS_BYTES: Final = MODULUS_BITS // 8

_DIGEST_BYTES = 48
_PADDING = PSS(MGF1(SHA384()), 0)


@dataclass(frozen=True)
class SigningKey:
    """The two primes of a signing key; made by `make_signing_key`, or read from where they were kept."""

    p: int = field(repr=False)
    q: int = field(repr=False)

    @cached_property
    def modulus(self) -> int:
        """The public half."""
        return self.p * self.q

    @cached_property
    def _roots(self) -> tuple[int, int, int]:
        """The exponents that take roots modulo p and modulo q, and the inverse of q modulo p."""
        return pow(EXPONENT, -1, self.p - 1), pow(EXPONENT, -1, self.q - 1), pow(self.q, -1, self.p)

    def root(self, value: int) -> int:
        """Return the number whose e-th power is this value modulo p * q."""
        of_p, of_q, inverse = self._roots
        one, other = pow(value, of_p, self.p), pow(value, of_q, self.q)
        return other + (one - other) * inverse % self.p * self.q


def make_signing_key(bits: int = MODULUS_BITS) -> SigningKey:
    """Return a new key of `cryptography`'s making."""
    numbers = rsa.generate_private_key(EXPONENT, bits).private_numbers()
    return SigningKey(numbers.p, numbers.q)


def blind(
    message: bytes, modulus: int, randbelow: Callable[[int], int] = secrets.randbelow
) -> tuple[int, int]:
    """Return what the registrar is to sign, and the secret that turns its answer into a signature.

    Args:
        message: what the signature will be of; it must hold something that nobody can guess.
        modulus: the registrar's public key, which need not be an honest one.
        randbelow: gives numbers from 0 up to its argument, and must give secret ones but in test vectors.

    Raises:
        MaskError: (`key`) the encoded message has a factor in common with the modulus; take another message.
    """
    encoded = encode(message, modulus)
    if math.gcd(encoded, modulus) != 1:
        raise MaskError("this message cannot be blinded for this key; take another one", "key")
    while True:
        number = randbelow(modulus)
        if math.gcd(number, modulus) == 1:
            return encoded * pow(number, EXPONENT, modulus) % modulus, pow(number, -1, modulus)


def sign_blinded(blinded: int, key: SigningKey) -> int:
    """Return the signature of a blinded value.

    Raises MaskError (`number`) for one that is not from 1 up to the modulus.

    The root is taken of the value times a random power, so that the time it takes says nothing of the key,
    and it is checked before it goes out, because a root that is wrong in one prime gives the key away (Boneh,
    DeMillo and Lipton, EUROCRYPT 1997).
    """
    modulus = key.modulus
    if not 0 < blinded < modulus:
        raise MaskError("a blinded value is out of its key's range", "number")
    cover = 0
    while math.gcd(cover, modulus) != 1:
        cover = secrets.randbelow(modulus)
    covered = key.root(blinded * pow(cover, EXPONENT, modulus) % modulus)
    found = covered * pow(cover, -1, modulus) % modulus
    if pow(found, EXPONENT, modulus) != blinded:
        raise MaskError(
            "a signature went wrong in this machine, and was not given out; try again", "signature"
        )
    return found


def unblind(message: bytes, answer: int, secret: int, modulus: int) -> bytes:
    """Return the signature of a message, from the registrar's answer and the secret of `blind`.

    Raises:
        MaskError: `certificate`, unless it is one.
    """
    if not 0 < answer < modulus:
        raise MaskError("the registrar's answer is out of its key's range", "certificate")
    signature = (answer * secret % modulus).to_bytes(_bytes_of(modulus), "big")
    verify(signature, message, public_key(modulus))
    return signature


def public_key(modulus: int) -> rsa.RSAPublicKey:
    """Return a modulus as the key that `verify` wants.

    Raises:
        MaskError: `key`, one that is no odd number of 2,048 bits or more.
    """
    try:
        if modulus.bit_length() < MODULUS_BITS or modulus % 2 == 0:
            raise ValueError("too short, or even")
        return rsa.RSAPublicNumbers(EXPONENT, modulus).public_key()
    except ValueError:
        raise MaskError(
            f"a registrar's key is no odd number of at least {MODULUS_BITS:,} bits", "key"
        ) from None


def verify(signature: bytes, message: bytes, key: rsa.RSAPublicKey) -> None:
    """Raise MaskError (`certificate`) unless the signature is by this key and of this message."""
    try:
        key.verify(signature, message, _PADDING, SHA384())
    except InvalidSignature:
        raise MaskError(
            "a certificate is not by the registrar's key, or not for what it is shown for", "certificate"
        ) from None


def encode(message: bytes, modulus: int) -> int:
    """Return a message as a number below the modulus: EMSA-PSS-ENCODE of RFC 8017 with SHA-384 and no salt.

    The number has one bit less than the modulus. RFC 9474 names bit_len(n) in its step 1; what
    RSASSA-PSS-VERIFY and its test vectors need is bit_len(n) - 1.
    """
    bits = modulus.bit_length() - 1
    size = -(-bits // 8)
    digest = hashlib.sha384(bytes(8) + hashlib.sha384(message).digest()).digest()
    block = bytes(size - _DIGEST_BYTES - 2) + b"\x01"
    mask = _generate_mask(digest, len(block))
    covered = int.from_bytes(block, "big") ^ int.from_bytes(mask, "big")
    covered &= (1 << (bits - 8 * (_DIGEST_BYTES + 1))) - 1
    return covered << (8 * (_DIGEST_BYTES + 1)) | int.from_bytes(digest + b"\xbc", "big")


def _generate_mask(seed: bytes, size: int) -> bytes:
    """MGF1 of RFC 8017 with SHA-384."""
    blocks = range(-(-size // _DIGEST_BYTES))
    return b"".join(hashlib.sha384(seed + i.to_bytes(4, "big")).digest() for i in blocks)[:size]


def _bytes_of(modulus: int) -> int:
    return -(-modulus.bit_length() // 8)
