"""The registrar: keys for slots, which devices it knows, and a signature for each device and slot, once.

Where it stands in the flow: `palate server slots` makes keys for slots to come and `palate server certify`
answers devices' requests (`commands.registrar`); `shared.secure_sum.pseudonym` says what the files hold and
why nobody can tell whose a certificate is. A registrar may be somebody else than the server's operator, on
another machine: its files, and the server's copies of its slot keys, need no connection.

    registrar.key                signs slot keys; its text is what devices pin
    registrar/FIRST.sealed       the primes of slots from FIRST on, sealed by a key derived from registrar.key
    registrar/devices.json       who is registered, which slots each one's requests were for, and their hashes
    slots/FIRST.slots            the public slot keys, signed; all that a server has of another's registrar

**Once.** A request goes into the books before its answer leaves. Asked the same again, byte for byte, the
registrar answers the same (a root is a root), so an answer that was lost costs nothing; another request that
names a slot of an earlier one is refused. A device that is no longer registered gets no further answer, and
what it has ends with its slots.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from palate.shared.checks import is_hex
from palate.shared.durable import locked, make_folder, storage_error, write_atomically
from palate.shared.errors import FileFormatError, OptionError, StorageError
from palate.shared.secure_sum.blind_signature import MODULUS_BYTES, SigningKey, make_signing_key, sign_blinded
from palate.shared.secure_sum.pseudonym import (
    SlotKey,
    SlotKeys,
    decode_request,
    decode_slot_keys,
    encode_answer,
    encode_slot_keys,
)

MAGIC: Final = b"PALATE SLOT PRIMES 1"
_NONCE_BYTES = 12
_PRIME_BYTES = MODULUS_BYTES // 2
_VERSION = 1
_LOCK_SECONDS = 30.0

Done = Callable[[int], None]
"""Called with how many slots are done so far."""


def _nothing(done: int) -> None:
    """Nobody looks on."""


@dataclass
class _Device:
    """What the books say of one identity."""

    withdrawn: bool = False
    requests: list[tuple[int, int, str]] = field(default_factory=list)
    """Of each: first slot, count, SHA-256."""


@dataclass(frozen=True)
class Registrar:
    """A registrar's folder, the server's `home`, and its key."""

    home: Path
    key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """The key that devices pin."""
        return self.key.public_key().public_bytes_raw()

    def make_slots(self, count: int, done: Done = _nothing) -> tuple[SlotKeys, Path]:
        """Make keys for the next slots, and return the public ones and their file.

        Devices and the server need that file.
        """
        with self._books():
            pass  # there are books before there is anything to sign with
        with self._held():
            last = max((keys.last for keys in read_slot_keys(self.home, self.public)), default=0)
            made: list[SigningKey] = []
            for number in range(1, count + 1):
                made.append(make_signing_key())
                done(number)
            public = encode_slot_keys(last + 1, [one.modulus for one in made], self.key)
            primes = b"".join(n.to_bytes(_PRIME_BYTES, "big") for one in made for n in (one.p, one.q))
            nonce = secrets.token_bytes(_NONCE_BYTES)
            keys = decode_slot_keys(public, self.public)
            sealed = MAGIC + nonce + self._cipher().encrypt(nonce, primes, MAGIC + keys.hash)
            # The secret half first: what is public can be signed for.
            write_atomically(self._sealed(last + 1), sealed, consequence="no slot keys were made")
            path = slots_folder(self.home) / f"{last + 1}.slots"
            write_atomically(path, public, consequence="no slot keys were made")
            return keys, path

    def register(self, identity: bytes) -> None:
        """Let an identity ask for certificates."""
        with self._books() as books:
            books.setdefault(identity.hex(), _Device()).withdrawn = False

    def withdraw(self, identity: bytes) -> None:
        """Let an identity ask no more; raises OptionError for one that never was registered."""
        with self._books() as books:
            if identity.hex() not in books:
                raise OptionError(
                    "this identity was never registered here; palate server certify registers one"
                )
            books[identity.hex()].withdrawn = True

    def answer(self, data: bytes, done: Done = _nothing) -> tuple[bytes, bytes, range]:
        """Sign what a request asks for; return the answer's file, the identity that asked, and its slots.

        Raises:
            FileFormatError: what is no request.
            OptionError: one to another registrar, of a device that is not registered, slots without keys,
                or a slot for which this device was answered before.
        """
        request = decode_request(data)
        slots = range(request.first, request.first + len(request.blinded))
        if request.registrar != self.public:
            raise OptionError("the request is for another registrar, so nothing was signed")
        keys = next((k for k in read_slot_keys(self.home, self.public) if k.hash == request.slot_keys), None)
        if keys is None or keys.key(slots[0]) is None or keys.key(slots[-1]) is None:
            raise OptionError("the request is for slots, or with slot keys, that this registrar has not made")
        signing = self._signing_keys(keys)[slots[0] - keys.first :]
        if any(not 0 < one < key.modulus for one, key in zip(request.blinded, signing, strict=False)):
            raise OptionError(
                "the request holds a value that is out of its slot's range, so nothing was signed"
            )
        with self._books() as books:
            device = books.get(request.identity.hex())
            if device is None or device.withdrawn:
                raise OptionError(
                    f"the identity {request.identity.hex()} is not registered here; if it is that of a "
                    f"device that you know, run: palate server certify {request.identity.hex()}"
                )
            entry = slots[0], len(slots), request.hash.hex()
            if entry not in device.requests:
                taken = [one for one in device.requests if one[0] <= slots[-1] and slots[0] < one[0] + one[1]]
                if taken:
                    raise OptionError(
                        f"this device was answered for slots {taken[0][0]} to "
                        f"{taken[0][0] + taken[0][1] - 1} before; a second certificate for a slot would let "
                        "it appear twice in a round, so nothing was signed"
                    )
                device.requests.append(entry)
        # From here on the books say that it was answered.
        signed = []
        for blinded, key in zip(request.blinded, signing, strict=False):
            signed.append(sign_blinded(blinded, key))
            done(len(signed))
        return encode_answer(request.hash, signed), request.identity, slots

    # --- inside ---

    def _signing_keys(self, keys: SlotKeys) -> list[SigningKey]:
        path = self._sealed(keys.first)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise storage_error(error, path, "nothing was signed") from None
        body = data.removeprefix(MAGIC)
        try:
            nonce, sealed = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
            primes = self._cipher().decrypt(nonce, sealed, MAGIC + keys.hash)
        except (InvalidTag, ValueError):
            raise FileFormatError(
                f"{path} was changed, or belongs to another registrar key or other slots; restore it"
            ) from None
        steps = range(0, len(primes), _PRIME_BYTES)
        numbers = [int.from_bytes(primes[start : start + _PRIME_BYTES], "big") for start in steps]
        return [SigningKey(p, q) for p, q in zip(numbers[::2], numbers[1::2], strict=True)]

    def _cipher(self) -> AESGCM:
        derived = HKDF(SHA256(), 32, None, b"palate slot primes 1").derive(self.key.private_bytes_raw())
        return AESGCM(derived)

    def _sealed(self, first: int) -> Path:
        return self.home / "registrar" / f"{first}.sealed"

    @contextmanager
    def _held(self) -> Iterator[None]:
        folder = self.home / "registrar"
        try:
            make_folder(folder)
        except OSError as error:
            raise storage_error(error, folder, "nothing was changed") from None
        with locked(folder / "lock", _LOCK_SECONDS, f"the registrar's folder {folder}", busy=StorageError):
            yield

    @contextmanager
    def _books(self) -> Iterator[dict[str, _Device]]:
        """Yield the books for a change that is kept when the block ends without an error."""
        path = self.home / "registrar" / "devices.json"
        with self._held():
            if not path.exists() and any(path.parent.glob("*.sealed")):
                raise _no_books(path)
            books = _read_books(path)
            yield books
            content = {
                name: {"withdrawn": one.withdrawn, "requests": one.requests} for name, one in books.items()
            }
            written = json.dumps({"version": _VERSION, "devices": content}, indent=1).encode()
            write_atomically(path, written, consequence="nothing was signed")


def slots_folder(home: Path) -> Path:
    """Return where the public slot keys lie."""
    return home / "slots"


def read_slot_keys(home: Path, registrar: bytes) -> list[SlotKeys]:
    """Return all of a registrar's slot keys that are in a server's folder.

    Raises:
        FileFormatError: a damaged file.
    """
    found = []
    for path in sorted(slots_folder(home).glob("*.slots")):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise storage_error(error, path, "slot keys could not be read") from None
        try:
            keys = decode_slot_keys(data)
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from None
        if keys.registrar == registrar:
            found.append(keys)
    return found


def take_slot_keys(home: Path, data: bytes, registrar: bytes | None) -> SlotKeys:
    """Keep another party's slot keys in a server's folder.

    Raises:
        FileFormatError: a file that is not of the registrar.
    """
    keys = decode_slot_keys(data, registrar)
    path = slots_folder(home) / f"{keys.first}-{keys.registrar.hex()[:16]}.slots"
    write_atomically(path, data, consequence="the slot keys were not taken")
    return keys


def find_slot_key(home: Path, registrar: bytes, slot: int) -> SlotKey | None:
    """Return a registrar's key of one slot, None if it is not in the server's folder."""
    found = (keys.key(slot) for keys in read_slot_keys(home, registrar))
    return next((key for key in found if key is not None), None)


def _read_books(path: Path) -> dict[str, _Device]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError("another version")
        return {
            _checked(name): _Device(
                bool(one["withdrawn"]),
                [(int(first), int(count), str(hash_)) for first, count, hash_ in one["requests"]],
            )
            for name, one in content["devices"].items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise storage_error(error, path, "nothing was signed") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _no_books(path) from None


def _no_books(path: Path) -> FileFormatError:
    return FileFormatError(
        f"{path} is missing or damaged; without it a device could be certified twice for a slot, so restore "
        "it from a copy"
    )


def _checked(identity: str) -> str:
    if not is_hex(identity):
        raise ValueError("no identity")
    return identity
