"""Teaches a vault: comments and verdicts on pictures become records.

Stands between `device`, which is the door, and eye, reader and vault. Everything is read before anything is
kept, and what is kept is one change of the vault.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from palate.client import records
from palate.client.reader import READER, Comment, Lesson, new_comment, read_verdict
from palate.client.reader.corrections import Correction, find_mentions, fit_calibration
from palate.client.records import COMMENT, PICTURE, Taught
from palate.client.runtime import Progress
from palate.client.vault.store import ONLY
from palate.client.vault.vault import Vault
from palate.shared.errors import OptionError, PictureError

if TYPE_CHECKING:
    from palate.client.eye import OnUnreadable, PictureSource
    from palate.client.reader.extractor import Extractor

GROUP = 100
"""So many pictures of a folder are kept in one change of the vault: each writes the vault's head again."""


def teach_picture(
    vault: Vault,
    before: Sequence[Taught],
    extractor: "str | Extractor",
    picture: "PictureSource",
    comment: str,
    liked: bool | None,
) -> Taught:
    """Keep what is said about one picture and return it; see `Device.teach`.

    Args:
        vault: keeps it.
        before: what was taught before, the oldest first.
        extractor: reads the comment.
        picture: a file, or the bytes of a picture.
        comment: empty for a verdict alone.
        liked: None without a verdict.
    """
    from palate.client.eye import copy_picture, hash_picture

    new = new_comment(comment, liked, hash_picture(picture))
    known = _find_same(new, _by_picture(before).get(new.picture, ()))
    if known is not None:
        return known
    kept = copy_picture(picture)
    taught = _understand(new, kept, extractor)
    _keep(vault, [(taught, kept)])
    return taught


def teach_pictures(
    vault: Vault,
    before: Sequence[Taught],
    extractor: "str | Extractor",
    pictures: "Sequence[PictureSource]",
    comment: str,
    liked: bool,
    *,
    progress: Progress,
    on_unreadable: "OnUnreadable | None",
) -> list[Taught]:
    """Keep the same verdict on many pictures and return what was taught, in order; see `Device.teach_all`."""
    from palate.client.eye import PictureSource, copy_picture, find_pictures, hash_picture, read_each

    by_picture = _by_picture(before)

    def read(picture: PictureSource) -> tuple[Taught, bytes | None]:
        new = new_comment(comment, liked, hash_picture(picture))
        known = _find_same(new, by_picture.get(new.picture, ()))
        if known is not None:
            return known, None
        kept = copy_picture(picture)
        return _understand(new, kept, extractor), kept

    found = read_each(find_pictures(pictures), read, progress=progress, on_unreadable=on_unreadable)
    taught: dict[str | None, Taught] = {}  # by picture, since a folder may hold one twice
    fresh: list[tuple[Taught, bytes]] = []
    for _, (one, kept) in found:
        if taught.setdefault(one.comment.picture, one) is one and kept is not None:
            fresh.append((one, kept))
    for start in range(0, len(fresh), GROUP):
        _keep(vault, fresh[start : start + GROUP])
        progress("keeping pictures", min(start + GROUP, len(fresh)), len(fresh))
    return [taught[one.comment.picture] for _, (one, _) in found]


def check_pictures(path: Path | str, lessons: Sequence[Lesson], progress: Progress) -> None:
    """Raise `PictureError` for the first unreadable picture of a file of comments, naming its entry."""
    from palate.client.eye import copy_picture

    for number, lesson in enumerate(lessons):
        progress("checking pictures", number, len(lessons))
        try:
            copy_picture(lesson.image)
        except PictureError as error:
            raise PictureError(f"{path}, entry {number}, 'image': {error}") from None
    progress("checking pictures", len(lessons), len(lessons))


def _understand(comment: Comment, kept: bytes | None, extractor: "str | Extractor") -> Taught:
    """Return the comment with the attributes in it.

    It is read with the kept copy of the picture, so that reading it again gives the same.
    """
    if not comment.text or read_verdict(comment.text) is not None:
        return Taught(comment, ())
    from palate.client.eye import read_picture, what_is_shown
    from palate.client.reader.extractor import extract_attributes

    picture = None if kept is None else read_picture(kept)
    mentions = extract_attributes(
        comment.text, picture, liked=comment.liked, backend=extractor, shown=what_is_shown
    )
    return Taught(comment, tuple(mentions), reader=READER if extractor == "shipped" else None)


