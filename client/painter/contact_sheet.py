"""Draws contact sheets: pictures in rows, with headings, lines of words and chips, on warm paper.

The last step of the flow that a person sees. It uses only Pillow and the typeface that comes with it. A sheet
is a column of blocks (heading, words, chips, row of pictures). Each block knows its height for a given width,
so nothing overlaps, however long the words are.
"""

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, LINE = (250, 247, 242), (35, 32, 28), (132, 124, 114), (226, 219, 208)
LIKED, LIKED_PAPER = (38, 110, 70), (226, 240, 229)
DISLIKED, DISLIKED_PAPER = (168, 58, 44), (248, 228, 222)
MARGIN = 56
GAP = 20
CORNER = 14

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size: int) -> Font:
    """Return Pillow's own typeface at a size in pixels."""
    return ImageFont.load_default(size=size)


class Block(Protocol):
    """One thing on a sheet, as wide as the sheet's inside."""

    def height(self, width: int, /) -> int:
        """Return the block's height in pixels at this width."""

    def draw(self, canvas: Image.Image, left: int, top: int, width: int, /) -> None:
        """Draw the block with its upper left corner at (left, top)."""


@dataclass(frozen=True)
class Words:
    """Lines of words, wrapped; `strong` draws them heavier."""

    text: str
    size: int = 22
    colour: Colour = INK
    strong: bool = False
    after: int = 8

    def height(self, width: int) -> int:
        """Return the height of all lines and of the space after them."""
        return len(wrap(self.text, self.size, width)) * self._line() + self.after

    def draw(self, canvas: Image.Image, left: int, top: int, width: int) -> None:
        """Draw line after line."""
        pen = ImageDraw.Draw(canvas)
        for number, line in enumerate(wrap(self.text, self.size, width)):
            write(pen, (left, top + number * self._line()), line, self.size, self.colour, self.strong)

    def _line(self) -> int:
        return round(self.size * 1.38)


@dataclass(frozen=True)
class Rule:
    """A thin line across, with space around it."""

    space: int = 18

    def height(self, _width: int) -> int:
        """Return the height with the space on both sides."""
        return 2 * self.space

    def draw(self, canvas: Image.Image, left: int, top: int, width: int) -> None:
        """Draw the line."""
        y = top + self.space
        ImageDraw.Draw(canvas).line([(left, y), (left + width, y)], fill=LINE, width=2)


@dataclass(frozen=True)
class Chips:
    """Words in rounded chips: liked ones green, disliked ones red, stronger ones in fuller colour."""

    chips: tuple[tuple[str, float], ...]  # word, signed strength
    size: int = 20
    after: int = 10

    def height(self, width: int) -> int:
        """Return the height of all lines of chips."""
        lines = self._lines(width)
        return (lines[-1][1] + self._tall() if lines else 0) + self.after

    def draw(self, canvas: Image.Image, left: int, top: int, width: int) -> None:
        """Draw chip after chip."""
        pen = ImageDraw.Draw(canvas)
        for (word, strength), (x, y, wide) in zip(self.chips, self._lines(width), strict=True):
            ink, paper = (LIKED, LIKED_PAPER) if strength > 0 else (DISLIKED, DISLIKED_PAPER)
            box = (left + x, top + y, left + x + wide, top + y + self._tall())
            fill = mix(PAPER, paper, 0.45 + 0.55 * abs(strength))
            pen.rounded_rectangle(
                box, radius=self._tall() // 2, fill=fill, outline=mix(paper, ink, 0.25 * abs(strength))
            )
            write(
                pen,
                (left + x + self.size * 0.7, top + y + self.size * 0.28),
                _signed(word, strength),
                self.size,
                ink,
            )

    def _tall(self) -> int:
        return round(self.size * 1.75)

    def _lines(self, width: int) -> list[tuple[int, int, int]]:
        """Return each chip's place (x, y) and width."""
        places, x, y = [], 0, 0
        for word, strength in self.chips:
            wide = round(width_of(_signed(word, strength), self.size) + 1.4 * self.size)
            if x and x + wide > width:
                x, y = 0, y + self._tall() + 8
            places.append((x, y, wide))
            x += wide + 8
        return places


