"""Lessons in the manner of threads: their form, their mix, and that none is anybody's own comment."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from palate.simulations.crowd.marked import THREADS, parse_marked, read_marked

REAL = Path(__file__).resolve().parents[4] / "shared" / "comments" / "real_development.json"


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_marks_say_liked_disliked_wished_for_or_only_named() -> None:
    one = parse_marked("Ada", None, "[+Soft light], [-muddy greens], needs [>depth]; is it [~gouache]?")
    assert one.comment == "Soft light, muddy greens, needs depth; is it gouache?"
    assert [one.comment[a:b] for a, b in one.places] == ["Soft light", "muddy greens", "depth", "gouache"]
    assert one.signs == (1, -1, 1, 0)
    assert one.wished == (False, False, True, False)


def test_the_lessons_are_marked_as_the_guide_says_and_none_comes_twice() -> None:
    lessons = read_marked(THREADS)
    assert not [one for one in lessons if "[" in one.comment or "]" in one.comment]
    phrases = [one.comment[a:b] for one in lessons for a, b in one.places]
    assert not [words for words in phrases if words != words.strip() or re.match(r"(the|an?) ", words, re.I)]
    assert Counter(plain(one.comment) for one in lessons if plain(one.comment)).most_common(1)[0][1] == 1
    for line in THREADS.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"person", "liked", "kind", "comment"}


def test_the_lessons_have_every_kind_of_mark_under_every_verdict_and_texts_without_a_look() -> None:
    lessons = read_marked(THREADS)
    silent = [one for one in lessons if not one.places]
    assert 0.15 < len(silent) / len(lessons) < 0.6
    for verdict in (True, False, None):
        mine = [one for one in lessons if one.liked is verdict]
        assert len(mine) > 0.15 * len(lessons)
        signs = Counter(sign for one in mine for sign in one.signs)
        assert min(signs[1], signs[-1]) > 0
    assert sum(any(one.wished) for one in lessons) > 0.05 * len(lessons)
    against = Counter((one.liked, sign) for one in lessons for sign in one.signs if one.liked is not None)
    assert against[True, -1] < 0.3 * against[True, 1]
    assert against[False, 1] < 0.6 * against[False, -1]


@pytest.mark.skipif(not REAL.exists(), reason="the real comments lie outside the project")
def test_no_lesson_is_a_real_comment() -> None:
    real = {plain(one["text"]) for one in json.loads(REAL.read_text(encoding="utf-8"))}
    assert not real & {plain(one.comment) for one in read_marked(THREADS)}
