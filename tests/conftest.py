"""What every test stands on: no network, no vault but its own, and as many threads as a small machine has."""

import functools
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

# Read by OpenMP, tokenizers and the Hugging Face hub when they are first imported, so it must be set here.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Nor does a test touch the keyring of the person who runs it.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"

# A shell starts what runs in its background deaf to Ctrl-C, and the processes of the tests would inherit
# that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.append(str(Path(__file__).parent))  # for what several folders of tests share

LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test talk to this machine only, unless it is marked `network`."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def connect_here_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"a test wanted to reach {address!r}; tests are offline")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here_only)


@pytest.fixture(autouse=True)
def own_vault_place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point PALATE_HOME at an empty folder, so that no test can touch the vault, config or unlocked key of
    the person who runs it."""
    place = tmp_path_factory.mktemp("home")
    home = place / "palate"
    monkeypatch.setenv("PALATE_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    for name in ("PALATE_CONFIG", "PALATE_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return home


@functools.cache
def _derive_key_once(passphrase: str, salt: bytes) -> bytes:
    from palate.client.vault.sealing import derive_key

    return derive_key(passphrase, salt)


@pytest.fixture
def remembered_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive each key from its passphrase once.

    The derivation is slow on purpose, and always comes to the same.
    """
    from palate.client.vault import export as vault_export
    from palate.client.vault import vault

    monkeypatch.setattr(vault, "derive_key", _derive_key_once)
    monkeypatch.setattr(vault_export, "derive_key", _derive_key_once)


@pytest.fixture
def quick_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at once, where the slow derivation is not the point."""
    from palate.client.vault import export as vault_export
    from palate.client.vault import vault

    def quick(passphrase: str, salt: bytes) -> bytes:
        return (passphrase.encode() + salt + bytes(32))[:32]

    monkeypatch.setattr(vault, "derive_key", quick)
    monkeypatch.setattr(vault_export, "derive_key", quick)


@pytest.fixture(scope="session")
def taught_vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with the passphrase "correct horse" and two comments; copy it, and leave this one as it is."""
    from palate.client import Device
    from palate.client.demo.showcase import demo_folder

    home = tmp_path_factory.mktemp("taught") / "palate"
    with Device.init(home, "correct horse") as device:
        device.teach(demo_folder() / "boat.jpg", "I love the misty watercolour", True)
        device.teach(demo_folder() / "city.jpg", "too busy", False)
    return home
