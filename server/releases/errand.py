"""What else a release key is asked to sign, on the way that a folder is carried to it.

Where it stands in the flow: `carrying` carries errands along with releases; `round_key` has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Errand:
    """Something else that the release key is asked to sign on the same way.

    All its functions raise a PalateError in one line.

    `ask` returns on the server what is to be signed, None if there is nothing; `describe` says on the signing
    machine what that is, in words for the person who is about to sign, and raises for what must not be
    signed; `answer` signs it; `take` checks the answer on the server, keeps it, and returns a line on it.
    Taking the same answer twice must be possible.
    """

    name: str  # of the files: to-sign.NAME, signed.NAME
    ask: Callable[[Path], bytes | None]  # from the server's folder
    describe: Callable[[bytes], str]
    answer: Callable[[bytes, Ed25519PrivateKey], bytes]
    take: Callable[[Path, bytes], str]  # from the server's folder and the answer
