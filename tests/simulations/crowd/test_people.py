"""Virtual people: their tastes are known and varied, their verdicts noisy, their comments true."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest

from palate.simulations.crowd import people as people_module
from palate.simulations.crowd import slips
from palate.simulations.crowd.people import (
    Person,
    make_people,
    sample_shown,
    true_utility,
    verdict,
)
from palate.simulations.crowd.remarks import KINDS, Remark, _noun_words, _wording, comment
from palate.simulations.experiments.methods import pairwise
from palate.simulations.world.truth import ATTRIBUTES, CATEGORY_OF, SUBJECTS, Truth

Row = tuple[Person, Truth, bool, Remark]


@pytest.fixture(scope="module")
def crowd() -> list[Person]:
    return make_people(120, seed=7)


def _remarks(people: list[Person], n: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        person, truth = people[i % len(people)], sample_shown(rng)
        liked = verdict(person, truth, rng)
        rows.append((person, truth, liked, comment(person, truth, liked, rng)))
    return rows


@pytest.fixture(scope="module")
def rows(crowd: list[Person]) -> list[Row]:
    return _remarks(crowd, 2000, seed=1)


def test_negative_counts_are_refused_and_nobody_is_an_empty_population() -> None:
    for n, first in ((-1, 0), (3, -1)):
        with pytest.raises(ValueError, match="must not be negative"):
            make_people(n, 0, first=first)
    assert make_people(0, 0) == []


def test_a_typo_rate_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rate = 1\.5"):
        slips.misspell("anything", 1.5, random.Random(0))


def test_a_person_depends_on_seed_and_id_alone() -> None:
    assert make_people(6, 3)[4:] == make_people(2, 3, first=4)
    assert make_people(4, 3) != make_people(4, 4)
    assert {(p.seed, p.id) for p in make_people(4, 3)}.isdisjoint((p.seed, p.id) for p in make_people(4, 4))


def test_tastes_are_sparse_signed_and_use_the_words_of_the_world(crowd: list[Person]) -> None:
    for person in crowd:
        assert people_module.LIKED[0] <= len(person.likes) <= people_module.LIKED[1]
        assert people_module.DISLIKED[0] <= len(person.dislikes) <= people_module.DISLIKED[1]
        assert set(person.weights) <= set(CATEGORY_OF)
        assert set(person.likes).isdisjoint(person.dislikes)
        assert all(0.2 <= abs(weight) <= 1 for weight in person.weights.values())


def test_tastes_are_as_different_as_people_are(crowd: list[Person]) -> None:
    for i, person in enumerate(crowd):
        for other in crowd[:i]:
            same = {a for a in person.weights if person.weights[a] * other.weights.get(a, 0.0) > 0}
            assert len(same) < max(len(person.weights), len(other.weights)), (person.id, other.id)
    felt = Counter(a for p in crowd for a in p.weights)
    assert len(felt) >= 50  # of 55: rare tastes occur
    assert felt.most_common(1)[0][1] < 0.8 * len(crowd)
    divided = [
        a
        for a in felt
        if any(p.weights.get(a, 0) > 0 for p in crowd) and any(p.weights.get(a, 0) < 0 for p in crowd)
    ]
    assert len(divided) >= 25  # hardly anything is liked, or disliked, by all


def test_some_people_contradict_their_cohort_and_most_do_not(crowd: list[Person]) -> None:
    along = against = 0
    for person in crowd:
        liked, disliked = people_module.COHORTS[person.cohort]
        along += len(set(person.likes) & set(liked)) + len(set(person.dislikes) & set(disliked))
        against += len(set(person.likes) & set(disliked)) + len(set(person.dislikes) & set(liked))
    assert 0.02 < against / (along + against) < 0.15


def test_cohorts_and_crowd_name_attributes_of_the_world_once() -> None:
    assert set(people_module.CROWD) <= set(CATEGORY_OF)
    for liked, disliked in people_module.COHORTS.values():
        assert set(liked + disliked) <= set(CATEGORY_OF)
        assert len(set(liked + disliked)) == len(liked) + len(disliked)


def test_utility_is_the_sum_of_felt_attributes_and_ignores_the_subject(crowd: list[Person]) -> None:
    person = crowd[0]
    best = person.likes[0]
    one = Truth("cat", {CATEGORY_OF[best]: best})
    assert true_utility(person, Truth("cat")) == 0
    assert true_utility(person, one) == pytest.approx(person.weights[best] / person.spread)
    assert {true_utility(person, Truth(s, one.attributes)) for s in SUBJECTS} == {true_utility(person, one)}
    worst = next(a for a in person.dislikes if CATEGORY_OF[a] != CATEGORY_OF[best])
    both = Truth("cat", {**one.attributes, CATEGORY_OF[worst]: worst})
    assert true_utility(person, both) == pytest.approx(
        (person.weights[best] + person.weights[worst]) / person.spread
    )


def foreseen(judges: list[Person], scorers: list[Person], seed: int) -> float:
    """How often a scorer's true utility orders a judge's liked and disliked pictures, the mean over
    judges."""
    rng = random.Random(seed)
    shares = []
    for judge, scorer in zip(judges, scorers, strict=True):
        truths = [sample_shown(rng) for _ in range(200)]
        liked = np.array([verdict(judge, truth, rng) for truth in truths])
        shares.append(pairwise(np.array([true_utility(scorer, truth) for truth in truths]), liked))
    return sum(shares) / len(shares)


def test_a_scorer_that_knows_the_taste_reaches_the_promised_accuracy(crowd: list[Person]) -> None:
    assert 0.90 <= foreseen(crowd, crowd, 11) <= 0.94


def test_another_persons_taste_is_near_chance_so_the_accuracy_is_personal(crowd: list[Person]) -> None:
    assert foreseen(crowd, crowd[1:] + crowd[:1], 12) < 0.6


def test_likes_and_dislikes_are_roughly_balanced(crowd: list[Person]) -> None:
    rng = random.Random(13)
    truths = [sample_shown(rng) for _ in range(150)]
    rates = [sum(verdict(p, t, rng) for t in truths) / len(truths) for p in crowd]
    assert 0.45 < sum(rates) / len(rates) < 0.55
    assert min(rates) > 0.2
    assert max(rates) < 0.8


def test_shown_pictures_carry_four_or_five_attributes() -> None:
    rng = random.Random(14)
    assert {len(sample_shown(rng).attributes) for _ in range(200)} == {4, 5}


def test_every_attribute_can_be_said_in_many_ways() -> None:
    wording = _wording()
    assert set(wording["attribute"]) == set(CATEGORY_OF)
    for name, entry in wording["attribute"].items():
        assert set(entry) == {
            "noun",
            "nice_noun",
            "harsh_noun",
            "adj",
            "nice_adj",
            "harsh_adj",
            "like",
            "dislike",
        }, name
        assert len(set(entry["noun"])) >= 6, name
        assert all(len(entry[key]) >= 2 for key in entry), name
        assert set(entry["like"]).isdisjoint(entry["dislike"]), name
    assert set(wording["subject"]) == {"any", *SUBJECTS}
    assert set(wording["subject_names"]) == set(SUBJECTS)
    assert sorted(c for g in wording["vague"]["group"] for c in g["categories"]) == sorted(ATTRIBUTES)


def test_every_wording_can_be_filled_in() -> None:
    wording = _wording()
    point = {**_noun_words("mist", ""), "adj": "misty", "more": "mistier"}
    clauses = wording["clause"]
    assert {"praise_noun", "praise_adj", "praise_fixed", "negation", "wish_more", "relief"} <= set(clauses)
    texts = [t.format(**point) for forms in clauses.values() for options in forms.values() for t in options]
    pair = {**_noun_words("mist", "l"), **_noun_words("swirls", "d")}
    texts += [t.format(**pair) for t in wording["contrast"]["liked"] + wording["contrast"]["disliked"]]
    vague = _noun_words("these colours", "v")
    texts += [t.format(**vague) for t in wording["vague"]["like"] + wording["vague"]["dislike"]]
    texts += [t.format(subject="cat") for options in wording["subject"].values() for t in options]
    assert len(texts) > 200
    assert not [t for t in texts if "{" in t or t != t.strip() or " the the " in t]
    assert "mist" in pair["l"]
    assert pair["ls"] == "s"
    assert pair["ds"] == ""


def test_noun_phrases_agree_in_number() -> None:
    for noun, verb in [
        ("swirls", "are"), ("a spotlight", "is"), ("darkness", "is"), ("lots of light", "is"),
        ("dots of paint", "are"),
        ("a rainbow of colours", "is"), ("ochre and umber tones", "are"), ("timeless black and white", "is"),
        ("colours that pop", "are"), ("warmth in the colours", "is"), ("so much going on", "is"),
    ]:  # fmt: skip
        assert _noun_words(noun, "")["is"] == verb, noun
    assert _noun_words("a spotlight", "")["the"] == "the spotlight"
    assert _noun_words("the weave of the canvas", "")["the"] == "the weave of the canvas"


def test_the_same_generator_gives_the_same_words(crowd: list[Person]) -> None:
    assert [r for *_, r in _remarks(crowd, 50, seed=2)] == [r for *_, r in _remarks(crowd, 50, seed=2)]
    assert [r for *_, r in _remarks(crowd, 50, seed=2)] != [r for *_, r in _remarks(crowd, 50, seed=3)]


def test_comments_hardly_ever_repeat(rows: list[Row]) -> None:
    assert len({remark.text for *_, remark in rows[:500]}) > 450


def test_all_kinds_of_comment_occur(rows: list[Row]) -> None:
    kinds = Counter(kind for *_, remark in rows for kind in remark.kinds)
    expected = set(KINDS) - {"points", "wish"} | {
        "praise",
        "complaint",
        "negation",
        "wish_more",
        "wish_less",
        "indirect",
    }
    assert all(kinds[kind] >= 20 for kind in expected), kinds
    assert kinds["invented"] < 0.08 * len(rows)


def test_comments_are_short_texts_of_one_to_a_few_sentences(
    rows: list[Row],
) -> None:
    for *_, remark in rows:
        assert remark.text == remark.text.strip()
        assert 1 <= len(remark.text.split()) <= 80
        assert not re.search(r"[{}=_]|  |(?<!\d)/", remark.text), remark.text
    one_word = sum(len(remark.text.split()) == 1 for *_, remark in rows)
    assert 0.01 < one_word / len(rows) < 0.15


def test_no_word_of_the_machinery_shows(rows: list[Row]) -> None:
    labels = "|".join(f"{category} ?[:=] ?{value}" for value, category in CATEGORY_OF.items())
    for *_, remark in rows:
        assert not re.search(rf"{labels}|\b(?:None|True|False)\b|polarity|attribute", remark.text), (
            remark.text
        )


def test_mentions_are_what_the_person_feels_unless_invented(
    rows: list[Row],
) -> None:
    for person, _, _, remark in rows:
        if "invented" not in remark.kinds:
            assert all(person.weights[a] * polarity > 0 for a, polarity in remark.mentions), remark
    mentioned = sum(len(remark.mentions) for *_, remark in rows)
    felt = [
        (p.weights.get(a, 0.0) > 0) == (s > 0) and a in p.weights
        for p, _, _, r in rows
        for a, s in r.mentions
    ]
    assert mentioned > len(rows)
    assert sum(felt) / len(felt) > 0.93


def test_only_wishes_reliefs_and_contrasts_mention_what_is_not_shown(
    rows: list[Row],
) -> None:
    for _, truth, _, remark in rows:
        if not {"wish_more", "relief", "contrast"} & set(remark.kinds):
            assert all(truth.shows(a) for a, _ in remark.mentions), remark


def test_remarks_on_the_subject_and_pure_verdicts_mention_nothing(
    rows: list[Row],
) -> None:
    silent = [remark for *_, remark in rows if set(remark.kinds) <= {"subject", "verdict"}]
    assert len(silent) > 100
    assert all(remark.mentions == () for remark in silent)
    assert all(remark.mentions for *_, remark in rows if set(remark.kinds) - {"subject", "verdict"})


def test_strong_feelings_are_voiced_more_often_than_weak_ones(
    rows: list[Row],
) -> None:
    def voiced(low: float, high: float) -> float:
        chances = [
            a in dict(remark.mentions)
            for person, truth, _, remark in rows
            for a in truth.values()
            if low <= abs(person.weights.get(a, 0.0)) < high
        ]
        return sum(chances) / len(chances)

    assert voiced(0.75, 1.01) > voiced(0.2, 0.5) > 0.1


def test_somebody_who_feels_nothing_about_a_picture_still_says_something(crowd: list[Person]) -> None:
    for person in crowd[:20]:
        for seed in range(10):
            assert comment(person, Truth("boat"), seed % 2 == 0, random.Random(seed)).text


def test_some_people_make_slips_at_a_low_rate_and_some_never_do(crowd: list[Person]) -> None:
    rates = [person.voice.typo_rate for person in crowd]
    assert min(rates) == 0
    assert 0.005 < sum(rates) / len(rates) < 0.03
    text = "wonderful colours everywhere and nothing spoils them " * 400
    words = text.split()
    garbled = slips.misspell(text, 0.05, random.Random(0)).split()
    changed = [(a, b) for a, b in zip(words, garbled, strict=True) if a != b]
    assert 0.025 < len(changed) / len(words) < 0.06
    assert all(a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in changed)
    assert slips.misspell(text, 0.0, random.Random(0)) == text


def test_spelling_and_case_belong_to_the_person(rows: list[Row]) -> None:
    assert slips.americanise("grey colours, favourite watercolour") == "gray colors, favorite watercolor"
    assert slips.americanise("Cosy and Grey") == "Cozy and Gray"
    for person, _, _, remark in rows:
        assert not (person.voice.lower_case and remark.text != remark.text.lower())
        assert not (person.voice.american and "colour" in remark.text.lower())
