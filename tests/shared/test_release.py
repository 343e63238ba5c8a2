"""Signed releases as bytes: test vectors, one way of writing each value, keys as texts, hostile bytes."""

import hashlib
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.errors import ReleaseError, ReleaseReason
from palate.shared.release import (
    MOST_BYTES,
    MOST_ENTRIES,
    MOST_LOG_BYTES,
    SHIPPED_HASH,
    Card,
    Entry,
    PrivacySpent,
    ReleaseLog,
    Rotation,
    SignedRelease,
    decode_log,
    decode_release,
    encode_log,
    encode_release,
    read_key,
    write_key,
)
from palate.shared.release_check import backbone_hash
from palate.shared.wire import CHECKSUM_BYTES, add_checksum

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "release_vectors.json").read_text("utf-8"))
OLD, NEW = (Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["private"])) for key in VECTORS["keys"])


@cache
def vector_log() -> ReleaseLog:
    """The log of the vectors, signed here: a release, a change of the key, a release."""
    log = ReleaseLog(OLD.public_key().public_bytes_raw(), VECTORS["shipped"])
    key = OLD
    for entry in VECTORS["entries"]:
        if entry["card"] is None:
            log, key = log.with_rotation(NEW, entry["when"], key), NEW
        else:
            privacy = entry["card"]["privacy"] and PrivacySpent(**entry["card"]["privacy"])
            log = log.with_release(Card(**{**entry["card"], "privacy": privacy}), entry["when"], key)
    return log


@cache
def vector_message() -> bytes:
    return encode_release(SignedRelease(vector_log(), bytes.fromhex(VECTORS["encoder"])))


def refusal(decode: Any, data: Any) -> ReleaseError:
    """The error for these bytes, after a check that it is one short line."""
    with pytest.raises(ReleaseError) as caught:
        decode(data)
    assert caught.value.reason in get_args(ReleaseReason)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return caught.value


# --- vectors ------------------------------------------------------------------------------------------------------


def test_the_vectors_are_the_bytes_of_form_1() -> None:
    log = vector_log()
    for entry, wanted in zip(log.entries, VECTORS["entries"], strict=True):
        assert entry.content_bytes.hex() == wanted["bytes"]
        assert entry.signature.hex() == wanted["signature"]
        assert entry.countersignature.hex() == wanted["countersignature"]
        assert (entry.previous, entry.hash) == (wanted["previous"], wanted["hash"])
    assert encode_log(log).hex() == VECTORS["log"]
    assert decode_log(bytes.fromhex(VECTORS["log"])) == log
    assert len(vector_message()) == VECTORS["message_bytes"]
    assert hashlib.sha256(vector_message()).hexdigest() == VECTORS["message_sha256"]
    assert decode_release(vector_message()) == SignedRelease(log, bytes.fromhex(VECTORS["encoder"]))


def test_the_last_entry_packed_by_hand_is_the_same_and_its_signature_fits() -> None:
    entry, card = VECTORS["entries"][2], VECTORS["entries"][2]["card"]
    packed = (
        bytes([1])
        + struct.pack("<I", 3)
        + bytes.fromhex(entry["previous"])
        + struct.pack("<Q", entry["when"])
    )
    packed += struct.pack("<IIQ", card["release"], card["round"], card["updates"])
    packed += bytes.fromhex(
        "".join(card[n] for n in ("hash", "parent", "shapes", "fixed", "backbone", "sha256"))
    )
    packed += struct.pack("<dd", 1.75, 1e-6) + b"banded-matrix".ljust(32, b"\0")
    assert packed.hex() == entry["bytes"]
    signature = bytes.fromhex(entry["signature"])
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(VECTORS["keys"][1]["public"])).verify(
        signature, b"palate release entry 1\0" + packed
    )
    assert hashlib.sha256(packed + signature).hexdigest() == vector_log().head


