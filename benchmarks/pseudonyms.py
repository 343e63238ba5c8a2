"""What pseudonyms cost.

The registrar, the device that gets them, and every device of a round that checks the others'.

    python -m benchmarks.pseudonyms [--slots 1000] [--devices 100 900]

Everything is the project's own code, the device with a real vault on this machine's disk. Seconds are
processor seconds of this process. "Certificate each" is what a roster costs next to the keys and the
signatures, which every roster has: with certificates minus without.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.client.federation.consent import Terms
from palate.client.federation.identity import own_identity
from palate.client.federation.pseudonyms import make_request, take_answer, use_pseudonym
from palate.client.vault.vault import Vault
from palate.server.registrar import Registrar
from palate.shared.secure_sum import masks
from palate.shared.secure_sum.blind_signature import blind, make_signing_key, sign_blinded, unblind
from palate.shared.secure_sum.messages import (
    NO_CERTIFICATE,
    Advert,
    decode_advert,
    decode_roster,
    encode_advert,
    encode_roster,
)
from palate.shared.secure_sum.pseudonym import SlotKey, certified_content

CONTEXT = bytes(32)
T = TypeVar("T")


def spent(what: str, work: Callable[[], T], each: int = 1) -> T:
    """Do the work, and prints what it took; returns what it gave."""
    before = time.process_time()
    found = work()
    seconds = time.process_time() - before
    print(f"{what}: {seconds:.3f} s" + (f", {seconds / each * 1000:.3f} ms each" if each > 1 else ""))
    return found


def batch(slots: int) -> None:
    """One device gets pseudonyms for so many slots, and uses one."""
    with tempfile.TemporaryDirectory() as folder:
        registrar = Registrar(Path(folder) / "registrar", Ed25519PrivateKey.generate())
        _, path = spent(f"registrar: keys for {slots:,} slots", lambda: registrar.make_slots(slots), slots)
        file, terms = path.read_bytes(), Terms("a:1", registrar=registrar.public.hex())
        with Vault.create(Path(folder) / "vault", "correct horse") as vault:
            registrar.register(own_identity(vault, terms).public_key().public_bytes_raw())
            request, _ = spent("device: request", lambda: make_request(vault, terms, file), slots)
            answer, _, _ = spent("registrar: answer", lambda: registrar.answer(request), slots)
            spent("device: take", lambda: take_answer(vault, terms, answer), slots)
            print(f"bytes: slot keys {len(file):,}, request {len(request):,}, answer {len(answer):,}")
            for slot in (1, slots // 2):
                spent(
                    f"device: use the pseudonym of slot {slot:,}",
                    lambda s=slot: use_pseudonym(vault, terms, s),
                )  # type: ignore[misc]


def rosters(counts: list[int]) -> None:
    """Measure how a device reads rosters of so many devices, with certificates and without."""
    signing = make_signing_key()
    key = SlotKey(1, signing.modulus)

    def advert(certified: bool) -> Advert:
        own = Ed25519PrivateKey.generate()
        keys = [masks.public_key(Ed25519PrivateKey.generate().private_bytes_raw()) for _ in range(2)]
        paper = NO_CERTIFICATE
        if certified:
            content = certified_content(own.public_key().public_bytes_raw(), 1)
            blinded, secret = blind(content, signing.modulus)
            paper = unblind(content, sign_blinded(blinded, signing), secret, signing.modulus)
        return decode_advert(encode_advert(CONTEXT, own, *keys, paper), context=CONTEXT)

    for count in counts:
        took = []
        for certified in (False, True):
            data = encode_roster([advert(certified) for _ in range(count)])
            before = time.process_time()
            decode_roster(data, context=CONTEXT, slot_key=key if certified else None)
            took.append(time.process_time() - before)
            print(
                f"roster of {count}, {'certified' if certified else 'plain'}: {len(data):,} bytes, "
                f"{took[-1]:.4f} s"
            )
        print(f"certificate each: {(took[1] - took[0]) / count * 1e6:.1f} microseconds")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=1_000)
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 900])
    given = parser.parse_args()
    rosters(given.devices)
    batch(given.slots)


if __name__ == "__main__":
    main()
