"""Read pictures strictly, whatever they come as, and make the small copies that the vault keeps.

The first step of the flow: a picture that a person comments on, or wants a score for, becomes plain 8-bit RGB
pixels here, or one clear `PictureError`. Files from anywhere are hostile input. Only well-known raster
formats are tried (nothing that runs a program, such as PostScript). Sizes are checked from the header before
a pixel is decoded. A picture that ends early is refused rather than filled up.

What is read correctly: CMYK and wide-gamut pictures (through their colour profile where there is one), 16
bits per channel (scaled, not clipped), palettes, grey, transparency (laid on white), animations (their first
frame), pictures that a camera marked as rotated, and files with something behind the picture's end (a phone's
motion photos). HEIC, the format of many phones, is read where `pillow-heif` is installed.
"""

import hashlib
import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from palate.shared.errors import PictureError

PictureSource = Path | str | bytes
"""A picture's file, or its bytes."""

FORMATS = (
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "AVIF",
)  # and JPEG and HEIC, which are told by their bytes
MAX_FILE_BYTES = 200 * 1024 * 1024
MAX_PIXELS = 120_000_000
MAX_DRAFT_PIXELS = 2 * MAX_PIXELS
"""For a JPEG, which is then decoded at half its size or less.

That needs memory for the smaller picture only, unless it is.
progressive; one that hides its many scans needs no more than the largest picture of another format."""
KEPT_SIDE_PIXELS = 256

_HEIC_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
_AVIF_BRANDS = frozenset((b"avif", b"avis"))


def read_picture(source: PictureSource, *, least_side: int | None = None) -> Image.Image:
    """Return a picture as RGB, 8 bits, upright.

    Args:
        source: a file, or its bytes.
        least_side: where a small copy is enough, its least number of pixels on the shorter side. A JPEG may
            then be decoded at a half, a quarter or an eighth of its size, which is several times faster.

    Raises:
        PictureError: no picture, a damaged or too large one, or a format that needs another library.
    """
    data, name = _read_bytes(source)
    try:
        with warnings.catch_warnings():
            # Sizes are checked below, by a rule of our own, and a strange header is no news to the caller.
            warnings.simplefilter("ignore")
            image = _open(data)
    except PictureError as error:
        raise PictureError(f"{name} {error}") from None
    except Image.DecompressionBombError:
        raise PictureError(f"{name} is too large; a picture has at most {MAX_PIXELS:,} pixels") from None
    except Exception:  # noqa: BLE001 - decoders raise almost anything for hostile bytes, and all of it means the same
        raise PictureError(
            f"{name} is not a picture that can be read; give a PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from None
    with image:
        width, height = image.size
        large = width * height > MAX_PIXELS
        draftable = isinstance(image, JpegImageFile) and not image.info.get("progressive")
        if width * height > (MAX_DRAFT_PIXELS if draftable else MAX_PIXELS):
            raise PictureError(
                f"{name} is too large ({width:,} × {height:,}); a picture has at most {MAX_PIXELS:,} pixels, "
                "so give a smaller copy"
            )
        # Anything may follow the end, but the end must be there: a picture may be cut short after its last
        # pixel.
        if image.format == "PNG" and b"\0\0\0\0IEND" not in data:
            raise PictureError(f"{name} is damaged or cut short; give a whole picture")
        try:
            if isinstance(image, JpegImageFile):
                wanted = [min(least_side or side, side // 2 if large else side) for side in image.size]
                image.draft(None, (wanted[0], wanted[1]))
            image.load()
            return _to_rgb(_upright(image))
        except PictureError as error:
            raise PictureError(f"{name} {error}") from None
        except Exception:  # noqa: BLE001 - as above
            raise PictureError(f"{name} is damaged or cut short; give a whole picture") from None


def _open(data: bytes) -> Image.Image:
    """Return the picture with its header read and no pixel decoded."""
    if data.startswith(b"\xff\xd8\xff"):
        # Directly, because `Image.open` refuses the size that a draft makes harmless, and reads all pictures
        # of a file that holds several (MPO); we want the first.
        return JpegImageFile(io.BytesIO(data))
    if _is_heic(data):
        return _open_heic(data)
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _is_heic(data: bytes) -> bool:
    """Return whether the bytes begin as those of a HEIC: its first box names brands (ISO 14496-12)."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    brands = {box[start : start + 4] for start in (0, *range(8, len(box), 4))}
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS


def _open_heic(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            "is a HEIC picture; install pillow-heif (pip install 'palate[heic]'), or export it as JPEG"
        ) from None
    try:
        # Not registered with Pillow, which would change what other code of this process reads.
        image: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
        return image
    except Exception:  # noqa: BLE001 - as above
        raise PictureError("is a HEIC picture that is damaged or cut short; give a whole picture") from None


def hash_picture(source: PictureSource) -> str:
    """Return a picture's id: the SHA-256 of its bytes in hexadecimal. Raises `PictureError` for no file."""
    return hashlib.sha256(_read_bytes(source)[0]).hexdigest()


def shrink_picture(image: Image.Image, longest_side: int = KEPT_SIDE_PIXELS) -> bytes:
    """Return a copy of at most `longest_side` pixels a side as JPEG bytes without any metadata (10 to 60 kB).

    This is what the vault keeps: enough for every feature, and nothing of place, time or camera. It is a JPEG
    without chroma subsampling rather than a WebP, which halves the resolution of colour, and colour is much
    of taste.
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


def copy_picture(source: PictureSource) -> bytes:
    """Return the small copy of a picture that the vault keeps; raises what `read_picture` raises."""
    return shrink_picture(read_picture(source, least_side=2 * KEPT_SIDE_PIXELS))


def _read_bytes(source: PictureSource) -> tuple[bytes, str]:
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
    # 16-bit pictures may arrive as 32-bit integers; floating-point ones run from 0 to 1 unless they show
    # otherwise.
    largest = float(values.max())
    steps = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0, 4294967295.0)
    white = next((step for step in steps if largest <= step), None)
    if white is None:
        raise PictureError(f"holds values up to {largest:g}, beyond any known depth")
    grey = np.rint(values * (255.0 / white))
    if isinstance(transparent, int):
        grey[values == transparent] = 255.0
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
