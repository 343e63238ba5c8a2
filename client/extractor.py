"""Turns a comment, and the picture it is about, into liked and disliked attributes.

    comment ── words ── spans (client/mentions.py) ── clauses ── polarity ── mentions
                                                                    picture ──┘  (only for "these colours", "the light")

The task is that of ViPer's preference extractor (Salehi et al., ECCV 2024): liked and disliked *looks*, never subject matter.
Three back ends stand behind one function: the shipped one (offline, milliseconds), any vision-language model
(client/vision_language.py), and `Given`, which asks nobody and returns what it was told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from PIL import Image

from palate.client.clauses import Clause, cut_clauses
from palate.client.comments import check_comment
from palate.client.looks import WhatIsShown, what_is_shown
from palate.client.mentions import Likeness, find_spans
from palate.client.open_words import OpenWords
from palate.client.polarity import Judged, judge_comment
from palate.client.sentences import SHIPPED, SentenceTower, known_words
from palate.client.words import Word, read_sentences
from palate.shared.attributes import Category, Mention, load_vocabulary
from palate.shared.errors import OptionError

SHOWN = 0.5
"""Least probability at which the picture counts as showing what a vague mention refers to."""
MOST_SHOWN = 2
"""How many attributes a vague mention may refer to, each of another category."""


class Extractor(Protocol):
    """A back end: reads a comment about a picture (None when there is none) with the person's verdict (None when not given)."""

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Returns the comment's mentions. Raises CommentError for an unreadable comment, ExtractionError for an unusable answer."""


def extract_attributes(
    comment: str,
    picture: Image.Image | None,
    *,
    liked: bool | None = None,
    backend: str | Extractor = "shipped",
    shown: WhatIsShown = what_is_shown,
) -> list[Mention]:
    """Returns what a comment likes and dislikes about a picture's looks, each attribute once.

    liked is the person's verdict on the picture; it decides clauses that show no feeling of their own. shown says what the
    picture shows, for vague mentions ("these colours"); it is called at most once, and only for them.
    Raises CommentError when the comment is empty, too long or not English, OptionError for an unknown backend name.
    """
    if isinstance(backend, str):
        if backend != "shipped":
            raise OptionError(
                f"backend={backend!r}: must be 'shipped' or an extractor object such as VisionLanguageExtractor"
            )
        backend = ShippedExtractor(shown)
    return backend.extract(comment, picture, liked)


@lru_cache(maxsize=1)
def _shipped_words() -> OpenWords:
    """Returns the shipped tower's likeness of meaning, kept between comments."""
    return OpenWords(SentenceTower())


@dataclass(frozen=True)
class ShippedExtractor:
    """The default back end: lists, a small grammar of feeling, and the sentence tower for words that no list knows.

    likeness None leaves out the tower (and torch); unknown describing words then yield nothing.
    """

    shown: WhatIsShown = what_is_shown
    likeness: Likeness | None = field(default_factory=_shipped_words)

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Returns the comment's mentions; see `extract_attributes`."""
        comment = check_comment(comment)
        known = known_words(SHIPPED)
        sentences = read_sentences(comment)
        parsed = []
        for sentence in sentences:
            spans = find_spans(sentence, self.likeness, known)
            parsed.append((sentence, cut_clauses(sentence, spans)))
        mentions: list[Mention] = []
        seen: Mapping[str, float] | None = None
        for (sentence, clauses), judged in zip(parsed, judge_comment(parsed, liked), strict=True):
            for one in _resolved(sentence, judged, _clause_of(clauses)):
                if (
                    one.span.term is None
                    and one.span.noun is not None
                    and one.present
                    and picture is not None
                    and seen is None
                ):
                    seen = self.shown(picture)
                mentions += _mentions(one, sentence, comment, seen)
        return merge_mentions(mentions)


@dataclass(frozen=True)
class Given:
    """A back end that asks nobody: it returns the mentions it was given, for tests and for people who tag by hand."""

    mentions: Sequence[Mention]

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Returns the given mentions, whatever the comment says."""
        del comment, picture, liked
        return list(self.mentions)


def _clause_of(clauses: Sequence[Clause]) -> Mapping[int, int]:
    """Returns for the start of every span the number of its clause."""
    return {span.start: number for number, clause in enumerate(clauses) for span in clause.spans}


def _resolved(
    sentence: Sequence[Word], judged: Sequence[Judged], clause_of: Mapping[int, int]
) -> list[Judged]:
    """Returns the judged spans without nouns that a term of their clause already describes ("warm colours", "the light is soft")."""
    kept = []
    for one in judged:
        if one.span.term is None:
            described = any(
                other.span.term is not None
                and clause_of.get(other.span.start) == clause_of.get(one.span.start)
                for other in judged
            )
            if described or _describes_across(one, judged, sentence):
                continue
        kept.append(one)
    return kept


def _describes_across(noun: Judged, judged: Sequence[Judged], sentence: Sequence[Word]) -> bool:
    """Says whether a term before the noun, with a comma or "and" between clauses, describes it: "bold, bright colours"."""
    ends = {other.span.end for other in judged if other.span.term is not None}
    position = noun.span.start
    while position > 0 and sentence[position - 1].is_mark:
        position -= 1
    return position in ends


def _mentions(
    one: Judged, sentence: Sequence[Word], comment: str, seen: Mapping[str, float] | None
) -> list[Mention]:
    """Returns the mentions of one judged span: its term's, or for a vague noun those that the picture shows."""
    vocabulary = load_vocabulary()
    phrase = comment[sentence[one.span.start].start : sentence[one.span.end - 1].end]
    if one.span.term is not None:
        return [Mention(one.span.term.name, one.span.term.category, one.polarity, one.strength, phrase)]
    kind = vocabulary.categories[one.span.noun or ""]
    names = _shown_of_kind(kind, seen) if one.present and seen is not None else []
    if not names and kind.fallback is not None:
        names = [kind.fallback]
    return [
        Mention(name, vocabulary.category(name) or kind.name, one.polarity, one.strength, phrase)
        for name in names
    ]


def _shown_of_kind(kind: Category, seen: Mapping[str, float]) -> list[str]:
    """Returns the attributes that the picture shows most clearly, one of each category of the kind, at most MOST_SHOWN."""
    vocabulary = load_vocabulary()
    clearest: list[str] = []
    for category in kind.vague:
        fitting = [
            (p, name) for name, p in seen.items() if p >= SHOWN and vocabulary.category(name) == category
        ]
        clearest += [max(fitting)[1]] if fitting else []
    return clearest[:MOST_SHOWN]


def merge_mentions(mentions: Sequence[Mention]) -> list[Mention]:
    """Returns each attribute once: the strongest mention stands, a contradicted one loses what the other side says."""
    best: dict[str, Mention] = {}
    for mention in mentions:
        held = best.get(mention.attribute)
        if held is None or mention.strength > held.strength:
            best[mention.attribute] = mention
    return list(best.values())


__all__ = ["Extractor", "Given", "ShippedExtractor", "extract_attributes", "merge_mentions"]
