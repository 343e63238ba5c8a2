"""Decides, mention by mention, whether a comment likes or dislikes it, and how strongly.

Two signs make the polarity. The *valence* of a clause is its feeling: praise or complaint. The *presence* of a mention is whether
the clause says that it is there or that it is not. Polarity is their product, and so every turn of phrase falls into place:

    "lovely light"                 praise    × there       liked
    "too dark", "busy and ugly"    complaint × there       disliked
    "no contrast", "lacks depth"   complaint × not there   liked: it is missed
    "love that there's no clutter" praise    × not there   disliked
    "I wish it had more colour"    complaint × not there   liked
    "I wish it weren't so blue"    complaint × there       disliked

A clause without a cue of its own takes its valence from what refers back to it ("..., which I like"), else from the clause before it
(turned round by "but"), else from an opinion later in the sentence or in the next one, else from the verdict on the picture, else
from the tone of the whole comment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
    settled: float = 0.0
    """The feeling of a clause that denies: the contrary of what was said before it, once that is known."""

    @property
    def feeling(self) -> float:
        """The clause's own signed feeling, 0 when it shows none."""
        if self.redeems:
            return 0.9
        if self.wanted or self.missed or self.unwanted or self.excess:
            return -0.6
        strongest = max((weight for _, weight in (*self.opinions, *self.agents)), key=abs, default=0.0)
        return strongest or (self.settled if self.denies else 0.0)


@dataclass(frozen=True)
class _View:
    """One clause of a sentence with its reading and the spans that are judged, its terms and nouns."""

    sentence: Sequence[Word]
    clause: Clause
    reading: _Reading
    named: Sequence[Span]

    @property
    def refers_back(self) -> bool:
        """Says whether it speaks of what was named before it: "which I like", "love it"."""
        words = [word.text for word in self.sentence[self.clause.start : self.clause.end] if not word.is_mark]
        return not self.named and (len(words) <= 4 or any(word in _POINTERS for word in words))


_POINTERS = frozenset({"it", "this", "that", "these", "those", "they", "them", "which"})


def judge_comment(
    parsed: Sequence[tuple[Sequence[Word], Sequence[Clause]]], liked: bool | None
) -> list[list[Judged]]:
    """Returns, sentence by sentence, every term or noun of a comment with its polarity; liked is the verdict when given."""
    sentences = [[_view(sentence, clause) for clause in clauses] for sentence, clauses in parsed]
    views = [view for sentence in sentences for view in sentence]
    _settle_denials(views)
    tone = sum(view.reading.feeling for view in views)
    prior = (0.6 if liked else -0.6) if liked is not None else (0.45 if tone >= 0 else -0.45)
    before = 0.0
    judged = []
    for number, sentence in enumerate(sentences):
        following = sentences[number + 1] if number + 1 < len(sentences) else []
        context = _Context(prior, liked is not None, before, _remark_on_last(following))
        ones, before = _judge_sentence(sentence, context)
        judged.append(ones)
    return judged


@dataclass(frozen=True)
class _Context:
    """What surrounds a sentence: the verdict's (or the tone's) signed feeling, whether it was given, and the sentences beside it."""

    prior: float
    verdict_given: bool
    before: float
    after: float


def _view(sentence: Sequence[Word], clause: Clause) -> _View:
    """Returns a clause with what its cues say."""
    named = [span for span in clause.spans if span.term is not None or span.noun is not None]
    return _View(sentence, clause, _read(sentence, clause), named)


def _settle_denials(views: Sequence[_View]) -> None:
    """Gives clauses that end in a bare "not" the contrary of the feeling before them: "the blue is ugly, the red is not"."""
    before = 0.0
    for view in views:
        if view.reading.denies:
            view.reading.settled = (-0.5 if before > 0 else 0.5) if before else view.reading.settled
        before = view.reading.feeling or view.reading.reported or before


def _remark_on_last(following: Sequence[_View]) -> float:
    """Returns the feeling of a sentence that only remarks on the one before it ("I hate it.", "Not for me."), else 0."""
    if not following or any(view.named for view in following) or following[0].clause.join == "contrast":
        return 0.0
    first = next((view for view in following if view.reading.feeling), None)
    return first.reading.feeling if first is not None and first.refers_back else 0.0


