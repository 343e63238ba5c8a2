"""Captions: varied, true to what is drawn, and without the words that are held out."""

from __future__ import annotations

import random
import re

import pytest

from palate.simulations.crowd.captions import (
    ATTRIBUTE_PHRASES,
    SUBJECT_WORDS,
    UNSEEN_SUBJECT_WORDS,
    attribute_phrase,
    attributes_only,
    caption,
    plural_of,
    subject_phrase,
    with_article,
)
from palate.simulations.world.truth import CATEGORY_OF, SUBJECTS, Truth, sample_truth


def test_captions_vary_in_wording() -> None:
    truth = sample_truth(random.Random(1), "house", {"palette": "neon", "composition": "tilted"})
    texts = {caption(random.Random(i), truth) for i in range(200)}
    assert len(texts) > 80


def test_a_caption_mentions_only_what_the_picture_shows() -> None:
    truth = Truth("cat", {"palette": "pastel"})
    allowed = {*ATTRIBUTE_PHRASES["pastel"], "pastel"}
    for i in range(100):
        parts = re.split(r", | in the style of ", caption(random.Random(i), truth))
        for part in parts:
            assert part in allowed or any(word in part for word in SUBJECT_WORDS["cat"])


def test_a_caption_names_its_subject() -> None:
    rng = random.Random(2)
    for _ in range(300):
        truth = sample_truth(rng)
        text = caption(rng, truth)
        assert any(word in text for word in SUBJECT_WORDS[truth.subject])


def test_held_out_words_are_in_no_caption() -> None:
    held_out = [word for words in UNSEEN_SUBJECT_WORDS.values() for word in words]
    assert len(held_out) >= 40
    rng = random.Random(3)
    text = " ".join(caption(rng, sample_truth(rng)) for _ in range(20_000))
    # "rose pink" names a colour; the flower is never called a rose.
    text = text.replace("rose pink", "")
    for word in held_out:
        assert not re.search(rf"\b{re.escape(word)}\b", text), word


def test_every_subject_and_attribute_has_words() -> None:
    assert set(SUBJECT_WORDS) == set(UNSEEN_SUBJECT_WORDS) == set(SUBJECTS)
    assert set(ATTRIBUTE_PHRASES) == set(CATEGORY_OF)
    assert all(attribute_phrase(random.Random(0), a) for a in CATEGORY_OF)


def test_attributes_only_leaves_the_subject_out() -> None:
    assert attributes_only(random.Random(4), Truth("cat", {})) == ""
    assert "cat" not in attributes_only(random.Random(4), Truth("cat", {"palette": "neon"}))


@pytest.mark.parametrize(
    ("word", "several"),
    [
        ("fox", "foxes"), ("wolf", "wolves"), ("pony", "ponies"), ("monkey", "monkeys"), ("bus", "buses"),
        ("old woman", "old women"), ("man with a beard", "men with a beard"), ("grapes", "grapes"),
        ("bunch of flowers", "bunches of flowers"), ("goose", "geese"), ("octopus", "octopuses"),
    ],
)  # fmt: skip
def test_several_are_called_by_their_plural(word: str, several: str) -> None:
    assert plural_of(word) == several


@pytest.mark.parametrize(
    ("word", "phrase"),
    [
        ("owl", "an owl"), ("fox", "a fox"), ("bread", "bread"), ("grapes", "grapes"), ("bus", "a bus"),
        ("pair of skis", "a pair of skis"), ("rhinoceros", "a rhinoceros"), ("compass", "a compass"),
    ],
)  # fmt: skip
def test_a_noun_has_the_article_that_english_gives_it(word: str, phrase: str) -> None:
    assert with_article(word) == phrase


def test_a_caption_names_the_companion_and_the_number() -> None:
    three, pair = Truth("fox", {}, count=3), Truth("fox", {}, companion="owl")
    said = {subject_phrase(random.Random(i), three, plain=1.0) for i in range(20)}
    assert said == {"three foxes"}
    said = {subject_phrase(random.Random(i), pair, plain=1.0) for i in range(60)}
    owls = ("an owl", "a barn owl")
    assert said <= {
        f"{article}fox {link} {owl}"
        for article in ("a ", "")
        for link in ("and", "with", "next to")
        for owl in owls
    }
    assert len(said) > 5
