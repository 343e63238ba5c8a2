"""Releases on the device: what is adopted is used, what is refused changes nothing, and what was seen is
remembered."""

import hashlib
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.device import Device
from palate.client.eye import backbone
from palate.client.releases import stored
from palate.client.releases.accepted import (
    Adopted,
    adopt,
    federation_encoder,
    offer,
    pin_key,
    read_source,
    read_standing,
    release_key,
    reset,
    why_not_good,
)
from palate.client.releases.own_encoder import own_encoder, settle_encoder
from palate.client.taste.fitting import fit_evaluator_to_vault
from palate.client.vault.store import ONLY, MemoryStore
from palate.shared.encoder import EncoderWeights, encoder_hash, encoder_to_bytes, load_encoder, shapes_hash
from palate.shared.errors import ReleaseError, StorageError, VaultDamagedError
from palate.shared.releases.message import (
    BACKBONE_HASH,
    LOG_NAME,
    SHIPPED_HASH,
    Acceptance,
    Card,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    encode_log,
    encode_release,
    encoder_name,
    write_key,
)
from palate.shared.wire import fixed_hash

CLIENT = Path(__file__).resolve().parents[3] / "client"
KEY, OTHER, RECOVERY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 5))
KEY_TEXT, OTHER_KEY_TEXT, TEXT, OTHER_TEXT = (
    write_key(key.public_key().public_bytes_raw()) for key in (KEY, OTHER, RECOVERY, STRANGER)
)
WHEN = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())


BEGUN = ReleaseLog.begin(KEY, RECOVERY, WHEN)


def card_of(log: ReleaseLog, encoder: EncoderWeights, **changed: Any) -> Card:
    """The card of the next release on a log."""
    content = {
        "release": encoder.release,
        "round": 10 * encoder.release,
        "updates": 30 * encoder.release,
        "hash": encoder_hash(encoder),
        "parent": log.releases[-1][1].hash if log.releases else log.shipped,
        "shapes": shapes_hash(),
        "fixed": fixed_hash(encoder),
        "backbone": BACKBONE_HASH,
        "sha256": hashlib.sha256(encoder_to_bytes(encoder)).hexdigest(),
        "acceptance": Acceptance(500, 0.91, 0.98, 0.25),
        "privacy": PrivacySpent(1.25, 1e-6, "gaussian", 3.5, 40.0),
    }
    return Card(**{**content, **changed})


def make(
    log: ReleaseLog | None = None, key: Ed25519PrivateKey = KEY, variant: int = 0, **changed: Any
) -> SignedRelease:
    """One more release on a log: release 0 with smaller weights."""
    log = BEGUN if log is None else log
    number = len(log.releases) + 1
    share = np.float32(1 - number / 64 - variant / 4096)
    encoder = load_encoder().with_shared({n: t * share for n, t in load_encoder().shared().items()}, number)
    card = card_of(log, encoder, **changed)
    return SignedRelease(log.with_release(card, WHEN, key), encoder_to_bytes(encoder))


FIRST = make()
SECOND = make(FIRST.log)
FORKED = make(make(variant=1).log)


@pytest.fixture
def store() -> MemoryStore:
    """An empty vault's stand-in, with the key pinned."""
    empty = MemoryStore()
    pin_key(empty, TEXT)
    return empty


