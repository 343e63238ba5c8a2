"""The app bundle: the same bytes and hash as Flower makes of it, and no code in it."""

import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

import pytest

from palate.shared import bundle

pytestmark = pytest.mark.filterwarnings(
    "ignore:GitWildMatchPattern:DeprecationWarning"
)  # in Flower's own build


def test_flower_makes_the_very_archive_that_we_foresee(tmp_path: Path) -> None:
    build = pytest.importorskip("flwr.cli.build")
    folder = bundle.write_bundle(tmp_path / "bundle")
    assert build.build_fab_from_disk(folder) == bundle.bundle_bytes()
    assert hashlib.sha256(build.build_fab_from_disk(folder)).hexdigest() in bundle.known_hashes()


def test_the_hashes_stay_what_they_are() -> None:
    # Devices know no others: a change here shuts out every device that is not updated.
    assert bundle.known_hashes() == {
        "d0dfe69b66287f88c583ec422f8c7dfe541c05b0930f73daa0c42ac8dc0879e1",
        "4ecdc528308a7dba4fbb3648ca0d64587b9358386007a011ebdef6d22dbd65f6",
    }


def test_it_names_two_apps_and_holds_nothing_else() -> None:
    config = tomllib.loads(bundle.bundle_files()["pyproject.toml"].decode())
    assert config["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "palate.server.app:app",
        "clientapp": "palate.client.app:app",
    }
    assert config["tool"]["flwr"]["app"]["config"] == {"settings": ""}
    with zipfile.ZipFile(io.BytesIO(bundle.bundle_bytes())) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_any_other_file_in_it_gives_another_hash(tmp_path: Path) -> None:
    build = pytest.importorskip("flwr.cli.build")
    folder = bundle.write_bundle(tmp_path / "bundle")
    (folder / "client").mkdir()
    (folder / "client" / "app.py").write_text("print('executed')\n")
    assert hashlib.sha256(build.build_fab_from_disk(folder)).hexdigest() not in bundle.known_hashes()


def test_another_setting_in_it_gives_another_hash(tmp_path: Path) -> None:
    build = pytest.importorskip("flwr.cli.build")
    folder = bundle.write_bundle(tmp_path / "bundle")
    config = folder / "pyproject.toml"
    config.write_text(config.read_text().replace("palate.client.app", "other.client.app"))
    assert hashlib.sha256(build.build_fab_from_disk(folder)).hexdigest() not in bundle.known_hashes()
