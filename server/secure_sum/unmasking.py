"""The server's side of a masked round: from what devices send to the sum of their vectors, no more.

Where it stands in the flow: `rounds` carries messages to devices and back, this module checks them and says
what goes out next; `shared.secure_sum.masks` says how the masks work. Nothing here knows Flower or a clock: a
device that has not answered when a phase is closed has dropped out. In order, each once:

    adverts(those that came)    -> roster, for all in it
    shares(those that came)     -> a delivery for each that is alive
    masked(those that came)     -> an unmask request, for all survivors
    endorsed(those that came)   -> an agreement, for those that endorsed the request; sparse cohorts only
    revealed(those that came)   -> the sum of the survivors' levels

Each message is checked alone, before anything is made of it, and a bad one costs the device that sent it.
When too few devices or shares are left, or the shares do not give the secrets that were shared, a step raises
`MaskError`: the round is over and there is no sum. A secret is used only if it is the right one, namely the
key of the advertised public key or the seed that was committed to, so nobody can change the sum with a wrong
share. (With its own vector every device can, as in any sum; and a device that shares its own secrets wrongly
and then stays or drops out as it likes can void the round, though not bend its sum.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from palate.shared.arrays import Levels
from palate.shared.errors import MaskError, MaskReason
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.agreement import decode_endorsement, encode_agreement
from palate.shared.secure_sum.masks import MOST_DEVICES, MaskSettings
from palate.shared.secure_sum.messages import (
    Advert,
    Shares,
    context_of,
    decode_advert,
    decode_invitation,
    decode_masked,
    decode_revealed,
    decode_roster,
    decode_shares,
    encode_delivery,
    encode_roster,
    encode_unmask,
)
from palate.shared.secure_sum.pseudonym import SlotKey
from palate.shared.secure_sum.ring import Ring, add_masks, centred, ring_type
from palate.shared.secure_sum.shamir import recover_secret

Messages = Mapping[int, bytes]
"""What came, by the number of the device that it came from."""

Refused = dict[int, MaskReason]
"""The devices whose message was refused, and why."""


class MaskedSum:
    """One masked round; the sum is over vectors of `count` values.

    Raises:
        MaskError: an invitation that cannot be read or has other settings, and in each step when the round
            must fail; after that no further step works.
    """

    def __init__(
        self,
        invitation: bytes,
        settings: MaskSettings,
        count: int,
        *,
        slot_key: SlotKey | None = None,
    ) -> None:
        """Prepare a round.

        With the registrar's key for the round's slot only devices with a certificate for it are taken.
        """
        if decode_invitation(invitation).masks != settings:
            raise MaskError("the mask settings are not those of the invitation", "settings")
        if slot_key is not None and slot_key.slot != decode_invitation(invitation).slot:
            raise MaskError("the registrar's key is for another slot than the invitation", "certificate")
        if count < 1:
            raise ValueError(f"count is {count}; a vector has at least one value")
        self._context = context_of(invitation)
        self._settings = settings
        self._count = count
        self._slot_key = slot_key
        self._due = 1
        self._places: dict[int, int] = {}  # of devices in the roster
        self.sparse: bool = False
        """Whether devices endorse the request to unmask, known once `adverts` is done."""

    def adverts(self, messages: Messages) -> tuple[bytes, Refused]:
        """Return the roster of the devices whose advert is good, and why others are not in it.

        Of two devices with a key in common the one with the lower number stays.

        Raises:
            MaskError: `few`, fewer are left than the settings' `least`.
        """
        with _Step(self, 1):
            refused: Refused = {}
            found: dict[int, Advert] = {}
            keys: set[bytes] = set()
            for device in sorted(messages):
                try:
                    advert = decode_advert(messages[device], context=self._context, slot_key=self._slot_key)
                    own = {advert.identity, advert.mask_key, advert.share_key}
                    if len(own) < 3 or own & keys:
                        raise MaskError("a key is there twice", "duplicate")
                    if len(found) == MOST_DEVICES:
                        raise MaskError("the cohort is full", "many")
                except MaskError as error:
                    refused[device] = error.reason
                    continue
                keys |= own
                found[device] = advert
            self._check_enough(len(found))
            data = encode_roster(found.values())
            self._roster = decode_roster(data, context=self._context, whose=lambda _: ())
            order = {advert.identity: place for place, advert in enumerate(self._roster.adverts)}
            self._places = {device: order[advert.identity] for device, advert in found.items()}
            share = self._settings.threshold_share
            self.sparse = masks.is_sparse(len(found), share)
            self._holders = masks.holders_of(self._roster.hash, len(found), share)
            self._thresholds = [masks.threshold_of(len(one), share) for one in self._holders]
            return data, refused

    def shares(self, messages: Messages) -> tuple[dict[int, bytes], Refused]:
        """Return for each living device what its neighbours have for it, and whose messages are refused.

        A device with fewer living holders than it takes to recover its secrets is left out too (`few`).

        Raises:
            MaskError: `few`, not enough are left.
        """
        with _Step(self, 2):
            roster, refused = self._roster, Refused()
            shared: dict[int, Shares] = {}
            for device, place, data in self._from_known(messages, self._places, refused):
                try:
                    shared[place] = decode_shares(data, roster, place, len(self._holders[place]) - 1)
                except MaskError as error:
                    refused[device] = error.reason
            while short := [one for one in shared if not self._held(one, shared)]:
                for place in short:
                    del shared[place]
            refused |= {
                device: "few"
                for device, place in self._places.items()
                if device in messages and device not in refused and place not in shared
            }
            self._check_enough(len(shared))
            self._alive = frozenset(shared)
            self._commitments = {place: one.commitment for place, one in shared.items()}
            self._session = masks.session_of(self._context, roster.hash, self._alive, len(roster))
            # For whom each sealed pair is: the sender's neighbours, in the roster's order.
            pairs = {
                (sender, receiver): sealed
                for sender, one in shared.items()
                for receiver, sealed in zip(self._neighbours(sender), one.sealed, strict=True)
            }
            deliveries = {}
            for device, place in self._places.items():
                if place in self._alive:
                    senders = [one for one in self._neighbours(place) if one in self._alive]
                    sealed = [pairs[sender, place] for sender in senders]
                    deliveries[device] = encode_delivery(roster, place, self._alive, sealed)
            return deliveries, refused

    def masked(self, messages: Messages) -> tuple[bytes, Refused]:
        """Return the request to unmask the sum of the vectors that came, and why others are not in it.

        Raises:
            MaskError: `few`, fewer vectors came than the settings' `least`, too few to recover what must be
                known of one of the devices, or in a sparse cohort too few to agree.
        """
        with _Step(self, 3):
            refused = Refused()
            living = {device: place for device, place in self._places.items() if place in self._alive}
            self._total: Ring = np.zeros(self._count, ring_type(self._settings.ring_bits))
            came: set[int] = set()
            for device, place, data in self._from_known(messages, living, refused):
                try:
                    vector = decode_masked(
                        data,
                        session=self._session,
                        identity=self._roster.identity(place),
                        count=self._count,
                        ring_bits=self._settings.ring_bits,
                    )
                except MaskError as error:
                    refused[device] = error.reason
                    continue
                np.add(self._total, vector, out=self._total)
                came.add(place)
            self._check_enough(len(came))
            if self.sparse:
                self._check_agreed(len(came))
            self._survivors = frozenset(came)
            self._dropouts = self._alive - self._survivors
            for place in self._needed():
                if not self._held(place, came):
                    raise MaskError("too few neighbours of a device are left to unmask the sum", "few")
            data = encode_unmask(self._session, self._survivors, self._dropouts, len(self._roster))
            self._request = masks.digest_of(data)
        if not self.sparse:
            self._due = 5
        return data, refused

    def endorsed(self, messages: Messages) -> tuple[bytes, Refused]:
        """Return the agreement of a sparse cohort to the request, and why endorsements are refused.

        It shows no more endorsements than it takes.

        Raises:
            MaskError: `few`, too few came.
        """
        with _Step(self, 4):
            refused, signatures = Refused(), dict[int, bytes]()
            for device, place, data in self._from_known(messages, self._staying(), refused):
                try:
                    signatures[place] = decode_endorsement(
                        data, request=self._request, identity=self._roster.identity(place)
                    )
                except MaskError as error:
                    refused[device] = error.reason
            needed = self._check_agreed(len(signatures))
            shown = {place: signatures[place] for place in sorted(signatures)[:needed]}
            return encode_agreement(self._request, shown, len(self._roster)), refused

    def revealed(self, messages: Messages) -> tuple[Levels, int]:
        """Return the sum (count,) of the survivors' levels, and how many survivors there are.

        Levels go from -2^(ring_bits - 1) up.

        Who is refused here stands in `refused`.

        Raises:
            MaskError: `few`, too few shares of a device came, and (`shares`) when they do not give the secret
                that was shared.
        """
        with _Step(self, 5):
            self.refused: Refused = {}
            shares: dict[int, dict[int, int]] = {place: {} for place in self._needed()}
            for device, place, data in self._from_known(messages, self._staying(), self.refused):
                try:
                    found = decode_revealed(
                        data,
                        request=self._request,
                        identity=self._roster.identity(place),
                        count=len(self._roster),
                    )
                    if not self._alive.intersection(self._holders[place]).issuperset(found):
                        raise MaskError("shares are revealed of devices that are no neighbours", "sets")
                except MaskError as error:
                    self.refused[device] = error.reason
                    continue
                for owner in found.keys() & shares.keys():
                    shares[owner][place + 1] = found[owner]
            keys: list[tuple[bytes, bool]] = []
            for owner in sorted(shares):
                secret = recover_secret(shares[owner], self._thresholds[owner], self._check_of(owner))
                if owner in self._survivors:
                    name = self._roster.identity(owner)
                    keys.append((masks.own_mask_key(secret, self._session, name), True))
                else:
                    keys += self._masks_left_by(owner, secret)
            add_masks(self._total, keys)
            return centred(self._total, self._settings.ring_bits), len(self._survivors)

    def took_part(self) -> frozenset[int]:
        """Return the devices whose vectors are in the sum; to be asked after `masked`."""
        return frozenset(self._staying())

    # --- inside ---

    def _staying(self) -> dict[int, int]:
        """Return the survivors with their places."""
        return {device: place for device, place in self._places.items() if place in self._survivors}

    def _check_agreed(self, devices: int) -> int:
        """Return how many devices it takes to agree, if so many are there."""
        needed = masks.threshold_of(len(self._roster), self._settings.threshold_share)
        if devices < needed:
            raise MaskError(f"{devices} devices are there to agree; it takes {needed}", "few")
        return needed

    def _check_enough(self, devices: int) -> None:
        if devices < self._settings.least:
            raise MaskError(f"{devices} devices are left; the round needs {self._settings.least}", "few")

    def _neighbours(self, place: int) -> list[int]:
        return [one for one in self._holders[place] if one != place]

    def _held(self, place: int, there: Collection[int]) -> bool:
        """Return whether enough holders of a device's secrets are there."""
        return sum(one in there for one in self._holders[place]) >= self._thresholds[place]

    def _needed(self) -> list[int]:
        """Return the places whose secret is needed: survivors, and drop-outs with a survivor's mask."""
        left = [one for one in self._dropouts if not self._survivors.isdisjoint(self._holders[one])]
        return [*self._survivors, *left]

    def _check_of(self, owner: int) -> Callable[[bytes], bool]:
        """Says how the right secret of a device is known."""
        advert = self._roster.adverts[owner]
        if owner in self._survivors:
            wanted = self._commitments[owner]
            return lambda secret: masks.commitment_to(secret, self._context, advert.identity) == wanted
        return lambda secret: masks.public_key(secret) == advert.mask_key

    def _masks_left_by(self, owner: int, secret: bytes) -> list[tuple[bytes, bool]]:
        """Return the masks between a drop-out and survivors, with the signs that take them out of the sum."""
        private = X25519PrivateKey.from_private_bytes(secret)
        name = self._roster.identity(owner)
        peers = [one for one in self._neighbours(owner) if one in self._survivors]
        found = [
            masks.pair_mask_key(
                masks.agree(private, self._roster.adverts[peer].mask_key),
                self._session,
                name,
                self._roster.identity(peer),
            )
            for peer in peers
        ]
        # What the drop-out itself would have added is just what the others took away.
        return masks.signed_masks(owner, peers, found)

    def _from_known(
        self, messages: Messages, known: Mapping[int, int], refused: Refused
    ) -> Iterable[tuple[int, int, bytes]]:
        """Device, place and message of those that may speak in this phase; the others are refused."""
        for device in sorted(messages):
            if device in known:
                yield device, known[device], messages[device]
            else:
                refused[device] = "absent"


class _Step:
    """One step of a round: in its order, and the last one if it fails."""

    def __init__(self, round_: MaskedSum, number: int) -> None:
        self._round, self._number = round_, number

    def __enter__(self) -> None:
        if self._round._due != self._number:
            raise MaskError("a step of the round comes out of order, or after it has failed", "order")
        self._round._due = 0

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._round._due = self._number + 1
