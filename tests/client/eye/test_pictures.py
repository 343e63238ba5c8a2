"""Pictures of every kind are read rightly, and what is none, or too much, is one clear line."""

import io
import random
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from palate.client.eye.pictures import hash_picture, read_picture, shrink_picture
from palate.shared.errors import PictureError


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return tuple(int(part) for part in value)


# --- hostile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        bytes(1000),
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"GIF89a",
        b"<svg/>",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match=r"not a picture|cut short") as caught:
        read_picture(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("width", "height"), [(30_000, 30_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (20_000, 9_000)]
)
def test_a_picture_too_large_is_refused_from_its_header(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match=r"too large|cut short|not a picture"):
            read_picture(png_header(width, height))
    if width == height == 30_000:
        with pytest.raises(PictureError, match="too large"):
            read_picture(png_header(width, height))


def test_a_bomb_in_the_metadata_is_refused() -> None:
    whole = encode(noise())
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8_000_000), 9))
    with pytest.raises(PictureError):
        read_picture(whole[:33] + bomb + whole[33:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_picture_is_refused_wherever_it_ends(kind: str) -> None:
    whole = encode(noise(), kind)
    read_picture(whole)
    for part in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(PictureError) as caught:
            read_picture(whole[: int(len(whole) * part)])
        assert "\n" not in str(caught.value)


def test_a_png_without_its_end_is_refused_even_if_all_pixels_are_there() -> None:
    for behind in (b"", bytes(9000)):
        with pytest.raises(PictureError, match="cut short"):
            read_picture(encode(noise())[:-12] + behind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(kind: str) -> None:
    whole, rng = encode(noise(), kind), random.Random(kind)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        try:
            image = read_picture(bytes(data))
        except PictureError:
            continue
        assert image.mode == "RGB"


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.png", "a\0b.png", Path("/dev/zero")):
        with pytest.raises(PictureError) as caught:
            read_picture(path)
        assert "\n" not in str(caught.value)


# --- every kind, read rightly -------------------------------------------------------------------------------


def test_a_plain_picture_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    image = noise()
    image.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), np.asarray(image))
    assert np.array_equal(np.asarray(read_picture(str(tmp_path / "a.png"))), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_stands_upright(orientation: int) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("red", (0, 0, 10, 10))  # the corner that the camera saw at the top left of its sensor
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_picture(encode(image, "JPEG", exif=exif.tobytes(), quality=95, subsampling=0))
    width, height = upright.size
    assert (width, height) == ((40, 20) if orientation <= 4 else (20, 40))
    corners = {1: (2, 2), 2: (-3, 2), 3: (-3, -3), 4: (2, -3), 5: (2, 2), 6: (-3, 2), 7: (-3, -3), 8: (2, -3)}
    x, y = corners[orientation]
    red, green, _ = pixel(upright, x % width, y % height)
    assert red > 200
    assert green < 80


def test_broken_rotation_data_does_not_spoil_a_sound_picture() -> None:
    assert read_picture(encode(noise(), "JPEG", exif=b"Exif\0\0garbage-garbage")).size == (40, 30)


def test_cmyk_is_not_read_as_its_negative() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        r, g, b = pixel(read_picture(encode(red, kind)), 4, 4)
        assert r > 200, kind
        assert max(g, b) < 60, kind


@pytest.mark.parametrize("value", [0, 257, 32_896, 65_535])
def test_16_bit_grey_is_scaled_and_not_clipped(value: int) -> None:
    grey = Image.fromarray(np.full((6, 6), value, dtype=np.uint16))
    for kind in ("PNG", "TIFF"):
        assert pixel(read_picture(encode(grey, kind))) == (value // 257,) * 3


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\0" + struct.pack(">HHH", 65_535, 32_896, 0))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    assert pixel(read_picture(png)) == (255, 128, 0)


def test_floating_point_grey_runs_from_black_to_white() -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    read = read_picture(encode(image, "TIFF"))
    assert [pixel(read, x)[0] for x in range(3)] == [0, 128, 255]
    for wrong in (-1.0, float("nan"), 1e9):
        with pytest.raises(PictureError, match="holds values"):
            read_picture(encode(Image.fromarray(np.full((2, 2), wrong, dtype=np.float32)), "TIFF"))


def test_what_is_transparent_lies_on_white() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert pixel(read_picture(encode(half))) == (255, 127, 127)
    hidden = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    for kind in ("PNG", "WEBP"):
        assert (
            pixel(read_picture(encode(hidden, kind, **({"lossless": True} if kind == "WEBP" else {}))))
            == (255,) * 3
        )
    assert pixel(read_picture(encode(Image.new("LA", (4, 4), (0, 0))))) == (255, 255, 255)
    named = encode(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))
    assert pixel(read_picture(named)) == (255, 255, 255)


def test_palettes_are_looked_up_and_their_transparency_kept() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 0, 0, 0])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        read = read_picture(encode(image, kind, transparency=1))
        assert pixel(read, 0) == (200, 10, 20)
        assert pixel(read, 1) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "white"), [("1", 1), ("L", 255)])
def test_grey_and_black_and_white_become_rgb(mode: str, white: int) -> None:
    assert pixel(read_picture(encode(Image.new(mode, (3, 3), white)))) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {} if kind == "TIFF" else {"duration": 100}
    r, g, b = pixel(
        read_picture(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)), 8, 8
    )
    assert (r > 240, g < 20, b < 20) == (True, True, True)


def test_a_colour_profile_is_applied_and_a_broken_one_ignored() -> None:
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.allclose(pixel(read_picture(encode(image, icc_profile=same))), (200, 100, 50), atol=2)
    assert pixel(read_picture(encode(image, icc_profile=b"garbage"))) == (200, 100, 50)


