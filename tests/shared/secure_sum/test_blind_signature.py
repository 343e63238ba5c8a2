"""Blind signatures: the RFC's vectors, that nothing links, whatever the key, and that nothing is forged."""

import itertools
import json
import math
import secrets
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA384

from palate.shared.errors import MaskError
from palate.shared.secure_sum.blind_signature import (
    EXPONENT,
    MODULUS_BYTES,
    SigningKey,
    blind,
    encode,
    make_signing_key,
    public_key,
    sign_blinded,
    unblind,
    verify,
)

DATA = Path(__file__).parents[2] / "data" / "rfc9474_vectors.json"
VECTORS = json.loads(DATA.read_text(encoding="utf-8"))["vectors"]


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return make_signing_key()


def message() -> bytes:
    return b"a message nobody can guess: " + secrets.token_bytes(32)


@pytest.mark.parametrize("vector", VECTORS, ids=[one["name"] for one in VECTORS])
def test_each_step_gives_the_bytes_of_the_rfc(vector: dict[str, str]) -> None:
    """RFC 9474, appendix A: the two variants without salt, of which the prepared message is what
    is signed."""
    number = {name: int(vector[name], 16) for name in vector if name not in ("name", "prepared_msg", "sig")}
    prepared, modulus = bytes.fromhex(vector["prepared_msg"]), number["n"]
    assert number["e"] == EXPONENT
    assert encode(prepared, modulus) == number["encoded_msg"]
    drawn = pow(number["inv"], -1, modulus)
    blinded, secret = blind(prepared, modulus, lambda _: drawn)
    assert (blinded, secret) == (number["blinded_msg"], number["inv"])
    signing = SigningKey(number["p"], number["q"])
    assert signing.modulus == modulus
    answer = sign_blinded(blinded, signing)
    assert answer == number["blind_sig"]
    assert unblind(prepared, answer, secret, modulus).hex() == vector["sig"]


def test_a_signature_is_an_ordinary_one_that_cryptography_makes_too(key: SigningKey) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    text = message()
    blinded, secret = blind(text, key.modulus)
    found = unblind(text, sign_blinded(blinded, key), secret, key.modulus)
    d = pow(EXPONENT, -1, math.lcm(key.p - 1, key.q - 1))
    of = (rsa.rsa_crt_dmp1(d, key.p), rsa.rsa_crt_dmq1(d, key.q), rsa.rsa_crt_iqmp(key.p, key.q))
    private = rsa.RSAPrivateNumbers(
        key.p, key.q, d, *of, rsa.RSAPublicNumbers(EXPONENT, key.modulus)
    ).private_key()
    assert found == private.sign(text, PSS(MGF1(SHA384()), 0), SHA384())
    assert len(found) == MODULUS_BYTES


# --- blindness ----------------------------------------------------------------------------------------------


def fits(blinded: int, answer: int, text: bytes, signature: bytes, modulus: int) -> bool:
    """Whether a request and its answer can be those of this message and signature: some random number
    explains it."""
    number = answer * pow(int.from_bytes(signature, "big"), -1, modulus) % modulus
    explained = encode(text, modulus) * pow(number, EXPONENT, modulus) % modulus == blinded
    return explained and math.gcd(number, modulus) == 1


def test_every_signature_fits_every_request_so_the_signer_cannot_tell_which_was_whose(
    key: SigningKey,
) -> None:
    seen = []
    for _ in range(6):
        text = message()
        blinded, secret = blind(text, key.modulus)
        answer = sign_blinded(blinded, key)
        seen.append((blinded, answer, text, unblind(text, answer, secret, key.modulus)))
    for (blinded, answer, _, _), (_, _, text, signature) in itertools.product(seen, repeat=2):
        assert fits(blinded, answer, text, signature, key.modulus)
    # The control: where the random number is the same each time, a signature fits its own request alone.
    blinded, secret = blind(seen[0][2], key.modulus, lambda _: 7)
    guesses = [
        encode(text, key.modulus) * pow(7, EXPONENT, key.modulus) % key.modulus for _, _, text, _ in seen
    ]
    assert [one == blinded for one in guesses] == [True] + [False] * 5


def test_blinded_values_of_one_message_are_spread_evenly() -> None:
    """On a small ring, where all can be counted: each unit comes up as often, whatever the message, so a
    value says nothing."""
    modulus = 11 * 23
    units = [n for n in range(modulus) if math.gcd(n, modulus) == 1]
    for encoded in units[:7]:
        counted = Counter(encoded * pow(number, EXPONENT, modulus) % modulus for number in units)
        assert set(counted.values()) == {1}
        assert set(counted) == set(units)


