"""What happens to the vault when a neighbour holds it, the disk refuses, or the person presses Ctrl-C."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from palate.client.vault.vault import Vault
from palate.shared import durable
from palate.shared.errors import StorageError, VaultBusyError

# --- two at once --------------------------------------------------------------------------------------------

HOLDER = """
import sys
from palate.client.vault import vault
vault.derive_key = lambda passphrase, salt: (passphrase.encode() + salt + bytes(32))[:32]
with vault.Vault.open(sys.argv[1], "pw") as opened, opened.transaction() as change:
    change.put("comment", "a", b"from the other process")
    print("holding", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


def test_a_second_writer_waits_and_then_says_who_is_in_the_way(home: Path, opened: Vault) -> None:
    command = [sys.executable, "-c", HOLDER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        begun = time.monotonic()
        with (
            pytest.raises(VaultBusyError, match="another process") as caught,
            opened.transaction(wait_seconds=0.2),
        ):
            pass
        assert 0.15 < time.monotonic() - begun < 3
        assert "\n" not in str(caught.value)
        assert opened.get("comment", "a") == b"too gloomy"  # reading waits for nobody
        with pytest.raises(VaultBusyError):
            Vault.open(home, "pw", wait_seconds=0.1)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "done\n"
    with opened.transaction(wait_seconds=0.2) as change:
        assert change.get("comment", "a") == b"from the other process"


def test_a_dead_holder_is_in_nobodys_way(home: Path, opened: Vault) -> None:
    command = [sys.executable, "-c", HOLDER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        holder.kill()
        holder.wait()
        with opened.transaction(wait_seconds=1) as change:
            change.put("comment", "b", b"mine")
    assert opened.get("comment", "a") == b"too gloomy"


def test_many_threads_lose_no_change(home: Path, opened: Vault) -> None:
    other = Vault.open(home, "pw")

    def count(which: Vault) -> None:
        for _ in range(8):
            with which.transaction(wait_seconds=30) as change:
                number = int(change.get("count", "n")) if change.has("count", "n") else 0
                change.put("count", "n", str(number + 1).encode())

    def read() -> None:
        for _ in range(200):
            assert opened.get("comment", "a") == b"too gloomy"

    threads = [threading.Thread(target=count, args=(which,)) for which in (opened, other, opened, other)]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened.get("count", "n") == b"32"
    other.close()


# --- a disk that refuses ------------------------------------------------------------------------------------


class RefusingOs:
    """Stands in for `os` in `durable` and fails at one call, or at every call from that one on."""

    def __init__(self, at: int, code: int, *, for_good: bool) -> None:
        self.at, self.code, self.for_good, self.calls = at, code, for_good, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
            return real

        def call(*arguments: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments)  # reading needs no room
            self.calls += 1
            if self.calls == self.at or (self.for_good and self.calls > self.at and name != "unlink"):
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments)

        return call


@pytest.mark.parametrize("for_good", [True, False], ids=["from then on", "once"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_refusing_disk_loses_nothing(
    code: int, for_good: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = {"a": b"too gloomy", "b": b"lovely misty light"}, {"a": b"new", "c": b"3"}
    refused = made = 0
    for at in range(1, 60):
        with Vault.open(home, "pw") as opened:
            disk = RefusingOs(at, code, for_good=for_good)
            with monkeypatch.context() as patch:
                patch.setattr(durable, "os", disk)
                try:
                    with opened.transaction() as change:
                        change.put("comment", "a", b"new")
                        change.put("comment", "c", b"3")
                        change.delete("comment", "b")
                    reported = True
                    made += 1
                except StorageError as error:
                    reported = False
                    refused += 1
                    line = str(error)
            # The same object, once the disk obeys again, and one that is opened afresh, agree on what is
            # there.
            now = {id_: opened.get("comment", id_) for id_ in opened.list("comment")}
            assert now == new if reported else now in (old, new)
            if not reported:
                assert "\n" not in line
                assert ("disk is full" in line) == (code == errno.ENOSPC)
                assert now == old or "nothing was changed" not in line
            with Vault.open(home, "pw") as fresh:
                assert {id_: fresh.get("comment", id_) for id_ in fresh.list("comment")} == now
                assert fresh.verify() == 3
                assert len(list((home / "records").iterdir())) == 3
            with opened.transaction() as change:  # back to the old state
                change.put("comment", "a", old["a"])
                change.put("comment", "b", old["b"])
                if change.has("comment", "c"):
                    change.delete("comment", "c")
        if disk.calls < at:
            break
    assert refused >= 10
    assert made >= 1


def test_ctrl_c_at_any_moment_leaves_old_or_new(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class InterruptingOs(RefusingOs):
        def __getattr__(self, name: str) -> Any:
            call = super().__getattr__(name)

            def interrupted(*arguments: Any) -> Any:
                try:
                    return call(*arguments)
                except OSError as error:
                    if error.errno == errno.EXDEV:
                        raise KeyboardInterrupt from None
                    raise

            return interrupted if callable(call) else call

    states = set()
    for at in range(1, 40):
        with Vault.open(home, "pw") as opened:
            before = opened.get("comment", "a")
            with monkeypatch.context() as patch:
                patch.setattr(durable, "os", InterruptingOs(at, errno.EXDEV, for_good=False))
                try:
                    with opened.transaction() as change:
                        change.put("comment", "a", str(at).encode())
                except KeyboardInterrupt:
                    states.add(opened.get("comment", "a") == before)
                else:
                    break
            assert opened.get("comment", "a") in (before, str(at).encode())
        with Vault.open(home, "pw") as fresh:
            assert fresh.verify() == 3
    assert states == {True, False}
