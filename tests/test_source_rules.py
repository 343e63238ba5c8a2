"""House rules that the source can be asked about: pickle, global seeds, Flower at the rim, foreign paths."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PERSONAL = ("client", "server", "shared")
FOLDERS = (*PERSONAL, "simulations")
LONGEST_FILE = 500  # lines

PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PICKLE_CALLS = {"torch.load", "torch.save", "numpy.lib.format.read_array"}
GLOBAL_SEEDS = {
    "random.seed",
    "random.setstate",
    "numpy.random.seed",
    "numpy.random.set_state",
    "torch.manual_seed",
    "torch.seed",
    "torch.random.manual_seed",
    "torch.set_rng_state",
    "torch.random.set_rng_state",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "transformers.set_seed",
    "accelerate.utils.set_seed",
}
# Who may import what stands at the rim.
HOMES = {
    "flwr": {
        *("client/federation/app.py", "client/federation/fleet.py"),
        *(
            "server/app.py",
            "server/front/books.py",
            "server/front/fleet_calls.py",
            "server/strategy.py",
            "server/front/superlink.py",
        ),
        "simulations/engine/in_process.py",
        "simulations/attacks/many_liars.py",  # compares Flower's own rules against liars
        "simulations/engine/on_ray.py",
    },
    "uvicorn": {"server/processes/serve.py"},
    "httpx": {"client/federation/fleet.py", "server/front/control.py"},
}

# Written in pieces, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    r"(?<![\w.\-~])/(?:wor" + r"k|ro" + r"ot|far" + r"m|tm" + r"p)/\w"
    r"|/opt/(?:whee" + r"ls|py" + r"pi)"
    r"|py" + r"pi\.org|python" + r"hosted|npm" + r"js\.org|deb\." + r"debian"
)


def sources(*folders: str) -> list[Path]:
    """Every Python file of these top folders."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def full_names(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Each imported or used dotted name with its import aliases undone: `np.load` is `numpy.load`."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}", node
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in known:
                yield ".".join([known[inner.id], *reversed(parts)]), node


def pickle_uses(source: str) -> list[str]:
    """What in this source reads or writes pickle."""
    tree = ast.parse(source)
    found = [
        name for name, _ in full_names(tree) if name.partition(".")[0] in PICKLERS or name in PICKLE_CALLS
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if (node.arg, value is False) in {("allow_pickle", False), ("weights_only", True)}:
                found.append(f"{node.arg}={ast.unparse(node.value)}")
    return found


def global_seeds(source: str) -> list[str]:
    """Which process-wide generators this source seeds."""
    return [name for name, _ in full_names(ast.parse(source)) if name in GLOBAL_SEEDS]


def report(paths: list[Path], uses: dict[Path, list[str]]) -> str:
    return "\n".join(f"{path.relative_to(ROOT)}: {uses[path]}" for path in paths if uses[path])


def test_nothing_reads_or_writes_pickle() -> None:
    paths = sources(*FOLDERS, "benchmarks")
    uses = {path: pickle_uses(path.read_text(encoding="utf-8")) for path in paths}
    assert not any(uses.values()), report(paths, uses)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load as read",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch as t\nt.load('x', weights_only=False)",
        "import joblib",
    ],
)
def test_the_search_for_pickle_finds_it(line: str) -> None:
    assert pickle_uses(line)


def test_the_search_for_pickle_leaves_safe_reading_alone() -> None:
    assert not pickle_uses(
        "import numpy as np\nnp.load('x', allow_pickle=False)\nfrom safetensors.numpy import load"
    )


def test_no_personal_or_shared_code_seeds_a_global_generator() -> None:
    paths = sources(*PERSONAL)
    uses = {path: global_seeds(path.read_text(encoding="utf-8")) for path in paths}
    assert not any(uses.values()), report(paths, uses)


@pytest.mark.parametrize(
    "line",
    [
        "import random\nrandom.seed(0)",
        "import numpy as np\nnp.random.seed(0)",
        "import torch\ntorch.manual_seed(0)",
        "from torch import manual_seed\nmanual_seed(0)",
    ],
)
def test_the_search_for_global_seeds_finds_them(line: str) -> None:
    assert global_seeds(line)


def test_a_generator_of_ones_own_is_no_global_seed() -> None:
    assert not global_seeds("import random, torch\nrandom.Random(0)\ntorch.Generator().manual_seed(0)")


def users_of(library: str) -> set[str]:
    """Which files import a library, inside functions too."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in sources(*FOLDERS)
        if any(
            name.partition(".")[0] == library
            for name, _ in full_names(ast.parse(path.read_text(encoding="utf-8")))
        )
    }


@pytest.mark.parametrize("library", HOMES)
def test_flower_and_the_web_are_imported_only_at_the_rim(library: str) -> None:
    assert users_of(library) == HOMES[library]


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*FOLDERS)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_no_file_is_too_long_to_read() -> None:
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(*FOLDERS, "benchmarks", "tests")
    }
    assert not {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > LONGEST_FILE}


def project_files() -> list[Path]:
    """Files that are in the repository or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_place_on_one_machine_or_a_registry() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or weights
        found += [f"{path.relative_to(ROOT)}: {match.group(0)}" for match in FOREIGN.finditer(text)]
    assert not found


@pytest.mark.parametrize("place", ["/wor" + "k/main", "see /tm" + "p/out", "https://py" + "pi.org/simple"])
def test_the_search_for_foreign_places_finds_them(place: str) -> None:
    assert FOREIGN.search(place)