def _judge_sentence(views: Sequence[_View], context: _Context) -> tuple[list[Judged], float]:
    """Returns every term or noun of the sentence with its polarity, and the feeling in which the sentence ends."""
    judged: list[Judged] = []
    feeling = 0.0
    missing = wishing = turned = False
    for index, view in enumerate(views):
        clause, reading, mentioned = view.clause, view.reading, view.named
        own = reading.feeling
        goes_on = missing or wishing
        goes_on = goes_on and clause.join in ("list", "either") and not clause.has_verb and not own
        remark = 0.0 if goes_on else _ahead(views, index, referring=True)
        opposed = reading.opposes and feeling != 0.0
        inherited = feeling
        if (clause.join == "contrast" or turned) and not opposed:
            inherited = -(feeling if index else context.before)
        turned = clause.yields
        carries = goes_on and missing
        valence = own or remark or 0.85 * inherited or _surroundings(views, index, context)
        if (
            _is_hedged(view)
            and not own
            and not remark
            and (_is_contrasted(views, index) or not context.verdict_given)
        ):
            valence = -0.4
        if wishing and not own and any(span.compared for span in mentioned):
            reading.wanted = True
        if not reading.respect:
            judged += [_judge(view, span, valence, remark, carries, context) for span in mentioned]
        if own or mentioned:
            wishing = reading.wanted or reading.unwanted
            missing = (
                (reading.missed or (reading.wanted and not reading.unwanted))
                or carries
                or (bool(reading.absent_from) and not clause.has_verb and _before_either(views, index))
            )
        if valence:
            feeling = valence
        elif any(span.sour for span in mentioned) and not context.verdict_given:
            feeling = -0.6
    return judged, feeling


def _before_either(views: Sequence[_View], index: int) -> bool:
    """Says whether a list goes on from here to an "or": "no harmony, balance or rhythm"."""
    for view in views[index + 1 :]:
        if view.clause.join == "either":
            return True
        if (
            view.clause.join != "list"
            or view.clause.has_verb
            or view.reading.feeling
            or view.reading.absent_from
        ):
            return False
    return False


def _ahead(views: Sequence[_View], index: int, *, referring: bool) -> float:
    """Returns the feeling of a later clause that has no mention of its own ("warm lamps, deep blue sky, love it"), else 0.

    referring asks for one that says to what it refers; of these, "but that is what I like" also reaches back over a contrast.
    """
    for view in views[index + 1 :]:
        if referring and (view.reading.redeems or (view.reading.denies and not view.named)):
            return view.reading.feeling
        if view.clause.join == "contrast" or (referring and views[index].clause.yields):
            return 0.0
        if view.reading.feeling:
            fits = not view.named and (view.refers_back or not referring)
            return view.reading.feeling if fits else 0.0
    return 0.0


def _surroundings(views: Sequence[_View], index: int, context: _Context) -> float:
    """Returns the feeling of a clause that has none, by what comes after it; 0 when that says nothing."""
    view = views[index]
    if view.clause.yields:
        answer = next((v.reading.feeling for v in views[index + 1 :] if v.reading.feeling), 0.0)
        return -0.85 * (answer or (context.prior if index + 1 < len(views) else 0.0))
    ahead = _ahead(views, index, referring=False)
    if ahead:
        return 0.85 * ahead
    later = next((v for v in views[index + 1 :] if v.clause.join == "contrast" or v.reading.feeling), None)
    if view.reading.habit:
        departs = later is not None and not later.named and later.reading.feeling > 0
        return abs(view.reading.habit) if departs else view.reading.habit
    if later is None:
        return context.after
    if later.clause.join == "contrast" and not later.clause.yields:
        return _conceded(views, index, later, context)
    denied = later.reading.denies and later.named and later.reading.feeling < 0
    return 0.4 if denied else context.after


def _conceded(views: Sequence[_View], index: int, later: _View, context: _Context) -> float:
    """Returns the feeling of a clause that has none before a "but", 0 when it may be either."""
    if _is_granted(views, index):
        return -0.6 if (later.reading.feeling or context.prior) > 0 else 0.6
    if later.reading.feeling < 0:
        return 0.4  # "lovingly detailed, but I hate it"
    if not later.reading.feeling and context.verdict_given and context.prior < 0:
        return -0.4 if _is_doubtful(views[index]) and not _is_doubtful(later) else 0.4
    return 0.0


