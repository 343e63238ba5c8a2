"""What is changed in the vault's folder from outside is noticed, or stands in the list of what is not."""

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from palate.client.privacy.rollback import settle_loss
from palate.client.vault.vault import Vault
from palate.shared.errors import PalateError, VaultDamagedError, VaultMissingError, WrongPassphraseError
from tests.memory_keyring import MemoryKeyring

pytestmark = pytest.mark.usefixtures("quick_key")  # thousands of openings


@pytest.fixture
def home(tmp_path: Path, quick_key: None) -> Path:
    """A vault with four records, the last change made just now."""
    home = tmp_path / "vault"
    with Vault.create(home, "pw") as made:
        for number in range(3):
            with made.transaction() as change:
                change.put("comment", f"c{number}", b"too gloomy" * (number + 1))
                change.put("picture", "p", bytes([number]) * 600)
    return home


def read_all(home: Path) -> int:
    with Vault.open(home, "pw") as opened:
        return opened.verify()


def noticed(home: Path) -> bool:
    try:
        read_all(home)
    except VaultDamagedError:
        return True
    return False


def vault_files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file() and path.name != "vault.lock")


@pytest.mark.parametrize("trials", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_flipped_byte_and_every_cut_is_noticed(trials: int, home: Path) -> None:
    rng = random.Random(trials)
    files = vault_files(home)
    assert len(files) == 6
    for trial in range(trials):
        path = files[trial % len(files)]
        whole = path.read_bytes()
        place = rng.randrange(len(whole))
        if trial % 5 == 0:
            path.write_bytes(whole[:place])
        elif trial % 5 == 1:
            path.write_bytes(whole + rng.randbytes(rng.randrange(1, 40)))
        else:
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :]
            )
        assert noticed(home), f"{path.name}, trial {trial}, byte {place}"
        path.write_bytes(whole)
    assert read_all(home) == 4


def test_a_changed_head_with_a_mended_checksum_is_noticed(home: Path) -> None:
    head = home / "vault.head"
    whole = head.read_bytes()
    for place in range(8, len(whole) - 32, 7):
        body = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 : -32]
        head.write_bytes(body + hashlib.sha256(body).digest())
        # A changed salt cannot be told from another passphrase; all the rest can.
        with pytest.raises((VaultDamagedError, WrongPassphraseError)):
            read_all(home)


def test_a_missing_file_is_noticed(home: Path) -> None:
    for path in vault_files(home):
        whole = path.read_bytes()
        path.unlink()
        assert noticed(home), path.name
        path.write_bytes(whole)
    assert read_all(home) == 4


def test_records_that_were_swapped_are_noticed(home: Path) -> None:
    records = sorted((home / "records").iterdir())
    with Vault.open(home, "pw") as opened:
        sizes = {entry.size_bytes for entry in opened._head.entries.values()}
    assert len(sizes) < len(records)  # at least two are of one size, which only the seal can tell apart
    for one in records:
        for other in records:
            if one != other:
                mine, theirs = one.read_bytes(), other.read_bytes()
                one.write_bytes(theirs)
                other.write_bytes(mine)
                assert noticed(home)
                one.write_bytes(mine)
                other.write_bytes(theirs)


def test_files_of_another_vault_of_the_same_person_are_noticed(home: Path, tmp_path: Path) -> None:
    with Vault.create(tmp_path / "other", "pw") as other, other.transaction() as change:
        for name, id_ in [("comment", "c0"), ("comment", "c1"), ("comment", "c2"), ("picture", "p")]:
            change.put(name, id_, b"too gloomy")
    for mine, theirs in zip(vault_files(home), vault_files(tmp_path / "other"), strict=True):
        whole = mine.read_bytes()
        mine.write_bytes(theirs.read_bytes())
        assert noticed(home), mine.name
        mine.write_bytes(whole)


def older_and_newer(home: Path, steps: int) -> tuple[Path, Path]:
    """Copy the folder, make `steps` changes, and return the copy and the changed folder."""
    older = home.parent / "older"
    shutil.copytree(home, older)
    with Vault.open(home, "pw") as opened:
        for number in range(steps):
            with opened.transaction() as change:
                change.put("comment", "c0", f"changed {number}".encode())
    return older, home


def test_an_older_head_put_back_alone_is_noticed(home: Path) -> None:
    older, newer = older_and_newer(home, 1)
    shutil.copy(older / "vault.head", newer / "vault.head")
    assert noticed(newer)


def test_an_older_head_with_its_records_put_back_is_noticed(home: Path) -> None:
    older, newer = older_and_newer(home, 1)
    shutil.copy(older / "vault.head", newer / "vault.head")
    shutil.copytree(older / "records", newer / "records", dirs_exist_ok=True)
    assert noticed(newer)


