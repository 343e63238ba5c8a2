"""Flower's books inside the server: what an answer may be, whose it is, when it is late, and who is known."""

import time
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto import fleet_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object as objects
from front_caller import Caller

from palate.server.aggregation import Reply
from palate.server.front import superlink as links
from palate.server.front.books import number_of
from palate.server.front.fleet_calls import MOST_RECORD, FlowerError, RefusedError
from palate.server.front.port import Front
from palate.server.front.superlink import SuperLink
from palate.shared.bundle import known_hashes
from palate.shared.reasons import DeclineReason


class Device:
    """A device at the books: it makes the requests that come over the network otherwise."""

    def __init__(self, link: SuperLink, key: Any = None, *, admitted: bool = False) -> None:
        self.link = link
        self._caller = Caller(Front(link), key)
        self.public = self._caller.public
        if not admitted:
            link.register(fleet_pb2.RegisterNodeFleetRequest(public_key=self.public))
        asked = fleet_pb2.ActivateNodeRequest(public_key=self.public, heartbeat_interval=30)
        self.node = self._caller.node = link.activate(asked).node_id

    def take(self, had: str | None = None) -> Message | None:
        answer, content = self.link.take(self._caller.asks(), had)
        if not answer.messages_list:
            return None
        message = message_from_proto(answer.messages_list[0])
        message.content = RecordDict({"palate": ConfigRecord.inflate(content)})
        return message

    def asked(self) -> Message:
        message = self.take()
        assert message is not None
        return message

    def pushed(self, question: Message, content: RecordDict | Error) -> tuple[Any, list[bytes]]:
        """The push of a reply, and its parts."""
        return self._caller.pushed(Message(content, reply_to=question))  # type: ignore[call-overload]

    def give(self, question: Message, content: RecordDict | Error) -> None:
        self.link.give(*self.pushed(question, content))

    def part(self, session: str, part: bytes, run: int) -> bool:
        """Upload one part of a reply by itself, as Flower's own SuperNode does; says whether it was taken."""
        answer = self.link.push_object(
            message_pb2.PushObjectRequest(
                node=node_pb2.Node(node_id=self.node), run_id=run, session_id=session,
                object_id=objects.get_object_id(part), object_content=part,
            )
        )  # fmt: skip
        return bool(answer.stored)


@pytest.fixture
def link() -> SuperLink:
    made = SuperLink()
    made.start_run("{}")
    return made


def record(**values: Any) -> RecordDict:
    return RecordDict({"palate": ConfigRecord(values)})


def found(link: SuperLink, **how: Any) -> dict[str, bytes | str | None]:
    """What the answers that are there say."""
    replies = list(link.replies(**how))
    return {one.question: one.wire if one.wire is not None else one.reason for one in replies}


def ask(link: SuperLink, *devices: Device, wire: bytes = b"task", seconds: float = 60.0) -> dict[int, str]:
    asked = link.ask({device.node: wire for device in devices}, 1, seconds)
    return {node: question for question, node in asked.items()}


# --- questions and answers ----------------------------------------------------------------------------------


def test_what_is_asked_arrives_and_what_is_answered_too(link: SuperLink) -> None:
    devices = [Device(link) for _ in range(3)]
    assert link.connected() == sorted(device.node for device in devices)
    asked = link.ask({device.node: b"task %d" % i for i, device in enumerate(devices)}, 4, 9.0)
    for number, device in enumerate(devices):
        question = device.asked()
        assert dict(question.content["palate"]) == {"wire": b"task %d" % number}
        metadata = question.metadata
        assert (asked[metadata.message_id], metadata.group_id) == (device.node, "4")
        assert (metadata.ttl, metadata.message_type) == (9.0, "train")
        device.give(question, record(wire=b"answer %d" % number))
        assert device.take() is None
    assert sorted(found(link).values()) == [b"answer 0", b"answer 1", b"answer 2"]
    assert found(link, all_of_them=True) == {}  # each once