def _is_granted(views: Sequence[_View], index: int) -> bool:
    """Says whether the clause or the one after it only grants a point: "it is busy, granted, but ..."."""
    for view in views[index : index + 2]:
        words = view.sentence[view.clause.start : view.clause.end]
        key = tuple(word.key for word in words if not word.is_mark)
        granted = load_cues().granted
        if key in granted or (view is views[index] and key[:1] in granted):
            return True
    return False


def _is_doubtful(view: _View) -> bool:
    """Says whether a clause describes by words that are mostly a complaint."""
    doubtful = load_cues().doubtful
    keys = {(word.key,) for word in view.sentence[view.clause.start : view.clause.end]}
    return bool(keys & doubtful) or any(span.sour for span in view.named)


def _is_contrasted(views: Sequence[_View], index: int) -> bool:
    """Says whether a "but" stands before or after the clause."""
    return any(view.clause.join == "contrast" for view in views[index : index + 2] if view is not views[0])


def _is_hedged(view: _View) -> bool:
    """Says whether a clause ends in a description that is held back, as complaints are: "a bit dark", "slightly blurry"."""
    texts = [word.text for word in view.sentence[: view.clause.end]]
    while texts and not texts[-1].isalnum():
        texts.pop()
    last = view.named[-1] if view.named else None
    if last is None or last.term is None or last.noun is not None or last.end < len(texts):
        return False
    before = " ".join(texts[max(view.clause.start, last.start - 2) : last.start])
    return before.endswith(("a bit", "a little", "a tad", "little bit", "a touch", "slightly", "somewhat"))


def _read(sentence: Sequence[Word], clause: Clause) -> _Reading:
    """Returns what the cues of one clause say, negations already applied to the cue or mention that follows each."""
    reading = _Reading()
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
            if (
                not weight
                or _only_compares(sentence, spans, place)
                or _only_strengthens(sentence, spans, place)
            ):
                continue
            if _is_anothers(sentence, clause, span):
                reading.reported = weight
                continue
            if place and _is_bare_no(sentence, spans[place - 1], span, spans[place + 1 :]):
                reading.absent_from.pop()
                negated = True
            if negated:
                weight = -0.8 * weight if weight > 0 else -0.5 * weight
                negated_at = None
            if any(word.text in load_cues().habit for word in sentence[clause.start : clause.end]):
                reading.habit = weight
            else:
                (reading.agents if kind == "agent" else reading.opinions).append((span.start, weight))
        elif kind == "redeem" and negated:
            reading.opinions.append((span.start, -0.8))  # "and not in a good way"
            negated_at = None
        elif kind == "redeem":
            reading.redeems = True
        elif kind == "excess":
            follows = any(s.start >= span.end and (s.term or s.noun) for s in spans[place + 1 :])
            if sentence[span.start].text == "over" and not _is_degree(sentence, clause, spans, place):
                continue
            if follows and not negated:
                reading.excess.append(span.start)
            elif follows and negated:
                # "not too dark": said to be absent, and that is well.
                reading.opinions.append((span.start, 0.5))
                reading.absent_from.append(span.end)
                negated_at = None
        elif kind == "desire" and (
            _asks_nothing(sentence, clause, span) or _is_anothers(sentence, clause, span)
        ):
            continue
        elif kind == "desire" and _wants_the_picture(sentence, clause, span, spans[place + 1 :]):
            reading.opinions.append((span.start, -0.7 if negated else 0.8))
            negated_at = None
        elif kind == "desire":
            if negated and not (place and sentence[span.start].text.startswith("w")):
                reading.unwanted = True
                negated_at = None
            reading.wanted = True
            reading.asked_at = span.start
        elif kind == "lack":
            if negated:
                reading.opinions.append((span.start, 0.5))
                negated_at = None
            else:
                reading.missed = True
                reading.asked_at = span.start
        elif kind == "less":
            if _describes_degree(sentence, clause, span):
                reading.absent_from.append(span.end)
            else:
                reading.unwanted = True
        elif kind == "more":
            praised = negated or _compares(sentence, clause) or _has_opinion(spans)
            praised = praised or _describes_degree(sentence, clause, span)
            reading.wanted = reading.wanted or not praised
        elif kind == "absence" and all(word.is_mark for word in sentence[span.end : clause.end]):
            reading.opinions.append((span.start, -0.6))  # "composition: no"
        elif kind == "absence":
            reading.absent_from.append(span.end)
        elif kind == "respect":
            reading.respect = True
        elif negated and negated_at is not None and (span.term is not None or span.noun is not None):
            if reading.wanted:
                reading.unwanted = True
            else:
                reading.opposes = _opens_with_not_the(sentence, clause, negated_at)
                reading.absent_from.append(negated_at)
            negated_at = None
    if negated_at is not None and not reading.opinions:
        reading.denies, reading.settled = _ends_bare(sentence, clause, negated_at), -0.5
    elif clause.join == "contrast" and not spans:
        reading.denies, reading.settled = _only_affirms(sentence, clause), 0.5
    reading.against = _against(sentence, clause, spans)
    if reading.wanted and _negated_after_wish(sentence, clause, spans):
        reading.unwanted = True
    if reading.absent_from and any(word.text == "enough" for word in sentence[clause.start : clause.end]):
        reading.missed, reading.absent_from = True, []  # "not symmetrical enough"
    return reading


