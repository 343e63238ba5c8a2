"""Scores without a vault: from any liked and disliked pictures."""

import shutil
from pathlib import Path

import pytest

from palate.client.demo.showcase import demo_folder
from palate.client.taste.scoring import score_pictures
from palate.shared.errors import OptionError, PictureError

DEMO = demo_folder()
BOAT, CITY, CAT = DEMO / "boat.jpg", DEMO / "city.jpg", DEMO / "cat.jpg"


def test_bad_pictures_are_told_and_left_out_wherever_they_were_given(tmp_path: Path) -> None:
    told: list[str] = []
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(BOAT.read_bytes()[:700])
    shutil.copy(CAT, tmp_path / "cat.jpg")
    scores = score_pictures(
        [tmp_path], liked=[BOAT, bad], disliked=[CITY], on_unreadable=lambda name, _: told.append(name)
    )
    assert told == [str(bad), str(bad)]
    assert [one.image for one in scores] == [str(tmp_path / "cat.jpg")]
    assert scores == score_pictures([tmp_path / "cat.jpg"], liked=[BOAT], disliked=[CITY])
    with pytest.raises(PictureError, match=r"bad\.jpg"):
        score_pictures([tmp_path], liked=[BOAT], disliked=[CITY])
    with pytest.raises(PictureError, match=r"bad\.jpg"):
        score_pictures([BOAT], liked=[bad], disliked=[CITY], on_unreadable=lambda *_: None)


def test_a_liked_picture_is_likelier_liked_than_a_disliked_one() -> None:
    liked, disliked = score_pictures([BOAT.read_bytes(), CITY], liked=[BOAT], disliked=[CITY])
    assert (liked.image, disliked.image) == ("picture 0", str(CITY))
    assert liked.probability > disliked.probability


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(OptionError, match="no picture"):
        score_pictures([], liked=[BOAT], disliked=[CITY])
