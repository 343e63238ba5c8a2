"""The demonstration with real processes.

That it does what it tells, that it would notice if not, and that nothing is left running.
"""

import contextlib
import copy
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from palate.client.reader.comment import read_lessons
from palate.shared.errors import FederationError, OptionError
from palate.simulations.federation_demo import __main__ as command
from palate.simulations.federation_demo import processes, story
from palate.simulations.federation_demo.people import choose_people, write_lessons
from palate.simulations.federation_demo.processes import Node, Stage, at_once, end_processes_of, find_peers
from palate.simulations.federation_demo.report import find_wrong
from palate.simulations.federation_demo.story import NAMES, REPORT, run_demo

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX")

SLEEP = (sys.executable, "-c", "import time; print('waiting for rounds', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('waiting for rounds', "
    "flush=True); time.sleep(600)",
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks Linux")


# --- the whole of it ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_demonstration(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "palate.simulations.federation_demo", "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert [one["round"] for one in report["rounds"]] == [1, 2, 3]
    assert report["server_killed"]["in_round"] == 2
    assert report["server_killed"]["resumed"]
    assert report["release"]["release"] == 1
    assert report["capture"]["found"] == {}
    assert set(report["control"]["found"]) == set(report["capture"]["needles"])
    assert len(report["capture"]["needles"]) == 19

    # The same once more by the simplest means, without anything that the demonstration is made of.
    honest = b"".join(path.read_bytes() for path in (out / "capture").glob("*.bin"))
    indiscreet = b"".join(path.read_bytes() for path in (out / "control").glob("*.bin"))
    sent = sum(one["bytes_up"] for device in report["devices"] for one in device["outbox"] if one["sent"])
    assert len(honest) > sent > 7 * 8_000  # masked: 8 kB each
    comments = [
        entry["comment"].encode()
        for name in NAMES
        for entry in json.loads((out / "people" / name / "comments.json").read_text())
    ]
    assert len(comments) == len(set(comments)) == 36
    assert not [one for one in comments if one in honest]
    assert comments[0] in indiscreet
    pictures = [path.read_bytes() for path in (out / "people").rglob("*.png")]
    pictures = [data[2_000:2_040] for data in pictures if len(data) > 2_040]
    assert len(pictures) > 30
    assert not [one for one in pictures if one in honest]
    assert [one for one in pictures if one in indiscreet]
    assert end_processes_of(out / "server") == []
    assert not processes_that_mention(str(out))


@pytest.mark.slow
@needs_proc
def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "palate.simulations.federation_demo", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        until(lambda: any("joined" in path.read_text() for path in (out / "logs").glob("*.log")), 300)
        assert (out / "server" / "server.json").exists()
        assert len(processes_that_mention(str(out))) > 3
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=200)
    assert demo.returncode == 130
    assert said.splitlines()[-1] == "stopped; every process that was started is ended"
    assert "Traceback" not in said
    until(lambda: not processes_that_mention(str(out)), 10)


