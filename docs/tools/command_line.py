"""Write the reference page of the command line from the typer apps themselves, so that the page cannot drift.

Called by `hooks` while the site is built. Only the apps are imported, and these load nothing heavy.
"""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
START = """# Command line

Made from the program itself when this page was built. `palate COMMAND --help` prints the same.
Every command ends with 0, with 1 if it could not be done, with 2 if it was used wrongly,
or with 130 after Ctrl-C.
"""


def command_line_page() -> str:
    """Return the page in Markdown: every command and group of `palate`, those of guests too."""
    return START + "".join(_section(command, ("palate", name), 2) for name, command in _commands())


def _commands() -> Iterator[tuple[str, Any]]:
    """Yield name and click command of the top level; guests come last, from pyproject's entry points."""
    from typer.main import get_command

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    own: Any = get_command(_load(project["scripts"]["palate"].partition(":")[0] + ":app"))
    yield from own.commands.items()
    for name, target in sorted(project["entry-points"]["palate.commands"].items()):
        yield name, get_command(_load(target))


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _section(command: Any, path: tuple[str, ...], level: int) -> str:
    """Return heading, help, usage and parameters of a command, then the same of the commands inside it."""
    if command.hidden:
        return ""
    inside: dict[str, Any] = getattr(command, "commands", {})
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [
        one for one in command.params if one.param_type_name == "option" and not getattr(one, "hidden", False)
    ]
    usage = " ".join(
        [
            *path,
            *(["[OPTIONS]"] if options else []),
            *(_named(one) for one in arguments),
            *(["COMMAND"] if inside else []),
        ]
    )
    parts = [f"\n{'#' * level} {' '.join(path)}\n", f"```text\n{usage}\n```\n", f"{command.help or ''}\n"]
    if arguments or options:
        rows = [(_named(one), one) for one in arguments] + [(_flags(one), one) for one in options]
        lines = [f"| `{name}` | {_explain(one)} |\n" for name, one in rows]
        parts.append("| given | meaning |\n|---|---|\n" + "".join(lines))
    parts += [_section(one, (*path, name), level + 1) for name, one in inside.items()]
    return "\n".join(parts)


def _named(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _flags(option: Any) -> str:
    flags = ", ".join(option.opts)
    if option.secondary_opts:
        return f"{flags} / {', '.join(option.secondary_opts)}"
    return flags if option.is_flag else f"{flags} {_metavar(option)}"


def _metavar(option: Any) -> str:
    choices = getattr(option.type, "choices", None)
    return str(
        option.metavar or ("/".join(map(str, choices)) if choices else option.type.name.upper().split()[0])
    )


def _explain(parameter: Any) -> str:
    """Return help text, default and environment variable as one cell of a table."""
    said = [(getattr(parameter, "help", None) or "").replace("|", "\\|")]
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        said.append(f"Default: {shown}.")
    elif parameter.default not in (None, False, ()) and not callable(parameter.default):
        default = parameter.default
        said.append(f"Default: `{default.value if hasattr(default, 'value') else default}`.")
    if parameter.envvar:
        said.append(f"Environment: `{parameter.envvar}`.")
    return " ".join(said)
