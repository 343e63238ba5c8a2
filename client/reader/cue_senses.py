"""Says what a cue means where it stands: "like" may like or liken, "over" may be too much or a place, "more" may ask or describe.

client/reader/mentions.py finds cues by their words alone. Here stand, one function each, the questions that
client/reader/readings.py asks before it counts one: whose opinion it is, whether it asks for anything, what
it denies, what it compares. All look at one clause only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from palate.client.reader.clauses import Clause
from palate.client.reader.cues import load_cues
from palate.client.reader.mentions import Span
from palate.client.reader.words import Word

_AUXILIARIES = frozenset({"has", "have", "does", "do", "did", "is", "are", "was", "were", "will"})
_AFTER_DENIAL = _AUXILIARIES | {"at", "all", "really", "quite"}
_HOPING = frozenset({"hoped", "expected", "feared", "supposed"})
_ASKERS = frozenset({"why", "who", "must", "since", "what"})
_BEFORE_NOUN = frozenset({"a", "an", "the", "this", "his", "her", "their", "my", "our", "of", "at", "hard"})
_MIGHT_BE = frozenset(
    {"could have", "might have", "would have", "would be", "could be", "might be", "would ve", "could ve"}
)
_MILD = frozenset({"fine", "okay", "ok", "solid", "decent", "alright", "sound", "competent"})
_FEEL = frozenset(
    {"love", "like", "adore", "enjoy", "hate", "dislike", "prefer", "admire", "appreciate", "rave"}
    | {"praise", "stand", "bear"}
)
_FEELS = frozenset(word + "s" for word in _FEEL)
_BE_FOND = frozenset({"into", "keen", "fond", "mad", "crazy"})
_BETWEEN = frozenset(
    {"will", "would", "may", "might", "could", "can", "do", "must", "seem", "seems", "to", "clearly", "probably", "surely"}
    | {"is", "are", "was", "were", "be", "so"}
    | {"really", "always", "all", "also", "often", "usually", "just"}
)  # fmt: skip
_BEFORE_LIKE = frozenset({"more", "less", "lot", "a", "bit", "just", "exactly", "almost"})
_ORDERS = frozenset({"make", "give", "add", "bring"})
_BEFORE_ORDER = frozenset({"but", "however", "and", "so", "just", "please", "maybe", "only"})
_ASKING = frozenset({"would", "could", "should", "please", "if", "might", "with", "needs", "need", "let"})
_BEFORE_NOT = frozenset({"but", "just", "certainly", "definitely", "and", ","})
_DETERMINERS = frozenset({"the", "this", "these", "that", "those", "its", "his", "her", "their", "all"})
_DENYING = frozenset({"not", "never", "no", "nothing"})
_PREFER = frozenset({"prefer", "preferred"})
_RANKING = _PREFER | {"rather", "more", "better", "nicer", "choose", "give", "any"}


def is_named(span: Span) -> bool:
    """Says whether a span is something to like or dislike: a term or a kind's noun."""
    return span.term is not None or span.noun is not None


def has_opinion(spans: Sequence[Span]) -> bool:
    """Says whether a clause holds a plain opinion."""
    return any(span.cue is not None and span.cue.kind == "opinion" and span.cue.weight for span in spans)


def only_likens(sentence: Sequence[Word], spans: Sequence[Span], place: int) -> bool:
    """Says whether "like" likens rather than likes: "looks like a dream", "flat like a cutout"."""
    span = spans[place]
    if span.end - span.start > 1 or sentence[span.start].text != "like" or not span.start:
        return False
    described = place > 0 and spans[place - 1].end == span.start and spans[place - 1].term is not None
    compared = [word.text for word in sentence[span.end : span.end + 2]]
    likens = compared[:1] in (["a"], ["an"], ["in"]) and compared != ["a", "lot"]
    position = span.start - 1
    while position > 0 and sentence[position].text in _BEFORE_LIKE:
        position -= 1
    return sentence[position].text in load_cues().copulas or (described and likens)


