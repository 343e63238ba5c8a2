"""What masks cost a round.

Bytes against the same vectors sent unmasked, time against the same round without masks.

    python -m benchmarks.masks [--quick]

50 devices, vectors of 75,000 values, 30 % of the devices gone after they have shared their secrets (the
costliest moment), all in one process on one core. Each device trains with `train_locally` on 24 labels in one
step, as the default settings say. Times are processor seconds of the same run, medians; two readings of
"round" are given, since devices train side by side and here they take turns: all devices' work added up with
the server's, and one device's (the mean) with the server's. What a network and polling add is in neither. The
comparator of the bytes is the survivors' ring vectors alone; all messages that masks need count, both ways,
those of the devices that dropped out too.
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.rows import Row, print_rows
from palate.client.federation.local_training import Labels, train_locally
from palate.client.federation.masked_round import MaskedRound
from palate.client.federation.privatize import privatize
from palate.server.secure_sum.unmasking import MaskedSum
from palate.shared.encoder import (
    PICTURE_FEATURES,
    SENTENCE_FEATURES,
    SHARED_SHAPES,
    EncoderWeights,
    load_encoder,
)
from palate.shared.secure_sum.agreement import encode_agreement, encode_endorsement
from palate.shared.secure_sum.masks import (
    SIGNATURE_BYTES,
    MaskSettings,
    degree,
    digest_of,
    holders_at,
    session_of,
    smallest_sum,
    threshold_of,
)
from palate.shared.secure_sum.messages import (
    SEALED_BYTES,
    Invitation,
    context_of,
    decode_advert,
    decode_roster,
    encode_advert,
    encode_delivery,
    encode_invitation,
    encode_roster,
    encode_unmask,
)
from palate.shared.secure_sum.ring import add_masks, centred, pack, packed_bytes, ring_type, to_ring, unpack
from palate.shared.update import EncoderUpdate, LocalSettings

COMMAND = "python -m benchmarks.masks"
DEVICES, VALUES, GONE = 50, 75_000, 0.3
OWN_BITS = 6  # a device's own levels, from -31 to 31: fifty of them add up within 12 bits
RING_BITS = 12
LABELS = 24
NOISE = 2.0  # levels: the standard deviation of each device's share of the noise
RUNS = 5
SAMPLE = 4  # devices of a cohort whose time is taken


@dataclass
class Watch:
    """Processor seconds by who spent them."""

    spent: dict[str, float] = field(default_factory=dict)

    def time(self, who: str, work: Any, *given: Any) -> Any:
        """Do some work on somebody's account."""
        began = time.process_time()
        done = work(*given)
        self.spent[who] = self.spent.get(who, 0.0) + time.process_time() - began
        return done


@dataclass(frozen=True)
class RoundCost:
    """One round: its sum, its bytes, and who spent how many seconds (`devices`: all together)."""

    total: NDArray[np.int64]
    bytes_up: int
    bytes_down: int
    spent: dict[str, float]


def draw_labels(rng: np.random.Generator) -> Labels:
    """Random labels of one device: what training costs does not depend on what they say."""
    phrases = rng.normal(size=(LABELS, SENTENCE_FEATURES)).astype(np.float32)
    features = rng.normal(size=(LABELS, PICTURE_FEATURES)).astype(np.float32)
    liked = np.arange(LABELS) % 2 == 0
    return Labels(features, liked, phrases / np.linalg.norm(phrases, axis=1, keepdims=True))