def _only_strengthens(sentence: Sequence[Word], spans: Sequence[Span], place: int) -> bool:
    """Says whether "pretty" only means "rather": "it is pretty dark", "pretty grey"."""
    span = spans[place]
    following = spans[place + 1] if place + 1 < len(spans) else None
    if sentence[span.start].text != "pretty" or following is None or following.start != span.end:
        return False
    if following.noun is not None or sentence[following.end - 1].text.endswith("s"):
        return False
    said = span.start > 0 and sentence[span.start - 1].text in load_cues().copulas
    return said or following.end >= len(sentence) or sentence[following.end].is_mark


def _is_anothers(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether a verb of liking has somebody else for its subject: "my wife loves", "people may like"."""
    verb = sentence[span.end - 1]
    if verb.key not in _FEEL:
        return False
    position = span.start - 1
    while position >= clause.start and sentence[position].text in _BETWEEN:
        position -= 1
    supposed = {word.text for word in sentence[max(position - 1, clause.start) : span.start]} & {
        "if",
        "will",
        "might",
    }
    return position >= clause.start and (
        sentence[position].text in load_cues().others
        or (sentence[position].text == "you" and bool(supposed))
        or (
            span.end == span.start + 1
            and sentence[span.start].text in _FEELS
            and sentence[position].text != "i"
        )
    )


_AUXILIARIES = frozenset({"has", "have", "does", "do", "did", "is", "are", "was", "were", "will"})
_FEEL = frozenset(
    {"love", "like", "adore", "enjoy", "hate", "dislike", "prefer", "admire", "appreciate", "rave"}
)
_FEELS = frozenset(word + "s" for word in _FEEL)
_BETWEEN = frozenset(
    {"will", "would", "may", "might", "could", "can", "do", "must", "seem", "seems", "to", "clearly", "probably", "surely"}
    | {"really", "always", "all", "also", "often", "usually", "just"}
)  # fmt: skip


def _is_bare_no(sentence: Sequence[Word], before: Span, span: Span, following: Sequence[Span]) -> bool:
    """Says whether "no" denies an opinion that describes nothing further: "no charm", "no fan of neon", not "no nice light"."""
    if before.cue is None or before.cue.kind != "absence" or before.end != span.start:
        return False
    return not any(s.start == span.end and (s.term or s.noun) for s in following)


def _is_degree(sentence: Sequence[Word], clause: Clause, spans: Sequence[Span], place: int) -> bool:
    """Says whether "over" means too much ("it is over sharpened") rather than a place ("mist over the hills")."""
    span = spans[place]
    touches = place + 1 < len(spans) and spans[place + 1].start == span.end
    before = sentence[span.start - 1].text if span.start > clause.start else ""
    return touches and (
        not before or before in load_cues().copulas or before in ("so", "bit", "little", "and", "way")
    )


def _asks_nothing(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether "give" only gives: "neon gives me a headache" asks for nothing."""
    first = sentence[span.start]
    return first.key == "give" and (span.start != clause.start or first.text != "give")


def _wants_the_picture(
    sentence: Sequence[Word], clause: Clause, span: Span, following: Sequence[Span]
) -> bool:
    """Says whether a wish is for the picture as it is, "I want it on my wall", and so is praise."""
    if sentence[span.start].text not in ("want", "wanted", "need", "crave", "craving"):
        return False
    object_ = sentence[span.end].text if span.end < clause.end else ""
    return object_ in ("it", "this", "these", "them", "one") and not any(s.term or s.noun for s in following)


def _describes_degree(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether "more" or "less" tells how things are ("it makes the red even more vivid") and asks for nothing."""
    if sentence[span.start].text not in ("more", "less", "stronger", "even", "much", "bit"):
        return False
    texts = {word.text for word in sentence[clause.start : clause.end]}
    asks = {"would", "could", "should", "please", "if", "might", "with", "needs", "need", "let"}
    return clause.has_verb and not texts & asks and not _commands(sentence, clause)


def _commands(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause opens with an order: "but make it more jagged"."""
    openers = {"but", "however", "and", "so", "just", "please", "maybe", "only"}
    words = (word.text for word in sentence[clause.start : clause.end])
    return next((word for word in words if word not in openers), "") in ("make", "give", "add", "bring")


def _opens_with_not_the(sentence: Sequence[Word], clause: Clause, negated_at: int) -> bool:
    """Says whether a clause without a verb denies a thing: "(I like the mist) but not the blur"."""
    if clause.has_verb or negated_at + 1 >= clause.end:
        return False
    leading = [word.text for word in sentence[clause.start : negated_at]]
    determiners = ("the", "this", "these", "that", "those", "its", "his", "her", "their", "all")
    return all(text in ("but", "just", "certainly", "definitely", "and", ",") for text in leading) and (
        sentence[negated_at + 1].text in determiners
    )


def _only_affirms(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause is no more than "but I do": the contrary of a "not" before it."""
    texts = [word.text for word in sentence[clause.start : clause.end] if not word.is_mark]
    return (
        len(texts) <= 4 and texts[-2:-1] in (["i"], ["it"], ["they"], ["this"]) and texts[-1] in _AUXILIARIES
    )


def _ends_bare(sentence: Sequence[Word], clause: Clause, negated_at: int) -> bool:
    """Says whether nothing but auxiliaries follows a negation: "the purple isn't", "orange never has"."""
    fillers = (
        "has",
        "have",
        "does",
        "do",
        "did",
        "is",
        "are",
        "was",
        "were",
        "will",
        "at",
        "all",
        "really",
        "quite",
    )
    return all(word.is_mark or word.text in fillers for word in sentence[negated_at + 1 : clause.end])


def _against(sentence: Sequence[Word], clause: Clause, spans: Sequence[Span]) -> int | None:
    """Returns where the losing side of a comparison begins ("soft edges rather than hard ones"), or None."""
    cues = load_cues()
    keys = {word.key for word in sentence[clause.start : clause.end]}
    prefers = bool(
        keys & {"prefer", "preferred", "rather", "more", "better", "nicer", "choose", "give", "any"}
    )
    first = next((span.end for span in spans if span.term is not None or span.noun is not None), clause.end)
    for index in range(clause.start if "better" in keys else first, clause.end):
        for length in (3, 2, 1):
            key = tuple(word.key for word in sentence[index : index + length])
            if key in cues.against and (length > 1 or prefers):
                return index
        if keys & {"prefer", "preferred"} and sentence[index].text == "to":
            return index
    return None


def _has_opinion(spans: Sequence[Span]) -> bool:
    """Says whether a clause holds a plain opinion."""
    return any(span.cue is not None and span.cue.kind == "opinion" and span.cue.weight for span in spans)


def _only_compares(sentence: Sequence[Word], spans: Sequence[Span], place: int) -> bool:
    """Says whether "like" likens rather than likes: "looks like a dream", "flat like a cutout"."""
    span = spans[place]
    if span.end - span.start > 1 or sentence[span.start].text != "like" or not span.start:
        return False
    described = place > 0 and spans[place - 1].end == span.start and spans[place - 1].term is not None
    compared = [word.text for word in sentence[span.end : span.end + 2]]
    likens = compared[:1] in (["a"], ["an"], ["in"]) and compared != ["a", "lot"]
    position = span.start - 1
    while position > 0 and sentence[position].text in (
        "more",
        "less",
        "lot",
        "a",
        "bit",
        "just",
        "exactly",
        "almost",
    ):
        position -= 1
    return sentence[position].text in load_cues().copulas or (described and likens)


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
        and span.cue.kind in ("negators", "less", "absence", "excess")
        and sentence[span.start].text != "over"
        and span.start > wish
        for span in spans
    )


def _judge(
    view: _View, span: Span, valence: float, remark: float, carries: bool, context: _Context
) -> Judged:
    """Returns one span's polarity and strength within its clause; remark is the feeling of what refers back to the clause."""
    reading = view.reading
    base = _strength(view.sentence, view.clause)
    if reading.against is not None and span.start > reading.against:
        first = view.named[0]
        if first.start > reading.against:
            return Judged(span, -1, _clamp(0.5 + base), False)  # "better than the usual kitsch"
        winner = replace(view, reading=replace(reading, against=None), named=[first])
        won = _judge(winner, first, valence, remark, carries, context)
        return Judged(span, -won.polarity, won.strength, True)
    absent = any(0 <= span.start - start <= 6 for start in reading.absent_from) or carries
    if (reading.wanted or reading.unwanted or reading.missed) and not _is_subject_of_wish(view, span):
        praised = max((w for _, w in reading.opinions), key=abs, default=0.0) if reading.missed else 0.0
        if praised > 0.5:
            return Judged(span, -1, _clamp(0.6 + base), False)
        # "Without the outlines it would be better": what is wished for is that they were not there.
        liked = (reading.missed or (reading.wanted and (carries or not absent))) and not reading.unwanted
        return Judged(span, 1 if liked else -1, _clamp(0.6 + base), not liked)
    if any(start < span.start for start in reading.excess):
        return Judged(span, -1, _clamp(0.7 + base), True)
    own = _nearest(view, span) or (0.0 if carries else _inner_praise(view, span))
    if span.sour and own <= 0 and remark <= 0:
        # "garish" complains by itself; "not garish" is well.
        return Judged(span, -1, _clamp(0.65 + base), not absent)
    if own:
        feeling, strength = own, abs(own)
    elif valence and not _is_subject_of_wish(view, span):
        feeling, strength = valence, abs(valence) * 0.9
    elif absent and not context.verdict_given:
        feeling, strength = -1.0, 0.5
    else:
        feeling, strength = context.prior, 0.5 if context.verdict_given else 0.45
    if carries and not own and not valence:
        feeling = -1.0
    polarity = (1 if feeling >= 0 else -1) * (-1 if absent and not _is_part_of_it(reading, span) else 1)
    return Judged(span, polarity, _clamp(strength + base), not absent)


def _is_subject_of_wish(view: _View, span: Span) -> bool:
    """Says whether a wish or lack is said of the span and asks for another: "the red sky" in "the red sky needs depth"."""
    asked = view.reading.asked_at
    if asked is None or span.start > asked:
        return False
    says_who = view.sentence[asked].key in ("want", "wanted", "wish", "wished", "hoping", "hoped")
    limit = view.reading.against or view.clause.end
    return says_who or any(asked < other.start < limit for other in view.named)


def _is_part_of_it(reading: _Reading, span: Span) -> bool:
    """Says whether the opinion describes the very thing that is absent: "no ugly pastels" is not "I love that there are none"."""
    opinions = [position for position, _ in reading.opinions]
    return any(start <= position < span.start for start in reading.absent_from for position in opinions)


def _inner_praise(view: _View, span: Span) -> float:
    """Returns the praise within a term's own words, "well painted", else 0."""
    words = view.sentence[span.start : span.end]
    opinions = load_cues().phrases
    praised = any(
        word.text in ("well", "nicely") or ((word.key,) in opinions and opinions[(word.key,)].weight >= 0.7)
        for word in words
    )
    return 0.6 if span.term is not None and len(words) > 1 and praised else 0.0


def _nearest(view: _View, span: Span) -> float:
    """Returns the signed weight of the opinion nearest to the span, 0 when the clause has none."""
    reading = view.reading
    if reading.redeems:
        return reading.feeling
    best, distance = 0.0, 1000.0
    for position, weight in reading.opinions:
        gap = span.start - position if position < span.start else (position - span.end) + 1.5
        if gap < distance:
            best, distance = weight, gap
    for position, weight in reading.agents:
        # What stands before the verb does the harm or the good; what comes after suffers or gains, unless it comes after "by".
        gap = abs(position - span.start)
        turns = any(s.start < position for s in view.named) or _is_passive(view, position)
        signed = weight if span.start < position or not turns else -weight
        if gap < distance + 2:
            best, distance = signed, gap
    return best


def _is_passive(view: _View, position: int) -> bool:
    """Says whether the harm or good is done by what follows: "ruined by the neon"."""
    return any(word.text == "by" for word in view.sentence[position : position + 3])


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
