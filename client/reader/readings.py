"""Reads what the cues of one clause say: its opinions, and what it says to be too much, missing, wanted, unwanted or not there.

    clause with its spans (client/reader/clauses.py) ── cues, one after the other (client/reader/cue_senses.py) ── reading

A reading knows one clause only. What the clauses around it add is in client/reader/references.py, and what
all of it makes of each mention in client/reader/polarity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from palate.client.reader.clauses import Clause
from palate.client.reader.cue_senses import (
    asks_nothing,
    describes_degree,
    ends_affirming,
    ends_bare,
    expects,
    falls_short,
    has_opinion,
    is_anothers,
    is_bare_no,
    is_mild_praise,
    is_named,
    is_negated_after_wish,
    is_too_much,
    is_work_of_art,
    losing_side,
    only_affirms,
    only_compares,
    only_grants,
    only_likens,
    only_strengthens,
    opens_question,
    opens_with_not_the,
    sets_apart,
    supposes_with,
    wants_the_picture,
)
from palate.client.reader.cues import load_cues
from palate.client.reader.mentions import Span
from palate.client.reader.words import Word

_REACH = 6
"""How many words after a negation it still denies."""


@dataclass
class Reading:
    """What the cues of one clause say: nearest-opinion candidates as (position, signed weight), and the clause-wide turns."""

    opinions: list[tuple[int, float]] = field(default_factory=list)
    agents: list[tuple[int, float]] = field(default_factory=list)
    excess: list[int] = field(default_factory=list)
    absent_from: list[int] = field(default_factory=list)
    missed: bool = False
    wanted: bool = False
    unwanted: bool = False
    respect: bool = False
    redeems: bool = False
    """Whether it takes back the complaint before it: "in a good way"."""
    denies: bool = False
    """Whether it turns round what was said before by a bare "not" or "but I do": "the purple isn't"."""
    denied: float = 0.0
    """The opinion that a negation turned round: the "problem" of "the shape is not the problem"."""
    affirms: bool = False
    """Whether it says of its subject what the clause before denied of another: "..., the grid is"."""
    opposes: bool = False
    """Whether it sets a "not the ..." without a verb of its own against what was said before."""
    reported: float = 0.0
    """An opinion that is somebody else's: "my wife loves it"."""
    habit: float = 0.0
    """An opinion that holds in general: "I usually hate neon"."""
    asked_at: int | None = None
    """Where a wish or lack is said that speaks of what follows, not of its subject: "the red sky needs depth"."""
    against: int | None = None
    """Where what follows is set against what came before: "rather than", the "to" of "prefer"."""
    untaken: int | None = None
    """Where the clause begins to tell what the picture might have been and is not: "another painter would have ..."."""
    swapped: tuple[int, int] | None = None
    """Where the one ends that is given for the other, and the sign of the other: "I would trade the gloss for grain"."""
    settled: float = 0.0
    """The feeling of a clause that denies: the contrary of what was said before it, once that is known."""

    @property
    def asks(self) -> bool:
        """Whether it asks for the picture to be another: by a wish, an aversion or a lack."""
        return self.wanted or self.missed or self.unwanted

    @property
    def feeling(self) -> float:
        """The clause's own signed feeling, 0 when it shows none."""
        if self.redeems:
            return 0.9
        if self.asks or self.excess:
            return -0.6
        strongest = max((weight for _, weight in (*self.opinions, *self.agents)), key=abs, default=0.0)
        return strongest or (self.settled if self.denies or self.affirms else 0.0)


def read_clause(sentence: Sequence[Word], clause: Clause) -> Reading:
    """Return what the cues of one clause say, negations already applied to the cue or mention that follows each."""
    reader = _Reader(sentence, clause)
    for place in range(len(clause.spans)):
        reader.take(place)
    reader.conclude()
    return reader.reading


