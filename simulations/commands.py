"""`palate simulate NAME_OR_FILE`: a federation of virtual people on this machine, and what it was worth.

The command line finds this group by the entry point `palate.commands`. Progress goes to stderr, the table or
one JSON object to stdout.
"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palate.simulations.experiments.comparison import Results

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def simulate(
    experiment: Annotated[
        str,
        typer.Argument(
            help="An experiment that ships with Palate (quickstart, evidence, ...) or a TOML file."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and plots.png.")] = Path(
        "simulation-out"
    ),
    cache: Annotated[
        Path | None, typer.Option(help="Where features of drawn pictures are kept.", show_default="OUT/cache")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="process|ray",
            help="What runs the federation: this process, or Flower's own engine (needs ray; slower on "
            "one machine).",
        ),
    ] = "process",
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
    ] = False,
) -> None:
    """Let virtual people improve the shared encoder together, and measure what strangers gain from it.

    Examples: `palate simulate quickstart`, `palate simulate my-experiment.toml --engine ray --out results`
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from palate.simulations.experiments.comparison import read_comparison, run_comparison, write_results

    asked = read_comparison(experiment)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)

        def progress(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        results = run_comparison(asked, out / "cache" if cache is None else cache, progress, engine)
    paths = write_results(results, out)
    if json:
        typer.echo(jsonlib.dumps(results.to_json()))
        return
    show(results)
    typer.echo(f"wrote {' and '.join(map(str, paths))}")


def show(results: Results) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    found = results.to_json()
    table = Table(
        title=results.experiment.title, caption="pairwise accuracy on people that nobody trained on (95 %)"
    )
    for title in ("method", "8 + 8 verdicts", "with comments", "kB per device and round"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for name, row in found["methods"].items():
        table.add_row(
            name,
            f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            f"{row['accuracy_with_comments']:.3f}",
            f"{row['bytes_per_device_round'] / 1000:.0f}",
        )
    console = Console()
    console.print(table)
    if found["gap_closed"] is not None:
        low, high = found["gap_closed_interval"]
        line = f"Learning together closes {found['gap_closed']:.0%} ({low:.0%} to {high:.0%}) of the gap "
        line += "between local only and central"
        if found["gap_closed_with_comments"] is not None:
            line += f"; with comments {found['gap_closed_with_comments']:.0%}"
        console.print(f"{line}.")
