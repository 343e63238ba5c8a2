"""Writes what the demo showed: a contact sheet (PNG) and a page (HTML) that needs nothing but itself.

The page holds its pictures inside, runs no script and loads nothing. Everything said by a person is escaped.
"""

import base64
import html
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from PIL import Image

from palate.client.demo.showcase import BEST_OF, Showcase, Shown, demo_pictures
from palate.client.eye import read_picture
from palate.client.painter.contact_sheet import (
    FAINT,
    Block,
    Chips,
    Columns,
    Row,
    Rule,
    Tile,
    Words,
    draw_sheet,
    sheet_bytes,
)
from palate.client.records import Taught
from palate.client.taste import Preference, Profile
from palate.shared import durable

CHIPS = 8  # of each kind, the strongest
TITLE = "One prompt, two palates"


@dataclass(frozen=True)
class DemoFiles:
    """Where the demo was written."""

    sheet: Path
    page: Path


def write_showcase(show: Showcase, folder: Path) -> DemoFiles:
    """Write sheet and page into the folder, over those of an earlier demo; raises `StorageError`."""
    files = DemoFiles(folder / "sheet.png", folder / "index.html")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        durable.write_atomically(files.sheet, sheet_bytes(draw_showcase(show)))
        durable.write_atomically(files.page, page_of(show).encode())
    except OSError as error:
        raise durable.storage_error(error, folder, "the demo was not written") from error
    return files


# --- the sheet ----------------------------------------------------------------------------------------------


def draw_showcase(show: Showcase) -> Image.Image:
    """Return the contact sheet of the demo."""
    first, second = show.people
    rows = []
    for number, prompt in enumerate(show.prompts):
        groups = (
            tuple(Tile(image, "") for image in show.impersonal[number]),
            *(tuple(Tile(one.picture.image, "") for one in person.made[number]) for person in show.people),
        )
        headings = (f"“{prompt.text}”, for nobody", f"for {first.name}", f"for {second.name}")
        rows.append(Row(groups, headings))
    width = max(row.wide() for row in rows)
    blocks: list[Block] = [
        Words(TITLE, size=54, strong=True, after=6),
        Words(
            "Two people said in their own words what they like and dislike about the same twelve pictures. "
            "The same prompts and seeds were then drawn for nobody, and for each of them.",
            size=24,
            colour=FAINT,
            after=26,
        ),
        _draw_talked_about(show),
        Columns(tuple(_introduce(person) for person in show.people)),
        Rule(),
        *rows,
        Rule(14),
    ]
    judged = tuple(Words(line, size=20, colour=FAINT, after=8) for line in judged_lines(show))
    if all(person.best for person in show.people):
        blocks.append(
            Columns(((_draw_best(show),), (Words("How well did it go?", size=24, strong=True), *judged)))
        )
    else:
        blocks += judged
    return draw_sheet(blocks, width)


def _draw_talked_about(show: Showcase) -> Block:
    """Return the pictures that both people talked about, with their verdicts."""
    pictures = []
    for picture, data in demo_pictures().items():
        verdicts = []
        for person in show.people:
            liked = next((one.comment.liked for one in person.taught if one.comment.picture == picture), None)
            verdicts.append(f"{person.name} {'+' if liked else '-'}" if liked is not None else "")
        pictures.append(Tile(read_picture(data), "  ".join(verdicts)))
    return Row((tuple(pictures),), side=126, picture_gap=17, caption_size=15, after=22)


def _introduce(person: Shown) -> tuple[Block, ...]:
    quote = max(person.taught, key=lambda one: (bool(one.comment.liked), len(one.mentions)))
    return (
        Words(person.name, size=34, strong=True, after=6),
        Words(f"“{quote.comment.text}”", size=20, colour=FAINT, after=14),
        Chips(tuple((one.attribute, one.strength) for one in person.profile.likes[:CHIPS])),
        Chips(tuple((one.attribute, -one.strength) for one in person.profile.dislikes[:CHIPS]), after=6),
    )


def _draw_best(show: Showcase) -> Block:
    pictures = tuple(tuple(Tile(one.picture.image) for one in person.best) for person in show.people)
    headings = tuple(f"{person.name}'s favourite of {BEST_OF}" for person in show.people)
    return Row(pictures, headings, group_gap=90)


def judged_lines(show: Showcase) -> list[str]:
    """Return how the judge rates the pictures, and how far it can be trusted, line by line."""
    if show.accuracy_of_judge is None:
        return ["No independent judge is installed here, so nobody but your eyes says how well this went."]
    pictures = sum(len(row) for row in show.impersonal)
    lines = []
    for person, other in zip(show.people, reversed(show.people), strict=True):
        if person.judgement is not None:
            lines.append(
                f"{person.name}: the independent judge finds the picture made for {person.name} closer to "
                f"{person.name}'s taste than the impersonal one in {person.judgement.own_better} of "
                f"{person.judgement.pairs} pairs (the one made for {other.name}: "
                f"{person.judgement.other_better} of {person.judgement.pairs}); "
                f"the subject is as asked in {person.judgement.shows_subject} of {pictures}."
            )
    lines.append(
        f"Impersonal pictures show the subject as asked in {show.impersonal_shows_subject} of {pictures}."
    )
    lines.append(f"How far the judge can be trusted: {show.accuracy_of_judge}.")
    return lines


