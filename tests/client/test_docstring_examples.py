"""The examples in the docstrings of the client run, each with a vault of its own."""

import doctest
import importlib
from pathlib import Path

import pytest

import palate.client
from palate.client.demo.showcase import demo_folder

ROOT = Path(palate.client.__file__).parent
NAMES = {
    ".".join(("palate.client", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
}


def test_there_are_examples_to_run() -> None:
    assert {"palate.client.device", "palate.client.vault.vault"} <= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_examples_of_a_module_show_what_happens(
    name: str, tmp_path: Path, remembered_keys: None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"home": tmp_path / "vault", "picture": demo_folder() / "boat.jpg"}
    failed, tried = doctest.testmod(
        importlib.import_module(name), extraglobs=given, optionflags=doctest.ELLIPSIS, raise_on_error=False
    )
    assert tried > 0
    assert failed == 0, capsys.readouterr().out
