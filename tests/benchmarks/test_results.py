"""The benchmark table: rows are whole, the file says what was measured, words are what they claim."""

import json
import math
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.generator import ask
from benchmarks.pupils import Pupil, draw_wishes
from benchmarks.report import PAGE, README, RESULTS, count_in, page_of, write_report
from benchmarks.rows import Row, print_rows
from benchmarks.unseen_words import find_used, phrase, training_texts
from palate.client.taste.profile import Profile
from palate.simulations.crowd.captions import UNSEEN_SUBJECT_WORDS
from palate.simulations.crowd.people import make_people
from palate.simulations.world.truth import CATEGORY_OF, SUBJECTS, can_meet

KEYS = {"row", "figure", "bar", "holds", "command", "commit"}


@pytest.mark.parametrize("blank", ["row", "bar", "command"])
def test_a_row_says_what_it_is_what_it_must_reach_and_how_to_measure_it(blank: str) -> None:
    fields = {"row": "r", "figure": 1.0, "bar": "at least 1", "holds": True, "command": "c"}
    with pytest.raises(ValueError, match=blank):
        Row(**{**fields, blank: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_row_has_no_figure_that_is_no_number(figure: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Row("r", figure, "at least 1", False, "c")


def test_a_failed_bar_is_printed_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([Row("speed", 3.0, "at most 2", False, "c"), Row("size", 1.0, "at most 2", True, "c")])
    lines = capsys.readouterr().out.splitlines()
    assert any("FAILS" in line and "speed" in line for line in lines)
    assert any("holds" in line and "size" in line for line in lines)


def test_new_rows_replace_old_ones_of_the_same_name_and_keep_the_rest() -> None:
    old = [{"row": "a", "figure": 1}, {"row": "b", "figure": 2}]
    new = [{"row": "b", "figure": 3}, {"row": "c", "figure": 4}]
    assert bench.merge(old, new) == [
        {"row": "a", "figure": 1},
        {"row": "b", "figure": 3},
        {"row": "c", "figure": 4},
    ]


def test_the_page_of_results_is_that_of_the_results_and_the_readme_counts_them() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page_of(results)
    readme = README.read_text(encoding="utf-8")
    assert count_in(readme, results) == readme


def test_rows_that_miss_their_bar_stand_on_the_page_and_are_counted(tmp_path: Path) -> None:
    page, readme = tmp_path / "results.md", tmp_path / "README.md"
    readme.write_text(
        "before [All 9 rows](docs/results.md) stand next to their bars; 0 miss them. after\n",
        encoding="utf-8",
    )
    row = {"row": "a", "figure": 0.12345, "bar": "b", "holds": False, "command": r"c \1"}
    write_report([row, {**row, "figure": 123.456, "holds": True}, {**row, "figure": "1/2"}], page, readme)
    assert "3 rows, 2 of them miss" in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").endswith(
        "| a | 0.123 | b | **no** | `c \\1` |\n| a | 123.5 | b | yes | `c \\1` |\n"
        "| a | 1/2 | b | **no** | `c \\1` |\n"
    )
    assert readme.read_text(encoding="utf-8") == (
        "before [All 3 rows](docs/results.md) stand next to their bars; 2 miss them. after\n"
    )
    readme.write_text("no count\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must do so once"):
        write_report([row], page, readme)


def test_a_result_is_plain_json_with_the_commit() -> None:
    result = bench.to_result(Row("r", 0.5, "at least 0.4", True, "c", {"n": 3}), "abc", 1.26)
    assert json.loads(json.dumps(result)) == {
        "row": "r", "figure": 0.5, "bar": "at least 0.4", "holds": True, "command": "c", "commit": "abc",
        "seconds": 1.3, "extra": {"n": 3},
    }  # fmt: skip


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path) -> None:
    assert bench.commit_of(tmp_path) == "unknown"


@pytest.mark.skipif(not bench.RESULTS.exists(), reason="make bench has not been run yet")
def test_the_written_results_are_whole_and_hold_what_they_say() -> None:
    results = json.loads(bench.RESULTS.read_text(encoding="utf-8"))
    assert len({one["row"] for one in results}) == len(results)
    for one in results:
        assert set(one) >= KEYS, one
        limit = re.match(r"at (least|most) ([\d.]+)", one["bar"])
        if limit and isinstance(one["figure"], int | float):
            meets = (
                one["figure"] >= float(limit[2]) if limit[1] == "least" else one["figure"] <= float(limit[2])
            )
            assert meets or not one["holds"], one["row"]


def test_prompts_ask_for_one_to_three_attributes_that_can_be_seen_together() -> None:
    asked = [ask(i)[0] for i in range(500)]
    assert {len(t.values()) for t in asked} == {1, 2, 3}
    assert {t.subject for t in asked} == set(SUBJECTS)
    assert {v for t in asked for v in t.values()} == set(CATEGORY_OF)
    for truth in asked:
        values = truth.values()
        assert all(can_meet(v, values[:i]) for i, v in enumerate(values))
    assert ask(7) == ask(7)


def test_wishes_name_a_subject_and_no_attribute() -> None:
    pupils = [Pupil(person, Profile()) for person in make_people(30, 1)]
    wishes = draw_wishes(pupils)
    assert len(wishes) == 150
    for wish in wishes:
        assert wish.subject in wish.prompt
        assert not find_used(CATEGORY_OF, [wish.prompt.removesuffix("among green hills")])
    assert draw_wishes(pupils[:3]) == wishes[:15]


def test_the_search_finds_whole_words_and_their_plurals_only() -> None:
    words = ("pine", "light tower", "fungi", "cod")
    assert find_used(words, ["a pineapple, code", "Pines on a hill", "the light tower"]) == {
        "pine",
        "light tower",
    }


def test_at_least_forty_words_are_in_none_of_the_first_captions() -> None:
    words = [w for some in UNSEEN_SUBJECT_WORDS.values() for w in some]
    assert len(words) - len(find_used(words, training_texts(1500))) >= 40


def test_the_unseen_word_and_the_known_word_are_asked_for_alike() -> None:
    for number in range(8):
        assert phrase("cottage", number).replace("cottage", "house") == phrase("house", number)
