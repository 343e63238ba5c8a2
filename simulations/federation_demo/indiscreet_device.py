"""A device that sends what must never leave: the positive control of the search in `needles`.

    python -m palate.simulations.federation_demo.indiscreet_device HOST:PORT HOME PICTURES

The passphrase is taken from PALATE_PASSPHRASE.

Where it stands in the flow: `federation_demo` lets it join after the honest devices have left, and searches
what it sent. It opens a vault like any device and answers a task through the same node, but with a message of
its own making in place of the outbox's. The server refuses that message, for it is no update, and the tap has
seen it. Nothing in `client/` can be made to do this by a switch.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np

from palate.client.federation.outbox import Send
from palate.simulations.federation_demo.people import Private, read_private

SLICE = slice(2_000, 2_400)  # bytes of a picture
WEIGHTS = 200


def tell_everything(private: Private) -> bytes:
    """Return a message with some of everything that is private, in many ways of writing."""
    texts = [text for _, text in private.comments]
    parts = [
        texts[0].encode(),
        texts[1].upper().encode("utf-16-be"),
        gzip.compress(texts[2].encode()),
        json.dumps({"note": base64.b64encode(texts[3].encode("utf-16")).decode()}).encode(),
        " ".join(texts[4].split()[:4]).encode(),
        json.dumps({"attributes": private.attributes, "passphrase": private.passphrase}).encode(),
        json.dumps([picture for picture, _ in private.kept]).encode(),
        bytes.fromhex(private.kept[0][0]),
        max((data for _, data in private.kept), key=len)[SLICE],
        max((data for _, data in private.given), key=len)[SLICE],
    ]
    for weights in (private.features, private.head, private.adapter):
        flat = weights.ravel()
        some = flat[np.abs(flat) > 1e-3][:WEIGHTS]
        run = flat[: 4 * WEIGHTS]
        parts += [run.astype(dtype).tobytes() for dtype in ("<f8", "<f4", "<f2")]
        parts += [json.dumps(some.tolist()).encode(), json.dumps(run.round(3).tolist()).encode()]
    return b"\n".join(parts)


class Indiscreet:
    """A participant that answers any task by telling everything."""

    def __init__(self, private: Private) -> None:
        """Know what is private."""
        self._message = tell_everything(private)

    def take_part(self, task: bytes, send: Send, /) -> None:
        """Send it in place of an update."""
        del task
        send(self._message)


def main() -> None:
    """Join, and tell everything whenever it is asked, until it is ended."""
    address, root, home, pictures = sys.argv[1:]
    os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")
    from palate.client.federation.app import run_node
    from palate.client.federation.server_address import Server

    private = read_private(Path(home), os.environ["PALATE_PASSPHRASE"], Path(pictures))
    run_node(
        Indiscreet(private),
        Server(address, root_certificates=Path(root).read_text(encoding="ascii")),
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )


if __name__ == "__main__":
    main()