def calibrated(taught: Sequence[Taught]) -> list[Taught]:
    """Return what was taught with the shipped reader's odds as the person's corrections make them."""
    corrections = [right for one in taught for right in one.corrections]
    if not corrections:
        return list(taught)
    apply = fit_calibration(corrections).apply
    return [one if one.reader is None else replace(one, read=tuple(map(apply, one.read))) for one in taught]


def forget_comment(vault: Vault, comment: str) -> None:
    """Forget a comment, and its picture unless something else was taught about it; see `Device.forget`."""
    with vault.transaction() as change:
        if not change.has(COMMENT, comment):
            raise OptionError(f"there is no comment {comment!r}; `palate comments` lists them with their ids")
        picture = records.decode_taught(change.get(COMMENT, comment)).comment.picture
        change.delete(COMMENT, comment)
        if picture not in {one.comment.picture for one in records.read_taught(change).values()}:
            for type_ in (PICTURE, records.FEATURES):
                if picture is not None and change.has(type_, picture):
                    change.delete(type_, picture)
        if change.has(records.ADAPTER, ONLY):
            change.delete(records.ADAPTER, ONLY)


def correct_reading(vault: Vault, comment: str, words: str, polarity: int) -> None:
    """Keep a correction with its comment; see `Device.fix`."""
    with vault.transaction() as change:
        if not change.has(COMMENT, comment):
            raise OptionError(f"there is no comment {comment!r}; `palate comments` lists them with their ids")
        taught = records.decode_taught(change.get(COMMENT, comment))
        meant = find_mentions(taught.mentions, words)
        if not meant and (polarity == 0 or words.lower() not in taught.comment.text.lower()):
            raise OptionError(
                f"{words!r} is neither in comment {comment} nor was it understood from it; "
                "`palate comments` shows what was"
            )
        heard = find_mentions(taught.read, words)  # before any correction, which is what is calibrated
        read = heard[0].polarity * heard[0].strength if heard and taught.reader is not None else None
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        fixed = replace(taught, corrections=(*taught.corrections, Correction(words, polarity, read, now)))
        change.put(COMMENT, comment, records.encode_taught(fixed))
        if change.has(records.ADAPTER, ONLY):
            change.delete(records.ADAPTER, ONLY)


def read_anew(vault: Vault, taught: Sequence[Taught], progress: Progress) -> int:
    """Read again what an earlier version of the shipped reader read, and return how many comments that were.

    Each hundred is one change of the vault, so a kill loses nothing: the old readings stay until their new
    ones are kept. Corrections stay.

    Raises:
        StorageError: the vault cannot be written.
    """
    old = [one for one in taught if one.reader is not None and one.reader < READER]
    for start in range(0, len(old), GROUP):
        fresh: list[Taught] = []
        for number, one in enumerate(old[start : start + GROUP]):
            progress("reading comments anew", start + number, len(old))
            picture = one.comment.picture
            kept = (
                vault.get(PICTURE, picture) if picture is not None and vault.has(PICTURE, picture) else None
            )
            read = _understand(one.comment, kept, "shipped")
            fresh.append(replace(one, read=read.read, reader=READER))
        with vault.transaction() as change:
            for one in fresh:
                change.put(COMMENT, one.comment.id, records.encode_taught(one))
            if change.has(records.ADAPTER, ONLY):
                change.delete(records.ADAPTER, ONLY)
    if old:
        progress("reading comments anew", len(old), len(old))
    return len(old)


def _keep(vault: Vault, fresh: Sequence[tuple[Taught, bytes]]) -> None:
    """Put what was taught into the vault, each with the copy of its picture, in one change."""
    with vault.transaction() as change:
        for taught, kept in fresh:
            change.put(COMMENT, taught.comment.id, records.encode_taught(taught))
            if taught.comment.picture is not None and not change.has(PICTURE, taught.comment.picture):
                change.put(PICTURE, taught.comment.picture, kept)


def _by_picture(taught: Sequence[Taught]) -> dict[str | None, list[Taught]]:
    found: dict[str | None, list[Taught]] = {}
    for one in taught:
        found.setdefault(one.comment.picture, []).append(one)
    return found


def _find_same(new: Comment, about: Sequence[Taught]) -> Taught | None:
    """Return what was taught before and says the same as this comment, or None.

    Args:
        new: the comment, or the verdict alone.
        about: what was taught about the same picture, the oldest first.
    """
    if new.text:
        said = (one for one in about if (one.comment.text, one.comment.liked) == (new.text, new.liked))
        return next(said, None)
    verdicts = [one for one in about if one.comment.liked is not None]
    return verdicts[-1] if verdicts and verdicts[-1].comment.liked is new.liked else None
