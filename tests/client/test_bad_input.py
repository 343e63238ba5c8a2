"""What a person can get wrong, or the machine: one clear line each, a non-zero end, and nothing lost."""

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.client.demo.showcase import demo_folder
from palate.shared import durable

BOAT = demo_folder() / "boat.jpg"


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")


@pytest.fixture
def vault(taught_vault: Path) -> Iterator[Path]:
    """A vault with two comments, which must be there afterwards, and alone."""
    home = Path(os.environ["PALATE_HOME"])
    shutil.copytree(taught_vault, home)
    yield home
    os.environ["PALATE_PASSPHRASE"] = "correct horse"
    kept = [one["comment"] for one in json.loads(good("comments", "--json"))]
    assert kept == ["I love the misty watercolour", "too busy"]


def good(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done.stdout


def refused(*arguments: str) -> str:
    """Run a command that must fail; return its one line."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 1, (done.exit_code, done.stdout, done.stderr, done.exception)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("palate: ")
    assert done.stdout == ""
    return lines[0]


def teach(picture: Path, comment: str = "lovely mist") -> tuple[str, ...]:
    return ("teach", str(picture), "--comment", comment)


# --- pictures -----------------------------------------------------------------------------------------------


def test_a_file_that_is_no_picture(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("dear diary")
    assert "not a picture" in refused(*teach(tmp_path / "notes.png"))


def test_a_truncated_png(vault: Path, tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-4000])
    assert "cut short" in refused(*teach(tmp_path / "half.png"))


def test_a_picture_of_30000_by_30000(vault: Path, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(30_000 * (1 + 30_000 // 8)), 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(png)
    assert "too large" in refused(*teach(tmp_path / "huge.png"))


def test_a_picture_that_is_not_there_or_a_folder(vault: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(*teach(tmp_path / "nowhere.png"))
    assert "a folder or several pictures are taught by --like" in refused(*teach(tmp_path))


def test_a_picture_to_score_that_is_none(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("dear diary")
    assert "not a picture" in refused("score", str(tmp_path / "notes.png"))
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused("score", str(tmp_path / "empty"))


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def odd_pictures(folder: Path) -> dict[str, Path]:
    """One orange picture in many unusual forms."""
    plain = Image.new("RGB", (64, 48), (255, 140, 0))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    clear = Image.new("RGBA", (64, 48), (255, 140, 0, 255))
    return {
        "cmyk": save(folder / "cmyk.jpg", plain.convert("CMYK")),
        "palette": save(folder / "palette.png", plain.quantize(8)),
        "transparent": save(folder / "clear.png", clear),
        "animated": save(
            folder / "moving.gif", plain, save_all=True, append_images=[Image.new("RGB", (64, 48))]
        ),
        "rotated": save(folder / "rotated.jpg", plain, exif=rotated),
        "16 bit": save(folder / "deep.png", Image.new("I;16", (64, 48), 40_000)),
    }


@pytest.mark.parametrize("kind", ["cmyk", "palette", "transparent", "animated", "rotated", "16 bit"])
def test_an_unusual_picture_is_simply_taught(kind: str, tmp_path: Path) -> None:
    good("init")
    picture = odd_pictures(tmp_path)[kind]
    (entry,) = json.loads(
        good("teach", str(picture), "--comment", "I hate these colours", "--dislike", "--json")
    )
    found = {one["term"] for one in entry["attributes"]}
    assert found
    assert ("orange" in found) == (kind != "16 bit")


# --- comments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("", "empty"),
        ("  \n\t ", "empty"),
        ("lovely mist " * 8400, "characters"),
        ("🎨🎨🎨🖼", "no words"),
        ("???!!", "no words"),
        ("Ich finde das Licht sehr schön, aber es ist mir zu bunt", "English"),
        ("とても美しい色ですね", "English"),
        ("Это слишком ярко для меня", "English"),
    ],
)
def test_a_comment_that_cannot_be_read(vault: Path, comment: str, reason: str) -> None:
    assert reason in refused(*teach(BOAT, comment))


# --- the vault ----------------------------------------------------------------------------------------------


def test_a_wrong_passphrase(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "wrong")
    for command in (["profile"], ["comments"], list(teach(BOAT)), ["export", str(vault.parent / "x.palate")]):
        assert "passphrase" in refused(*command)


def test_no_vault_yet() -> None:
    for command in (["profile"], ["comments"], ["forget", "a"], list(teach(BOAT)), ["create", "a house"]):
        assert "palate init" in refused(*command)


def test_a_second_init(vault: Path) -> None:
    assert "already" in refused("init")


def test_a_keyring_that_protects_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring
    from keyring.backends.fail import Keyring

    monkeypatch.setattr(keyring, "get_keyring", Keyring)
    assert "use a passphrase" in refused("init", "--keyring")
    assert not Path(os.environ["PALATE_HOME"]).exists()


@pytest.mark.parametrize("place", ["vault.head", "vault.witness"])
def test_a_damaged_vault(place: str, vault: Path) -> None:
    whole = (vault / place).read_bytes()
    middle = len(whole) // 2
    (vault / place).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert str(vault) in refused("profile")
    (vault / place).write_bytes(whole[:7])
    assert str(vault) in refused("profile")
    (vault / place).write_bytes(whole)


def test_a_damaged_record(vault: Path) -> None:
    for record in (vault / "records").iterdir():
        whole = record.read_bytes()
        record.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "was changed" in refused("profile")
    for record in (vault / "records").iterdir():
        whole = record.read_bytes()
        record.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def test_a_foreign_vault(vault: Path, tmp_path: Path) -> None:
    good("init", "--home", str(tmp_path / "other"))
    ours = (vault / "vault.head").read_bytes()
    shutil.copy(tmp_path / "other" / "vault.head", vault / "vault.head")
    assert str(vault) in refused("profile")
    (vault / "vault.head").write_bytes(b"SQLite format 3\0" + bytes(200))
    assert "not a vault" in refused("profile")
    (vault / "vault.head").write_bytes(ours)


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused("init", "--home", str(tmp_path / "file"))
    refused("profile", "--home", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_over_another_file_and_imports_of_what_is_none(vault: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.palate"
    mine.write_text("mine")
    assert "exists already" in refused("export", str(mine))
    assert mine.read_text() == "mine"
    new = str(tmp_path / "new")
    assert "not an exported vault" in refused("import", str(mine), "--home", new)
    assert "cannot be read" in refused("import", str(tmp_path / "nowhere"), "--home", new)
    good("export", str(tmp_path / "whole"))
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    assert "cut short" in refused("import", str(tmp_path / "half"), "--home", new)
    assert not Path(new).exists()
    assert "holds records already" in refused("import", str(tmp_path / "whole"))


# --- files of comments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"image": "boat.jpg"}]', "'comment' is missing"),
        ('[{"comment": "lovely mist"}]', "'image' is missing"),
        ('[{"image": "/etc/hostname", "comment": "lovely mist"}]', "not a picture"),
        ('[{"image": "/nowhere/boat.jpg", "comment": "lovely mist"}]', "does not exist"),
        ('[{"image": "boat.jpg", "comment": "lovely mist", "liked": "yes"}]', "true, false or null"),
        ('[{"image": "boat.jpg", "comment": "lovely mist", "loved": true}]', "unknown key"),
        ('[{"image": "boat.jpg", "comment": ""}]', "empty"),
        ('[{"image": "city.jpg", "comment": "lovely mist"}]', "does not exist"),
        (
            '[{"image": "boat.jpg", "comment": "lovely mist"}, {"image": "notes.jpg", "comment": "ugly"}]',
            "entry 1",
        ),
        ('{"image": "boat.jpg"}', "must be a list"),
        ("[]", "empty list"),
        ("[", "not JSON"),
    ],
)
def test_a_file_of_comments_with_a_mistake_teaches_nothing(
    content: str, reason: str, vault: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(BOAT, inside / "boat.jpg")
    shutil.copy(BOAT, tmp_path / "boat.jpg")
    (inside / "notes.jpg").write_text("dear diary")
    (inside / "comments.json").write_text(content)
    assert reason in refused("teach", "--from", str(inside / "comments.json"))


def test_a_file_of_comments_that_is_not_there(vault: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused("teach", "--from", str(tmp_path / "nowhere.json"))


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--strength", "2.5"], "strength"),
        (["--strength", "-1"], "strength"),
        (["--strength", "nan"], "strength"),
        (["--dislike-strength", "9"], "dislike_strength"),
        (["--mode", "telepathy"], "mode"),
        (["--steps", "0"], "steps"),
        (["-n", "0"], "count"),
        (["--pick", "0"], "pick"),
        (["--seed", "-3"], "seed"),
    ],
)
def test_an_option_of_create_out_of_range(arguments: list[str], name: str, vault: Path) -> None:
    assert name in refused("create", "a house", *arguments)


def test_an_empty_prompt(vault: Path) -> None:
    assert "prompt is empty" in refused("create", "  ")


def test_a_strength_in_the_profile_out_of_range(vault: Path) -> None:
    assert "from -1 to 1" in refused("profile", "set", "blue", "7")


def test_a_model_folder_that_is_none(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "model" in refused("create", "a house", "--model", str(tmp_path / "model"))
    assert "model" in refused("create", "a house", "--model", str(tmp_path / "nowhere"))


def test_forgetting_what_is_not_there(vault: Path) -> None:
    assert "palate comments" in refused("forget", "00000000")


# --- the machine --------------------------------------------------------------------------------------------


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make every write of ours fail as on a full disk; returns what empties it again."""

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with_room = durable._write_all
    monkeypatch.setattr(durable, "_write_all", full)
    return lambda: monkeypatch.setattr(durable, "_write_all", with_room)


def test_no_room_on_the_disk(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_disk = fill_disk(monkeypatch)
    for command in (teach(BOAT, "too misty"), ("profile", "set", "blue", "0.5")):
        assert "the disk is full" in refused(*command)
    assert "I love the mist" in good("comments")  # reading needs no room
    empty_disk()


def test_no_room_for_a_new_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    assert "the disk is full" in refused("init")


def test_ctrl_c_in_the_middle_of_a_change(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as pressed:
        pressed.setattr(durable, "rename", press)
        done = CliRunner().invoke(app, list(teach(BOAT, "too misty")))
    assert done.exit_code == 130
    assert done.stderr.strip() == "palate: stopped; everything that was finished before is kept"


HOLDER = """
import os, sys
from palate.client.vault.vault import Vault
with Vault.open(os.environ["PALATE_HOME"], "correct horse") as vault, vault.transaction():
    print("holding", flush=True)
    sys.stdin.readline()
"""


def test_two_processes_on_one_vault(vault: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        assert "another process" in refused(*teach(BOAT, "too misty"))
        holder.communicate("\n", timeout=60)