def test_an_older_record_under_the_newer_ones_name_is_noticed(home: Path) -> None:
    older, newer = older_and_newer(home, 1)
    before = {path.name for path in (older / "records").iterdir()}
    after = {path.name for path in (newer / "records").iterdir()}
    (gone,), (came,) = before - after, after - before
    shutil.copy(older / "records" / gone, newer / "records" / came)
    assert noticed(newer)


def test_an_older_note_is_noticed_unless_it_is_what_a_crash_would_leave(home: Path) -> None:
    older, newer = older_and_newer(home, 2)
    shutil.copy(older / "vault.witness", newer / "vault.witness")
    assert noticed(newer)


def test_a_note_that_is_one_behind_is_what_a_crash_leaves_and_is_brought_up_to_date(home: Path) -> None:
    older, newer = older_and_newer(home, 1)
    current = (newer / "vault.witness").read_bytes()
    shutil.copy(older / "vault.witness", newer / "vault.witness")
    assert read_all(newer) == 4
    assert (newer / "vault.witness").read_bytes() == current


def test_a_whole_older_folder_is_noticed_only_with_the_keyring(home: Path, tmp_path: Path) -> None:
    # With a passphrase: not noticed, as the module says, for nothing outside the folder remembers.
    older, newer = older_and_newer(home, 1)
    shutil.rmtree(newer)
    shutil.copytree(older, newer)
    assert read_all(newer) == 4
    # With the keyring: noticed.
    keyring, place = MemoryKeyring(), tmp_path / "ring"
    Vault.create(place, keyring=keyring).close()
    shutil.copytree(place, tmp_path / "copy")
    with Vault.open(place, keyring=keyring) as opened, opened.transaction() as change:
        change.put("comment", "a", b"1")
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "copy", place)
    with pytest.raises(VaultDamagedError, match="rolled back"):
        Vault.open(place, keyring=keyring)
    with Vault.open(place, keyring=keyring, unsafe_accept_loss=settle_loss) as opened:
        assert opened.types() == ()
    Vault.open(place, keyring=keyring).close()


def test_a_roll_back_under_an_open_vault_is_noticed(home: Path) -> None:
    older = home.parent / "older"
    with Vault.open(home, "pw") as opened:
        shutil.copytree(home, older)
        with opened.transaction() as change:
            change.put("comment", "c0", b"changed")
        shutil.rmtree(home)
        shutil.copytree(older, home)
        with pytest.raises(VaultDamagedError, match="rolled back"):
            opened.get("comment", "c0")
        with pytest.raises(VaultDamagedError, match="rolled back"), opened.transaction():
            pass


def test_an_erased_vault_is_missing_for_whoever_has_it_open(home: Path) -> None:
    with Vault.open(home, "pw") as opened:
        Vault.erase(home)
        with pytest.raises(VaultMissingError):
            opened.get("comment", "c0")
        with pytest.raises(VaultMissingError), opened.transaction():
            pass
    assert not home.exists()


def test_an_incomplete_backup_opens_when_the_person_insists(home: Path) -> None:
    with Vault.open(home, "pw") as opened:
        (home / "records" / opened._head.entries["comment", "c1"].file).unlink()
    with pytest.raises(VaultDamagedError, match="1 of its 4 records"):
        Vault.open(home, "pw")
    with Vault.open(home, "pw", unsafe_accept_loss=settle_loss) as opened:
        assert opened.get("comment", "c2") == b"too gloomy" * 3
        with pytest.raises(VaultDamagedError):
            opened.get("comment", "c1")
        with opened.transaction() as change:
            change.delete("comment", "c1")
        # What stands for rounds that nobody knows of any more.
        assert {"privacy restored", "privacy spent"} < set(opened.types())
    assert read_all(home) == 5


def _make_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(path)  # a loop


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("replace", [_make_folder, _make_link], ids=["a folder", "a loop of links"])
def test_a_file_that_became_something_else_is_one_clear_line(
    home: Path, replace: Callable[[Path], None]
) -> None:
    for path in vault_files(home):
        copy = home.parent / "copy"
        shutil.copytree(home, copy)
        replace(copy / path.relative_to(home))
        with pytest.raises(PalateError) as caught:
            read_all(copy)
        assert "\n" not in str(caught.value)
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    "foreign", [b"", b"SQLite format 3\0" + bytes(4000), b"PALATEVH", b"PALATEVH\x02" + bytes(200)]
)
def test_a_foreign_file_is_no_vault(tmp_path: Path, foreign: bytes) -> None:
    (tmp_path / "vault.head").write_bytes(foreign)
    with pytest.raises(VaultDamagedError):
        Vault.open(tmp_path, "pw")
    assert (tmp_path / "vault.head").read_bytes() == foreign