# --- files as phones and cameras write them -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_stands_behind_a_pictures_end_is_left_alone(kind: str) -> None:
    whole = encode(noise(), kind)
    video = struct.pack(">I4s", 24, b"ftyp") + b"mp42" + bytes(9000)  # as the motion photos of phones have it
    assert np.array_equal(np.asarray(read_picture(whole + video)), np.asarray(read_picture(whole)))


def test_of_a_jpeg_with_several_pictures_the_first_is_read() -> None:
    second = Image.new("RGB", (30, 40), "blue")
    several = encode(Image.new("RGB", (40, 30), "red"), "MPO", save_all=True, append_images=[second])
    assert read_picture(several).size == (40, 30)
    assert pixel(read_picture(several))[0] > 240
    assert read_picture(several[:-300]).size == (40, 30)  # the second may be cut short


def flat_jpeg(width: int, height: int) -> bytes:
    """Return an evenly grey JPEG of any size, without ever holding its pixels."""
    small = encode(Image.new("L", (16, 16), 128), "JPEG")
    scan = small.index(b"\xff\xda")
    header = bytearray(small[: scan + 2 + int.from_bytes(small[scan + 2 : scan + 4], "big")])
    size = header.index(b"\xff\xc0") + 5
    header[size : size + 4] = struct.pack(">HH", height, width)
    # A block like the one before it takes six bits, 001010, so four blocks take these three bytes.
    return bytes(header) + b"\x28\xa2\x8a" * (width * height // 256) + b"\xff\xd9"


def test_a_jpeg_of_200_megapixels_is_read_smaller() -> None:
    data = flat_jpeg(16_320, 12_240)
    whole = read_picture(data)
    assert whole.size == (8160, 6120)
    assert pixel(whole, 8159, 6119) == (128, 128, 128)
    assert read_picture(data, least_side=512).size == (2040, 1530)


def test_a_jpeg_that_is_too_large_even_at_half_its_size_is_refused() -> None:
    with pytest.raises(PictureError, match="too large"):
        read_picture(flat_jpeg(30_000, 20_000)[:1000])


def test_a_large_progressive_jpeg_is_refused_since_its_decoder_needs_memory_for_all_of_it() -> None:
    data = bytearray(encode(Image.new("L", (16, 16), 128), "JPEG", progressive=True))
    size = data.index(b"\xff\xc2") + 5
    data[size : size + 4] = struct.pack(">HH", 12_240, 16_320)
    with pytest.raises(PictureError, match="too large"):
        read_picture(bytes(data), least_side=512)


HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(range(200))
AVIF_BRANDS = struct.pack(">I", 24) + b"ftypmif1\0\0\0\0avifmif1" + bytes(range(200))


def test_a_heic_is_named_by_its_content_where_nothing_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.jpg").write_bytes(HEIC)
    with pytest.raises(
        PictureError, match=r"photo\.jpg' is a HEIC picture; install pillow-heif .* or export it as JPEG"
    ):
        read_picture(tmp_path / "photo.jpg")
    with pytest.raises(PictureError) as caught:
        read_picture(AVIF_BRANDS)
    assert "HEIC" not in str(caught.value)


def test_a_heic_is_read_where_pillow_heif_is_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    image = Image.new("RGB", (64, 48), (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = pillow_heif.from_pillow(image)
    turned.info["exif"] = exif.tobytes()
    stream = io.BytesIO()
    turned.save(stream)
    data = stream.getvalue()
    read = read_picture(data)
    assert read.size == (48, 64)
    assert np.allclose(pixel(read, 20, 20), (200, 30, 30), atol=6)
    assert "HEIF" not in Image.OPEN  # what other code of this process reads has not changed
    for end in (40, len(data) // 2, len(data) - 5):
        with pytest.raises(PictureError, match="damaged or cut short"):
            read_picture(data[:end])
    with pytest.raises(PictureError, match="damaged or cut short"):
        read_picture(HEIC)


# --- what the vault keeps -----------------------------------------------------------------------------------


def test_the_kept_copy_is_small_and_looks_the_same() -> None:
    slope = np.linspace(0, 255, 1200, dtype=np.float32)
    image = Image.fromarray(np.stack([np.tile(slope, (800, 1))] * 3, axis=-1).astype(np.uint8))
    kept = shrink_picture(image)
    small = read_picture(kept)
    assert small.size == (256, 171)
    assert len(kept) < 20_000
    reference = np.asarray(image.resize(small.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(small, dtype=float) - reference).mean() < 2


def test_the_kept_copy_carries_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    with Image.open(
        io.BytesIO(encode(noise(), "JPEG", exif=exif.tobytes(), comment=b"taken at home"))
    ) as image:
        image.load()
        kept = shrink_picture(image)
    assert b"home" not in kept
    assert b"Exif" not in kept


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (3, 900)])
def test_odd_shapes_keep_at_least_one_pixel(size: tuple[int, int]) -> None:
    assert max(read_picture(shrink_picture(Image.new("RGB", size))).size) <= 256


def test_a_small_picture_is_not_enlarged() -> None:
    assert read_picture(shrink_picture(noise())).size == (40, 30)


def test_a_large_jpeg_may_be_decoded_small() -> None:
    data = encode(noise(1600, 1200), "JPEG")
    assert read_picture(data).size == (1600, 1200)
    width, height = read_picture(data, least_side=256).size
    assert 256 <= width < 800
    assert width * 3 == height * 4


def test_a_picture_is_named_by_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_picture(tmp_path / "a") == hash_picture(b"abc") == known
