"""Whom a device believes about releases: forks, gaps, rollbacks, other keys, other encoders, and ten thousand
mutations."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.encoder import EncoderWeights, encoder_hash, encoder_to_bytes, load_encoder, shapes_hash
from palate.shared.errors import ReleaseError
from palate.shared.releases.check import Pinned, Trust, check_log, check_release, expired, read_encoder
from palate.shared.releases.message import (
    BACKBONE_HASH,
    UNSIGNED,
    Card,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    Statement,
    decode_log,
    decode_release,
    encode_log,
    encode_release,
)
from palate.shared.wire import CHECKSUM_BYTES, add_checksum, fixed_hash

KEY, OTHER, THIRD, RECOVERY, RECOVERY_2, STRANGER = (
    Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 7)
)
PUBLIC, OTHER_PUBLIC, _, PIN, PIN_2, STRANGE_PIN = (
    key.public_key().public_bytes_raw() for key in (KEY, OTHER, THIRD, RECOVERY, RECOVERY_2, STRANGER)
)
PINNED = Pinned.by(load_encoder())
FRESH = Trust(PIN)
WHEN = 1_795_000_000
GOOD = (WHEN, WHEN + 90 * 86_400)


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
        privacy=PrivacySpent(0.5 * weights.release, 1e-6, "gaussian", 1.0, 2.0),
    )
    return replace(card, **changed)


def grow(
    log: ReleaseLog, key: Ed25519PrivateKey = KEY, variant: int = 0, number: int | None = None, **changed: Any
) -> ReleaseLog:
    """The log with one more release."""
    weights = encoder(len(log.releases) + 1 if number is None else number, variant)
    return log.with_release(card_of(log, weights, **changed), WHEN, key)


@cache
def history(count: int) -> ReleaseLog:
    """A log of so many releases, all by `KEY`, after the entry that names the keys."""
    return grow(history(count - 1)) if count else ReleaseLog.begin(KEY, RECOVERY, WHEN)


def turn(
    log: ReleaseLog, key: Ed25519PrivateKey = OTHER, by: Ed25519PrivateKey = RECOVERY, **changed: Any
) -> ReleaseLog:
    """The log with another release key."""
    return log.with_keys(key, changed.get("recovery", RECOVERY), WHEN, by=by)


def strangers() -> ReleaseLog:
    """A log of somebody else's keys."""
    return grow(ReleaseLog.begin(OTHER, STRANGER, WHEN), OTHER)


def refused(log: ReleaseLog, trust: Trust = FRESH, pinned: Pinned = PINNED) -> ReleaseError:
    with pytest.raises(ReleaseError) as caught:
        check_log(log, trust, pinned)
    assert "\n" not in str(caught.value)
    return caught.value


def seen(log: ReleaseLog, trust: Trust = FRESH) -> Trust:
    return check_log(log, trust, PINNED)


# --- what passes --------------------------------------------------------------------------------------------


def test_an_honest_release_passes_and_is_remembered() -> None:
    log = history(2)
    checked = check_release(SignedRelease(log, encoder_to_bytes(encoder(2))), FRESH, PINNED)
    assert encoder_hash(checked.encoder) == encoder_hash(encoder(2))
    assert (checked.card.release, checked.entry.number) == (2, 3)
    assert checked.trust == Trust(PIN, 3, log.head, 2, PUBLIC, *GOOD)


def test_a_device_follows_from_release_to_release_and_may_leave_some_out() -> None:
    trust = seen(history(1))
    assert seen(history(1), trust) == trust
    assert seen(history(4), trust).release == 4


def test_a_log_without_a_release_names_the_keys() -> None:
    assert seen(history(0)) == Trust(PIN, 1, history(0).head, 0, PUBLIC, *GOOD)


def test_what_was_accepted_before_is_not_verified_again_and_cannot_be_exchanged() -> None:
    log = history(3)
    trust = seen(history(2))
    for number in (0, 1, 2):
        entries = list(log.entries)
        broken = tuple(bytes([7]) * 64 for _ in entries[number].signatures)
        entries[number] = replace(entries[number], signatures=broken)
        assert refused(replace(log, entries=tuple(entries)), trust).reason in ("chain", "fork")


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_device_follows_a_change_of_the_release_key_and_the_pin_stays() -> None:
    trust = seen(history(1))
    turned = grow(turn(history(1)), OTHER)
    assert seen(turned, trust) == Trust(PIN, 4, turned.head, 2, OTHER_PUBLIC, *GOOD)
    assert seen(turned) == seen(turned, trust)
    assert refused(grow(turn(history(1)), KEY)).reason == "signature"


