"""The map of the house has no circle, and the script that draws it sees one where there is one."""

import json
from pathlib import Path

import pytest
import rooms

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("folder", rooms.FOLDERS)
def test_no_folder_has_a_circle_of_rooms_or_of_files(folder: str) -> None:
    found = rooms.survey(ROOT)[folder]
    assert found["rooms"]["count"] > 5
    assert found["rooms"]["circles"] == []
    assert found["files"]["circles"] == []


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """A tree of two rooms that import each other through different files, which themselves make no circle."""
    sources = {
        "client/__init__.py": "",
        "client/eye/__init__.py": "",
        "client/eye/tower.py": "def late():\n    import palate.client.taste.profile\n",
        "client/eye/colours.py": "",
        "client/taste/profile.py": "from palate.client.eye import colours\nfrom "
        "palate.client.eye.colours import red\n",
        "client/doctor.py": "from palate.client import eye, device\n",
        "server/app.py": "import palate.client.doctor\n",
        "shared/errors.py": "",
        "simulations/a.py": "from palate.simulations import b\n",
        "simulations/b.py": "from palate.simulations.c import thing\n",
        "simulations/c.py": "import palate.simulations.a\n",
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def test_circles_of_rooms_and_of_files_are_found(made_up: Path) -> None:
    found = rooms.survey(made_up)
    assert found["client"]["rooms"]["circles"] == [["client.eye", "client.taste"]]
    assert found["client"]["files"]["circles"] == []
    assert found["simulations"]["files"]["circles"] == [["simulations.a", "simulations.b", "simulations.c"]]


def test_rooms_and_arrows_are_counted(made_up: Path) -> None:
    found = rooms.survey(made_up)
    assert found["client"]["files"]["count"] == 6
    assert found["client"]["files"]["arrows"] == 4  # the name that is no module counts for the package
    assert found["client"]["rooms"]["count"] == 4
    assert found["client"]["map"]["client.doctor"] == ["client.eye", "client"]
    assert found["server"]["rooms"] == {"count": 1, "arrows": 0, "circles": []}  # client is another folder


def test_the_map_is_printed_for_people_and_for_programs(
    made_up: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rooms.main([str(made_up)]) == 0
    printed = capsys.readouterr().out
    assert "client: rooms 4, arrows 4, circles 1\n  circle: client.eye client.taste\n" in printed
    assert rooms.main(["--json", str(made_up)]) == 0
    assert json.loads(capsys.readouterr().out) == rooms.survey(made_up)


def test_a_folder_that_is_no_tree_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rooms.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: no folder client in {tmp_path}\n"
