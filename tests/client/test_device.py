"""The façade: teaching, the profile, edits, exact forgetting, carrying a vault over."""

import json
import shutil
from pathlib import Path

import pytest

from palate.client import Device
from palate.client.demo.showcase import demo_folder
from palate.client.reader.extractor import Given
from palate.client.records import ADAPTER, COMMENT, FEATURES, PICTURE
from palate.client.taste.profile import Profile
from palate.client.vault.store import ONLY
from palate.shared.attributes import Mention
from palate.shared.errors import (
    CommentError,
    FileFormatError,
    OptionError,
    PictureError,
    VaultMissingError,
    WrongPassphraseError,
)

DEMO = demo_folder()
BOAT, CITY, CAT = DEMO / "boat.jpg", DEMO / "city.jpg", DEMO / "cat.jpg"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A place for a vault."""
    return tmp_path / "vault"


@pytest.fixture
def device(home: Path, remembered_keys: None) -> Device:
    """A device with an empty vault."""
    return Device.init(home, "correct horse")


def test_a_comment_becomes_likes_and_dislikes_with_the_comment_that_said_so(device: Device) -> None:
    taught = device.teach(BOAT, "I love the misty watercolour, but it is too dark", liked=True)
    profile = device.profile()
    assert profile.signed()["misty"] > 0
    assert profile.signed()["watercolour"] > 0
    assert profile.signed()["dark"] < 0
    assert profile.likes[0].comments == (taught.comment.id,)


def test_what_was_taught_is_there_when_the_vault_is_opened_again(device: Device, home: Path) -> None:
    device.teach(BOAT, "I love the misty watercolour", liked=True)
    before = device.profile()
    device.close()
    with Device.open(home, "correct horse") as again:
        assert again.profile() == before
        assert [one.comment.text for one in again.comments()] == ["I love the misty watercolour"]


def test_a_picture_may_be_given_as_bytes(device: Device) -> None:
    device.teach(BOAT, "misty, lovely", liked=True)
    assert device.teach(BOAT.read_bytes(), "misty, lovely", liked=True) == device.comments()[0]


def test_the_same_comment_on_the_same_picture_counts_once(device: Device) -> None:
    device.teach(BOAT, "lovely mist", liked=True)
    once = device.profile()
    device.teach(BOAT, "lovely mist", liked=True)
    assert device.profile() == once
    device.teach(CITY, "lovely mist", liked=True)
    assert device.profile().signed()["misty"] > once.signed()["misty"]


def test_a_verdict_alone_says_nothing_to_the_profile_and_moves_the_evaluator(device: Device) -> None:
    before = device.score([BOAT], adapt=False)[0].probability
    taught = device.teach(BOAT, liked=True)
    assert (taught.comment.text, taught.comment.liked, taught.mentions) == ("", True, ())
    assert device.profile() == Profile()
    assert device.still_needed() == (7, 8)
    assert device.score([BOAT], adapt=False)[0].probability > before


def test_the_same_verdict_on_the_same_picture_counts_once(device: Device) -> None:
    said = device.teach(BOAT, "lovely mist", True)
    assert device.teach(BOAT, liked=True) == said
    assert device.teach(CITY, "", liked=True) == device.teach(CITY, None, liked=True)
    assert len(device.comments()) == 2
    before = device.score([CAT], adapt=False)
    device.teach(BOAT, "I have a boat just like this one at home", True)
    assert [one.mentions for one in device.comments()[2:]] == [()]
    assert device.still_needed() == (6, 8)
    assert device.score([CAT], adapt=False) == before


def test_of_several_verdicts_on_one_picture_the_newest_counts(device: Device) -> None:
    first = device.teach(BOAT, liked=True)
    liked = device.score([BOAT], adapt=False)
    second = device.teach(BOAT, liked=False)
    assert device.still_needed() == (8, 7)
    assert device.score([BOAT], adapt=False)[0].probability < liked[0].probability
    third = device.teach(BOAT, liked=True)
    assert len({first.comment.id, second.comment.id, third.comment.id}) == 3
    assert device.score([BOAT], adapt=False) == liked
    device.forget(third.comment.id)
    assert device.still_needed() == (8, 7)


def test_neither_words_nor_a_verdict_is_refused(device: Device) -> None:
    for comment in (None, "", "  "):
        with pytest.raises(CommentError, match="empty"):
            device.teach(BOAT, comment)
    assert device.vault.types() == ()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with two pictures, one of them twice, and a damaged one."""
    folder = tmp_path / "album"
    folder.mkdir()
    shutil.copy(BOAT, folder / "a.jpg")
    shutil.copy(CITY, folder / "b.jpg")
    shutil.copy(BOAT, folder / "c.jpg")
    (folder / "d.jpg").write_bytes(BOAT.read_bytes()[:700])
    return folder


