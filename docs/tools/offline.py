"""Find what a built page would load from elsewhere: scripts, styles, fonts, pictures. It must be nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_LOADED = re.compile(
    r"""<(?:script|img|link|iframe|source|audio|video|object|embed)\b[^>]*?
    \b(?:src|href|data|srcset)\s*=\s*["']?\s*((?:https?:)?//[^\s"'>]+)""",
    re.X | re.I,
)
_STYLE = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?\s*((?:https?:)?//[^\s"')]+)""", re.I)


def loads_from_elsewhere(site: Path) -> Iterator[tuple[str, str]]:
    """Yield each page or style of a built site with an address that opening it would load."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css"):
            text = path.read_text(encoding="utf-8")
            for found in (*_LOADED.findall(text), *_STYLE.findall(text)):
                yield path.relative_to(site).as_posix(), found
