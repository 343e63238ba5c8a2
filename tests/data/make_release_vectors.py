"""Makes release_vectors.json again: python tests/data/make_release_vectors.py (prints what changed).

The private keys are those of tests only. Offsets of the hostile vectors are found by the layout, not by
counting.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from palate.shared.releases.check import backbone_hash
from palate.shared.releases.message import (
    Acceptance,
    Card,
    PrivacySpent,
    ReleaseLog,
    SignedRelease,
    card_to_json,
    encode_log,
    encode_release,
    write_key,
)
from palate.shared.releases.witness import witness_of, write_witness

FILE = Path(__file__).parent / "release_vectors.json"
PRIVATE = {
    "release": bytes(range(32)),
    "recovery": bytes(range(32, 64)),
    "next release": bytes(range(64, 96)),
    "next recovery": bytes(range(96, 128)),
}
KEYS = {name: Ed25519PrivateKey.from_private_bytes(data) for name, data in PRIVATE.items()}
WHEN = 1_795_000_000
HEAD, ENTRY, CARD = 8 + 32 + 4, 1 + 4 + 32 + 8, 4 + 4 + 8 + 6 * 32 + 4 * 8 + 32 + 4 + 3 * 8
KEYS_ENTRY = ENTRY + 64 + 3 * 64
RELEASE_ENTRY = ENTRY + CARD + 64


def digest(words: str) -> str:
    """The SHA-256 of words, where a card wants a hash."""
    return hashlib.sha256(words.encode()).hexdigest()


def card(number: int, privacy: PrivacySpent | None, acceptance: Acceptance | None) -> Card:
    """A card of the vectors."""
    return Card(
        release=number,
        round=256 + number,
        updates=3 * (256 + number),
        hash=digest(f"encoder {number}"),
        parent=digest(f"encoder {number - 1}"),
        shapes=digest("shapes"),
        fixed=digest("fixed"),
        backbone=digest("backbone"),
        sha256=digest(f"file {number}"),
        privacy=privacy,
        acceptance=acceptance,
    )


def vector_log() -> ReleaseLog:
    """Keys, a release, other keys, a release, another recovery key."""
    key, recovery, key_2, recovery_2 = KEYS.values()
    log = ReleaseLog.begin(key, recovery, WHEN, shipped=digest("encoder 0"))
    log = log.with_release(card(1, None, None), WHEN + 1, key)
    log = log.with_keys(key_2, recovery, WHEN + 2, by=recovery)
    privacy = PrivacySpent(1.75, 1e-6, "banded-matrix", 4.5, float("inf"))
    log = log.with_release(card(2, privacy, Acceptance(500, -0.25, 0.9375, 0.125)), WHEN + 3, key_2, days=30)
    return log.with_keys(key_2, recovery_2, WHEN + 4, by=recovery)


def hostile(size: int, message: int) -> list[dict[str, Any]]:
    """Bytes to be refused, each with the reason."""
    first = HEAD + KEYS_ENTRY
    second = first + RELEASE_ENTRY + KEYS_ENTRY
    figures = second + ENTRY + 4 + 4 + 8 + 6 * 32
    word, test = figures + 32, figures + 32 + 32
    first_figures = first + ENTRY + 4 + 4 + 8 + 6 * 32
    end = size - 64 - 16

    def log(name: str, reason: str, *patches: tuple[int, str], cut: int | None = None) -> dict[str, Any]:
        return {
            "name": name,
            "of": "log",
            "patches": [list(one) for one in patches],
            "cut": cut,
            "reason": reason,
            "checksum": False,
        }

    def of_message(
        name: str, reason: str, *patches: tuple[int, str], checksum: bool = True
    ) -> dict[str, Any]:
        return {**log(name, reason, *patches), "of": "message", "checksum": checksum}

    return [
        log("another magic", "magic", (0, "71")),
        log("a message where a log is due", "kind", (6, "0b")),
        log("the version before", "version", (7, "01")),
        log("cut inside the statement", "size", cut=size - 3),
        log("cut to nothing", "size", cut=0),
        log("one entry fewer than it says", "kind", (HEAD - 4, "06000000")),
        log("one entry more than it says", "number", (HEAD - 4, "04000000")),
        log("more entries than are read", "number", (HEAD - 4, "ffffffff")),
        log("an unknown kind of entry", "kind", (HEAD, "03")),
        log("entry 0", "number", (HEAD + 1, "00000000")),
        log("a time after the year 9999", "number", (HEAD + 37, "ff" * 8)),
        log(
            "one key for both", "key", (HEAD + ENTRY, KEYS["recovery"].public_key().public_bytes_raw().hex())
        ),
        log("release 0 as a release of its own", "number", (first + ENTRY, "00000000")),
        log("an epsilon that is not a number", "number", (figures, "000000000000f87f")),
        log("an infinite epsilon", "number", (figures, "000000000000f07f")),
        log("an epsilon of minus zero", "number", (figures, "0000000000000080")),
        log("a delta of one", "number", (figures + 8, "000000000000f03f")),
        log("an unsampled epsilon below zero", "number", (figures + 16, "000000000000f0bf")),
        log("an epsilon alone that is not a number", "number", (figures + 24, "000000000000f87f")),
        log("a mechanism with a capital letter", "number", (word, "42")),
        log("a mechanism with a hole", "number", (word + 2, "00")),
        log("an epsilon without a mechanism", "number", (word, "00" * 32)),
        log("minus zero without a mechanism", "number", (first_figures, "0000000000000080")),
        log("a test without pictures", "number", (test, "00000000")),
        log("a correlation above one", "number", (test + 4, "000000000000f83f")),
        log("a correlation that is not a number", "number", (test + 12, "000000000000f87f")),
        log("a noise below zero", "number", (test + 20, "000000000000f0bf")),
        log("a statement that ends before it begins", "number", (end + 8, "01" + "00" * 7)),
        log("a statement for two years", "number", (end, (WHEN - 365 * 86_400).to_bytes(8, "little").hex())),
        of_message("a log where a message is due", "kind", (6, "0c")),
        of_message("a changed byte", "damaged", (message - 5, "ff"), checksum=False),
        of_message("a log longer than the message", "size", (8, "ffffff7f")),
        of_message("an encoder longer than the message", "size", (12 + size, "ff000000")),
        of_message("an encoder longer than any", "size", (12 + size, "ffffff7f")),
        of_message("the encoder is shorter than it says it is", "size", (12 + size, "01000000")),
    ]


def main() -> None:
    """Write the file; what does not depend on the format (statistics) is kept as it is."""
    log = vector_log()
    encoder = b"the encoder's bytes would stand here"
    message = encode_release(SignedRelease(log, encoder))
    files = {"a": digest("a"), "b": digest("b")}
    content = {
        "about": "Test vectors of signed releases, form 2 (shared/releases), "
        "made by make_release_vectors.py. Hashes in cards are SHA-256 of words. "
        "Refused: the named bytes, cut to `cut` bytes if given, with "
        "bytes replaced at offsets, and with a checksum made anew where it says so.",
        "keys": {
            name: {
                "private": PRIVATE[name].hex(),
                "public": key.public_key().public_bytes_raw().hex(),
                "text": write_key(key.public_key().public_bytes_raw()),
            }
            for name, key in KEYS.items()
        },
        "shipped": log.shipped,
        "entries": [
            {
                "when": entry.when,
                "card": card_to_json(entry.content) if isinstance(entry.content, Card) else None,
                "bytes": entry.content_bytes.hex(),
                "signatures": [one.hex() for one in entry.signatures],
                "previous": entry.previous,
                "hash": entry.hash,
            }
            for entry in log.entries
        ],
        "statement": {
            "when": log.statement.when,
            "until": log.statement.until,
            "signature": log.statement.signature.hex(),
        },
        "log": encode_log(log).hex(),
        "encoder": encoder.hex(),
        "message_sha256": hashlib.sha256(message).hexdigest(),
        "message_bytes": len(message),
        "witness": write_witness(witness_of(log)),
        "refused": hostile(len(encode_log(log)), len(message)),
        "backbone": {
            "files": files,
            "statistics": "version 1: x,y",
            "hash": backbone_hash(files, "version 1: x,y"),
        },
        "statistics": json.loads(FILE.read_text("utf-8"))["statistics"],
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {len(log.entries)} entries, log of {len(encode_log(log)):,} bytes, head {log.head}")


if __name__ == "__main__":
    main()
