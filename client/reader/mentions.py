"""Finds what a sentence speaks of: terms of the vocabulary, nouns that name a kind of attribute, and cues of feeling.

The longest phrase wins, so that "black and white" is one term and "not a fan of" one cue. A word such as
"bold" means something only beside a noun: in "bold colours" or "the colours are bold" it is the palette's, in
"bold lines" the line's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from palate.client.reader.cues import Cue, load_cues
from palate.client.reader.words import Word
from palate.shared.attributes import Attribute, load_vocabulary, spelling_key

Likeness = Callable[[str, str | None], "Attribute | float | None"]
"""(unknown word, category of the noun beside it or None) -> the term it means, the opinion it is, or None."""

_REACH = 5
"""How many words may stand between a describing word and its noun."""
_NO_COMPARATIVE = frozenset(
    {"flower", "matter", "layer", "water", "letter", "corner", "order", "tower", "poster", "paper", "flatter"}
)


@dataclass(frozen=True)
class Span:
    """The words [start, end) of a sentence and what they are: a term, a kind's noun, or a cue."""

    start: int
    end: int
    term: Attribute | None = None
    noun: str | None = None
    cue: Cue | None = None
    sour: bool = False
    compared: bool = False
    """Whether it is a comparative ("calmer"), which in a wish says what is wanted."""


def find_spans(
    sentence: Sequence[Word], likeness: Likeness | None = None, known: frozenset[str] = frozenset()
) -> list[Span]:
    """Return the spans of one sentence in order, none overlapping.

    likeness places describing words that no list knows; known is the set of whole English words, so that only
    words outside it are taken for misspellings.
    """
    spans = _listed(sentence, known)
    taken = {index for span in spans for index in range(span.start, span.end)}
    spans = _beside_nouns(sentence, spans, taken)
    if likeness is not None:
        spans += _unknown(sentence, spans, taken, likeness)
    return sorted((span for span in spans if span.term or span.noun or span.cue), key=lambda span: span.start)


def words_of(sentence: Sequence[Word], span: Span) -> str:
    """Return the span's words as read."""
    return " ".join(word.text for word in sentence[span.start : span.end])


def _listed(sentence: Sequence[Word], known: frozenset[str]) -> list[Span]:
    """Return the phrases that the vocabulary or the cues list, longest first at each place."""
    cues, vocabulary = load_cues(), load_vocabulary()
    longest = max(vocabulary.longest, max(len(key) for key in cues.phrases))
    spans: list[Span] = []
    index = 0
    while index < len(sentence):
        rating = _rating(sentence, index)
        if rating is not None:
            spans.append(rating)
            index = rating.end
            continue
        for length in range(min(longest, len(sentence) - index), 0, -1):
            words = sentence[index : index + length]
            if any(word.is_mark for word in words):
                continue
            span = _look_up(tuple(word.key for word in words), index, index + length)
            if span is None and length == 1:
                span = _corrected(words[0], index, known)
            if span is not None:
                spans.append(span)
                index += length
                break
        else:
            index += 1
    return spans


def _rating(sentence: Sequence[Word], index: int) -> Span | None:
    """Return the span of a mark out of ten ("2/10", "9 out of 10") as an opinion, or None."""
    texts = [word.text for word in sentence[index : index + 4]]
    length = (
        3
        if texts[1:3] == [",", "10"]
        else 4
        if texts[1:] in (["out", "of", "10"], ["out", "of", "ten"])
        else 0
    )
    if not length or not texts[0].isdecimal() or int(texts[0]) > 10:
        return None
    return Span(index, index + length, cue=Cue("opinion", (int(texts[0]) - 5.5) / 5))