@dataclass(frozen=True)
class Columns:
    """Columns of blocks next to each other, equally wide."""

    columns: tuple[tuple[Block, ...], ...]
    gap: int = 44

    def height(self, width: int) -> int:
        """Return the height of the tallest column."""
        return max(sum(block.height(self._wide(width)) for block in column) for column in self.columns)

    def draw(self, canvas: Image.Image, left: int, top: int, width: int) -> None:
        """Draw column after column."""
        wide = self._wide(width)
        for number, column in enumerate(self.columns):
            y = top
            for block in column:
                block.draw(canvas, left + number * (wide + self.gap), y, wide)
                y += block.height(wide)

    def _wide(self, width: int) -> int:
        return (width - self.gap * (len(self.columns) - 1)) // len(self.columns)


@dataclass(frozen=True)
class Tile:
    """One picture on a sheet with a line under it."""

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Pictures next to each other, in groups with a wider gap and a heading each."""

    groups: tuple[tuple[Tile, ...], ...]
    headings: tuple[str, ...] = ()
    side: int = 256
    after: int = 26
    group_gap: int = 56
    caption_size: int = 18
    heading_size: int = 24
    picture_gap: int = field(default=GAP)

    def height(self, _width: int) -> int:
        """Return the height of headings, pictures and captions."""
        captions = any(picture.caption for group in self.groups for picture in group)
        return self._top() + self.side + (round(self.caption_size * 1.9) if captions else 0) + self.after

    def draw(self, canvas: Image.Image, left: int, top: int, _width: int) -> None:
        """Draw group after group."""
        pen = ImageDraw.Draw(canvas)
        x = left
        for number, group in enumerate(self.groups):
            if self.headings:
                write(pen, (x, top), self.headings[number], self.heading_size, INK, strong=True)
            for picture in group:
                paste_rounded(canvas, picture.image, (x, top + self._top()), self.side)
                if picture.caption:
                    y = top + self._top() + self.side + 7
                    write(pen, (x + 2, y), picture.caption, self.caption_size, FAINT)
                x += self.side + self.picture_gap
            x += self.group_gap - self.picture_gap

    def wide(self) -> int:
        """Return how wide the row is."""
        pictures = sum(len(group) for group in self.groups)
        gaps = self.picture_gap * (pictures - len(self.groups)) + self.group_gap * (len(self.groups) - 1)
        return pictures * self.side + gaps

    def _top(self) -> int:
        return round(self.heading_size * 1.7) if self.headings else 0


def draw_sheet(blocks: Sequence[Block], width: int) -> Image.Image:
    """Return the sheet: these blocks, one under the other.

    Args:
        blocks: what stands on it, from the top.
        width: the page's width inside its margins, in pixels.
    """
    height = sum(block.height(width) for block in blocks) + 2 * MARGIN
    canvas = Image.new("RGB", (width + 2 * MARGIN, height), PAPER)
    y = MARGIN
    for block in blocks:
        block.draw(canvas, MARGIN, y, width)
        y += block.height(width)
    return canvas


def sheet_bytes(sheet: Image.Image) -> bytes:
    """Return a sheet as a PNG file's bytes."""
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: Colour,
    strong: bool = False,
) -> None:
    """Write one line; heavier if `strong` (the typeface has one weight, so its strokes are thickened)."""
    pen.text(
        place,
        _known(text),
        font=font(size),
        fill=colour,
        stroke_width=0.55 if strong else 0,
        stroke_fill=colour,
    )


def width_of(text: str, size: int) -> float:
    """Return how wide a line of text is, in pixels."""
    return font(size).getlength(_known(text))


def wrap(text: str, size: int, width: int) -> list[str]:
    """Cut text into lines that fit the width, between words."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and width_of(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


def paste_rounded(canvas: Image.Image, image: Image.Image, place: tuple[int, int], side: int) -> None:
    """Paste a picture scaled into a square of this side, with rounded corners."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scaled = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    mask = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle(
        (0, 0, size[0] * 4 - 1, size[1] * 4 - 1), radius=CORNER * 4, fill=255
    )
    canvas.paste(scaled, place, mask.resize(size, Image.Resampling.LANCZOS))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour that lies this share of the way from the first to the second."""
    mixed = [round(a + (b - a) * share) for a, b in zip(first, second, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _signed(word: str, strength: float) -> str:
    return ("+ " if strength > 0 else "- ") + word


def _known(text: str) -> str:
    """Replace letters and signs that the typeface lacks.

    Accents are dropped; the rest becomes a question mark.
    """
    for sign, instead in (("−", "-"), ("–", "-"), ("×", "x"), ("ß", "ss")):
        text = text.replace(sign, instead)
    bare = "".join(
        c for c in unicodedata.normalize("NFKD", text.replace("…", "...")) if not unicodedata.combining(c)
    )
    return "".join(c if c.isascii() or c in "“”‘’·" else "?" for c in bare)
