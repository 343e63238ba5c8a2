"""Seals bytes so that only the holder of a key can read them, and any change to them is noticed.

This is the lowest part of the vault: `format` says what is sealed, `vault` when it is written.
The primitives come from the `cryptography` package and have no settings, so there is none to get wrong:

- a passphrase becomes a key through Argon2id (RFC 9106, second recommended choice: 64 MiB, 3 passes, 4
  lanes);
- a key becomes keys for separate purposes through HKDF-SHA256 (RFC 5869), so that no key serves two ends;
- bytes are sealed with AES-256-GCM (NIST SP 800-38D) under a random 96-bit nonce: `nonce | ciphertext | tag`.

What is sealed is *bound* to where it belongs (store, type, id, version) as associated data: moved elsewhere,
it does not open. Plaintexts are padded to whole blocks of 256 bytes, so that the length of a file does not
give away the length of a comment.

A random nonce is safe for 2^32 messages under one key. Every record has a data key of its own, and the few
keys that are used repeatedly (the vault's head, the wrapping of data keys) would need thousands of millions
of changes for that.
"""

import secrets
import struct
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from palate.shared.errors import OptionError

KEY_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
ARGON2_MEMORY_KIB = 64 * 1024
ARGON2_PASSES = 3
ARGON2_LANES = 4
PADDING_BLOCK_BYTES = 256


class SealBrokenError(Exception):
    """The bytes were changed, cut short, moved, or sealed under another key.

    Not a `PalateError`: the caller knows what it means (a wrong passphrase, a damaged vault) and says
    so.
    """


def new_key() -> bytes:
    """Return a fresh random key of 32 bytes from the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


def derive_key(passphrase: str, salt: bytes) -> bytes:
    """Turn a passphrase and a salt of 16 bytes into a key of 32 bytes.

    It is slow on purpose (about 0.2 s and 64 MiB).

    The passphrase is first brought to Unicode's NFKC form, so that it opens the vault from any keyboard.
    Raises `OptionError` for an empty passphrase, or one that is no text.
    """
    try:
        words = unicodedata.normalize("NFKC", passphrase).encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError("the passphrase holds characters that are no text; choose another one") from None
    if not words:
        raise OptionError("the passphrase is empty; give at least one character, better a few words")
    argon2 = Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=ARGON2_PASSES,
        lanes=ARGON2_LANES,
        memory_cost=ARGON2_MEMORY_KIB,
    )
    return argon2.derive(words)


def derive_subkey(key: bytes, purpose: str, context: bytes, length: int = KEY_BYTES) -> bytes:
    """Derive the key for one purpose from a random key (HKDF-SHA256; `context` is its salt)."""
    hkdf = HKDF(algorithm=hashes.SHA256(), length=length, salt=context, info=f"palate {purpose} 1".encode())
    return hkdf.derive(key)


def bind(*parts: bytes | str | int) -> bytes:
    """Join the parts into associated data that no other parts give: before each, its kind and length."""
    joined = bytearray()
    for part in parts:
        if isinstance(part, int):
            joined += b"i" + struct.pack(">Q", part)
        else:
            kind, raw = (b"s", part.encode()) if isinstance(part, str) else (b"b", part)
            joined += kind + struct.pack(">I", len(raw)) + raw
    return bytes(joined)


def seal(key: bytes, plaintext: bytes, bound: bytes) -> bytes:
    """Seal `plaintext` under `key`, bound to `bound`, as `nonce | ciphertext | tag`."""
    return _seal_with_nonce(key, plaintext, bound, secrets.token_bytes(NONCE_BYTES))


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Return what was sealed; raises `SealBrokenError` unless key, bytes and `bound` are those of `seal`."""
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise SealBrokenError("too short to be sealed")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except InvalidTag:
        raise SealBrokenError("the seal does not fit") from None


def _seal_with_nonce(key: bytes, plaintext: bytes, bound: bytes, nonce: bytes) -> bytes:
    # Apart from `seal` only the test vectors call this: a nonce that is used twice breaks AES-GCM.
    return nonce + AESGCM(key).encrypt(nonce, plaintext, bound)


def pad(plaintext: bytes) -> bytes:
    """Fill up to whole blocks of 256 bytes, the true length first, so that the sealed length says little."""
    length = struct.pack(">Q", len(plaintext))
    return length + plaintext + bytes(-(len(length) + len(plaintext)) % PADDING_BLOCK_BYTES)


def unpad(padded: bytes) -> bytes:
    """Undo `pad`; raises `SealBrokenError` for bytes that `pad` did not make."""
    if len(padded) < 8:
        raise SealBrokenError("no length inside the seal")
    (length,) = struct.unpack(">Q", padded[:8])
    if length > len(padded) - 8:
        raise SealBrokenError("the length inside the seal is wrong")
    return padded[8 : 8 + length]
