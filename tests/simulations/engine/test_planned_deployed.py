"""A noise plan over real processes on loopback.

Everybody rests in turn, and a killed server goes on where its noise stands.
"""

import json
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from palate.server.metrics import read_metrics
from palate.server.processes.deployed import running
from palate.simulations.federation_demo.people import choose_people, write_lessons
from palate.simulations.federation_demo.processes import Stage, at_once, free_port
from palate.simulations.federation_demo.story import LEARNING_RATE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the server runs on POSIX"),
]

PEOPLE, STEPS = 4, 4
RUN = f"""
server_learning_rate = {LEARNING_RATE}
devices = 2
quorum = 2
[privacy]
clip_rate = 0.0
[privacy.plan]
steps = {STEPS}
separation = 2
noise_multiplier = 1.0
"""


def teach(stage: Stage, place: int) -> None:
    node = stage.add(f"person{place}", f"planned {place} passphrase")
    lessons = write_lessons(choose_people(PEOPLE)[place], place, stage.folder / "people" / node.name)
    stage.palate("teach", "--from", str(lessons), "--home", str(node.home), "--json", node=node)


def test_everybody_rests_in_turn_and_a_killed_server_goes_on_with_the_plan(tmp_path: Path) -> None:
    how = tmp_path / "run.toml"
    how.write_text(RUN, encoding="utf-8")
    with Stage(tmp_path / "stage") as stage:
        port = free_port()
        server = stage.serve("start", "--port", str(port))["pid"]
        at_once(*(lambda place=place: teach(stage, place) for place in range(PEOPLE)))
        for node in stage.nodes:
            stage.join(node, f"127.0.0.1:{port}")
        stage.until("all devices have joined", lambda: all(node.joined() for node in stage.nodes))
        stage.serve("run", "--rounds", "2", "--settings", str(how))
        first = stage.serve("privacy")
        os.kill(server, signal.SIGKILL)
        stage.until("the server is gone", lambda: running(stage.server) is None)
        stage.serve("start", "--port", str(port))
        stage.serve("run", "--rounds", "2", "--settings", str(how))
        spent = stage.serve("privacy")
        refused = stage.palate(
            *("server", "run", "--rounds", "1", "--settings", str(how), "--home", str(stage.server.home)),
            status=1,
        )
        sent = [
            json.loads(stage.palate("outbox", "--home", str(node.home), "--json", node=node))
            for node in stage.nodes
        ]
    rounds = read_metrics(stage.server.rounds)
    assert [(one["round"], one["used"], one["counted"]) for one in rounds] == [
        (number, 2, True) for number in range(1, STEPS + 1)
    ]
    assert len({one["encoder"] for one in rounds}) == STEPS
    assert f"all {STEPS} steps of the noise plan are done" in refused
    turns = [[note["round"] for note in notes] for notes in sent]
    assert all(len(rounds) == STEPS // 2 and min(b - a for a, b in pairwise(rounds)) >= 2 for rounds in turns)
    assert first["epsilon"] == spent["epsilon"] > 0  # the plan was paid for once, as a whole
