"""Records that are JSON: how every room writes them and reads them back.

Where it stands in the flow: a room keeps its small facts (terms, budgets, notes) in the vault as one JSON
object with a version. What it reads back was sealed, but may come from another version of Palate. So a record
that cannot be read is one clear line, never a traceback.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from palate.shared.errors import OptionError, VaultDamagedError


def encode_json(version: int, content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record; raises ValueError for a number that is not finite."""
    return json.dumps({"version": version, **content}, allow_nan=False).encode()


def decode_json(data: bytes, version: int) -> dict[str, Any]:
    """Return the content of a record without its version.

    Raises ValueError for another version or another form.
    """
    content = json.loads(data)
    if not isinstance(content, dict) or content.pop("version", None) != version:
        raise ValueError("unknown version")
    return content


@contextlib.contextmanager
def readable(what: str, advice: str = "") -> Iterator[None]:
    """Raise `VaultDamagedError` where the block cannot make sense of a record.

    Args:
        what: names the record in the error: "the count of invitations".
        advice: the next step, where there is one.

    Raises:
        VaultDamagedError: for what decoding raises (KeyError, TypeError, ValueError, AttributeError,
            struct.error) and for OptionError.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, struct.error, OptionError):
        raise VaultDamagedError(
            f"{what} cannot be read by this version of Palate{'; ' if advice else ''}{advice}"
        ) from None
