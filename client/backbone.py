"""A device takes part in rounds only with the frozen towers that all others have: their hash is the one that is pinned in the code.

Where it stands in the flow: `joining` calls this when a device joins. An adopted release is checked against the same hash
(`releases`), but a device that adopted none would train on whatever tower lies here, and a rigged one makes pictures readable
from what a round learns of them (PEFTLeak, Sami et al., CVPR 2025).
"""

from __future__ import annotations

from palate.client.releases import installed_backbone
from palate.shared.errors import ModelError
from palate.shared.release import BACKBONE_HASH


def check_backbone() -> None:
    """Raise `ModelError` unless the towers installed here are the pinned ones; the first call reads 34 MB."""
    if installed_backbone() != BACKBONE_HASH:
        raise ModelError(
            "the picture or sentence tower that is installed here is not the one that ships with this version of Palate, so this "
            "device takes part in no round; install Palate anew"
        )
