"""The command tree: our own commands, those of other parts of Palate, and what holds for every path in it.

Other parts bring groups of their own, such as `palate server`. The device's side must not import the
server's, so a part that has commands names them in the entry points `palate.commands`. They are looked up
when one of them is called or help is asked for: the device's own commands do not wait for it.

Every option and argument that takes a path expands `~`, whether the path comes from the command line, the
environment or the config file: a shell leaves `--home=~/taste` and a quoted `'~/taste'` as they are.
"""

import os
from typing import Any

from typer.models import TyperPath

from palate.client.commands.shell import PoliteGroup

GROUP = "palate.commands"
PANEL = "Learning together"


class HospitableGroup(PoliteGroup):
    """A polite group that also has the commands of the other parts that are installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of our own commands, then of the guests'."""
        own = super().list_commands(ctx)
        return [*own, *sorted(set(_guests()) - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; a guest never takes the place of one of our own."""
        command = super().get_command(ctx, cmd_name)
        if command is None and (guest := _guests().get(cmd_name)) is not None:
            from typer.main import get_command

            command = get_command(guest.load())
            command.name = cmd_name
            command.rich_help_panel = PANEL  # type: ignore[attr-defined]
        if command is not None:
            expand_paths(command)
        return command


class ExpandedPath(TyperPath):
    """A path in which `~` and `~name` stand for a home folder."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the path with `~` expanded; fail where there is no such user."""
        expanded = os.path.expanduser(value)
        if os.fspath(expanded).startswith("~"):
            self.fail(f"{value} names a home folder that is not known; write the path out", param, ctx)
        return super().convert(expanded, param, ctx)


def expand_paths(command: Any) -> None:
    """Let each parameter of a command, and of the commands below it, that takes a path expand `~`."""
    for parameter in command.params:
        kind = parameter.type
        if isinstance(kind, TyperPath) and not isinstance(kind, ExpandedPath):
            parameter.type = ExpandedPath(
                exists=kind.exists,
                file_okay=kind.file_okay,
                dir_okay=kind.dir_okay,
                writable=kind.writable,
                readable=kind.readable,
                resolve_path=kind.resolve_path,
                allow_dash=kind.allow_dash,
                path_type=kind.type,
                executable=kind.executable,
            )
    for below in getattr(command, "commands", {}).values():
        expand_paths(below)


def _guests() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}
