"""Decides, mention by mention, whether a comment likes or dislikes it, and how strongly.

Two signs make the polarity. The *valence* of a clause is its feeling: praise or complaint. The *presence* of a mention is whether
the clause says that it is there or that it is not. Polarity is their product, and so every turn of phrase falls into place:

    "lovely light"                 praise    × there       liked
    "too dark", "busy and ugly"    complaint × there       disliked
    "no contrast", "lacks depth"   complaint × not there   liked: it is missed
    "love that there's no clutter" praise    × not there   disliked
    "I wish it had more colour"    complaint × not there   liked
    "I wish it weren't so blue"    complaint × there       disliked

A clause without a cue of its own takes its valence from the clause before it (turned round by "but"), else from an opinion later in
the sentence, else from the verdict on the picture, else from the tone of the whole comment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from palate.client.clauses import Clause
from palate.client.cues import load_cues
from palate.client.mentions import Span
from palate.client.words import Word


@dataclass(frozen=True)
class Judged:
    """One span with what the comment feels about it: polarity +1 or -1, strength in (0, 1], and whether it was said to be there."""

    span: Span
    polarity: int
    strength: float
    present: bool


@dataclass
class _Reading:
    """What the cues of one clause say: nearest-opinion candidates as (position, signed weight), and the clause-wide turns."""

    opinions: list[tuple[int, float]]
    agents: list[tuple[int, float]]
    excess: list[int]
    absent_from: list[int]
    missed: bool = False
    wanted: bool = False
    unwanted: bool = False
    respect: bool = False
    against: int | None = None
    """Where what follows is set against what came before: "rather than", the "to" of "prefer"."""

    @property
    def feeling(self) -> float:
        """The clause's own signed feeling, 0 when it shows none."""
        if self.wanted or self.missed or self.unwanted or self.excess:
            return -0.6
        return max((weight for _, weight in (*self.opinions, *self.agents)), key=abs, default=0.0)


def comment_tone(parsed: Sequence[tuple[Sequence[Word], Sequence[Clause]]]) -> float:
    """Returns the summed feeling of a comment's clauses, by which a comment without a verdict is read."""
    return sum(_read(sentence, clause).feeling for sentence, clauses in parsed for clause in clauses)


def judge_sentence(
    sentence: Sequence[Word], clauses: Sequence[Clause], prior: float, before: float, *, verdict_given: bool
) -> tuple[list[Judged], float]:
    """Returns every term or noun of the sentence with its polarity, and the feeling in which the sentence ends.

    prior is the signed feeling of the verdict or the whole comment; before is the feeling in which the sentence before ended
    (used only when this one opens with a contrast).
    """
    readings = [_read(sentence, clause) for clause in clauses]
    judged: list[Judged] = []
    feeling = 0.0
    missing = wishing = False
    turned = False
    for index, (clause, reading) in enumerate(zip(clauses, readings, strict=True)):
        inherited = feeling
        if clause.join == "contrast" or turned:
            source = feeling if index else before
            inherited = -source if source else 0.0
        turned = clause.yields
        own = reading.feeling
        if not own and not inherited:
            inherited = _ahead(clauses, readings, index)
        if clause.yields and not own and not feeling:
            later = next((r.feeling for r in readings[index + 1 :] if r.feeling), 0.0)
            inherited = -later
        carries = missing and clause.join in ("list", "either") and not clause.has_verb and not own
        mentioned = [span for span in clause.spans if span.term is not None or span.noun is not None]
        valence = own or (0.85 * inherited) or 0.0
        if wishing and not own and any(span.compared for span in mentioned):
            reading.wanted = True
        if not reading.respect:
            for span in mentioned:
                judged.append(_judge(sentence, clause, reading, span, valence, prior, carries, verdict_given))
        if own or mentioned:
            wishing = reading.wanted or reading.unwanted
            missing = (
                (reading.missed or (reading.wanted and not reading.unwanted))
                or carries
                or (bool(reading.absent_from) and not clause.has_verb and _before_either(clauses, index))
            )
        if valence:
            feeling = valence
        elif any(span.sour for span in mentioned) and not verdict_given:
            feeling = -0.6
    return judged, feeling


