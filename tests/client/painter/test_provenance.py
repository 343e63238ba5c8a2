"""What a picture says about itself, and above all what it does not say."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from palate.client.painter.generator import DrawnPicture, Request
from palate.client.painter.provenance import Provenance, png_bytes, provenance_of, read_provenance
from palate.shared.errors import FileFormatError, PictureError

MADE = Provenance("palate", "ab12", 7, 20, 3.0, "tokens", 0.8, 0.4, "cd34", "0.1.0")


def picture() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((32, 32))


def png_saying(text: str) -> bytes:
    info, out = PngInfo(), io.BytesIO()
    info.add_itxt("palate", text)
    picture().save(out, "PNG", pnginfo=info)
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", png_bytes(picture(), MADE)[:60]])
def test_what_is_no_png_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError):
        read_provenance(data)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"gone\.png"):
        read_provenance(tmp_path / "gone.png")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "7", '{"model": "x"}', "[" * 100_000])
def test_damaged_provenance_is_refused(text: str) -> None:
    with pytest.raises(FileFormatError):
        read_provenance(png_saying(text))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "a house by the sea"),
        ("model", "../" * 3),
        ("mode", "likes: misty"),
        ("profile", "loves mist"),
        ("weights", "XYZ"),
        ("seed", "7"),
        ("seed", True),
        ("steps", 1.5),
        ("strength", float("nan")),
        ("strength", "0.8"),
        ("dislike_strength", None),
    ],
)
def test_no_field_takes_words_or_anything_but_its_own_kind(name: str, value: Any) -> None:
    with pytest.raises(FileFormatError, match=name):
        replace(MADE, **{name: value})
    with pytest.raises(FileFormatError):
        read_provenance(png_saying(json.dumps({**asdict(MADE), name: value})))


def test_a_text_chunk_that_unpacks_to_a_flood_is_refused() -> None:
    info, out = PngInfo(), io.BytesIO()
    info.add_itxt("palate", "x" * 70_000_000, zip=True)
    picture().save(out, "PNG", pnginfo=info)
    with pytest.raises((PictureError, FileFormatError)):
        read_provenance(out.getvalue())


def test_provenance_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(picture(), MADE))
    assert read_provenance(path) == MADE
    with Image.open(path) as image:
        assert image.tobytes() == picture().tobytes()


def test_a_png_without_provenance_has_none() -> None:
    out = io.BytesIO()
    picture().save(out, "PNG")
    assert read_provenance(out.getvalue()) is None


def test_no_other_metadata_of_the_picture_is_written() -> None:
    image = picture()
    image.info["comment"] = "a secret"
    image.info["exif"] = b"Exif\x00\x00secret"
    assert b"secret" not in png_bytes(image, MADE)


def test_neither_the_prompt_nor_an_attribute_is_in_the_file() -> None:
    generator: Any = SimpleNamespace(
        name="my model", weights_sha256="ab12", guidance_scale=lambda request: 3.0
    )
    request = Request(
        "grandmother garden",
        negative="hospital",
        likes=(("misty", 1.0),),
        dislikes=(("neon", 1.0),),
        seed=5,
        steps=9,
    )
    drawn = DrawnPicture(picture(), 6, 0.4, 0.2)
    made = provenance_of(generator, request, drawn, profile="cd34")
    assert (made.model, made.seed, made.steps, made.strength, made.dislike_strength) == (
        "my-model",
        6,
        9,
        0.4,
        0.2,
    )
    data = png_bytes(drawn.image, made)
    for words in ("grandmother", "garden", "hospital", "misty", "neon"):
        assert words.encode() not in data
    assert b"cd34" in data  # the search would find what is there


@pytest.mark.parametrize(("likes", "impersonal"), [((), False), ((("misty", 1.0),), True)])
def test_an_impersonal_picture_says_nothing_of_the_profile(likes: Any, impersonal: bool) -> None:
    generator: Any = SimpleNamespace(name="palate", weights_sha256="ab12", guidance_scale=lambda request: 3.0)
    drawn = DrawnPicture(picture(), 6, 0.8, 0.8)
    made = provenance_of(
        generator, Request("a cat", likes=likes), drawn, profile="cd34", impersonal=impersonal
    )
    assert (made.mode, made.strength, made.dislike_strength, made.profile) == ("none", 0.0, 0.0, "")
