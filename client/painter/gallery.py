"""Writes the pictures of `palate create` into a folder, with a contact sheet.

Files are numbered on from those in the folder, so nothing is ever overwritten, and each is written whole or
not at all. The sheet shows the prompt, which is the person's own; the single pictures say nothing but how
they were made.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from palate.client.painter.contact_sheet import (
    FAINT,
    GAP,
    Block,
    Row,
    Tile,
    Words,
    draw_sheet,
    sheet_bytes,
)
from palate.client.painter.create import Made
from palate.shared import durable

IN_A_ROW = 4
_RUN = re.compile(r"(\d{3,})-")


@dataclass(frozen=True)
class PictureFiles:
    """Where the pictures were written."""

    pairs: tuple[tuple[Path, Path | None], ...]  # each picture, and the impersonal one of the same seed
    sheet: Path


def write_pictures(folder: Path, prompt: str, made: Sequence[Made]) -> PictureFiles:
    """Write pictures and their sheet into a folder.

    Args:
        folder: made if it is missing.
        prompt: stands on the sheet.
        made: the pictures.

    Raises:
        StorageError: the folder cannot be written.
    """
    from palate.client.eye import read_picture

    pairs: list[tuple[Path, Path | None]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run = _next_run(folder)
        for one in made:
            name = f"{run:03d}-seed{one.picture.seed}"
            file, other = folder / f"{name}.png", None
            durable.write_atomically(file, one.png)
            if one.impersonal_png is not None:
                other = folder / f"{name}-impersonal.png"
                durable.write_atomically(other, one.impersonal_png)
            pairs.append((file, other))
        sheet = folder / f"{run:03d}-sheet.png"
        impersonal = [read_picture(one.impersonal_png) if one.impersonal_png else None for one in made]
        durable.write_atomically(sheet, sheet_bytes(draw_pictures(prompt, made, impersonal)))
    except OSError as error:
        raise durable.storage_error(error, folder, "some pictures may be missing") from error
    return PictureFiles(tuple(pairs), sheet)


def draw_pictures(prompt: str, made: Sequence[Made], impersonal: Sequence[Image.Image | None]) -> Image.Image:
    """Return the contact sheet: the pictures, and under each the impersonal one of the same seed."""
    blocks: list[Block] = [Words(prompt, size=40, strong=True, after=14)]
    rows: list[Row] = []
    for start in range(0, len(made), IN_A_ROW):
        part = range(start, min(start + IN_A_ROW, len(made)))
        mine = tuple(
            Tile(
                made[i].picture.image, f"seed {made[i].picture.seed} · {made[i].probability:.0%} likely liked"
            )
            for i in part
        )
        rows.append(Row((mine,), ("In your taste" if made[start].personal else "Without a taste",)))
        without = [(made[i].impersonal_probability, impersonal[i]) for i in part]
        if any(image is not None for _, image in without):
            plain = tuple(
                Tile(image, f"{chance or 0:.0%} likely liked") for chance, image in without if image
            )
            rows.append(Row((plain,), ("The same seeds without your profile",)))
    width = max(max((row.wide() for row in rows), default=0), 2 * 256 + GAP)
    note = "How likely you like each is what your own evaluator thinks."
    return draw_sheet([*blocks, *rows, Words(note, size=18, colour=FAINT)], width)


def _next_run(folder: Path) -> int:
    taken = [int(match.group(1)) for path in folder.iterdir() if (match := _RUN.match(path.name))]
    return max(taken, default=0) + 1