@pytest.fixture
def vault(taught_vault: Path, remembered_keys: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vault with two comments, where PALATE_HOME points."""
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    return Path(shutil.copytree(taught_vault, os.environ["PALATE_HOME"]))


def content(store: MemoryStore) -> dict[tuple[str, str], bytes]:
    return {(type_, ONLY): store.get(type_, ONLY) for type_ in stored.TYPES if store.has(type_, ONLY)}


def refused(store: MemoryStore, release: SignedRelease, key: str | None = None) -> ReleaseError:
    """The refusal, after a check that it changed nothing."""
    before, own = content(store), encoder_hash(federation_encoder(store))
    with pytest.raises(ReleaseError) as caught:
        adopt(store, release, key=key)
    assert content(store) == before
    assert encoder_hash(federation_encoder(store)) == own
    assert "\n" not in str(caught.value)
    return caught.value


# --- adopting -----------------------------------------------------------------------------------------------


def test_without_a_release_the_shipped_encoder_is_used(store: MemoryStore) -> None:
    assert encoder_hash(own_encoder()) == encoder_hash(own_encoder(store)) == SHIPPED_HASH
    assert encoder_hash(federation_encoder()) == encoder_hash(federation_encoder(store)) == SHIPPED_HASH
    assert read_standing(MemoryStore()).to_json() == {
        "release": 0, "hash": SHIPPED_HASH, "used": 0, "choice": None, "key": None, "release_key": None,
        "entries": 0,
        "head": None, "good_until": None, "history": [],
    }  # fmt: skip


def test_an_accepted_release_is_what_rounds_start_from_and_is_remembered(store: MemoryStore) -> None:
    assert adopt(store, FIRST) == Adopted(1, FIRST.log.releases[0][1].hash, True)
    assert federation_encoder(store).release == 1
    assert encoder_to_bytes(federation_encoder(store)) == FIRST.encoder
    standing = read_standing(store)
    assert (standing.key, standing.release_key) == (TEXT, KEY_TEXT)
    assert (standing.entries, standing.head, standing.until) == (2, FIRST.log.head, WHEN + 90 * 86_400)
    assert adopt(store, SECOND).release == federation_encoder(store).release == 2
    assert len(read_standing(store).history) == 2


def test_before_the_first_release_the_log_alone_is_accepted(store: MemoryStore) -> None:
    assert release_key(store) is None
    begun = SignedRelease(BEGUN, b"")
    assert offer(store, encode_release(begun)) == Adopted(0, SHIPPED_HASH, False)
    assert release_key(store) == KEY.public_key().public_bytes_raw()
    assert federation_encoder(store).release == own_encoder(store).release == 0
    assert refused(store, SignedRelease(BEGUN, FIRST.encoder)).reason == "encoder"
    assert refused(MemoryStore(), begun).reason == "key"
    assert adopt(store, FIRST).new


# --- until when the log is good -----------------------------------------------------------------------------


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_device_says_so_when_its_log_is_not_good_any_more(store: MemoryStore) -> None:
    late = WHEN + 91 * 86_400
    assert why_not_good(MemoryStore(), at(late)) == why_not_good(store, at(late)) == ""
    adopt(store, FIRST)
    assert why_not_good(store, at(late - 2 * 86_400)) == ""
    assert "withheld" in why_not_good(store, at(late))
    renewed = SignedRelease(FIRST.log.with_statement(late, KEY, days=30), FIRST.encoder)
    assert not adopt(store, renewed).new
    assert why_not_good(store, at(late)) == ""
    adopt(store, FIRST)  # the statement from before takes nothing back
    assert why_not_good(store, at(late)) == ""
    forged = SignedRelease(FIRST.log.with_statement(late, OTHER, days=400), FIRST.encoder)
    assert refused(store, forged).reason == "signature"


def test_adopting_the_same_again_changes_nothing(store: MemoryStore) -> None:
    adopt(store, FIRST)
    before = content(store)
    assert adopt(store, FIRST, key=TEXT) == Adopted(1, FIRST.log.releases[0][1].hash, False)
    assert content(store) == before


def test_without_a_pinned_key_nothing_is_adopted() -> None:
    empty = MemoryStore()
    refusal = refused(empty, FIRST)
    assert refusal.reason == "key"
    assert "--key" in str(refusal)
    assert refused(empty, FIRST, OTHER_TEXT).reason == "key"
    assert adopt(empty, FIRST, key=TEXT).new


def test_an_older_release_is_refused(store: MemoryStore) -> None:
    adopt(store, SECOND)
    assert refused(store, FIRST).reason == "rollback"
    assert refused(store, FIRST, TEXT).reason == "rollback"


def test_another_history_is_refused(store: MemoryStore) -> None:
    adopt(store, FIRST)
    assert refused(store, FORKED).reason == "fork"
    assert refused(store, make(variant=1)).reason == "fork"


def test_a_release_for_another_backbone_is_refused(store: MemoryStore) -> None:
    assert refused(store, make(backbone="0" * 64)).reason == "backbone"
    assert refused(store, make(shapes="0" * 64)).reason == "shapes"
    assert refused(store, make(fixed="0" * 64)).reason == "fixed"


def test_a_card_of_another_encoder_is_refused(store: MemoryStore) -> None:
    assert refused(store, SignedRelease(FIRST.log, SECOND.encoder)).reason == "encoder"


def strangers() -> SignedRelease:
    """A release of somebody else's log."""
    return make(ReleaseLog.begin(OTHER, STRANGER, WHEN), OTHER)


def test_a_release_by_another_key_is_refused(store: MemoryStore) -> None:
    assert refused(store, strangers()).reason == "key"
    assert refused(store, strangers(), OTHER_TEXT).reason == "key"
    assert refused(store, make(key=OTHER)).reason == "signature"
    adopt(store, FIRST)
    assert refused(store, strangers(), OTHER_TEXT).reason == "fork"
    assert refused(store, SECOND, OTHER_TEXT).reason == "key"  # sound, and not what the person meant


def test_a_change_of_the_release_key_is_followed_and_the_pin_stays(store: MemoryStore) -> None:
    adopt(store, FIRST)
    turned = FIRST.log.with_keys(OTHER, RECOVERY, WHEN, by=RECOVERY)
    assert not adopt(store, SignedRelease(turned, FIRST.encoder)).new
    standing = read_standing(store)
    assert (standing.key, standing.release_key) == (TEXT, OTHER_KEY_TEXT)
    assert refused(store, SECOND).reason == "fork"  # signed by the key before
    assert adopt(store, make(turned, OTHER), key=TEXT).release == 2
    assert not pin_key(store, TEXT)


def test_a_stolen_release_key_cannot_put_itself_in_force_for_good(store: MemoryStore) -> None:
    adopt(store, FIRST)
    for thief in (KEY, OTHER):  # whatever he has but the recovery key
        stolen = FIRST.log.with_keys(OTHER, RECOVERY, WHEN, by=thief)
        assert refused(store, SignedRelease(stolen, FIRST.encoder)).reason == "signature"


def test_a_change_of_the_recovery_key_is_followed_and_both_texts_are_known(store: MemoryStore) -> None:
    adopt(store, FIRST)
    turned = FIRST.log.with_keys(KEY, STRANGER, WHEN, by=RECOVERY)
    adopt(store, SignedRelease(turned, FIRST.encoder))
    assert read_standing(store).key == OTHER_TEXT
    for text in (TEXT, OTHER_TEXT):
        assert not pin_key(store, text)


def test_a_key_is_pinned_once(store: MemoryStore) -> None:
    assert not pin_key(store, TEXT)
    with pytest.raises(ReleaseError, match="palate release reset"):
        pin_key(store, OTHER_TEXT)
    with pytest.raises(ReleaseError, match="no release key"):
        pin_key(store, "palate1")


def test_a_reset_forgets_everything_and_the_key_too(store: MemoryStore) -> None:
    adopt(store, SECOND)
    assert reset(store) == 2
    assert content(store) == {}
    assert encoder_hash(own_encoder(store)) == SHIPPED_HASH
    assert refused(store, FIRST).reason == "key"
    assert adopt(store, FIRST, key=TEXT).release == 1  # as the warning says
    assert reset(MemoryStore()) == 0


def test_after_an_update_of_palate_a_release_that_does_not_fit_says_so(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt(store, FIRST)
    monkeypatch.setattr(backbone, "STATISTICS_VERSION", 2)
    with pytest.raises(ReleaseError, match="palate release reset") as caught:
        federation_encoder(store)
    assert caught.value.reason == "backbone"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"no JSON", b'{"version": 1}', b'{"version": 2}', b'{"version": 2, "key": 3}']
)
def test_records_that_cannot_be_read_are_one_line_and_can_be_reset(store: MemoryStore, data: bytes) -> None:
    adopt(store, FIRST)
    store.put(stored.TRUST, ONLY, data)
    for read in (federation_encoder, read_standing):
        with pytest.raises(VaultDamagedError):
            read(store)
    with pytest.raises(VaultDamagedError):
        adopt(store, FIRST)
    reset(store)
    adopt(store, FIRST, key=TEXT)
    store.put(stored.RELEASE, ONLY, data)
    with pytest.raises(VaultDamagedError, match="palate release reset"):
        federation_encoder(store)
    reset(store)
    adopt(store, FIRST, key=TEXT)
    store.put(stored.CHOICE, ONLY, data)
    with pytest.raises(VaultDamagedError, match="palate release reset"):
        own_encoder(store)
    reset(store)
    assert own_encoder(store).release == 0