def test_a_folder_is_taught_and_its_bad_pictures_are_named(device: Device, album: Path) -> None:
    told: list[str] = []
    taught = device.teach_all([album], True, on_unreadable=lambda name, _: told.append(name))
    assert told == [str(album / "d.jpg")]
    assert taught == [device.comments()[0], device.comments()[1], device.comments()[0]]
    assert [one.comment.liked for one in device.comments()] == [True, True]
    assert len(device.vault.list(PICTURE)) == 2
    assert device.teach_all([album / "a.jpg", album / "b.jpg"], True) == list(device.comments())
    assert device.profile() == Profile()


def test_a_folder_with_a_bad_picture_teaches_nothing_unless_somebody_is_told(
    device: Device, album: Path
) -> None:
    with pytest.raises(PictureError, match=r"d\.jpg"):
        device.teach_all([album], True)
    with pytest.raises(PictureError, match="none of the 2"):
        device.teach_all([album / "d.jpg", b"x"], True, on_unreadable=lambda *_: None)
    assert device.vault.types() == ()


def test_words_may_hold_for_every_picture_of_a_folder(device: Device, album: Path) -> None:
    device.teach_all([album / "a.jpg", album / "b.jpg"], False, comment="I hate the mist")
    assert [one.comment.text for one in device.comments()] == ["I hate the mist"] * 2
    assert device.profile().signed()["misty"] < 0