def _look_up(key: tuple[str, ...], start: int, end: int) -> Span | None:
    """Return the span that exactly these keys are, or None. A phrase to ignore is a span that is nothing."""
    cues, vocabulary = load_cues(), load_vocabulary()
    if key in cues.ignored:
        return Span(start, end)
    if key in cues.phrases:
        return Span(start, end, cue=cues.phrases[key])
    noun = vocabulary.noun_category(key)
    if noun is None and len(key) > 1:
        noun = vocabulary.noun_category(key[-1:])
        noun = noun if vocabulary.find_key(key) is not None else None
    term = vocabulary.find_key(key) if len("".join(key)) > 2 else None
    if term is not None:
        return Span(start, end, term=term, noun=noun, sour=vocabulary.is_sour(key))
    if noun is not None:
        return Span(start, end, noun=noun)
    if len(key) == 1:
        for base in _bases(key[0]):
            term = vocabulary.find_key((base,))
            praise = cues.phrases.get((base,))
            if term is None and key[0].endswith("ly") and praise is not None and praise.weight > 0.5:
                return Span(start, end, cue=Cue("opinion", 0.9 * praise.weight))  # "deliciously"
            if term is not None:
                return Span(
                    start,
                    end,
                    term=term,
                    sour=vocabulary.is_sour((base,)),
                    compared=key[0].endswith(("er", "est")),
                )
    return None


