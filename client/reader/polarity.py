"""Decides, mention by mention, whether a comment likes or dislikes it, and how strongly.

Two signs make the polarity. The *valence* of a clause is its feeling: praise or complaint. The *presence* of
a mention is whether the clause says that it is there or that it is not. Polarity is their product, and so
every turn of phrase falls into place:

    "lovely light"                 praise    × there       liked
    "too dark", "busy and ugly"    complaint × there       disliked
    "no contrast", "lacks depth"   complaint × not there   liked: it is missed
    "love that there's no clutter" praise    × not there   disliked
    "I wish it had more colour"    complaint × not there   liked
    "I wish it weren't so blue"    complaint × there       disliked

A clause without a cue of its own takes its valence from what refers back to it ("..., which I like"), else
from the clause before it (turned round by "but"), else from an opinion later in the sentence or in the next
one, else from the verdict on the picture, else from the tone of the whole comment.

    clauses ── what the cues of each say (client/reader/readings.py) ── what they say of one another (client/reader/references.py) ── judgement
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from palate.client.reader.clauses import Clause
from palate.client.reader.cues import load_cues
from palate.client.reader.mentions import Span
from palate.client.reader.readings import Reading
from palate.client.reader.references import (
    Context,
    View,
    feeling_ahead,
    feeling_around,
    is_before_either,
    is_contrasted,
    remark_on_last,
    settle_denials,
    view_clause,
)
from palate.client.reader.words import Word

_SAID_OF = frozenset({"is", "are", "was", "were", "look", "looks", "feel", "feels", "seem", "seems"})
_REACH = 6
"""How many words after a "no" or "less" still name what is not there."""


@dataclass(frozen=True)
class Judged:
    """One span with what the comment feels about it: polarity +1 or -1, strength in (0, 1], and whether it was said to be there."""

    span: Span
    polarity: int
    strength: float
    present: bool


@dataclass
class _Course:
    """What the clauses of a sentence so far leave to the next one.

    Feeling is the last that any of them showed.
    """

    feeling: float = 0.0
    missing: bool = False
    """Whether something is said not to be there, as a list may go on to say: "it lacks energy, warmth and depth"."""
    wishing: bool = False
    """Whether something is wished for or away, as a list may go on to do: "I wish it were lighter, calmer"."""
    turned: bool = False
    """Whether the last clause was a concession that this one answers: "although it is dark, ..."."""


@dataclass(frozen=True)
class _Mood:
    """What bears on every span of a clause: its valence, the feeling of what refers back to it, and a lack that it carries on."""

    valence: float
    remark: float
    carries: bool
    context: Context


def judge_comment(
    parsed: Sequence[tuple[Sequence[Word], Sequence[Clause]]], liked: bool | None
) -> list[list[Judged]]:
    """Return, sentence by sentence, every term or noun of a comment with its polarity.

    Liked is the verdict when given.
    """
    sentences = [[view_clause(sentence, clause) for clause in clauses] for sentence, clauses in parsed]
    views = [view for sentence in sentences for view in sentence]
    settle_denials(views)
    tone = sum(view.reading.feeling for view in views)
    prior = (0.6 if liked else -0.6) if liked is not None else (0.45 if tone >= 0 else -0.45)
    before = 0.0
    judged = []
    for number, sentence in enumerate(sentences):
        following = sentences[number + 1] if number + 1 < len(sentences) else []
        context = Context(prior, liked is not None, before, remark_on_last(following))
        ones, before = _judge_sentence(sentence, context)
        judged.append(ones)
    return judged


def _judge_sentence(views: Sequence[View], context: Context) -> tuple[list[Judged], float]:
    """Return every term or noun of the sentence with its polarity, and the feeling in which the sentence ends."""
    judged: list[Judged] = []
    course = _Course()
    for index, view in enumerate(views):
        mood = _mood(views, index, course, context)
        if course.wishing and not view.reading.feeling and any(span.compared for span in view.named):
            view.reading.wanted = True
        if not view.reading.respect:
            judged += [_judge(view, span, mood) for span in view.named]
        _go_on(views, index, course, mood)
    return judged, course.feeling


def _mood(views: Sequence[View], index: int, course: _Course, context: Context) -> _Mood:
    """Return what bears on the spans of a clause, after what the clauses before it have left to it."""
    view = views[index]
    own = view.reading.feeling
    lists_on = (course.missing or course.wishing) and view.clause.join in ("list", "either")
    lists_on = lists_on and not view.clause.has_verb and not own
    remark = 0.0 if lists_on else feeling_ahead(views, index, referring=True)
    inherited = _inherited(view, index, course, context)
    valence = own or remark or 0.85 * inherited or feeling_around(views, index, context)
    decisive = context.verdict_given and not is_contrasted(views, index)
    if _is_hedged(view) and not own and not remark and not decisive:
        valence = -0.4
    return _Mood(valence, remark, lists_on and course.missing, context)


def _inherited(view: View, index: int, course: _Course, context: Context) -> float:
    """Return the feeling that a clause takes over from before it, turned round by "but" or after "although"."""
    opposed = view.reading.opposes and course.feeling != 0.0
    if course.turned and _goes_on_with_and(view):
        return course.feeling
    if (view.clause.join == "contrast" or course.turned) and not opposed:
        return -(course.feeling if index else context.before)
    return course.feeling


def _go_on(views: Sequence[View], index: int, course: _Course, mood: _Mood) -> None:
    """Note in the course what a judged clause leaves to the next one."""
    view, reading = views[index], views[index].reading
    course.turned = view.clause.yields or (course.turned and _goes_on_with_and(view))
    if reading.feeling or view.named:
        course.wishing = reading.wanted or reading.unwanted
        denied = _ends_in_absence(view) and is_before_either(views, index)
        missed = reading.missed or (reading.wanted and not reading.unwanted)
        course.missing = missed or mood.carries or denied
    if mood.valence:
        course.feeling = mood.valence
    elif any(span.sour for span in view.named) and not mood.context.verdict_given:
        course.feeling = -0.6


def _goes_on_with_and(view: View) -> bool:
    """Says whether a clause is hung by "and" on the one before it: "although it is bright and the greens are fresh, ..."."""
    start = view.clause.start
    return view.clause.join == "list" and start > 0 and view.sentence[start - 1].text == "and"


def _ends_in_absence(view: View) -> bool:
    """Says whether a clause ends in what is not there, as a list with "or" may go on to say: "no balance", "the line has no weight"."""
    if view.named and view.sentence[view.named[-1].start].text == "no":
        return True  # "no depth" is a term of its own
    if not view.reading.absent_from:
        return False
    verbs = load_cues().verbs
    return not any(
        word.text in verbs for word in view.sentence[view.reading.absent_from[-1] : view.clause.end]
    )


def _is_hedged(view: View) -> bool:
    """Says whether a clause ends in a description that is held back, as complaints are: "a bit dark", "slightly blurry"."""
    texts = [word.text for word in view.sentence[: view.clause.end]]
    while texts and not texts[-1].isalnum():
        texts.pop()
    last = view.named[-1] if view.named else None
    if last is None or last.term is None or last.noun is not None or last.end < len(texts):
        return False
    before = " ".join(texts[max(view.clause.start, last.start - 2) : last.start])
    return before.endswith(("a bit", "a little", "a tad", "little bit", "a touch", "slightly", "somewhat"))


def _judge(view: View, span: Span, mood: _Mood) -> Judged:
    """Return one span's polarity and strength within its clause."""
    reading = view.reading
    base = _strength(view.sentence, view.clause)
    if reading.against is not None and span.start > reading.against:
        return _judge_loser(view, span, mood, reading.against)
    if reading.swapped is not None:
        limit, sign = reading.swapped
        return Judged(span, sign if span.start > limit else -sign, _clamp(0.6 + base), span.start < limit)
    untaken = _untaken(view, span, mood)
    if untaken:
        return Judged(span, untaken, _clamp(0.5 + base), False)
    absent = any(0 <= span.start - start <= _REACH for start in reading.absent_from) or mood.carries
    if reading.asks and not _is_subject_of_wish(view, span):
        return _judge_asked(reading, span, _clamp(0.6 + base), absent, mood.carries)
    if any(start < span.start for start in reading.excess):
        return Judged(span, -1, _clamp(0.7 + base), True)
    own = _nearest(view, span) or (0.0 if mood.carries else _inner_praise(view, span))
    if span.sour and own <= 0 and mood.remark <= 0:
        # "garish" complains by itself; "not garish" is well.
        return Judged(span, -1, _clamp(0.65 + base), not absent)
    if not own and not view.reading.feeling and not mood.remark and _is_blamed(view, span):
        return Judged(span, -1, _clamp(0.5 + base), True)
    feeling, strength = _felt(view, span, mood, own, absent)
    polarity = (1 if feeling >= 0 else -1) * (-1 if absent and not _is_part_of_it(reading, span) else 1)
    return Judged(span, polarity, _clamp(strength + base), not absent)