def _before_either(clauses: Sequence[Clause], index: int) -> bool:
    """Says whether the next clause goes on with "or"."""
    return index + 1 < len(clauses) and clauses[index + 1].join == "either"


def _ahead(clauses: Sequence[Clause], readings: Sequence[_Reading], index: int) -> float:
    """Returns the feeling of a later clause that has no mention of its own ("warm lamps, deep blue sky, love it"), else 0."""
    for clause, reading in zip(clauses[index + 1 :], readings[index + 1 :], strict=True):
        if clause.join == "contrast":
            return 0.0
        if reading.feeling:
            named = any(span.term is not None or span.noun is not None for span in clause.spans)
            return 0.0 if named else reading.feeling
    return 0.0


def _read(sentence: Sequence[Word], clause: Clause) -> _Reading:
    """Returns what the cues of one clause say, negations already applied to the cue or mention that follows each."""
    reading = _Reading([], [], [], [])
    spans = clause.spans
    negated_at: int | None = None
    for place, span in enumerate(spans):
        kind = span.cue.kind if span.cue is not None else ""
        negated = negated_at is not None and span.start - negated_at <= 6
        if kind == "negators":
            negated_at = span.end - 1
            continue
        if kind == "opinion" or kind == "agent":
            weight = span.cue.weight if span.cue is not None else 0.0
            if not weight or _only_compares(sentence, span):
                continue
            if negated:
                weight = -0.8 * weight if weight > 0 else -0.5 * weight
                negated_at = None
            (reading.agents if kind == "agent" else reading.opinions).append((span.start, weight))
        elif kind == "excess":
            follows = any(s.start >= span.end and (s.term or s.noun) for s in spans[place + 1 :])
            if follows and not negated:
                reading.excess.append(span.start)
            elif follows and negated:
                # "not too dark": said to be absent, and that is well.
                reading.opinions.append((span.start, 0.5))
                reading.absent_from.append(span.end)
                negated_at = None
        elif (
            kind == "desire"
            and sentence[span.start].key == "give"
            and (span.start != clause.start or sentence[span.start].text != "give")
        ):
            continue  # "neon gives me a headache" asks for nothing
        elif kind == "desire":
            if negated and not (place and sentence[span.start].text.startswith("w")):
                reading.unwanted = True
                negated_at = None
            reading.wanted = True
        elif kind == "lack":
            if negated:
                reading.opinions.append((span.start, 0.5))
                negated_at = None
            else:
                reading.missed = True
        elif kind == "less":
            reading.unwanted = True
        elif kind == "more":
            praised = negated or _compares(sentence, clause) or _has_opinion(spans)
            reading.wanted = reading.wanted or not praised
        elif kind == "absence":
            reading.absent_from.append(span.end)
        elif kind == "respect":
            reading.respect = True
        elif negated and negated_at is not None and (span.term is not None or span.noun is not None):
            if reading.wanted:
                reading.unwanted = True
            else:
                reading.absent_from.append(negated_at)
            negated_at = None
    if (
        negated_at is not None
        and not reading.opinions
        and all(word.is_mark for word in sentence[negated_at + 1 : clause.end])
    ):
        reading.opinions.append((negated_at, -0.5))  # "the blue is clever; the purple isn't"
    reading.against = _against(sentence, clause, spans)
    if reading.wanted and _negated_after_wish(sentence, clause, spans):
        reading.unwanted = True
    if reading.absent_from and any(word.text == "enough" for word in sentence[clause.start : clause.end]):
        reading.missed, reading.absent_from = True, []  # "not symmetrical enough"
    return reading


def _against(sentence: Sequence[Word], clause: Clause, spans: Sequence[Span]) -> int | None:
    """Returns where the losing side of a comparison begins ("soft edges rather than hard ones"), or None."""
    cues = load_cues()
    prefers = any(
        word.key in ("prefer", "preferred", "rather", "more") for word in sentence[clause.start : clause.end]
    )
    first = next((span.end for span in spans if span.term is not None or span.noun is not None), clause.end)
    for index in range(first, clause.end):
        for length in (3, 2, 1):
            key = tuple(word.key for word in sentence[index : index + length])
            if key in cues.against and (length > 1 or prefers):
                return index
        if prefers and sentence[index].text == "to":
            return index
    return None


