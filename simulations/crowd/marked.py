"""Comments with marks on the words that name a look: [+soft light] is liked, [-muddy greens] is not.

`recipes/thread_comments.jsonl` marks two things more, [>depth], missing and wanted, and [~watercolour], named
and not judged; `recipes/marking-guide.md` says how.

Invented people wrote them, each with a taste and a voice of their own: a large language model spoke for them,
and marked each look as it wrote. Both files teach the tagger (recipes/tagger.py); the people of
`tests/data/comments_marked.jsonl` took no part in that. A sign says whether the person wants
more of what the words name: in "it lacks [+depth]" depth is liked, in "no [-glare]" glare is not. Looks about
which nothing follows, and subjects, are not marked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from palate.shared.errors import FileFormatError

LESSONS = Path(__file__).parents[1] / "recipes" / "comments.jsonl"
THREADS = LESSONS.with_name("thread_comments.jsonl")
_MARK = re.compile(r"\[([+\->~])([^\[\]]+)\]")
_KINDS = {1: "liked", -1: "disliked", 0: "mentioned"}
_SIGNS = {"+": 1, ">": 1, "-": -1, "~": 0}


@dataclass(frozen=True)
class Marked:
    """A comment with the characters [start, end) of each look that it names, and its sign: +1, -1 or 0.

    `liked` is None where there is no verdict. 0: named, not judged. `wished` says of each look whether it is
    missing, and wanted; it is empty where nobody marked that.
    """

    person: str
    liked: bool | None
    comment: str
    places: tuple[tuple[int, int], ...]
    signs: tuple[int, ...]
    wished: tuple[bool, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each mark says: "liked", "disliked", "wished" or "mentioned"."""
        wished = self.wished or (False,) * len(self.signs)
        return tuple(
            "wished" if wish else _KINDS[sign] for sign, wish in zip(self.signs, wished, strict=True)
        )


def parse_marked(person: str, liked: bool | None, text: str) -> Marked:
    """Return a comment without its marks, and what they said."""
    parts, places, signs, wished, length, last = [], [], [], [], 0, 0
    for mark in _MARK.finditer(text):
        before, words = text[last : mark.start()], mark.group(2)
        length += len(before)
        parts += [before, words]
        places.append((length, length + len(words)))
        signs.append(_SIGNS[mark.group(1)])
        wished.append(mark.group(1) == ">")
        length, last = length + len(words), mark.end()
    comment = "".join((*parts, text[last:]))
    return Marked(person, liked, comment, tuple(places), tuple(signs), tuple(wished) if any(wished) else ())


def read_marked(path: Path = LESSONS) -> list[Marked]:
    """Return the comments of a file, one JSON object a line: {"person", "liked", "comment"}.

    Raises FileFormatError for a file that is missing or of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            one = json.loads(line)
            found.append(parse_marked(one["person"], one["liked"], one["comment"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(
                f"{path}, line {number}: must be a JSON object with person, liked and comment ({error})"
            ) from error
    return found
