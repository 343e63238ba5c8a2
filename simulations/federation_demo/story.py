"""The federation's demonstration from beginning to end.

Real processes on this machine, killed, restarted, and listened to.

Three virtual people with a device each, a server, and a tap between them. A registrar vouches for each
device, so no device is made up. Devices may then count on the noise of others, as far as three can: half of a
sum of two is one, so each counts its own noise alone. After the first round a device is killed (-9) and
started again, in the second round the server is. At the end there is a newer release, every device shows what
it sent, and everything that went over the wire is searched for what must not be there (`needles`). The
positive control comes last: an indiscreet device sends exactly that, and the same search has to find it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.shared.errors import FederationError, OptionError

if TYPE_CHECKING:
    from palate.simulations.federation_demo.capture import Stream
    from palate.simulations.federation_demo.people import Private
    from palate.simulations.federation_demo.processes import Node, Stage

NAMES = ("anna", "boris", "clara")
KILLED = 1  # the device that is, by its place
FEWEST_ROUNDS, MOST_ROUNDS = 3, 50  # the server is killed in the second, and what remains is to be resumed
DEADLINE_SECONDS = 60
LEARNING_RATE = 0.001
OVER_SAMPLING = 1.5
SPARE_SLOTS = 8  # for rounds that a kill makes begin again, and for that of the control
REPORT = "federation-demo.json"

Step = Callable[[str], contextlib.AbstractContextManager[None]]
"""Shows what is being done while a `with` block does it."""


def run_demo(out: Path, rounds: int, step: Step) -> dict[str, Any]:
    """Run the whole demonstration in a folder and return its report, which is also written there.

    Args:
        out: a new folder, or that of an earlier demonstration.
        rounds: from 3 to 50.
        step: shows what is being done.

    Raises:
        FederationError: a process does not do its part.
        OptionError: the number of rounds is out of range, or the folder holds something else.
    """
    from palate.simulations.federation_demo.processes import Stage

    if not FEWEST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise OptionError(f"rounds is {rounds}; it must be from {FEWEST_ROUNDS} to {MOST_ROUNDS}")
    began = time.monotonic()
    folder = _clear(out)
    with Stage(folder) as stage:
        report = _tell_story(stage, rounds, step)
    report["seconds"] = round(time.monotonic() - began, 1)
    report["as_it_should_be"] = not report["wrong"]
    (folder / REPORT).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return report


def _tell_story(stage: Stage, rounds: int, step: Step) -> dict[str, Any]:
    from palate.simulations.federation_demo.capture import Tap
    from palate.simulations.federation_demo.certificates import make_certificates
    from palate.simulations.federation_demo.processes import Peers, at_once, free_port
    from palate.simulations.federation_demo.report import find_wrong

    folder = stage.folder
    port, tls = free_port(), make_certificates(folder / "tls")
    stage.tls = tls
    with step("a server starts, and three people comment on a dozen pictures each"):
        server, *lessons = at_once(
            lambda: stage.serve("start", "--port", str(port), "--tls", str(tls)),
            *(lambda place=place: _teach(stage, place) for place in range(len(NAMES))),
        )
    nodes = sorted(stage.nodes, key=lambda node: node.name)
    wire = ("127.0.0.1", port)
    with Tap(wire, folder / "capture", tls) as tap, Peers(nodes) as peers:
        with step("a registrar vouches for each device, and signs its pseudonyms without seeing them"):
            slots = stage.serve("slots", "--count", str(rounds + SPARE_SLOTS))
            for node in nodes:
                _vouch_for(stage, node, tap.address, slots)
        with step("the devices join, over TLS, through a tap that opens it and keeps every byte"):
            for node in nodes:
                stage.join(node, tap.address, extra=("--registrar", slots["registrar"]))
            private = {node.name: _read_private(node, folder) for node in nodes}
            stage.until("all devices have joined", lambda: all(node.joined() for node in nodes))
        with step("round 1"):
            # The noise that protects one person drowns three; a small step keeps the encoder from following
            # it.
            gentle = folder / "run.toml"
            # A killed device's old node counts as connected until its heartbeats are missed; who asks more
            # than all has no place to lose to it.
            gentle.write_text(
                f"server_learning_rate = {LEARNING_RATE}\nover_sampling = {OVER_SAMPLING}\n", encoding="utf-8"
            )
            patience = (*_patience(len(nodes)), "--settings", str(gentle))
            stage.serve("run", "--rounds", "1", *patience)
        killed = nodes[KILLED]
        with step(f"{killed.name}'s device is killed (-9) and started again"):
            stage.kill(killed)
            stage.join(killed, tap.address)
            stage.until(f"{killed.name}'s device has joined again", lambda: killed.joined() == 2)
        with step(f"rounds 2 to {rounds}; in round 2 the server is killed (-9) and started again"):
            stage.serve("run", "--rounds", str(rounds - 1), "--detach", *patience)
            killed_in = _kill_server(stage, server["pid"])
            again = stage.serve("start", "--port", str(port), "--tls", str(tls))
            stage.until("the run has ended", lambda: stage.how_run_ended() is not None, 240)
        with step("a release, refused by its test and made all the same, and what each device sent"):
            # Three devices' noise drowns what they learned, and the test before a release says so.
            refused = stage.palate("server", "release", "--home", str(stage.server.home), status=1)
            release, *sent = at_once(
                lambda: stage.serve("release", "--anyway"),
                *(lambda node=node: _read_outbox(stage, node) for node in nodes),
            )
            at_once(*(lambda node=node: stage.leave(node) for node in nodes))
    report = {
        "folder": str(folder),
        "rounds": _read_rounds(stage),
        "device_killed": {"name": killed.name, "after_round": 1},
        "server_killed": {"in_round": killed_in, "resumed": again["resumed"], "ended": stage.how_run_ended()},
        "release": {**release, "refused": refused.strip()},
        "privacy": stage.serve("privacy"),
        "devices": [
            {"name": node.name, "labels": labels, **outbox}
            for node, labels, outbox in zip(nodes, lessons, sent, strict=True)
        ],
        "peers": {"seen": sorted(peers.seen), "tap": tap.address, "samples": peers.samples},
    }
    control = nodes[0]
    with step("positive control: a device that tells everything"):
        refusal = _let_a_device_tell_everything(stage, control, wire, tls)
    with step("the search in all that was sent"):
        report["capture"] = _search(folder / "capture", private)
        report["control"] = _search(folder / "control", {control.name: private[control.name]})
        report["control"]["server_said"] = refusal
    report["wrong"] = find_wrong(report, rounds)
    return report


def _let_a_device_tell_everything(stage: Stage, node: Node, wire: tuple[str, int], tls: Path) -> str:
    """Run a round with the indiscreet device alone, before a tap of its own.

    Return what the server says of it.
    """
    from palate.simulations.federation_demo.capture import Tap

    folder = stage.folder
    with Tap(wire, folder / "control", tls) as tap:
        command = (sys.executable, "-m", "palate.simulations.federation_demo.indiscreet_device", tap.address)
        known = (str(tls / "ca.crt"), str(node.home), str(_pictures(folder, node)))
        joined = node.joined()
        stage.join(node, tap.address, *command, *known)
        stage.until("the indiscreet device has joined", lambda: node.joined() > joined)
        (folder / "control.toml").write_text("missed_rounds = 1\n", encoding="utf-8")
        refusal = stage.palate(
            *("server", "run", "--rounds", "1", "--home", str(stage.server.home)),
            *(*_patience(1), "--settings", str(folder / "control.toml")),
            status=1,
        )
        stage.end(node)
    return refusal


# --- the parts of the story ---------------------------------------------------------------------------------


def _teach(stage: Stage, place: int) -> int:
    """Make a person's device, teach it, and return how many labels it has."""
    from palate.simulations.federation_demo.people import choose_people, write_lessons

    person = choose_people(len(NAMES))[place]
    node = stage.add(NAMES[place], secrets.token_urlsafe(18))
    lessons = write_lessons(person, place, _pictures(stage.folder, node))
    stage.palate("teach", "--from", str(lessons), "--home", str(node.home), "--json", node=node)
    return len(json.loads(lessons.read_text(encoding="utf-8")))