def test_the_first_entry_is_bound_to_the_key_and_to_release_0() -> None:
    first = b"palate release log 1\0" + bytes.fromhex(VECTORS["keys"][0]["public"] + VECTORS["shipped"])
    assert VECTORS["entries"][0]["previous"] == hashlib.sha256(first).hexdigest()


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_the_hostile_vectors_are_refused_for_their_reason(case: dict[str, Any]) -> None:
    of_log = case["of"] == "log"
    data = (encode_log(vector_log()) if of_log else vector_message())[: case["cut"]]
    for offset, new in case["patches"]:
        data = data[:offset] + bytes.fromhex(new) + data[offset + len(new) // 2 :]
    if case["checksum"]:
        data = add_checksum(data[:-CHECKSUM_BYTES])
    assert refusal(decode_log if of_log else decode_release, data).reason == case["reason"]


def test_the_hash_of_release_0_is_the_one_that_is_written_in_the_code() -> None:
    # A new release 0 (simulations/recipes/encoder.py) needs a new SHIPPED_HASH, and begins new release logs.
    assert encoder_hash(load_encoder()) == SHIPPED_HASH


def test_the_backbones_hash_is_as_in_the_vectors() -> None:
    wanted = VECTORS["backbone"]
    assert backbone_hash(wanted["files"], wanted["statistics"]) == wanted["hash"]
    assert backbone_hash(wanted["files"], wanted["statistics"] + ",z") != wanted["hash"]
    assert backbone_hash({**wanted["files"], "a": "0" * 64}, wanted["statistics"]) != wanted["hash"]


# --- values -------------------------------------------------------------------------------------------------------


CARD = vector_log().releases[0][1]


@pytest.mark.parametrize(
    "changed",
    [
        {"release": 0}, {"release": 2**32}, {"release": True}, {"release": 1.0}, {"round": -1}, {"updates": 2**64},
        {"hash": "0" * 63}, {"hash": "A" * 64}, {"parent": b"0" * 64}, {"shapes": ""}, {"fixed": None}, {"backbone": 3},
        {"sha256": "g" * 64}, {"hash": "0" * 64 + "\n"},
    ],
)  # fmt: skip
def test_a_card_out_of_range_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError) as caught:
        Card(**{**CARD.__dict__, **changed})
    assert caught.value.reason == "number"


@pytest.mark.parametrize(
    "values",
    [
        (-1.0, 0.0, "none"), (float("nan"), 0.0, "none"), (float("inf"), 0.0, "none"), (-0.0, 0.0, "none"),
        (1.0, 1.0, "none"), (1.0, -1e-9, "none"), (True, 0.0, "none"), ("1", 0.0, "none"),
        (1.0, 0.0, ""), (1.0, 0.0, "Tree"), (1.0, 0.0, "a b"), (1.0, 0.0, "a" * 33), (1.0, 0.0, "é"), (1.0, 0.0, "a\n"),
    ],
)  # fmt: skip
def test_privacy_out_of_range_is_refused(values: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ReleaseError):
        PrivacySpent(*values)


def test_privacy_comes_back_as_it_went() -> None:
    for privacy in (
        None,
        PrivacySpent(0, 0, "none"),
        PrivacySpent(3.25, 1e-9, "a" * 32),
        PrivacySpent(1e300, 0.5, "0-"),
    ):
        card = Card(**{**CARD.__dict__, "privacy": privacy})
        log = ReleaseLog(bytes(32)).with_release(card, 0, OLD)
        assert decode_log(encode_log(log)).releases[0][1].privacy == privacy


def test_entries_have_a_number_a_time_and_whole_signatures() -> None:
    for broken in ((0, 5), (MOST_ENTRIES + 1, 5), (1, -1), (1, 253_402_300_800)):
        with pytest.raises(ReleaseError):
            Entry(broken[0], "0" * 64, broken[1], CARD)
    with pytest.raises(ReleaseError):
        Entry(1, "0" * 64, 0, CARD, b"short")
    with pytest.raises(ReleaseError):
        Entry(1, "0" * 64, 0, Rotation(bytes(32)))  # the new key's signature is missing
    with pytest.raises(ReleaseError):
        Rotation(bytes(31))
    assert Entry(1, "0" * 64, 253_402_300_799, CARD).time == "9999-12-31T23:59:59+00:00"


