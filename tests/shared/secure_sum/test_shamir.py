"""Shares of secrets: enough of them give it back, fewer say nothing, and wrong ones do not give another."""

import random
import secrets

import pytest

from palate.shared.errors import MaskError
from palate.shared.secure_sum.shamir import (
    PRIME,
    SHARE_BYTES,
    decode_share,
    encode_share,
    recover_secret,
    split_secret,
)

SECRET = bytes(range(224, 256))


def fits(secret: bytes) -> bool:
    return secret == SECRET


def is_prime(number: int) -> bool:
    """Miller and Rabin's test with the first 40 primes and 24 random bases."""
    small = [n for n in range(2, 174) if all(n % d for d in range(2, n))]
    if any(number % p == 0 for p in small):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in [*small, *(random.Random(1).randrange(2, number - 1) for _ in range(24))]:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def test_the_field_is_that_of_the_smallest_prime_above_2_to_the_256() -> None:
    assert is_prime(PRIME)
    assert not any(is_prime(2**256 + odd) for odd in range(1, 297, 2))
    assert (PRIME - 1).bit_length() == 257 <= 8 * SHARE_BYTES


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, SECRET])
@pytest.mark.parametrize(("holders", "threshold"), [(1, 1), (3, 2), (5, 5), (50, 34)])
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, holders: int, threshold: int) -> None:
    shares = split_secret(secret, range(1, holders + 1), threshold)
    for seed in range(5):
        chosen = random.Random(seed).sample(sorted(shares), threshold)
        got = recover_secret({x: shares[x] for x in chosen}, threshold, lambda found: found == secret)
        assert got == secret


def test_a_split_by_hand_is_the_same() -> None:
    """Coefficients 1 and 2 drawn: secret + 1 x + 2 x^2."""
    drawn = (1).to_bytes(48, "big") + (2).to_bytes(48, "big")
    shares = split_secret((5).to_bytes(32, "big"), [1, 2, 9], 3, lambda size: drawn[:size])
    assert shares == {1: 8, 2: 15, 9: 176}


def test_one_share_fewer_is_refused_and_fits_every_secret() -> None:
    shares = split_secret(SECRET, [1, 2, 3], 3)
    with pytest.raises(MaskError) as caught:
        recover_secret({x: shares[x] for x in (1, 2)}, 3, fits)
    assert caught.value.reason == "few"
    # Whatever the secret is, there is a third share that makes these two give it: they say nothing of it.
    for guess in (0, 1, 2**255):
        # Lagrange at 0 over 1, 2, 3: 3 a - 3 b + c
        third = (guess - 3 * shares[1] + 3 * shares[2]) % PRIME
        wanted = guess.to_bytes(32, "big")
        made = recover_secret({1: shares[1], 2: shares[2], 3: third}, 3, lambda found, w=wanted: found == w)
        assert made == wanted


@pytest.mark.parametrize(
    ("holders", "threshold", "wrong"), [(5, 3, 1), (7, 3, 2), (35, 25, 5), (35, 34, 1), (9, 7, 2)]
)
def test_wrong_shares_among_enough_right_ones_are_got_round(holders: int, threshold: int, wrong: int) -> None:
    for seed in range(4):
        rng = random.Random(seed)
        shares = split_secret(SECRET, range(1, holders + 1), threshold)
        for x in rng.sample(sorted(shares), wrong):
            shares[x] = rng.randrange(PRIME)
        assert recover_secret(shares, threshold, fits) == SECRET


def test_too_many_wrong_shares_are_an_error_never_another_secret() -> None:
    shares = split_secret(SECRET, range(1, 36), 34)
    for x in (1, 2, 3):
        shares[x] = secrets.randbelow(PRIME)
    with pytest.raises(MaskError) as caught:
        recover_secret(shares, 34, fits)
    assert caught.value.reason == "shares"


def test_liars_who_agree_on_another_polynomial_do_not_pass() -> None:
    theirs = split_secret(bytes(32), range(1, 8), 4)
    ours = split_secret(SECRET, range(1, 8), 4)
    mixed = {x: (theirs if x <= 4 else ours)[x] for x in range(1, 8)}
    with pytest.raises(MaskError) as caught:
        recover_secret(mixed, 4, fits)
    assert caught.value.reason == "shares"


def test_a_value_too_large_for_a_secret_is_none() -> None:
    shares = {1: PRIME - 1}
    with pytest.raises(MaskError):
        recover_secret(shares, 1, lambda found: True)


@pytest.mark.parametrize("data", [b"", bytes(32), bytes(34), b"\xff" * 33, PRIME.to_bytes(33, "big")])
def test_shares_that_are_no_numbers_of_the_field_are_refused(data: bytes) -> None:
    with pytest.raises(MaskError) as caught:
        decode_share(data)
    assert caught.value.reason == "shares"


@pytest.mark.parametrize("share", [0, 1, 2**256, PRIME - 1])
def test_shares_come_back_from_their_bytes(share: int) -> None:
    assert decode_share(encode_share(share)) == share


@pytest.mark.parametrize(
    ("secret", "holders", "threshold"),
    [(bytes(31), [1], 1), (bytes(33), [1], 1), (SECRET, [1, 2], 3), (SECRET, [0, 1], 1), (SECRET, [1], 0)],
)
def test_splits_that_cannot_be_are_refused(secret: bytes, holders: list[int], threshold: int) -> None:
    with pytest.raises(ValueError, match=r"secret|threshold"):
        split_secret(secret, holders, threshold)
