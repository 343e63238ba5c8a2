"""Each decision has a date and says whether it is in force, and the index at the top names every one."""

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "decisions.md"


def anchor(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()))


def test_every_decision_has_a_date_a_status_and_a_place_in_the_index() -> None:
    index, *entries = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    titles = [entry.partition("\n")[0] for entry in entries]
    assert len(titles) > 50
    without = [
        entry.partition("\n")[0]
        for entry in entries
        if not re.match(r".+\n\*\d{4}-\d\d-\d\d · (in force|superseded by \[).*\*\n\n", entry)
    ]
    assert without == []
    listed = re.findall(r"^- \[(.+)\]\(#(.+?)\)", index, re.M)
    assert sorted(listed) == sorted((title, anchor(title)) for title in titles)


def test_what_supersedes_a_decision_is_a_decision() -> None:
    text = PAGE.read_text(encoding="utf-8")
    anchors = {anchor(title) for title in re.findall(r"^## (.+)$", text, re.M)}
    assert set(re.findall(r"\]\(#(.+?)\)", text)) <= anchors
