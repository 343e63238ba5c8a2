"""Several pictures at once: folders become files, and one bad picture does not end the work.

Stands between `pictures`, which reads one, and those who score or teach many.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from palate.client.eye.pictures import PictureSource
from palate.client.runtime import Progress
from palate.shared.errors import OptionError, PictureError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif")
)
MAX_PICTURES = 10_000

OnUnreadable = Callable[[str, PictureError], None]
"""Called with the name of a picture that cannot be read, and why; the work goes on without it."""

Read = TypeVar("Read")


def find_pictures(sources: Sequence[PictureSource]) -> list[PictureSource]:
    """Return the given pictures, with each folder replaced by the pictures in it.

    A folder's pictures come by name; hidden files and folders in the folder are left out.

    Args:
        sources: files, folders, or the bytes of pictures.

    Raises:
        PictureError: a folder without pictures, or one that cannot be listed.
        OptionError: more than 10,000 pictures.
    """
    found: list[PictureSource] = []
    for source in sources:
        if isinstance(source, bytes) or not Path(source).is_dir():
            found.append(source)
            continue
        try:
            inside = sorted(path for path in Path(source).iterdir() if _is_picture_file(path))
        except OSError as error:
            raise PictureError(f"the folder {str(source)!r} cannot be read ({error.strerror})") from None
        if not inside:
            raise PictureError(
                f"the folder {str(source)!r} holds no pictures; give one that does, or single files"
            )
        found += inside
    if len(found) > MAX_PICTURES:
        raise OptionError(f"{len(found):,} pictures were given; at most {MAX_PICTURES:,} are read at once")
    return found


def read_each(
    pictures: Sequence[PictureSource],
    read: Callable[[PictureSource], Read],
    *,
    progress: Progress,
    on_unreadable: OnUnreadable | None = None,
) -> list[tuple[str, Read]]:
    """Return the name of each picture that can be read, and what `read` makes of it, in the given order.

    Args:
        pictures: files, or the bytes of pictures.
        read: makes something of one picture; raises `PictureError`.
        progress: is told how many are read.
        on_unreadable: is told of each bad picture, at the end. Without it the first one is raised.

    Raises:
        PictureError: the first bad picture, or none that can be read.
    """
    found, bad = [], []
    for number, picture in enumerate(pictures):
        name = f"picture {number}" if isinstance(picture, bytes) else str(picture)
        try:
            found.append((name, read(picture)))
        except PictureError as error:
            if on_unreadable is None or len(pictures) == 1:
                raise
            bad.append((name, error))
        progress("reading pictures", number + 1, len(pictures))
    if bad and not found:
        raise PictureError(f"none of the {len(bad):,} pictures can be read; the first: {bad[0][1]}")
    for name, reason in bad:
        if on_unreadable is not None:
            on_unreadable(name, reason)
    return found


def _is_picture_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
