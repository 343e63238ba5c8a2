"""A device's side of a masked round: what it sends in each phase, and what it refuses.

Where it stands in the flow: an invitation comes, the device trains, `privatize` makes whole levels of the
change, and this module hides them under masks that cancel in the sum over all devices (Bonawitz et al.,
"Practical secure aggregation for privacy-preserving machine learning", CCS 2017, with neighbours as in Bell
et al., CCS 2020). `shared.secure_sum.masks` says how, and what that withstands. In order:

    advert()                    its keys for this round, signed          -> server gathers them into a roster
    shares(roster)              its secrets, split among neighbours      -> server delivers, says who is alive
    accept_delivery(delivery)   checks; now it is worth training
    mask(levels)                the masked vector                        -> server adds up, asks to unmask
    endorsed(unmask)            that this was asked; sparse cohorts only -> server shows all were asked this
    revealed(unmask)            one share for each neighbour             -> server has the sum, nothing else

Each step is done once. A refusal raises a `MaskError` and changes nothing: no share or mask has left, and the
message that is due can still come. Keys and seeds are new in every round and live in this object only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from palate.shared.arrays import Levels
from palate.shared.checks import check_whole
from palate.shared.errors import MaskError, OptionError
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.agreement import decode_agreement, encode_endorsement
from palate.shared.secure_sum.masks import KEY_BYTES, MOST_DEVICES
from palate.shared.secure_sum.messages import (
    Invitation,
    Roster,
    Shares,
    Unmask,
    context_of,
    decode_delivery,
    decode_invitation,
    decode_roster,
    decode_unmask,
    encode_advert,
    encode_masked,
    encode_revealed,
    encode_shares,
)
from palate.shared.secure_sum.pseudonym import CERTIFICATE_BYTES, NO_CERTIFICATE, SlotKey
from palate.shared.secure_sum.ring import add_masks, to_ring
from palate.shared.secure_sum.shamir import SHARE_BYTES, decode_share, encode_share, split_secret

_NONCE = bytes(12)  # sound, because each key seals one message: both keys are new in every round


@dataclass(frozen=True)
class MaskRules:
    """What a device insists on, whatever the server asks; raises `OptionError` outside the ranges.

    Attributes:
        least_devices: the smallest sum that the device lets itself be part of, 2 to 1,000. It refuses a
            cohort in which a server that lies to devices could get a smaller one (`masks.smallest_sum`).
        slot_key: the registrar's key for the round's slot; then every device must have a certificate for that
            slot.
        certificate: this device's own certificate.
    """

    least_devices: int = 2
    slot_key: SlotKey | None = None
    certificate: bytes = NO_CERTIFICATE

    def __post_init__(self) -> None:
        check_whole("least_devices", self.least_devices, 2, MOST_DEVICES)
        if len(self.certificate) != CERTIFICATE_BYTES:
            raise OptionError(f"a certificate has {CERTIFICATE_BYTES} bytes")


class _Due(IntEnum):
    """What comes next."""

    ROSTER = 1
    DELIVERY = 2
    LEVELS = 3
    UNMASK = 4
    AGREEMENT = 5
    NOTHING = 6


class MaskedRound:
    """One round of one device.

    Raises `MaskError` for an invitation, and in each step for a message, that it refuses.
    """

    def __init__(
        self,
        invitation: bytes,
        *,
        identity: Ed25519PrivateKey,
        rules: MaskRules = MaskRules(),
        source: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Make the round's keys.

        Args:
            invitation: the server's bytes.
            identity: this device's pseudonym.
            rules: what this device insists on.
            source: gives random bytes, secret ones except in test vectors.
        """
        self.invitation: Invitation = decode_invitation(invitation)
        self.context: bytes = context_of(invitation)
        self.smallest_sum: int = 0
        """The smallest sum that a lying server can get, known once `shares` is done: noise is counted for it.

        It can be below the settings' `least` (`masks.smallest_sum`).
        """
        self.sparse: bool = False
        """Whether a request to unmask is endorsed before anything is revealed, known once `shares` is
        done."""
        if rules.slot_key is not None and rules.slot_key.slot != self.invitation.slot:
            raise MaskError("the invitation is for another slot than the certificate", "certificate")
        self._settings = self.invitation.masks
        self._identity = identity
        self._name = identity.public_key().public_bytes_raw()
        self._rules = rules
        self._least = max(rules.least_devices, self._settings.least)
        self._source = source
        self._mask_secret = source(KEY_BYTES)
        self._share_secret = source(KEY_BYTES)
        self._seed = source(KEY_BYTES)
        self._due = _Due.ROSTER
        self._opening: dict[int, bytes] = {}  # keys for what neighbours seal
        self._held: dict[int, tuple[int, int]] = {}  # shares of a neighbour's mask key and seed
        self._keys: list[tuple[bytes, bool]] = []  # of this device's masks
        self._public = masks.public_key(self._mask_secret), masks.public_key(self._share_secret)
        self._advert = encode_advert(self.context, identity, *self._public, rules.certificate)

    def advert(self) -> bytes:
        """Return this device's keys for the round; the same bytes each time."""
        return self._advert

    def shares(self, roster: bytes) -> bytes:
        """Return this device's secrets split among its neighbours, sealed for each.

        Refuses a roster that does not name this device exactly as it advertised itself, of too few devices or
        too many, with a key twice or an unusable one, with a neighbour's advert that its identity did not
        sign, or with a device that the registrar did not certify. (The neighbours of the others check what
        those advertised; `agreement` says why.)
        """
        self._expect(_Due.ROSTER)
        slot_key = self._rules.slot_key
        found = decode_roster(roster, context=self.context, slot_key=slot_key, whose=self._holders_in)
        place = self._place_in(found)
        own = found.adverts[place]
        if (own.mask_key, own.share_key) != self._public:
            raise MaskError("the roster names this device with other keys", "absent")
        self._check_enough(len(found), "the roster names")
        surely = masks.smallest_sum(len(found), self._settings)
        if surely < self._rules.least_devices:
            raise MaskError(
                f"of {len(found)} devices a server could get the sum of {surely}; here "
                f"{self._rules.least_devices} are the least",
                "few",
            )
        share = self._settings.threshold_share
        self._holders = self._holders_in(found)
        self._threshold = masks.threshold_of(len(self._holders), share)
        self._roster, self._place, self.smallest_sum = found, place, surely
        self.sparse = masks.is_sparse(len(found), share)
        message = self._split()
        self._due = _Due.DELIVERY
        return message

    def accept_delivery(self, delivery: bytes) -> None:
        """Take the neighbours' shares and who is alive; after that a masked vector can be made.

        Refuses a delivery for another roster or device, without this device among the living, or with too few
        of them. A neighbour's shares that cannot be opened count as missing: the secret can still come from
        others.
        """
        self._expect(_Due.DELIVERY)
        roster, place = self._roster, self._place
        found = decode_delivery(delivery, roster, place)
        if place not in found.alive:
            raise MaskError("this device is not among those that are alive", "absent")
        self._check_enough(len(found.alive), "alive are")
        self._check_holders(found.alive)
        peers = [one for one in self._holders if one in found.alive and one != place]
        if len(found.sealed) != len(peers):
            raise MaskError(f"shares of {len(found.sealed)} neighbours came; {len(peers)} are alive", "size")
        session = masks.session_of(self.context, roster.hash, found.alive, len(roster))
        mask_private = X25519PrivateKey.from_private_bytes(self._mask_secret)
        keys = [
            masks.pair_mask_key(
                masks.agree(mask_private, roster.adverts[peer].mask_key),
                session,
                self._name,
                roster.identity(peer),
            )
            for peer in peers
        ]
        for peer, sealed in zip(peers, found.sealed, strict=True):
            self._open(peer, sealed)
        self._opening, self._share_secret = {}, b""
        self._session, self._alive = session, found.alive
        self._keys = masks.signed_masks(place, peers, keys)
        self._keys.append((masks.own_mask_key(self._seed, session, self._name), False))
        self._due = _Due.LEVELS

    def mask(self, levels: Levels) -> bytes:
        """Return int64 levels (d,), taken modulo 2^ring_bits, under this device's masks, packed and signed.

        Raises ValueError for another type.
        """
        self._expect(_Due.LEVELS)
        ring_bits = self._settings.ring_bits
        values = to_ring(levels, ring_bits)
        add_masks(values, self._keys)
        message = encode_masked(self._session, self._identity, values, ring_bits)
        self._keys, self._seed, self._mask_secret = (
            [],
            b"",
            b"",
        )  # from here on only others' shares are needed
        self._due = _Due.UNMASK
        return message

    def masked(self, delivery: bytes, levels: Levels) -> bytes:
        """Return the masked vector at once, where the levels are there before the delivery."""
        self.accept_delivery(delivery)
        return self.mask(levels)

    def endorsed(self, unmask: bytes) -> bytes:
        """Return this device's endorsement of a request to unmask, in a sparse cohort.

        Refuses what `revealed` refuses.
        """
        self._expect(_Due.UNMASK)
        if not self.sparse:
            raise MaskError("in this cohort requests are not endorsed", "order")
        self._asked = self._read_request(unmask)
        self._due = _Due.AGREEMENT
        return encode_endorsement(self._asked.hash, self._identity)

    def revealed(self, message: bytes) -> bytes:
        """Return one share for each neighbour: of its seed if it stayed, of its key if it dropped out.

        The message is the request to unmask; in a sparse cohort it is the agreement to the request that was
        endorsed here. Refuses a request whose survivors and drop-outs are not exactly the living, each once,
        one that counts this device as a drop-out, or one that names too few survivors; an agreement to
        another request, or of too few devices; and every second message, so that both shares of nobody come
        from here.
        """
        if self.sparse:
            self._expect(_Due.AGREEMENT)
            asked = self._asked
            self._check_agreement(message)
        else:
            self._expect(_Due.UNMASK)
            asked = self._read_request(message)
        self._due = _Due.NOTHING
        shares = {
            owner: seed_share if owner in asked.survivors else key_share
            for owner, (key_share, seed_share) in self._held.items()
        }
        self._held = {}
        return encode_revealed(asked.hash, self._identity, shares, len(self._roster))

    # --- inside ---

    def _expect(self, due: _Due) -> None:
        if self._due != due:
            when = "too late, or a second time" if self._due > due else "too early"
            raise MaskError(f"a message of this round comes {when}", "order")

    def _place_in(self, roster: Roster) -> int:
        place = next((i for i, one in enumerate(roster.adverts) if one.identity == self._name), None)
        if place is None:
            raise MaskError("the roster does not name this device", "absent")
        return place

    def _holders_in(self, roster: Roster) -> tuple[int, ...]:
        share = self._settings.threshold_share
        return masks.holders_at(roster.hash, len(roster), share, self._place_in(roster))

    def _read_request(self, unmask: bytes) -> Unmask:
        asked = decode_unmask(unmask, session=self._session, alive=self._alive, count=len(self._roster))
        if self._place not in asked.survivors:
            raise MaskError("this device is named a drop-out, and it is here", "absent")
        self._check_enough(len(asked.survivors), "survivors are")
        self._check_holders(asked.survivors)
        return asked

    def _check_agreement(self, message: bytes) -> None:
        signatures = decode_agreement(message, request=self._asked.hash, roster=self._roster)
        if not self._asked.survivors.issuperset(signatures):
            raise MaskError("drop-outs have endorsed the request", "sets")
        needed = masks.threshold_of(len(self._roster), self._settings.threshold_share)
        if len(signatures) < needed:
            raise MaskError(f"{len(signatures)} devices were asked the same; it takes {needed}", "few")

    def _check_enough(self, devices: int, what: str) -> None:
        if devices < self._least:
            raise MaskError(f"{what} {devices} devices; here {self._least} are the least", "few")

    def _check_holders(self, there: frozenset[int]) -> None:
        """Refuse to go on where an honest server could not: it would ask for more keys than a round needs."""
        left = len(there.intersection(self._holders))
        if left < self._threshold:
            raise MaskError(
                f"{left} devices are left to hold shares; it takes {self._threshold} of {len(self._holders)}",
                "few",
            )

    def _split(self) -> bytes:
        """Split both secrets: keep this device's own share of its seed, and seal the neighbours' pairs."""
        roster, place = self._roster, self._place
        points = [holder + 1 for holder in self._holders]
        of_key = split_secret(self._mask_secret, points, self._threshold, self._source)
        of_seed = split_secret(self._seed, points, self._threshold, self._source)
        private = X25519PrivateKey.from_private_bytes(self._share_secret)
        sealed = []
        for peer in self._holders:
            if peer == place:
                continue
            name = roster.identity(peer)
            agreed = masks.agree(private, roster.adverts[peer].share_key)
            self._opening[peer] = masks.share_key(agreed, roster.hash, name, self._name)
            key = masks.share_key(agreed, roster.hash, self._name, name)
            pair = encode_share(of_key[peer + 1]) + encode_share(of_seed[peer + 1])
            sealed.append(AESGCM(key).encrypt(_NONCE, pair, None))
        # The share of its own key is useless: this device never says of itself that it dropped out.
        self._held = {place: (of_key[place + 1], of_seed[place + 1])}
        commitment = masks.commitment_to(self._seed, self.context, self._name)
        return encode_shares(roster, self._identity, Shares(commitment, tuple(sealed)))

    def _open(self, peer: int, sealed: bytes) -> None:
        try:
            pair = AESGCM(self._opening[peer]).decrypt(_NONCE, sealed, None)
            self._held[peer] = decode_share(pair[:SHARE_BYTES]), decode_share(pair[SHARE_BYTES:])
        except (InvalidTag, MaskError):
            return  # the sender has fewer holders now
