"""What of Flower's inside is used, by name and by the names of its arguments.

What differs is what changed with an upgrade.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any


def find(name: str) -> Any:
    """The thing that "module:path.in.it" names; None if it is gone."""
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def changes(used: Mapping[str, str]) -> dict[str, str]:
    """What is no longer as it was: names with what they take now."""
    differs = {}
    for name, arguments in used.items():
        found = find(name)
        now = "gone" if found is None else ", ".join(inspect.signature(found).parameters)
        if now != arguments:
            differs[name] = now
    return differs
