"""Secrets of 32 bytes split into shares: some number gives the secret back, one fewer gives nothing.

Where it stands in the flow: in a masked round each device shares the key of its pairwise masks and the seed
of its own mask among its neighbours, so that the server can take out the masks of a device that dropped out,
or that stayed. The method is Shamir's (Communications of the ACM, 1979): a random polynomial over GF(p) whose
value at 0 is the secret; holder x has its value at x. The field is that of p = 2^256 + 297, the smallest
prime above 2^256, so that every secret of 32 bytes fits.

Holders may lie. A secret that is put together is therefore checked by the caller, who knows something that
only the right one fits (a public key, a commitment). Where the shares at hand do not give a secret that fits,
the shares are decoded as the Reed-Solomon code that they are (McEliece and Sarwate, 1981), by Gao's algorithm
(2003): of r shares, (r - threshold) / 2 may be wrong.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from palate.shared.errors import MaskError

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
_DRAWN_BYTES = 48  # 128 bits more than the field has, so that reducing them is as good as uniform
_RUN = 32  # steps of Horner's rule between two reductions
_MOST_SUBSETS = 256  # tried when decoding fails, at most: what a liar may cost the server

Polynomial = list[int]
"""Coefficients modulo the prime, the constant first, the last not zero; empty is the polynomial 0."""


def split_secret(
    secret: bytes,
    holders: Collection[int],
    threshold: int,
    source: Callable[[int], bytes] = secrets.token_bytes,
) -> dict[int, int]:
    """Return a share for each holder; any `threshold` of them give the secret back.

    Holders are numbers from 1 below 2^32; `source` gives as many random bytes as it is asked for.

    Raises:
        ValueError: another secret than 32 bytes, and holders or a threshold that do not go together.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(holders) or not all(1 <= x < 2**32 for x in holders):
        raise ValueError(
            f"threshold is {threshold} for {len(holders)} holders; holders are numbers from 1, as many as it"
        )
    drawn = source(_DRAWN_BYTES * (threshold - 1))
    coefficients = [int.from_bytes(secret, "big")] + [
        int.from_bytes(drawn[i : i + _DRAWN_BYTES], "big") % PRIME for i in range(0, len(drawn), _DRAWN_BYTES)
    ]
    coefficients.reverse()
    runs = [coefficients[i : i + _RUN] for i in range(0, threshold, _RUN)]
    shares = {}
    for x in holders:
        value = 0
        for run in runs:  # reduced once in a run: x is small
            for coefficient in run:
                value = value * x + coefficient
            value %= PRIME
        shares[x] = value
    return shares


def recover_secret(shares: Mapping[int, int], threshold: int, fits: Callable[[bytes], bool]) -> bytes:
    """Return the secret that fits, from holders' shares.

    It is always found where at most (len(shares) - threshold) // 2 shares are wrong.

    Args:
        shares: the shares by holder.
        threshold: how many shares it takes.
        fits: tells the right secret.

    Raises:
        MaskError: `few`, there are fewer shares than the threshold; `shares`, no secret that fits is found.
    """
    if len(shares) < threshold:
        raise MaskError(f"{len(shares)} shares are there; the secret takes {threshold}", "few")
    places = sorted(shares)
    for chosen in _candidates(shares, places, threshold):
        value = sum(c * shares[x] for c, x in zip(_at_zero(chosen), chosen, strict=True)) % PRIME
        if value >> (8 * SECRET_BYTES):
            continue
        secret = value.to_bytes(SECRET_BYTES, "big")
        if fits(secret):
            return secret
    raise MaskError("the shares at hand do not give the secret that was shared", "shares")


def encode_share(share: int) -> bytes:
    """Return a share as 33 bytes, big endian."""
    return share.to_bytes(SHARE_BYTES, "big")


def decode_share(data: bytes) -> int:
    """Return the share of 33 bytes.

    Raises:
        MaskError: `shares`, another length or a number outside the field.
    """
    share = int.from_bytes(data, "big")
    if len(data) != SHARE_BYTES or share >= PRIME:
        raise MaskError(f"a share is a number of the field in {SHARE_BYTES} bytes", "shares")
    return share