def test_a_stolen_release_key_cannot_rotate_itself_in() -> None:
    # The thief has KEY and makes keys of his own; the recovery key before is what he does not have.
    for thief in (KEY, OTHER, STRANGER):
        assert refused(turn(history(1), OTHER, by=thief)).reason == "signature"
        assert refused(turn(history(1), OTHER, by=thief, recovery=STRANGER)).reason == "signature"
    # With the recovery key it is a change like any other: the check above refuses for the right reason.
    assert seen(turn(history(1), OTHER)).key == OTHER_PUBLIC


def test_the_owner_shuts_a_thief_out_with_the_recovery_key() -> None:
    by_thief = grow(history(1), KEY, variant=3)
    assert seen(by_thief).release == 2  # until then the thief can sign
    after = turn(by_thief, OTHER)
    assert refused(grow(after, KEY)).reason == "signature"
    assert seen(grow(after, OTHER)).release == 3


def test_the_recovery_key_is_replaced_only_by_itself() -> None:
    replaced = history(1).with_keys(KEY, RECOVERY_2, WHEN, by=RECOVERY)
    assert seen(replaced) == Trust(PIN_2, 3, replaced.head, 1, PUBLIC, *GOOD)
    for other in (KEY, RECOVERY_2, STRANGER):
        assert refused(history(1).with_keys(KEY, RECOVERY_2, WHEN, by=other)).reason == "signature"
    # From then on the old one signs nothing, and whoever pins the new one takes no log that the old one goes
    # on with.
    assert refused(turn(replaced, OTHER, by=RECOVERY, recovery=RECOVERY_2)).reason == "signature"
    assert refused(turn(history(1)), Trust(PIN_2)).reason == "key"
    assert seen(replaced, Trust(PIN_2)) == seen(replaced)


def test_a_key_that_was_given_up_does_not_come_back() -> None:
    turned = turn(history(1))
    assert refused(turn(turned, KEY)).reason == "key"
    assert refused(turn(turned, OTHER)).reason == "key"  # nothing changes
    assert refused(turn(turned, RECOVERY_2).with_keys(THIRD, RECOVERY_2, WHEN, by=RECOVERY)).reason == "key"
    assert refused(grow(turn(turned, THIRD), OTHER)).reason == "signature"


def test_nobody_can_sign_his_log_over_to_a_key_that_people_pinned() -> None:
    # The attacker's own log names the victim's recovery key at its end, so that devices which pinned that key
    # believe the log.
    log = strangers()
    with_consent = log.with_keys(OTHER, RECOVERY, WHEN, by=STRANGER)
    assert seen(with_consent).release == 1  # with the victim's signature it is allowed
    last = with_consent.entries[-1]
    for forged in (UNSIGNED, STRANGER.sign(last.signed_bytes), OTHER.sign(last.signed_bytes)):
        without = replace(last, signatures=(*last.signatures[:2], forged))
        entries = replace(with_consent, entries=(*with_consent.entries[:-1], without))
        assert refused(entries.with_statement(WHEN, OTHER)).reason in ("signature", "unsigned")


def test_a_log_that_begins_with_a_release_is_refused() -> None:
    bare = ReleaseLog().with_release(card_of(ReleaseLog(), encoder(1)), WHEN, KEY)
    assert refused(bare).reason == "key"
    assert refused(ReleaseLog()).reason == "empty"


# --- until when the log is good -----------------------------------------------------------------------------


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_log_is_good_until_its_statement_ends_and_again_after_a_newer_one() -> None:
    trust = seen(history(1))
    assert not expired(trust, at(GOOD[1]))
    assert expired(trust, at(GOOD[1] + 1))
    assert seen(history(1), trust) == trust  # an old log is still read: its releases stay what they are
    renewed = history(1).with_statement(GOOD[1], KEY, days=30)
    trust = seen(renewed, trust)
    assert (trust.entries, trust.until) == (2, GOOD[1] + 30 * 86_400)
    assert not expired(trust, at(GOOD[1] + 1))


def test_before_a_log_was_accepted_nothing_is_expired() -> None:
    assert not expired(FRESH, at(2**34))


def test_an_older_statement_does_not_take_the_place_of_a_newer_one() -> None:
    trust = seen(history(1).with_statement(WHEN + 10, KEY, days=7))
    assert seen(history(1), trust) == trust
    assert trust.until < GOOD[1]  # the newer one counts, though it ends earlier


def test_a_statement_is_the_release_keys_and_of_this_head() -> None:
    log = history(1)
    assert refused(replace(log, statement=Statement())).reason == "unsigned"
    for signer in (RECOVERY, OTHER, STRANGER):
        assert refused(log.with_statement(WHEN, signer)).reason == "signature"
    assert refused(replace(history(2), statement=log.statement)).reason == "signature"
    assert refused(replace(log, statement=replace(log.statement, until=GOOD[1] + 1))).reason == "signature"
    assert refused(turn(log).with_statement(WHEN, KEY)).reason == "signature"  # the key before


