"""What a person says about a picture: the value, the check that it can be read, and the file that holds many.

The second step of the flow. `teach` takes a picture and a comment, the comment passes `check_comment`, and
`extractor` reads the attributes out of it. With a verdict the comment may be empty. Everything is checked
before anything is taught, so a file with one bad entry teaches nothing.
"""

import json
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from palate.shared.errors import CommentError, FileFormatError

READER = 2
"""The version of the shipped reader. What an earlier one understood is read anew."""
MAX_CHARACTERS = 10_000
MAX_ENTRIES = 10_000
MAX_FILE_BYTES = 64 * 1024 * 1024

# Frequent small words of English. Left out are those that other languages have too (a, i, in, me, no, as, do,
# so, was).
_ENGLISH_WORDS = """
the and or but if of at for from with without by it its it's this that these those is are were be been i'm
my mine you your we our they them their she his him not don't doesn't didn't isn't can't won't does did have
had would could should can just too very really much more most less like love loved hate feel feels look
looks looking nice good great what which who how when where why there here all any some than then up out
about into over again yes please wish want to
"""
# Frequent small words of other languages in Latin letters. Left out are those that English has too (die, mit,
# non), those that names of painters and pictures bring along (de, la, les, der, van, el, las), and loans (je
# ne sais quoi, yin yang).
_FOREIGN_WORDS = """
und ist nicht ich ein eine einen sehr zu aber auch wie sind gefällt gefallen mir mich das zuviel schön
farben bild viel est une pas c'est j'aime j'adore aime n'aime trop très mais avec cette ces dans pour sont
ça tableau couleurs couleur muy que una con pero gusta gustan encanta esta este estos colores porque
demasiado mucho cuadro il che è molto sono piace piacciono troppo questo questa colori gli della perché
quadro não é muito gosto cores são isso quadro het een niet heel mooi maar vind zijn deze kleuren erg och är
inte jag mycket för det som ikke jeg og meget nie jest bardzo się podoba kolory çok bir değil tidak sangat
saya este foarte és egy nagyon
"""
_ENGLISH, _FOREIGN = frozenset(_ENGLISH_WORDS.split()), frozenset(_FOREIGN_WORDS.split())
# What a comment of nothing but a verdict is made of, and the names of the emoji that are one.
_LIKING_WORDS = """
amazing awesome beautiful brilliant cool excellent fantastic good gorgeous great like love lovely nice
perfect stunning superb wonderful wow yeah yep yes yum
"""
_DISLIKING_WORDS = """
awful bad dislike dreadful hate hideous horrible meh nah no nope terrible ugh ugly yuck
"""
_BESIDE_WORDS = "a absolutely all at i image is it it's just one picture really so that the this very"
_LIKING, _DISLIKING = frozenset(_LIKING_WORDS.split()), frozenset(_DISLIKING_WORDS.split())
_BESIDE_VERDICT = frozenset(_BESIDE_WORDS.split())
_LIKING_EMOJI = (
    "THUMBS UP",
    "HEART",
    "SMILING FACE",
    "GRINNING",
    "STAR-STRUCK",
    "CLAPPING",
    "FIRE",
    "HUNDRED POINTS",
    "OK HAND",
)
_DISLIKING_EMOJI = (
    "THUMBS DOWN",
    "BROKEN HEART",
    "VOMITING",
    "NAUSEATED",
    "POUTING",
    "ANGRY",
    "PILE OF POO",
    "UNAMUSED",
    "CRYING",
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class Comment:
    """One comment of one person on one picture (or on none)."""

    id: str  # random, hexadecimal
    text: str  # empty if the person gave a verdict and no words
    liked: bool | None  # the person's own verdict on the picture, if there is one
    picture: str | None  # SHA-256 of the picture's bytes, hexadecimal
    created: str  # ISO 8601, UTC


@dataclass(frozen=True)
class Lesson:
    """One entry of a file for `teach --from`, checked."""

    image: Path
    comment: str  # empty only with a verdict
    liked: bool | None


def new_comment(text: str, liked: bool | None, picture: str | None, now: datetime | None = None) -> Comment:
    """Return a comment with a fresh id, its text checked; raises what `check_words` raises.

    A text of nothing but a verdict ("nice", a thumb) is taken as one where none is given.
    """
    liked = read_verdict(text) if liked is None else liked
    created = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds")
    return Comment(secrets.token_hex(4), check_words(text, liked), liked, picture, created)


def read_verdict(text: str) -> bool | None:
    """Return the verdict that a text of nothing else gives, None for any other text.

    "Love it", "no" and a thumb are verdicts.
    """
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    signs = {word in _LIKING for word in words if word in _LIKING or word in _DISLIKING}
    if any(word not in _LIKING | _DISLIKING | _BESIDE_VERDICT for word in words):
        return None
    for character in text:
        name = unicodedata.name(character, "") if ord(character) > 0x2000 else ""
        if any(part in name for part in _DISLIKING_EMOJI):
            signs.add(False)
        elif any(part in name for part in _LIKING_EMOJI):
            signs.add(True)
    return signs.pop() if len(signs) == 1 else None


def check_words(text: str, liked: bool | None) -> str:
    """Return what `check_comment` returns; with a verdict, given or said, there may be no words.

    Raises:
        CommentError: neither words nor a verdict, or words that cannot be read.
    """
    if liked is not None and not text.strip():
        return ""
    if len(text) <= MAX_CHARACTERS and read_verdict(text) is not None:
        return unicodedata.normalize("NFC", text).strip()
    return check_comment(text)


def check_comment(text: str) -> str:
    """Return the comment without white space around it, in Unicode's NFC form.

    A comment has 1 to 10,000 characters and at least one word.

    Raises:
        CommentError: an empty, too long or unreadable comment.
    """
    if len(text) > MAX_CHARACTERS:
        raise CommentError(
            f"the comment has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read; shorten it"
        )
    text = unicodedata.normalize("NFC", text).strip()
    if not text or not any(character.isprintable() and not character.isspace() for character in text):
        raise CommentError("the comment is empty; say what you like or dislike about the picture")
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    if not words:
        raise CommentError(
            f"the comment {_shorten(text)} holds no words; say in words what you like or dislike"
        )
    return text


def check_language(text: str) -> None:
    """Refuse a comment that does not read as English, which is what the shipped reader understands.

    The rule prefers to read on, because typos, names and single words are no reason to refuse. It refuses
    only

    - a comment with more letters of other scripts than Latin ones;
    - a comment with more frequent small words of other languages (und, très, muy, ...) than of English, if
      they are at least two, or one in a comment of 2 to 8 words that has no frequent English word at all;
    - a comment of 3 words or more, none of them a frequent English one, of which more than a third has
      letters that English does not use (ö, ż, ạ).

    Raises:
        CommentError: another language.
    """
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    if not _reads_as_english(words):
        raise CommentError(
            f"the comment {_shorten(text)} does not read as English, the one language that the shipped "
            "reader understands; write it in English, or give the verdict alone"
        )


def read_lessons(path: Path | str, *, english: bool = True) -> list[Lesson]:
    """Read a file for `teach --from`: a JSON list of {"image", "comment", "liked"}.

    An image is an absolute path or one relative to the file; a name may be written in any form of Unicode, as
    it comes from a Mac or not. "liked" is true, false or null, which is also what it is without the key. With
    true or false the comment may be missing. That an image is a readable picture is checked later, by
    `pictures.read_picture`.

    Args:
        path: the file.
        english: whether comments in other languages are refused.

    Raises:
        FileFormatError: names the entry (from 0) and the key.
    """
    path = Path(path)
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise FileFormatError(
            f'{path} holds {_kind(entries)}; it must be a list of {{"image", "comment", "liked"}}'
        )
    if not entries:
        raise FileFormatError(f"{path} holds an empty list; give at least one entry")
    if len(entries) > MAX_ENTRIES:
        raise FileFormatError(
            f"{path} has {len(entries):,} entries; at most {MAX_ENTRIES:,} are read at once"
        )
    return [_read_entry(path, index, entry, english) for index, entry in enumerate(entries)]


def _reads_as_english(words: list[str]) -> bool:
    letters = "".join(words).replace("'", "")
    latin = sum(_is_latin(letter) for letter in letters)
    if latin * 2 < len(letters):
        return False
    english = sum(word in _ENGLISH for word in words)
    foreign = sum(word in _FOREIGN for word in words)
    if foreign > english and (foreign >= 2 or (english == 0 and 2 <= len(words) <= 8)):
        return False
    marked = sum(not word.isascii() for word in words)
    return english > 0 or len(words) < 3 or marked * 3 <= len(words)


def _is_latin(letter: str) -> bool:
    return letter.isascii() or unicodedata.name(letter, "").startswith("LATIN")


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileFormatError(f"{path} has more than {MAX_FILE_BYTES:,} bytes; split it")
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise FileFormatError(f"{path} does not exist; check the path") from None
    except UnicodeDecodeError:
        raise FileFormatError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{path} is not JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise FileFormatError(f"{path} is nested too deeply; it must be a plain list") from None
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None
    except ValueError as error:  # from `_unique_keys`, and integers of absurd length
        raise FileFormatError(f"{path}: {str(error).splitlines()[0]}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one entry"
        )
    return entry


def _read_entry(path: Path, index: int, entry: Any, english: bool) -> Lesson:
    where = f"{path}, entry {index}"
    if not isinstance(entry, dict):
        raise FileFormatError(f'{where} is {_kind(entry)}; it must be an object with "image" and "comment"')
    for key in entry:
        if key not in ("image", "comment", "liked"):
            raise FileFormatError(
                f"{where}: unknown key {_shorten(key)}; known are 'image', 'comment' and 'liked'"
            )
    liked = entry.get("liked")
    if liked is not None and not isinstance(liked, bool):
        raise FileFormatError(f"{where}: 'liked' is {_kind(liked)}; it must be true, false or null")
    needed = ("image", "comment") if liked is None else ("image",)
    for key in ("image", "comment"):
        if key in needed and key not in entry:
            raise FileFormatError(f"{where}: the key {key!r} is missing")
        if not isinstance(entry.get(key, ""), str):
            raise FileFormatError(f"{where}: {key!r} is {_kind(entry[key])}; it must be text")
    try:
        comment = check_words(entry.get("comment", ""), liked)
        if english and comment:
            check_language(comment)
    except CommentError as error:
        raise FileFormatError(f"{where}, 'comment': {error}") from None
    return Lesson(_resolve_image(path, where, entry["image"]), comment, liked)


def _resolve_image(path: Path, where: str, image: str) -> Path:
    named = f"{where}, 'image': {_shorten(image)}"
    try:
        folder = path.parent.resolve()
        full = _find_file(folder / Path(image).expanduser())
        if not full.is_file():
            raise FileFormatError(f"{named} does not exist; relative paths start at {folder}")
        return full.resolve()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # a null character, a loop of links, a name too long, no such home
        raise FileFormatError(f"{named} is not a usable path") from None


def _find_file(path: Path) -> Path:
    """Return the path with these names, in the form of Unicode in which they are on the disk.

    Names are compared in NFC. A path that is not there comes back as it is.
    """
    if path.exists() or path.parent == path:
        return path
    folder, name = _find_file(path.parent), unicodedata.normalize("NFC", path.name)
    alike = (one for one in folder.iterdir() if unicodedata.normalize("NFC", one.name) == name)
    return next(alike, folder / path.name) if folder.is_dir() else path


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shorten(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text[:60])
    return repr(shown + ("…" if len(text) > 60 else ""))
