"""Weights that ship are the ones that the table names, and an exchanged one is not loaded."""

import shutil
from pathlib import Path

import pytest

from palate.client.eye.tower import SHIPPED, load_tower
from palate.client.federation.member import Member
from palate.client.reader.sentences import SentenceTower
from palate.shared import shipped
from palate.shared.encoder import load_encoder
from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped, make_table, read_table
from palate.shared.subspace import load_subspace


def test_the_table_is_that_of_the_files_that_lie_here() -> None:
    # After other weights were made on purpose: python -m palate.shared.shipped
    assert dict(read_table()) == make_table()
    assert len(read_table()) > 15


def test_all_that_ships_passes() -> None:
    for folder in shipped.FOLDERS:
        check_shipped(shipped.ROOT / folder)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped weights that stands in their place."""
    for folder in shipped.FOLDERS:
        shutil.copytree(shipped.ROOT / folder, tmp_path / "copy" / folder)
    monkeypatch.setattr(shipped, "ROOT", tmp_path / "copy")
    return tmp_path / "copy"


def change_a_weight(path: Path) -> None:
    """Change one byte of the weights so that the file stays a sound one."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def test_an_exchanged_file_is_not_loaded(copied: Path) -> None:
    weights = copied / "client" / "weights"
    load_tower(weights / "picture_tower.safetensors")
    for name in ("picture_tower.safetensors", "generator/text_encoder/model.safetensors"):
        change_a_weight(weights / name)
    for name in ("encoder-0.safetensors", "subspace-0.safetensors"):
        change_a_weight(copied / "shared" / "weights" / name)
    load_tower.cache_clear()
    with pytest.raises(ModelError, match="is not the file that this version of Palate ships with") as caught:
        load_tower(weights / "picture_tower.safetensors")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="ships with"):
        SentenceTower(weights / "generator").embed(["misty"])
    with pytest.raises(ModelError, match="ships with"):
        load_encoder(copied / "shared" / "weights" / "encoder-0.safetensors")
    with pytest.raises(ModelError, match="ships with"):
        load_subspace(copied / "shared" / "weights" / "subspace-0.safetensors")
    with pytest.raises(ModelError, match="ships with"):
        check_shipped(weights / "generator")


def test_where_nobody_looks_the_same_files_are_loaded(tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path / "tower.safetensors")
    change_a_weight(tmp_path / "tower.safetensors")
    load_tower(tmp_path / "tower.safetensors")


def test_a_files_hash_is_taken_once_in_a_process(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = copied / "client" / "weights"
    check_shipped(weights)
    monkeypatch.setattr(shipped.hashlib, "file_digest", lambda *given: pytest.fail("hashed again"))
    check_shipped(weights)
    check_shipped(weights / "generator")


def test_a_device_with_another_tower_joins_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palate.client import Device
    from palate.client.eye import backbone

    shutil.copytree(backbone.WEIGHTS, tmp_path / "weights")
    with Device.init(tmp_path / "vault", "pw") as device:
        Member(device, server="example.org:443")
        monkeypatch.setattr(backbone, "WEIGHTS", tmp_path / "weights")
        Member(device, server="example.org:443")
        change_a_weight(tmp_path / "weights" / "picture_tower.safetensors")
        with pytest.raises(ModelError, match="takes part in no round; install Palate again") as caught:
            Member(device, server="example.org:443")
        assert "\n" not in str(caught.value)
