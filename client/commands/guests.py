"""Groups of commands that other parts of Palate bring along, such as `palate server`; found by entry point, never imported here.

The device's side must not import the server's. A part that has commands names them in the entry points `palate.commands`, and they
are looked up when one of them is called or help is asked: the device's own commands do not wait for it.
"""

from typing import Any

from palate.client.commands.shell import PoliteGroup

GROUP = "palate.commands"
PANEL = "Learning together"


class HospitableGroup(PoliteGroup):
    """A polite group that also has the commands of whoever else is installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of our own commands, then of the guests'."""
        own = super().list_commands(ctx)
        return [*own, *sorted(set(_guests()) - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; one of our own never gives way to a guest."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        guest = _guests().get(cmd_name)
        if guest is None:
            return None
        from typer.main import get_command

        command: Any = get_command(guest.load())
        command.name = cmd_name
        command.rich_help_panel = PANEL
        return command


def _guests() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}