def _untaken(view: View, span: Span, mood: _Mood) -> int:
    """Return the sign of what the picture might have been and is not, 0 for what it is."""
    before = [word.text for word in view.sentence[max(0, span.start - 3) : span.start]]
    if view.sentence[span.start].text.endswith("er") and before[-1:] == ["any"]:
        return -1  # "any brighter and ..."
    after = [word.text for word in view.sentence[span.end : span.end + 2]]
    mocked = (before[-2:] == ["all", "the"] and after in (["of", "a"], ["of", "an"])) or before[1:] == [
        "about",
        "as",
    ]
    if mocked and mood.context.verdict_given and mood.context.prior < 0:
        return 1  # "all the warmth of a tax form", "about as romantic"
    if view.reading.untaken is None or span.start <= view.reading.untaken:
        return 0
    return 1 if mood.context.verdict_given and mood.context.prior < 0 else -1


def _judge_loser(view: View, span: Span, mood: _Mood, against: int) -> Judged:
    """Return the contrary of what the winning side of a comparison is found to be: "soft edges rather than hard ones"."""
    first = view.named[0]
    if first.start > against:  # "better than the usual kitsch"
        return Judged(span, -1, _clamp(0.5 + _strength(view.sentence, view.clause)), False)
    winner = replace(view, reading=replace(view.reading, against=None), named=[first])
    won = _judge(winner, first, mood)
    return Judged(span, -won.polarity, won.strength, True)


