"""A small masked round for tests: an invitation, some devices, and a server that carries their messages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from palate.client.federation.masked_round import MaskedRound, MaskRules
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.secure_sum.masks import MaskSettings
from palate.shared.secure_sum.messages import Invitation, encode_invitation
from palate.shared.update import LocalSettings

COUNT = 21  # values of a vector


def settings(**changed: object) -> MaskSettings:
    """Settings of a small round, with some changed."""
    return MaskSettings(**{"ring_bits": 13, "least": 2, **changed})  # type: ignore[arg-type]


def invitation(
    mask_settings: MaskSettings | None = None,
    *,
    model: bytes = b"a model",
    round: int = 3,  # noqa: A002
) -> bytes:
    """The bytes of an invitation."""
    masks = settings() if mask_settings is None else mask_settings
    return encode_invitation(Invitation(round, 0, "ab" * 32, 7, LocalSettings(), masks, model))


def stream(name: str) -> Callable[[int], bytes]:
    """A source of bytes that is the same in every run: for vectors and repeatable tests only."""
    state = hashlib.shake_256(name.encode())
    used = 0

    def draw(size: int) -> bytes:
        nonlocal used
        used += size
        return state.digest(used)[used - size :]

    return draw


def identity(number: int) -> Ed25519PrivateKey:
    """The identity of device `number`."""
    return Ed25519PrivateKey.from_private_bytes(stream(f"identity {number}")(32))


@dataclass
class Round:
    """A round under way: `go` carries it as far as is asked, with devices dropping out on the way."""

    devices: int = 5
    mask_settings: MaskSettings = field(default_factory=settings)
    rules: MaskRules = field(default_factory=MaskRules)
    count: int = COUNT

    def __post_init__(self) -> None:
        self.invited = invitation(self.mask_settings)
        self.vectors: NDArray[np.int64] = np.random.default_rng(5).integers(
            -40, 41, (self.devices, self.count), dtype=np.int64
        )
        self.of = {
            number: MaskedRound(
                self.invited, identity=identity(number), rules=self.rules, source=stream(f"device {number}")
            )
            for number in range(self.devices)
        }
        self.server = MaskedSum(self.invited, self.mask_settings, self.count)
        self.refused: dict[str, dict[int, str]] = {}

    def advertise(self, gone: Collection[int] = ()) -> bytes:
        self.adverts = {n: one.advert() for n, one in self.of.items() if n not in gone}
        self.roster, self.refused["adverts"] = self.server.adverts(self.adverts)  # type: ignore[assignment]
        return self.roster

    def share(self, gone: Collection[int] = ()) -> dict[int, bytes]:
        self.shares = {n: self.of[n].shares(self.roster) for n in self.adverts if n not in gone}
        self.deliveries, self.refused["shares"] = self.server.shares(self.shares)  # type: ignore[assignment]
        return self.deliveries

    def mask(self, gone: Collection[int] = ()) -> bytes:
        self.masked = {
            n: self.of[n].masked(data, self.vectors[n])
            for n, data in self.deliveries.items()
            if n not in gone
        }
        self.unmask, self.refused["masked"] = self.server.masked(self.masked)  # type: ignore[assignment]
        return self.unmask

    def endorse(self, gone: Collection[int] = ()) -> bytes:
        self.endorsed = {n: self.of[n].endorsed(self.unmask) for n in self.masked if n not in gone}
        self.agreement, refused = self.server.endorsed(self.endorsed)
        self.refused["endorsed"] = refused
        return self.agreement

    def reveal(self, gone: Collection[int] = ()) -> tuple[NDArray[np.int64], int]:
        request = self.endorse() if self.server.sparse else self.unmask
        self.revealed = {n: self.of[n].revealed(request) for n in self.masked if n not in gone}
        return self.server.revealed(self.revealed)

    def go(self, *gone: Collection[int]) -> tuple[NDArray[np.int64], int]:
        """The whole round.

        `gone` says who drops out before adverts, shares, vectors and revealed shares come.
        """
        phases = [*gone, *[()] * (4 - len(gone))]
        self.advertise(phases[0])
        self.share(phases[1])
        self.mask(phases[2])
        return self.reveal(phases[3])

    def plain(self, *gone: int) -> NDArray[np.int64]:
        """The sum of the vectors of all but these."""
        return np.asarray(self.vectors[[n for n in range(self.devices) if n not in gone]].sum(0))
