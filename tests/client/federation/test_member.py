"""What a device does with a task: whose labels count, what it refuses, what it says, and what it never
says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.demo.showcase import demo_folder
from palate.client.device import Device
from palate.client.federation import local_training
from palate.client.federation.consent import Terms, agree
from palate.client.federation.declined import Declined
from palate.client.federation.local_training import LEAST_LABELS, Labels
from palate.client.federation.member import Member, answer_task
from palate.client.federation.outbox import read_outbox
from palate.client.federation.own_labels import read_meanings
from palate.client.federation.rounds_a_day import invitations_of_the_day
from palate.client.privacy.budget import OwnBudget, write_budget
from palate.client.reader.comment import Comment
from palate.client.records import COMMENT, FEATURES, PICTURE, Taught, encode_taught
from palate.client.releases.accepted import is_pinned, pin_key, reset
from palate.client.taste.fitting import _tower_mark
from palate.client.vault.store import MemoryStore
from palate.shared.attributes import Mention
from palate.shared.delegation import make_delegation, sign_message
from palate.shared.encoder import PICTURE_FEATURES, EncoderWeights, encoder_hash, load_encoder
from palate.shared.errors import FederationError, StorageError, WrongPassphraseError
from palate.shared.reasons import DeclineReason
from palate.shared.releases.message import SignedRelease, encode_release, read_key, write_key
from palate.shared.update import LocalSettings
from palate.shared.wire import Task, decode_update, encode_task
from tests.client.releases.test_accepted import BEGUN, KEY, KEY_TEXT, TEXT
from tests.signed import PUBLIC, RELEASE_KEY, ROUND_KEY, signed

NEEDLE = "Grandmother Ottilie"
PASSPHRASE = "correct horse"
SERVER = "127.0.0.1:8000"


def make_task(encoder: EncoderWeights | None = None, **changes: Any) -> bytes:
    """A task as the server signs it."""
    values: dict[str, Any] = {"round": 3, "settings": LocalSettings(steps=2), "seed": 11} | changes
    return encode_task(Task.for_encoder(load_encoder() if encoder is None else encoder, **values))


def put_label(device: Device, number: int, liked: bool | None, attributes: tuple[str, ...]) -> str:
    """Put a comment into the vault as if it had been taught, with features as if its picture had been looked
    at."""
    rng = np.random.default_rng(number)
    e = load_encoder().tensors
    row = (e["feature.mean"] + 0.5 * e["feature.scale"] * rng.standard_normal(PICTURE_FEATURES)).astype("<f4")
    picture, id_ = f"{number:064x}", f"{number:08x}"
    mentions = tuple(Mention(name, "mood", 1 if liked else -1, 0.8, name) for name in attributes)
    comment = Comment(
        id_, f"{NEEDLE} number {number}", liked, picture, f"2026-11-20T10:{number:02}:00.000000+00:00"
    )
    with device.vault.transaction() as change:
        change.put(COMMENT, id_, encode_taught(Taught(comment, mentions)))
        change.put(PICTURE, picture, b"never opened: the features are kept")
        change.put(FEATURES, picture, _tower_mark() + row.tobytes())
    return id_


def ask(encoder: EncoderWeights | None = None, **changes: Any) -> bytes:
    """A task as the server sends it: signed."""
    return signed(make_task(encoder, **changes))


def let_everything(device: Device) -> None:
    """Have the owner agree to rounds without masks."""
    agree(device.vault, Terms(SERVER, rounds_a_day=100, allow_unmasked=True), datetime.now(UTC))
    write_budget(device.vault, OwnBudget(unprotected=True))


@pytest.fixture
def home(tmp_path: Path, remembered_keys: None) -> Path:
    """A vault with seven verdicts; the last is about no attribute."""
    with Device.init(tmp_path / "vault", PASSPHRASE) as device:
        for number in range(1, 8):
            put_label(device, number, number % 2 == 0, ("calm", "misty") if number < 7 else ())
        let_everything(device)
    return tmp_path / "vault"


@pytest.fixture
def device(home: Path) -> Iterator[Device]:
    with Device.open(home, PASSPHRASE) as opened:
        yield opened


class Door:
    """Takes what would go to the server, and what is said at the device."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.lines: list[str] = []

    def member(self, device: Device) -> Member:
        return Member(device, server=SERVER, tell=self.lines.append)

    def answer(self, member: Member, task: bytes) -> bytes:
        member.take_part(task, self.out.append)
        return self.out[-1]


