"""What virtual people say about a picture, in free words, together with what they meant by it.

A person mostly remarks on shown attributes that they feel strongly about, sometimes on ones that they miss,
rarely on something they do not really feel. The words come from `remarks.toml`; person, picture, verdict and
random generator decide which. Next to the text stands what it truly says about taste, so that extraction can
be measured on people whose mind is known. The wording is written without looking at how comments are read, on
purpose.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from palate.simulations.crowd.people import Person
from palate.simulations.crowd.slips import americanise, misspell
from palate.simulations.world.truth import CATEGORY_OF, Truth

KINDS: Mapping[str, float] = {
    "points": 0.42,  # one to three plain points, praise or complaint or negation
    "contrast": 0.18,  # something liked against something disliked
    "wish": 0.09,  # more of what is missing, less of what is there
    "vague": 0.09,  # "these colours"
    "word": 0.05,  # "gloomy."
    "relief": 0.03,  # "at least it's not busy"
    "verdict": 0.05,  # "no."
    "subject": 0.06,  # "nice cat"
}
INVENTED = 0.02  # how often a point is about something shown that the person does not really feel

_PLURAL_CUT = re.compile(r" (?:of|in|on|with|from|between|without|at|left|going|everywhere|that)\b")
_QUANTIFIERS = ("so many ", "so much ", "too many ", "lots ", "all that ")
_SINGULAR = frozenset({"canvas", "chaos"})


@dataclass(frozen=True)
class Remark:
    """A comment and its truth.

    `mentions` are (attribute, polarity) pairs, +1 for what is liked or wished for, -1 for what is disliked;
    `kinds` names what the comment is made of, in `KINDS` or "praise", "complaint", "negation", "wish_more",
    "wish_less", "indirect", "invented". A mention may be about something that the picture does not show (a
    wish, a relief).
    """

    text: str
    mentions: tuple[tuple[str, int], ...]
    kinds: tuple[str, ...]


@dataclass
class _Draft:
    """Sentences in the making, with what they have said so far."""

    person: Person
    rng: random.Random
    liked: bool
    sentences: list[str]
    mentions: dict[str, int]
    kinds: list[str]

    def add(self, sentence: str, kind: str, *mentions: tuple[str, int]) -> None:
        self.sentences.append(sentence)
        self.kinds.append(kind)
        self.mentions.update(mentions)


def comment(person: Person, truth: Truth, liked: bool, rng: random.Random) -> Remark:
    """Write what this person says about a picture after a verdict; the same generator, the same words."""
    draft = _Draft(person, rng, liked, [], {}, [])
    kinds = dict(KINDS)
    while not draft.sentences:
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        del kinds[kind]  # what cannot be said about this picture is not tried twice; a verdict always can
        _WRITERS[kind](draft, truth)
    if draft.kinds[0] not in ("word", "verdict", "subject"):
        chance = rng.random()
        if chance < 0.07:
            _write_verdict(draft, truth)
        elif chance < 0.15:
            _write_subject(draft, truth)
        elif chance < 0.25 + 0.5 * person.voice.talkative:
            _write_wish(draft, truth) if rng.random() < 0.3 else _write_points(draft, truth)
        if len(draft.sentences) > 1 and draft.kinds[-1] in ("verdict", "subject") and rng.random() < 0.4:
            draft.sentences.insert(0, draft.sentences.pop())
    return Remark(_finish(draft), tuple(draft.mentions.items()), tuple(dict.fromkeys(draft.kinds)))


def _write_points(draft: _Draft, truth: Truth) -> None:
    """One to three points on what is shown, the strongly felt first, mostly in line with the verdict."""
    many = draft.rng.choices((1, 2, 3), (0.34, 0.42, 0.24))[0] if not draft.sentences else 1
    for _ in range(many):
        attribute = _pick(draft, truth.values())
        if attribute is None:
            if not draft.sentences and truth.values() and draft.rng.random() < 10 * INVENTED:
                _invent(draft, truth)
            return
        weight = draft.person.weights[attribute]
        draft.add(*_say(draft, attribute, weight), (attribute, 1 if weight > 0 else -1))
    if draft.rng.random() < INVENTED:
        _invent(draft, truth)


def _invent(draft: _Draft, truth: Truth) -> None:
    free = [a for a in truth.values() if a not in draft.person.weights and a not in draft.mentions]
    if free:
        attribute, sign = draft.rng.choice(free), 1 if draft.liked else -1
        sentence, kind = _say(draft, attribute, 0.5 * sign)
        draft.add(sentence, kind, (attribute, sign))
        draft.kinds.append("invented")


def _write_contrast(draft: _Draft, truth: Truth) -> None:
    rng = draft.rng
    good, bad = _pick(draft, truth.values(), sign=1), _pick(draft, truth.values(), sign=-1)
    if good is None or bad is None:
        # One side of the picture only: the other half of the sentence is what the person misses in it.
        one = good or bad
        free = [
            a for a in draft.person.likes if one and not truth.shows(a) and CATEGORY_OF[a] != CATEGORY_OF[one]
        ]
        missed = _pick(draft, free)
        if one is not None and missed is not None:
            weight = draft.person.weights[one]
            point, wish = _say(draft, one, weight, indirect=False)[0], _fill(rng, "wish_more", missed, 1)
            joint = rng.choice(_wording()["contrast"]["joints"] if weight > 0 else (", ", " - ", ". "))
            mentions = (one, 1 if weight > 0 else -1), (missed, 1)
            draft.add(point + joint + wish, "contrast" if weight > 0 else "wish_more", *mentions)
        return
    if rng.random() < 0.6:
        words = {**_noun_words(_noun(rng, good, 1), "l"), **_noun_words(_noun(rng, bad, -1), "d")}
        sentence = rng.choice(_wording()["contrast"]["liked" if draft.liked else "disliked"]).format(**words)
    else:
        parts = [_say(draft, a, draft.person.weights[a], indirect=False)[0] for a in (good, bad)]
        if draft.liked and rng.random() < 0.6:
            parts.reverse()
        sentence = rng.choice(_wording()["contrast"]["joints"]).join(parts)
    draft.add(sentence, "contrast", (good, 1), (bad, -1))


def _write_wish(draft: _Draft, truth: Truth) -> None:
    """More of a liked attribute that is missing, or less of a disliked one that is there."""
    shown = _pick(draft, truth.values(), sign=-1)
    taken = {CATEGORY_OF[a] for a in draft.mentions}
    absent = _pick(
        draft, [a for a in draft.person.likes if not truth.shows(a) and CATEGORY_OF[a] not in taken]
    )
    if shown is not None and (absent is None or draft.rng.random() < 0.5):
        draft.add(_fill(draft.rng, "wish_less", shown, -1), "wish_less", (shown, -1))
    elif absent is not None:
        draft.add(_fill(draft.rng, "wish_more", absent, 1), "wish_more", (absent, 1))


def _write_relief(draft: _Draft, truth: Truth) -> None:
    absent = _pick(draft, [a for a in draft.person.dislikes if not truth.shows(a)])
    if absent is not None and draft.liked:
        draft.add(_fill(draft.rng, "relief", absent, -1), "relief", (absent, -1))


def _write_vague(draft: _Draft, truth: Truth) -> None:
    """Points at a kind of thing; meant are the shown attributes of it that the person feels so about."""
    attribute = _pick(draft, truth.values(), sign=1 if draft.liked else -1)
    if attribute is None:
        return
    sign = 1 if draft.person.weights[attribute] > 0 else -1
    wording = _wording()["vague"]
    group = next(g for g in wording["group"] if CATEGORY_OF[attribute] in g["categories"])
    alike = [a for a in truth.values() if CATEGORY_OF[a] in group["categories"]]
    meant = [a for a in alike if draft.person.weights.get(a, 0.0) * sign > 0]
    if any(draft.person.weights.get(a, 0.0) * sign < 0 for a in alike):
        return  # nobody says "love these colours" who likes one thing about them and dislikes another
    words = _noun_words(draft.rng.choice(group["words"]), "v")
    sentence = draft.rng.choice(wording["like" if sign > 0 else "dislike"]).format(**words)
    draft.add(sentence, "vague", *((a, sign) for a in meant))


def _write_word(draft: _Draft, truth: Truth) -> None:
    sign = 1 if draft.liked else -1
    attribute = _pick(draft, truth.values(), sign=sign)
    if attribute is None:
        return
    entry = _wording()["attribute"][attribute]
    words = [
        a.split("/")[0].lstrip("=") for a in entry["adj"] + 2 * entry["nice_adj" if sign > 0 else "harsh_adj"]
    ]
    short = [w for w in words if w.count(" ") <= 1]
    draft.add(draft.rng.choice(short or words), "word", (attribute, sign))


def _write_verdict(draft: _Draft, truth: Truth) -> None:
    del truth
    draft.add(draft.rng.choice(_wording()["verdict"]["liked" if draft.liked else "disliked"]), "verdict")


def _write_subject(draft: _Draft, truth: Truth) -> None:
    wording, rng = _wording(), draft.rng
    line = rng.choice(wording["subject"]["any" if rng.random() < 0.5 else truth.subject])
    draft.add(line.format(subject=rng.choice(wording["subject_names"][truth.subject])), "subject")


_WRITERS = {
    "points": _write_points,
    "contrast": _write_contrast,
    "wish": _write_wish,
    "vague": _write_vague,
    "word": _write_word,
    "relief": _write_relief,
    "verdict": _write_verdict,
    "subject": _write_subject,
}


def _pick(draft: _Draft, attributes: Sequence[str], sign: int = 0) -> str | None:
    """Return one felt attribute, not yet mentioned, by strength.

    What fits the verdict comes to mind first.
    """
    weights = draft.person.weights
    open_to = [a for a in attributes if a not in draft.mentions and weights.get(a, 0.0) * (sign or 1) != 0]
    if sign:
        open_to = [a for a in open_to if weights[a] * sign > 0]
    if not open_to:
        return None
    in_line = [3.0 if (weights[a] > 0) == draft.liked else 1.0 for a in open_to]
    return draft.rng.choices(open_to, [abs(weights[a]) * k for a, k in zip(open_to, in_line, strict=True)])[0]


def _say(draft: _Draft, attribute: str, weight: float, indirect: bool = True) -> tuple[str, str]:
    """Return one point on a shown attribute, as (words, kind); the weight sets how strongly it is put."""
    rng, sign = draft.rng, 1 if weight > 0 else -1
    entry = _wording()["attribute"][attribute]
    if indirect and (sign > 0) == draft.liked and rng.random() < 0.16:
        return rng.choice(entry["like" if sign > 0 else "dislike"]), "indirect"
    if sign < 0 and rng.random() < 0.25:
        return _fill(rng, "negation", attribute, sign, harsh=False), "negation"
    level = "strong" if abs(weight) > 0.8 else "plain" if abs(weight) > 0.4 else "weak"
    kind = "praise" if sign > 0 else "complaint"
    return _fill(rng, kind, attribute, sign, level if rng.random() < 0.7 else "plain"), kind


def _fill(
    rng: random.Random, clause: str, attribute: str, sign: int, level: str | None = None, harsh: bool = True
) -> str:
    """Return one clause about an attribute.

    `harsh` also allows the words that only a friend or foe would use.
    """
    clauses = _wording()["clause"]
    if rng.random() < 0.58:
        noun = _noun(rng, attribute, sign, harsh)
        options = clauses[f"{clause}_noun"][level] if level else clauses[clause]["noun"]
        has_stuff = not noun.startswith(("a ", "an ", "the ", *_QUANTIFIERS))
        fitting = [o for o in options if has_stuff or "{stuff}" not in o]
        if noun.startswith(_QUANTIFIERS):
            fitting = [o for o in fitting if "{a}" not in o]
        return str(rng.choice(fitting)).format(**_noun_words(noun, ""))
    entry = _wording()["attribute"][attribute]
    adjectives = entry["adj"] + (entry["nice_adj" if sign > 0 else "harsh_adj"] if harsh else [])
    adjective, _, more = rng.choice(adjectives).partition("/")
    form = "fixed" if adjective.startswith("=") else "adj"
    adjective = adjective.lstrip("=")
    options = clauses[f"{clause}_{form}"][level] if level else clauses[clause][form]
    return str(rng.choice(options)).format(adj=adjective, more=more or f"more {adjective}")


def _noun(rng: random.Random, attribute: str, sign: int, harsh: bool = True) -> str:
    entry = _wording()["attribute"][attribute]
    own = entry["nice_noun" if sign > 0 else "harsh_noun"] if harsh else []
    return str(rng.choice(own if own and rng.random() < 0.3 else entry["noun"]))


def _noun_words(noun: str, prefix: str) -> dict[str, str]:
    """Return the forms of a noun phrase that a clause may ask for, agreeing in number.

    Each key has the prefix.
    """
    bare = re.sub(r"^an? ", "", noun)
    plural = bare == noun and _is_plural(noun)
    the = noun if prefix == "v" or noun.startswith(("the ", *_QUANTIFIERS)) else f"the {bare}"
    verbs = {"is": "are" if plural else "is", "s": "" if plural else "s"}
    if not prefix:
        does = "do" if plural else "does"
        much = "many" if plural else "much"
        return {"the": the, "a": noun, "bare": noun, "stuff": noun, "does": does, "much": much, **verbs}
    words = {prefix: the, f"{prefix}bare": noun, "does": "do" if plural else "does"}
    return words | {prefix + key: value for key, value in verbs.items()}


def _is_plural(noun: str) -> bool:
    if noun.startswith("lots of "):
        return _is_plural(noun.removeprefix("lots of "))
    head = _PLURAL_CUT.split(noun)[0]
    if head.startswith(("this ", "that ")):
        return False
    last = head.split()[-1]
    return " and " in head.replace("black and white", "") or (
        last.endswith("s") and not last.endswith("ss") and last not in _SINGULAR
    )


def _finish(draft: _Draft) -> str:
    """Join the sentences in the person's own manner: openers, ends, capitals, spelling, slips."""
    rng, voice, speech = draft.rng, draft.person.voice, _wording()["speech"]
    short = draft.kinds[0] in ("word", "verdict") and len(draft.sentences) == 1
    sentences = list(draft.sentences)
    if not short and rng.random() < 0.14:
        sentences[0] = rng.choice(speech["openers"]) + sentences[0]
    if not short and rng.random() < 0.08 and sentences[-1][-1].isalnum():
        sentences[-1] += rng.choice(speech["closers"])
    text = sentences[0]
    for sentence in sentences[1:]:
        joint = rng.choice(speech["joints"]) if text[-1].isalnum() else " "
        ends = joint.strip()[-1:] in (".", "!") or joint == " "
        text += joint + (sentence[0].upper() + sentence[1:] if ends else sentence)
    if text[-1].isalnum():
        text += (
            rng.choices(("!", "!!"), (3, 1))[0]
            if rng.random() < voice.exclaims
            else rng.choices((".", "", "..."), (6, 3, 1))[0]
        )
    text = text[0].upper() + text[1:]
    if voice.american:
        text = americanise(text)
    if voice.lower_case:
        text = text.lower()
    return misspell(text, voice.typo_rate, rng)


@cache
def _wording() -> dict[str, Any]:
    with (Path(__file__).parent / "remarks.toml").open("rb") as file:
        return tomllib.load(file)
