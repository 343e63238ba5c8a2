"""How devices of a sparse cohort make sure, before they reveal anything, that all were asked the same.

Where it stands in the flow: only where not everyone is everyone's neighbour (`masks.is_sparse`). A device
answers a request to unmask with its endorsement, a signature over the request; the server gathers
endorsements into an agreement; a device reveals its shares when more than the threshold's share of the whole
roster endorsed the very request that it was sent. It is the consistency check of Bonawitz et al. (CCS 2017,
section 6.2), over the roster in place of the neighbourhood.

**What it withstands.** A device endorses one request a round, so with t of n devices needed, two requests can
both be agreed to only with 2t - n colluding ones. A device that reveals has therefore the same living and the
same survivors before them, at least as many as the round's `least`. What follows holds as long as fewer than
2s devices collude with the server, where s is `masks.spare` (with the usual threshold share, .66, a tenth of
the cohort is never so many; with .51 as few as two may be):

* A device in the sum was told of the same living as those who reveal. If not, its masks with the t of its
  holders that it takes for living cancel only if those dropped out, or were told as it was. Neither reveals
  anything, so at most h - t others do of h holders, and its seed takes t, more by 2t - h = 2s + 1.
* Its neighbour among the survivors is in the sum too, since their mask cancels in no other way: it has
  checked the signature of that neighbour's keys, whose secret takes t colluding holders.
* So it goes on around the ring, and all survivors are in the sum, each with its noise, unless the ring is cut
  on both sides. A gap is a cut if it is as wide as a device reaches, on one side, and has no honest survivor
  in it. The device before it has its seed revealed by t holders, so s of those in the gap collude. Two gaps
  take 2s.

Hence a device need not check what those advertised who are no neighbours of it: a device in the sum has
found its own keys in the roster, and its neighbours have checked them. Certificates, the registrar's
signatures of all pseudonyms in the roster for the round's slot, are checked for all: an endorsement counts
only if a device that was vouched for gave it, and as each has one for a slot, the devices that collude are in
the roster at most once each.

    endorsement  start 11 | request 32 | identity 32 | signature 64
    agreement    start 12 | request 32 | endorsers | for each endorser: signature 64 | checksum 4

As in `secure_sum.messages`: `request` is the SHA-256 of the unmask request, `endorsers` a bitmap over the
roster, whose order signatures have.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.errors import MaskError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.frame import (
    AGREEMENT,
    ENDORSEMENT,
    HASH_BYTES,
    check_sender,
    open_checked,
    open_signed,
    pieces,
    signed,
    start_of,
)
from palate.shared.secure_sum.masks import SIGNATURE_BYTES
from palate.shared.secure_sum.messages import Roster
from palate.shared.wire import add_checksum


def encode_endorsement(request: bytes, identity: Ed25519PrivateKey) -> bytes:
    """Return the bytes with which a device endorses the unmask request of this hash."""
    return signed(ENDORSEMENT, request + identity.public_key().public_bytes_raw(), identity)


def decode_endorsement(data: bytes, *, request: bytes, identity: bytes) -> bytes:
    """Return the signature, 64 bytes, with which this identity endorses the request; raises MaskError."""
    body, signature = open_signed(data, ENDORSEMENT, 2 * HASH_BYTES)
    if body[:HASH_BYTES] != request:
        raise MaskError("another request was endorsed", "roster")
    check_sender(data, body, signature, identity)
    return signature


def encode_agreement(request: bytes, signatures: Mapping[int, bytes], count: int) -> bytes:
    """Return the bytes of an agreement: signatures by their signer's place in a roster of `count` devices."""
    ordered = [signatures[place] for place in sorted(signatures)]
    return add_checksum(b"".join((start_of(AGREEMENT), request, masks.bitmap(signatures, count), *ordered)))


def decode_agreement(data: bytes, *, request: bytes, roster: Roster) -> dict[int, bytes]:
    """Return the signatures by place, all checked.

    Raises MaskError. Whether they are enough is for the caller to say.
    """
    fixed = HASH_BYTES + -(-len(roster) // 8)
    body = open_checked(data, AGREEMENT, least=fixed, most=fixed + len(roster) * SIGNATURE_BYTES)
    if body[:HASH_BYTES] != request:
        raise MaskError("others agreed to another request than the one that was sent here", "roster")
    places = sorted(masks.read_bitmap(bytes(body[HASH_BYTES:fixed]), len(roster)))
    found = pieces(body[fixed:], SIGNATURE_BYTES)
    if len(found) != len(places):
        raise MaskError(f"{len(found)} signatures are there of {len(places)} devices", "size")
    for place, signature in zip(places, found, strict=True):
        name = roster.identity(place)
        masks.verify(signature, start_of(ENDORSEMENT) + request + name, name, "an endorsement")
    return dict(zip(places, found, strict=True))