def _judge_asked(reading: Reading, span: Span, strength: float, absent: bool, carries: bool) -> Judged:
    """Return what a wish or lack says of a span: liked when it is asked for, disliked when its absence is."""
    praised = max((weight for _, weight in reading.opinions), key=abs, default=0.0)
    if reading.missed and praised > 0.5:
        return Judged(span, -1, strength, False)
    # "Without the outlines it would be better": what is wished for is that they were not there.
    liked = (reading.missed or (reading.wanted and (carries or not absent))) and not reading.unwanted
    return Judged(span, 1 if liked else -1, strength, not liked)


def _felt(view: View, span: Span, mood: _Mood, own: float, absent: bool) -> tuple[float, float]:
    """Return the signed feeling for a span and its strength: its own opinion's, else the clause's, else the verdict's."""
    verdict_given = mood.context.verdict_given
    if own:
        return own, abs(own)
    if mood.valence and not _is_subject_of_wish(view, span):
        return mood.valence, abs(mood.valence) * 0.9
    feeling, strength = mood.context.prior, 0.5 if verdict_given else 0.45
    if absent and not verdict_given:
        feeling, strength = -1.0, 0.5
    return -1.0 if mood.carries and not mood.valence else feeling, strength


def _is_blamed(view: View, span: Span) -> bool:
    """Says whether a describing word that complains by itself is said of the span: "the symmetry is too cheap", "the red looks garish"."""
    limit = view.reading.against or view.clause.end
    for other in (other for other in view.named if other.start < limit):
        between = view.sentence[span.end : other.start]
        said = other.sour and other.start > span.end and len(between) <= 4
        if said and any(word.text in _SAID_OF for word in between) and not view.reading.absent_from:
            return True
    return False


def _is_subject_of_wish(view: View, span: Span) -> bool:
    """Says whether a wish or lack is said of the span and asks for another: "the red sky" in "the red sky needs depth"."""
    asked = view.reading.asked_at
    if asked is None or span.start > asked:
        return False
    says_who = view.sentence[asked].key in ("want", "wanted", "wish", "wished", "hoping", "hoped")
    limit = view.reading.against or view.clause.end
    return says_who or any(asked < other.start < limit for other in view.named)


def _is_part_of_it(reading: Reading, span: Span) -> bool:
    """Says whether the opinion describes the very thing that is absent: "no ugly pastels" is not "I love that there are none"."""
    opinions = [position for position, _ in reading.opinions]
    return any(start <= position < span.start for start in reading.absent_from for position in opinions)


def _inner_praise(view: View, span: Span) -> float:
    """Return the praise within a term's own words, "well painted", else 0."""
    words = view.sentence[span.start : span.end]
    opinions = load_cues().phrases
    praised = any(
        word.text in ("well", "nicely") or ((word.key,) in opinions and opinions[(word.key,)].weight >= 0.7)
        for word in words
    )
    return 0.6 if span.term is not None and len(words) > 1 and praised else 0.0


def _nearest(view: View, span: Span) -> float:
    """Return the signed weight of the opinion nearest to the span, 0 when the clause has none."""
    reading = view.reading
    if reading.redeems:
        return reading.feeling
    best, distance = 0.0, 1000.0
    for position, weight in reading.opinions:
        gap = span.start - position if position < span.start else (position - span.end) + 1.5
        if gap < distance:
            best, distance = weight, gap
    for position, weight in reading.agents:
        # What stands before the verb does the harm or the good; what comes after suffers or gains, unless it
        # comes after "by".
        gap = abs(position - span.start)
        turns = any(s.start < position for s in view.named) or _is_passive(view, position)
        signed = weight if span.start < position or not turns else -weight
        if gap < distance + 2:
            best, distance = signed, gap
    return best


def _is_passive(view: View, position: int) -> bool:
    """Says whether the harm or good is done by what follows: "ruined by the neon"."""
    return any(word.text == "by" for word in view.sentence[position : position + 3])


def _strength(sentence: Sequence[Word], clause: Clause) -> float:
    """Return what strong and faint words add to a strength."""
    cues = load_cues()
    added = 0.0
    words = sentence[clause.start : clause.end]
    for length in (3, 2, 1):
        for index in range(len(words) - length + 1):
            key = tuple(word.key for word in words[index : index + length])
            if key in cues.faint:
                added -= 0.2
            elif key in cues.strong:
                added += 0.12
    return max(-0.3, min(0.25, added))


def _clamp(strength: float) -> float:
    """Return the strength within [0.1, 1]."""
    return round(max(0.1, min(1.0, strength)), 3)
