"""The engine in one process.

Side by side as one by one, one by one as on a device's wire, and odd messages as a device takes them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.inflatable import inflatable_object

from palate.client.federation import app as node
from palate.client.federation.contribution import no_class
from palate.client.federation.member import answer_task
from palate.client.vault.store import MemoryStore
from palate.server.app import HOME_VARIABLE, grid_devices
from palate.server.app import app as server_app
from palate.server.checkpoints import Checkpoint, read_checkpoint
from palate.server.rounds.exchange import Patience
from palate.server.rounds.loop import run_rounds
from palate.server.rounds.run import ServerFolder
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.bundle import known_hashes
from palate.shared.delegation import message_in
from palate.shared.encoder import (
    FIXED_SHAPES,
    EncoderWeights,
    encoder_hash,
    flatten,
    load_encoder,
)
from palate.shared.reasons import DeclineReason
from palate.shared.update import LocalSettings
from palate.shared.wire import UPDATE_BYTES, Task, decode_update, encode_task
from palate.simulations.engine import in_process as engine
from palate.simulations.engine.in_process import FIRST_NODE, RUN, InProcessGrid
from palate.simulations.engine.virtual_people import VirtualPerson
from tests.made_up import make_labels
from tests.signed import signed

COUNTS = (6, 60, 23, 7, 41, 60, 12, 75)


PEOPLE = [make_labels(count, seed) for seed, count in enumerate(COUNTS)]


def run(grid: Grid, **settings: Any) -> list[Checkpoint]:
    """The checkpoints of a run over a grid, from the shipped release."""
    start = Checkpoint(
        0, load_encoder(), RunSettings(**{"rounds": 2, "devices": len(COUNTS), "quorum": 2} | settings)
    )
    return list(
        run_rounds(
            grid_devices(grid), start, average=average, patience=Patience(poll_seconds=0.0), sign=signed
        )
    )


def learned(state: Checkpoint) -> np.ndarray[Any, Any]:
    return flatten(state.encoder.tensors).astype(np.float64) - flatten(load_encoder().tensors)


def weight(state: Checkpoint) -> float:
    return float(np.linalg.norm(flatten(state.encoder.tensors)))


def make_task(encoder: EncoderWeights | None = None, **changes: Any) -> bytes:
    values: dict[str, Any] = {"round": 3, "settings": LocalSettings(steps=2), "seed": 11} | changes
    return signed(encode_task(Task.for_encoder(load_encoder() if encoder is None else encoder, **values)))


def ask(
    grid: Grid, wire: Any, nodes: Sequence[int], kind: str = "train", **more: ConfigRecord
) -> list[Message]:
    """What these nodes answer, in their order."""
    content = RecordDict({"palate": ConfigRecord({"wire": wire}), **more})
    sent = list(grid.push_messages([Message(content, number, kind, ttl=60) for number in nodes]))
    replies = {reply.metadata.reply_to_message_id: reply for reply in grid.pull_messages(sent)}
    return [replies[name] for name in sent]


def wires(replies: Sequence[Message]) -> list[Any]:
    """Bytes, or the reason for none."""
    return [r.error.reason if r.has_error() else r.content["palate"]["wire"] for r in replies]


def everybody(grid: Grid) -> list[int]:
    return list(grid.get_node_ids())


# --- together and one by one --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedprox"])
def test_a_run_together_is_a_run_one_by_one(strategy: str) -> None:
    settings: dict[str, Any] = {"strategy": strategy}
    if strategy == "fedprox":
        settings["local"] = LocalSettings(steps=5, proximal=1.0, alignment=0.1)
    if strategy == "fedadam":
        settings |= {"server_learning_rate": 0.001, "tau": 1e-3}
    together, alone = (run(InProcessGrid(PEOPLE, together=way), **settings)[-1] for way in (True, False))
    assert together.metrics["used"] == alone.metrics["used"] == len(COUNTS)
    apart = float(np.linalg.norm(learned(together) - learned(alone)))
    assert apart <= 5e-6 * weight(alone)
    assert apart <= 1e-4 * np.linalg.norm(learned(alone))


def test_how_many_threads_work_and_how_many_are_side_by_side_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(engine, "CHUNK", 3)
    usual, *others = (run(InProcessGrid(PEOPLE, workers=count))[-1] for count in (1, 2, 5))
    assert {encoder_hash(one.encoder) for one in others} == {encoder_hash(usual.encoder)}
    assert torch.get_num_threads() == before
    monkeypatch.setattr(engine, "CHUNK", 2)
    smaller = run(InProcessGrid(PEOPLE))[-1]
    assert np.linalg.norm(learned(smaller) - learned(usual)) <= 1e-7 * weight(usual)


def test_the_same_seed_gives_the_same_encoder_and_another_seed_another() -> None:
    one, same, other = (
        run(InProcessGrid(PEOPLE), devices=5, seed=seed)[-1].metrics["encoder"] for seed in (1, 1, 2)
    )
    assert one == same != other


def test_together_really_trains_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(*_: Any, **__: Any) -> Any:
        raise AssertionError("somebody was answered alone")

    monkeypatch.setattr(InProcessGrid, "_answer", alone)
    assert run(InProcessGrid(PEOPLE))[-1].metrics["used"] == len(COUNTS)


@pytest.mark.parametrize("together", [True, False])
def test_fewer_than_six_labels_are_answered_like_any_number(together: bool) -> None:
    people = [make_labels(5, 1), *PEOPLE[:3], make_labels(0, 2)]
    metrics = run(InProcessGrid(people, together=together), devices=5)[-1].metrics
    assert (metrics["used"], metrics["refused"]) == (5, {})


@pytest.mark.parametrize("together", [True, False])
def test_people_with_too_few_labels_leave_the_encoder_where_it_is(together: bool) -> None:
    grid = InProcessGrid([make_labels(3, seed) for seed in range(4)], together=together)
    states = run(grid, devices=4, rounds=2)
    assert [state.metrics["used"] for state in states] == [4, 4]
    assert not learned(states[-1]).any()


@pytest.mark.parametrize("together", [True, False])
def test_settings_beyond_a_devices_ranges_are_declined_by_everybody(together: bool) -> None:
    wild = LocalSettings(steps=100, learning_rate=10.0)
    replies = wires(ask(InProcessGrid(PEOPLE[:4], together=together), make_task(settings=wild), range(2, 6)))
    assert set(replies) == {DeclineReason.SETTINGS_REFUSED.value}


@pytest.mark.parametrize("together", [True, False])
def test_training_that_comes_to_nothing_is_answered_like_any_other(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("diverged")

    monkeypatch.setattr("palate.client.federation.local_training._descend", fail)
    replies = wires(ask(InProcessGrid(PEOPLE[:3], together=together), make_task(), range(2, 5)))
    base = encoder_hash(load_encoder())
    assert [decode_update(wire, base=base, round=3).norm for wire in replies] == [0.0] * 3


def test_one_persons_failure_is_answered_alone_and_the_others_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, alone = engine.train_together, []

    def spoiled(*arguments: Any) -> Any:
        for row, change in train(*arguments):
            yield row, change if row != 1 else {name: array * np.nan for name, array in change.items()}

    answer = InProcessGrid._answer

    def noted(grid: InProcessGrid, message: Message) -> Message:
        alone.append(message.metadata.dst_node_id)
        return answer(grid, message)

    monkeypatch.setattr(engine, "train_together", spoiled)
    monkeypatch.setattr(InProcessGrid, "_answer", noted)
    grid = InProcessGrid(PEOPLE[:4])
    replies = wires(ask(grid, make_task(), everybody(grid)))
    assert alone == [FIRST_NODE + 2]  # of those sorted by their labels the second: 60, 23, 7, 6
    assert [len(wire) for wire in replies] == [UPDATE_BYTES] * 4


# --- as on a device -----------------------------------------------------------------------------------------


class Wire:
    """The connection of a node that has one message to answer, without a network."""

    node_id = 5

    def __init__(self, message: Message) -> None:
        with inflatable_object.no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            tree = inflatable_object.get_object_tree(message)
            record = next(part.object_id for part in inflatable_object.iterate_object_tree(tree))
            content = inflatable_object.get_all_nested_objects(message)[record].deflate()
        self._waiting, self.sent = [(message, tree, content)], list[Message]()

    def take(self, _hold: float) -> tuple[Message, Any, bytes] | None:
        return self._waiting.pop() if self._waiting else None

    def bundle_hash(self, _run: int) -> str:
        return min(known_hashes())

    def give(self, reply: Message) -> None:
        self.sent.append(reply)


def test_one_by_one_gives_the_very_bytes_of_a_node() -> None:
    grid = InProcessGrid(PEOPLE, together=False)
    task = make_task(settings=LocalSettings(steps=5, alignment=0.1))
    in_process = wires(ask(grid, task, everybody(grid)))
    for labels, wire in zip(PEOPLE, in_process, strict=True):
        message = Message(RecordDict({"palate": ConfigRecord({"wire": task})}), 5, "train", ttl=60)
        connection: Any = Wire(message)
        device = node._Node(connection, VirtualPerson(labels, load_encoder()), lambda _: None)
        assert device.answer_next(0.0)
        assert not device.answer_next(0.0)
        assert wires(connection.sent) == [wire]

        out: list[bytes] = []
        answer_task(
            message_in(task),
            lambda labels=labels: labels,  # type: ignore[misc]
            out.append,
            store=MemoryStore(),
            server="here",
            pause=no_class,
        )
        assert out == [wire]


def test_updates_are_of_the_round_and_the_encoder_that_were_asked_for() -> None:
    grid = InProcessGrid(PEOPLE[:3])
    for wire in wires(ask(grid, make_task(round=7), everybody(grid))):
        assert decode_update(wire, base=encoder_hash(load_encoder()), round=7).norm > 0


def other_fixed() -> EncoderWeights:
    encoder = load_encoder()
    name = next(iter(FIXED_SHAPES))
    return EncoderWeights(0, {**encoder.tensors, name: encoder.tensors[name] + np.float32(1)})


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", DeclineReason.UNREADABLE_TASK),
        (b"nonsense", DeclineReason.UNREADABLE_TASK),
        (make_task()[:-1], DeclineReason.UNSIGNED),
        (7, DeclineReason.UNREADABLE_TASK),
        (make_task(other_fixed()), DeclineReason.OTHER_ENCODER),
    ],
    ids=["empty", "nonsense", "cut short", "a number", "another release"],
)
@pytest.mark.parametrize("together", [True, False])
def test_odd_tasks_are_refused_as_on_a_device(wire: Any, reason: DeclineReason, together: bool) -> None:
    grid = InProcessGrid(PEOPLE[:2], together=together)
    assert wires(ask(grid, wire, everybody(grid))) == [reason.value] * 2


@pytest.mark.parametrize("together", [True, False])
def test_a_task_with_something_beside_it_is_refused(together: bool) -> None:
    grid = InProcessGrid(PEOPLE[:2], together=together)
    replies = ask(grid, make_task(), everybody(grid), more=ConfigRecord({"x": 1}))
    assert wires(replies) == [DeclineReason.UNREADABLE_TASK.value] * 2


@pytest.mark.parametrize("together", [True, False])
def test_a_node_where_nobody_is_answers_empty(together: bool) -> None:
    grid = InProcessGrid(PEOPLE[:2], together=together)
    found = wires(ask(grid, make_task(), [FIRST_NODE, FIRST_NODE + 2]))
    assert (len(found[0]), found[1]) == (UPDATE_BYTES, b"")


# --- the grid -----------------------------------------------------------------------------------------------


def test_different_tasks_in_one_push_are_kept_apart() -> None:
    grid = InProcessGrid(PEOPLE[:2])
    contents = [RecordDict({"palate": ConfigRecord({"wire": make_task(round=n)})}) for n in (1, 2)]
    sent = grid.push_messages([Message(one, FIRST_NODE, "train", ttl=60) for one in contents])
    first, second = wires(list(grid.pull_messages(sent)))
    decode_update(first, base=encoder_hash(load_encoder()), round=1)
    decode_update(second, base=encoder_hash(load_encoder()), round=2)


def test_each_reply_is_there_once_and_unknown_questions_have_none() -> None:
    grid = InProcessGrid(PEOPLE[:2])
    message = Message(
        RecordDict({"palate": ConfigRecord({"wire": make_task()})}), FIRST_NODE, "train", ttl=60
    )
    (question,) = grid.push_messages([message])
    assert list(grid.pull_messages(["nobody asked"])) == []
    (reply,) = grid.pull_messages([question, question])
    assert reply.metadata.reply_to_message_id == question
    assert list(grid.pull_messages([question])) == []
    (again,) = grid.send_and_receive([message])
    assert wires([again]) == wires([reply])


def test_messages_are_copied_on_their_way() -> None:
    grid = InProcessGrid(PEOPLE[:1])
    content = RecordDict({"palate": ConfigRecord({"wire": make_task()})})
    message = grid.create_message(content, "train", FIRST_NODE, "1")
    seen = []
    grid._app = lambda message, _: seen.append(message.content.clear()) or message
    grid._together = False
    grid.push_messages([message])
    assert len(seen) == 1
    assert set(content) == {"palate"}


def test_the_server_app_runs_on_the_grid(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    settings = RunSettings(rounds=2, devices=4, quorum=2)
    context = Context(RUN, SUPERLINK_NODE_ID, {}, RecordDict(), {"settings": settings.to_json()})
    server_app(InProcessGrid(PEOPLE[:4]), context)
    state = read_checkpoint(ServerFolder(tmp_path).checkpoint)
    assert state is not None
    assert (state.round, state.metrics["used"]) == (2, 4)
    assert encoder_hash(state.encoder) == run(InProcessGrid(PEOPLE[:4]), devices=4)[-1].metrics["encoder"]


def test_a_foreign_record_in_a_task_is_not_passed_on() -> None:
    grid = InProcessGrid(PEOPLE[:1], together=False)
    content = RecordDict({"palate": ConfigRecord({"wire": make_task()}), "m": MetricRecord({"x": 1.0})})
    (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, "train", ttl=60)])
    assert len(wires([reply])[0]) == UPDATE_BYTES
    context = Context(1, FIRST_NODE, {}, RecordDict(), {})
    assert grid._app(Message(content, FIRST_NODE, "train", ttl=60), context).has_error()
