"""Turns a comment, and the picture it is about, into liked and disliked attributes.

    comment, verdict ── tagger ── looks with odds ── phrases ── mentions
                                  picture ───────────┘  (only for "these colours")

The task is that of ViPer's preference extractor (Salehi et al., ECCV 2024): liked and disliked *looks*, never
subject matter. Three back ends stand behind one function: the shipped one (offline, milliseconds), any
vision-language model (`vision_language`), and `Given`, which returns what it was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from PIL import Image

from palate.client.eye import WhatIsShown, colours_shown
from palate.client.reader.comment import check_comment, check_language
from palate.client.reader.corrections import FULL
from palate.client.reader.phrases import Placed, place_look, trim
from palate.client.reader.tagger import Span, Tagger, shipped_tagger
from palate.shared.attributes import Category, Mention, load_vocabulary
from palate.shared.errors import OptionError

SHOWN: Final = 0.55
"""Least probability at which the eye is sure of what a vague mention means, where arithmetic sees it."""
SHOWN_TO_TOWER: Final = 0.9
"""The same where only the tower sees it, which was taught on drawings."""
BY_ARITHMETIC: Final = frozenset({"palette", "colour", "temperature", "contrast"})
MOST_SHOWN: Final = 2
"""How many attributes a vague mention may refer to, each of another category."""
VAGUE: Final = 0.3
"""The greatest strength of a mention that stays vague."""
UNSURE: Final = 0.5
"""A liking that is nearer to 0 is worth a question."""
UNSURE_AGAINST: Final = 0.9
"""The same where words and verdict disagree."""


class Extractor(Protocol):
    """A back end: reads a comment, with its picture and the person's verdict where there are any."""

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the comment's mentions.

        Raises CommentError for an unreadable comment, ExtractionError for an unusable answer.
        """


def extract_attributes(
    comment: str,
    picture: Image.Image | None,
    *,
    liked: bool | None = None,
    backend: str | Extractor = "shipped",
    shown: WhatIsShown = colours_shown,
) -> list[Mention]:
    """Return what a comment likes and dislikes about a picture's looks, each attribute once.

    liked is the person's verdict on the picture. shown says what the picture shows, for vague mentions
    ("these colours"); it is called at most once, and only for them. Raises CommentError when the comment is
    empty, too long or not English, OptionError for an unknown backend name.
    """
    if isinstance(backend, str):
        if backend != "shipped":
            raise OptionError(
                f"backend={backend!r}: must be 'shipped' or an extractor object such as "
                "VisionLanguageExtractor"
            )
        backend = ShippedExtractor(shown)
    return backend.extract(comment, picture, liked)


@dataclass(frozen=True)
class ShippedExtractor:
    """The default back end: the tagger, then a place in the vocabulary for each look's words."""

    shown: WhatIsShown = colours_shown
    tagger: Tagger = field(default_factory=shipped_tagger)

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the comment's mentions; see `extract_attributes`."""
        comment = check_comment(comment)
        check_language(comment)
        mentions: list[Mention] = []
        seen: Mapping[str, float] | None = None
        for span in self.tagger.read(comment, liked):
            place = trim(comment, span.start, span.end)
            if place is None or not span.is_judged:
                continue
            for part in place_look(comment, *place):
                if part.vague and picture is not None and seen is None:
                    seen = self.shown(picture)
                mentions += _mentions(part, span, liked, seen)
        return merge_mentions(mentions)


@dataclass(frozen=True)
class Given:
    """A back end that returns the mentions it was given, for tests and for people who tag by hand."""

    mentions: Sequence[Mention]

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the given mentions, whatever the comment says."""
        del comment, picture, liked
        return list(self.mentions)


def _mentions(
    part: Placed, span: Span, liked: bool | None, seen: Mapping[str, float] | None
) -> list[Mention]:
    """Return the mentions of a part of a look: its own, or what the picture surely shows of a vague one."""
    polarity = 1 if span.liking > 0 else -1
    strength = max(0.03, round(FULL * abs(span.liking), 3))
    wished = span.odds[2] > 0.5
    against = liked is not None and (polarity > 0) != liked and not wished
    unsure = abs(span.liking) < (UNSURE_AGAINST if against else UNSURE)
    if not part.vague:
        return [Mention(part.words, part.category, polarity, strength, part.phrase, part.term, unsure=unsure)]
    kind = load_vocabulary().categories[part.category]
    if wished and kind.fallback is not None:  # "it lacks contrast" wants high contrast
        return [Mention(part.words, kind.name, 1, strength, part.phrase, kind.fallback, unsure=unsure)]
    # What is missing is not what the picture shows.
    names = [] if wished or seen is None else _shown_of_kind(kind, seen)
    if names:
        category = load_vocabulary().category
        return [
            Mention(
                part.words, category(name) or kind.name, polarity, strength, part.phrase, name, unsure=unsure
            )
            for name in names
        ]
    strength = min(VAGUE, strength)
    return [Mention(part.words, kind.name, polarity, strength, part.phrase, vague=True, unsure=unsure)]


def _shown_of_kind(kind: Category, seen: Mapping[str, float]) -> list[str]:
    """Return the attributes that the picture surely shows, one of each category of the kind."""
    vocabulary = load_vocabulary()
    clearest: list[str] = []
    for category in kind.vague:
        least = SHOWN if category in BY_ARITHMETIC else SHOWN_TO_TOWER
        fitting = [
            (p, name) for name, p in seen.items() if p >= least and vocabulary.category(name) == category
        ]
        clearest += [max(fitting)[1]] if fitting else []
    return clearest[:MOST_SHOWN]


def merge_mentions(mentions: Sequence[Mention]) -> list[Mention]:
    """Return each attribute once, with its strongest mention."""
    best: dict[str, Mention] = {}
    for mention in mentions:
        held = best.get(mention.name)
        if held is None or mention.strength > held.strength:
            best[mention.name] = mention
    return list(best.values())


__all__ = ["Extractor", "Given", "ShippedExtractor", "extract_attributes", "merge_mentions"]
