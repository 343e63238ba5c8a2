"""Marks that were made twice: how far their markers agree."""

import pytest

from palate.simulations.crowd.agreement import MARKERS, agreement, read_twice
from palate.simulations.crowd.marked import parse_marked


def test_two_who_mark_alike_agree_and_two_who_do_not_are_told_apart() -> None:
    one = [parse_marked("a", None, "love the [+soft light] but [-dull] sky")]
    other = [parse_marked("b", None, "love the soft [-light] but dull [+sky]")]
    assert agreement(one, one) == {"marks": 2, "other marks": 2, "F1": 1.0, "same kind": 1.0, "kappa": 1.0}
    apart = agreement(one, other)
    assert apart["F1"] == 0.5
    assert apart["same kind"] == 0.0
    assert apart["kappa"] < 0.2


def test_the_lessons_were_marked_twice_on_about_500_marks_and_the_markers_agree() -> None:
    marked = read_twice()
    assert sum(len(one.places) for one in marked["first"]) > 500
    comments = [[one.comment for one in marked[name]] for name in MARKERS]
    assert comments[0] == comments[1] == comments[2]
    between = agreement(marked["first"], marked["second"])
    assert between["F1"] > 0.9
    assert between["same kind"] == pytest.approx(0.98, abs=0.02)
    # The writers marked fewer looks than those who marked by the guide alone.
    assert agreement(marked["writer"], marked["first"])["F1"] > 0.85
