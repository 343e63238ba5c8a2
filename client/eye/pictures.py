"""Reads pictures strictly, whatever they come as, and makes the small copies that the vault keeps.

The first step of the flow: a picture that a person comments on (or asks a score for) becomes plain 8-bit RGB pixels
here, or one clear `PictureError`. Files from anywhere are hostile input: only well-known raster formats are tried
(nothing that runs a program, such as PostScript), sizes are checked from the header before a pixel is decoded, and a
picture that ends early is refused rather than filled up.

What is read rightly: CMYK and wide-gamut pictures (through their colour profile where there is one), 16 bits per
channel (scaled, not clipped), palettes, grey, transparency (laid on white), animations (their first frame), and
pictures that a camera marked as rotated.
"""

import hashlib
import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from palate.shared.errors import PictureError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "MPO")
MAX_FILE_BYTES = 200 * 1024 * 1024
MAX_PIXELS = 120_000_000
KEPT_SIDE_PIXELS = 256


def read_picture(source: Path | str | bytes, *, least_side: int | None = None) -> Image.Image:
    """Return a picture from a file or from its bytes as RGB, 8 bits, upright.

    `least_side` allows a JPEG to be decoded at a fraction of its size, of at least so many pixels on the longer side:
    several times faster where only a small copy is needed. Raises `PictureError`.
    """
    data, name = _read_bytes(source)
    try:
        with warnings.catch_warnings():
            # The size is checked below, by a rule of our own; the library's warning would only repeat it.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError:
        raise PictureError(f"{name} is too large; a picture has at most {MAX_PIXELS:,} pixels") from None
    except Exception:  # noqa: BLE001 - decoders raise almost anything for hostile bytes, and all of it means the same
        raise PictureError(
            f"{name} is not a picture that can be read; give a PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PictureError(
                f"{name} is too large ({width:,} × {height:,}); a picture has at most {MAX_PIXELS:,} pixels, "
                "so give a smaller copy"
            )
        if image.format == "PNG" and b"IEND" not in data[-4096:]:
            raise PictureError(f"{name} is damaged or cut short; give a whole picture")
        try:
            if least_side is not None and image.format == "JPEG":
                image.draft(None, (least_side, least_side))
            image.load()
            return _to_rgb(_upright(image))
        except PictureError as error:
            raise PictureError(f"{name} {error}") from None
        except Exception:  # noqa: BLE001 - as above
            raise PictureError(f"{name} is damaged or cut short; give a whole picture") from None


def hash_picture(source: Path | str | bytes) -> str:
    """Return a picture's id, the SHA-256 of its bytes in hexadecimal, unread; raises `PictureError` for no file."""
    return hashlib.sha256(_read_bytes(source)[0]).hexdigest()


def shrink_picture(image: Image.Image, longest_side: int = KEPT_SIDE_PIXELS) -> bytes:
    """Return a copy of at most `longest_side` pixels a side as JPEG bytes without any metadata (10 to 60 kB).

    This is what the vault keeps: enough for every feature, and nothing of place, time or camera. JPEG without chroma
    subsampling rather than WebP, which halves the resolution of colour, and colour is much of taste.
    """
    small = image.convert("RGB")
    if max(small.size) > longest_side:
        scale = longest_side / max(small.size)
        width, height = (max(1, round(side * scale)) for side in small.size)
        small = small.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    clean = Image.frombytes("RGB", small.size, small.tobytes())
    stream = io.BytesIO()
    clean.save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read_bytes(source: Path | str | bytes) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        name = "the picture"
        if len(source) > MAX_FILE_BYTES:
            raise PictureError(f"{name} has {len(source):,} bytes; at most {MAX_FILE_BYTES:,} are read")
        return source, name
    path, name = Path(source), f"the picture {str(source)!r}"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or device might never end
            raise PictureError(f"{name} is not a file; give the path of a picture")
        if status.st_size > MAX_FILE_BYTES:
            raise PictureError(f"{name} has {status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1), name
    except FileNotFoundError:
        raise PictureError(f"{name} does not exist; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or "not a path"
        raise PictureError(f"{name} cannot be opened ({reason})") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - broken metadata of a sound picture: leave it as its pixels lie
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_deep_grey(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            own, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, own, target, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a profile that does not fit its picture: the plain conversion below is the usual one
    return image.convert("RGB")


def _scale_deep_grey(image: Image.Image) -> Image.Image:
    """Bring grey values of more than 8 bits to 0 to 255 (Pillow's own conversion cuts off all above 255)."""
    values = np.asarray(image).astype(np.float64)
    transparent = image.info.get("transparency")
    if not np.isfinite(values).all() or values.min() < 0:
        raise PictureError("holds values that are no brightness (negative or not finite)")
    # 16-bit pictures may arrive as 32-bit integers; floating-point ones run from 0 to 1 unless they show otherwise.
    largest = float(values.max())
    steps = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0, 4294967295.0)
    white = next((step for step in steps if largest <= step), None)
    if white is None:
        raise PictureError(f"holds values up to {largest:g}, beyond any known depth")
    grey = np.rint(values * (255.0 / white))
    if isinstance(transparent, int):
        grey[values == transparent] = 255.0
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