@pytest.fixture
def door() -> Door:
    return Door()


def labels(n: int = 8) -> Labels:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((n, PICTURE_FEATURES)).astype(np.float32)
    return Labels(features, np.arange(n) % 2 == 0, np.zeros((n, 384), np.float32))


# --- labels -------------------------------------------------------------------------------------------------


def test_labels_are_the_verdicts_in_the_order_of_time(device: Device, door: Door) -> None:
    mine = door.member(device).labels()
    assert mine.liked.tolist() == [False, True, False, True, False, True, False]
    for number, row in enumerate(mine.features, start=1):
        kept = device.vault.get(FEATURES, f"{number:064x}")
        assert row.astype("<f4").tobytes() == kept[16:]


def test_phrases_are_the_mean_of_what_the_comment_names(device: Device, door: Door) -> None:
    mine = door.member(device).labels()
    meanings = read_meanings({"calm", "misty"})
    np.testing.assert_allclose(mine.phrases[0], (meanings["calm"] + meanings["misty"]) / 2, rtol=1e-6)
    assert not mine.phrases[6].any()


def test_comments_without_verdict_or_picture_are_no_labels(device: Device, door: Door) -> None:
    put_label(device, 20, None, ("calm",))
    bare = Comment("0000aaaa", "calm, please", True, None, "2026-11-20T11:00:00.000000+00:00")
    with device.vault.transaction() as change:
        change.put(COMMENT, bare.id, encode_taught(Taught(bare, ())))
    assert door.member(device).count_labels() == 7


def test_a_vetoed_attribute_is_not_spoken_of(device: Device, door: Door) -> None:
    device.veto("misty")
    np.testing.assert_array_equal(door.member(device).labels().phrases[0], read_meanings({"calm"})["calm"])


def test_words_that_no_vocabulary_knows_have_a_meaning_too_and_are_dropped_when_forgotten() -> None:
    first = read_meanings({"soapy", "calm"})
    assert np.linalg.norm(first["soapy"]) == pytest.approx(1, abs=1e-5)
    known = {"soapy": np.zeros(384, np.float32)}
    assert read_meanings({"soapy"}, known)["soapy"] is known["soapy"]
    assert set(read_meanings({"calm"}, first)) == {"calm"}


def test_pictures_that_were_taught_become_labels(tmp_path: Path, remembered_keys: None, door: Door) -> None:
    with Device.init(tmp_path / "vault", PASSPHRASE) as device:
        device.teach(demo_folder() / "boat.jpg", "I love the misty watercolour", True)
        device.teach(demo_folder() / "city.jpg", "too busy", False)
        mine = door.member(device).labels()
        assert mine.liked.tolist() == [True, False]
        assert mine.phrases.any(axis=1).all()
        assert device.vault.list(FEATURES)  # looked at once, then kept
        np.testing.assert_array_equal(door.member(device).labels().features, mine.features)


# --- a round ------------------------------------------------------------------------------------------------


def test_a_round_sends_what_training_gives_and_notes_it(device: Device, door: Door) -> None:
    member = door.member(device)
    sent = door.answer(member, ask())
    encoder = load_encoder()
    update = local_training.train_locally(encoder, member.labels(), LocalSettings(steps=2), round=3, seed=11)
    assert decode_update(sent, base=update.base, round=3, max_norm=25) == update
    assert update.norm > 0
    (note,) = read_outbox(device.vault)
    assert (note.server, note.round, note.release, note.bytes_up, note.sent) == (
        SERVER,
        3,
        0,
        len(sent),
        True,
    )
    assert door.lines[0].startswith(f"{SERVER} signs with palate1")
    assert door.lines[1:] == [f"round 3: trained on 7 labels, sent {len(sent):,} bytes (release 0)"]


