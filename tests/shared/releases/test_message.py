"""Signed releases as bytes: test vectors, one way of writing each value, keys as texts, hostile bytes."""

import hashlib
import json
import math
import struct
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from palate.shared.encoder import encoder_hash, load_encoder
from palate.shared.errors import ReleaseError, ReleaseReason
from palate.shared.releases.check import backbone_hash
from palate.shared.releases.message import (
    MOST_BYTES,
    MOST_ENTRIES,
    MOST_LOG_BYTES,
    SHIPPED_HASH,
    UNSIGNED,
    Acceptance,
    Card,
    Entry,
    Keys,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    Statement,
    card_to_json,
    decode_log,
    decode_release,
    encode_log,
    encode_release,
    read_key,
    write_key,
)
from palate.shared.wire import CHECKSUM_BYTES, add_checksum

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "release_vectors.json").read_text("utf-8"))
KEY, RECOVERY, KEY_2, RECOVERY_2 = (
    Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["private"])) for key in VECTORS["keys"].values()
)


def card_of(entry: dict[str, Any]) -> Card:
    """The card of a vector; null is an infinite figure."""
    content = dict(entry["card"])
    for name, kind in (("privacy", PrivacySpent), ("acceptance", Acceptance)):
        if content[name] is not None:
            figures = {key: math.inf if value is None else value for key, value in content[name].items()}
            content[name] = kind(**figures)
    return Card(**content)


@cache
def vector_log() -> ReleaseLog:
    """The log of the vectors, signed here: keys, a release, another release key, a release, another recovery
    key."""
    _, first, changed, second, last = VECTORS["entries"]
    log = ReleaseLog.begin(KEY, RECOVERY, VECTORS["entries"][0]["when"], shipped=VECTORS["shipped"])
    log = log.with_release(card_of(first), first["when"], KEY)
    log = log.with_keys(KEY_2, RECOVERY, changed["when"], by=RECOVERY)
    log = log.with_release(card_of(second), second["when"], KEY_2)
    return log.with_keys(KEY_2, RECOVERY_2, last["when"], by=RECOVERY)


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


# --- vectors ------------------------------------------------------------------------------------------------


def test_the_vectors_are_the_bytes_of_form_2() -> None:
    log = vector_log()
    for entry, wanted in zip(log.entries, VECTORS["entries"], strict=True):
        assert entry.content_bytes.hex() == wanted["bytes"]
        assert [one.hex() for one in entry.signatures] == wanted["signatures"]
        assert (entry.previous, entry.hash) == (wanted["previous"], wanted["hash"])
        if isinstance(entry.content, Card):
            assert card_to_json(entry.content) == wanted["card"]
    said = VECTORS["statement"]
    assert log.statement == Statement(said["when"], said["until"], bytes.fromhex(said["signature"]))
    assert encode_log(log).hex() == VECTORS["log"]
    assert decode_log(bytes.fromhex(VECTORS["log"])) == log
    assert len(vector_message()) == VECTORS["message_bytes"]
    assert hashlib.sha256(vector_message()).hexdigest() == VECTORS["message_sha256"]
    assert decode_release(vector_message()) == SignedRelease(log, bytes.fromhex(VECTORS["encoder"]))


def public_of(name: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(VECTORS["keys"][name]["public"]))


def start_of(entry: dict[str, Any], kind: int, number: int) -> bytes:
    """What every entry begins with, packed by hand."""
    return (
        bytes([kind])
        + struct.pack("<I", number)
        + bytes.fromhex(entry["previous"])
        + struct.pack("<Q", entry["when"])
    )


def test_a_release_packed_by_hand_is_the_same_and_its_signature_fits() -> None:
    entry, card = VECTORS["entries"][3], VECTORS["entries"][3]["card"]
    packed = start_of(entry, 1, 4) + struct.pack("<IIQ", card["release"], card["round"], card["updates"])
    packed += bytes.fromhex(
        "".join(card[n] for n in ("hash", "parent", "shapes", "fixed", "backbone", "sha256"))
    )
    packed += struct.pack("<dddd", 1.75, 1e-6, 4.5, math.inf) + b"banded-matrix".ljust(32, b"\0")
    packed += struct.pack("<Iddd", 500, -0.25, 0.9375, 0.125)
    assert packed.hex() == entry["bytes"]
    signature = bytes.fromhex(entry["signatures"][0])
    public_of("next release").verify(signature, b"palate release entry 2\0" + packed)
    assert hashlib.sha256(packed + signature).hexdigest() == VECTORS["entries"][4]["previous"]