def test_a_modulus_that_would_mark_some_messages_gets_none_of_them() -> None:
    """Modulo a small factor a marked message is 0, and so is its blinded value, whatever it is
    multiplied by."""
    modulus = (1 << 2_047) + 1
    modulus -= modulus % 3
    modulus += 0 if modulus % 2 else 3
    assert modulus % 3 == 0
    texts = [message() for _ in range(60)]
    marked = [text for text in texts if encode(text, modulus) % 3 == 0]
    assert marked  # so the attack would work
    for text in texts:
        if math.gcd(encode(text, modulus), modulus) != 1:
            with pytest.raises(MaskError) as caught:
                blind(text, modulus)
            assert caught.value.reason == "key"
        else:
            assert blind(text, modulus)[0] % 3 != 0
    assert all(math.gcd(encode(text, modulus), modulus) != 1 for text in marked)


def test_an_exponent_that_divides_the_order_tells_the_signer_nothing_of_what_it_signed() -> None:
    """With p - 1 a multiple of the exponent only powers have roots, so all that can be signed look alike to
    such a signer."""
    p = next(p for k in itertools.count(2, 2) if _is_prime(p := k * EXPONENT + 1))
    q = 1_000_003
    modulus = p * q
    class_of = lambda n: pow(n, (p - 1) // EXPONENT, p)  # noqa: E731 - which coset of the powers; 1 for a power
    for encoded in range(2, 40):
        classes = {
            class_of(encoded * pow(number, EXPONENT, modulus) % modulus) for number in (2, 3, 5, 7, 11, 13)
        }
        assert classes == {class_of(encoded)}  # a blinded value does tell its message's class ...
    # ... but only values of the class 1 have a root at all, so everything that is ever signed is of that one
    # class.
    powers = {pow(number, EXPONENT, p) for number in range(1, 400)}
    assert {class_of(one) for one in powers} == {1}


def _is_prime(n: int) -> bool:
    return all(pow(base, n - 1, n) == 1 for base in (2, 3, 5, 7, 11, 13, 17, 19, 23))


# --- forgery and bad input ----------------------------------------------------------------------------------


def test_a_signature_holds_for_one_message_and_one_key(key: SigningKey) -> None:
    other = make_signing_key()
    text = message()
    blinded, secret = blind(text, key.modulus)
    signature = unblind(text, sign_blinded(blinded, key), secret, key.modulus)
    verify(signature, text, public_key(key.modulus))
    beyond = (int.from_bytes(signature, "big") + key.modulus).to_bytes(MODULUS_BYTES + 1, "big")
    flipped = bytes([signature[0], signature[1] ^ 1]) + signature[2:]
    for wrong, of, modulus in [
        (signature, text + b"x", key.modulus),
        (signature, text, other.modulus),
        (flipped, text, key.modulus),
        (beyond, text, key.modulus),
        (beyond[-MODULUS_BYTES:], text, key.modulus),
        (bytes(MODULUS_BYTES), text, key.modulus),
        (b"", text, key.modulus),
    ]:
        with pytest.raises(MaskError) as caught:
            verify(wrong, of, public_key(modulus))
        assert caught.value.reason == "certificate"


def test_an_answer_to_another_request_or_of_another_key_is_none(key: SigningKey) -> None:
    text, other = message(), make_signing_key()
    blinded, secret = blind(text, key.modulus)
    elsewhere, _ = blind(message(), key.modulus)
    for answer in (
        sign_blinded(elsewhere, key),
        sign_blinded(blinded % other.modulus, other),
        0,
        key.modulus,
    ):
        with pytest.raises(MaskError) as caught:
            unblind(text, answer, secret, key.modulus)
        assert caught.value.reason == "certificate"


def test_values_out_of_range_are_not_signed(key: SigningKey) -> None:
    for value in (0, -1, key.modulus, key.modulus + 1):
        with pytest.raises(MaskError) as caught:
            sign_blinded(value, key)
        assert caught.value.reason == "number"


def test_a_root_that_went_wrong_is_not_given_out(key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SigningKey.root

    def faulty(self: SigningKey, value: int) -> int:
        return (real(self, value) + self.p) % self.modulus  # right modulo p, wrong modulo q

    wrong = faulty(key, 5)
    assert (
        math.gcd(pow(wrong, EXPONENT, key.modulus) - 5, key.modulus) == key.p
    )  # what such a root gives away
    monkeypatch.setattr(SigningKey, "root", faulty)
    with pytest.raises(MaskError) as caught:
        sign_blinded(5, key)
    assert caught.value.reason == "signature"


@pytest.mark.parametrize("modulus", [0, 1, 2**2_047, 2**2_046 - 1, 2**1_023 + 1])
def test_what_is_no_key_is_refused(modulus: int) -> None:
    with pytest.raises(MaskError) as caught:
        public_key(modulus)
    assert caught.value.reason == "key"


def test_secrets_are_not_shown(key: SigningKey) -> None:
    assert str(key.p) not in repr(key)
