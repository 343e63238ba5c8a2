"""`palate demo` and `palate doctor`: Palate shows itself, and looks at the machine it runs on."""

from pathlib import Path
from typing import Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the contact sheet and the page.")] = Path(
        "palate-demo"
    ),
    json: Json = False,
) -> None:
    """See it at work: two people, their comments, their profiles, and the same prompts drawn for each.

    Everything comes with Palate; your own vault is not touched. Takes one to three minutes.

    Example:

        palate demo --out demo
    """
    from palate.client.showcase import run_showcase
    from palate.client.showcase_page import write_showcase

    with shell.progress_bar() as progress:
        show = run_showcase(progress=progress)
        files = write_showcase(show, out)
    if json:
        shell.print_json(show.to_json() | {"sheet": str(files.sheet), "page": str(files.page)})
        return
    from palate.client.commands import views

    shell.out().print(views.view_showcase(show, files))


def doctor(
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Make two pictures to see how fast that is.")
    ] = True,
    home: Home = None,
    json: Json = False,
) -> None:
    """Say what is installed, what would run here, how fast, and how much memory it takes.

    Ends with 1 if something that is needed is missing.

    Examples:

        palate doctor

        palate doctor --no-measure --json
    """
    from palate.client.doctor import examine

    with shell.progress_bar() as progress:
        health = examine(shell.home_of(home), measure=measure, progress=progress)
    if json:
        shell.print_json(health.to_json())
    else:
        from palate.client.commands import views

        shell.out().print(views.view_health(health))
    if health.troubles:
        raise typer.Exit(1)