def test_the_tasks_encoder_is_trained_and_not_kept(device: Device, door: Door) -> None:
    own = load_encoder()
    newer = own.with_shared({name: t * np.float32(0.99) for name, t in own.shared().items()}, release=4)
    member = door.member(device)
    first = door.answer(member, ask(newer))
    update = local_training.train_locally(newer, member.labels(), LocalSettings(steps=2), round=3, seed=11)
    assert decode_update(first, base=update.base, round=3, max_norm=25) == update
    assert read_outbox(device.vault)[0].release == 4


def test_a_comment_forgotten_by_another_process_no_longer_counts(
    home: Path, device: Device, door: Door
) -> None:
    member = door.member(device)
    before = door.answer(member, ask())
    with Device.open(home, PASSPHRASE) as other:
        other.forget("00000001")
    after = door.answer(member, ask())
    assert before != after
    assert member.count_labels() == 6
    with Device.init(home.parent / "never", PASSPHRASE) as never:
        for number in range(2, 8):
            put_label(never, number, number % 2 == 0, ("calm", "misty") if number < 7 else ())
        let_everything(never)
        assert door.answer(door.member(never), ask()) == after  # as if it had never been taught


def test_below_six_labels_the_device_answers_with_a_change_of_nothing(
    home: Path, device: Device, door: Door
) -> None:
    with Device.open(home, PASSPHRASE) as other:
        other.forget("00000001")
        other.forget("00000002")
    sent = door.answer(door.member(device), ask())
    assert decode_update(sent, base=encoder_hash(load_encoder()), round=3).norm == 0
    (note,) = read_outbox(device.vault)
    assert (note.bytes_up, note.sent) == (len(sent), True)
    assert door.lines[1] == f"5 labels, and to learn from them takes at least {LEAST_LABELS}"
    assert "with a change of nothing" in door.lines[2]


