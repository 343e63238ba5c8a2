"""The map of the house: which room imports which, counted for any tree of this project, an older one too.

A room is a folder in client/, server/, shared/ or simulations/, or a file that lies directly in one of them.
An arrow leads from a room to another that it imports, inside functions too. A circle is a group of rooms that
all reach one another. The same is counted for single files. Arrows between the four are left out: the
contracts in `pyproject.toml` hold those.

    python tests/rooms.py                     # this tree
    git archive a123d99 | tar -x -C OLD       # an older one, into an empty folder OLD
    python tests/rooms.py OLD
"""

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any

FOLDERS = ("client", "server", "shared", "simulations")
Graph = dict[str, set[str]]  # what each room, or each file, imports
Survey = dict[str, dict[str, Any]]


def file_graph(tree: Path) -> Graph:
    """Return which file imports which in the four folders of a tree.

    `client/eye/tower.py` is `client.eye.tower`.
    """
    paths = {}
    for folder in FOLDERS:
        for path in (tree / folder).rglob("*.py"):
            parts = path.relative_to(tree).with_suffix("").parts
            paths[".".join(part for part in parts if part != "__init__")] = path
    graph: Graph = {}
    for name, path in paths.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found = {full for full in inner if full.removeprefix("palate.") in paths}
                imported |= found if found == inner else found | {node.module}
        graph[name] = ({full.removeprefix("palate.") for full in imported} & set(paths)) - {name}
    return graph


def within(graph: Graph, folder: str) -> Graph:
    """Return the part of a graph that lies in one top folder."""
    inside = {name for name in graph if name.partition(".")[0] == folder}
    return {name: graph[name] & inside for name in inside}


def room_of(file: str) -> str:
    """Return the room of a file: `client.eye.tower` lies in `client.eye`."""
    return ".".join(file.split(".")[:2])


def room_graph(files: Graph) -> Graph:
    """Return which room imports which, from which file imports which."""
    rooms: Graph = {}
    for file, imported in files.items():
        here = room_of(file)
        rooms.setdefault(here, set()).update({room_of(other) for other in imported} - {here})
    return rooms


def reach(graph: Graph) -> Graph:
    """Return what each node comes to along any number of arrows."""
    reached = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            waiting += (fresh := graph[waiting.pop()] - seen)
            seen |= fresh
        reached[start] = seen
    return reached


def circles(graph: Graph) -> list[list[str]]:
    """Return each group of two and more nodes that all reach one another."""
    reached = reach(graph)
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def count(graph: Graph) -> dict[str, Any]:
    """Return the number of nodes and arrows of a graph, and its circles."""
    return {"count": len(graph), "arrows": sum(map(len, graph.values())), "circles": circles(graph)}


def survey(tree: Path) -> Survey:
    """Return, for each of the four folders, the counts of its rooms and files and the map, from the top down.

    Raises:
        FileNotFoundError: the tree lacks one of the four folders.
        SyntaxError: a file is no Python.
    """
    for folder in FOLDERS:
        if not (tree / folder).is_dir():
            raise FileNotFoundError(f"no folder {folder} in {tree}")
    everything = file_graph(tree)
    found = {}
    for folder in FOLDERS:
        files = within(everything, folder)
        rooms = room_graph(files)
        far = {name: len(others) for name, others in reach(rooms).items()}
        top_down = sorted(rooms, key=lambda name: (-far[name], name))
        drawn = {name: sorted(rooms[name], key=top_down.index) for name in top_down}
        found[folder] = {"rooms": count(rooms), "files": count(files), "map": drawn}
    return found


def lines(found: Survey) -> list[str]:
    """Return the survey for a person to read."""
    out = []
    for folder, about in found.items():
        for kind in ("rooms", "files"):
            counts = about[kind]
            out.append(
                f"{folder}: {kind} {counts['count']}, arrows {counts['arrows']}, circles "
                f"{len(counts['circles'])}"
            )
            out += [f"  circle: {' '.join(circle)}" for circle in counts["circles"]]
        for name, others in about["map"].items():
            targets = " ".join(other.partition(".")[2] for other in others) or "-"
            out.append(f"  {name.partition('.')[2] or name:<18} -> {targets}")
    return out


def main(arguments: list[str] | None = None) -> int:
    """Print the map of a tree and return the exit code."""
    parser = argparse.ArgumentParser(description="Count and draw which room imports which.")
    parser.add_argument("tree", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--json", action="store_true", help="print the counts and the map as JSON")
    chosen = parser.parse_args(arguments)
    try:
        found = survey(chosen.tree)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2) if chosen.json else "\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
