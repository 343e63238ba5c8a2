"""Everything personal: comments, profile, vault, evaluator, adapter and pictures of one person.

The door is `from palate.client import Device`, imported at its first use, so that importing a part stays
cheap.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palate.client.device import Device as Device

__all__ = ["Device"]


def __getattr__(name: str) -> object:
    """Import `Device` when it is first used."""
    if name == "Device":
        from palate.client.device import Device

        return Device
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
