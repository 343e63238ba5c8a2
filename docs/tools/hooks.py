"""Hooks of mkdocs: add the page that is made from code; refuse a site that loads anything from outside."""

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
    from mkdocs.structure.files import File

    from docs.tools.command_line import command_line_page

    files.append(File.generated(config, "reference/command-line.md", content=command_line_page()))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError where a page would load something over the network."""
    from mkdocs.exceptions import PluginError

    from docs.tools.offline import loads_from_elsewhere

    found = [f"{page} loads {address}" for page, address in loads_from_elsewhere(Path(config.site_dir))]
    if found:
        raise PluginError("; ".join(found))