def _candidates(
    shares: Mapping[int, int], places: Sequence[int], threshold: int
) -> Iterable[tuple[int, ...]]:
    """Yield sets of `threshold` shares to try: the first, what decoding finds sound, then others if few."""
    yield tuple(places[:threshold])
    if len(places) == threshold:
        return
    found = _decode(places, [shares[x] for x in places], threshold)
    if found is not None:
        yield tuple(x for x in places if _value(found, x) == shares[x])[:threshold]
    if math.comb(len(places), threshold) <= _MOST_SUBSETS:
        yield from itertools.combinations(places, threshold)


@lru_cache(maxsize=256)
def _at_zero(places: tuple[int, ...]) -> tuple[int, ...]:
    """Return Lagrange's coefficients: the factors whose products with the values add up to the value at 0."""
    # Places are small, so their products are taken whole, and one inversion does for all (Montgomery's
    # trick).
    above = math.prod(places) % PRIME
    below = [x * math.prod([other - x for other in places if other != x]) % PRIME for x in places]
    *before, all_of_them = itertools.accumulate(below, lambda a, b: a * b % PRIME, initial=1)
    found, inverse = [0] * len(places), pow(all_of_them, -1, PRIME)
    for i in range(len(places) - 1, -1, -1):
        found[i] = above * before[i] * inverse % PRIME
        inverse = inverse * below[i] % PRIME
    return tuple(found)


def _decode(places: Sequence[int], values: Sequence[int], threshold: int) -> Polynomial | None:
    """Return the polynomial of degree below the threshold that misses few of r values (Gao's decoder).

    It misses at most (r - threshold) / 2.
    """
    zeros: Polynomial = [1]  # at every place
    for x in places:
        zeros = _times(zeros, [-x % PRIME, 1])
    before, now = zeros, _through(places, values)
    factor_before, factor = list[int](), [1]
    while 2 * (len(now) - 1) >= len(places) + threshold:  # the degree; that of 0 counts as -1
        quotient, rest = _divided(before, now)
        before, now = now, rest
        factor_before, factor = factor, _minus(factor_before, _times(quotient, factor))
    quotient, rest = _divided(now, factor)
    return quotient if not rest and len(quotient) <= threshold else None


def _through(places: Sequence[int], values: Sequence[int]) -> Polynomial:
    """Return the polynomial of least degree through these points, by Newton's divided differences."""
    table = list(values)
    for step in range(1, len(places)):
        for i in range(len(places) - 1, step - 1, -1):
            table[i] = (table[i] - table[i - 1]) * pow(places[i] - places[i - step], -1, PRIME) % PRIME
    found: Polynomial = []
    for x, difference in zip(reversed(places), reversed(table), strict=True):
        found = _trimmed([*_plus_constant(_times(found, [-x % PRIME, 1]), difference)])
    return found


def _plus_constant(one: Polynomial, constant: int) -> Polynomial:
    return [(one[0] + constant) % PRIME, *one[1:]] if one else [constant]


def _times(one: Polynomial, other: Polynomial) -> Polynomial:
    if not one or not other:
        return []
    found = [0] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            found[i + j] = (found[i + j] + a * b) % PRIME
    return found


def _minus(one: Polynomial, other: Polynomial) -> Polynomial:
    longest = max(len(one), len(other))
    pairs = zip(one + [0] * (longest - len(one)), other + [0] * (longest - len(other)), strict=True)
    return _trimmed([(a - b) % PRIME for a, b in pairs])


def _divided(one: Polynomial, other: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and rest; the divisor is not 0."""
    rest, lead = list(one), pow(other[-1], -1, PRIME)
    quotient = [0] * max(0, len(one) - len(other) + 1)
    for i in range(len(quotient) - 1, -1, -1):
        quotient[i] = rest[i + len(other) - 1] * lead % PRIME
        for j, b in enumerate(other):
            rest[i + j] = (rest[i + j] - quotient[i] * b) % PRIME
    return _trimmed(quotient), _trimmed(rest)


def _trimmed(one: Polynomial) -> Polynomial:
    while one and not one[-1]:
        one.pop()
    return one


def _value(one: Polynomial, x: int) -> int:
    found = 0
    for coefficient in reversed(one):
        found = (found * x + coefficient) % PRIME
    return found
