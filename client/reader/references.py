"""Follows what clauses say of one another: "..., which I like", "the red is not", "..., but I hate it", "dark, but in a good way".

client/reader/polarity.py asks here for the feeling of a clause that shows none of its own. The answer comes
from the clauses after it in its sentence, from the sentence that follows, or, for a bare "not", from whatever
was said before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palate.client.reader.clauses import Clause
from palate.client.reader.cue_senses import is_named
from palate.client.reader.cues import load_cues
from palate.client.reader.mentions import Span
from palate.client.reader.readings import Reading, read_clause
from palate.client.reader.words import Word

_THE_WHOLE = frozenset(
    {"picture", "painting", "image", "photo", "whole", "thing", "result", "effect", "combination", "lot"}
)
_REST = frozenset({"rest", "else"})
_POINTERS = frozenset({"it", "this", "that", "these", "those", "they", "them", "which"})


@dataclass(frozen=True)
class View:
    """One clause of a sentence with its reading and the spans that are judged, its terms and nouns."""

    sentence: Sequence[Word]
    clause: Clause
    reading: Reading
    named: Sequence[Span]

    @property
    def refers_back(self) -> bool:
        """Says whether it speaks of what was named before it: "which I like", "love it"."""
        words = [word.text for word in self.sentence[self.clause.start : self.clause.end] if not word.is_mark]
        if words[:1] == ["the"] and words[1:2] and words[1] not in _THE_WHOLE:
            return False  # "the door is great" speaks of the door
        return not self.named and (len(words) <= 4 or any(word in _POINTERS for word in words))


@dataclass(frozen=True)
class Context:
    """What surrounds a sentence: the verdict's (or the tone's) signed feeling, whether it was given, and the sentences beside it."""

    prior: float
    verdict_given: bool
    before: float
    after: float


def view_clause(sentence: Sequence[Word], clause: Clause) -> View:
    """Return a clause with what its cues say."""
    named = [span for span in clause.spans if is_named(span)]
    return View(sentence, clause, read_clause(sentence, clause), named)


def settle_denials(views: Sequence[View]) -> None:
    """Give clauses that end in a bare "not" or "is" the contrary of the feeling before them.

    "The blue is ugly, the red is not"; "the shape is not the problem, the grid is".
    """
    before = denied = 0.0
    for view in views:
        if view.reading.affirms and denied and view.named:
            view.reading.settled = denied
        if view.reading.denied or view.reading.feeling:
            denied = view.reading.denied
        if view.reading.denies:
            view.reading.settled = (-0.5 if before > 0 else 0.5) if before else view.reading.settled
        elif not (view.reading.unwanted and _ends_in_less_so(view)):
            before = view.reading.feeling or view.reading.reported or before


def _ends_in_less_so(view: View) -> bool:
    """Says whether a clause turns round what was said before, as a bare "not" does: "the pink less so"."""
    texts = [word.text for word in view.sentence[view.clause.start : view.clause.end] if not word.is_mark]
    return texts[-2:] == ["less", "so"]


def remark_on_last(following: Sequence[View]) -> float:
    """Return the feeling of a sentence that only remarks on the one before it ("I hate it.", "Not for me."), else 0."""
    if not following or any(view.named for view in following) or following[0].clause.join == "contrast":
        return 0.0
    first = next((view for view in following if view.reading.feeling), None)
    return first.reading.feeling if first is not None and first.refers_back else 0.0


def feeling_ahead(views: Sequence[View], index: int, *, referring: bool) -> float:
    """Return the feeling of a later clause that has no mention of its own ("warm lamps, deep blue sky, love it"), else 0.

    referring asks for one that says to what it refers; of these, "but that is what I like" also reaches back
    over a contrast.
    """
    for view in views[index + 1 :]:
        if referring and (view.reading.redeems or (view.reading.denies and not view.named)):
            return view.reading.feeling
        if view.clause.join == "contrast" or (referring and views[index].clause.yields):
            return 0.0
        if view.reading.feeling:
            fits = not view.named and (view.refers_back or not referring)
            texts = {word.text for word in view.sentence[view.clause.start : view.clause.end]}
            return (-view.reading.feeling if texts & _REST else view.reading.feeling) if fits else 0.0
    return 0.0


def feeling_around(views: Sequence[View], index: int, context: Context) -> float:
    """Return the feeling of a clause that has none, by what comes after it; 0 when that says nothing."""
    view = views[index]
    if view.clause.yields and view.reading.reported:
        return -0.5 if view.reading.reported > 0 else 0.5
    if view.clause.yields:
        answer = next((v.reading.feeling for v in views[index + 1 :] if v.reading.feeling), 0.0)
        return -0.85 * (answer or (context.prior if index + 1 < len(views) else 0.0))
    ahead = feeling_ahead(views, index, referring=False)
    if ahead:
        return 0.85 * ahead
    later = next((v for v in views[index + 1 :] if v.clause.join == "contrast" or v.reading.feeling), None)
    if view.reading.habit:
        departs = later is not None and later.reading.feeling > 0 and (not later.named or _is_here(later))
        return abs(view.reading.habit) if departs else view.reading.habit
    if later is None and context.verdict_given and _follows_grant(views, index):
        return -0.6 if context.prior > 0 else 0.6
    if later is None:
        return context.after
    if later.clause.join == "contrast" and not later.clause.yields:
        return _conceded(views, index, later, context)
    denied = later.reading.denies and later.named and later.reading.feeling < 0
    return 0.4 if denied else context.after


def _conceded(views: Sequence[View], index: int, later: View, context: Context) -> float:
    """Return the feeling of a clause that has none before a "but", 0 when it may be either."""
    if _is_granted(views, index):
        return -0.6 if (later.reading.feeling or context.prior) > 0 else 0.6
    if later.reading.feeling < 0:
        return 0.4  # "lovingly detailed, but I hate it"
    if not later.reading.feeling and context.verdict_given and context.prior < 0:
        return -0.4 if _is_doubtful(views[index]) and not _is_doubtful(later) else 0.4
    return 0.0


def _is_here(view: View) -> bool:
    """Says whether a clause speaks of this picture as against others: "I usually hate neon, but here the lines work"."""
    return any(word.text == "here" for word in view.sentence[view.clause.start : view.clause.end])


def _is_granted(views: Sequence[View], index: int) -> bool:
    """Says whether the clause or the one after it only grants a point: "it is busy, granted, but ..."."""
    for view in views[index : index + 2]:
        words = view.sentence[view.clause.start : view.clause.end]
        key = tuple(word.key for word in words if not word.is_mark)
        granted = load_cues().granted
        if key in granted or (view is views[index] and key[:1] in granted):
            return True
    return False


def _follows_grant(views: Sequence[View], index: int) -> bool:
    """Says whether a sentence opens by granting what it says: "granted, it is crowded; ..."."""
    if index != 1:
        return False
    first = views[0]
    key = tuple(w.key for w in first.sentence[first.clause.start : first.clause.end] if not w.is_mark)
    return key in load_cues().granted and key != ("yes",)


def _is_doubtful(view: View) -> bool:
    """Says whether a clause describes by words that are mostly a complaint."""
    doubtful = load_cues().doubtful
    keys = {(word.key,) for word in view.sentence[view.clause.start : view.clause.end]}
    return bool(keys & doubtful) or any(span.sour for span in view.named)


def is_contrasted(views: Sequence[View], index: int) -> bool:
    """Says whether a "but" stands before or after the clause."""
    return any(view.clause.join == "contrast" for view in views[index : index + 2] if view is not views[0])


def is_before_either(views: Sequence[View], index: int) -> bool:
    """Says whether a list goes on from here to an "or": "no harmony, balance or rhythm"."""
    for view in views[index + 1 :]:
        if view.clause.join == "either":
            return True
        if view.clause.join != "list" or view.clause.has_verb:
            return False
        if view.reading.feeling or view.reading.absent_from:
            return False
    return False
