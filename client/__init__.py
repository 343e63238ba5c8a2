"""Everything personal: comments, profile, vault, evaluator, adapter and pictures of one person, on that person's device.

from palate.client import Device
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palate.client.device import Device as Device

__all__ = ["Device"]


def __getattr__(name: str) -> object:
    """Import the façade only when it is asked for, so that importing a part stays cheap."""
    if name == "Device":
        from palate.client.device import Device

        return Device
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
