"""`palate demo` and `palate doctor`: Palate shows itself, and looks at the machine it runs on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from palate.client.commands import shell
from palate.client.commands.shell import Home, Json
from palate.shared.hardening import given


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
    from palate.client.demo.page import write_showcase
    from palate.client.demo.showcase import run_showcase

    with shell.progress_bar() as progress:
        show = run_showcase(progress=progress)
        files = write_showcase(show, out)
    if json:
        shell.print_json(show.to_json() | {"sheet": str(files.sheet), "page": str(files.page)})
        return
    from palate.client.commands import views

    shell.show(views.view_showcase(show, files))


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
    from palate.client.doctor import examine, look_at_releases

    stale = look_at_releases(shell.home_of(home), given(shell.PASSPHRASE_VARIABLE), datetime.now(UTC))
    with shell.progress_bar() as progress:
        health = examine(shell.home_of(home), measure=measure, progress=progress)
    if stale:
        shell.say(f"warning: {stale}; until then this device stays out of rounds")
    if json:
        shell.print_json(health.to_json() | {"releases": stale or None})
    else:
        from palate.client.commands import views

        shell.out().print(views.view_health(health))
    if health.troubles:
        raise typer.Exit(1)
