"""The vault's main records: what a person taught, as bytes and back.

Where it stands in the flow: between `device`, which decides what is kept, and `vault`, which seals it. A
record of type "comment" holds a comment, its verdict, and the mentions that were found in it. "picture" holds
the small copy of a picture and "features" what the picture tower saw in it. Both are kept under the hash of
the picture's bytes, so that two comments on one picture share them. What can be computed from these (profile,
evaluator) is not kept. The adapter takes seconds to train, so it is kept, with a fingerprint of everything it
was trained on, and is dropped with every change.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from palate.client.reader import Comment
from palate.client.reader.corrections import Correction, correct
from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.store import Records
from palate.shared.attributes import Mention

COMMENT, PICTURE, FEATURES = "comment", "picture", "features"
EDITS, KEY, ADAPTER = "edits", "key", "adapter"

_COMMENT_VERSION = 1


@dataclass(frozen=True)
class Taught:
    """A comment, the attributes that a reader found in it, and what the person put right.

    `reader` is the version of the shipped reader that read it; None stands for another back end.
    """

    comment: Comment
    read: tuple[Mention, ...]
    corrections: tuple[Correction, ...] = ()
    reader: int | None = None

    @property
    def mentions(self) -> tuple[Mention, ...]:
        """The attributes of the comment, put right."""
        return correct(self.comment.text, self.read, self.corrections) if self.corrections else self.read

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
                    "term": mention.term,
                    "category": mention.category,
                    "liked": mention.polarity > 0,
                    "strength": round(mention.strength, 4),
                    "phrase": mention.phrase,
                    "vague": mention.vague,
                    "unsure": mention.unsure,
                }
                for mention in self.mentions
            ],
        }


def encode_taught(taught: Taught) -> bytes:
    """Return a comment and its mentions as the bytes of a record."""
    return encode_json(
        _COMMENT_VERSION,
        {
            "comment": asdict(taught.comment),
            "mentions": [asdict(mention) for mention in taught.read],
            "corrections": [asdict(one) for one in taught.corrections],
            "reader": taught.reader,
        },
    )


def decode_taught(data: bytes) -> Taught:
    """Return what `encode_taught` wrote, by this version or by 0.2.

    Raises `VaultDamagedError` for anything else.
    """
    with readable("a comment's record"):
        content = decode_json(data, _COMMENT_VERSION)
        mentions = tuple(Mention(**_finite(mention)) for mention in content["mentions"])
        corrections = tuple(Correction(**one) for one in content.get("corrections", ()))
        # Records of Palate 0.2 name no reader: the first one read them.
        return Taught(Comment(**content["comment"]), mentions, corrections, content.get("reader", 1))


def read_taught(records: Records, known: Mapping[str, Taught] | None = None) -> dict[str, Taught]:
    """Return every comment that was taught, by id; those in `known` are not read again."""
    known = known or {}
    return {
        id_: known[id_] if id_ in known else decode_taught(records.get(COMMENT, id_))
        for id_ in records.list(COMMENT)
    }


def _finite(mention: Mapping[str, Any]) -> Mapping[str, Any]:
    if not math.isfinite(mention["strength"]):
        raise ValueError("a strength that is no number")
    return mention