def test_the_same_bytes_for_all_are_kept_once(link: SuperLink) -> None:
    devices = [Device(link) for _ in range(5)]
    ask(link, *devices, wire=b"the same" * 1000)
    assert len(link._store) == 5 + 1 + 1  # a message each; the content and the record in it once


def test_a_run_is_of_our_bundle_and_of_no_other(link: SuperLink) -> None:
    device = Device(link)
    ask(link, device)
    run = device.asked().metadata.run_id
    asked = run_pb2.GetRunRequest(node=node_pb2.Node(node_id=device.node), run_id=run)
    assert link.get_run(asked).run.fab_hash in known_hashes()


ODD = [
    (RecordDict(), RefusedError),
    (
        RecordDict({"palate": ConfigRecord({"wire": b"a"}), "more": ConfigRecord({"wire": b"b"})}),
        RefusedError,
    ),
    (RecordDict({"palate": ConfigRecord(), "more": ConfigRecord()}), "content"),
    (RecordDict({f"record-{i}": ConfigRecord({"a": i}) for i in range(2000)}), RefusedError),
    (RecordDict({"palate": MetricRecord({"num-examples": 10**12})}), "unreadable"),
    (record(**{f"name-{i}": 1 for i in range(10_000)}), "content"),
    (record(wire=b"bytes", comment="text"), "content"),
    (record(wire="text"), "content"),
    (record(wire=[b"a", b"b"]), "content"),
    (record(wire=b""), b""),
    (record(wire=bytes(MOST_RECORD + 1)), "size"),
    (Error(code=2, reason="a very secret comment"), "error"),
    (Error(code=2, reason=DeclineReason.MASKS_REFUSED.value), "masks refused"),
    (Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=""), "late"),
    (Error(code=ErrorCode.NODE_UNAVAILABLE, reason=""), "gone"),
]


@pytest.mark.parametrize(("content", "becomes"), ODD, ids=[str(number) for number in range(len(ODD))])
def test_an_odd_answer_costs_itself_alone(link: SuperLink, content: Any, becomes: Any) -> None:
    devices = [Device(link) for _ in range(3)]
    questions = ask(link, *devices)
    if becomes is RefusedError:
        with pytest.raises(RefusedError):
            devices[1].give(devices[1].asked(), content)
    else:
        devices[1].give(devices[1].asked(), content)
    for device in (devices[0], devices[2]):
        device.give(device.asked(), record(wire=b"sound"))
    expected = {questions[device.node]: b"sound" for device in (devices[0], devices[2])}
    if becomes is not RefusedError:
        expected[questions[devices[1].node]] = becomes
    assert found(link) == expected


@pytest.mark.parametrize("odd", ["garbage", "one less", "one more", "none", "in another order"])
def test_parts_that_are_not_those_of_the_reply_cost_that_reply_alone(link: SuperLink, odd: str) -> None:
    liar, honest = Device(link), Device(link)
    ask(link, liar, honest)
    request, parts = liar.pushed(liar.asked(), record(wire=b"sound"))
    sent = {
        "garbage": [*parts[:-1], b"\xff\x00\x13garbage"],
        "one less": parts[:-1],
        "one more": [*parts, b"one more"],
        "none": [],
        "in another order": parts[::-1],
    }
    with pytest.raises(RefusedError, match="not the parts of this reply"):
        link.give(request, sent[odd])
    honest.give(honest.asked(), record(wire=b"honest"))
    assert list(found(link, all_of_them=True).values()) == [b"honest"]


def test_a_record_whose_bytes_are_none_is_unreadable_and_the_others_are_read(
    link: SuperLink,
) -> None:
    """Flower names objects by their hash alone, so garbage of the right name arrives.

    It is read by nobody.
    """
    devices = [Device(link), Device(link)]
    ask(link, *devices)
    garbage = objects.add_header_to_object_body(b"\xff" * 9, ConfigRecord())
    question = devices[0].asked()
    request, parts = devices[0].pushed(question, record(wire=b"sound"))
    tree, name = request.message_object_trees[0], objects.get_object_id(garbage)
    tree.children[0].children[0].object_id = name
    link.give(request, [*parts[:-1], garbage])
    devices[1].give(devices[1].asked(), record(wire=b"sound"))
    assert sorted(map(str, found(link).values())) == ["b'sound'", "unreadable"]