def only_strengthens(sentence: Sequence[Word], spans: Sequence[Span], place: int) -> bool:
    """Says whether "pretty" only means "rather": "it is pretty dark", "pretty grey"."""
    span = spans[place]
    following = spans[place + 1] if place + 1 < len(spans) else None
    if sentence[span.start].text != "pretty" or following is None or following.start != span.end:
        return False
    if following.noun is not None or sentence[following.end - 1].text.endswith("s"):
        return False
    said = span.start > 0 and sentence[span.start - 1].text in load_cues().copulas
    return said or following.end >= len(sentence) or sentence[following.end].is_mark


def is_anothers(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether a verb of liking has somebody else for its subject: "my wife loves", "people may like"."""
    if sentence[span.end - 1].key not in _FEEL and sentence[span.start].text not in _BE_FOND:
        return False
    position = span.start - 1
    while position >= clause.start and sentence[position].text in _BETWEEN:
        position -= 1
    if position < clause.start:
        return False
    subject = sentence[position].text
    near = {word.text for word in sentence[max(position - 1, clause.start) : span.start]}
    supposed = subject == "you" and bool(near & {"if", "will", "might"})
    third_person = span.end == span.start + 1 and sentence[span.start].text in _FEELS and subject != "i"
    return subject in load_cues().others or supposed or third_person


def is_too_much(sentence: Sequence[Word], clause: Clause, spans: Sequence[Span], place: int) -> bool:
    """Says whether "over" means too much ("it is over sharpened") rather than a place ("mist over the hills")."""
    span = spans[place]
    touches = place + 1 < len(spans) and spans[place + 1].start == span.end
    before = sentence[span.start - 1].text if span.start > clause.start else ""
    return touches and (
        not before or before in load_cues().copulas or before in ("so", "bit", "little", "and", "way")
    )


def asks_nothing(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether "give" only gives: "neon gives me a headache" asks for nothing."""
    first = sentence[span.start]
    return first.key == "give" and (span.start != clause.start or first.text != "give")


def wants_the_picture(
    sentence: Sequence[Word], clause: Clause, span: Span, following: Sequence[Span]
) -> bool:
    """Says whether a wish is for the picture as it is, "I want it on my wall", and so is praise."""
    if sentence[span.start].text not in ("want", "wanted", "need", "crave", "craving"):
        return False
    object_ = sentence[span.end].text if span.end < clause.end else ""
    return object_ in ("it", "this", "these", "them", "one") and not any(is_named(s) for s in following)


def describes_degree(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether "more" or "less" tells how things are ("it makes the red even more vivid") and asks for nothing."""
    if sentence[span.start].text not in ("more", "less", "stronger", "even", "much", "bit"):
        return False
    texts = {word.text for word in sentence[clause.start : clause.end]}
    return clause.has_verb and not texts & _ASKING and not _orders(sentence, clause)


def _orders(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause opens with an order: "but make it more jagged"."""
    words = (word.text for word in sentence[clause.start : clause.end])
    return next((word for word in words if word not in _BEFORE_ORDER), "") in _ORDERS


def only_compares(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether "more" only compares: "more than", "once more"."""
    texts = [word.text for word in sentence[clause.start : clause.end]]
    return "than" in texts or "once" in texts


def only_grants(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause is no more than the "yes" of "digital, yes, but ...", which grants a point and praises nothing."""
    cues = load_cues()
    key = tuple(word.key for word in sentence[clause.start : clause.end] if not word.is_mark)
    following = (sentence[clause.end].key,) if clause.end < len(sentence) else ()
    return bool(key) and key in cues.granted and clause.join == "list" and following in cues.contrast


def ends_affirming(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause ends in a bare auxiliary, and so says of its subject what was denied of another: "..., the red is"."""
    texts = [word.text for word in sentence[clause.start : clause.end] if not word.is_mark]
    return len(texts) > 1 and texts[-1] in _AUXILIARIES and not any(text in _DENYING for text in texts)


def is_negated_after_wish(sentence: Sequence[Word], spans: Sequence[Span]) -> bool:
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


def is_bare_no(before: Span, span: Span, following: Sequence[Span]) -> bool:
    """Says whether "no" denies an opinion that describes nothing further: "no charm", "no fan of neon", not "no nice light"."""
    if before.cue is None or before.cue.kind != "absence" or before.end != span.start:
        return False
    return not any(s.start == span.end and is_named(s) for s in following)


def opens_with_not_the(sentence: Sequence[Word], clause: Clause, negated_at: int) -> bool:
    """Says whether a clause without a verb denies a thing: "(I like the mist) but not the blur"."""
    if clause.has_verb or negated_at + 1 >= clause.end:
        return False
    leads = all(word.text in _BEFORE_NOT for word in sentence[clause.start : negated_at])
    return leads and sentence[negated_at + 1].text in _DETERMINERS


def ends_bare(sentence: Sequence[Word], clause: Clause, negated_at: int) -> bool:
    """Says whether nothing but auxiliaries follows a negation: "the purple isn't", "orange never has"."""
    return all(word.is_mark or word.text in _AFTER_DENIAL for word in sentence[negated_at + 1 : clause.end])


def falls_short(sentence: Sequence[Word], clause: Clause, negated_at: int) -> bool:
    """Says whether a negation finds less than was hoped: "not nearly as dark as I would want"."""
    texts = [word.text for word in sentence[negated_at + 1 : clause.end]]
    if "as" not in texts[:3]:
        return False
    rest = texts[texts.index("as") + 1 :]
    return "as" in rest and "i" in rest[rest.index("as") :][:2]


def only_affirms(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause is no more than "but I do": the contrary of a "not" before it."""
    texts = [word.text for word in sentence[clause.start : clause.end] if not word.is_mark]
    said_of = texts[-2:-1] in (["i"], ["it"], ["they"], ["this"])
    return len(texts) <= 4 and said_of and texts[-1] in _AUXILIARIES


def losing_side(sentence: Sequence[Word], clause: Clause) -> int | None:
    """Return where the losing side of a comparison begins ("soft edges rather than hard ones"), or None."""
    cues = load_cues()
    keys = {word.key for word in sentence[clause.start : clause.end]}
    first = next((span.end for span in clause.spans if is_named(span)), clause.end)
    for index in range(clause.start if "better" in keys else first, clause.end):
        for length in (3, 2, 1):
            key = tuple(word.key for word in sentence[index : index + length])
            if key in cues.against and (length > 1 or keys & _RANKING):
                return index
        if keys & _PREFER and sentence[index].text == "to":
            return index
    return None


def is_work_of_art(sentence: Sequence[Word], span: Span) -> bool:
    """Says whether "work" is a noun, "out of work", "his work", and no praise as in "the colours work"."""
    if span.end - span.start > 1 or sentence[span.start].key != "work" or not span.start:
        return False
    return sentence[span.start - 1].text in _BEFORE_NOUN


def expects(sentence: Sequence[Word], clause: Clause, span: Span) -> bool:
    """Says whether an opinion was no more than hoped for or feared: "I had hoped that it would win me over"."""
    return any(word.text in _HOPING for word in sentence[clause.start : span.start])


def opens_question(sentence: Sequence[Word], span: Span) -> bool:
    """Says of a cue that asks what no answer is wanted to ("why is it so beige") whether it opens the sentence; else true."""
    first = sentence[span.start].text
    if span.end - span.start > 1 and sentence[span.start : span.end][-1].text == "be" and first == "have":
        return sentence[0].text in ("do", "does", "did", "why")
    return span.end - span.start == 1 or first not in _ASKERS or span.start == 0


def sets_apart(sentence: Sequence[Word], span: Span) -> bool:
    """Says whether "not just" tells what a thing is unlike: "an abstract that is not just beige rectangles"."""
    words = [word.text for word in sentence[max(0, span.start - 2) : span.end]]
    return words[-2:] in (["not", "just"], ["not", "merely"]) and words[:2] in (
        ["that", "is"],
        ["which", "is"],
        ["that", "are"],
    )


def supposes_with(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause supposes what is not: "with a bolder outline this could have been a poster"."""
    if not clause.start or sentence[clause.start - 1].text != "with" or clause.start > 2:
        return False
    texts = [word.text for word in sentence[clause.start : clause.end]]
    return any(f"{one} {other}" in _MIGHT_BE for one, other in pairwise(texts))


def is_mild_praise(sentence: Sequence[Word], clause: Clause) -> bool:
    """Says whether a clause is one word that grants: "the light? fine."."""
    texts = [word.text for word in sentence[clause.start : clause.end] if not word.is_mark]
    return len(texts) == 1 and texts[0] in _MILD
