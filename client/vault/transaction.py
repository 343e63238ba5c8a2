"""Changes to the vault that are made together: collected here in memory, written by `Vault` in one step."""

from palate.client.vault.format import Name
from palate.client.vault.store import Records


class Transaction:
    """Changes that are made together; see `Vault.transaction`. Reading from it sees the changes so far."""

    def __init__(self, vault: Records) -> None:
        """Begun by `Vault.transaction` alone."""
        self._vault = vault
        self.puts: dict[Name, bytes] = {}
        self.deletes: set[Name] = set()
        self.done = False

    def put(self, type_: str, id_: str, content: bytes) -> None:
        """Write a record, new or over an older one (whose data key is destroyed)."""
        self._refuse_if_done()
        if not type_ or not id_ or len(type_) + len(id_) > 500:
            raise ValueError(
                f"type and id of a record have 1 to 500 characters together, not {type_!r}, {id_!r}"
            )
        self.puts[type_, id_] = bytes(content)
        self.deletes.discard((type_, id_))

    def delete(self, type_: str, id_: str) -> None:
        """Forget a record (its data key is destroyed, its file removed); raises `KeyError` for none."""
        self._refuse_if_done()
        if not self.has(type_, id_):
            raise KeyError((type_, id_))
        self.puts.pop((type_, id_), None)
        self.deletes.add((type_, id_))

    def get(self, type_: str, id_: str) -> bytes:
        """Return a record's content as it will be; raises `KeyError` if there will be none."""
        if (type_, id_) in self.deletes:
            raise KeyError((type_, id_))
        if (type_, id_) in self.puts:
            return self.puts[type_, id_]
        return self._vault.get(type_, id_)

    def has(self, type_: str, id_: str) -> bool:
        """Say whether there will be such a record."""
        name = (type_, id_)
        return name in self.puts or (name not in self.deletes and self._vault.has(*name))

    def list(self, type_: str) -> tuple[str, ...]:
        """Return the ids of all records of one type as they will be, sorted."""
        there = {(type_, id_) for id_ in self._vault.list(type_)} | {
            name for name in self.puts if name[0] == type_
        }
        return tuple(sorted(id_ for _, id_ in there - self.deletes))

    def _refuse_if_done(self) -> None:
        if self.done:
            raise RuntimeError("the transaction has ended; begin a new one")