def test_what_a_device_says_of_its_error_goes_no_further(link: SuperLink) -> None:
    device = Device(link)
    (question,) = ask(link, device).values()
    device.give(device.asked(), Error(code=2, reason="a very secret comment"))
    assert list(link.replies()) == [Reply(question, None, "error")]
    assert "secret" not in repr(link._books.message_res_store)


def test_a_reply_that_is_announced_and_not_uploaded_holds_nobody_up(link: SuperLink) -> None:
    slow, quick = Device(link), Device(link)
    questions = ask(link, slow, quick)
    request, parts = slow.pushed(slow.asked(), record(wire=b"slow"))
    session = link.push(request).session_id
    for part in parts[:-1]:
        slow.part(session, part, request.messages_list[0].metadata.run_id)
    quick.give(quick.asked(), record(wire=b"quick"))
    assert found(link, all_of_them=True) == {questions[quick.node]: b"quick"}
    assert found(link, all_of_them=True) == {}
    slow.part(session, parts[-1], request.messages_list[0].metadata.run_id)
    assert link.ready()
    assert found(link) == {questions[slow.node]: b"slow"}
    assert not link.ready()


def test_an_answer_in_anothers_name_to_anothers_question_or_to_none_is_refused(link: SuperLink) -> None:
    honest, liar = Device(link), Device(link)
    ask(link, honest, liar)
    question, own = honest.asked(), liar.asked()
    request, parts = honest.pushed(question, record(wire=b"forged"))
    request.node.node_id = liar.node
    with pytest.raises(RefusedError, match="not a reply of this node"):
        link.give(request, parts)
    request.messages_list[0].metadata.src_node_id = liar.node
    with pytest.raises(RefusedError, match="nobody waits for this"):
        link.give(request, parts)
    request.messages_list[0].metadata.reply_to_message_id = ""  # an instruction, for Flower's handler
    with pytest.raises(RefusedError, match="not a reply of this node"):
        link.give(request, parts)
    assert honest.take() is None
    liar.give(own, record(wire=b"own"))
    honest.give(question, record(wire=b"honest"))
    assert sorted(map(str, found(link).values())) == ["b'honest'", "b'own'"]


def test_a_second_answer_is_refused(link: SuperLink) -> None:
    device = Device(link)
    ask(link, device)
    question = device.asked()
    device.give(question, record(wire=b"first"))
    with pytest.raises((RefusedError, FlowerError)):
        device.give(question, record(wire=b"second"))
    assert list(found(link).values()) == [b"first"]
    with pytest.raises(RefusedError, match="nobody waits for this"):
        device.give(question, record(wire=b"third"))
    assert found(link, all_of_them=True) == {}


# --- late, gone, lost ---------------------------------------------------------------------------------------


def test_what_a_round_did_not_wait_for_is_forgotten_and_a_late_answer_is_refused(link: SuperLink) -> None:
    slow, half, silent = (Device(link) for _ in range(3))
    ask(link, slow, half, silent)
    questions = [slow.asked(), half.asked()]
    request, parts = half.pushed(questions[1], record(wire=b"half"))
    session = link.push(request).session_id
    half.part(session, parts[0], request.messages_list[0].metadata.run_id)
    later = ask(link, slow, half, silent, wire=b"next")
    with pytest.raises(RefusedError, match="nobody waits for this"):
        slow.give(questions[0], record(wire=b"late"))
    assert not half.part(session, parts[-1], request.messages_list[0].metadata.run_id)
    assert found(link) == {}
    for device in (slow, half, silent):  # the first question is not handed out any more
        question = device.asked()
        assert question.metadata.message_id == later[device.node]
        device.give(question, record(wire=b"in time"))
    assert list(found(link).values()) == [b"in time"] * 3
    assert len(link._books.message_ins_store) == len(link._books.message_res_store) == 0
    assert len(link._store) == 0


