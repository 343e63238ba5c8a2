"""The app bundle that the server submits and the device expects: one small text, no code.

Where it stands in the flow: Flower gives every run's *bundle* (a zip archive) to everybody who takes part,
and its stock node executes what lies in it. Palate's device executes the app that its owner installed,
whatever a bundle says. It refuses a run whose bundle is not the one made here (`known_hashes`). So the bundle
names two apps and holds nothing else. Its one setting, `settings`, is empty in the bundle, and the server
fills it for each run. Devices get what they need in the task.

Flower identifies a bundle by the SHA-256 of the archive. `bundle_bytes` writes the archive byte for byte as
`flwr run` of Flower 1.42 does (stored, not deflated; fixed dates; sorted; a list of contents at the end), so
both sides know the hash without asking each other. A test compares it with Flower's own.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

CONFIG_FILE: Final = "pyproject.toml"
_DATE: Final = (2024, 10, 1, 0, 0, 0)  # Flower's, for every entry
_SYSTEMS: Final = (3, 0)  # the archive says where it was made: POSIX or Windows

# Laid out as a TOML writer would, because Flower reads it and writes it again before it hashes it. The names
# of the apps are part of the hash by which devices know the bundle, so they stay what they were, wherever the
# modules move: nobody loads them.
_CONFIG: Final = """\
[project]
name = "palate"
version = "1.0.0"
description = "Names the apps that are installed with Palate; holds no code."
license = "LicenseRef-None"
dependencies = [
    "flwr>=1.41.0",
]

[tool.flwr.app]
publisher = "palate"

[tool.flwr.app.components]
serverapp = "palate.server.app:app"
clientapp = "palate.client.app:app"

[tool.flwr.app.config]
settings = ""
"""


def bundle_files() -> Mapping[str, bytes]:
    """Return the files of the bundle by name."""
    return MappingProxyType({CONFIG_FILE: _CONFIG.encode()})


def bundle_bytes(system: int = _SYSTEMS[0]) -> bytes:
    """Return the archive that `flwr run` makes of the files, on POSIX (3) or on Windows (0)."""
    files = bundle_files()
    lines = [f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items()]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, data in {**files, ".info/CONTENT": "\n".join(lines).encode()}.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = system
            bundle.writestr(entry, data)
    return archive.getvalue()


@cache
def known_hashes() -> frozenset[str]:
    """Return the hashes under which this bundle can arrive: SHA-256 in hexadecimal, one for each system."""
    return frozenset(hashlib.sha256(bundle_bytes(system)).hexdigest() for system in _SYSTEMS)


def write_bundle(folder: Path) -> Path:
    """Write the bundle's files into a folder, which is made if need be, for `flwr run`; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in bundle_files().items():
        (folder / name).write_bytes(data)
    return folder