def test_a_full_log_takes_no_more_and_is_as_long_as_it_says() -> None:
    entry = Entry(1, "0" * 64, 0, Rotation(bytes(32)), countersignature=bytes(64))
    full = ReleaseLog(bytes(32), SHIPPED_HASH, (entry,) * MOST_ENTRIES)
    assert len(encode_log(full)) <= MOST_LOG_BYTES
    with pytest.raises(ReleaseError) as caught:
        full.with_release(CARD, 0, OLD)
    assert caught.value.reason == "number"


def test_bytes_of_another_kind_are_refused_at_once() -> None:
    for data in (None, "PALATE", bytearray(100), memoryview(bytes(100)), b"", b"PALATE"):
        assert refusal(decode_log, data).reason == "size"
        assert refusal(decode_release, data).reason == "size"
    assert refusal(decode_log, bytes(MOST_LOG_BYTES + 1)).reason == "size"
    assert refusal(decode_release, bytes(MOST_BYTES + 1)).reason == "size"
    with pytest.raises(ReleaseError):
        encode_release(SignedRelease(vector_log(), bytes(4_000_001)))


# --- keys as texts ------------------------------------------------------------------------------------------------


def test_keys_are_texts_that_survive_copying() -> None:
    for key in VECTORS["keys"]:
        public = bytes.fromhex(key["public"])
        assert write_key(public) == key["text"]
        assert len(key["text"]) == 65
        assert read_key(key["text"]) == read_key(f"  {key['text'].upper()}\n") == public


def test_a_text_with_any_one_wrong_character_is_no_key() -> None:
    text = VECTORS["keys"][0]["text"]
    for place in range(len(text)):
        for other in "a7q":
            if text[place] != other:
                assert refusal(read_key, text[:place] + other + text[place + 1 :]).reason == "key"


@pytest.mark.parametrize(
    "text", ["", "palate1", "palate2" + "a" * 58, "palate1" + "a" * 59, "palate1" + "1" * 58, "é" * 65]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert refusal(read_key, text).reason == "key"


# --- ten thousand mutations -----------------------------------------------------------------------------------------


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with something done to them: changed, cut, doubled, moved or stuffed."""
    some = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind, at = int(rng.integers(6)), int(rng.integers(len(some) + 1))
        until = min(len(some), at + int(rng.integers(1, 400)))
        if kind == 0 and at < len(some):
            some[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            some[at:until] = rng.bytes(until - at)
        elif kind == 2:
            del some[at:until]
        elif kind == 3:
            some[at:at] = some[at:until]
        elif kind == 4:
            del some[at:]
        else:
            some[at:until] = bytes(until - at)
    return bytes(some)


@pytest.mark.parametrize("of", ["log", "message"])
def test_ten_thousand_mutations_are_refused_or_read_as_what_they_are(of: str) -> None:
    rng, reasons = np.random.default_rng(11), set()
    data, kept = (encode_log(vector_log()) if of == "log" else vector_message()), 0
    for number in range(10_000):
        other = mutated(data, rng)
        if of == "message" and number % 4:
            other = add_checksum(mutated(data[:-CHECKSUM_BYTES], rng))
        try:
            found: Any = decode_log(other) if of == "log" else decode_release(other)
        except ReleaseError as error:
            reasons.add(error.reason)
            continue
        kept += 1
        assert (encode_log(found) if of == "log" else encode_release(found)) == other
    assert 0 < kept < 9_000  # some only change a hash or a signature, which is for release_check to see
    assert {"size", "number"} <= reasons <= set(get_args(ReleaseReason))
