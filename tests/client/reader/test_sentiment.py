"""The network that says whether a look is liked: long comments, bad input, and how well it reads."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from benchmarks.sentiment import MARKED, network_wrong, wrong_signs
from palate.client.reader.extractor import ShippedExtractor
from palate.client.reader.sentences import MAX_TOKENS, SentenceTower
from palate.client.reader.sentiment import (
    WEIGHTS,
    Sentiment,
    best_window,
    cut_windows,
    shipped_sentiment,
)
from palate.shared.errors import ModelError
from palate.simulations.crowd.marked import LESSONS, read_marked

TOWER = SentenceTower()


def odds(comment: str, look: str, liked: bool | None = None) -> float:
    """The log-odds of the first place where a comment names a look."""
    start = comment.index(look)
    (found,) = shipped_sentiment().read(comment, liked, [(start, start + len(look))])
    assert found is not None
    return found.liked


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 600), st.integers(0, 600))
def test_every_place_of_a_long_comment_is_read_whole_and_with_words_around(before: int, after: int) -> None:
    comment = "well " * before + "misty" + " then" * after
    place = 5 * before, 5 * before + 5
    windows = cut_windows(TOWER.tokenizer, comment, None)
    number = best_window(windows, place)
    assert number is not None
    window = windows[number]
    assert all(len(one.ids) <= MAX_TOKENS for one in windows)
    tokens = window.tokens_of(place)
    read = [window.offsets[i - window.before] for i in tokens]
    assert (read[0][0], read[-1][1]) == place
    assert tokens[0] - window.before >= min(before, 25)
    assert len(window.ids) - 2 - tokens[-1] >= min(after, 25)


def test_a_place_is_read_alike_alone_and_among_others() -> None:
    comment = "The fog is lovely, the neon is not, and I would have liked more grain. " * 9
    places = [(4, 7), (23, 27), (65, 70), (300, 305)]
    sentiment = shipped_sentiment()
    together = sentiment.read(comment, True, places)
    alone = [sentiment.read(comment, True, [place])[0] for place in places]
    for one, other in zip(together, alone, strict=True):
        assert one is not None
        assert other is not None
        assert math.isclose(one.liked, other.liked, abs_tol=1e-3)


def test_nothing_is_asked_and_nothing_is_there() -> None:
    assert shipped_sentiment().read("The fog is lovely.", None, []) == []
    assert shipped_sentiment().read("fog   fog", None, [(4, 5)]) == [None]


def test_the_verdict_decides_where_the_words_show_no_feeling() -> None:
    assert odds("blue, grainy", "grainy", True) > 1
    assert odds("blue, grainy", "grainy", False) < -1


@pytest.mark.parametrize(
    ("comment", "look", "sign"),
    [
        ("I could drown in that fog, gladly.", "foggy", 1),
        ("My gran would adore the pink. I am not my gran.", "pink", -1),
        ("Sepia is just brown with a backstory.", "sepia", -1),
    ],
)
def test_rules_are_outvoted_where_the_network_is_sure(comment: str, look: str, sign: int) -> None:
    by_rules, by_both = (
        next(m for m in extractor.extract(comment, None, None) if m.attribute == look)
        for extractor in (ShippedExtractor(sentiment=None), ShippedExtractor())
    )
    assert by_rules.polarity == -sign
    assert by_both.polarity == sign


def test_people_whom_it_never_read_are_understood_better_than_by_rules() -> None:
    spoken = read_marked(MARKED)
    marks, wrong = network_wrong(spoken)
    assert marks == 2354
    assert wrong / marks <= 0.08
    read, by_both = wrong_signs(ShippedExtractor(), spoken)
    _, by_rules = wrong_signs(ShippedExtractor(sentiment=None), spoken)
    assert by_both / read <= 0.075
    assert by_both <= 0.35 * by_rules


FORMULAS = {
    1: (
        "Big fan of the {}.", "I really like the {}.", "The {} works for me.", "I'm into the {}.",
        "Could use more {}.", "Needs more {}.",
        "Not enough {}.", "I wish it were more {}.", "It isn't {} enough.", "More {} would help.",
        "I miss the {}.", "I love how {} it is.",
        "The {} is nice.", "The {} draws me in.", "Such nice {}.", "The {} doesn't bother me.",
        "Yes to the {}!", "The {} is growing on me.",
        "I'd hang it for the {} alone.", "The {} saves it.", "The {} is fine.", "Not {} at all, sadly.",
    ),
    -1: (
        "Not a fan of the {}.", "I don't like the {}.", "Not keen on the {}.",
        "The {} doesn't work for me.", "I can't stand the {}.",
        "I could do without the {}.", "The {} is not my thing.", "Not into the {}.", "Needs less {}.",
        "Too much {}.", "A little too {} for me.",
        "A bit {} for my taste.", "I wish it were less {}.", "Less {} would help.",
        "I hate how {} it is.", "The {} is ugly.",
        "The {} puts me off.", "Thankfully not {}.", "The {} leaves me cold.", "The {} bothers me.",
        "I'm not sold on the {}.",
        "Nope, too {}.", "No to the {}.", "What a {} mess.", "The {} ruins it.",
    ),
}  # fmt: skip
"""Plain ways to say it; formulas.toml holds none of them (Ribeiro et al., "Beyond accuracy", ACL 2020)."""


@pytest.mark.parametrize("liked", [None, True, False])
def test_plain_formulas_are_read_whatever_the_look_and_the_verdict(liked: bool | None) -> None:
    lessons = tomllib.loads((LESSONS.parent / "formulas.toml").read_text(encoding="utf-8"))
    taught = {formula.lower() for kind in lessons.values() for formula in kind}
    wrong = total = 0
    for sign, formulas in FORMULAS.items():
        assert not taught & {formula.lower().rstrip(".!") for formula in formulas}
        for formula in formulas:
            start = formula.index("{}")
            for look in ("orange", "fog", "thick paint", "symmetry", "dark", "grain", "wavy lines"):
                place = start, start + len(look)
                (odds,) = shipped_sentiment().read(formula.format(look), liked, [place])
                assert odds is not None
                total, wrong = total + 1, wrong + (odds.liked * sign <= 0)
    assert wrong / total <= 0.12


def test_its_lessons_hold_none_of_the_people_left_out() -> None:
    lessons = {one.comment for one in read_marked()}
    assert len(lessons) > 12_000
    said = {
        one.comment for one in read_marked(MARKED) if len(one.comment.split()) > 3
    }  # "nah" anybody may say
    assert len(said) > 900
    assert not lessons & said


def test_weights_of_another_tower_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    tensors = load_file(str(WEIGHTS))
    other, cut, damaged = (tmp_path / f"{name}.safetensors" for name in ("other", "cut", "damaged"))
    save_file(
        {
            name: tensor[:, :7].contiguous() if tensor.ndim == 2 else tensor
            for name, tensor in tensors.items()
        },
        str(other),
    )
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.startswith("1.layer.3")}, str(cut)
    )
    damaged.write_bytes(WEIGHTS.read_bytes()[:5000])
    for path in (other, cut, damaged, tmp_path / "none.safetensors"):
        with pytest.raises(ModelError, match=path.name):
            Sentiment(TOWER, path).read("The fog is lovely.", None, [(4, 7)])  # fmt: skip
