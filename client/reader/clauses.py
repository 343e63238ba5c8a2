"""Cuts a sentence into clauses, each of which has one feeling at most.

A clause ends at a comma, at "and" or "or", and at words of contrast, but never inside a phrase that stands
for one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from palate.client.reader.cues import load_cues
from palate.client.reader.mentions import Span
from palate.client.reader.words import Word


@dataclass
class Clause:
    """The words [start, end) of a sentence, the spans among them, and how the clause hangs on the one before it.

    join is "start", "list" (comma, and), "either" (or, nor) or "contrast" (but, though); yields says that it
    opens with a concession ("although ...") and the next clause answers it.
    """

    start: int
    end: int
    join: str
    yields: bool = False
    spans: list[Span] = field(default_factory=list)
    has_verb: bool = False


_SUBJECTS = frozenset({"i", "it", "there", "this", "everything", "nothing", "we"})
"""With these the main clause begins, comma or not: "apart from the texture there is nothing I like"."""
_SIGHS = frozenset({"shame", "pity", "too bad", "alas", "unfortunately", "sadly"})
"""At the end they sigh over what was said before ("no depth, pity").

Else they set what follows against it.
"""
_EITHER = frozenset({"or", "nor"})
_LIST = frozenset(
    {
        "and",
        "plus",
        "also",
        "because",
        "since",
        "so",
        "which",
        "especially",
        "particularly",
        "with",
        "then",
        "nor",
        "or",
    }
)


def cut_clauses(sentence: Sequence[Word], spans: Sequence[Span]) -> list[Clause]:
    """Return the clauses of a sentence; every span lies in exactly one."""
    cues = load_cues()
    inside = {index for span in spans for index in range(span.start + 1, span.end)}
    ends = [span.end for span in spans if span.term is not None or span.noun is not None]
    cue_starts = {span.start: span for span in spans if span.cue is not None}
    clauses = [Clause(0, 0, "start")]
    index = 0
    while index < len(sentence):
        word = sentence[index]
        current = clauses[-1]
        if index in inside:
            index += 1
            continue
        length, contrast = _contrast_at(sentence, index)
        if length and _is_aside(sentence, clauses, spans, index, length):
            clauses.pop()
            clauses[-1].join = "contrast"
            index += length + 1
            continue
        if length and _only_adds(sentence, index):
            _open(sentence, clauses, index + length, "list")
        elif length and contrast and not (index in cue_starts and cue_starts[index].end > index + length):
            joined = " ".join(w.text for w in sentence[index : index + length])
            key = tuple(w.key for w in sentence[index : index + length])
            last = index + length >= len(sentence) or all(w.is_mark for w in sentence[index + length :])
            if joined == "still" and last and _describes_stillness(sentence, index):
                pass
            elif last and joined in ("though", "however", "still", "yet"):
                current.join = "contrast"
            elif joined in _SIGHS and not _goes_on(sentence, index + length):
                _open(sentence, clauses, index, "list")
            elif not (
                joined == "still" and current.start != index and not sentence[index - 1].is_mark
            ) and not (joined == "only" and (index == 0 or not sentence[index - 1].is_mark)):
                _open(sentence, clauses, index, "contrast", yields=key in cues.concession)
        elif word.is_mark:
            _open(sentence, clauses, index + 1, "list")
        elif current.yields and word.text in _SUBJECTS and any(current.start < end <= index for end in ends):
            _open(sentence, clauses, index, "list")
        elif word.text in _LIST and not (
            word.text == "so" and index + 1 < len(sentence) and not _opens_reason(sentence, index)
        ):
            _open(sentence, clauses, index + 1, "either" if word.text in _EITHER else "list")
        index += max(length, 1)
    for position, clause in enumerate(clauses):
        clause.end = clauses[position + 1].start if position + 1 < len(clauses) else len(sentence)
        clause.spans = [span for span in spans if clause.start <= span.start < clause.end]
        clause.has_verb = any(word.text in cues.verbs for word in sentence[clause.start : clause.end])
    return [clause for clause in clauses if clause.end > clause.start]


def _open(
    sentence: Sequence[Word], clauses: list[Clause], start: int, join: str, *, yields: bool = False
) -> None:
    """Begins a clause, or sharpens the join of one that has no words yet."""
    last = clauses[-1]
    wordless = all(word.is_mark for word in sentence[last.start : start])
    if wordless and join == "contrast":
        last.join, last.yields = join, yields
    elif last.start >= start - 1 and last.start != 0:
        last.start = start
        if last.join == "list":
            last.join = join
    else:
        clauses.append(Clause(start, start, join, yields))


def _contrast_at(sentence: Sequence[Word], index: int) -> tuple[int, bool]:
    """Return the length of the longest contrast phrase at this word and whether there is one."""
    cues = load_cues()
    for length in (3, 2, 1):
        key = tuple(word.key for word in sentence[index : index + length])
        if len(key) == length and (key in cues.contrast or key in cues.concession):
            return length, True
    return 0, False


def _is_aside(
    sentence: Sequence[Word], clauses: Sequence[Clause], spans: Sequence[Span], index: int, length: int
) -> bool:
    """Says whether a contrast between commas parts a noun from its verb: "the pixels, on the other hand, are ugly"."""
    after = index + length
    if (
        len(clauses) < 2
        or clauses[-1].start != index
        or after >= len(sentence)
        or not sentence[after].is_mark
    ):
        return False
    start = clauses[-2].start
    said = any(word.text in load_cues().verbs for word in sentence[start:index])
    return not said and not any(span.cue is not None and start <= span.start < index for span in spans)


def _only_adds(sentence: Sequence[Word], index: int) -> bool:
    """Says whether "but" adds rather than contrasts: "not only vivid but balanced", "the blue but also the edges"."""
    texts = [word.text for word in sentence]
    pairs = pairwise(texts[:index])
    return texts[index] == "but" and (
        texts[index + 1 : index + 2] == ["also"]
        or any(one == "not" and other in ("only", "just", "merely") for one, other in pairs)
    )


def _describes_stillness(sentence: Sequence[Word], index: int) -> bool:
    """Says whether a last "still" tells of rest ("the water is so still") rather than of a contrast ("ugly still")."""
    cues = load_cues()
    before = sentence[index - 1] if index else None
    return before is not None and (
        before.text in cues.copulas - {"it", "them"} or (before.key,) in cues.strong
    )


def _goes_on(sentence: Sequence[Word], index: int) -> bool:
    """Says whether a clause follows, more than a word of emphasis."""
    return len([word for word in sentence[index:] if not word.is_mark]) > 1


def _opens_reason(sentence: Sequence[Word], index: int) -> bool:
    """Says whether "so" begins a clause ("so it feels flat") rather than strengthens a word ("so bright")."""
    return sentence[index + 1].text in ("it", "the", "that", "i", "you", "everything")