def test_keys_packed_by_hand_are_the_same_and_their_signatures_fit() -> None:
    entry = VECTORS["entries"][2]
    keys = VECTORS["keys"]["next release"]["public"] + VECTORS["keys"]["recovery"]["public"]
    packed = start_of(entry, 2, 3) + bytes.fromhex(keys)
    assert packed.hex() == entry["bytes"]
    signatures = [bytes.fromhex(one) for one in entry["signatures"]]
    for name, signature in zip(("recovery", "next release", "recovery"), signatures, strict=True):
        public_of(name).verify(signature, b"palate release entry 2\0" + packed)
    assert hashlib.sha256(packed + b"".join(signatures)).hexdigest() == VECTORS["entries"][3]["previous"]


def test_the_statement_is_over_the_head_and_its_times() -> None:
    said = VECTORS["statement"]
    signed = b"palate release statement 2\0" + bytes.fromhex(vector_log().head)
    signed += struct.pack("<QQ", said["when"], said["until"])
    public_of("next release").verify(bytes.fromhex(said["signature"]), signed)
    assert said["until"] - said["when"] == 90 * 86_400


def test_the_first_entry_is_bound_to_release_0() -> None:
    first = b"palate release log 2\0" + bytes.fromhex(VECTORS["shipped"])
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


# --- values -------------------------------------------------------------------------------------------------


CARD = vector_log().releases[0][1]


@pytest.mark.parametrize(
    "changed",
    [
        {"release": 0}, {"release": 2**32}, {"release": True}, {"release": 1.0}, {"round": -1},
        {"updates": 2**64},
        {"hash": "0" * 63}, {"hash": "A" * 64}, {"parent": b"0" * 64}, {"shapes": ""}, {"fixed": None},
        {"backbone": 3},
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
        (1.0, 0.0, ""), (math.inf, 0.0, "none"), (1.0, 0.0, "Tree"), (1.0, 0.0, "a b"), (1.0, 0.0, "a" * 33),
        (1.0, 0.0, "é"), (1.0, 0.0, "a\n"),
    ],
)  # fmt: skip
def test_privacy_out_of_range_is_refused(values: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ReleaseError):
        PrivacySpent(*values, 1.0, 1.0)
    PrivacySpent(1.0, 0.0, "none", 1.0, 1.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, -0.0, True, "1"])
@pytest.mark.parametrize("name", ["unsampled_epsilon", "alone_epsilon"])
def test_the_other_figures_are_from_zero_to_infinity(name: str, value: Any) -> None:
    figures = {
        "epsilon": 1.0,
        "delta": 0.0,
        "mechanism": "none",
        "unsampled_epsilon": 1.0,
        "alone_epsilon": 1.0,
    }
    assert "no bound" in PrivacySpent(**{**figures, name: math.inf}).describe()
    with pytest.raises(ReleaseError):
        PrivacySpent(**{**figures, name: value})


@pytest.mark.parametrize(
    "values",
    [
        (0, 0.9, 0.9, 0.1), (2**32, 0.9, 0.9, 0.1), (1.5, 0.9, 0.9, 0.1), (5, 1.1, 0.9, 0.1),
        (5, 0.9, -1.1, 0.1),
        (5, math.nan, 0.9, 0.1), (5, 0.9, 0.9, -0.1), (5, 0.9, 0.9, math.nan), (5, -0.0, 0.9, 0.1),
        (5, True, 0.9, 0.1),
    ],
)  # fmt: skip
def test_an_acceptance_out_of_range_is_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(ReleaseError) as caught:
        Acceptance(*values)
    assert caught.value.reason == "number"


def test_an_acceptance_comes_back_as_it_went() -> None:
    for acceptance in (None, Acceptance(1, -1, 1, 0), Acceptance(2**32 - 1, 0.5, 0.75, math.inf)):
        card = Card(**{**CARD.__dict__, "acceptance": acceptance})
        log = ReleaseLog().with_release(card, 0, KEY)
        assert decode_log(encode_log(log)).releases[0][1].acceptance == acceptance


