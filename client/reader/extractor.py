"""Turns a comment, and the picture it is about, into liked and disliked attributes.

    comment ── words ── spans (`mentions`) ── clauses ── polarity ── sentiment ── mentions
                                               picture ───┘  (only for "these colours")

Rules (`polarity`) and a network that has read many comments (`sentiment`) decide whether a look is liked;
both are weighed.

The task is that of ViPer's preference extractor (Salehi et al., ECCV 2024): liked and disliked *looks*, never
subject matter. Three back ends stand behind one function: the shipped one (offline, milliseconds), any
vision-language model (`vision_language`), and `Given`, which returns what it was told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from PIL import Image

from palate.client.eye import WhatIsShown, colours_shown
from palate.client.reader.clauses import Clause, cut_clauses
from palate.client.reader.comment import check_comment
from palate.client.reader.mentions import Likeness, Span, find_spans
from palate.client.reader.open_words import OpenWords
from palate.client.reader.polarity import Judged, judge_comment
from palate.client.reader.sentences import SHIPPED, SentenceTower, known_words
from palate.client.reader.sentiment import Odds, Place, Sentiment, shipped_sentiment
from palate.client.reader.words import Word, read_sentences
from palate.shared.attributes import Category, Mention, load_vocabulary
from palate.shared.errors import OptionError

SHOWN = 0.5
"""Least probability at which the picture counts as showing what a vague mention refers to."""
MOST_SHOWN = 2
"""How many attributes a vague mention may refer to, each of another category."""
RULES = 1.0
"""Log-odds that a look is liked which the rules add to the network's when they are sure of it."""
JUDGED = -5.0
"""Least log-odds that a single word judges a look at all, by the network, for it to count."""


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

    liked is the person's verdict on the picture; it decides clauses that show no feeling of their own. shown
    says what the picture shows, for vague mentions ("these colours"); it is called at most once, and only for
    them. Raises CommentError when the comment is empty, too long or not English, OptionError for an unknown
    backend name.
    """
    if isinstance(backend, str):
        if backend != "shipped":
            raise OptionError(
                f"backend={backend!r}: must be 'shipped' or an extractor object such as "
                "VisionLanguageExtractor"
            )
        backend = ShippedExtractor(shown)
    return backend.extract(comment, picture, liked)


@lru_cache(maxsize=1)
def _shipped_words() -> OpenWords:
    """Return the shipped tower's likeness of meaning, kept between comments."""
    return OpenWords(SentenceTower())


@dataclass(frozen=True)
class ShippedExtractor:
    """The default back end: lists, a small grammar of feeling, and two networks.

    One network reads feeling; the other is the sentence tower, for words that no list knows. `likeness` None
    leaves unknown describing words unread, `sentiment` None leaves feeling to the rules; without both there
    is no torch.
    """

    shown: WhatIsShown = colours_shown
    likeness: Likeness | None = field(default_factory=_shipped_words)
    sentiment: Sentiment | None = field(default_factory=shipped_sentiment)

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the comment's mentions; see `extract_attributes`."""
        comment = check_comment(comment)
        parsed = _parse(comment, self.likeness)
        judged = [
            _resolved(sentence, some, _clause_of(clauses))
            for (sentence, clauses), some in zip(parsed, judge_comment(parsed, liked), strict=True)
        ]
        if self.sentiment is not None:
            judged = _weighed(self.sentiment, comment, liked, [sentence for sentence, _ in parsed], judged)
        mentions: list[Mention] = []
        seen: Mapping[str, float] | None = None
        for (sentence, _), some in zip(parsed, judged, strict=True):
            for one in some:
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
    """A back end that returns the mentions it was given, for tests and for people who tag by hand."""

    mentions: Sequence[Mention]

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the given mentions, whatever the comment says."""
        del comment, picture, liked
        return list(self.mentions)


def _parse(comment: str, likeness: Likeness | None) -> list[tuple[list[Word], list[Clause]]]:
    """Return a comment's sentences, each with its clauses and the spans in them."""
    known = known_words(SHIPPED)
    return [
        (sentence, cut_clauses(sentence, find_spans(sentence, likeness, known)))
        for sentence in read_sentences(comment)
    ]