def _pictures(folder: Path, node: Node) -> Path:
    return folder / "people" / node.name


def _read_private(node: Node, folder: Path) -> Private:
    from palate.simulations.federation_demo.people import read_private

    return read_private(node.home, node.passphrase, _pictures(folder, node))


def _vouch_for(stage: Stage, node: Node, address: str, slots: Mapping[str, Any]) -> None:
    """Have the registrar register a device and certify a pseudonym for each slot, by files."""

    def pseudonyms(command: str, *more: str) -> Any:
        pinned = ("--registrar", slots["registrar"], "--home", str(node.home), "--json")
        return json.loads(stage.palate("pseudonyms", command, address, *more, *pinned, node=node))

    request, answer = (stage.folder / f"{node.name}.{kind}" for kind in ("request", "answer"))
    stage.serve("certify", pseudonyms("show")["identity"])
    pseudonyms("request", slots["file"], "-o", str(request))
    stage.serve("certify", str(request), "-o", str(answer))
    pseudonyms("take", str(answer))


def _patience(devices: int) -> tuple[str, ...]:
    numbers = {"devices": devices, "quorum": min(2, devices), "deadline": DEADLINE_SECONDS, "wait": 120}
    return tuple(part for name, number in numbers.items() for part in (f"--{name}", str(number)))