# --- over the wire ------------------------------------------------------------------------------------------


def test_an_offer_is_adopted_or_answered_with_a_refusal(store: MemoryStore) -> None:
    assert offer(store, encode_release(FIRST)) == Adopted(1, FIRST.log.releases[0][1].hash, True)
    for data, reason in (
        (encode_release(FORKED), "fork"), (b"", "size"), (b"\0" * 100, "magic"),
        (encode_log(FIRST.log), "kind"),
        (encode_release(FIRST)[:-1], "damaged"), (encode_release(make(FIRST.log, OTHER)), "signature"),
    ):  # fmt: skip
        before = content(store)
        refusal = offer(store, data)
        assert isinstance(refusal, ReleaseError)
        assert refusal.reason == reason
        assert content(store) == before
    assert isinstance(offer(store, encode_release(SECOND)), Adopted)


def test_a_server_cannot_introduce_itself() -> None:
    refusal = offer(MemoryStore(), encode_release(FIRST))
    assert isinstance(refusal, ReleaseError)
    assert refusal.reason == "key"


# --- files, the vault, the command line ---------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as servers hand it out, with two releases."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOG_NAME).write_bytes(encode_log(SECOND.log))
    for number, release in ((1, FIRST), (2, SECOND)):
        (tmp_path / "out" / encoder_name(number)).write_bytes(release.encoder)
        (tmp_path / f"{number}.palate").write_bytes(encode_release(release))
    return tmp_path / "out"


