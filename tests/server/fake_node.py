"""A device node as a process of its own, whose training is a cheap change that anyone can compute.

python fake_node.py HOST:PORT NUMBER [SECONDS [CA.CRT]]   trains for so many seconds; speaks TLS if it gets a
certificate
"""

import sys
import time
from pathlib import Path

from server_fakes import honest

from palate.client.federation import fleet
from palate.client.federation.app import run_node
from palate.client.federation.outbox import Send
from palate.client.federation.server_address import Server
from palate.shared.delegation import message_in
from palate.shared.releases.fields import RELEASE
from palate.shared.wire import decode_task, kind_of


class Participant:
    """Answers every task after some seconds, and an offered release with nothing."""

    def __init__(self, number: int, seconds: float) -> None:
        self._number, self._seconds = number, seconds

    def take_part(self, task: bytes, send: Send, /) -> None:
        if kind_of(task) == RELEASE:
            send(b"")
            return
        time.sleep(self._seconds)
        send(honest(decode_task(message_in(task)), self._number))


if __name__ == "__main__":
    fleet.HEARTBEAT_SECONDS = 10.0  # type: ignore[misc]  # the least; a killed one is given up after two of them
    participant = Participant(int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    trusted = Path(sys.argv[4]).read_text() if len(sys.argv) > 4 else None
    server = Server(sys.argv[1], insecure=trusted is None, root_certificates=trusted)
    run_node(participant, server, tell=lambda line: print(line, flush=True))