def _bases(word: str) -> list[str]:
    """Return the words that a derived word may come from: brighter, brightest, brightly, brightness: bright."""
    if word in _NO_COMPARATIVE:
        return []
    bases = []
    for ending in ("ness", "ly", "er", "est", "ish", "y"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3:
            bases.append(stem)
            if stem.endswith("i"):
                bases.append(stem[:-1] + "y")
            if ending in ("er", "est"):
                bases.append(stem + "e")
                if stem[-1] == stem[-2]:
                    bases.append(stem[:-1])
    return bases


@lru_cache(maxsize=1)
def _single_words() -> tuple[str, ...]:
    """Return every single word that stands for something, as a target for misspellings."""
    cues, vocabulary = load_cues(), load_vocabulary()
    words = {key[0] for key, _ in vocabulary.phrases if len(key) == 1 and len(key[0]) >= 5}
    words |= {
        key[0]
        for key, cue in cues.phrases.items()
        if len(key) == 1 and len(key[0]) >= 5 and cue.kind == "opinion"
    }
    words |= {
        spelling_key(noun)
        for kind in vocabulary.categories.values()
        for noun in kind.nouns
        if " " not in noun
    }
    return tuple(sorted(words))


@lru_cache(maxsize=4096)
def _nearest_spelling(word: str) -> str | None:
    """Return the listed word of which this one is a likely misspelling, or None."""
    close = [c for c in difflib.get_close_matches(word, _single_words(), n=3, cutoff=0.8) if c[0] == word[0]]
    for candidate in close:
        # One or two slips of the finger, never another length of word: "colurs", "brushtrokes", "beautifull".
        if abs(len(candidate) - len(word)) <= 2:
            return candidate
    return None


def _corrected(word: Word, index: int, known: frozenset[str]) -> Span | None:
    """Return the span of a misspelt word, or None when the word is English or like nothing."""
    if (
        len(word.key) < 5
        or not word.key.isalpha()
        or word.text in known
        or word.key in known
        or word.key in load_cues().familiar
    ):
        return None
    if load_vocabulary().means_beside((word.key,)):
        return None
    meant = _nearest_spelling(word.key)
    return None if meant is None else _look_up((meant,), index, index + 1)


def _noun_beside(sentence: Sequence[Word], spans: Sequence[Span], index: int) -> str | None:
    """Return the category of the noun that the word at `index` describes, or None.

    Before the noun: "bold, bright colours". After it and a copula: "the colours are so bold".
    """
    cues = load_cues()
    starts = {span.start: span for span in spans}
    inside = {i: span for span in spans for i in range(span.start, span.end)}
    position, strangers = index + 1, 0
    while position < len(sentence) and position <= index + _REACH:
        span = starts.get(position)
        if span is not None and span.noun is not None:
            return span.noun
        word = sentence[position]
        describing = (
            word.is_mark
            or word.text in ("and", "yet", "of", "very", "so")
            or (span is not None and span.term is not None)
        )
        if not describing and not load_vocabulary().means_beside((word.key,)):
            # One word that no list knows may stand between: "thick squiggly paint".
            strangers += 1
            listed = word.key in cues.familiar or word.text in cues.plain or word.text in cues.function
            if strangers > 1 or listed or span is not None:
                break
        if word.text == "of" and position != index + 1:
            break
        position = span.end if span is not None else position + 1
    seen_copula = False
    for position in range(index - 1, max(-1, index - 9), -1):
        span = inside.get(position)
        word = sentence[position]
        if word.text in cues.copulas or word.text == ":":
            seen_copula = True
        elif span is not None and span.noun is not None:
            return span.noun if seen_copula else None
        elif word.text in ("but", "though", "with"):
            return None
    return None


def _beside_nouns(sentence: Sequence[Word], spans: Sequence[Span], taken: set[int]) -> list[Span]:
    """Return the spans with those added, or put in place of a single word's own, that mean a term only beside a noun."""
    vocabulary = load_vocabulary()
    single = {span.start: span for span in spans if span.end == span.start + 1}
    found = {}
    for index, word in enumerate(sentence):
        listed = single.get(index)
        free = index not in taken or (
            listed is not None and listed.noun is None and (listed.term is not None or _is_mild(listed))
        )
        means = [base for base in (word.key, *_bases(word.key)) if vocabulary.means_beside((base,))]
        if not free or word.is_mark or not means:
            continue
        category = _noun_beside(sentence, spans, index)
        term = vocabulary.find_beside((means[0],), category) if category else None
        if term is not None:
            found[index] = Span(index, index + 1, term=term, compared=means[0] != word.key)
            taken.add(index)
    return [span for span in spans if not (span.end == span.start + 1 and span.start in found)] + list(
        found.values()
    )


def _is_mild(span: Span) -> bool:
    """Says whether a span is an opinion that beside a noun is rather a description: "cool colours", "pretty weak light"."""
    return span.cue is not None and span.cue.kind in ("opinion", "more") and abs(span.cue.weight) <= 0.6


def _unknown(
    sentence: Sequence[Word], spans: Sequence[Span], taken: set[int], likeness: Likeness
) -> list[Span]:
    """Return spans for describing words that no list knows, placed by likeness of meaning."""
    cues = load_cues()
    found = []
    for index, word in enumerate(sentence):
        if index in taken or word.is_mark or len(word.text) < 4 or not word.text.isalpha():
            continue
        if word.key in cues.familiar or word.text in cues.plain or word.text in cues.function:
            continue
        category = _noun_beside(sentence, spans, index)
        if category is None and not _is_predicate(sentence, index):
            continue
        meant = likeness(word.text, category)
        if isinstance(meant, float):
            found.append(Span(index, index + 1, cue=Cue("opinion", meant)))
        elif meant is not None:
            found.append(Span(index, index + 1, term=meant))
    return found


def _is_predicate(sentence: Sequence[Word], index: int) -> bool:
    """Says whether the word ends a description after a copula: "it all feels so syrupy"."""
    cues = load_cues()
    following = sentence[index + 1] if index + 1 < len(sentence) else None
    if (
        following is not None
        and not following.is_mark
        and following.text not in ("and", "but", "to", "for", "though", "in", "because")
    ):
        return False
    for position in range(index - 1, max(-1, index - 5), -1):
        word = sentence[position]
        if word.text in cues.copulas and word.text not in ("it", "them", "get", "gets", "come", "comes"):
            return True
        if (word.key,) not in cues.strong | cues.faint | {
            ("too",),
            ("not",),
            ("a",),
            ("all",),
            ("and",),
            ("bit",),
        }:
            return False
    return False
