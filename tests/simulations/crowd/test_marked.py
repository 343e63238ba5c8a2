"""Comments with marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.comments_read import ARTWORKS, MARKED
from palate.shared.errors import FileFormatError
from palate.simulations.crowd.marked import parse_marked, read_marked


def test_marks_are_taken_out_and_kept_as_places() -> None:
    one = parse_marked("Ada", True, "No [-glare], and what [+soft light]!")
    assert one.comment == "No glare, and what soft light!"
    assert [one.comment[start:end] for start, end in one.places] == ["glare", "soft light"]
    assert one.signs == (-1, 1)


@pytest.mark.parametrize("line", ["", "[]", '{"person": "Ada", "liked": true}', "not JSON"])
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "comments.jsonl"
    path.write_text('{"person": "Ada", "liked": null, "comment": "Fine."}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="line 2"):
        read_marked(path)


def test_shipped_lessons_have_many_people_and_both_signs() -> None:
    lessons = read_marked()
    signs = [sign for one in lessons for sign in one.signs]
    assert len({one.person for one in lessons}) > 80
    assert 0.4 < signs.count(1) / len(signs) < 0.65
    # Every mark was taken out.
    assert not any("[+" in one.comment or "[-" in one.comment for one in (*lessons, *read_marked(MARKED)))


@pytest.mark.skipif(
    not (ARTWORKS / "tastes.json").exists(), reason="the real comments lie outside the project"
)
def test_no_real_comment_is_among_the_lessons() -> None:
    tastes = json.loads((ARTWORKS / "tastes.json").read_text(encoding="utf-8"))["tastes"]
    real = {entry["comment"].strip().lower() for entries in tastes.values() for entry in entries}
    assert real
    assert not real & {one.comment.strip().lower() for one in read_marked()}
