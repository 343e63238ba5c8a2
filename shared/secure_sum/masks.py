"""What hides a device's vector in a masked round: settings, neighbours, and the keys of the masks.

Where it stands in the flow: `client.federation.masked_round` masks and `server.secure_sum.unmasking` unmasks;
what both must compute alike is here. It is secure aggregation after Bonawitz et al. (CCS 2017) on the sparse
graph of Bell et al. (CCS 2020). Each pair of neighbours agrees on a mask that one adds and the other
subtracts. Each device adds a mask of its own too. In the sum over all, the pairwise masks cancel. A device's
mask key and the seed of its own mask are shared among its neighbours (`shamir`). Of a device that stays the
seed is revealed, of one that drops out the key, and never both of one device.

**What holds it together.** `context` is the hash of the invitation, so of release, round, model and settings.
`roster_hash` is that of the signed keys of all. `session` adds who is alive. Every mask key is derived with
the session as salt. So devices that were shown different models, rosters or sets of the living have masks
that do not cancel, and the sum is noise (against the attack of Pasquini et al., CCS 2022). The keys are new
in every round.

**What it withstands.** Fewer than `threshold` of the holders of a secret learn nothing of it, no matter who
they are. Each honest holder reveals one share of a device. So a server that tells some that a device stayed
and others that it dropped out needs twice the threshold: with t of h holders it takes at least 2t - h
colluding ones. `smallest_sum` is the least number of devices whose sum such a server can get without
colluders, by lying about who dropped out and who is alive. In a sparse graph it is the round's minimum,
because devices first make sure that all were told the same (`agreement`, with its argument). A server that
invents devices counts as colluding with them; the registrar's certificates stand against that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from palate.shared.checks import check_wholes, keep_numbers
from palate.shared.errors import MaskError, OptionError
from palate.shared.secure_sum.ring import LEAST_BITS, MOST_BITS

MOST_DEVICES: Final = 1_000
COMPLETE: Final = 64  # up to so many devices everyone is everyone's neighbour
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_STAY = 0.8  # the share of a cohort that the sparse graph counts on
_FAILS = 1_000  # and in one of so many rounds at most, a device is left with too few neighbours
_COLLUDE = 10  # and of so many devices one may collude with the server

_FIELD_25519 = 2**255 - 19
_SMALL_X25519 = {
    0,
    1,
    _FIELD_25519 - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,  # both of order 8
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}
"""The u-coordinates of points of small order on Curve25519 and its twist (RFC 7748, section 6.1)."""

_EIGHTH = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ED25519 = {0, 1, _FIELD_25519 - 1, _EIGHTH, _FIELD_25519 - _EIGHTH}
"""The y-coordinates of points of small order on edwards25519."""

_NUMBERS: Final = {
    "step": (1e-12, 1e6),
    "clip": (1e-6, 1e6),
    "noise": (0.0, 16_384.0),
    "threshold_share": (0.51, 0.9),
}


@dataclass(frozen=True)
class MaskSettings:
    """How a round is masked and noised; the same for all its devices. Raises OptionError outside the ranges.

    Values add up modulo 2^ring_bits, so their sum must lie between -2^(ring_bits - 1) and 2^(ring_bits - 1) -
    1. `step` is the size of one level, `clip` the longest change (L2) that a device sends, `noise` the
    standard deviation, in levels, of the discrete Gaussian that each device adds. No sum over fewer than
    `least` devices is unmasked.

    Of h holders of a secret (a device and its neighbours) t = floor(threshold_share * h) + 1 are needed: the
    round survives that the others drop out, and a lying server needs 2t - h of them on its side.
    """

    ring_bits: int = 16  # 2 to 32
    step: float = 0.001  # above 0
    clip: float = 1.0  # above 0
    noise: float = 0.0  # from 0
    least: int = 2  # 2 to 1,000
    threshold_share: float = 0.66  # 0.51 to 0.9

    def __post_init__(self) -> None:
        check_wholes(self, {"ring_bits": (LEAST_BITS, MOST_BITS), "least": (2, MOST_DEVICES)})
        keep_numbers(self, _NUMBERS)
        if self.clip > 2**30 * self.step:
            raise OptionError("step is not right; a clip of more than 2^30 steps is finer than any ring")


# --- who is neighbour of whom -------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def degree(count: int, threshold_share: float) -> int:
    """Return how many neighbours each of `count` devices has: all up to 64 devices, else as few as are safe.

    That is the smallest even number with which (1) when a fifth of the cohort drops out by chance, in one of
    1,000 rounds at most some device is left with fewer holders than the threshold, and (2) no tenth of the
    cohort that colludes with the server can cut the ring, wherever its devices stand (`agreement` says why
    twice `spare` of them are needed). The first is computed exactly, as a draw without replacement. For
    threshold shares too small for (2) it is what Hoeffding's bound (1963) takes for (1), and in a cohort too
    small for either, all others.
    """
    if count <= COMPLETE or threshold_share >= _STAY:
        return count - 1
    half = math.ceil(math.log(_FAILS * count) / (4 * (_STAY - threshold_share) ** 2))
    most = min(count - 1, 2 * half)
    for near in range(2, most, 2):
        uncut = 2 * spare(near, threshold_share) * _COLLUDE > count
        if uncut and _mostly_enough(count, near + 1, threshold_of(near + 1, threshold_share)):
            return near
    return most


def spare(near: int, threshold_share: float) -> int:
    """Return how many holders a device needs beyond itself and its `near` neighbours on one side."""
    return threshold_of(near + 1, threshold_share) - near // 2 - 1


def _mostly_enough(count: int, holders: int, threshold: int) -> bool:
    """Return whether all of `count` devices keep the threshold of holders if a fifth of them is gone.

    One round in 1,000 may fail.

    How many of a device's holders stay is hypergeometric; over the devices chances are added. Whole numbers,
    so that both sides of a round find the same.
    """
    stay = math.floor(_STAY * count)
    least = max(0, holders - (count - stay))
    few = sum(
        math.comb(stay, left) * math.comb(count - stay, holders - left) for left in range(least, threshold)
    )
    return few * count * _FAILS <= math.comb(count, holders)


def is_sparse(count: int, threshold_share: float) -> bool:
    """Return whether some of `count` devices are not each other's neighbours."""
    return degree(count, threshold_share) < count - 1


