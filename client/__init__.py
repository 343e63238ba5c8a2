"""The device: everything personal. Comments become attributes, a profile, a private evaluator, and pictures.

`palate.client.Device` is the way in; importing it loads no heavy library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palate.client.device import Device as Device
    from palate.client.scoring import score_pictures as score_pictures

__all__ = ["Device", "score_pictures"]


def __getattr__(name: str) -> Any:
    """Load the façade when it is first asked for, so that its parts can be imported alone."""
    if name == "Device":
        from palate.client.device import Device

        return Device
    if name == "score_pictures":
        from palate.client.scoring import score_pictures

        return score_pictures
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
