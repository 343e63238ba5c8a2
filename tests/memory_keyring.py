"""A keyring for tests that lies in memory."""

from palate.shared.errors import StorageError


class MemoryKeyring:
    """Keeps secrets as the system's keyring does; a locked one answers nothing."""

    def __init__(self) -> None:
        self.secrets: dict[str, bytes] = {}
        self.locked = False

    def _ask(self) -> None:
        if self.locked:
            raise StorageError("the system's keyring could not be read (locked); unlock it and try again")

    def get(self, name: str) -> bytes | None:
        self._ask()
        return self.secrets.get(name)

    def set(self, name: str, secret: bytes) -> None:
        self._ask()
        self.secrets[name] = secret

    def delete(self, name: str) -> None:
        self._ask()
        self.secrets.pop(name, None)