def threshold_of(holders: int, threshold_share: float) -> int:
    """Return how many holders of a secret, or of a roster, are needed: more than this share of them.

    So it is always more than half.
    """
    return math.floor(threshold_share * holders) + 1


def holders_of(roster_hash: bytes, count: int, threshold_share: float) -> list[tuple[int, ...]]:
    """Return for each place in the roster its holders, ascending: its neighbours and itself.

    A Harary graph: the places in the order of SHA-256(roster hash | place) stand in a ring, and each is
    neighbour of the nearest on both sides. Nobody who wants somebody for a neighbour can choose that without
    trying many rosters.
    """
    near = degree(count, threshold_share)
    if near >= count - 1:
        return [tuple(range(count))] * count
    ring = _ring(roster_hash, count)
    found: list[tuple[int, ...]] = [()] * count
    for at, place in enumerate(ring):
        found[place] = _around(ring, at, near)
    return found


def holders_at(roster_hash: bytes, count: int, threshold_share: float, place: int) -> tuple[int, ...]:
    """Return what `holders_of` has for one place."""
    near = degree(count, threshold_share)
    if near >= count - 1:
        return tuple(range(count))
    ring = _ring(roster_hash, count)
    return _around(ring, ring.index(place), near)


def _ring(roster_hash: bytes, count: int) -> list[int]:
    return sorted(range(count), key=lambda i: hashlib.sha256(roster_hash + i.to_bytes(4, "little")).digest())


