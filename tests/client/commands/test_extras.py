"""A command whose libraries are not installed says in one line what to install."""

import pytest
import typer
from typer.testing import CliRunner

from palate.client.commands.extras import explain_missing
from palate.client.commands.shell import PoliteGroup


@pytest.mark.parametrize(
    ("module", "extra"), [("diffusers.utils", "device"), ("dp_accounting", "federate"), ("scipy", "simulate")]
)
def test_the_extra_that_brings_a_library_is_named(module: str, extra: str) -> None:
    line = explain_missing(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert f"pip install 'palate[{extra}]'" in line
    assert "\n" not in line


@pytest.mark.parametrize("module", ["palate.client.gone", "json5", None])
def test_a_module_that_no_extra_brings_is_a_fault_of_ours_and_stays_one(module: str | None) -> None:
    with pytest.raises(ModuleNotFoundError):
        explain_missing(ModuleNotFoundError("gone", name=module))


def test_a_command_that_lacks_a_library_ends_with_one_line_and_status_1() -> None:
    app = typer.Typer(cls=PoliteGroup)

    @app.command()
    def draw() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    @app.command()
    def other() -> None:
        """Make the app a group."""

    done = CliRunner().invoke(app, ["draw"])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "palate[device]" in done.output