def test_a_question_that_is_not_answered_in_time_is_late(link: SuperLink) -> None:
    device = Device(link)
    questions = ask(link, device, seconds=0.5)
    question = device.asked()
    time.sleep(0.6)
    with pytest.raises((RefusedError, FlowerError)):
        device.give(question, record(wire=b"late"))
    assert found(link, all_of_them=True) == {questions[device.node]: "late"}


def test_a_device_that_hung_up_and_did_not_come_back_is_gone(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, back = Device(link), Device(link)
    questions = ask(link, gone, back)
    monkeypatch.setattr(links, "GONE_SECONDS", 0.1)
    for device in (gone, back):
        link.hung_up(device.node)
    link.is_alive(back.node)
    time.sleep(0.2)
    assert found(link) == {}
    assert found(link, all_of_them=True) == {questions[gone.node]: "gone"}
    assert link.connected() == [back.node]


def test_a_message_whose_answer_was_lost_is_handed_out_again_and_otherwise_once(link: SuperLink) -> None:
    device = Device(link)
    ask(link, device)
    first = device.asked().metadata.message_id
    for _ in range(2):
        again = device.take(had="")
        assert again is not None
        assert again.metadata.message_id == first
    assert device.take(had=first) is None
    assert device.take(had="") is None  # it said that it had it


def test_a_message_of_a_round_that_is_over_is_not_handed_out_again(link: SuperLink) -> None:
    device = Device(link)
    ask(link, device)
    device.asked()
    link.end_run()
    assert device.take(had="") is None
    assert link.connected() == []


# --- who is known -------------------------------------------------------------------------------------------


def test_a_devices_number_follows_from_its_key_and_outlives_the_books(link: SuperLink) -> None:
    first = Device(link)
    again = SuperLink()
    again.start_run("{}")
    assert Device(again, first._caller.key).node == first.node == number_of(first.public)
    assert Device(again).node != first.node


def test_where_only_admitted_devices_may_join_the_others_are_refused_and_those_taken_back_are_forgotten() -> (
    None
):
    laptop, phone, stranger = (Caller(Front(SuperLink())) for _ in range(3))
    link = SuperLink({laptop.public: "laptop", phone.public: "phone"})
    link.start_run("{}")
    for caller in (laptop, phone):
        assert Device(link, caller.key, admitted=True).node == number_of(caller.public)
    for asked in (
        lambda: link.register(fleet_pb2.RegisterNodeFleetRequest(public_key=stranger.public)),
        lambda: Device(link, stranger.key, admitted=True),
    ):
        with pytest.raises((RefusedError, FlowerError)):
            asked()
    link.admit({phone.public: "phone"})
    assert link.connected() == [number_of(phone.public)]
    assert link.node_of(laptop.public) is None
    with pytest.raises((RefusedError, FlowerError)):
        Device(link, laptop.key, admitted=True)


def test_there_is_an_end_to_how_many_devices_are_taken(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MOST_NODES", 2)
    Device(link)
    Device(link)
    with pytest.raises(RefusedError, match="too many devices"):
        Device(link)


def test_a_device_that_was_away_for_long_is_forgotten_with_what_waited_for_it(link: SuperLink) -> None:
    away, here, admitted = Device(link), Device(link), SuperLink({b"key": "laptop"})
    ask(link, away, here)
    for node in (away.node, here.node):
        link._books.nodes[node].online_until -= links.FORGET_SECONDS + 100
    link.is_alive(here.node)
    link.forget_absent()
    admitted.forget_absent()
    assert link.node_of(away.public) is None
    assert link.node_of(here.public) == here.node
    assert set(link._books.queues) == {here.node}
    assert admitted.node_of(b"key") is not None  # who was admitted stays so


def test_messages_that_nobody_took_in_time_are_dropped(link: SuperLink) -> None:
    device = Device(link)
    ask(link, device, seconds=0.2)
    time.sleep(0.3)
    link.forget_absent()
    assert not link._books.queues
    assert not link._books.message_ins_store
