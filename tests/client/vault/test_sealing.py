"""The primitives of sealing: test vectors, and only the right key, bytes and place open a seal."""

import random

import pytest

from palate.client.vault import sealing
from palate.client.vault.sealing import (
    SealBrokenError,
    bind,
    derive_key,
    derive_subkey,
    new_key,
    pad,
    seal,
    unpad,
    unseal,
)
from palate.shared.errors import OptionError

KEY = bytes(range(32))


def test_a_passphrase_gives_the_key_that_another_implementation_of_argon2id_gives() -> None:
    # Computed with argon2-cffi: hash_secret_raw(words, salt, 3, 65536, 4, 32, Type.ID).
    key = derive_key("correct horse battery staple", bytes(range(16)))
    assert key.hex() == "853b272a44db1421c02962669a55eb0994f3cab385ed1c4c79253eee19bab49e"


def test_the_same_words_typed_on_another_keyboard_give_the_same_key() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert composed != decomposed
    assert derive_key(composed, bytes(16)) == derive_key(decomposed, bytes(16))


@pytest.mark.parametrize("passphrase", ["", "\ud800"])
def test_an_unusable_passphrase_is_refused(passphrase: str) -> None:
    with pytest.raises(OptionError, match="passphrase"):
        derive_key(passphrase, bytes(16))


def test_a_subkey_has_its_known_value_and_each_purpose_its_own() -> None:
    key = derive_subkey(KEY, "vault head", b"context")
    assert key.hex() == "b5b7a36c283e77518d35421a24cfb227a0d77d4cb0e0648e463fb2c5723ae6b9"
    assert derive_subkey(KEY, "vault wrap", b"context") != key
    assert derive_subkey(KEY, "vault head", b"other") != key


def test_a_seal_has_its_known_bytes() -> None:
    sealed = sealing._seal_with_nonce(KEY, b"too gloomy", bind("palate", "x", 7), bytes(range(12)))
    assert sealed.hex() == ("000102030405060708090a0b336db93ba289ad74e038a746d74776736c14d0f4df84a357af70")
    assert unseal(KEY, sealed, bind("palate", "x", 7)) == b"too gloomy"


def test_what_is_bound_is_bound_without_ambiguity() -> None:
    assert bind("a", b"\x01", 7).hex() == "730000000161620000000101690000000000000007"
    different = [
        bind("ab", "c"),
        bind("a", "bc"),
        bind("abc"),
        bind(b"ab", "c"),
        bind("ab", "c", 0),
        bind("abc", ""),
    ]
    assert len(set(different)) == len(different)


def test_no_seal_opens_under_another_key_place_or_bytes() -> None:
    sealed = seal(KEY, b"too gloomy", b"here")
    for key, data, bound in [
        (new_key(), sealed, b"here"),
        (KEY, sealed, b"there"),
        (KEY, sealed[:-1], b"here"),
        (KEY, sealed + b"\0", b"here"),
        (KEY, b"", b"here"),
        (KEY, sealed[:27], b"here"),
        *[(KEY, _flip(sealed, index), b"here") for index in range(len(sealed))],
    ]:
        with pytest.raises(SealBrokenError):
            unseal(key, data, bound)


def test_two_seals_of_the_same_words_differ() -> None:
    assert seal(KEY, b"too gloomy", b"") != seal(KEY, b"too gloomy", b"")


@pytest.mark.parametrize("length", [0, 1, 247, 248, 249, 5000])
def test_padding_is_undone_exactly_and_hides_small_differences(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert unpad(pad(data)) == data
    assert len(pad(data)) % 256 == 0


@pytest.mark.parametrize("data", [b"", b"1234567", (9).to_bytes(8, "big") + b"12345678"])
def test_wrong_padding_is_refused(data: bytes) -> None:
    with pytest.raises(SealBrokenError):
        unpad(data)


def _flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
