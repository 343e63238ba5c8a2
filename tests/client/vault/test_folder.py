"""A vault in a folder that others could write in: their links lead nowhere, and the folder is taken back."""

import os
import stat
from pathlib import Path

import pytest

from palate.client.vault import folder as vault_folder
from palate.client.vault.vault import Vault
from palate.shared import durable
from palate.shared.errors import StorageError, VaultDamagedError

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="POSIX links and permissions"),
    pytest.mark.usefixtures("remembered_keys"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A vault with a record."""
    with Vault.create(tmp_path / "vault", "pw") as made, made.transaction() as change:
        change.put("comment", "a", b"too gloomy")
    return tmp_path / "vault"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the person's that has nothing to do with the vault."""
    (tmp_path / "victim").write_bytes(b"precious")
    return tmp_path / "victim"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_links_planted_while_the_vault_is_open_lead_no_byte_elsewhere(home: Path, victim: Path) -> None:
    with Vault.open(home, "pw") as opened:
        for name in ("vault.head.new", "vault.witness.new"):
            (home / name).symlink_to(victim)
        with opened.transaction() as change:
            change.put("comment", "a", b"lovely")
        opened.change_passphrase("other")
    assert victim.read_bytes() == b"precious"
    assert not (home / "vault.head").is_symlink()
    assert not (home / "vault.witness").is_symlink()
    with Vault.open(home, "other") as opened:
        assert opened.get("comment", "a") == b"lovely"


def test_a_head_that_was_replaced_by_a_link_is_not_overwritten_with_zeros(home: Path, victim: Path) -> None:
    with Vault.open(home, "pw") as opened:
        kept = (home / "vault.head").read_bytes()
        os.replace(home / "vault.head", home / "aside")
        victim.write_bytes(kept)
        (home / "vault.head").symlink_to(victim)
        with pytest.raises((StorageError, VaultDamagedError)) as caught, opened.transaction() as change:
            change.put("comment", "a", b"lovely")
    assert "\n" not in str(caught.value)
    assert victim.read_bytes() == kept


@pytest.mark.parametrize("name", ["vault.head", "vault.lock", "vault.witness", "records"])
def test_a_link_in_the_place_of_a_part_is_one_line(name: str, home: Path) -> None:
    os.replace(home / name, home.parent / name)
    (home / name).symlink_to(home.parent / name)
    with pytest.raises((StorageError, VaultDamagedError)) as caught:
        Vault.open(home, "pw")
    assert "\n" not in str(caught.value)


def test_what_killed_writers_left_beside_head_and_note_is_cleared_when_the_vault_is_opened(
    home: Path,
) -> None:
    left = [durable.name_beside(home / name) for name in (vault_folder.HEAD, vault_folder.WITNESS)]
    for path in left:
        path.write_bytes(b"half")
    Vault.open(home, "pw").close()
    assert not any(path.exists() for path in left)


def test_a_folder_that_others_could_use_is_taken_back_when_a_vault_is_made_there(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with Vault.create(tmp_path / "open", "pw") as made:
        (line,) = made.mended
        assert "mode 0777" in line
        assert "mode 0700" in line
        assert "\n" not in line
    assert mode_of(tmp_path / "open") == 0o700
    with Vault.create(tmp_path / "new", "pw") as made:
        assert made.mended == ()


def test_a_folder_that_others_could_use_is_taken_back_when_the_vault_is_opened(home: Path) -> None:
    for path in (home, home / "records", home / "vault.head", home / "vault.witness"):
        path.chmod(0o777)
    with Vault.open(home, "pw") as opened:
        assert len(opened.mended) == 1
    assert [mode_of(path) for path in (home, home / "records")] == [0o700] * 2
    assert not any(mode_of(path) & 0o077 for path in home.rglob("*"))
    with Vault.open(home, "pw") as opened:
        assert opened.mended == ()


def test_a_disk_that_keeps_its_modes_is_used_and_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    home.chmod(0o755)
    monkeypatch.setattr(durable.os, "fchmod", refuse)
    with Vault.open(home, "pw") as opened:
        assert opened.mended == (
            f"others may use the folder {home} (mode 0755), and this disk does not let that be changed",
        )


def test_no_vault_is_made_in_another_users_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(StorageError, match="another user, 65534; name a place of your own") as caught:
        Vault.create(tmp_path / "theirs", "pw")
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "theirs").iterdir())