def test_privacy_comes_back_as_it_went() -> None:
    for privacy in (
        None,
        PrivacySpent(0, 0, "none", 0, 0),
        PrivacySpent(3.25, 1e-9, "a" * 32, 4.5, math.inf),
        PrivacySpent(1e300, 0.5, "0-", math.inf, 1e300),
    ):
        card = Card(**{**CARD.__dict__, "privacy": privacy})
        log = ReleaseLog().with_release(card, 0, KEY)
        assert decode_log(encode_log(log)).releases[0][1].privacy == privacy


def test_entries_have_a_number_a_time_and_whole_signatures() -> None:
    for broken in ((0, 5), (MOST_ENTRIES + 1, 5), (1, -1), (1, 253_402_300_800)):
        with pytest.raises(ReleaseError):
            Entry(broken[0], "0" * 64, broken[1], CARD, (UNSIGNED,))
    for signatures in ((), (b"short",), (UNSIGNED,) * 2):
        with pytest.raises(ReleaseError):
            Entry(1, "0" * 64, 0, CARD, signatures)
    keys = Keys(bytes(32), bytes([1]) * 32)
    for signatures in ((UNSIGNED,), (UNSIGNED,) * 4):
        with pytest.raises(ReleaseError):
            Entry(1, "0" * 64, 0, keys, signatures)
    with pytest.raises(ReleaseError):
        Keys(bytes(31), bytes(32))
    assert Entry(1, "0" * 64, 253_402_300_799, CARD, (UNSIGNED,)).time == "9999-12-31T23:59:59+00:00"


def test_a_statement_ends_after_it_begins_and_within_400_days() -> None:
    assert Statement(1, 1 + 400 * 86_400).until
    for when, until in ((2, 1), (1, 2 + 400 * 86_400), (-1, 1)):
        with pytest.raises(ReleaseError):
            Statement(when, until)
    for days in (0, 401, 1.5):
        with pytest.raises(ReleaseError):
            vector_log().with_statement(1, KEY_2, days=days)  # type: ignore[arg-type]


def test_a_full_log_takes_no_more_and_is_as_long_as_it_says() -> None:
    keys = Entry(1, "0" * 64, 0, Keys(bytes(32), bytes([1]) * 32), (UNSIGNED,) * 3)
    release = Entry(1, "0" * 64, 0, CARD, (UNSIGNED,))
    assert len(release.whole) > len(keys.whole)
    full = ReleaseLog(SHIPPED_HASH, (release,) * MOST_ENTRIES)
    assert len(encode_log(full)) == MOST_LOG_BYTES
    with pytest.raises(ReleaseError) as caught:
        full.with_release(CARD, 0, KEY)
    assert caught.value.reason == "number"


def test_bytes_of_another_kind_are_refused_at_once() -> None:
    for data in (None, "PALATE", bytearray(100), memoryview(bytes(100)), b"", b"PALATE"):
        assert refusal(decode_log, data).reason == "size"
        assert refusal(decode_release, data).reason == "size"
    assert refusal(decode_log, bytes(MOST_LOG_BYTES + 1)).reason == "size"
    assert refusal(decode_release, bytes(MOST_BYTES + 1)).reason == "size"
    with pytest.raises(ReleaseError):
        encode_release(SignedRelease(vector_log(), bytes(4_000_001)))


# --- keys as texts ------------------------------------------------------------------------------------------


def test_keys_are_texts_that_survive_copying() -> None:
    for key in VECTORS["keys"].values():
        public = bytes.fromhex(key["public"])
        assert write_key(public) == key["text"]
        assert len(key["text"]) == 65
        assert read_key(key["text"]) == read_key(f"  {key['text'].upper()}\n") == public


def test_a_text_with_any_one_wrong_character_is_no_key() -> None:
    text = VECTORS["keys"]["release"]["text"]
    for place in range(len(text)):
        for other in "a7q":
            if text[place] != other:
                assert refusal(read_key, text[:place] + other + text[place + 1 :]).reason == "key"


@pytest.mark.parametrize(
    "text", ["", "palate1", "palate2" + "a" * 58, "palate1" + "a" * 59, "palate1" + "1" * 58, "é" * 65]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert refusal(read_key, text).reason == "key"


# --- ten thousand mutations ---------------------------------------------------------------------------------


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