def test_other_commands_change_the_vault_while_a_round_is_trained(
    home: Path, device: Device, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = local_training.train_locally

    def train_slowly(*arguments: Any, **options: Any) -> Any:
        with Device.open(home, PASSPHRASE) as other:  # waits for the vault's lock, if it is held
            other.set("neon", -0.5)
        return train(*arguments, **options)

    monkeypatch.setattr(local_training, "train_locally", train_slowly)
    assert door.answer(door.member(device), ask())
    assert device.profile().signed()["neon"] == -0.5


# --- a vault that cannot be read ----------------------------------------------------------------------------


def test_a_locked_vault_stays_out(device: Device, door: Door) -> None:
    member = door.member(device)
    device.close()
    assert door.answer(member, ask()) == b""
    assert door.lines == ["stayed out of a round: the vault could not be read"]


def test_a_passphrase_changed_meanwhile_stays_out_and_ends_it(home: Path, device: Device, door: Door) -> None:
    member = door.member(device)
    with Device.open(home, PASSPHRASE) as other:
        other.vault.change_passphrase("battery staple")
    assert door.answer(member, ask()) == b""
    assert member.ended is not None
    assert "passphrase" in member.ended


def test_an_erased_vault_stays_out_and_ends_it(home: Path, device: Device, door: Door) -> None:
    member = door.member(device)
    Device.erase(home)
    assert door.answer(member, ask()) == b""
    assert member.ended is not None


def test_the_wrong_passphrase_opens_nothing_to_join_with(home: Path) -> None:
    with pytest.raises(WrongPassphraseError):
        Device.open(home, "wrong")


@pytest.mark.parametrize("notes", [0, 1])
def test_without_a_note_nothing_is_sent(
    device: Device, door: Door, notes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0

    def full(*_: Any, **__: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun > 1 + notes:  # the first counts the invitation
            raise StorageError("the disk is full")
        return transaction()

    transaction = device.vault.transaction
    monkeypatch.setattr(device.vault, "transaction", full)
    with pytest.raises(Declined) as declined:
        door.member(device).take_part(ask(), door.out.append)
    assert declined.value.reason is DeclineReason.NOT_NOTED
    assert door.out == []


def test_an_invitation_that_cannot_be_counted_is_not_looked_into(
    device: Device, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise StorageError("the disk is full")

    monkeypatch.setattr(device.vault, "transaction", full)
    assert door.answer(door.member(device), ask()) == b""
    assert read_outbox(device.vault) == []


# --- who asks, and how often --------------------------------------------------------------------------------


def test_what_is_not_signed_is_declined_unread(device: Device, door: Door) -> None:
    with pytest.raises(Declined) as refused:
        door.member(device).take_part(make_task(), door.out.append)
    assert refused.value.reason is DeclineReason.UNSIGNED
    assert invitations_of_the_day(device.vault, datetime.now(UTC)) == 0


def test_after_its_first_invitation_a_device_takes_no_other_key_from_this_server(
    device: Device, door: Door
) -> None:
    member = door.member(device)
    assert door.answer(member, ask())
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(Declined) as refused:
        member.take_part(signed(make_task(), stranger), door.out.append)
    assert refused.value.reason is DeclineReason.UNSIGNED
    assert write_key(PUBLIC) in door.lines[0]
    assert "if the server really has another" in door.lines[-1]
    assert len([line for line in door.lines if "signs with" in line]) == 1


def offered_log() -> bytes:
    """What a server offers before its first release: its log, which names `KEY` and rests on the recovery key
    of `TEXT`."""
    now = int(datetime.now(UTC).timestamp())
    return encode_release(SignedRelease(BEGUN.with_statement(now, KEY), b""))


def test_after_a_reset_of_releases_the_owner_is_told_to_join_again(device: Device, door: Door) -> None:
    agree(device.vault, Terms(SERVER, release_key=read_key(TEXT).hex()), datetime.now(UTC))
    pin_key(device.vault, TEXT)
    member = door.member(device)
    assert door.answer(member, offered_log()) == b""
    reset(device.vault)
    with pytest.raises(Declined) as refused:
        member.take_part(ask(), door.out.append)
    assert refused.value.reason is DeclineReason.UNSIGNED
    assert "forgotten (palate release reset); leave and join again" in door.lines[-1]


def test_a_pinned_release_key_decides_from_the_first_invitation_on(device: Device, door: Door) -> None:
    pin_key(device.vault, TEXT)
    member = door.member(device)
    for key in (RELEASE_KEY, KEY):  # before the log has come, nobody may ask
        with pytest.raises(Declined) as refused:
            member.take_part(signed(make_task(), key), door.out.append)
        assert refused.value.reason is DeclineReason.UNSIGNED
        assert "no log of releases that rests on the key pinned here has come yet" in door.lines[-1]
    assert door.answer(member, offered_log()) == b""
    with pytest.raises(Declined) as refused:
        member.take_part(ask(), door.out.append)
    assert refused.value.reason is DeclineReason.UNSIGNED
    assert f"{KEY_TEXT}, which the log of releases names that is followed here" in door.lines[-1]
    assert invitations_of_the_day(device.vault, datetime.now(UTC)) == 0
    assert door.answer(member, signed(make_task(), KEY))
    assert not [line for line in door.lines if "signs with" in line]


def test_where_no_key_is_pinned_releases_are_left_alone_and_that_is_said_once(
    device: Device, door: Door
) -> None:
    member = door.member(device)
    for _ in range(2):
        assert door.answer(member, offered_log()) == b""
    (line,) = [line for line in door.lines if "release" in line]
    assert "no key is pinned here" in line
    assert "--release-key" in line
    assert not is_pinned(device.vault)


@pytest.mark.parametrize("where", ["vault", "terms"])
def test_a_device_that_pinned_another_key_answers_nobody(device: Device, door: Door, where: str) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    if where == "vault":
        pin_key(device.vault, write_key(other))
    else:
        agree(device.vault, Terms(SERVER, allow_unmasked=True, release_key=other.hex()), datetime.now(UTC))
    member = door.member(device)
    assert door.answer(member, offered_log()) == b""
    assert "a release was refused" in door.lines[-1]
    for key in (RELEASE_KEY, KEY):
        with pytest.raises(Declined) as refused:
            member.take_part(signed(make_task(), key), door.out.append)
        assert refused.value.reason is DeclineReason.UNSIGNED
    assert door.out == [b""]


def test_pinning_what_the_advice_says_replaces_the_key_of_the_first_invitation(
    device: Device, door: Door
) -> None:
    member = door.member(device)
    assert door.answer(member, ask())
    assert "the text that palate server key prints there" in door.lines[0]
    with pytest.raises(Declined):
        member.take_part(signed(make_task(), KEY), door.out.append)
    pin_key(device.vault, TEXT)
    door.answer(member, offered_log())
    assert door.answer(member, signed(make_task(), KEY))


def test_every_invitation_that_is_looked_into_counts_whatever_comes_of_it(device: Device, door: Door) -> None:
    agree(device.vault, Terms(SERVER, rounds_a_day=3, allow_unmasked=True), datetime.now(UTC))
    member = door.member(device)
    wild = ask(settings=LocalSettings(learning_rate=10.0))
    for _ in range(3):
        with pytest.raises(Declined) as refused:
            member.take_part(wild, door.out.append)
        assert refused.value.reason is DeclineReason.SETTINGS_REFUSED
    assert read_outbox(device.vault) == []
    assert door.answer(member, ask()) == b""
    assert door.lines[-1] == "stayed out of a round: 3 rounds within a day, and 3 are agreed to"
    assert invitations_of_the_day(device.vault, datetime.now(UTC)) == 3


def test_an_invitation_to_a_release_beyond_the_delegation_is_declined(device: Device, door: Door) -> None:
    own = load_encoder()
    newer = make_task(own.with_shared(own.shared(), release=3))
    public = ROUND_KEY.public_key().public_bytes_raw()
    short = make_delegation(RELEASE_KEY, public, now=datetime.now(UTC), up_to=2)
    with pytest.raises(Declined) as refused:
        door.member(device).take_part(sign_message(newer, [short], ROUND_KEY), door.out.append)
    assert refused.value.reason is DeclineReason.UNSIGNED
    assert door.answer(door.member(device), signed(newer))


def test_a_server_lost_while_sending_leaves_a_note_that_says_so(device: Device, door: Door) -> None:
    def lose(_: bytes) -> None:
        raise FederationError("gone")

    with pytest.raises(FederationError):
        door.member(device).take_part(ask(), lose)
    assert [note.sent for note in read_outbox(device.vault)] == [False]


# --- nothing is told ----------------------------------------------------------------------------------------


def test_what_an_exception_says_never_gets_out(
    device: Device, door: Door, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"cannot train on {NEEDLE}")

    monkeypatch.setattr(local_training, "train_locally", fail)
    door.member(device).take_part(ask(), door.out.append)
    assert NEEDLE not in "".join(door.lines) + "".join(capfd.readouterr())
    assert NEEDLE.encode() not in door.out[0]
    assert "local training came to nothing" in "".join(door.lines)


def test_a_round_says_nothing_of_what_is_in_the_vault(
    device: Device, door: Door, capfd: pytest.CaptureFixture[str]
) -> None:
    member = door.member(device)
    sent = door.answer(member, ask())
    said = "".join(door.lines) + "".join(capfd.readouterr())
    for needle in (NEEDLE, "calm", "misty", PASSPHRASE):
        assert needle not in said
        assert needle.encode() not in sent
        assert needle not in json.dumps([note.to_json() for note in read_outbox(device.vault)])
    head = member.labels().features[0].tobytes()
    assert head[:16] not in sent


def test_a_reason_has_no_room_for_another_text() -> None:
    with pytest.raises(TypeError):
        Declined(DeclineReason.FAILED, NEEDLE)  # type: ignore[call-arg]
    assert all(len(reason.value) < 80 for reason in DeclineReason)


def test_the_same_task_and_labels_give_the_same_bytes() -> None:
    out: list[bytes] = []
    for _ in range(2):
        answer_task(make_task(), labels, out.append, store=MemoryStore(), server=SERVER)
    assert out[0] == out[1]
    other = replace(labels(), liked=~labels().liked)
    answer_task(make_task(), lambda: other, out.append, store=MemoryStore(), server=SERVER)
    assert out[2] != out[0]