# --- the page -----------------------------------------------------------------------------------------------


def page_of(show: Showcase) -> str:
    """Return the page as HTML text."""
    template = resources.files("palate.client").joinpath("demo", "page.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(TITLE),
        "PEOPLE": "".join(_person(person) for person in show.people),
        "GRID": "".join(_prompt(show, number) for number in range(len(show.prompts))),
        "BEST": "".join(_best(person) for person in show.people if person.best),
        "JUDGED": "".join(f"<p>{html.escape(line)}</p>" for line in judged_lines(show)),
        "COMMENTS": _comments(show),
    }
    for name, text in parts.items():
        template = template.replace(f"<!-- {name} -->", text)
    return template


def _person(person: Shown) -> str:
    return (
        f"<section class=person><h2>{html.escape(person.name)}</h2>{_preferences(person.profile)}</section>"
    )


def _preferences(profile: Profile) -> str:
    def bar(one: Preference, kind: str) -> str:
        name = html.escape(one.attribute)
        width = round(100 * one.strength)
        return (
            f"<li class={kind}><span class=name>{name}</span>"
            f"<span class=bar><i style='width:{width}%'></i></span>"
            f"<span class=value>{one.strength:.2f}</span></li>"
        )

    likes = "".join(bar(one, "like") for one in profile.likes[: CHIPS + 2])
    dislikes = "".join(bar(one, "dislike") for one in profile.dislikes[: CHIPS + 2])
    return f"<div class=lists><ul><h3>likes</h3>{likes}</ul><ul><h3>dislikes</h3>{dislikes}</ul></div>"


def _prompt(show: Showcase, number: int) -> str:
    columns = [("for nobody", [(image, "") for image in show.impersonal[number]])]
    for person in show.people:
        chances = person.chance_of_impersonal[number]
        pictures = [
            (
                one.picture.image,
                f"{person.name}'s own evaluator: {one.probability:.0%} likely liked "
                f"(the impersonal one {chance:.0%})",
            )
            for one, chance in zip(person.made[number], chances, strict=True)
        ]
        columns.append((f"for {person.name}", pictures))
    cells = "".join(
        f"<div><h4>{html.escape(title)}</h4><div class=pictures>"
        + "".join(_picture(image, note) for image, note in pictures)
        + "</div></div>"
        for title, pictures in columns
    )
    return (
        f"<article><h3>“{html.escape(show.prompts[number].text)}”</h3><div class=row>{cells}</div></article>"
    )


def _best(person: Shown) -> str:
    pictures = "".join(
        _picture(one.picture.image, f"{one.probability:.0%} likely liked") for one in person.best
    )
    return f"<div><h4>{html.escape(person.name)}</h4><div class=pictures>{pictures}</div></div>"


def _comments(show: Showcase) -> str:
    """Return every picture with both people's comments and what was understood from each."""
    by_picture: dict[str, list[tuple[str, Taught]]] = {}
    for person in show.people:
        for taught in person.taught:
            by_picture.setdefault(str(taught.comment.picture), []).append((person.name, taught))
    cards, pictures = [], demo_pictures()
    for picture, said in by_picture.items():
        lines = "".join(_comment(name, taught) for name, taught in said)
        cards.append(
            f"<article class=card>{_image('jpeg', pictures[picture], '')}<div>{lines}</div></article>"
        )
    return "".join(cards)


def _comment(name: str, taught: Taught) -> str:
    sign = {True: "like", False: "dislike", None: ""}[taught.comment.liked]
    chips = "".join(
        f"<span class='chip {'like' if one.polarity > 0 else 'dislike'}'>{'+' if one.polarity > 0 else '−'} "
        f"{html.escape(one.attribute)}</span>"
        for one in taught.mentions
    )
    return (
        f"<p class=said><b class={sign}>{html.escape(name)}</b> {_marked(taught)}</p>"
        f"<p class=understood>{chips or '<i>nothing about looks</i>'}</p>"
    )


def _marked(taught: Taught) -> str:
    """Return the comment with the words marked from which attributes were understood."""
    text = taught.comment.text
    spans: list[tuple[int, int, str]] = []
    for one in taught.mentions:
        start = text.find(one.phrase)
        if start >= 0 and all(start >= end or start + len(one.phrase) <= begin for begin, end, _ in spans):
            spans.append((start, start + len(one.phrase), "like" if one.polarity > 0 else "dislike"))
    pieces, place = [], 0
    for start, end, kind in sorted(spans):
        pieces.append(
            html.escape(text[place:start]) + f"<mark class={kind}>{html.escape(text[start:end])}</mark>"
        )
        place = end
    return "".join(pieces) + html.escape(text[place:])


def _picture(image: Image.Image, note: str = "") -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return _image("png", stream.getvalue(), note)


def _image(kind: str, data: bytes, note: str) -> str:
    title = f' title="{html.escape(note)}"' if note else ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(note)}"{title} src="{source}">'
