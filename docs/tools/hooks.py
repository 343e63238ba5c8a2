"""Add to the site, while mkdocs builds it, the page that is made from code: reference/command-line.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

sys.path.insert(0, str(Path(__file__).parents[2]))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Append the generated page to the files of the site."""
    from docs.tools.command_line import command_line_page
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/command-line.md", content=command_line_page()))
    return files
