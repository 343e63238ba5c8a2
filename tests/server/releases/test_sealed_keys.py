"""The release key at rest: for its owner alone, sealed if wanted, refused when changed."""

import stat
import sys
from pathlib import Path

import pytest

from palate.server.releases.sealed_keys import make_key, passphrase_given, read_key, read_public
from palate.shared.errors import FileFormatError, OptionError, StorageError, WrongPassphraseError

PASSPHRASE = "correct horse"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "release.key"


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_key_comes_back_as_it_was_made(path: Path, passphrase: str | None) -> None:
    assert (read_public(path), read_key(path, passphrase)) == (None, None)
    key = make_key(path, passphrase)
    found = read_key(path, passphrase)
    assert found is not None
    assert found.private_bytes_raw() == key.private_bytes_raw()
    assert read_public(path) == key.public_key().public_bytes_raw()
    assert make_key(path, passphrase).private_bytes_raw() != key.private_bytes_raw()
    assert [one.name for one in path.parent.iterdir()] == ["release.key"]


def test_the_file_is_its_owners_alone(path: Path) -> None:
    make_key(path, None)
    if sys.platform == "win32":
        return
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o620, 0o777):
        path.chmod(mode)
        with pytest.raises(OptionError, match="chmod 600"):
            read_key(path, None)


def test_a_sealed_key_is_not_in_the_file_and_opens_with_its_passphrase_only(path: Path) -> None:
    key = make_key(path, PASSPHRASE)
    assert key.private_bytes_raw() not in path.read_bytes()
    with pytest.raises(WrongPassphraseError, match="set PALATE_RELEASE_PASSPHRASE"):
        read_key(path, None)
    with pytest.raises(WrongPassphraseError, match="does not open"):
        read_key(path, "wrong horse")
    open_file = path.with_name("open.key")
    assert (
        make_key(open_file, None).private_bytes_raw() in open_file.read_bytes()
    )  # so the search finds what is there


def test_the_passphrase_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PALATE_RELEASE_PASSPHRASE", raising=False)
    assert passphrase_given() is None
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "")
    assert passphrase_given() is None
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", PASSPHRASE)
    assert passphrase_given() == PASSPHRASE


def test_no_changed_byte_of_an_open_key_goes_unnoticed(path: Path) -> None:
    make_key(path, None)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(FileFormatError):
            read_key(path, None)


def test_a_changed_sealed_key_is_refused(path: Path) -> None:
    make_key(path, PASSPHRASE)
    data = path.read_bytes()
    for place in (
        0,
        8,
        9,
        10,
        41,
        42,
        60,
        len(data) - 1,
    ):  # magic, version, sealed, public half, salt, nonce, seal
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises((FileFormatError, WrongPassphraseError)):
            read_key(path, PASSPHRASE)
    for size in (0, 9, 41, 42, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(FileFormatError):
            read_public(path)
    path.write_bytes(data + b"x")
    with pytest.raises(FileFormatError):
        read_public(path)


def test_what_cannot_be_written_or_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="no key was made"):
        make_key(tmp_path / "file" / "release.key", None)
    (tmp_path / "folder").mkdir()
    with pytest.raises((StorageError, OptionError)):
        read_public(tmp_path / "folder")
    with pytest.raises(OptionError, match="no text"):
        make_key(tmp_path / "release.key", "\ud800")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]