def test_a_large_folder_is_kept_in_few_changes_of_the_vault(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palate.client.teaching.GROUP", 2)
    changes = []
    transaction = device.vault.transaction
    monkeypatch.setattr(device.vault, "transaction", lambda: changes.append(1) or transaction())
    device.teach_all([BOAT, CITY, CAT], False)
    assert len(changes) == 2
    assert device.still_needed() == (8, 5)


def test_one_bad_picture_does_not_end_scoring(device: Device, album: Path) -> None:
    told: list[tuple[str, str]] = []
    scores = device.score([album], on_unreadable=lambda name, error: told.append((name, str(error))))
    assert [Path(one.image).name for one in scores] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [name for name, _ in told] == [str(album / "d.jpg")]
    assert "cut short" in told[0][1]
    with pytest.raises(PictureError, match=r"d\.jpg"):
        device.score([album])
    with pytest.raises(PictureError, match=r"d\.jpg"):
        device.score([album / "d.jpg"], on_unreadable=lambda *_: None)


def test_forgetting_a_comment_restores_the_profile(device: Device) -> None:
    device.teach(BOAT, "I love the misty watercolour", liked=True)
    before = device.profile()
    taught = device.teach(CITY, "too busy, and I can't stand watercolour", liked=False)
    assert device.profile() != before
    device.forget(taught.comment.id)
    assert device.profile() == before


def test_forgetting_leaves_the_vault_of_a_twin_that_never_heard_it(device: Device, tmp_path: Path) -> None:
    for picture, text, liked in ((BOAT, "I love the mist", True), (CITY, "too busy", False)):
        device.teach(picture, text, liked)
    device.export(tmp_path / "twin.palate", "another")
    taught = device.teach(CAT, "the neon is awful, the bold outlines are great", False)
    device.forget(taught.comment.id)
    with Device.init(tmp_path / "twin", "correct horse") as twin:
        twin.import_(tmp_path / "twin.palate", "another")
        # A vault that was restored says so, and counts its privacy budget as spent.
        kinds = set(twin.vault.types()) - {"privacy restored", "privacy spent"}
        names = {(type_, id_) for type_ in kinds for id_ in twin.vault.list(type_)}
        assert names == {(type_, id_) for type_ in device.vault.types() for id_ in device.vault.list(type_)}
        assert all(twin.vault.get(*name) == device.vault.get(*name) for name in names)
        assert twin.profile() == device.profile()


def test_forgetting_removes_the_picture_unless_another_comment_is_about_it(device: Device) -> None:
    first = device.teach(BOAT, "lovely mist", True)
    second = device.teach(BOAT, "a bit dark", None)
    device.forget(first.comment.id)
    assert device.vault.list(PICTURE) == (str(second.comment.picture),)
    device.forget(second.comment.id)
    assert device.vault.list(PICTURE) == ()
    assert device.vault.list(FEATURES) == ()
    assert device.vault.list(COMMENT) == ()


def test_forgetting_an_unknown_comment_says_where_to_look(device: Device) -> None:
    with pytest.raises(OptionError, match="palate comments"):
        device.forget("00000000")


def test_edits_have_the_last_word_and_survive_forgetting(device: Device) -> None:
    taught = device.teach(BOAT, "I love the mist and the blue", True)
    device.set("Bold Outlines", 0.8)
    device.veto("blue")
    device.lock("misty")
    locked = device.profile().signed()["misty"]
    device.teach(CITY, "I love mist, I adore mist", True)
    device.forget(taught.comment.id)
    assert device.profile().signed() == {"misty": locked, "bold outlines": 0.8}
    assert device.profile().vetoed == ("blue",)
    device.unset("blue")
    device.unlock("misty")
    device.unset("misty")
    assert "misty" in device.profile().signed()
    assert device.profile().vetoed == ()


def test_an_attribute_that_the_vocabulary_does_not_know_can_be_set(device: Device) -> None:
    device.set("wobbly  Perspectives of Doom", -0.4)
    assert device.profile().signed() == {"wobbly perspectives of doom": -0.4}


@pytest.mark.parametrize("strength", [1.5, -1.01, float("nan"), float("inf")])
def test_a_strength_out_of_range_changes_nothing(device: Device, strength: float) -> None:
    with pytest.raises(OptionError, match="from -1 to 1"):
        device.set("blue", strength)
    assert device.profile() == Profile()


@pytest.mark.parametrize("attribute", ["", "   ", "x" * 101])
def test_an_attribute_without_a_usable_name_is_refused(device: Device, attribute: str) -> None:
    with pytest.raises(OptionError, match="1 to 100 characters"):
        device.set(attribute, 0.5)


def test_a_vague_mention_is_resolved_by_the_picture(device: Device) -> None:
    device.teach(DEMO / "house-paint.jpg", "I hate these colours", False)
    assert {"orange", "warm"} & {one.attribute for one in device.profile().dislikes}


def test_praise_of_the_subject_alone_teaches_nothing(device: Device) -> None:
    assert device.teach(CAT, "I have a cat just like this one at home", None).mentions == ()


def test_a_bad_comment_or_picture_changes_nothing(device: Device, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    for picture, comment, error in (
        (BOAT, "", CommentError),
        (tmp_path / "no.png", "lovely mist", PictureError),
        (tmp_path / "missing.png", "lovely mist", PictureError),
    ):
        with pytest.raises(error):
            device.teach(picture, comment)
    assert device.vault.types() == ()


def test_a_file_of_comments_is_taught_whole(device: Device) -> None:
    taught = device.teach_file(DEMO / "mara.json")
    assert len(taught) == len(device.comments()) == 12
    assert device.still_needed() == (2, 2)
    assert {"watercolour", "misty", "blue"} <= {one.attribute for one in device.profile().likes}
    assert {"busy", "impasto", "neon"} <= {one.attribute for one in device.profile().dislikes}


def test_a_file_with_one_bad_picture_teaches_nothing(device: Device, tmp_path: Path) -> None:
    shutil.copy(BOAT, tmp_path / "boat.jpg")
    (tmp_path / "broken.jpg").write_bytes(BOAT.read_bytes()[:700])
    entries = [{"image": "boat.jpg", "comment": "lovely mist"}, {"image": "broken.jpg", "comment": "lovely"}]
    (tmp_path / "comments.json").write_text(json.dumps(entries))
    with pytest.raises(PictureError, match="entry 1, 'image'"):
        device.teach_file(tmp_path / "comments.json")
    assert device.comments() == ()


def test_a_file_that_was_stopped_half_way_goes_on_where_it_stopped(device: Device, tmp_path: Path) -> None:
    for name in ("boat.jpg", "city.jpg"):
        shutil.copy(DEMO / name, tmp_path / name)
    entries = [{"image": "boat.jpg", "comment": "lovely mist"}, {"image": "city.jpg", "comment": "too busy"}]
    (tmp_path / "comments.json").write_text(json.dumps(entries))

    def stop(what: str, done: int, total: int) -> None:
        if what == "reading comments" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.teach_file(tmp_path / "comments.json", stop)
    (kept,) = device.comments()
    device.teach_file(tmp_path / "comments.json")
    assert device.comments()[0] == kept
    assert len(device.comments()) == 2


def test_a_foreign_record_is_called_damaged(device: Device) -> None:
    with device.vault.transaction() as change:
        change.put(COMMENT, "x", b'{"version": 1, "comment": {}, "mentions": [{"strength": NaN}]}')
    with pytest.raises(Exception, match="cannot be read by this version"):
        device.profile()


def test_another_extractor_can_be_given(home: Path) -> None:
    Device.init(home, "correct horse").close()
    mention = Mention("glowing", "lighting", 1, 0.9, "glowing")
    with Device.open(home, "correct horse", extractor=Given([mention])) as device:
        assert device.teach(BOAT, "whatever it says").mentions == (mention,)


def test_the_name_of_a_profiles_version_changes_with_it_and_differs_between_vaults(
    device: Device, tmp_path: Path
) -> None:
    with Device.init(tmp_path / "other", "correct horse") as other:
        assert device.profile_version() == device.profile_version() != other.profile_version()
    empty = device.profile_version()
    device.set("blue", 0.5)
    assert device.profile_version() != empty
    device.unset("blue")
    assert device.profile_version() == empty


def test_export_and_import_carry_everything_over(device: Device, tmp_path: Path) -> None:
    device.teach(BOAT, "lovely mist", True)
    device.set("bold outlines", -0.3)
    device.profile_version()
    device.export(tmp_path / "taste.palate", "file passphrase")
    with Device.init(tmp_path / "new", "other") as new:
        new.import_(tmp_path / "taste.palate", "file passphrase")
        assert new.profile() == device.profile()
        assert new.comments() == device.comments()
        assert new.profile_version() == device.profile_version()


def test_a_wrong_passphrase_or_a_missing_vault_is_said(device: Device, home: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongPassphraseError):
        Device.open(home, "wrong")
    with pytest.raises(VaultMissingError, match="palate init"):
        Device.open(tmp_path / "nowhere", "correct horse")
    assert Device.is_locked_by_passphrase(home)


def test_erasing_leaves_nothing(device: Device, home: Path) -> None:
    device.teach(BOAT, "lovely mist", True)
    device.close()
    assert Device.exists(home)
    Device.erase(home)
    assert not Device.exists(home)
    assert not home.exists()


def test_every_change_of_the_taste_drops_the_adapter(device: Device) -> None:
    def keep_adapter() -> None:
        with device.vault.transaction() as change:
            change.put(ADAPTER, ONLY, b"stale")

    taught = device.teach(BOAT, "lovely mist", True)
    for act in (
        lambda: device.set("blue", 0.5),
        lambda: device.veto("red"),
        lambda: device.forget(taught.comment.id),
    ):
        keep_adapter()
        act()
        assert not device.vault.has(ADAPTER, ONLY)


def test_a_file_of_comments_that_is_none_teaches_nothing(device: Device, tmp_path: Path) -> None:
    (tmp_path / "comments.json").write_text('[{"image": "boat.jpg"}]')
    with pytest.raises(FileFormatError, match="'comment' is missing"):
        device.teach_file(tmp_path / "comments.json")
    assert device.comments() == ()


def read_by_the_first_reader(device: Device, comment: str, *attributes: tuple[str, int]) -> None:
    """Keep a comment as Palate 0.2 kept it: without a reader, and with another reading."""
    with device.vault.transaction() as change:
        record = json.loads(change.get(COMMENT, comment))
        del record["reader"], record["corrections"]
        record["mentions"] = [
            {"attribute": name, "category": "mood", "polarity": sign, "strength": 0.6, "phrase": name}
            for name, sign in attributes
        ]
        change.put(COMMENT, comment, json.dumps(record).encode())


def test_what_an_earlier_reader_read_is_read_anew_and_corrections_stay(device: Device, home: Path) -> None:
    old = device.teach(BOAT, "I love the soft light, but I hate the neon", True).comment.id
    new = device.teach(CITY, "I love the mist", True).comment.id
    read_by_the_first_reader(device, old, ("garish", 1))
    device = Device(device.vault)
    assert device.profile().signed()["garish"] > 0
    device.fix(old, "soft light", -1)
    told: list[tuple[int, int]] = []
    assert device.read_anew(lambda _, done, total: told.append((done, total))) == 1
    assert told == [(0, 1), (1, 1)]
    profile = device.profile().signed()
    assert "garish" not in profile
    assert profile["soft light"] < 0
    assert profile["neon"] < 0
    assert profile["misty"] > 0
    assert device.read_anew() == 0
    assert {one.comment.id for one in device.comments()} == {old, new}


def test_reading_anew_that_is_stopped_keeps_the_old_readings_and_goes_on(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [device.teach(picture, "I love the mist", True).comment.id for picture in (BOAT, CITY, CAT)]
    for one in ids:
        read_by_the_first_reader(device, one, ("garish", 1))
    device = Device(device.vault)
    monkeypatch.setattr("palate.client.teaching.GROUP", 1)

    def stop(_: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.read_anew(stop)
    assert {"garish", "misty"} <= set(Device(device.vault).profile().signed())
    assert Device(device.vault).read_anew() == 2
    assert set(Device(device.vault).profile().signed()) == {"misty"}


def test_a_correction_is_kept_sealed_and_is_forgotten_with_its_comment(device: Device, home: Path) -> None:
    taught = device.teach(BOAT, "the dark water", True)
    for polarity in (1, -1):
        fixed = device.fix(taught.comment.id, "dark", polarity)
    first, second = fixed.corrections
    assert first.read == second.read  # the label is what the reader said, not what was put right before
    assert device.profile().signed()["dark"] < 0
    again = Device.open(home, "correct horse")
    assert again.profile() == device.profile()
    again.forget(taught.comment.id)
    assert again.profile() == Profile()
    with pytest.raises(OptionError, match="no comment"):
        again.fix(taught.comment.id, "dark", 1)
