"""Run the commands of the documentation's console blocks, and write down or check what they print.

    python -m docs.tools.console [PAGE ...]

A block that starts with ```console holds lines "$ COMMAND", each followed by what the command printed. All
blocks of a page run in order, in one folder that has the demo's pictures, with a new home and a vault's
passphrase in the environment. Output that ends in a line "..." is cut there; longer output that is new is
cut after `MOST` lines. Ids of comments are new in each run: a command that names one gets the id that now
stands in its place.

`check_page` compares without digits, bars and ids, because the last digits differ between processors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tutorial.md")
PICTURES = {"pictures/001-sheet.png": "house.jpg", "pictures/002-sheet.png": "lighthouse.jpg"}
"""Contact sheets that the tutorial's commands make, and the file in docs/assets that each becomes."""
MOST = 12
HOME = "/home/mara"  # what the pages show in place of the folder that the commands ran in
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.M | re.S)
_ID = re.compile(r"\b[0-9a-f]{8}\b")


@dataclass(frozen=True)
class Ran:
    """A command as it stands on the page, what the page says it prints, and what it printed now."""

    command: str
    written: tuple[str, ...]
    printed: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Say whether the page shows something else than was printed now."""
        shown = cut(self.printed, self.written)
        return [_bare(line) for line in shown] != [_bare(line) for line in self.written]


def run_page(page: Path, folder: Path) -> list[list[Ran]]:
    """Run all console blocks of a page in an empty folder; raises ValueError for a command that fails."""
    shutil.copytree(ROOT / "client" / "demo", folder / "client" / "demo")
    ids: dict[str, str] = {}
    return [
        [_run(command, written, folder, ids) for command, written in _commands(block)]
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def check_page(page: Path, folder: Path) -> list[Ran]:
    """Return the commands of a page that print something else than the page shows."""
    return [one for block in run_page(page, folder) for one in block if one.differs]


def write_page(page: Path, folder: Path) -> None:
    """Run a page's commands and put what they print in the place of what stands there."""
    blocks = iter(run_page(page, folder))

    def lines(one: Ran) -> Iterator[str]:
        yield f"$ {one.command}"
        yield from cut(one.printed, one.written)

    text = page.read_text(encoding="utf-8")
    page.write_text(
        _BLOCK.sub(lambda _: "".join(f"{line}\n" for one in next(blocks) for line in lines(one)), text),
        encoding="utf-8",
    )


def cut(printed: tuple[str, ...], written: tuple[str, ...]) -> tuple[str, ...]:
    """Shorten what was printed as the page does: at its "...", or after `MOST` lines if it is new."""
    if written and written[-1] == "...":
        kept = len(written) - 1
    elif written or len(printed) <= MOST:
        return printed
    else:
        kept = MOST
    return (*printed[:kept], "...") if len(printed) > kept else printed


def _commands(block: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, *written = part.rstrip("\n").split("\n")
        yield command, tuple(written)


def _run(command: str, written: tuple[str, ...], folder: Path, ids: dict[str, str]) -> Ran:
    command = _ID.sub(lambda found: ids.get(found[0], found[0]), command)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"`{command}` ended with {done.returncode}: {done.stdout}")
    told = done.stdout.replace(str(folder), HOME)
    printed = tuple(line.rstrip() for line in told.rstrip("\n").split("\n")) if told.strip() else ()
    for old, new in zip(_ID.findall("\n".join(written)), _ID.findall(told), strict=False):
        ids.setdefault(old, new)
    return Ran(command, written, printed)


def _environment(folder: Path) -> Mapping[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PALATE_", "XDG_", "LC_"))
    }
    return kept | {
        "HOME": str(folder),
        "PALATE_HOME": str(folder / ".local" / "share" / "palate"),
        "PALATE_PASSPHRASE": "correct horse battery",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
    }


def _bare(line: str) -> str:
    """Return a line without what differs between runs and processors: ids, digits, bars, widths."""
    return " ".join(re.sub(r"[0-9█▉▊▋▌▍▎▏·━●.%]+", "#", _ID.sub("ID", line)).split())


def _keep_pictures(folder: Path) -> None:
    from PIL import Image

    for made, kept in PICTURES.items():
        if (folder / made).exists():
            with Image.open(folder / made) as sheet:
                sheet.convert("RGB").save(ROOT / "docs" / "assets" / kept, quality=88)


def main() -> None:
    """Write down anew what the commands print on the pages named, or on all of `PAGES`."""
    for name in sys.argv[1:] or PAGES:
        with tempfile.TemporaryDirectory() as folder:
            write_page(ROOT / name, Path(folder))
            if name.startswith("docs/"):
                _keep_pictures(Path(folder))


if __name__ == "__main__":
    main()
