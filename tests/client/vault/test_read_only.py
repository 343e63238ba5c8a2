"""A vault on a disk that cannot be written: everything can be read, and a change is refused in one line."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.client.demo.showcase import demo_folder
from palate.client.vault.vault import Vault
from palate.shared import durable
from palate.shared.errors import StorageError, VaultBusyError, VaultDamagedError


class ReadOnly:
    """Stands in for `os` in `durable`: what lies below `root` can be read and not written."""

    def __init__(self, root: Path, code: int) -> None:
        self._root, self._code = root, code

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _refuse(self, path: Any) -> None:
        if Path(path).is_relative_to(self._root):
            raise OSError(self._code, os.strerror(self._code), str(path))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._refuse(path)
        return os.open(path, flags, mode)

    def replace(self, source: Any, target: Any) -> None:
        self._refuse(target)
        os.replace(source, target)

    def unlink(self, path: Any) -> None:
        self._refuse(path)
        os.unlink(path)

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        self._refuse(path)
        os.mkdir(path, mode)

    def rmdir(self, path: Any) -> None:
        self._refuse(path)
        os.rmdir(path)


@pytest.fixture(params=[errno.EROFS, errno.EACCES, errno.EPERM])
def home(
    request: pytest.FixtureRequest,
    taught_vault: Path,
    remembered_keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A vault with two comments that cannot be written, and has no lock file."""
    home = Path(shutil.copytree(taught_vault, os.environ["PALATE_HOME"]))
    (home / "vault.lock").unlink()
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setattr(durable, "os", ReadOnly(home, request.param))
    return home


def files(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def told(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)


def test_everything_is_read_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    before = files(home)
    assert len(told("comments")) == 2
    assert told("profile")["likes"]
    (score,) = told("score", str(demo_folder() / "boat.jpg"))
    assert 0 < score["probability"] < 1
    exported = told("export", str(tmp_path / "a.palate"))
    assert (
        told("import", str(tmp_path / "a.palate"), "--home", str(tmp_path / "b"))["records"]
        == exported["records"]
    )
    assert len(told("comments", "--home", str(tmp_path / "b"))) == 2
    assert files(home) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["teach", str(demo_folder() / "boat.jpg"), "--comment", "the blue is gorgeous"],
        ["profile", "set", "misty", "1"],
        ["passphrase"],
        ["erase", "--yes"],
    ],
)
def test_a_change_is_refused_in_one_line(
    home: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_NEW_PASSPHRASE", "lantern gravel otter mural")
    before = files(home)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.exception
    assert str(home) in done.stderr
    assert "\n" not in done.stderr.strip()
    assert files(home) == before


def test_a_disk_with_another_trouble_is_not_taken_for_one(
    taught_vault: Path, tmp_path: Path, remembered_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(taught_vault, tmp_path / "v"))
    monkeypatch.setattr(durable, "os", ReadOnly(home, errno.EIO))
    with pytest.raises(StorageError, match="the vault was not opened"):
        Vault.open(home, "correct horse")


def test_a_head_that_is_replaced_while_it_is_read_without_a_lock_is_read_again(
    taught_vault: Path, tmp_path: Path, remembered_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the disk cannot be written, and on another machine it can."""
    home = Path(shutil.copytree(taught_vault, tmp_path / "v"))
    writer = Vault.open(home, "correct horse")
    left = [2]
    real, write = durable.read_file, durable.os

    def read_file(path: Path, limit_bytes: int) -> bytes:
        if path.name == "vault.witness" and left[0]:
            left[0] -= 1
            with monkeypatch.context() as patch:
                patch.setattr(durable, "os", write)
                patch.setattr(durable, "read_file", real)
                for number in range(2):  # the head that was read is two behind by now
                    with writer.transaction() as change:
                        change.put("count", "a", f"{left[0]} {number}".encode())
        return real(path, limit_bytes)

    monkeypatch.setattr(durable, "os", ReadOnly(home, errno.EROFS))
    monkeypatch.setattr(durable, "read_file", read_file)
    with Vault.open(home, "correct horse") as vault:
        assert vault.get("count", "a") == b"0 1"
    assert left == [0]


def test_a_rolled_back_vault_is_noticed_without_a_lock_too(
    taught_vault: Path, tmp_path: Path, remembered_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(taught_vault, tmp_path / "v"))
    older = (home / "vault.head").read_bytes()
    with Vault.open(home, "correct horse") as vault:
        for number in range(2):
            with vault.transaction() as change:
                change.put("count", "a", str(number).encode())
    (home / "vault.head").write_bytes(older)
    monkeypatch.setattr(durable, "os", ReadOnly(home, errno.EROFS))
    with pytest.raises(VaultDamagedError, match="rolled back"):
        Vault.open(home, "correct horse")


@pytest.mark.parametrize("changed", [True, False])
def test_a_snapshot_without_a_lock_is_of_one_moment(
    changed: bool,
    taught_vault: Path,
    tmp_path: Path,
    remembered_keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Path(shutil.copytree(taught_vault, tmp_path / "v"))
    writer, vault = Vault.open(home, "correct horse"), Vault.open(home, "correct horse")
    with writer.transaction() as change:
        change.put("count", "a", b"1")
    write = durable.os
    monkeypatch.setattr(durable, "os", ReadOnly(home, errno.EROFS))

    def read_twice() -> None:
        with vault.snapshot() as records:
            assert records.get("count", "a") == b"1"
            if changed:
                monkeypatch.setattr(durable, "os", write)
                with writer.transaction() as change:
                    change.put("count", "a", b"2")
            else:
                for file in (home / "records").iterdir():
                    file.unlink()
            records.get("count", "a")

    with pytest.raises(VaultBusyError if changed else VaultDamagedError):
        read_twice()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to mount")
def test_a_folder_that_is_mounted_read_only_is_read(taught_vault: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from palate.client.commands.cli import main\n"
        "sys.argv = ['palate', *sys.argv[1:]]; main()"
    )
    script = (
        'mount --bind "$1" "$2" && mount -o remount,ro,bind "$2" || exit 77\n'
        '"$3" -c "$4" comments --home "$2" && "$3" -c "$4" export "$5" --home "$2" && ! touch "$2/a"'
    )
    (tmp_path / "ro").mkdir()
    command = ["unshare", "--mount", "bash", "-c", script, "-", str(taught_vault), str(tmp_path / "ro")]
    command += [sys.executable, code, str(tmp_path / "a.palate")]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PALATE_PASSPHRASE": "correct horse"},
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode in (1, 77) and "palate" not in done.stderr:
        pytest.skip(f"this machine does not let itself be mounted on ({done.stderr.strip()})")
    assert done.returncode == 0, done.stderr
    assert "misty" in done.stdout
    assert (tmp_path / "a.palate").exists()
