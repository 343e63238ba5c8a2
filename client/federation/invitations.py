"""Who may ask this device: opens signed invitations, against the release key of the log that is followed, or the first that came.

Where it stands in the flow: `joining` has each invitation and each task opened here before anything in it is read. What people pin
(with `palate join --release-key`, or by adopting a release) is the recovery key of a server's log of releases; the log that rests on
it names the release key, and a device goes along with invitations that the release key speaks for (`shared.delegation`). One that
pinned nothing keeps the release key of the first invitation that it sees from a server, tells its owner which one that is, and
refuses every other from then on, as ssh does with the keys of hosts; pinning is what protects the first time.

    record "invitation keys"   JSON: server, and the release key that its first invitation was signed for
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from palate.client.federation.declined import Declined, Notice
from palate.client.vault.store import ONLY, Change, Store
from palate.shared.delegation import Opened, open_signed_message
from palate.shared.errors import InvitationError, VaultDamagedError
from palate.shared.reasons import Reason
from palate.shared.releases.message import write_key

KEYS = "invitation keys"  # type of record

_VERSION = 1
_PIN = "To pin this server, give palate join --release-key the text that palate server key prints there"


class Invitations:
    """Opens what a server asks; `pinned` gives the release key of the log that is followed here, None before there is one."""

    def __init__(
        self,
        log: Store,
        server: str,
        tell: Notice,
        pinned: Callable[[], bytes | None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Keep first keys in `log`; nothing is read before an invitation comes."""
        self._log, self._server, self._tell, self._pinned, self._clock = log, server, tell, pinned, clock

    def open(self, wire: bytes) -> Opened:
        """Return what was asked, if it is signed as it must be; raises `Declined`, and what the vault raises."""
        followed = self._pinned()
        known = followed or _read(self._log).get(self._server)
        try:
            return open_signed_message(wire, trusted=known, now=self._clock())
        except InvitationError as error:
            self._tell(f"declined an invitation: {error}{_advice(error, known, followed)}")
            raise Declined(Reason.UNSIGNED) from None

    def keep(self, change: Change, opened: Opened) -> None:
        """Keep the key of a server's first invitation, where none is pinned, and tell the owner."""
        found = _read(change)
        if self._pinned() is not None or self._server in found:
            return
        keys = {server: key.hex() for server, key in found.items()} | {self._server: opened.release_key.hex()}
        change.put(KEYS, ONLY, json.dumps({"version": _VERSION, "keys": keys}).encode())
        self._tell(
            f"{self._server} signs with {write_key(opened.release_key)}, its release key; from now on this device refuses any other "
            f"there. Compare it with what its owner reads in palate server key --json (release_key). {_PIN}"
        )


def _advice(error: InvitationError, known: bytes | None, followed: bytes | None) -> str:
    if error.reason != "key" or known is None:
        return ""
    if followed is not None:
        return (
            f", {write_key(known)}, which the log of releases names that is followed here; if the server really has a new beginning, "
            f"forget the old one with palate release reset. {_PIN}"
        )
    return f", {write_key(known)}; if the server really has another: {_PIN}"


def _read(log: Store | Change) -> dict[str, bytes]:
    if not log.has(KEYS, ONLY):
        return {}
    try:
        content = json.loads(log.get(KEYS, ONLY))
        if content["version"] != _VERSION:
            raise ValueError("unknown version")
        return {str(server): bytes.fromhex(key) for server, key in content["keys"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VaultDamagedError("the keys of servers cannot be read by this version of Palate") from None
