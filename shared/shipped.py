"""The weights that ship with Palate are the ones that were tested: hashes, checked before loading.

Where it stands in the flow: whatever loads a tower, the generator, the encoder or the subspace calls
`check_shipped` with the file or folder first. A file that the table does not name (another model, a recipe's
result) is nobody's business here. This finds a damaged disk, a half-made update and weights that somebody
exchanged; it does not stop who can change the program as well.

    python -m palate.shared.shipped      writes the table anew, after a recipe has made other weights
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from palate.shared.errors import ModelError

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("client/weights", "shared/weights")
TABLE: Final = Path(__file__).with_name("shipped.toml")


def check_shipped(path: Path) -> None:
    """Check a file, or each file of a folder, against the table.

    Every file once in a process, about 1 ms for a megabyte.

    Raises `ModelError` for a file that is another one than the table says. One that is missing is left to
    its user.
    """
    try:
        name = path.resolve().relative_to(ROOT).as_posix()
    except ValueError:
        return
    for file, digest in read_table().items():
        if file == name or file.startswith(f"{name}/"):
            try:
                status = (ROOT / file).stat()
                found = _hash(ROOT / file, status.st_size, status.st_mtime_ns)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ModelError(f"{ROOT / file} cannot be read ({error.strerror})") from None
            if found != digest:
                raise ModelError(
                    f"{ROOT / file} is not the file that this version of Palate ships with; install Palate "
                    "anew"
                )


@cache
def read_table() -> Mapping[str, str]:
    """Return the SHA-256 of each file that ships, in hexadecimal, by its path below the packages."""
    return {str(name): str(digest) for name, digest in tomllib.loads(TABLE.read_text("utf-8")).items()}


def make_table() -> dict[str, str]:
    """Return what the table should say, from the files that lie here."""
    files = [
        file
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix != ".md"
    ]
    return {
        file.relative_to(ROOT).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
    }


@lru_cache(maxsize=64)
def _hash(path: Path, *_: int) -> str:
    """Return a file's SHA-256; its size and time are there so that a changed file is hashed anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    lines = ["# SHA-256 of the weights that ship; written by: python -m palate.shared.shipped"]
    lines += [f'"{name}" = "{digest}"' for name, digest in make_table().items()]
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
