"""Whom a device believes about releases: forks, gaps, rollbacks, other keys, other encoders, and ten thousand mutations."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.encoder import EncoderWeights, encoder_hash, encoder_to_bytes, load_encoder, shapes_hash
from palate.shared.errors import ReleaseError
from palate.shared.release import (
    BACKBONE_HASH,
    UNSIGNED,
    Card,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    decode_log,
    decode_release,
    encode_log,
    encode_release,
)
from palate.shared.release_check import Pinned, Trust, check_log, check_release, read_encoder
from palate.shared.wire import CHECKSUM_BYTES, add_checksum, fixed_hash

KEY, OTHER, THIRD = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
PUBLIC, OTHER_PUBLIC, THIRD_PUBLIC = (key.public_key().public_bytes_raw() for key in (KEY, OTHER, THIRD))
PINNED = Pinned.by(load_encoder())
FRESH = Trust(PUBLIC)


@cache
def encoder(number: int, variant: int = 0) -> EncoderWeights:
    """Release 0 a little changed, differently for each number and variant."""
    share = np.float32(1 - number / 4096 - variant / 65536)
    return load_encoder().with_shared({n: t * share for n, t in load_encoder().shared().items()}, number)


def card_of(log: ReleaseLog, weights: EncoderWeights, **changed: Any) -> Card:
    """The honest card of the next release, but for what is changed."""
    card = Card(
        release=weights.release,
        round=10 * weights.release,
        updates=30 * weights.release,
        hash=encoder_hash(weights),
        parent=log.releases[-1][1].hash if log.releases else log.shipped,
        shapes=shapes_hash(),
        fixed=fixed_hash(weights),
        backbone=BACKBONE_HASH,
        sha256=hashlib.sha256(encoder_to_bytes(weights)).hexdigest(),
        privacy=PrivacySpent(0.5 * weights.release, 1e-6, "gaussian"),
    )
    return replace(card, **changed)


def grow(
    log: ReleaseLog, key: Ed25519PrivateKey = KEY, variant: int = 0, number: int | None = None, **changed: Any
) -> ReleaseLog:
    """The log with one more release."""
    weights = encoder(len(log.releases) + 1 if number is None else number, variant)
    return log.with_release(card_of(log, weights, **changed), 1_795_000_000, key)


@cache
def history(count: int) -> ReleaseLog:
    """A log of so many releases, all by `KEY`."""
    return grow(history(count - 1)) if count else ReleaseLog(PUBLIC)


def refused(log: ReleaseLog, trust: Trust = FRESH, pinned: Pinned = PINNED) -> ReleaseError:
    with pytest.raises(ReleaseError) as caught:
        check_log(log, trust, pinned)
    assert "\n" not in str(caught.value)
    return caught.value


def seen(log: ReleaseLog, trust: Trust = FRESH) -> Trust:
    return check_log(log, trust, PINNED)


# --- what passes --------------------------------------------------------------------------------------------------


def test_an_honest_release_passes_and_is_remembered() -> None:
    log = history(2)
    checked = check_release(SignedRelease(log, encoder_to_bytes(encoder(2))), FRESH, PINNED)
    assert encoder_hash(checked.encoder) == encoder_hash(encoder(2))
    assert (checked.card.release, checked.entry.number) == (2, 2)
    assert checked.trust == Trust(PUBLIC, 2, log.head, 2)


def test_a_device_follows_from_release_to_release_and_may_leave_some_out() -> None:
    trust = seen(history(1))
    assert seen(history(1), trust) == trust
    assert seen(history(4), trust).release == 4


def test_a_device_follows_a_change_of_the_key() -> None:
    trust = seen(history(1))
    turned = grow(history(1).with_rotation(OTHER, 0, KEY), OTHER)
    assert seen(turned, trust) == Trust(OTHER_PUBLIC, 3, turned.head, 2)
    # Whoever pins a key of the log, first or last, believes the same log.
    assert seen(turned, Trust(PUBLIC)) == seen(turned, Trust(OTHER_PUBLIC)) == seen(turned, trust)


def test_what_was_accepted_before_is_not_verified_again_and_cannot_be_exchanged() -> None:
    log = history(3)
    trust = seen(history(2))
    for number in (0, 1):
        entries = list(log.entries)
        entries[number] = replace(entries[number], signature=bytes([7]) * 64)
        assert refused(replace(log, entries=tuple(entries)), trust).reason in ("chain", "fork")


# --- what does not ------------------------------------------------------------------------------------------------


def test_an_older_log_is_a_rollback() -> None:
    assert refused(history(2), seen(history(3))).reason == "rollback"
    assert refused(ReleaseLog(PUBLIC), seen(history(1))).reason == "rollback"


def test_a_log_that_tells_another_story_is_a_fork() -> None:
    trust = seen(history(2))
    forked = grow(grow(history(1), variant=1))
    assert seen(forked).release == 3  # sound in itself: a device that saw nothing yet would believe it
    assert refused(forked, trust).reason == "fork"
    assert refused(grow(history(1), variant=1), trust).reason == "fork"


def test_a_stolen_old_key_cannot_rewrite_what_was_accepted() -> None:
    trust = seen(history(1).with_rotation(OTHER, 0, KEY))
    assert refused(grow(grow(history(1))), trust).reason == "fork"
    assert refused(grow(history(1).with_rotation(OTHER, 0, KEY)), trust).reason == "signature"


def test_a_log_without_one_of_its_entries_has_a_gap() -> None:
    log = history(3)
    for number in range(2):
        left = tuple(entry for at, entry in enumerate(log.entries) if at != number)
        assert refused(replace(log, entries=left)).reason == "gap"
        renumbered = tuple(replace(entry, number=at) for at, entry in enumerate(left, 1))
        assert refused(replace(log, entries=renumbered)).reason in ("chain", "signature")


def test_a_reordered_log_has_a_gap() -> None:
    first, second, third = history(3).entries
    assert refused(replace(history(3), entries=(first, third, second))).reason == "gap"
    assert refused(replace(history(3), entries=(second, first, third))).reason == "gap"


def test_a_release_number_that_is_left_out_is_a_gap() -> None:
    assert refused(grow(history(1), number=3)).reason == "gap"
    assert refused(grow(history(1), number=1, variant=1)).reason == "gap"


def test_an_entry_of_another_log_does_not_continue_this_one() -> None:
    other = grow(ReleaseLog(OTHER_PUBLIC), OTHER)
    assert refused(ReleaseLog(PUBLIC, entries=other.entries)).reason == "chain"


def test_a_log_of_another_key_is_refused() -> None:
    assert refused(grow(ReleaseLog(OTHER_PUBLIC), OTHER)).reason == "key"


def test_a_signature_by_another_key_is_refused() -> None:
    assert refused(grow(history(1), OTHER)).reason == "signature"


def test_an_unsigned_entry_is_refused() -> None:
    entry = replace(history(1).entries[0], signature=UNSIGNED)
    assert refused(ReleaseLog(PUBLIC, entries=(entry,))).reason == "unsigned"
    turned = history(1).with_rotation(OTHER, 0, KEY)
    last = replace(turned.entries[-1], countersignature=UNSIGNED)
    last = replace(last, signature=KEY.sign(last.signed_bytes))
    assert refused(replace(turned, entries=(turned.entries[0], last))).reason == "unsigned"


def test_nobody_can_sign_his_log_over_to_a_key_that_people_pinned() -> None:
    # The attacker's own log names the victim's key at its end, so that devices which pinned that key believe the log.
    log = grow(ReleaseLog(OTHER_PUBLIC), OTHER)
    turned = log.with_rotation(KEY, 0, OTHER)
    assert seen(turned).release == 1  # with the victim's consent, that is, its signature, it is allowed
    last = turned.entries[-1]
    without = replace(last, countersignature=OTHER.sign(last.signed_bytes))
    without = replace(without, signature=OTHER.sign(without.signed_bytes))
    assert refused(replace(turned, entries=(*turned.entries[:-1], without))).reason == "signature"


def test_a_key_that_was_given_up_does_not_come_back() -> None:
    turned = history(1).with_rotation(OTHER, 0, KEY)
    assert refused(turned.with_rotation(KEY, 0, OTHER)).reason == "key"
    assert refused(turned.with_rotation(OTHER, 0, OTHER)).reason == "key"
    assert refused(grow(turned, KEY)).reason == "signature"
    assert refused(grow(turned.with_rotation(THIRD, 0, OTHER), OTHER)).reason == "signature"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"shapes": "1" * 64}, "shapes"),
        ({"fixed": "1" * 64}, "fixed"),
        ({"backbone": "1" * 64}, "backbone"),
        ({"parent": "1" * 64}, "parent"),
        ({"parent": PINNED.shipped}, "parent"),
        ({"hash": encoder_hash(encoder(1))}, "rollback"),  # an earlier encoder under a new number
        ({"hash": PINNED.shipped}, "rollback"),
    ],
)
def test_a_signed_card_that_changes_what_must_stay_is_refused(changed: dict[str, str], reason: str) -> None:
    assert refused(grow(history(1), **changed)).reason == reason


def test_a_log_for_another_backbone_or_another_release_0_than_here_is_refused() -> None:
    assert refused(history(1), pinned=replace(PINNED, backbone="2" * 64)).reason == "backbone"
    assert refused(history(1), pinned=replace(PINNED, fixed="2" * 64)).reason == "fixed"
    assert refused(history(1), pinned=replace(PINNED, shapes="2" * 64)).reason == "shapes"
    assert refused(history(1), pinned=replace(PINNED, shipped="2" * 64)).reason == "parent"


def test_a_log_without_a_release_gives_none() -> None:
    for log in (ReleaseLog(PUBLIC), ReleaseLog(PUBLIC).with_rotation(OTHER, 0, KEY)):
        with pytest.raises(ReleaseError) as caught:
            check_release(SignedRelease(log, b""), FRESH, PINNED)
        assert caught.value.reason == "empty"


# --- the encoder and its card -------------------------------------------------------------------------------------


def half_precision(weights: EncoderWeights) -> bytes:
    from safetensors.numpy import save

    data = encoder_to_bytes(weights)
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    return save(
        {n: t.astype(np.float16) for n, t in weights.tensors.items()}, json.loads(header)["__metadata__"]
    )


def with_header(change: Callable[[bytes], bytes]) -> bytes:
    data = encoder_to_bytes(encoder(1))
    size = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


SIGNED_RUBBISH = {
    "nothing": b"",
    "rubbish": b"rubbish",
    "a header that never ends": b"\xff" * 100,
    "deep brackets": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "a list": (2).to_bytes(8, "little") + b"[]",
    "an infinite number of a release": with_header(
        lambda h: h.replace(rb"\"release\": 1", rb"\"release\": 1e999")
    ),
    "something hidden beside the tensors": with_header(lambda h: h + b"   "),
    "half precision": half_precision(encoder(1)),
    "another number": encoder_to_bytes(encoder(1).with_shared({}, 2)),
    "another encoder": encoder_to_bytes(encoder(1, 1)),
}


@pytest.mark.parametrize("name", SIGNED_RUBBISH)
def test_a_file_that_is_not_the_cards_encoder_is_refused_even_if_it_is_signed(name: str) -> None:
    data = SIGNED_RUBBISH[name]
    log = grow(ReleaseLog(PUBLIC), sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ReleaseError) as caught:
        check_release(SignedRelease(log, data), FRESH, PINNED)
    assert caught.value.reason == "encoder"


def test_the_file_of_another_release_is_refused() -> None:
    with pytest.raises(ReleaseError) as caught:
        check_release(SignedRelease(history(2), encoder_to_bytes(encoder(1))), FRESH, PINNED)
    assert caught.value.reason == "encoder"


def test_an_encoder_with_other_fixed_tensors_is_refused_though_its_card_says_otherwise() -> None:
    tensors = dict(encoder(1).tensors)
    tensors["feature.mean"] = tensors["feature.mean"] + np.float32(1)
    rigged = EncoderWeights(1, tensors)
    card = card_of(ReleaseLog(PUBLIC), rigged, fixed=PINNED.fixed)
    with pytest.raises(ReleaseError) as caught:
        check_release(
            SignedRelease(ReleaseLog(PUBLIC).with_release(card, 0, KEY), encoder_to_bytes(rigged)),
            FRESH,
            PINNED,
        )
    assert caught.value.reason == "encoder"


def test_weights_out_of_bounds_are_refused() -> None:
    huge = encoder(1).with_shared({n: t * np.float32(100) for n, t in encoder(1).shared().items()})
    with pytest.raises(ReleaseError) as caught:
        read_encoder(encoder_to_bytes(huge), card_of(ReleaseLog(PUBLIC), huge))
    assert caught.value.reason == "norm"


# --- ten thousand mutations -----------------------------------------------------------------------------------------


def mutated(data: bytes, front: int, number: int, rng: np.random.Generator) -> bytes:
    """The bytes with one thing done to them, most often among the first `front`: changed, moved or cut out."""
    some = bytearray(data)
    at = int(rng.integers(front if number % 4 else len(some)))
    until = min(len(some), at + int(rng.integers(1, 80)))
    kind = number % 5
    if kind == 0:
        some[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        some[at:until] = rng.bytes(until - at)
    elif kind == 2:
        some[at:until] = bytes(until - at)
    elif kind == 3:
        there = int(rng.integers(front))
        some[at:until] = data[there : there + until - at]
    else:
        del some[at : until if number % 2 else len(some)]
    return bytes(some)


@cache
def turned_log() -> ReleaseLog:
    """A release, a change of the key, two releases."""
    return grow(grow(history(1).with_rotation(OTHER, 0, KEY), OTHER), OTHER)


TRUSTS = (FRESH, seen(history(1)), Trust(OTHER_PUBLIC), Trust(THIRD_PUBLIC))


def test_no_mutation_of_ten_thousand_makes_a_device_believe_another_log() -> None:
    data, rng, passed = encode_log(turned_log()), np.random.default_rng(5), 0
    for number in range(10_000):
        other, trust = mutated(data, len(data), number, rng), TRUSTS[number // 5 % 4]
        try:
            now = check_log(decode_log(other), trust, PINNED)
        except ReleaseError:
            continue
        passed += 1
        assert other == data
        assert trust.key != THIRD_PUBLIC
        assert now.head == turned_log().head
    assert passed < 1_000  # zeros written over zeros and the like


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_mutated_message_makes_a_device_take_anything_else(count: int) -> None:
    file = encoder_to_bytes(encoder(3))
    data = encode_release(SignedRelease(turned_log(), file))
    wanted = check_release(decode_release(data), FRESH, PINNED)
    rng, passed = np.random.default_rng(6), 0
    for number in range(count):
        other = mutated(data[:-CHECKSUM_BYTES], len(data) - len(file) + 2_000, number, rng)
        other, trust = add_checksum(other), TRUSTS[number // 5 % 4]
        try:
            found = check_release(decode_release(other), trust, PINNED)
        except ReleaseError:
            continue
        passed += 1
        assert other == data
        assert trust.key != THIRD_PUBLIC
        assert found.trust == wanted.trust
    assert passed < count / 10
