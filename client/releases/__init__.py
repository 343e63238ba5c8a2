"""Releases: which signed encoder this device accepted, and which one this person's evaluator uses.

Signed messages and a person's labels come in; an encoder goes out. The device gets the person's encoder here
(`own_encoder`), the federation the one that rounds start from (`accepted`). This room knows eye, taste and
the vault.

`own_encoder` is imported by its own name, so that a test can see who does: never the code that answers
messages.
"""

from palate.client.releases.accepted import (
    Standing,
    adopt,
    federation_encoder,
    is_pinned,
    offer,
    pin_key,
    read_accepted,
    read_source,
    read_standing,
    release_key,
    reset,
    why_not_good,
)

__all__ = [
    "Standing",
    "adopt",
    "federation_encoder",
    "is_pinned",
    "offer",
    "pin_key",
    "read_accepted",
    "read_source",
    "read_standing",
    "release_key",
    "reset",
    "why_not_good",
]
