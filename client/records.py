"""What the vault holds, record by record: the personal things of the flow as bytes, and back.

Between `device` (which decides what is kept) and `vault` (which seals it). One record of type "comment" holds
a comment, the verdict and the mentions that were found in it. "picture" holds the small copy of a picture and
"features" what the picture tower saw in it, both by the hash of the picture's bytes, so that two comments on
one picture share them. Profile and evaluator can be computed from these and are not kept. The adapter takes
seconds to train, so it is kept with a fingerprint of everything it was trained on, and is dropped with every
change.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from palate.client.reader import Comment
from palate.client.vault.store import Records
from palate.shared.attributes import Mention
from palate.shared.errors import OptionError, VaultDamagedError

COMMENT, PICTURE, FEATURES = "comment", "picture", "features"
EDITS, KEY, ADAPTER = "edits", "key", "adapter"

_COMMENT_VERSION = 1


@dataclass(frozen=True)
class Taught:
    """A comment and the attributes that were found in it."""

    comment: Comment
    mentions: tuple[Mention, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comment as `palate comments --json` prints it."""
        comment = self.comment
        return {
            "id": comment.id,
            "comment": comment.text,
            "liked": comment.liked,
            "picture": comment.picture,
            "created": comment.created,
            "attributes": [
                {
                    "attribute": mention.attribute,
                    "category": mention.category,
                    "liked": mention.polarity > 0,
                    "strength": round(mention.strength, 4),
                    "phrase": mention.phrase,
                }
                for mention in self.mentions
            ],
        }


def encode_taught(taught: Taught) -> bytes:
    """Return a comment and its mentions as the bytes of a record."""
    mentions = [asdict(mention) for mention in taught.mentions]
    return json.dumps(
        {"version": _COMMENT_VERSION, "comment": asdict(taught.comment), "mentions": mentions}
    ).encode()


def decode_taught(data: bytes) -> Taught:
    """Read what `encode_taught` wrote; raises `VaultDamagedError` for anything else."""
    try:
        content = json.loads(data)
        if content["version"] != _COMMENT_VERSION:
            raise ValueError("unknown version")
        mentions = tuple(Mention(**_finite(mention)) for mention in content["mentions"])
        return Taught(Comment(**content["comment"]), mentions)
    except (ValueError, KeyError, TypeError, AttributeError, OptionError):
        raise VaultDamagedError("a comment's record cannot be read by this version of Palate") from None


def read_taught(records: Records, known: Mapping[str, Taught] | None = None) -> dict[str, Taught]:
    """Return every comment that was taught, by id; those in `known` are not opened again."""
    known = known or {}
    return {
        id_: known[id_] if id_ in known else decode_taught(records.get(COMMENT, id_))
        for id_ in records.list(COMMENT)
    }


def _finite(mention: Mapping[str, Any]) -> Mapping[str, Any]:
    if not math.isfinite(mention["strength"]):
        raise ValueError("a strength that is no number")
    return mention
