"""A signed release as one message: the log of all releases, and the encoder that the last of them speaks of.

Where it stands in the flow: the server signs a card for each release (`releases.card`) and appends it to its
log (`releases.log`); this message carries both to a device, in a file or over the wire. A device checks log
and encoder against what it saw before (`releases.check`) and keeps them in its vault (`client.releases`).
Before the first release the message holds the log alone, and an empty encoder: so a device knows early which
release key is in force.

    message   magic "PALATE" | kind 11 | version 2 | size of the log 4 | log | size of the encoder 4 |
              encoder | checksum 4

Numbers are little endian and unsigned; the checksum is the CRC-32 of everything before it. There is one way
of writing each value, and what decodes is encoded to the very same bytes again. Everything else is refused
with a `ReleaseError` whose `reason` is one word. `tests/data/release_vectors.json` holds test vectors, made
by `tests/data/make_release_vectors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from palate.shared.encoder import MAX_BYTES
from palate.shared.errors import ReleaseError
from palate.shared.releases.card import Acceptance, Card, PrivacySpent, card_to_json
from palate.shared.releases.fields import (
    KEY_BYTES,
    LOG,
    RELEASE,
    SIGNATURE_BYTES,
    SIZE,
    START,
    UNSIGNED,
    VERSION,
    Reader,
    open_bytes,
    read_key,
    write_key,
)
from palate.shared.releases.log import (
    DAY,
    MOST_DAYS,
    MOST_ENTRIES,
    MOST_LOG_BYTES,
    SHIPPED_HASH,
    USUAL_DAYS,
    Entry,
    Keys,
    ReleaseLog,
    Statement,
    decode_log,
    encode_log,
    time_of,
)
from palate.shared.wire import CHECKSUM_BYTES, MAGIC, add_checksum, checksum_fits

__all__ = [
    "BACKBONE_HASH",
    "DAY",
    "KEY_BYTES",
    "LOG",
    "LOG_NAME",
    "MOST_BYTES",
    "MOST_DAYS",
    "MOST_ENTRIES",
    "MOST_LOG_BYTES",
    "RELEASE",
    "SHIPPED_HASH",
    "SIGNATURE_BYTES",
    "UNSIGNED",
    "USUAL_DAYS",
    "Acceptance",
    "Card",
    "Entry",
    "Keys",
    "PrivacySpent",
    "ReleaseLog",
    "SignedRelease",
    "Statement",
    "card_to_json",
    "decode_log",
    "decode_release",
    "encode_log",
    "encode_release",
    "encoder_name",
    "message_name",
    "read_key",
    "time_of",
    "write_key",
]

BACKBONE_HASH: Final = "865f6b412840b988cfbd0ce0bd8cdf24a239000e06de1db8db604e730029a721"
"""`backbone_hash` of the frozen towers and statistics that ship with Palate; encoders are trained on them."""

LOG_NAME: Final = "releases.log"
"""How the log's file is called in a folder of releases."""

MOST_BYTES: Final = START.size + 2 * SIZE.size + MOST_LOG_BYTES + MAX_BYTES + CHECKSUM_BYTES
"""The longest message of kind 11."""


@dataclass(frozen=True)
class SignedRelease:
    """What a device needs to take a release over: the log up to it, and the encoder's file (safetensors)."""

    log: ReleaseLog
    encoder: bytes  # empty where the log holds no release yet


def encode_release(release: SignedRelease) -> bytes:
    """Return the message of kind 11; raise ReleaseError for an encoder that is too long for one."""
    if len(release.encoder) > MAX_BYTES:
        raise ReleaseError(f"the encoder has more than {MAX_BYTES:,} bytes", "size")
    log = encode_log(release.log)
    parts = (
        START.pack(MAGIC, RELEASE, VERSION),
        SIZE.pack(len(log)), log,
        SIZE.pack(len(release.encoder)), release.encoder,
    )  # fmt: skip
    return add_checksum(b"".join(parts))


def decode_release(data: bytes) -> SignedRelease:
    """Return what a message of kind 11 carries.

    Raises ReleaseError unless it is exactly what `encode_release` returns.

    Only the form is checked here: who signed, and whether the encoder is the log's, is for `releases.check`.
    """
    open_bytes(data, RELEASE, MOST_BYTES, "a release")
    if not checksum_fits(data):
        raise ReleaseError("the release was damaged on its way; its checksum does not fit", "damaged")
    reader = Reader(data[:-CHECKSUM_BYTES], START.size, "the release")
    log = decode_log(reader.take(reader.read(SIZE)[0]))
    (size,) = reader.read(SIZE)
    if size > MAX_BYTES:
        raise ReleaseError(f"the encoder has {size:,} bytes; at most {MAX_BYTES:,} are read", "size")
    encoder = reader.take(size)
    reader.end()
    return SignedRelease(log, encoder)


def encoder_name(number: int) -> str:
    """Return how the file of a release's encoder is called in a folder of releases."""
    return f"release-{number:05d}.safetensors"


def message_name(number: int) -> str:
    """Return how the file that holds a release's message of kind 11 is called."""
    return f"release-{number:05d}.palate"
