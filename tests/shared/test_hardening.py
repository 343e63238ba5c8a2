"""No passphrase stays where another process can read it, and no image of the memory is written."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from palate.client.federation.lock import birth_of
from palate.shared import durable, hardening

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux shows under /proc")

SECRET = "correct horse battery"
PALATE = "from palate.client.commands.cli import main; main()"
NOBODY = 65534

# A process of one user. A change of user closes a process by itself, so that is undone first: what is tested
# is `harden`.
WORKER = """
import ctypes, os, resource, sys
from palate.shared.hardening import harden, given
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
if sys.argv[1] == "hardened":
    harden()
print(resource.getrlimit(resource.RLIMIT_CORE), given("PALATE_PASSPHRASE") == {secret!r}, flush=True)
sys.stdin.readline()
"""

# Another process of the same user, that wants to read its memory and its environment.
THIEF = """
import os, sys
import palate.client.federation.lock as membership
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
for name in ("mem", "environ", "maps"):
    try:
        with open(f"/proc/{{sys.argv[1]}}/{{name}}", "rb") as file:
            print(name, "read" if name == "mem" or file.read(1) else "empty")
    except PermissionError:
        print(name, "refused")
print("born", membership.birth_of(int(sys.argv[1])))
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A process with the passphrase in its environment, until the block ends."""
    environment = {**os.environ, "PALATE_PASSPHRASE": SECRET, "PALATE_RELEASE_PASSPHRASE": f"{SECRET} 2"}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def rob(pid: int) -> list[str]:
    code = THIEF.format(nobody=NOBODY)
    done = subprocess.run(
        [sys.executable, "-c", code, str(pid)], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()


def worker(kind: str) -> "AbstractContextManager[subprocess.Popen[str]]":
    return process(WORKER.format(nobody=NOBODY, secret=SECRET), kind)


def test_another_process_of_the_same_user_reads_neither_memory_nor_environment() -> None:
    with worker("hardened") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "(0, 0) True\n"
        assert rob(running.pid) == [
            "mem refused",
            "environ refused",
            "maps refused",
            f"born {birth_of(running.pid)}",  # which `palate leave` must still find out
        ]


def test_without_hardening_the_same_process_is_read() -> None:
    with worker("as it is") as running:
        assert running.stdout is not None
        assert running.stdout.readline().endswith("True\n")
        assert rob(running.pid)[1:3] == ["environ read", "maps read"]
        assert rob(running.pid)[3] == f"born {birth_of(running.pid)}"
        assert SECRET.encode() in environ_of(running.pid)


def test_a_passphrase_is_overwritten_in_the_block_that_the_kernel_shows() -> None:
    code = (
        "import os, sys, subprocess\n"
        "from palate.shared.hardening import given, harden\n"
        "harden()\n"
        "print(given('PALATE_PASSPHRASE'), given('PALATE_RELEASE_PASSPHRASE'), given('PALATE_HOME') == "
        "None)\n"
        "print([name for name in os.environ if 'PASSPHRASE' in name])\n"
        "child = [sys.executable, '-c', 'import os; print(sorted(n for n in os.environ if \"PASSPHRASE\" in "
        "n))']\n"
        "print(subprocess.run(child, capture_output=True, text=True).stdout, flush=True, end='')\n"
        "sys.stdin.readline()\n"
    )
    with process(code) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == f"{SECRET} {SECRET} 2 False\n"
        assert running.stdout.readline() == "[]\n"
        assert running.stdout.readline() == "[]\n"
        shown = environ_of(running.pid)
        assert b"correct horse" not in shown
        assert b"PASSPHRASE" not in shown
        assert f"PALATE_HOME={os.environ['PALATE_HOME']}".encode() in shown  # all else stays as it was


@pytest.mark.parametrize("value", ["", "a\n", "é" * 3, "x=y=z"])
def test_whatever_is_in_it_the_passphrase_comes_as_it_was(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", value)
    assert hardening.given("PALATE_PASSPHRASE") == (value or None)
    code = (
        "from palate.shared.hardening import given, harden; harden(); "
        "print(ascii(given('PALATE_PASSPHRASE')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{value or None!a}\n"


def test_the_command_line_does_both_before_it_opens_a_vault(tmp_path: Path) -> None:
    home = tmp_path / "vault"
    made = subprocess.run(
        [sys.executable, "-c", PALATE, "init", "--home", str(home)],
        env={**os.environ, "PALATE_PASSPHRASE": SECRET},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    # While somebody holds the lock, the command that was given the passphrase waits some seconds.
    with (
        durable.locked(home / "vault.lock", 5, "the vault"),
        process(PALATE, "comments", "--home", str(home)) as running,
    ):
        deadline = time.monotonic() + 60
        # What is shown is empty while the process begins.
        while (
            not (shown := environ_of(running.pid)) or SECRET.encode() in shown
        ) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert shown
        assert SECRET.encode() not in shown
        assert running.poll() is None
        limits = Path(f"/proc/{running.pid}/limits").read_text()
        (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core[4:6] == ["0", "0"]
        assert running.stdout is not None
        assert (
            "in use by another process" in running.stdout.read()
        )  # the passphrase did arrive: it got so far


def test_a_process_that_crashes_leaves_no_core(tmp_path: Path) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
        pytest.skip("cores go elsewhere here")
    code = "import os, resource, sys\n"
    code += "_, most = resource.getrlimit(resource.RLIMIT_CORE)\n"
    code += "resource.setrlimit(resource.RLIMIT_CORE, (most, most))\n"
    code += "from palate.shared.hardening import harden\n"
    code += "harden() if sys.argv[1] == 'hardened' else None\n"
    code += "os.abort()\n"
    found = {}
    for kind in ("hardened", "as it is"):
        (tmp_path / kind).mkdir()
        subprocess.run([sys.executable, "-c", code, kind], cwd=tmp_path / kind, timeout=60, check=False)
        found[kind] = [one.name for one in (tmp_path / kind).iterdir()]
    assert found["hardened"] == []
    if not found["as it is"]:
        pytest.skip("this machine writes no cores at all")