def processes_that_mention(word: str) -> list[str]:
    """Command lines and environments of living processes with this word, but for this process and its
    parents."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        with contextlib.suppress(OSError):  # of what lets nobody look into it
            words += (entry / "environ").read_bytes()
        if word.encode() in words and int(entry.name) != os.getpid():
            found.append(words.decode(errors="replace")[:300])
    return found


def until(found: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- would it notice? ---------------------------------------------------------------------------------------


@pytest.fixture
def report() -> dict[str, Any]:
    """The report of a demonstration in which everything was as it should be."""

    def note(name: str, number: int) -> dict[str, Any]:
        return {"round": number, "sha256": f"{name} {number}", "sent": True}

    devices = [
        {
            "name": name,
            "labels": 12,
            "outbox": [note(name, i) for i in (1, 2, 3)],
            "shown": f"{name}'s outbox",
            "privacy": {"epsilon": 1.8, "epsilon_if_all_add": 1.2, "epsilon_alone": 1.8, "budget": 8.0},
        }
        for name in NAMES
    ]
    rounds = [
        {"round": i, "used": 3, "asked": 3, "seconds": 1.5, "refused": {}, "counted": True} for i in (1, 2, 3)
    ]
    return {
        "folder": "demo-out",
        "rounds": rounds,
        "device_killed": {"name": "boris", "after_round": 1},
        "server_killed": {"in_round": 2, "resumed": True, "ended": {"ended": "finished"}},
        "release": {"release": 1, "hash": "ab" * 32, "round": 3, "refused": "palate: its noise is long"},
        "devices": devices,
        "privacy": {"epsilon": 1.7, "if_all_add_epsilon": 1.1, "alone_epsilon": 1.7, "budget": 8.0},
        "peers": {"seen": ["127.0.0.1:5"], "tap": "127.0.0.1:5", "samples": 9},
        "capture": {
            "connections": 4,
            "bytes_to_server": 3_000_000,
            "bytes_to_devices": 3_000_000,
            "updates": [f"{name} {i}" for name in NAMES for i in (1, 2, 3)],
            "needles": {"comment": 36, "head in fp32": 900},
            "found": {},
        },
        "control": {
            "needles": {"comment": 12, "head in fp32": 300},
            "found": {"comment": 2, "head in fp32": 9},
            "updates": [],
            "server_said": "1 magic",
        },
        "seconds": 100.0,
        "wrong": [],
    }


def test_a_report_of_what_should_be_has_nothing_wrong(report: dict[str, Any]) -> None:
    assert find_wrong(report, 3) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r["rounds"].pop(), r"rounds \[1, 2\]"),
        (lambda r: r["rounds"][1].update(counted=False), "too few updates"),
        (lambda r: r["rounds"][2].update(used=2), "not every device took part"),
        (lambda r: r["server_killed"].update(resumed=False), "nothing to resume"),
        (lambda r: r["server_killed"].update(ended={"ended": "failed"}), "ended so"),
        (lambda r: r["release"].update(release=0), "not newer"),
        (lambda r: r["release"].update(refused=""), "does not speak of noise"),
        (lambda r: r["devices"][1]["outbox"].pop(), r"boris sent updates of the rounds \[1, 2\]"),
        (lambda r: r["devices"][2]["privacy"].update(epsilon=1.1), "clara's device has spent"),
        (lambda r: r["privacy"].update(epsilon=8.1), "server's ledger"),
        (lambda r: r["capture"]["updates"].pop(), "tap has missed"),
        (lambda r: r["capture"]["updates"].append("another"), "no outbox lists"),
        (lambda r: r["peers"]["seen"].append("9.9.9.9:443"), "not to the tap alone"),
        (lambda r: r["capture"]["found"].update(comment=1), "found in what was sent"),
        (lambda r: r["control"]["found"].pop("comment"), r"does not find .*\['comment'\]"),
        (lambda r: r["control"]["updates"].append("one"), "sent an update"),
    ],
)
def test_whatever_is_not_as_it_should_be_is_told(
    report: dict[str, Any], spoil: Callable[[Any], Any], said: str
) -> None:
    spoiled = copy.deepcopy(report)
    spoil(spoiled)
    (line, *_) = find_wrong(spoiled, 3)
    assert re.search(said, line), line


def test_the_release_must_be_another_encoder(report: dict[str, Any]) -> None:
    from palate.shared.encoder import encoder_hash, load_encoder

    report["release"]["hash"] = encoder_hash(load_encoder())
    assert find_wrong(report, 3) == ["the release is the installed encoder"]


def test_an_update_that_was_cut_short_may_or_may_not_have_left(report: dict[str, Any]) -> None:
    report["devices"][0]["outbox"].append({"round": 2, "sha256": "cut short", "sent": False})
    assert find_wrong(report, 3) == []
    report["capture"]["updates"].append("cut short")
    assert find_wrong(report, 3) == []


def test_the_report_is_shown(report: dict[str, Any]) -> None:
    from rich.console import Console

    from palate.simulations.federation_demo.report import show_report

    report["wrong"] = ["the moon is missing"]
    out = io.StringIO()
    show_report(Console(file=out, width=100), report)
    for words in (
        "round 3: 3 of 3 updates",
        "boris's device was killed",
        "release 1",
        "clara's outbox",
        "36",
    ):
        assert words in out.getvalue()
    assert "not as it should be: the moon is missing" in out.getvalue()


@pytest.mark.parametrize("rounds", [2, 51])
def test_a_number_of_rounds_out_of_range_is_one_line(rounds: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"rounds is {rounds}; it must be from 3 to 50"):
        run_demo(tmp_path / "new", rounds, no_step)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    monkeypatch.setattr(sys, "argv", ["federation_demo", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith("holds something else than an earlier demonstration; name another with --out")
    assert "\n" not in said
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_an_earlier_demonstration_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise FederationError("no further")

    monkeypatch.setattr(story, "_tell_story", fail)
    (tmp_path / REPORT).write_text("{}")
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "old").write_text("old")
    with pytest.raises(FederationError, match="no further"):
        run_demo(tmp_path, 3, no_step)
    assert (tmp_path / REPORT).exists()
    assert not (tmp_path / "devices" / "old").exists()


def no_step(what: str) -> Any:
    raise AssertionError(what)


# --- its processes ------------------------------------------------------------------------------------------


def add(stage: Stage, *command: str) -> Node:
    """A device without a vault, whose process is another command."""
    number = len(stage.nodes)
    node = Node(
        f"d{number}", stage.folder / "none", stage.folder / "logs" / f"{number}.log", f"secret {number}"
    )
    stage.nodes.append(node)
    stage.join(node, "127.0.0.1:1", *command)
    return node


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_every_process_is_ended_whatever_happens(
    failure: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "END_SECONDS", 0.5)
    nodes: list[Node] = []

    def fail_halfway() -> None:
        with Stage(tmp_path) as stage:
            nodes.extend([add(stage, *SLEEP), add(stage, *STUBBORN)])
            stage.until("both run", lambda: all(node.joined() for node in nodes), 60)
            raise failure

    with pytest.raises(failure):
        fail_halfway()
    codes = [node.process.poll() for node in nodes if node.process is not None]
    assert codes == [-signal.SIGTERM, -signal.SIGKILL]


def test_a_device_that_ends_by_itself_is_told_with_its_last_line(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        add(stage, sys.executable, "-c", "import sys; sys.exit('palate: the moon is missing')")
        with pytest.raises(FederationError, match="d0 ended by itself: palate: the moon is missing; see"):
            stage.until("never", lambda: False, 60)
        add(stage, *SLEEP)
        stage.nodes = stage.nodes[1:]
        with pytest.raises(FederationError, match=r"the moon: not so after 0\.2 s"):
            stage.until("the moon", lambda: False, 0.2)


def test_each_process_gets_its_own_passphrase_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "of the person at this terminal")
    monkeypatch.setenv("PALATE_HOME", "of the person at this terminal")
    code = "import os; print(sorted((k, v) for k, v in os.environ.items() if k.startswith('PALATE_')))"
    with Stage(tmp_path) as stage:
        nodes = [add(stage, sys.executable, "-c", code) for _ in range(2)]
        for node in nodes:
            assert node.process is not None
            assert node.process.wait(60) == 0
    assert [node.said().strip() for node in nodes] == [
        f"[('PALATE_PASSPHRASE', 'secret {number}')]" for number in range(2)
    ]


@needs_proc
def test_what_a_killed_server_leaves_behind_is_found_by_its_command_line(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [*SLEEP, "palate.server.processes.round_process", str(place)], stdout=subprocess.PIPE
        )
        for place in (tmp_path / "server", tmp_path / "server 2")
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline()
        assert end_processes_of(tmp_path / "server") == [started[0].pid]
        assert started[0].wait(10) == -signal.SIGKILL
        assert started[1].poll() is None
        assert end_processes_of(tmp_path / "server") == []
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@needs_proc
def test_the_watch_sees_what_a_process_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address):
            assert f"127.0.0.1:{address[1]}" in find_peers([os.getpid()])
    assert f"127.0.0.1:{address[1]}" not in find_peers([os.getpid()])


def test_side_by_side_gives_results_in_order_and_the_first_error() -> None:
    assert at_once(lambda: time.sleep(0.05) or 1, lambda: 2) == [1, 2]
    with pytest.raises(FederationError, match="second"):
        at_once(lambda: 1, lambda: (_ for _ in ()).throw(FederationError("second")))


def test_the_people_differ_and_say_enough_to_be_looked_for(tmp_path: Path) -> None:
    people = choose_people(3)
    assert len({person.cohort for person in people}) == 3
    lessons = read_lessons(write_lessons(people[0], 0, tmp_path / "one"))
    assert [sum(one.liked is kind for one in lessons) for kind in (True, False)] == [6, 6]
    assert min(len(one.comment.split()) for one in lessons) >= 5
    assert len({one.comment for one in lessons}) == 12