def masked_round(levels: NDArray[np.int64], gone: set[int], ring_bits: int) -> RoundCost:
    """Run a masked round over the rows of `levels`, in which some devices drop out after sharing."""
    settings = MaskSettings(ring_bits=ring_bits)
    invitation = encode_invitation(Invitation(1, 0, "00" * 32, 1, LocalSettings(), settings, b""))
    identities = [Ed25519PrivateKey.generate() for _ in levels]
    watch = Watch()
    devices = [
        watch.time("devices", lambda one=one: MaskedRound(invitation, identity=one)) for one in identities
    ]
    server = MaskedSum(invitation, settings, levels.shape[1])
    adverts = {n: one.advert() for n, one in enumerate(devices)}
    roster, refused = watch.time("server", server.adverts, adverts)
    shares = {n: watch.time("devices", one.shares, roster) for n, one in enumerate(devices)}
    deliveries, refused_shares = watch.time("server", server.shares, shares)
    staying = [n for n in range(len(levels)) if n not in gone]
    masked = {n: watch.time("devices", devices[n].masked, deliveries[n], levels[n]) for n in staying}
    unmask, refused_vectors = watch.time("server", server.masked, masked)
    revealed = {n: watch.time("devices", devices[n].revealed, unmask) for n in staying}
    total, count = watch.time("server", server.revealed, revealed)
    if refused or refused_shares or refused_vectors or count != len(staying):
        raise RuntimeError("an honest device was refused")
    up = sum(len(data) for sent in (adverts, shares, masked, revealed) for data in sent.values())
    down = len(devices) * len(roster) + sum(map(len, deliveries.values())) + len(staying) * len(unmask)
    return RoundCost(total, up, down, watch.spent)


def plain_round(levels: NDArray[np.int64], gone: set[int], ring_bits: int) -> RoundCost:
    """Run the same round without masks: the same vectors packed, sent and added up."""
    watch = Watch()
    staying = [n for n in range(len(levels)) if n not in gone]
    sent = [
        watch.time("devices", lambda n=n: pack(to_ring(levels[n], ring_bits), ring_bits)) for n in staying
    ]

    def add_up() -> NDArray[np.int64]:
        total = np.zeros(levels.shape[1], ring_type(ring_bits))
        for data in sent:
            np.add(total, unpack(data, levels.shape[1], ring_bits), out=total)
        return centred(total, ring_bits)

    total = watch.time("server", add_up)
    return RoundCost(total, sum(map(len, sent)), 0, watch.spent)


def train_all(encoder: EncoderWeights, labels: Sequence[Labels], staying: Sequence[int]) -> float:
    """Return the seconds that training takes, one device after the other."""
    began = time.process_time()
    for n in staying:
        train_locally(encoder, labels[n], LocalSettings(), round=1, seed=n)
    return time.process_time() - began


def shielding() -> float:
    """Return the seconds in which one device's change is clipped, rotated, rounded and noised."""
    rng = np.random.default_rng(6)
    change = {
        name: (1e-3 * rng.normal(size=shape)).astype(np.float32) for name, shape in SHARED_SHAPES.items()
    }
    update = EncoderUpdate("00" * 32, 1, change)
    settings = MaskSettings(ring_bits=RING_BITS, step=0.01, clip=1.0, noise=NOISE)
    privatize(update, settings, bytes(32))
    began = time.process_time()
    for _ in range(5):
        privatize(update, settings, bytes(32))
    return (time.process_time() - began) / 5


def in_groups(levels: NDArray[np.int64], size: int) -> dict[str, float]:
    """Return what a masked round costs whose groups are summed alone, with 30 % of each gone."""
    groups = [levels[start : start + size] for start in range(0, len(levels), size)]
    found = [masked_round(one, set(range(round(size * GONE))), RING_BITS) for one in groups]
    staying = len(groups) * (size - round(size * GONE))
    plain = staying * packed_bytes(levels.shape[1], RING_BITS)
    return {
        "devices_in_a_group": size,
        "bytes_ratio": round(sum(one.bytes_up + one.bytes_down for one in found) / plain, 4),
        "masks_of_one_device_ms": round(1e3 * sum(one.spent["devices"] for one in found) / len(levels), 2),
        "masks_at_the_server_ms": round(1e3 * sum(one.spent["server"] for one in found), 1),
    }