def _around(ring: Sequence[int], at: int, near: int) -> tuple[int, ...]:
    count = len(ring)
    return tuple(sorted(ring[(at + away) % count] for away in range(-(near // 2), near // 2 + 1)))


@lru_cache(maxsize=256)
def _smallest(count: int, threshold: int, each: int) -> int:
    """Return the least number of devices whose sum a lying server can get in a complete cohort.

    See `smallest_sum`.
    """
    for devices in range(1, count):
        for unseen in range(min(each, count - devices) + 1):
            dropped = count - devices - unseen  # all others that these have masks with
            inside = devices * min(each - unseen, dropped)
            told = inside + unseen * min(each, dropped) + dropped * min(each, dropped - 1)
            tellers = (devices if unseen < each else 0) + unseen + dropped - 1
            if not dropped or (told >= threshold * dropped and tellers >= threshold):
                return devices
    return count


def smallest_sum(count: int, settings: MaskSettings) -> int:
    """Return over how few of `count` devices a server can get a sum, if it tells every device something else.

    The sum over some devices is bare when of each other device either its mask key is known or they have no
    mask with it, since they were told that it never shared its secrets. A mask key takes t holders who are
    told that the device dropped out. Nobody goes on when less than t of its holders, or than `least` of all,
    are left of both, so each can be told of `each` such devices, and none is told so of itself: those in the
    sum of `unseen` ones, all the same, and of drop-outs as far as there is room, the others of drop-outs
    alone. The answer is the least number for which shares could come together by these counts. In a sparse
    graph a server can tell but one thing (`agreement`), so there it is `least`. Both hold without colluders.
    """
    if is_sparse(count, settings.threshold_share):
        return min(count, settings.least)
    threshold = threshold_of(count, settings.threshold_share)
    return _smallest(count, threshold, max(0, min(count - threshold, count - settings.least)))


# --- keys ---------------------------------------------------------------------------------------------------


def check_exchange_key(key: bytes) -> None:
    """Raise MaskError (`key`) unless this is a canonical X25519 public key, not of small order."""
    value = int.from_bytes(key, "little")
    if len(key) != KEY_BYTES or value >= _FIELD_25519 or value in _SMALL_X25519:
        raise MaskError("a device's X25519 key is not canonical or of small order", "key")


def check_identity(key: bytes) -> None:
    """Raise MaskError (`key`) unless this is an Ed25519 public key in canonical form, not of small order."""
    value = int.from_bytes(key, "little") & (2**255 - 1)
    if len(key) != KEY_BYTES or value >= _FIELD_25519 or value in _SMALL_ED25519:
        raise MaskError("a device's Ed25519 key is not canonical or of small order", "key")


def verify(signature: bytes, content: bytes, identity: bytes, what: str) -> None:
    """Raise MaskError (`signature`) unless this identity has signed the content; `what` names it."""
    try:
        # What is signed is the hash, so that a long message is read once, not twice.
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, _digest(b"signed", content))
    except (InvalidSignature, ValueError):
        raise MaskError(f"the signature of {what} is not by the key that it names", "signature") from None


def sign(content: bytes, identity: Ed25519PrivateKey) -> bytes:
    """Return a device's signature over a message."""
    return identity.sign(_digest(b"signed", content))


def check_certificate(certificate: bytes, identity: bytes, registrar: bytes) -> None:
    """Raise MaskError (`certificate`) unless this registrar certified the identity (earlier versions)."""
    try:
        Ed25519PublicKey.from_public_bytes(registrar).verify(certificate, _digest(b"certificate", identity))
    except (InvalidSignature, ValueError):
        raise MaskError(
            "a device has no certificate of the registrar that is trusted here", "certificate"
        ) from None


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the 32 bytes that two devices agree on (X25519).

    Raises:
        MaskError: `key`, a key of small order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise MaskError("a device's X25519 key is not canonical or of small order", "key") from None


def session_of(context: bytes, roster_hash: bytes, alive: Collection[int], count: int) -> bytes:
    """Return the hash that masks are bound to: of the invitation, the roster, and which places are alive."""
    return _digest(b"session", context + roster_hash + bitmap(alive, count))


def pair_mask_key(agreed: bytes, session: bytes, one: bytes, other: bytes) -> bytes:
    """Return the key of the mask between two identities, in whatever order they are named."""
    return _derive(agreed, session, b"palate pair mask 1" + min(one, other) + max(one, other))


def own_mask_key(seed: bytes, session: bytes, identity: bytes) -> bytes:
    """Return the key of the mask that a device adds by itself."""
    return _derive(seed, session, b"palate own mask 1" + identity)


def share_key(agreed: bytes, roster_hash: bytes, sender: bytes, receiver: bytes) -> bytes:
    """Return the key for the one pair of shares that a sender has for a receiver; it is used once."""
    return _derive(agreed, roster_hash, b"palate shares 1" + sender + receiver)


def commitment_to(seed: bytes, context: bytes, identity: bytes) -> bytes:
    """Return a commitment to a device's seed: it hides the seed, and no other seed fits."""
    return _digest(b"seed", context + identity + seed)


def public_key(secret: bytes) -> bytes:
    """Return the X25519 public key of 32 secret bytes."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def signed_masks(place: int, peers: Sequence[int], keys: Sequence[bytes]) -> list[tuple[bytes, bool]]:
    """Return the pairwise mask keys of the device at a place with their signs: plus for peers after it."""
    return [(key, peer < place) for peer, key in zip(peers, keys, strict=True)]


def bitmap(places: Collection[int], count: int) -> bytes:
    """Return which of `count` places are meant, one bit each; place 0 is the lowest bit of the first byte."""
    return sum(1 << place for place in places).to_bytes(-(-count // 8), "little")


def read_bitmap(data: bytes, count: int) -> frozenset[int]:
    """Return the places that a bitmap means.

    Raises:
        MaskError: (`size`, `padding`) unless it is one of `count` places.
    """
    bits = int.from_bytes(data, "little")
    if len(data) != -(-count // 8):
        raise MaskError("a bitmap is not as long as the roster", "size")
    if bits >> count:
        raise MaskError("a bitmap means places that the roster does not have", "padding")
    return frozenset(place for place in range(count) if bits >> place & 1)


def digest_of(message: bytes) -> bytes:
    """Return the SHA-256 of a message's bytes, by which later ones refer to it."""
    return hashlib.sha256(message).digest()


def _derive(agreed: bytes, salt: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(agreed)


def _digest(purpose: bytes, content: bytes) -> bytes:
    return hashlib.sha256(b"palate " + purpose + b" 1\0" + content).digest()