@dataclass
class _Reader:
    """Takes the spans of one clause in order, with a method for each kind of cue.

    Negated_at is a negation not yet used up.
    """

    sentence: Sequence[Word]
    clause: Clause
    reading: Reading = field(default_factory=Reading)
    negated_at: int | None = None

    def take(self, place: int) -> None:
        """Add to the reading what the span at this place says."""
        span = self.clause.spans[place]
        match span.cue.kind if span.cue is not None else "":
            case "negators":
                # A second one lifts the first: "it is not that I don't like it", "nothing about it that isn't
                # lovely".
                self.negated_at = span.end - 1 if self.negated_at is None else None
            case "untaken":
                self.reading.untaken = span.start
            case "swaps":
                self._swap(span)
            case "opinion" | "agent":
                self._opinion(place)
            case "redeem":
                self._redemption(span)
            case "excess":
                self._excess(place)
            case "desire":
                self._desire(place)
            case "lack":
                self._lack(span)
            case "less":
                self._less(span)
            case "more":
                self._more(span)
            case "absence":
                self._absence(span)
            case "respect":
                self.reading.respect = True
            case _:
                self._mention(span)

    def conclude(self) -> None:
        """Add what only the whole clause says: a negation that denied nothing in it, a comparison, "enough"."""
        sentence, clause, reading = self.sentence, self.clause, self.reading
        if self.negated_at is not None and not reading.opinions:
            reading.denies, reading.settled = ends_bare(sentence, clause, self.negated_at), -0.5
        elif clause.join == "contrast" and not clause.spans:
            reading.denies, reading.settled = only_affirms(sentence, clause), 0.5
        elif not reading.opinions and not reading.asks:
            reading.affirms = ends_affirming(sentence, clause)
        reading.against = losing_side(sentence, clause)
        if reading.untaken is None and supposes_with(sentence, clause) and not reading.opinions:
            reading.untaken = clause.start - 1
        if not clause.spans and is_mild_praise(sentence, clause):
            reading.opinions.append((clause.start, 0.4))
        if reading.wanted and is_negated_after_wish(sentence, clause.spans):
            reading.unwanted = True
        enough = any(word.text == "enough" for word in self._words())
        if reading.absent_from and (enough or falls_short(sentence, clause, reading.absent_from[-1])):
            reading.missed, reading.absent_from = True, []  # "not symmetrical enough"
            reading.wanted, reading.unwanted, reading.opinions = False, False, []

    def _words(self) -> Sequence[Word]:
        """Return the clause's words."""
        return self.sentence[self.clause.start : self.clause.end]

    def _is_negated(self, span: Span) -> bool:
        """Says whether a negation before the span reaches it."""
        return self.negated_at is not None and span.start - self.negated_at <= _REACH

    def _opinion(self, place: int) -> None:
        """Count praise or blame, unless the words only liken or strengthen, or tell of somebody else's opinion."""
        span, spans, reading = self.clause.spans[place], self.clause.spans, self.reading
        weight = span.cue.weight if span.cue is not None else 0.0
        if sets_apart(self.sentence, span):
            reading.absent_from.append(span.end)
            return
        if is_work_of_art(self.sentence, span) or expects(self.sentence, self.clause, span):
            return
        if not opens_question(self.sentence, span):
            return
        if not weight or only_likens(self.sentence, spans, place):
            return
        if only_strengthens(self.sentence, spans, place) or only_grants(self.sentence, self.clause):
            return
        if is_anothers(self.sentence, self.clause, span):
            reading.reported = weight
            return
        negated = self._is_negated(span)
        if place and is_bare_no(spans[place - 1], span, spans[place + 1 :]):
            reading.absent_from.pop()
            negated = True
        if negated:
            reading.denied = weight
            weight = -0.8 * weight if weight > 0 else -0.5 * weight
            self.negated_at = None
        if any(word.text in load_cues().habit for word in self._words()):
            reading.habit = weight
        elif span.cue is not None and span.cue.kind == "agent":
            reading.agents.append((span.start, weight))
        else:
            reading.opinions.append((span.start, weight))

    def _redemption(self, span: Span) -> None:
        """Take back the complaint before it, unless negated: "and not in a good way"."""
        if self._is_negated(span):
            self.reading.opinions.append((span.start, -0.8))
            self.negated_at = None
        else:
            self.reading.redeems = True

    def _excess(self, place: int) -> None:
        """Complains of what follows as too much.

        "not too dark" says that it is absent, and that this is well.
        """
        span, spans = self.clause.spans[place], self.clause.spans
        if self.sentence[span.start].text == "over" and not is_too_much(
            self.sentence, self.clause, spans, place
        ):
            return
        if not any(other.start >= span.end and is_named(other) for other in spans[place + 1 :]):
            return
        if self._is_negated(span):
            self.reading.opinions.append((span.start, 0.5))
            self.reading.absent_from.append(span.end)
            self.negated_at = None
        else:
            self.reading.excess.append(span.start)

    def _desire(self, place: int) -> None:
        """Wishes for what follows, or for it not to be; a wish for the picture itself is praise."""
        span, reading = self.clause.spans[place], self.reading
        if asks_nothing(self.sentence, self.clause, span) or is_anothers(self.sentence, self.clause, span):
            return
        negated = self._is_negated(span)
        if wants_the_picture(self.sentence, self.clause, span, self.clause.spans[place + 1 :]):
            reading.opinions.append((span.start, -0.7 if negated else 0.8))
            self.negated_at = None
            return
        if negated and not (place and self.sentence[span.start].text.startswith("w")):
            reading.unwanted = True
            self.negated_at = None
        reading.wanted = True
        reading.asked_at = span.start

    def _lack(self, span: Span) -> None:
        """Misses what follows; a lack that is denied is praise."""
        if self._is_negated(span):
            self.reading.opinions.append((span.start, 0.5))
            self.negated_at = None
        else:
            self.reading.missed = True
            self.reading.asked_at = span.start

    def _swap(self, span: Span) -> None:
        """Note what is given up and what is got for it; one who would not give it up likes it."""
        sign = -1 if self._is_negated(span) else 1
        limit = next((i for i in range(span.end, self.clause.end) if self.sentence[i].text == "for"), None)
        if limit is not None:
            self.reading.swapped = (limit, sign)
            self.negated_at = None

    def _less(self, span: Span) -> None:
        """Asks for less of what follows, or tells that there is less of it."""
        if describes_degree(self.sentence, self.clause, span):
            self.reading.absent_from.append(span.end)
        else:
            self.reading.unwanted = True

    def _more(self, span: Span) -> None:
        """Asks for more of what follows, unless it compares, tells how things are, or stands beside an opinion."""
        told = self._is_negated(span) or has_opinion(self.clause.spans)
        told = told or only_compares(self.sentence, self.clause)
        if not told and not describes_degree(self.sentence, self.clause, span):
            self.reading.wanted = True

    def _absence(self, span: Span) -> None:
        """Says that what follows is not there; with nothing after it, it blames: "composition: no"."""
        if all(word.is_mark for word in self.sentence[span.end : self.clause.end]):
            self.reading.opinions.append((span.start, -0.6))
        else:
            self.reading.absent_from.append(span.end)

    def _mention(self, span: Span) -> None:
        """Use up a negation on the term or noun that it denies: as unwanted in a wish, else as not there."""
        if self.negated_at is None or not self._is_negated(span) or not is_named(span):
            return
        if any(word.text == "about" for word in self.sentence[self.negated_at : span.start]):
            return  # "nothing about the blue that ..." has not yet said what it denies
        if self.reading.wanted:
            self.reading.unwanted = True
        else:
            self.reading.opposes = opens_with_not_the(self.sentence, self.clause, self.negated_at)
            self.reading.absent_from.append(self.negated_at)
        self.negated_at = None