def _kill_server(stage: Stage, process: int) -> int:
    """Kill the server once an update of round 2 is there, or that round is over; return the round."""
    from palate.server.processes.deployed import running
    from palate.server.rounds.run import read_note

    def is_time() -> bool:
        now = read_note(stage.server.now)
        return stage.round() >= 2 or (
            now.get("round") == 2 and now.get("doing") == "training" and now["done"] > 0
        )

    stage.until("round 2 is at work", is_time)
    os.kill(process, signal.SIGKILL)
    stage.until("the server is gone", lambda: running(stage.server) is None)
    return min(2, stage.round() + 1)


def _read_outbox(stage: Stage, node: Node) -> dict[str, Any]:
    """Return a device's outbox as `palate outbox` shows it and as data, and what its rounds have spent."""
    home = ("--home", str(node.home))
    shown, notes, terms = (
        stage.palate("outbox", *options, *home, node=node)
        for options in ((), ("--json",), ("--terms", "--json"))
    )
    return {"outbox": json.loads(notes), "shown": shown, "privacy": json.loads(terms)["privacy"]}


def _read_rounds(stage: Stage) -> list[dict[str, Any]]:
    from palate.server.metrics import read_metrics

    return read_metrics(stage.server.rounds)


def _search(folder: Path, private: Mapping[str, Private]) -> dict[str, Any]:
    """Search a capture for the needles of these people, keep the findings next to it, and return figures."""
    from palate.simulations.federation_demo.capture import TO_SERVER, find_updates, read_capture
    from palate.simulations.federation_demo.needles import Needles, search
    from palate.simulations.federation_demo.people import make_needles

    needles = Needles()
    for name, one in private.items():
        needles.update(make_needles(name, one))
    streams: list[Stream] = read_capture(folder)
    try:
        found = search(streams, list(needles))
        updates = [update for stream in streams for update in find_updates(stream)]
    except ValueError as error:
        raise FederationError(f"the capture cannot be searched: {error}") from None
    sizes: Counter[str] = Counter()
    for stream in streams:
        sizes[stream.way] += len(stream.data)
    (folder / "found.json").write_text(
        json.dumps([_plainly(asdict(one)) for one in found], indent=1), encoding="utf-8"
    )
    return {
        "connections": len(streams) // 2,
        "bytes_to_server": sizes[TO_SERVER],
        "bytes_to_devices": sum(sizes.values()) - sizes[TO_SERVER],
        "updates": updates,
        "needles": dict(needles.kinds()),
        "found": dict(Counter(one.kind for one in {one.needle for one in found})),
    }


def _plainly(value: Any) -> Any:
    """Return a finding without the needle's bytes, which are private."""
    return {**value, "needle": {"kind": value["needle"]["kind"], "name": value["needle"]["name"]}}


# --- around it ----------------------------------------------------------------------------------------------


def _clear(out: Path) -> Path:
    """Return the folder, empty and marked as ours.

    What an earlier demonstration left in it goes, anything else is refused.
    """
    folder = out.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; name a folder with --out")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / REPORT).exists():
            raise OptionError(
                f"{folder} holds something else than an earlier demonstration; name another with --out"
            )
        from palate.simulations.federation_demo.processes import end_processes_of

        end_processes_of(folder / "server")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text("{}", encoding="utf-8")
    return folder