def one_device(count: int) -> float:
    """Return seconds that one device's masks take in a cohort of so many, from its keys to what it reveals.

    A mean of some devices.

    The others only advertise and endorse, with real keys. What they would have sealed for the device is
    random bytes, which cost as much to refuse as to open.
    """
    settings, values = MaskSettings(), 4_097
    invitation = encode_invitation(Invitation(1, 0, "00" * 32, 1, LocalSettings(), settings, b""))
    context, levels = context_of(invitation), np.zeros(values, np.int64)
    identities = [Ed25519PrivateKey.generate() for _ in range(count)]
    keys = [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(2 * count)]
    others = [
        decode_advert(encode_advert(context, one, *keys[2 * n : 2 * n + 2]), context=context)
        for n, one in enumerate(identities[SAMPLE:], SAMPLE)
    ]
    watch = Watch()
    devices = [
        watch.time("device", lambda one=one: MaskedRound(invitation, identity=one))
        for one in identities[:SAMPLE]
    ]
    own = [decode_advert(one.advert(), context=context) for one in devices]
    data = encode_roster([*own, *others])
    roster = decode_roster(data, context=context, whose=lambda _: ())
    named = {one.public_key().public_bytes_raw(): one for one in identities}
    for device, advert in zip(devices, own, strict=True):
        place = roster.adverts.index(advert)
        watch.time("device", device.shares, data)
        share = settings.threshold_share
        near = len(holders_at(roster.hash, count, share, place)) - 1
        everyone = frozenset(range(count))
        delivery = encode_delivery(
            roster, place, everyone, [secrets.token_bytes(SEALED_BYTES) for _ in range(near)]
        )
        watch.time("device", device.accept_delivery, delivery)
        watch.time("device", device.mask, levels)
        request = encode_unmask(session_of(context, roster.hash, everyone, count), everyone, (), count)
        if device.sparse:
            watch.time("device", device.endorsed, request)
            hash_ = digest_of(request)
            signatures = {
                at: encode_endorsement(hash_, named[roster.identity(at)])[-SIGNATURE_BYTES:]
                for at in range(threshold_of(count, share))
            }
            request = encode_agreement(hash_, signatures, count)
        watch.time("device", device.revealed, request)
    return watch.spent["device"] / SAMPLE


