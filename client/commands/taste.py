"""`palate teach`, `profile`, `comments`, `forget`: what the person says, and what was understood."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json, PoliteGroup
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from palate.client.device import Device
    from palate.client.records import Taught

NAMED, NAMED_CHARACTERS = 5, 40
"""How many comments an ambiguous id names, and how much of each."""


class CommentsGroup(PoliteGroup):
    """`palate comments` lists; another first word than a command's name is an id to list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before what names no command."""
        if not args or args[0] not in (*self.commands, "-h", "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


comments_app = typer.Typer(cls=CommentsGroup, no_args_is_help=False, rich_markup_mode="markdown")
profile_app = typer.Typer(
    cls=PoliteGroup, invoke_without_command=True, no_args_is_help=False, rich_markup_mode="markdown"
)

_SIGNED = {"ignore_unknown_options": True}  # so that -0.5 is a number and not an option


def teach(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PICTURE...",
            help="A picture (PNG, JPEG, WebP, GIF, BMP, TIFF), several, or a folder of them.",
            show_default=False,
        ),
    ] = None,
    comment: Annotated[
        str | None, typer.Option("--comment", "-c", help="What you say about it, in your own words.")
    ] = None,
    liked: Annotated[
        bool | None,
        typer.Option("--like/--dislike", help="Whether you like the whole picture.", show_default=False),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from", help='A JSON list of {"image", "comment", "liked" (optional)}.', show_default=False
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Learn from what you say about a picture, from whether you like it, or from both.

    Your words fill the profile. Whether you like a picture teaches the scores, with or without words. A
    picture that cannot be read is named and left out, and the command ends with 1.

    Examples:

        palate teach sunset.jpg --comment "love the warm light, far too busy though" --like

        palate teach favourites/ --like

        palate teach --from comments.json
    """
    _check_lesson(pictures, comment, liked, from_file)
    unreadable: list[str] = []
    with shell.open_device(home) as device:
        before = {one.comment.id for one in device.comments()}
        with shell.progress_bar() as progress:
            if from_file is not None:
                taught = device.teach_file(from_file, progress)
            elif pictures and (len(pictures) > 1 or pictures[0].is_dir()):
                taught = device.teach_all(
                    pictures,
                    bool(liked),
                    comment=comment,
                    progress=progress,
                    on_unreadable=lambda _, reason: unreadable.append(str(reason)),
                )
            else:
                taught = [device.teach((pictures or [Path()])[0], comment, liked)]
        if len(taught) == 1 and taught[0].comment.id not in before and not json:
            taught = [_ask_back(device, taught[0])]
        missing = device.still_needed()
    if json:
        shell.print_json([one.to_json() | {"new": one.comment.id not in before} for one in taught])
    else:
        from palate.client.commands import views

        shell.out().print(views.view_lessons(taught, before, missing))
    shell.name_unreadable(unreadable)


def _ask_back(device: "Device", taught: "Taught") -> "Taught":
    """Ask about the mention that the reader is least sure of, if somebody can answer; keep the answer."""
    doubtful = [one for one in taught.mentions if one.unsure]
    if not doubtful or not shell.is_terminal():
        return taught
    from palate.client.commands import views

    one = min(doubtful, key=lambda mention: mention.strength)
    shell.err().print(views.view_taught(taught))
    answer = shell.choose(
        f"“{one.phrase}”: do you like it [l], dislike it [d], or neither [n]? Enter keeps it", "ldn"
    )
    if answer is None:
        return taught
    return device.fix(taught.comment.id, one.phrase, {"l": 1, "d": -1, "n": 0}[answer])


def _check_lesson(
    pictures: list[Path] | None, comment: str | None, liked: bool | None, from_file: Path | None
) -> None:
    """Raise `OptionError` for options that do not go together."""
    if bool(pictures) == (from_file is not None):
        raise OptionError(
            "give a PICTURE with --comment, --like or --dislike, or --from FILE; see `palate teach --help`"
        )
    if from_file is not None and (comment is not None or liked is not None):
        raise OptionError(
            "--from reads comments and verdicts from its file; leave out --comment, --like and --dislike"
        )
    if comment is None and liked is None and from_file is None:
        raise OptionError(
            "--comment is missing; say in your own words what you like or dislike about the picture, or give "
            "--like or --dislike"
        )
    if liked is None and pictures and (len(pictures) > 1 or pictures[0].is_dir()):
        raise OptionError("a folder or several pictures are taught by --like or --dislike; give one of them")


@profile_app.callback()
def profile(context: typer.Context, home: Home = None, json: Json = False) -> None:
    """Show what you like and dislike, how strongly, and which comment said so.

    Examples:

        palate profile

        palate profile --json

        palate profile set "bold outlines" 0.8
    """
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    with shell.open_device(home) as device:
        found, comments = device.profile(), device.comments()
        missing = device.still_needed()
    if json:
        shell.print_json(found.to_json())
        return
    from palate.client.commands import views

    shell.out().print(views.view_profile(found, comments, missing))


@profile_app.command("set", context_settings=_SIGNED)
def set_(
    context: typer.Context,
    attribute: Annotated[str, typer.Argument(help="Any words; known ones get their usual name.")],
    strength: Annotated[float, typer.Argument(help="-1 (dislike) to 1 (like); 0 for neither.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Give an attribute a strength by hand, whatever the comments say.

    Examples:

        palate profile set "golden hour" 0.9

        palate profile set busy -0.5
    """
    with shell.open_device(_home(context, home)) as device:
        device.set(attribute, strength)
        _show_after(device.profile().to_json(), f"{attribute} is set to {strength:g}", json)


@profile_app.command("lock")
def lock(
    context: typer.Context,
    attribute: Annotated[str, typer.Argument(help="An attribute of the profile.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Keep an attribute at the strength it has now, whatever later comments say.

    Example:

        palate profile lock misty
    """
    with shell.open_device(_home(context, home)) as device:
        device.lock(attribute)
        _show_after(device.profile().to_json(), f"{attribute} is locked", json)


@profile_app.command("unlock")
def unlock(
    context: typer.Context,
    attribute: Annotated[str, typer.Argument(help="A locked attribute.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Open a locked attribute to edits again.

    Example:

        palate profile unlock misty
    """
    with shell.open_device(_home(context, home)) as device:
        device.unlock(attribute)
        _show_after(device.profile().to_json(), f"{attribute} is unlocked", json)


@profile_app.command("veto")
def veto(
    context: typer.Context,
    attribute: Annotated[str, typer.Argument(help="Any words; known ones get their usual name.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Keep an attribute out of the profile, whatever the comments say.

    Example:

        palate profile veto neon
    """
    with shell.open_device(_home(context, home)) as device:
        device.veto(attribute)
        _show_after(device.profile().to_json(), f"{attribute} stays out of the profile", json)


@profile_app.command("unset")
def unset(
    context: typer.Context,
    attribute: Annotated[str, typer.Argument(help="An attribute that was set, locked or vetoed.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Take back what was set, locked or vetoed by hand; the comments speak again.

    Example:

        palate profile unset neon
    """
    with shell.open_device(_home(context, home)) as device:
        device.unset(attribute)
        _show_after(device.profile().to_json(), f"{attribute} is as the comments say", json)


@comments_app.callback()
def comments() -> None:
    """List your comments with their ids and what was understood, or put right what was misread.

    Examples:

        palate comments

        palate comments 3f9

        palate comments fix 3f9 "dark" --dislike
    """


@comments_app.command("fix")
def fix(
    comment: Annotated[
        str, typer.Argument(metavar="ID", help="The id that `palate comments` shows, or its first signs.")
    ],
    words: Annotated[str, typer.Argument(help="The words that were misread, or missed.")],
    like: Annotated[bool, typer.Option("--like", help="You like what they name.")] = False,
    dislike: Annotated[bool, typer.Option("--dislike", help="You dislike it.")] = False,
    none: Annotated[bool, typer.Option("--none", help="Neither.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Put right what was understood from some words of a comment.

    What you say is kept with the comment, holds for every later version of the reader, and teaches it how
    sure to be of your words.

    Examples:

        palate comments fix 3f9 "dark" --dislike

        palate comments fix 3f9 "golden" --none
    """
    if like + dislike + none != 1:
        raise OptionError("say what is right with one of --like, --dislike and --none")
    with shell.open_device(home) as device:
        fixed = device.fix(_find(device, comment).comment.id, words, like - dislike)
    if json:
        shell.print_json(fixed.to_json())
        return
    from palate.client.commands import views

    shell.out().print(views.view_taught(fixed))


@comments_app.command("list")
def list_(
    comment: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="One comment, by the first signs of its id.", show_default=False),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """List your comments with their ids and what was understood.

    Examples:

        palate comments

        palate comments 3f9

        palate comments --json
    """
    with shell.open_device(home) as device:
        found = device.comments() if comment is None else (_find(device, comment),)
    if json:
        shell.print_json([one.to_json() for one in found])
        return
    from palate.client.commands import views

    console = shell.out()
    for one in found:
        console.print(views.view_taught(one))
    if not found:
        shell.say("no comments yet; teach one with: palate teach PICTURE --comment TEXT")


def forget(
    comment: Annotated[
        str, typer.Argument(metavar="ID", help="The id that `palate comments` shows, or its first signs.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Forget a comment and all that was learned from it. Asks first.

    Examples:

        palate forget 3f9c01ab

        palate forget 3f9 --yes
    """
    with shell.open_device(home) as device:
        found = _find(device, comment)
        shell.confirm(f"Forget {_name(found)} and all that was learned from it?", yes)
        device.forget(found.comment.id)
    if json:
        shell.print_json({"forgotten": found.comment.id})
    else:
        shell.tell(f"comment {found.comment.id} is forgotten, and all that was learned from it")


def _find(device: "Device", prefix: str) -> "Taught":
    """Return the one comment whose id begins so; raises `OptionError` for none and for several."""
    found = [one for one in device.comments() if prefix and one.comment.id.startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise OptionError(f"there is no comment {prefix!r}; `palate comments` lists them with their ids")
    named = "; ".join(_name(one) for one in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    raise OptionError(f"{len(found)} comments begin with {prefix!r}; give more of the id: {named}{more}")


def _name(taught: "Taught") -> str:
    """Return the id and the first words of a comment."""
    words = " ".join(taught.comment.text.split())
    short = words if len(words) <= NAMED_CHARACTERS else words[: NAMED_CHARACTERS - 1] + "…"
    return f"{taught.comment.id} (“{short}”)" if words else f"{taught.comment.id} (no words)"


def _home(context: typer.Context, home: Path | None) -> Path | None:
    """Return the folder of the vault: what stands behind the last word, else what stands before it."""
    named = context.get_parameter_source("home")
    return home if named is not None and named.name == "COMMANDLINE" else context.obj


def _show_after(profile_json: dict[str, Any], message: str, json: bool) -> None:
    if json:
        shell.print_json(profile_json)
    else:
        shell.tell(message)
