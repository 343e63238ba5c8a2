"""README and documentation: links lead somewhere, commands are real, nothing is loaded from outside."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.tools.command_line import command_line_page
from docs.tools.offline import loads_from_elsewhere

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *SITE]
MADE = {"docs/reference/command-line.md"}  # while the site is built
MOST_BYTES = 9_000
HAVE_TESTS_OR_A_HISTORY = ("CHANGELOG.md", "decisions.md", "threat-model.md")


def name_of(path: Path) -> str:
    """The page's path from the root, for the names of the tests."""
    return path.relative_to(ROOT).as_posix()


def links(text: str) -> list[str]:
    """Targets of all links and pictures that lie in the project."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    return [one.partition("#")[0] for one in found if not re.match(r"\w+:|#", one)]


def commands_in(text: str) -> Iterator[str]:
    """Lines of fenced blocks that call palate, without their comments; "&&" joins two."""
    for block in re.findall(r"^```(?!text|python|json|nginx)\w*\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            for part in line.removeprefix("$ ").split("&&"):
                if part.strip().startswith("palate "):
                    yield part.partition("  #")[0].strip()


def palate() -> Any:
    """The whole command line, guests too."""
    from typer.main import get_command

    from palate.client.commands.cli import app

    return get_command(app)


def parse(command: str) -> None:
    """Parse a command as the program would, without running it; raises click's UsageError."""
    from click import Context

    group, words = palate(), shlex.split(command)[1:]
    context = Context(group, info_name="palate")
    while hasattr(group, "get_command") and words and not words[0].startswith("-"):
        found = group.get_command(context, words[0])
        if found is None:
            break
        group, words = found, words[1:]
        context = Context(group, info_name=found.name, parent=context)
    group.make_parser(context).parse_args(words)


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= MOST_BYTES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_project_lead_to_files(page: Path) -> None:
    targets = links(page.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not (page.parent / target).exists()
        and (page.parent / target).resolve().relative_to(ROOT).as_posix() not in MADE
    ]
    assert missing == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in HAVE_TESTS_OR_A_HISTORY], ids=name_of
)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:client|server|shared|simulations|tests|benchmarks|docs|requirements)/[\w/.-]+)`",
        page.read_text(encoding="utf-8"),
    )
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_the_search_for_links_sees_a_dead_one() -> None:
    assert links("[a](gone.md#x) ![b](b.png) [c](https://c.example) `[d](d.md)`") == ["gone.md", "b.png"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_on_a_page_is_one_of_the_programs(page: Path) -> None:
    for command in commands_in(page.read_text(encoding="utf-8")):
        parse(command)


@pytest.mark.parametrize("command", ["palate teach a.png --commment x", "palate server certify --no-such a"])
def test_a_command_with_an_option_that_is_none_is_noticed(command: str) -> None:
    from click import UsageError

    with pytest.raises(UsageError, match="No such option"):
        parse(command)


def test_most_pages_show_commands() -> None:
    found = [command for page in PAGES for command in commands_in(page.read_text(encoding="utf-8"))]
    assert len(found) > 40


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_machine(page: Path) -> None:
    found = re.findall(r"/(?:tmp|work|root|opt)/\S*", page.read_text(encoding="utf-8"))
    assert found == []


def test_what_the_reference_shows_is_there() -> None:
    named = [
        one for page in SITE for one in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M)
    ]
    assert len(named) > 15
    for name in named:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


# --- the page of the command line --------------------------------------------------------------------------


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below a group, as the installed program has them."""
    from click import Context

    if not hasattr(command, "list_commands"):
        return
    context = Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if not found.hidden:
            yield (*path, name), found
            yield from walk(found, (*path, name))


def test_the_page_of_the_command_line_has_every_command_and_option_of_the_program() -> None:
    page = command_line_page()
    headings = set(re.findall(r"^#+ (palate .*)$", page, re.M))
    installed = dict(walk(palate(), ("palate",)))
    assert headings == {" ".join(path) for path in installed}
    assert {"palate teach", "palate profile set", "palate server run", "palate simulate"} <= headings
    for path, command in installed.items():
        section = page.partition(f"# {' '.join(path)}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if not getattr(parameter, "hidden", False) and parameter.name != "help":
                shown = (
                    parameter.opts
                    if parameter.param_type_name == "option"
                    else [parameter.human_readable_name]
                )
                assert all(one in section for one in shown), (path, shown)


# --- nothing from elsewhere --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "address"),
    [
        ("a.html", '<script async src="https://cdn.example/x.js"></script>', "https://cdn.example/x.js"),
        ("a.html", "<link rel=stylesheet href=//fonts.example/a.css>", "//fonts.example/a.css"),
        ("a.html", '<img alt="" src="http://e.example/p.png">', "http://e.example/p.png"),
        ("a.css", "@font-face { src: url('https://f.example/a.woff2') }", "https://f.example/a.woff2"),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(
    file: str, text: str, address: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert list(loads_from_elsewhere(tmp_path)) == [(file, address)]


def test_a_link_that_one_may_follow_is_no_load(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="https://e.example">e</a><img src="p.png">', encoding="utf-8")
    assert list(loads_from_elsewhere(tmp_path)) == []
