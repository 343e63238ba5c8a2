"""`palate config`: what a person does not want to type again, kept in one small TOML file.

    home = "~/taste"                       # folder of the vault
    model = "~/models/dreamshaper"         # for palate create
    steps = 30
    size = "512x768"
    server = "palate.example.org"          # for palate join and palate pseudonyms

An option beats the environment, the environment beats this file, and the file beats the default. The file
lies in the platform's folder for such files (`~/.config/palate/config.toml` on Linux); `palate --config FILE`
or PALATE_CONFIG names another. It holds nothing personal and is not sealed.
"""

import json as jsonlib
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Json, PoliteGroup
from palate.shared import durable
from palate.shared.errors import FileFormatError, OptionError

VARIABLE = "PALATE_CONFIG"
KEYS = {
    "home": "folder of the vault",
    "model": "model that makes the pictures: a folder, or OWNER/NAME@COMMIT",
    "steps": "steps in which a picture is made",
    "size": "width and height of a picture in pixels, as 512x768",
    "server": "HOST or HOST:PORT of the server to learn together with",
}
_MOST_BYTES = 100_000

config_app = typer.Typer(
    cls=PoliteGroup, invoke_without_command=True, no_args_is_help=False, rich_markup_mode="markdown"
)
Key = Annotated[str, typer.Argument(metavar="KEY", help=f"One of {', '.join(KEYS)}.")]


@config_app.callback()
def show(context: typer.Context, json: Json = False) -> None:
    """Show or change what holds when an option is not given: home, model, steps, size, server.

    An option beats the environment, and the environment beats this file.

    Examples:

        palate config

        palate config set steps 30

        palate config unset steps
    """
    context.obj = context.obj or default_place()
    if context.invoked_subcommand is not None:
        return
    _show(context.obj, json)


@config_app.command("set")
def set_(context: typer.Context, key: Key, value: str, json: Json = False) -> None:
    """Keep a value for commands that are called without the option.

    Examples:

        palate config set home ~/taste

        palate config set size 512x768
    """
    _change(context.obj, key, _check(key, _as_value(key, value)))
    _show(context.obj, json)


@config_app.command("unset")
def unset(context: typer.Context, key: Key, json: Json = False) -> None:
    """Forget a value; the default holds again.

    Example:

        palate config unset model
    """
    _change(context.obj, key, None)
    _show(context.obj, json)


def default_place() -> Path:
    """Return where the config file lies if nothing else is said."""
    import platformdirs

    return platformdirs.user_config_path("palate", appauthor=False) / "config.toml"


def read_config(place: Path, *, missing_ok: bool) -> dict[str, Any]:
    """Return the values of a config file; raises `FileFormatError`, also for an unknown key."""
    import tomllib

    try:
        text = durable.read_file(place.resolve(), _MOST_BYTES).decode("utf-8")
        found = tomllib.loads(text)
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise FileFormatError(f"the config file {place} does not exist; check the path") from None
    except OSError as error:
        raise FileFormatError(f"the config file {place} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise FileFormatError(f"the config file {place} is not TOML ({error})") from None
    for key, value in found.items():
        _check(key, value, f"{place}: ")
    return found


def defaults_for(command: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as click's `default_map` for a group: by command, then by parameter."""
    return {
        name: {
            **{one.name: values[one.name] for one in below.params if one.name in values},
            **(defaults_for(below, values) if hasattr(below, "commands") else {}),
        }
        for name, below in command.commands.items()
    }


def _check(key: str, value: Any, where: str = "") -> Any:
    """Return the value of a key, or raise `FileFormatError`."""
    if key not in KEYS:
        raise FileFormatError(f"{where}unknown key {key!r}; known are {', '.join(KEYS)}")
    number = type(value) is int and value > 0
    if key == "steps" and not number:
        raise FileFormatError(f"{where}steps is {value!r}; it must be a whole number from 1")
    if key != "steps" and not (isinstance(value, str) and value and value.isprintable()):
        raise FileFormatError(f"{where}{key} is {value!r}; it must be text in quotes")
    if key == "home" and not Path(value).expanduser().is_absolute():
        raise FileFormatError(f"{where}home is {value!r}; it must be a whole path, from / or ~")
    return value


def _as_value(key: str, text: str) -> Any:
    """Return what was typed as the value that the file holds."""
    if key == "steps":
        return int(text) if text.isascii() and text.isdecimal() else text
    if key in ("home", "model") and not text.startswith("~") and (key == "home" or Path(text).is_dir()):
        return os.path.abspath(text)
    return text


def _change(place: Path, key: str, value: Any) -> None:
    """Set one line of the file, None removes it; the other lines and their comments stay as they are."""
    before = read_config(place, missing_ok=True)
    if key not in KEYS:
        raise OptionError(f"unknown key {key!r}; known are {', '.join(KEYS)}")
    after = {name: one for name, one in before.items() if name != key}
    lines = place.read_text(encoding="utf-8").splitlines() if place.exists() else []
    lines = [line for line in lines if not re.match(rf"""\s*["']?{key}["']?\s*=""", line)]
    if value is not None:
        after[key] = value
        # A JSON string of printable text is a TOML string too.
        lines.append(f"{key} = {jsonlib.dumps(value, ensure_ascii=False)}")
    import tomllib

    text = "".join(f"{line}\n" for line in lines)
    try:
        understood = tomllib.loads(text) == after
    except ValueError:
        understood = False
    if not understood:
        raise FileFormatError(
            f"the config file {place} is written in a way that cannot be changed here; edit it"
        )
    durable.write_atomically(place.resolve(), text.encode(), consequence="the config file was not changed")


def _show(place: Path, json: bool) -> None:
    values = read_config(place, missing_ok=True)
    if json:
        shell.print_json({"file": str(place), "values": values})
        return
    shell.tell(str(place))
    for key, what in KEYS.items():
        shell.tell(f"  {key:<7} {values.get(key, '(not set)')}" + ("" if key in values else f"  {what}"))
