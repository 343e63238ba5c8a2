"""What the tests of the connection share: a server of a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.client.federation.fake_superlink import FakeSuperLink


@pytest.fixture
def link() -> Iterator[FakeSuperLink]:
    """A server that listens, and can misbehave."""
    from tests.client.federation.fake_superlink import FakeSuperLink

    made = FakeSuperLink()
    try:
        yield made
    finally:
        made.stop()
