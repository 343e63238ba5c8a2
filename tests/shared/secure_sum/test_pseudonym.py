"""Slot keys, requests and answers as files, and what a certificate holds for."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.errors import FileFormatError, MaskError
from palate.shared.secure_sum import masks, pseudonym
from palate.shared.secure_sum.pseudonym import (
    MOST_SLOTS,
    NO_CERTIFICATE,
    REQUEST,
    check_certificate,
    decode_answer,
    decode_request,
    decode_slot_keys,
    encode_answer,
    encode_request,
    encode_slot_keys,
)
from tests.shared.mask_cases import identity
from tests.shared.pseudonym_cases import certificate, signing_key, slot_key

DATA = Path(__file__).parents[2] / "data" / "pseudonym_vectors.json"
REGISTRAR, DEVICE = identity(90), identity(1)
NAME = DEVICE.public_key().public_bytes_raw()
MODULI = [2**2_047 + 2 * n + 1 for n in range(3)]  # no secret halves are known, and none are needed


def files() -> dict[str, bytes]:
    """One file of each kind, the same in every run."""
    keys = encode_slot_keys(7, MODULI, REGISTRAR)
    request = encode_request(DEVICE, decode_slot_keys(keys), 8, [5, 6])
    answer = encode_answer(hashlib.sha256(request).digest(), [11, 12])
    return {"slot keys": keys, "request": request, "answer": answer}


READERS: dict[str, Any] = {"slot keys": decode_slot_keys, "request": decode_request, "answer": decode_answer}


def refusal(kind: str, data: bytes) -> str:
    with pytest.raises(FileFormatError) as caught:
        READERS[kind](data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


def vectors() -> dict[str, Any]:
    """What `tests/data/pseudonym_vectors.json` holds.

    `python -m tests.shared.secure_sum.test_pseudonym` writes it.
    """
    content = pseudonym.certified_content(NAME, 7)
    return {name: data.hex() for name, data in files().items()} | {"certified content": content.hex()}


def test_the_files_are_those_of_the_vectors() -> None:
    assert vectors() == json.loads(DATA.read_text(encoding="utf-8"))


def test_what_is_read_is_what_was_written() -> None:
    all_ = files()
    keys, request = decode_slot_keys(all_["slot keys"]), decode_request(all_["request"])
    assert (keys.first, keys.last, list(keys.moduli)) == (7, 9, MODULI)
    assert keys.registrar == REGISTRAR.public_key().public_bytes_raw()
    assert keys.key(6) is keys.key(10) is None
    assert keys.key(8) == pseudonym.SlotKey(8, MODULI[1])
    assert (request.identity, request.first, request.blinded) == (NAME, 8, (5, 6))
    assert (request.registrar, request.slot_keys) == (keys.registrar, keys.hash)
    assert decode_answer(all_["answer"]) == (request.hash, (11, 12))


@pytest.mark.parametrize("kind", list(READERS))
def test_files_that_were_cut_or_changed_or_are_others_are_refused_in_one_line(kind: str) -> None:
    data = files()[kind]
    for size in (0, 5, 11, 50, len(data) - 1):
        refusal(kind, data[:size])
    refusal(kind, data + b"x")
    assert "version 2" in refusal(kind, data[:9] + b"\2" + data[10:])
    for other, wrong in files().items():
        if other != kind:
            assert "due is" in refusal(kind, wrong)
    if kind != "answer":  # whose values speak for themselves
        for place in range(10, len(data), 37):
            refusal(kind, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_slot_keys_of_another_registrar_are_refused() -> None:
    with pytest.raises(FileFormatError, match="another registrar"):
        decode_slot_keys(files()["slot keys"], identity(91).public_key().public_bytes_raw())


@pytest.mark.parametrize(
    ("first", "moduli"),
    [(1, [MODULI[0], MODULI[0]]), (1, [2**2_046 + 1]), (1, [2**2_047])],
    ids=["one twice", "too short", "even"],
)
def test_slot_keys_that_are_none_are_refused_though_signed(first: int, moduli: list[int]) -> None:
    refusal("slot keys", encode_slot_keys(first, moduli, REGISTRAR))


@pytest.mark.parametrize(("first", "count"), [(0, 1), (2**32 - 1, 2), (1, 0), (1, MOST_SLOTS + 1)])
def test_slots_out_of_range_are_neither_written_nor_read(first: int, count: int) -> None:
    with pytest.raises(FileFormatError, match="slots are numbered"):
        encode_slot_keys(first, [MODULI[0]] * count, REGISTRAR)
    start = pseudonym._start_of(REQUEST)
    keys = decode_slot_keys(files()["slot keys"])
    header = pseudonym._REQUEST.pack(keys.registrar, NAME, keys.hash, first, count)
    content = start + header + bytes(count * 256)
    assert "slots are numbered" in refusal("request", content + masks.sign(content, DEVICE))


def test_a_request_in_anothers_name_is_refused() -> None:
    keys = decode_slot_keys(files()["slot keys"])
    other = Ed25519PrivateKey.generate()
    header = pseudonym._REQUEST.pack(keys.registrar, NAME, keys.hash, 8, 1)
    content = pseudonym._start_of(REQUEST) + header + bytes(256)
    assert "has not signed" in refusal("request", content + masks.sign(content, other))


def test_a_certificate_holds_for_one_pseudonym_and_one_slot() -> None:
    good = certificate(NAME, 3)
    check_certificate(good, NAME, slot_key(3))
    other = identity(2).public_key().public_bytes_raw()
    same_key = pseudonym.SlotKey(4, signing_key(3).modulus)  # a registrar that used one key for two slots
    for wrong, of, key in (
        (good, other, slot_key(3)),
        (good, NAME, slot_key(4)),
        (good, NAME, same_key),
        (certificate(other, 3), NAME, slot_key(3)),
        (NO_CERTIFICATE, NAME, slot_key(3)),
    ):
        with pytest.raises(MaskError) as caught:
            check_certificate(wrong, of, key)
        assert caught.value.reason == "certificate"


if __name__ == "__main__":
    DATA.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