def _has_opinion(spans: Sequence[Span]) -> bool:
    """Says whether a clause holds a plain opinion."""
    return any(span.cue is not None and span.cue.kind == "opinion" and span.cue.weight for span in spans)


def _only_compares(sentence: Sequence[Word], span: Span) -> bool:
    """Says whether "like" likens rather than likes: "looks like a dream"."""
    if span.end - span.start > 1 or sentence[span.start].text != "like" or not span.start:
        return False
    return sentence[span.start - 1].text in load_cues().copulas


def _compares(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether "more" only compares: "more than", "once more"."""
    texts = [word.text for word in sentence[clause.start : clause.end]]
    return "than" in texts or "once" in texts


def _negated_after_wish(sentence: Sequence[Word], clause: Clause, spans: Sequence[Span]) -> bool:
    """Says whether a wish is for something not to be: "I wish it weren't so blue"."""
    wish = next((span.start for span in spans if span.cue is not None and span.cue.kind == "desire"), None)
    if wish is None:
        return False
    return any(
        span.cue is not None
        and (span.cue.kind in ("negators", "less") or (span.cue.kind in ("absence", "excess")))
        and span.start > wish
        for span in spans
    )


def _judge(
    sentence: Sequence[Word],
    clause: Clause,
    reading: _Reading,
    span: Span,
    valence: float,
    prior: float,
    carries: bool,
    verdict_given: bool,
) -> Judged:
    """Returns one span's polarity and strength within its clause."""
    base = _strength(sentence, clause)
    if reading.against is not None and span.start > reading.against:
        first = next(s for s in clause.spans if s.term is not None or s.noun is not None)
        won = _judge(
            sentence, clause, replace(reading, against=None), first, valence, prior, carries, verdict_given
        )
        return Judged(span, -won.polarity, won.strength, True)
    absent = any(0 <= span.start - start <= 6 for start in reading.absent_from) or carries
    if reading.wanted or reading.unwanted or reading.missed:
        praised = max((w for _, w in reading.opinions), key=abs, default=0.0) if reading.missed else 0.0
        if praised > 0.5:
            return Judged(span, -1, _clamp(0.6 + base), False)
        liked = (reading.wanted or reading.missed) and not reading.unwanted
        return Judged(span, 1 if liked else -1, _clamp(0.6 + base), not liked)
    if any(start < span.start for start in reading.excess):
        return Judged(span, -1, _clamp(0.7 + base), True)
    own = _nearest(reading, span, clause)
    if span.sour and own <= 0:
        # "garish" complains by itself; "not garish" is well.
        return Judged(span, -1, _clamp(0.65 + base), not absent)
    if own:
        feeling, strength = own, abs(own)
    elif valence:
        feeling, strength = valence, abs(valence) * 0.9
    elif absent and not verdict_given:
        feeling, strength = -1.0, 0.5
    else:
        feeling, strength = prior, 0.5 if verdict_given else 0.45
    if carries and not own and not valence:
        feeling = -1.0
    polarity = (1 if feeling >= 0 else -1) * (-1 if absent else 1)
    return Judged(span, polarity, _clamp(strength + base), not absent)


def _nearest(reading: _Reading, span: Span, clause: Clause) -> float:
    """Returns the signed weight of the opinion nearest to the span, 0 when the clause has none."""
    best, distance = 0.0, 1000.0
    for position, weight in reading.opinions:
        gap = span.start - position if position < span.start else (position - span.end) + 1.5
        if gap < distance:
            best, distance = weight, gap
    for position, weight in reading.agents:
        # What stands before the verb does the harm or the good; what comes after suffers or gains.
        gap = abs(position - span.start)
        named_before = any(s.start < position and (s.term or s.noun) for s in clause.spans)
        signed = weight if span.start < position or not named_before else -weight
        if gap < distance + 2:
            best, distance = signed, gap
    return best


def _strength(sentence: Sequence[Word], clause: Clause) -> float:
    """Returns what strong and faint words add to a strength."""
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
    """Returns the strength within [0.1, 1]."""
    return round(max(0.1, min(1.0, strength)), 3)
