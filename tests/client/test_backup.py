"""One sealed file carries a vault elsewhere, whole or not at all."""

import base64
import random
from pathlib import Path

import pytest

from palate.client.backup import export_vault, import_vault
from palate.client.vault import export as vault_export
from palate.client.vault.export import read_export
from palate.client.vault.vault import Vault
from palate.shared.errors import (
    OptionError,
    StorageError,
    VaultDamagedError,
    VaultError,
    WrongPassphraseError,
)

# Written by format version 1, passphrase "travel".
GOLDEN_EXPORT = (
    "UEFMQVRFVlgBt6/7r52iNFXio/Jtd0hjf5JBMnDhwMVmRtpv6ebo4FXpbCYna8Wq3d/BuU0Vhu2iAAABHNDfLggNUbkh"
    "c/YxMraw2uYIvtgLEj03fYknuqR9chcGIhies65n79IQPgOxOGGZhMsSpPLjxoFOzPpqEcNUkpPRWkgRT6T6fzvIxBV+"
    "RipBJv9mhrIH3J9A3Ce90qLGWCU465ktkfsVD6HT96dX4O9kzKLS2w/7xLKd0JULX7bQIn+QSy26f8VoFCSPGiVJ2pPw"
    "dyfkNuHBfjM1bBcqim8uGXXdN/TLN48rfSc2Dl38vpwZsRiHLWuJYNRxqynJAV9Fr0ZKZelXOzTb8Nco2Htz8CwOqxQF"
    "SFlbvs0SKoPidclywaVVrspmbajNOLiE0REa5wr1Ts56B5ST4H8dHEkmqFIh9wiROMoHLLPXqCevLpqUFdHWg62+az81"
    "AAABHIrSyzDLNXYQCjJyTOiYdG3E4jquVJbM8vbFwD7UnFi4DGGtb18VQu+g0OBKYXuyP3t4hGQMq1+DbrteueObmTFO"
    "TUitDK1CHwwYE4bf9KbrykyR0IQ3o2qg66+9r5QtuVHMl4lt2aembe2yrLNL5XQfvW+cf5WPVVPS9YJGs1DWekPZSsD7"
    "Cbxd2v7a0GkZG6RI0MUdMoCpGCNEOusDDpsGzDtdxKaNMB9Vb5SsuN8kzMHD2JIS1ydTvCbUeDs3jVY0xlnw4UOCj9P6"
    "P0bMWec9f1siQB/OQD/9nTza7f0qNijtY8sCH4kcNpBK2418C5q6vqDPfZBWu/ltT2qs0+ZLDnuGiDBFZ9dalyQf05Fg"
    "oKQz1nDSErgbLeVb"
)


@pytest.fixture
def filled(tmp_path: Path, quick_key: None) -> Vault:
    made = Vault.create(tmp_path / "vault", "pw")
    with made.transaction() as change:
        change.put("comment", "a", b"too gloomy\nand more")
        change.put("comment", "b", b"")
        change.put("picture", "p", random.Random(1).randbytes(5000))
    return made


def test_an_export_of_format_version_1_is_read(tmp_path: Path) -> None:
    (tmp_path / "e").write_bytes(base64.b64decode(GOLDEN_EXPORT))
    assert list(read_export(tmp_path / "e", "travel")) == [("comment", "a1", b"too gloomy")]


def test_what_was_exported_is_imported(filled: Vault, tmp_path: Path) -> None:
    assert export_vault(filled, tmp_path / "e", "travel") == 3
    assert b"too gloomy" not in (tmp_path / "e").read_bytes()
    with Vault.create(tmp_path / "new", "other") as new:
        assert import_vault(new, tmp_path / "e", "travel") == 3
        for type_, id_ in [("comment", "a"), ("comment", "b"), ("picture", "p")]:
            assert new.get(type_, id_) == filled.get(type_, id_)
        with pytest.raises(VaultError, match="already"):
            import_vault(new, tmp_path / "e", "travel")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "new", "vault"]


def test_an_empty_vault_can_be_carried_too(tmp_path: Path, quick_key: None) -> None:
    with Vault.create(tmp_path / "v", "pw") as made:
        assert export_vault(made, tmp_path / "e", "pw") == 0
        account = ("privacy account", "only", made.store.hex().encode())
    assert list(read_export(tmp_path / "e", "pw")) == [account]


def test_an_export_never_takes_the_place_of_a_file(filled: Vault, tmp_path: Path) -> None:
    (tmp_path / "e").write_text("mine")
    with pytest.raises(OptionError, match="exists"):
        export_vault(filled, tmp_path / "e", "pw")
    with pytest.raises(StorageError):
        export_vault(filled, tmp_path / "none" / "e", "pw")
    assert (tmp_path / "e").read_text() == "mine"


def test_a_wrong_passphrase_or_no_file_is_one_clear_line(filled: Vault, tmp_path: Path) -> None:
    export_vault(filled, tmp_path / "e", "travel")
    with pytest.raises(WrongPassphraseError):
        list(read_export(tmp_path / "e", "pw"))
    with pytest.raises(OptionError, match="cannot be read"):
        list(read_export(tmp_path / "none", "pw"))


def test_every_change_and_every_cut_is_noticed_and_imports_nothing(filled: Vault, tmp_path: Path) -> None:
    path = tmp_path / "e"
    export_vault(filled, path, "travel")
    whole, rng = path.read_bytes(), random.Random(7)
    with Vault.create(tmp_path / "new", "pw") as new:
        for trial in range(400):
            place = rng.randrange(len(whole))
            if trial % 3 == 0:
                path.write_bytes(whole[:place])
            elif trial % 3 == 1:
                path.write_bytes(whole + rng.randbytes(3))
            else:
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
            with pytest.raises((VaultDamagedError, WrongPassphraseError)):
                import_vault(new, path, "travel")
        assert new.types() == ()


def test_records_that_were_left_out_or_moved_are_noticed(filled: Vault, tmp_path: Path) -> None:
    path = tmp_path / "e"
    export_vault(filled, path, "travel")
    whole = path.read_bytes()
    start, frames, place = whole[: vault_export._START.size], [], vault_export._START.size
    while place < len(whole):
        length = 4 + int.from_bytes(whole[place : place + 4], "big")
        frames.append(whole[place : place + length])
        place += length
    assert len(frames) == 5
    a, b, c, account, last = frames
    for wrong in (
        [a, b, account, last],
        [a, b, c, last],
        [b, a, c, account, last],
        [a, b, c, account],
        [a, a, b, c, account, last],
        [last],
        [a, b, c, account, last, last],
    ):
        path.write_bytes(start + b"".join(wrong))
        with pytest.raises(VaultDamagedError):
            list(read_export(path, "travel"))
