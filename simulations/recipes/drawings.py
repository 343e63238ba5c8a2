"""Collect the artists' drawings that the world uses into one file.

    npm pack @iconify-json/fluent-emoji-flat @iconify-json/noto emojibase-data  # and unpack each
    python -m palate.simulations.recipes.drawings --fluent DIR --noto DIR --emojibase DIR

Reads the SVG bodies of the subjects in `simulations/world/artists.toml` from the two packages, by the labels
of emojibase-data, and writes `simulations/world/drawings.json.gz`: the same input gives the same bytes.
Fluent Emoji and emojibase-data are under the MIT licence, Noto Emoji under Apache-2.0; NOTICE names them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from palate.simulations.world.artists import load_artists
from palate.simulations.world.drawings import DRAWINGS

SIZES = {"fluent": 32, "noto": 128}  # of the square that a set's drawings fill, in SVG units


def icons_by_code(package: Path) -> dict[str, str]:
    """Return code points, in lower case, to the icon's name, of an unpacked iconify package."""
    return {
        code.lower(): name
        for code, name in json.loads((package / "chars.json").read_text(encoding="utf-8")).items()
    }


def find_icon(codes: dict[str, str], hexcode: str) -> str | None:
    """Return the icon of an emoji, whether or not the set spells out the variation selector."""
    code = hexcode.lower()
    return next(
        (codes[one] for one in (code, code.replace("-fe0f", ""), f"{code}-fe0f") if one in codes), None
    )


def body_of(icons: dict[str, Any], name: str) -> str:
    """Return the SVG body of an icon; an alias leads to its parent's."""
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    body: str = icons["icons"][name]["body"]
    return body


def collect(packages: dict[str, Path], emojibase: Path) -> dict[str, dict[str, str]]:
    """Return set -> label -> SVG body for every drawing that a subject names.

    Raises:
        KeyError: a label that a set or emojibase-data does not have.
    """
    data = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    codes = {one["label"].lower(): one["hexcode"] for one in data}
    labels = sorted({label for artist in load_artists().values() for label in artist.drawn})
    found: dict[str, dict[str, str]] = {}
    for kind, package in packages.items():
        by_code = icons_by_code(package)
        icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
        found[kind] = {}
        for label in labels:
            name = find_icon(by_code, codes[label])
            if name is None:
                raise KeyError(f"{kind} has no drawing of {label!r}")
            found[kind][label] = body_of(icons, name)
    return found


def main() -> None:
    """Run the command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fluent", "noto", "emojibase"):
        p.add_argument(f"--{name}", type=Path, required=True, help="the unpacked package")
    p.add_argument("--out", type=Path, default=DRAWINGS)
    a = p.parse_args()
    found = collect({"fluent": a.fluent, "noto": a.noto}, a.emojibase)
    text = json.dumps({"sizes": SIZES, "bodies": found}, ensure_ascii=False, separators=(",", ":"))
    a.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{sum(map(len, found.values()))} drawings, {a.out.stat().st_size:,} bytes: {a.out}")


if __name__ == "__main__":
    main()
