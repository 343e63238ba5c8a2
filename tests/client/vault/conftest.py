"""A small vault for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from palate.client.vault.vault import Vault


@pytest.fixture
def home(tmp_path: Path, quick_key: None) -> Path:
    """A vault with three records."""
    with Vault.create(tmp_path / "vault", "pw") as made, made.transaction() as change:
        change.put("comment", "a", b"too gloomy")
        change.put("comment", "b", b"lovely misty light")
        change.put("picture", "p", bytes(1000))
    return tmp_path / "vault"


@pytest.fixture
def opened(home: Path) -> Iterator[Vault]:
    with Vault.open(home, "pw") as opened:
        yield opened