def by_cohort(sizes: Sequence[int]) -> dict[int, dict[str, float]]:
    """Return what masks cost a device by the size of the cohort, its neighbours, and the smallest sum."""
    settings = MaskSettings()
    return {
        count: {
            "milliseconds": round(1e3 * one_device(count), 1),
            "neighbours": degree(count, settings.threshold_share),
            "smallest_sum_a_lying_server_can_get": smallest_sum(count, MaskSettings(least=count // 2)),
        }
        for count in sizes
    }


def expansion(ring_bits: int) -> float:
    """Microseconds that one mask of 75,000 values takes to be made and added."""
    total = np.zeros(VALUES, ring_type(ring_bits))
    began = time.process_time()
    add_masks(total, [(n.to_bytes(32, "little"), n % 2 == 0) for n in range(200)])
    return 1e6 * (time.process_time() - began) / 200


def run(*, quick: bool = False) -> list[Row]:
    """Return the rows: exactness, bytes, time."""
    values, runs = (2_000, 1) if quick else (VALUES, RUNS)
    rng = np.random.default_rng(4)
    most = (1 << (OWN_BITS - 1)) - 1
    levels = rng.integers(-most, most + 1, (DEVICES, values), dtype=np.int64)
    gone = set(random.Random(1).sample(range(DEVICES), round(DEVICES * GONE)))
    staying = [n for n in range(DEVICES) if n not in gone]
    truth = levels[staying].sum(0)
    encoder, labels = load_encoder(), [draw_labels(rng) for _ in range(DEVICES)]
    train_all(encoder, labels, staying[:3])  # what is done once is done
    masked, plain, trained = [], [], []
    for _ in tqdm(range(runs), desc="rounds", mininterval=1, disable=None):
        trained.append(train_all(encoder, labels, staying))
        plain.append(plain_round(levels, gone, RING_BITS))
        masked.append(masked_round(levels, gone, RING_BITS))
    exact = all(np.array_equal(one.total, truth) for one in (*masked, *plain))
    by_bits = {
        bits: masked_round(levels, gone, bits) for bits in ((RING_BITS,) if quick else (8, RING_BITS, 16))
    }
    return [
        Row(
            "masked sum of 50 devices, 30 % gone: values that differ from the plain sum",
            float(max(np.count_nonzero(one.total != truth) for one in masked)),
            "0, bit-equal",
            exact,
            COMMAND,
            {"values": values, "smallest_sum_a_lying_server_can_get": smallest_sum(DEVICES, MaskSettings())},
        ),
        _bytes_row(by_bits, values, len(staying)),
        *_time_rows(trained, plain, masked, len(staying), in_groups(levels, 10)),
        _cohort_row((30, 100) if quick else (30, 64, 66, 100, 128, 200, 300, 1_000)),
    ]


def _cohort_row(sizes: Sequence[int]) -> Row:
    found = by_cohort(sizes)
    figure = found[100]["milliseconds"]
    return Row(
        "masks of one device in a cohort of 100, milliseconds of the processor",
        figure,
        "at most 40",
        figure <= 40,
        COMMAND,
        {"by_cohort": found},
    )


def _bytes_row(by_bits: dict[int, RoundCost], values: int, staying: int) -> Row:
    one = by_bits[RING_BITS]
    all_bytes = {bits: found.bytes_up + found.bytes_down for bits, found in by_bits.items()}
    ratio = all_bytes[RING_BITS] / (staying * packed_bytes(values, RING_BITS))
    return Row(
        "bytes of a masked round, both ways, against the same ring vectors in the clear",
        round(ratio, 4),
        "at most 1.25",
        ratio <= 1.25,
        COMMAND,
        {
            "ring_bits": RING_BITS,
            "up_only": round(one.bytes_up / (staying * packed_bytes(values, RING_BITS)), 4),
            "against_own_values_packed_narrowest": round(
                all_bytes[RING_BITS] / (staying * packed_bytes(values, OWN_BITS)), 4
            ),
            "own_bits": OWN_BITS,
            "bytes_beside_the_vector_per_device": round(
                (all_bytes[RING_BITS] - staying * packed_bytes(values, RING_BITS)) / DEVICES
            ),
            "ratio_by_ring_bits": {
                bits: round(size / (staying * packed_bytes(values, bits)), 4)
                for bits, size in all_bytes.items()
            },
        },
    )


def _time_rows(
    trained: list[float],
    plain: list[RoundCost],
    masked: list[RoundCost],
    staying: int,
    groups: dict[str, float],
) -> list[Row]:
    def middle(rounds: list[RoundCost], who: str) -> float:
        return statistics.median(one.spent[who] for one in rounds)

    training, shielded = statistics.median(trained), shielding()
    clear, hidden = (
        {"devices": middle(found, "devices"), "server": middle(found, "server")} for found in (plain, masked)
    )
    # One device next to the server: of those without masks only the ones that stay have worked.
    alone = (hidden["devices"] / DEVICES + hidden["server"], clear["devices"] / staying + clear["server"])
    together = (sum(hidden.values()), sum(clear.values()))
    figures = {
        "training_of_one_device_ms": round(1e3 * training / staying, 2),
        "masks_of_one_device_ms": round(1e3 * hidden["devices"] / DEVICES, 2),
        "masks_at_the_server_ms": round(1e3 * hidden["server"], 1),
        "plain_sum_at_the_server_ms": round(1e3 * clear["server"], 1),
        "one_mask_microseconds": {bits: round(expansion(bits), 1) for bits in (8, 12, 16, 32)},
        "without_training": {
            "one_device_and_the_server": round(alone[0] / alone[1], 2),
            "all_on_one_core": round(together[0] / together[1], 2),
        },
        "in_groups": groups,
        "shielding_of_one_device_ms": round(1e3 * shielded, 2),
        "with_training_and_shielding": {
            "one_device_and_the_server": round(
                (training / staying + shielded + alone[0]) / (training / staying + shielded + alone[1]), 2
            ),
            "all_on_one_core": round(
                (training + staying * shielded + together[0]) / (training + staying * shielded + together[1]),
                2,
            ),
        },
        "added_seconds_per_round_one_device_and_the_server": round(alone[0] - alone[1], 3),
        # Where the bar would be met: the time of everything else in a round, transport and polling included.
        "seconds_of_a_round_from_which_masks_cost_half_of_it": round(2 * (alone[0] - alone[1]), 3),
    }
    rows = []
    for name, (with_masks, without), share in (
        ("one device and the server", alone, training / staying),
        ("all devices and the server on one core", together, training),
    ):
        ratio = (share + with_masks) / (share + without)
        rows.append(
            Row(
                f"time of a masked round with training against one without masks: {name}",
                round(ratio, 3),
                "at most 1.5",
                ratio <= 1.5,
                COMMAND,
                figures,
            )
        )
    return rows


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="small vectors, one run")
    print_rows(run(quick=p.parse_args().quick))
