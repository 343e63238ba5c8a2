"""`palate create` and `palate score`: pictures that fit the taste, and how well others fit it."""

from pathlib import Path
from typing import Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.errors import OptionError, PictureError

Several = list[Path] | None


def create(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    count: Annotated[int, typer.Option("-n", "--count", help="How many pictures.")] = 4,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength", help="How strongly your likes count, 0 to 2.", show_default="the measured best"
        ),
    ] = None,
    dislike_strength: Annotated[
        float | None,
        typer.Option(
            "--dislike-strength",
            help="How strongly your dislikes count, 0 to 2.",
            show_default="as --strength",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="By which way your taste goes in: tokens, embedding, guidance or prompt.",
            show_default="the measured best",
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="More take longer and may look finer.")] = 20,
    seed: Annotated[
        int, typer.Option("--seed", help="Another number makes other pictures; the same one makes the same.")
    ] = 0,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Width and height in pixels, or one number for both.",
            show_default="the model's own",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Another text-to-image model: a folder, or OWNER/NAME@COMMIT that hf download fetched.",
            show_default="the shipped one",
        ),
    ] = None,
    negative: Annotated[
        str, typer.Option("--negative", help="What the pictures should not show.", show_default=False)
    ] = "",
    pick: Annotated[
        int,
        typer.Option(
            "--pick", help="Draw so many for each picture and keep the one that you will like best."
        ),
    ] = 1,
    beside: Annotated[
        bool, typer.Option("--beside", help="Make each picture without your taste too.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("palate-pictures"),
    home: Home = None,
    json: Json = False,
) -> None:
    """Make pictures of something, in your taste.

    Writes PNG files, and a contact sheet of all of them, into the folder --out. Each PNG says in its metadata
    how it was made (model, seed, strength, version of the profile) and nothing about you.

    Examples:

        palate create "a house by the sea"

        palate create "a lighthouse" -n 2 --pick 4 --beside --strength 1.0 --out pictures
    """
    from palate.client.painter import gallery

    with shell.open_device(home) as device, shell.progress_bar() as progress:
        made = device.create(
            prompt,
            count=count,
            strength=strength,
            dislike_strength=dislike_strength,
            mode=mode,
            steps=steps,
            seed=seed,
            model=model,
            size=read_size(size),
            negative=negative,
            pick=pick,
            beside=beside,
            progress=progress,
            notice=shell.say,
        )
        files = gallery.write_pictures(out, prompt, made)
    if json:
        shell.print_json(
            [one.to_json() | {"file": str(file), "impersonal": str(other) if other else None}
             for one, (file, other) in zip(made, files.pairs, strict=True)]
        )  # fmt: skip
        return
    from palate.client.commands import views

    shell.show(views.view_made(made, files))


def read_size(text: str | None) -> tuple[int, int] | None:
    """Return width and height in pixels from "512x768", or from "512" for a square; raises `OptionError`."""
    if text is None:
        return None
    width, mark, height = text.lower().partition("x")
    height = height if mark else width
    if not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in (width, height)):
        raise OptionError(f"--size is {text!r}; give width and height in pixels, as 512x768, or one number")
    return int(width), int(height)


def score(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    liked: Annotated[
        Several,
        typer.Option(
            "--liked",
            help="Liked pictures: a file or a folder; may repeat. Needs no vault.",
            show_default=False,
        ),
    ] = None,
    disliked: Annotated[
        Several,
        typer.Option(
            "--disliked", help="Disliked pictures: a file or a folder; may repeat.", show_default=False
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Say how likely you will like pictures, how sure that is, and because of what.

    A picture that cannot be read is named and left out, and the command ends with 1.

    Examples:

        palate score new/

        palate score --liked good/ --disliked bad/ new/*.jpg --json
    """
    if bool(liked) != bool(disliked):
        raise OptionError("--liked and --disliked go together; give both, each a file or a folder")
    unreadable: list[str] = []

    def leave_out(_: str, reason: PictureError) -> None:
        unreadable.append(str(reason))

    if liked and disliked:
        from palate.client.taste.scoring import score_pictures

        with shell.progress_bar() as progress:
            scores = score_pictures(
                pictures, liked=liked, disliked=disliked, progress=progress, on_unreadable=leave_out
            )
    else:
        with shell.open_device(home) as device, shell.progress_bar() as progress:
            scores = device.score(pictures, progress=progress, notice=shell.say, on_unreadable=leave_out)
    if json:
        shell.print_json([one.to_json() for one in scores])
    else:
        from palate.client.commands import views

        shell.show(views.view_scores(scores))
    shell.name_unreadable(unreadable)
