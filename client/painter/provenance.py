"""Writes into a picture how it was made, and reads it back.

Where it stands: generator, pictures, **provenance**, then a PNG file. A text chunk of the PNG (iTXt, keyword
`palate`) holds JSON: model, hash of its weights, seed, steps, guidance scale, mode, strengths, version of the
profile, version of Palate.

A picture is made to be shown to others, so nothing personal is in it: not the prompt, not the negative
prompt, not an attribute, and of the model only its name. `Provenance` has no field that could hold them, and
its text fields accept names and hexadecimal digits only. The version of the profile is an opaque value. With
the vault one can tell by it which profile made a picture; without the vault it says nothing. What remains:
pictures with equal values of it came from one device.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from palate.shared.errors import FileFormatError, PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

    from palate.client.painter.generator import DrawnPicture, Generator, Request

KEYWORD = "palate"
IMPERSONAL = "none"  # the mode of a picture that no taste took part in

_MAX_FILE_BYTES = 200 * 1024 * 1024
_NAME = re.compile(r"[\w.+-]+(/[\w.-]+)?")
_HEX = re.compile(r"[0-9a-f]{0,64}")


@dataclass(frozen=True)
class Provenance:
    """How a picture was made; validated when built (`FileFormatError`).

    `weights` and `profile` are hexadecimal.
    """

    model: str
    weights: str
    seed: int
    steps: int
    guidance_scale: float
    mode: str
    strength: float
    dislike_strength: float
    profile: str
    palate: str

    def __post_init__(self) -> None:
        """Refuse any text that is more than a name, and any number that is none."""
        for name, rule in (
            ("model", _NAME),
            ("mode", _NAME),
            ("palate", _NAME),
            ("weights", _HEX),
            ("profile", _HEX),
        ):
            value = getattr(self, name)
            if not (isinstance(value, str) and len(value) <= 200 and rule.fullmatch(value)):
                raise FileFormatError(f"provenance: {name} = {value!r:.80} is not what belongs there")
        for name in ("seed", "steps"):
            if type(getattr(self, name)) is not int:
                raise FileFormatError(f"provenance: {name} = {getattr(self, name)!r:.80} is no whole number")
        for name in ("guidance_scale", "strength", "dislike_strength"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise FileFormatError(f"provenance: {name} = {value!r:.80} is no number")


def provenance_of(
    generator: Generator,
    request: Request,
    picture: DrawnPicture,
    profile: str = "",
    *,
    impersonal: bool = False,
) -> Provenance:
    """Return how a picture was made, or its sibling without a taste.

    Args:
        generator: drew it.
        request: what it was drawn for.
        picture: the drawn one.
        profile: the version of the profile, in hexadecimal.
        impersonal: whether the sibling is meant.
    """
    impersonal = impersonal or not request.personal
    return Provenance(
        model=re.sub(r"[^\w./+-]", "-", generator.name)[:200] or "model",
        weights=generator.weights_sha256,
        seed=picture.seed,
        steps=request.steps,
        guidance_scale=generator.guidance_scale(request),
        mode=IMPERSONAL if impersonal else request.mode,
        strength=0.0 if impersonal else picture.strength,
        dislike_strength=0.0 if impersonal else picture.dislike_strength,
        profile="" if impersonal else profile,
        palate=_version(),
    )


def _version() -> str:
    try:
        return importlib.metadata.version("palate")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"  # run from a source tree


def png_bytes(image: Image, provenance: Provenance) -> bytes:
    """Return a picture as the bytes of a PNG, with its provenance in it and no other metadata."""
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(KEYWORD, json.dumps(asdict(provenance), sort_keys=True))
    clean = PIL.Image.frombytes(
        image.mode, image.size, image.tobytes()
    )  # what `image.info` may hold stays behind
    out = io.BytesIO()
    clean.save(out, "PNG", pnginfo=info)
    return out.getvalue()


def read_provenance(source: Path | str | bytes) -> Provenance | None:
    """Return how a PNG was made, or None if it does not say so.

    Raises:
        PictureError: no PNG.
        FileFormatError: provenance that is damaged.
    """
    text = _read_chunk(source)
    if text is None:
        return None
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        raise FileFormatError(
            "provenance: the picture's `palate` text is not JSON; it was changed by hand"
        ) from None
    wanted = {field.name for field in fields(Provenance)}
    if not isinstance(stored, dict) or set(stored) != wanted:
        raise FileFormatError(
            f"provenance: the picture's `palate` text must have the keys {', '.join(sorted(wanted))}"
        )
    return Provenance(**stored)


def _read_chunk(source: Path | str | bytes) -> str | None:
    import PIL.Image
    from PIL.PngImagePlugin import PngImageFile

    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else _read_file(Path(source))
        with PngImageFile(io.BytesIO(data)) as image:
            # Chunks may stand behind the pixels; `text` reads on to the end, within the library's own size
            # limits.
            text = image.text.get(KEYWORD)
    except OSError as error:
        raise PictureError(
            f"{name} cannot be read as a PNG ({type(error).__name__}); give a PNG file"
        ) from None
    except (PIL.Image.DecompressionBombError, ValueError, SyntaxError):
        raise PictureError(f"{name} is a damaged or oversized PNG; give a whole one") from None
    return None if text is None else str(text)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise PictureError(f"{path} is larger than {_MAX_FILE_BYTES >> 20} MiB; give a smaller picture")
    return data