def test_a_file_and_a_folder_hold_the_same(folder: Path) -> None:
    assert read_source(folder) == read_source(folder.parent / "2.palate") == SECOND
    (folder / encoder_name(2)).unlink()
    with pytest.raises(StorageError):
        read_source(folder)
    for wrong in (folder / "none", folder / "none.palate"):
        with pytest.raises(StorageError):
            read_source(wrong)
    with pytest.raises(ReleaseError):
        read_source(folder / encoder_name(1))
    (folder / LOG_NAME).write_bytes(encode_log(BEGUN))
    with pytest.raises(ReleaseError, match="holds no release"):
        read_source(folder)


def test_the_release_is_sealed_in_the_vault_and_moves_the_evaluator(vault: Path) -> None:
    with Device.open(vault, "correct horse") as device:

        def fitted() -> Any:
            return fit_evaluator_to_vault(
                device.vault, device.comments(), device.profile(), choose_encoder=settle_encoder, adapt=False,
                progress=lambda *_: None, notice=lambda _: None,
            )  # fmt: skip

        features = np.random.default_rng(3).standard_normal((4, 216)).astype(np.float32)
        before = [one.probability for one in fitted().score(features)]
        adopt(device.vault, SECOND, key=TEXT)
        assert own_encoder(device.vault).release == 0  # until it is tried, when the evaluator is fitted
        after = [one.probability for one in fitted().score(features)]
        assert own_encoder(device.vault).release == 2
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 1e-6
        reset(device.vault)
        assert [one.probability for one in fitted().score(features)] == before
        adopt(device.vault, SECOND, key=TEXT)
    with Device.open(vault, "correct horse") as device:
        assert federation_encoder(device.vault).release == 2
        assert offer(device.vault, encode_release(FORKED)).__class__ is ReleaseError
    found = b"".join(path.read_bytes() for path in vault.rglob("*") if path.is_file())
    assert SECOND.encoder[2_000:2_064] not in found
    assert bytes.fromhex(SECOND.log.head) not in found
