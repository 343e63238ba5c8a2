"""Keeps the vault's key in the system's keyring, for a person who does not want to type a passphrase.

Used by `vault` through the `KeyStore` interface. The `keyring` package *fails open*: on a machine without a
desktop it may choose a back end that keeps nothing, or one that writes passwords into a plain file by the
vault, and a key next to its lock protects nothing. So only the back ends of the operating systems themselves
are accepted, by name.
"""

import base64
import binascii
from typing import Any, Protocol

from palate.shared.errors import OptionError, StorageError

_SERVICE = "palate"
_TRUSTED_BACKENDS = (
    "keyring.backends.macOS",
    "keyring.backends.Windows",
    "keyring.backends.SecretService",
    "keyring.backends.libsecret",
    "keyring.backends.kwallet",
)


class KeyStore(Protocol):
    """A place outside the vault's folder that keeps a few small secrets by name."""

    def get(self, name: str) -> bytes | None:
        """Return the secret, or None if there is none of that name."""

    def set(self, name: str, secret: bytes) -> None:
        """Keep the secret under that name; raises `StorageError` if it is not kept."""

    def delete(self, name: str) -> None:
        """Forget the secret; one that is not there is no error."""


class SystemKeyring:
    """The keyring of the operating system (Keychain, Credential Manager, Secret Service, KWallet)."""

    def __init__(self) -> None:
        """Find the keyring; raises `OptionError` when there is none that protects a key."""
        try:
            import keyring
        except ImportError:
            raise OptionError(
                "the system's keyring needs the package 'keyring'; install it, or use a passphrase"
            ) from None
        self._backend: Any = keyring.get_keyring()
        unprotected = [part for part in _parts(self._backend) if not _is_trusted(part)]
        if unprotected or not _parts(self._backend):
            raise OptionError(
                f"this system's keyring ({_describe(self._backend)}) does not protect a key; "
                "use a passphrase instead"
            )

    def get(self, name: str) -> bytes | None:
        """Return the secret, or None; raises `StorageError` if the keyring does not answer."""
        text = self._ask("read", lambda: self._backend.get_password(_SERVICE, name))
        if text is None:
            return None
        try:
            return base64.b64decode(str(text), validate=True)
        except binascii.Error:
            raise StorageError(f"the keyring's entry {name!r} was changed by another program") from None

    def set(self, name: str, secret: bytes) -> None:
        """Keep the secret; raises `StorageError` if the keyring refuses it."""
        self._ask(
            "written", lambda: self._backend.set_password(_SERVICE, name, base64.b64encode(secret).decode())
        )

    def delete(self, name: str) -> None:
        """Forget the secret; raises `StorageError` if the keyring refuses."""
        if self.get(name) is not None:
            self._ask("changed", lambda: self._backend.delete_password(_SERVICE, name))

    def _ask(self, deed: str, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # every back end has errors of its own, with no common parent
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StorageError(
                f"the system's keyring could not be {deed} ({reason}); unlock it and try again"
            ) from error


def find_keyring() -> KeyStore | None:
    """Return the system's keyring, or None where there is none that protects what it keeps."""
    try:
        return SystemKeyring()
    except OptionError:
        return None


def _parts(backend: Any) -> list[Any]:
    # The chainer tries several back ends in turn, so each of them must be fit to hold the key.
    if type(backend).__module__ == "keyring.backends.chainer":
        return list(backend.backends)
    return [backend]


def _is_trusted(backend: Any) -> bool:
    return type(backend).__module__ in _TRUSTED_BACKENDS


def _describe(backend: Any) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"