# --- what does not ------------------------------------------------------------------------------------------


def test_an_older_log_is_a_rollback() -> None:
    assert refused(history(2), seen(history(3))).reason == "rollback"
    assert refused(history(0), seen(history(1))).reason == "rollback"


def test_a_log_that_tells_another_story_is_a_fork() -> None:
    trust = seen(history(2))
    forked = grow(grow(history(1), variant=1))
    assert seen(forked).release == 3  # sound in itself: a device that saw nothing yet would believe it
    assert refused(forked, trust).reason == "fork"
    assert refused(grow(history(1), variant=1), trust).reason == "fork"


def test_a_stolen_old_key_cannot_rewrite_what_was_accepted() -> None:
    trust = seen(turn(history(1)))
    assert refused(grow(grow(history(1))), trust).reason == "fork"
    assert refused(grow(turn(history(1))), trust).reason == "signature"


def test_a_log_without_one_of_its_entries_has_a_gap() -> None:
    log = history(3)
    for number in range(3):
        left = tuple(entry for at, entry in enumerate(log.entries) if at != number)
        assert refused(replace(log, entries=left)).reason == "gap"
        renumbered = tuple(replace(entry, number=at) for at, entry in enumerate(left, 1))
        assert refused(replace(log, entries=renumbered)).reason in ("chain", "signature")


def test_a_reordered_log_has_a_gap() -> None:
    keys, first, second, third = history(3).entries
    assert refused(replace(history(3), entries=(keys, first, third, second))).reason == "gap"
    assert refused(replace(history(3), entries=(first, keys, second, third))).reason == "gap"


def test_a_release_number_that_is_left_out_is_a_gap() -> None:
    assert refused(grow(history(1), number=3)).reason == "gap"
    assert refused(grow(history(1), number=1, variant=1)).reason == "gap"


def test_an_entry_of_another_log_does_not_continue_this_one() -> None:
    other = strangers()
    mixed = replace(history(1), entries=(history(0).entries[0], other.entries[1]))
    assert refused(mixed).reason == "chain"


def test_a_log_of_another_key_is_refused() -> None:
    assert refused(strangers()).reason == "key"
    assert refused(history(1), Trust(STRANGE_PIN)).reason == "key"
    assert refused(history(1), Trust(PUBLIC)).reason == "key"  # the release key is not what is pinned


def test_a_signature_by_another_key_is_refused() -> None:
    assert refused(grow(history(1), OTHER)).reason == "signature"
    assert refused(grow(history(1), RECOVERY)).reason == "signature"


def test_an_unsigned_entry_is_refused() -> None:
    log = history(1)
    assert refused(log.with_unsigned(card_of(log, encoder(2)), WHEN)).reason == "unsigned"
    turned = turn(log)
    last = turned.entries[-1]
    for place in range(3):
        holed = tuple(UNSIGNED if at == place else one for at, one in enumerate(last.signatures))
        entries = (*log.entries, replace(last, signatures=holed))
        assert refused(replace(turned, entries=entries)).reason == "unsigned"


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
    for log in (ReleaseLog(), history(0), turn(history(0))):
        with pytest.raises(ReleaseError) as caught:
            check_release(SignedRelease(log, b""), FRESH, PINNED)
        assert caught.value.reason == "empty"


# --- the encoder and its card -------------------------------------------------------------------------------


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
    log = grow(history(0), sha256=hashlib.sha256(data).hexdigest())
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
    card = card_of(history(0), rigged, fixed=PINNED.fixed)
    with pytest.raises(ReleaseError) as caught:
        check_release(
            SignedRelease(history(0).with_release(card, 0, KEY), encoder_to_bytes(rigged)),
            FRESH,
            PINNED,
        )
    assert caught.value.reason == "encoder"


def test_weights_out_of_bounds_are_refused() -> None:
    huge = encoder(1).with_shared({n: t * np.float32(100) for n, t in encoder(1).shared().items()})
    with pytest.raises(ReleaseError) as caught:
        read_encoder(encoder_to_bytes(huge), card_of(history(0), huge))
    assert caught.value.reason == "norm"


# --- ten thousand mutations ---------------------------------------------------------------------------------


def mutated(data: bytes, front: int, number: int, rng: np.random.Generator) -> bytes:
    """The bytes with one thing done to them, most often among the first `front`: changed, moved or
    cut out."""
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
    """Keys, a release, a change of the release key, two releases."""
    return grow(grow(turn(history(1)), OTHER), OTHER)


TRUSTS = (FRESH, seen(history(1)), seen(turn(history(1))), Trust(STRANGE_PIN))


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
        assert trust.recovery != STRANGE_PIN
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
        assert trust.recovery != STRANGE_PIN
        assert found.trust == wanted.trust
    assert passed < count / 10
