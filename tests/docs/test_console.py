"""The console blocks of the documentation: what they show is what the commands print."""

from pathlib import Path

import pytest

from docs.tools import console

ROOT = Path(__file__).resolve().parents[2]


def page_with(folder: Path, block: str) -> Path:
    """A page with one console block."""
    page = folder / "page.md"
    page.write_text(f"before\n\n```console\n{block}```\n\nafter\n", encoding="utf-8")
    return page


def test_what_commands_print_is_written_below_them(tmp_path: Path) -> None:
    page = page_with(tmp_path, "$ echo one\n$ cd client/demo && ls mara.json\n")
    console.write_page(page, tmp_path / "run")
    assert page.read_text(encoding="utf-8") == (
        "before\n\n```console\n$ echo one\none\n$ cd client/demo && ls mara.json\nmara.json\n```\n\nafter\n"
    )


def test_long_output_is_cut_where_the_page_cuts_it_and_new_output_after_twelve_lines(tmp_path: Path) -> None:
    page = page_with(tmp_path, "$ seq 3\n1\n...\n$ seq 20\n")
    console.write_page(page, tmp_path / "run")
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[3:6] == ["$ seq 3", "1", "..."]
    assert lines[6:20] == ["$ seq 20", *(str(i) for i in range(1, 13)), "..."]


def test_a_command_gets_the_id_that_stands_in_the_place_of_the_old_one(tmp_path: Path) -> None:
    page = page_with(tmp_path, "$ echo id 12ab34cd\nid 00000000\n$ echo 00000000\n00000000\n")
    console.write_page(page, tmp_path / "run")
    assert page.read_text(encoding="utf-8").count("12ab34cd") == 4


def test_a_page_that_shows_something_else_is_noticed_but_for_digits(tmp_path: Path) -> None:
    page = page_with(tmp_path, "$ echo 0.93 misty\n0.94 misty\n$ echo calm\nmisty\n")
    (differs,) = console.check_page(page, tmp_path / "run")
    assert (differs.command, differs.printed) == ("echo calm", ("calm",))


def test_a_command_that_fails_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ended with 3"):
        console.run_page(page_with(tmp_path, "$ exit 3\n"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", console.PAGES)
def test_the_pages_show_what_the_commands_print(name: str, tmp_path: Path) -> None:
    differs = console.check_page(ROOT / name, tmp_path / "run")
    assert [f"$ {one.command}\n" + "\n".join(one.printed) for one in differs] == [], (
        "write the pages anew: python -m docs.tools.console"
    )
