"""The system's keyring is used only where it protects a key."""

from typing import Any

import pytest

from palate.client.vault.keyrings import SystemKeyring
from palate.shared.errors import OptionError, StorageError

keyring = pytest.importorskip("keyring")


class Backend:
    """Stands in for a back end of the operating system."""

    def __init__(self, module: str, *, broken: bool = False) -> None:
        self.secrets: dict[tuple[str, str], str] = {}
        self.broken = broken
        self.backends: list[Any] = []
        type(self).__module__ = module

    def get_password(self, service: str, name: str) -> str | None:
        if self.broken:
            raise RuntimeError("locked\nby the owner")
        return self.secrets.get((service, name))

    def set_password(self, service: str, name: str, secret: str) -> None:
        self.secrets[service, name] = secret

    def delete_password(self, service: str, name: str) -> None:
        del self.secrets[service, name]


def backend(module: str, **options: Any) -> Backend:
    return type("Keyring", (Backend,), {})(module, **options)


def use(monkeypatch: pytest.MonkeyPatch, chosen: Any) -> None:
    monkeypatch.setattr(keyring, "get_keyring", lambda: chosen)


@pytest.mark.parametrize(
    "module",
    [
        "keyring.backends.fail",
        "keyring.backends.null",
        "keyrings.alt.file",
        "someone.elses",
        "keyring.backends.chainer",
    ],
)
def test_a_keyring_that_protects_nothing_is_refused(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, backend(module))
    with pytest.raises(OptionError, match="use a passphrase instead") as caught:
        SystemKeyring()
    assert "\n" not in str(caught.value)


def test_a_chain_is_as_weak_as_its_weakest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = backend("keyring.backends.chainer")
    chain.backends = [backend("keyring.backends.SecretService")]
    use(monkeypatch, chain)
    SystemKeyring()
    chain.backends.append(backend("keyrings.alt.file"))
    with pytest.raises(OptionError):
        SystemKeyring()


def test_secrets_come_back_and_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, backend("keyring.backends.SecretService"))
    store = SystemKeyring()
    assert store.get("key") is None
    store.set("key", b"\0\xff key")
    assert store.get("key") == b"\0\xff key"
    store.delete("key")
    store.delete("key")
    assert store.get("key") is None


def test_a_locked_or_meddled_keyring_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, backend("keyring.backends.macOS", broken=True))
    with pytest.raises(StorageError, match="unlock it") as caught:
        SystemKeyring().get("key")
    assert "\n" not in str(caught.value)
    meddled = backend("keyring.backends.Windows")
    meddled.secrets["palate", "key"] = "not base64!"
    use(monkeypatch, meddled)
    with pytest.raises(StorageError, match="another program"):
        SystemKeyring().get("key")