def find_places(comment: str) -> list[tuple[Place, str | None]]:
    """Return where a comment names terms of the vocabulary, as characters [start, end), and which.

    The term of a vague noun is None.
    """
    spans = (
        (sentence, span)
        for sentence, clauses in _parse(comment, _shipped_words())
        for clause in clauses
        for span in clause.spans
    )
    return [
        (_place(sentence, span), span.term.name if span.term else None)
        for sentence, span in spans
        if span.term is not None or span.noun is not None
    ]


def _place(sentence: Sequence[Word], span: Span) -> Place:
    """Return the characters of the comment that a span stands for."""
    return sentence[span.start].start, sentence[span.end - 1].end


def _weighed(
    sentiment: Sentiment,
    comment: str,
    liked: bool | None,
    sentences: Sequence[Sequence[Word]],
    judged: Sequence[Sequence[Judged]],
) -> list[list[Judged]]:
    """Return the judged spans of each sentence, the network's answer weighed against the rules'."""
    places = [
        _place(sentence, one.span) for sentence, some in zip(sentences, judged, strict=True) for one in some
    ]
    odds = iter(sentiment.read(comment, liked, places))
    weighed = ([_turned(one, next(odds)) for one in some] for some in judged)
    return [[one for one in some if one is not None] for some in weighed]


def _turned(one: Judged, odds: Odds | None) -> Judged | None:
    """Return what rules and network make of a span together, None where it judges no look.

    Where they come to the contrary of the rules, that is as strong as they are sure.
    """
    if odds is None:
        return one
    if odds.judged < JUDGED and one.span.end - one.span.start == 1:
        return None
    total = odds.liked + RULES * one.polarity * one.strength
    if total * one.polarity >= 0:
        return one
    return replace(one, polarity=-one.polarity, strength=round(max(0.1, math.tanh(abs(total) / 2)), 3))


def _clause_of(clauses: Sequence[Clause]) -> Mapping[int, int]:
    """Return for the start of every span the number of its clause."""
    return {span.start: number for number, clause in enumerate(clauses) for span in clause.spans}


def _resolved(
    sentence: Sequence[Word], judged: Sequence[Judged], clause_of: Mapping[int, int]
) -> list[Judged]:
    """Return the judged spans without nouns that a term of their clause already describes.

    For example "warm colours", "the light is soft".
    """
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
    """Return whether a term before the noun, with a comma or "and" between clauses, describes it.

    For example "bold, bright colours".
    """
    ends = {other.span.end for other in judged if other.span.term is not None}
    position = noun.span.start
    while position > 0 and sentence[position - 1].is_mark:
        position -= 1
    return position in ends


def _mentions(
    one: Judged, sentence: Sequence[Word], comment: str, seen: Mapping[str, float] | None
) -> list[Mention]:
    """Return the mentions of a judged span: its term's, or those of a vague noun that the picture shows."""
    vocabulary = load_vocabulary()
    phrase = comment[slice(*_place(sentence, one.span))]
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
    """Return the attributes that the picture shows most clearly.

    They are one of each category of the kind, at most MOST_SHOWN.
    """
    vocabulary = load_vocabulary()
    clearest: list[str] = []
    for category in kind.vague:
        fitting = [
            (p, name) for name, p in seen.items() if p >= SHOWN and vocabulary.category(name) == category
        ]
        clearest += [max(fitting)[1]] if fitting else []
    return clearest[:MOST_SHOWN]


def merge_mentions(mentions: Sequence[Mention]) -> list[Mention]:
    """Return each attribute once, with its strongest mention."""
    best: dict[str, Mention] = {}
    for mention in mentions:
        held = best.get(mention.attribute)
        if held is None or mention.strength > held.strength:
            best[mention.attribute] = mention
    return list(best.values())


__all__ = ["Extractor", "Given", "ShippedExtractor", "extract_attributes", "merge_mentions"]
