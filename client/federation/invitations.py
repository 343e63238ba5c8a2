"""Who may invite this device to a round: signed invitations, checked against the server's release key.

Where it stands in the flow: `member` opens each invitation and each task here before it reads anything in it.
People pin the recovery key of a server's log of releases, with `palate join --release-key` or by adopting a
release. The log that rests on it names the release key, and the device accepts the invitations that the
release key delegates to (`shared.delegation`). A device that pinned nothing keeps the release key of the
first invitation from a server, tells its owner which one that is, and refuses every other from then on, as
ssh does with host keys. Only pinning protects the first time.

    record "invitation keys"   JSON: server, and the release key that its first invitation was signed for
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from palate.client.federation.declined import Declined
from palate.client.runtime.progress import Notice
from palate.client.vault.json_records import decode_json, encode_json, readable
from palate.client.vault.store import ONLY, Change, Records, Store
from palate.shared.delegation import Opened, open_signed_message
from palate.shared.errors import InvitationError
from palate.shared.reasons import DeclineReason
from palate.shared.releases.message import write_key

KEYS = "invitation keys"  # type of record

_VERSION = 1
_PIN = "To pin this server, give palate join --release-key the text that palate server key prints there"


class Invitations:
    """The invitations of one server, checked."""

    def __init__(
        self,
        store: Store,
        server: str,
        tell: Notice,
        pinned: Callable[[], bytes | None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read nothing yet; an invitation does.

        Args:
            store: where the keys of first invitations are kept.
            server: the server's name.
            tell: called with lines for the owner.
            pinned: returns the release key that the followed log names (32 bytes), None before there is a
                log.
            clock: returns the time now, with a zone.
        """
        self._store, self._server, self._tell, self._pinned, self._clock = store, server, tell, pinned, clock

    def open(self, wire: bytes) -> Opened:
        """Return the message of a signed invitation or task.

        Raises `Declined` unless the signature holds, or what the vault raises.
        """
        followed = self._pinned()
        known = followed or _read(self._store).get(self._server)
        try:
            return open_signed_message(wire, trusted=known, now=self._clock())
        except InvitationError as error:
            self._tell(f"declined an invitation: {error}{_advice(error, known, followed)}")
            raise Declined(DeclineReason.UNSIGNED) from None

    def keep(self, change: Change, opened: Opened) -> None:
        """Keep the key of a server's first invitation where none is pinned, and tell the owner."""
        found = _read(change)
        if self._pinned() is not None or self._server in found:
            return
        keys = {server: key.hex() for server, key in found.items()} | {self._server: opened.release_key.hex()}
        change.put(KEYS, ONLY, encode_json(_VERSION, {"keys": keys}))
        self._tell(
            f"{self._server} signs with {write_key(opened.release_key)}, its release key; from now on this "
            "device refuses "
            "any other there. Compare it with what its owner reads in palate server key --json "
            f"(release_key). {_PIN}"
        )


def _advice(error: InvitationError, known: bytes | None, followed: bytes | None) -> str:
    """Return the next step for the owner where the key is another one, else nothing."""
    if error.reason != "key" or known is None:
        return ""
    if followed is not None:
        return (
            f", {write_key(known)}, which the log of releases names that is followed here; if the server "
            "really has a new "
            f"beginning, forget the old one with palate release reset, then join again. {_PIN}"
        )
    return f", {write_key(known)}; if the server really has another: {_PIN}"


def _read(records: Records) -> dict[str, bytes]:
    """Return the release key of each server's first invitation."""
    if not records.has(KEYS, ONLY):
        return {}
    with readable("the list of servers' keys"):
        keys = decode_json(records.get(KEYS, ONLY), _VERSION)["keys"]
        return {str(server): bytes.fromhex(key) for server, key in keys.items()}
