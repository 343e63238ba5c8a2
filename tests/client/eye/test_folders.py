"""Folders become pictures, and one bad picture does not end the work."""

import errno
from pathlib import Path

import pytest
from PIL import Image

from palate.client.eye.folders import find_pictures, read_each
from palate.client.eye.pictures import read_picture
from palate.client.runtime.progress import no_progress
from palate.shared.errors import OptionError, PictureError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one damaged one, and things that are none."""
    for name in ("b.PNG", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "c.jpg").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    (tmp_path / "._a.png").write_bytes(b"what a Mac leaves on other disks")
    (tmp_path / "notes.txt").write_text("dear diary")
    (tmp_path / "album.jpg").mkdir()
    return tmp_path


def test_a_folder_stands_for_its_pictures_by_name(folder: Path) -> None:
    assert find_pictures([b"x", folder, str(folder / "none.png")]) == [
        b"x",
        folder / "a.png",
        folder / "b.PNG",
        folder / "c.jpg",
        str(folder / "none.png"),
    ]


def test_a_folder_without_pictures_is_named(folder: Path) -> None:
    with pytest.raises(PictureError, match=r"album\.jpg' holds no pictures"):
        find_pictures([folder, folder / "album.jpg"])


def test_a_folder_that_may_not_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PictureError, match=r"cannot be read \(Permission denied\)"):
        find_pictures([folder])


def test_more_pictures_than_are_read_at_once_are_refused() -> None:
    with pytest.raises(OptionError, match="10,000"):
        find_pictures([b""] * 10_001)


def test_the_good_pictures_are_read_and_the_bad_ones_named_with_the_reason(folder: Path) -> None:
    told: list[tuple[str, str]] = []
    found = read_each(
        [*find_pictures([folder]), b"nothing"],
        lambda picture: read_picture(picture).size,
        progress=no_progress,
        on_unreadable=lambda name, error: told.append((name, str(error))),
    )
    assert found == [(str(folder / "a.png"), (8, 8)), (str(folder / "b.PNG"), (8, 8))]
    assert [name for name, _ in told] == [str(folder / "c.jpg"), "picture 3"]
    assert "cut short" in told[0][1]
    assert "not a picture" in told[1][1]


def test_without_somebody_to_tell_the_first_bad_picture_is_raised(folder: Path) -> None:
    with pytest.raises(PictureError, match=r"c\.jpg"):
        read_each([folder / "a.png", folder / "c.jpg", b""], read_picture, progress=no_progress)


@pytest.mark.parametrize(
    ("count", "says"), [(1, "the picture is not"), (3, "none of the 3 pictures can be read")]
)
def test_where_no_picture_can_be_read_that_is_raised(count: int, says: str) -> None:
    told: list[str] = []
    with pytest.raises(PictureError, match=says):
        read_each(
            [b"nothing"] * count,
            read_picture,
            progress=no_progress,
            on_unreadable=lambda name, error: told.append(name),
        )
    assert told == []
