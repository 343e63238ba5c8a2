"""Nothing personal lies on the disk in the clear.

Every byte under the vault, the temporary folder and the home folder is
searched for needles from comments, pictures, attributes and weights, before and after each command.

The search is shown to find what it looks for: in plain files, and in a vault whose seal has been taken off.
"""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from palate.client import Device
from palate.client.commands.cli import app
from palate.client.demo.showcase import demo_folder
from palate.client.records import ADAPTER, PICTURE
from palate.client.vault import format as vault_format
from palate.client.vault.store import ONLY

DEMO = demo_folder()
COMMENTS = {
    "boat.jpg": (
        "Quiet watercolour, wonderfully misty. Reminds me of Grandmother Ottilie's kitchen.",
        "--like",
    ),
    "city.jpg": ("Far too crowded, the garish contrast makes my temples throb.", "--dislike"),
}
# Words of comments, and attributes understood from them or set by hand.
WORDS = (
    "Grandmother Ottilie",
    "temples throb",
    "watercolour",
    "crowded",
    "garish",
    "pointillism",
    "stained glass",
)
WORDS_OF_DEMO = ("favorite thing here", "make me seasick", "swirling brushstrokes", "minimalist", "impasto")


@dataclass
class Search:
    """Needles, and the folders in which none of them may lie."""

    roots: tuple[Path, ...]
    needles: dict[str, bytes] = field(default_factory=dict)

    def add_words(self, *words: str) -> None:
        """Look for words as they stand, in lower case, and as two-byte characters."""
        for word in words:
            for form in (word, word.lower()):
                self.needles[f"{form} (UTF-8)"] = form.encode()
                self.needles[f"{form} (UTF-16)"] = form.encode("utf-16-le")

    def add_bytes(self, name: str, data: bytes, length: int = 24, pieces: int = 24) -> None:
        """Look for pieces of some data, spread over it.

        Monotonous ones would be found anywhere and are left out.
        """
        for place in range(0, max(1, len(data) - length), max(1, len(data) // pieces)):
            piece = data[place : place + length]
            if len(set(piece)) > length // 3:
                self.needles[f"{name} at {place}"] = piece

    def add_picture(self, name: str, data: bytes) -> None:
        """Look for a picture's file and for its decoded pixels."""
        self.add_bytes(f"{name}, file", data)
        with Image.open(io.BytesIO(data)) as image:
            self.add_bytes(f"{name}, pixels", image.convert("RGB").tobytes())

    def find(self) -> list[str]:
        """Return where which needle lies."""
        found = []
        for root in self.roots:
            for path in sorted(root.rglob("*")):
                named = [word for word in WORDS if word.lower() in path.name.lower()]
                content = path.read_bytes() if path.is_file() else b""
                found += [f"{name} in {path}" for name, needle in self.needles.items() if needle in content]
                found += [f"{word} in the name {path}" for word in named]
        return found


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> Iterator[Search]:
    """A person's home, vault and temporary folder, watched."""
    roots = []
    for variable, name in (("PALATE_HOME", "vault"), ("TMPDIR", "temporary"), ("HOME", "home")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
        roots.append(tmp_path / name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.chdir(tmp_path / "home")
    search = Search(tuple(roots))
    search.add_words(*WORDS, *WORDS_OF_DEMO)
    for name in COMMENTS:
        search.add_picture(name, (DEMO / name).read_bytes())
    yield search
    tempfile.tempdir = None


def palate(search: Search, *arguments: str) -> str:
    """Run one command, searching before and after."""
    assert search.find() == []
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (arguments, done.stderr, done.exception)
    assert search.find() == [], arguments
    return done.stdout


def add_what_was_learned(search: Search) -> None:
    """Add the kept pictures, their features, the evaluator and the adapter to the needles."""
    from palate.client.eye.pictures import read_picture
    from palate.client.eye.tower import picture_features

    with Device.open(os.environ["PALATE_HOME"], "correct horse") as device:
        for picture in device.vault.list(PICTURE):
            kept = device.vault.get(PICTURE, picture)
            search.add_picture(picture, kept)
            features = picture_features([read_picture(kept)])[0]
            for dtype in ("<f4", "<f2", "<f8"):
                search.add_bytes(f"features of {picture} as {dtype}", features.astype(dtype).tobytes())
        evaluator = device.evaluator()
        for dtype in (np.float64, np.float32, np.float16):
            search.add_bytes("the evaluator", evaluator.mean.astype(dtype).tobytes())
        if device.vault.has(ADAPTER, ONLY):
            search.add_bytes("the adapter", device.vault.get(ADAPTER, ONLY))


def test_no_command_leaves_anything_personal_in_the_clear(search: Search, tmp_path: Path) -> None:
    palate(search, "init")
    for name, (comment, verdict) in COMMENTS.items():
        palate(search, "teach", str(DEMO / name), "--comment", comment, verdict)
    palate(search, "teach", "--from", str(DEMO / "mara.json"))
    palate(search, "profile")
    palate(search, "profile", "set", "pointillism", "0.9")
    palate(search, "profile", "veto", "stained glass")
    comments = json.loads(palate(search, "comments", "--json"))
    palate(search, "score", str(DEMO), "--json")
    add_what_was_learned(search)
    assert len(search.needles) > 300
    pictures = tmp_path / "pictures"
    palate(search, "create", "a house", "-n", "1", "--steps", "2", "--beside", "--out", str(pictures))
    palate(search, "score", str(pictures))
    palate(search, "forget", comments[0]["id"], "--yes")
    palate(search, "export", str(tmp_path / "home" / "taste.palate"))
    palate(search, "erase", "--yes")
    palate(search, "import", str(tmp_path / "home" / "taste.palate"))
    palate(search, "doctor", "--no-measure")
    # The pictures that were asked for are the person's own; they say how they were made and nothing about the
    # person.
    search.roots = (pictures,)
    assert not [where for where in search.find() if "sheet" not in where]


def test_a_refused_command_leaves_nothing_either(search: Search, tmp_path: Path) -> None:
    palate(search, "init")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((DEMO / "boat.jpg").read_bytes()[:3000])
    done = CliRunner().invoke(app, ["teach", str(broken), "--comment", COMMENTS["boat.jpg"][0]])
    assert done.exit_code == 1
    assert search.find() == []


@pytest.mark.parametrize("root", [0, 1, 2])
def test_the_search_finds_words_pictures_and_names_in_the_clear(search: Search, root: int) -> None:
    place = search.roots[root] / "deep" / "down"
    place.mkdir(parents=True)
    (place / "log.txt").write_text("understood: watercolour")
    assert any("watercolour" in found for found in search.find())
    (place / "log.txt").write_bytes("temples throb".encode("utf-16"))
    assert any("temples throb" in found for found in search.find())
    (place / "log.txt").unlink()
    shutil.copy(DEMO / "city.jpg", place / "cache.bin")
    assert any("city.jpg, file" in found for found in search.find())
    with Image.open(DEMO / "city.jpg") as image:
        (place / "cache.bin").write_bytes(b"header" + image.convert("RGB").tobytes())
    assert any("city.jpg, pixels" in found for found in search.find())
    (place / "cache.bin").rename(place / "garish-7.tmp")
    assert any("in the name" in found for found in search.find())


def test_the_search_finds_everything_in_a_vault_whose_seal_is_off(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        vault_format, "seal", lambda _key, plaintext, _bound: bytes(12) + plaintext + bytes(16)
    )
    monkeypatch.setattr(vault_format, "unseal", lambda _key, sealed, _bound: sealed[12:-16])
    with Device.init(os.environ["PALATE_HOME"], "correct horse") as device:
        taught = device.teach(DEMO / "boat.jpg", COMMENTS["boat.jpg"][0], True)
        kept = device.vault.get(PICTURE, str(taught.comment.picture))
        search.add_picture("the kept picture", kept)
    found = "\n".join(search.find())
    assert "Grandmother Ottilie" in found
    assert "watercolour" in found
    assert "the kept picture, file" in found
