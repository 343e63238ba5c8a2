"""The public port: questions that are taken, answers that are given, devices that wait, leave and
come back."""

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("flwr")

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_from_proto
from flwr.proto import fleet_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object as objects
from front_caller import Body, Caller, call, opened, run

from palate.server.front import port as fronts
from palate.server.front import superlink as links
from palate.server.front.superlink import SuperLink
from palate.shared.bundle import known_hashes
from palate.shared.frames import join_frames

# --- messages -----------------------------------------------------------------------------------------------


def test_a_question_is_taken_and_an_answer_given_in_two_calls() -> None:
    async def work() -> None:
        link, front = opened()
        callers = [await Caller(front).join() for _ in range(3)]
        assert link.connected() == sorted(one.node for one in callers)
        questions = link.ask({one.node: b"task" for one in callers}, 1, 60.0)
        assert sorted(questions.values()) == link.connected()
        for place, one in enumerate(callers):
            message = await one.take()
            assert message.content["palate"]["wire"] == b"task"
            assert await one.give(message, b"answer %d" % place) == 200
        found = {questions[reply.question]: reply.wire for reply in link.replies()}
        assert found == {one.node: b"answer %d" % place for place, one in enumerate(callers)}
        assert list(link.replies()) == []
        assert not link._books.message_ins_store
        assert not link._books.message_res_store
        assert len(link._store) == 0

    run(work())


def test_a_device_that_waits_is_answered_at_once_and_others_in_time() -> None:
    async def work() -> None:
        link, front = opened()
        caller, idle = await Caller(front).join(), await Caller(front).join()
        waiting = asyncio.ensure_future(caller.take(hold=20))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        began = time.monotonic()
        link.ask({caller.node: b"task"}, 1, 60.0)
        assert (await waiting).content["palate"]["wire"] == b"task"
        assert await idle.take(hold=0.2) is None
        assert 0.2 <= time.monotonic() - began < 5

    run(work())


def test_a_message_that_was_lost_on_the_way_comes_again() -> None:
    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        link.ask({caller.node: b"one"}, 1, 60.0)
        first = await caller.take(had="")
        again = await caller.take(had="")  # the answer to the first call was lost
        assert again.metadata.message_id == first.metadata.message_id
        assert again.content["palate"]["wire"] == b"one"
        assert await caller.take(had=first.metadata.message_id) is None
        assert await caller.take(had="") is None  # it said that it had it
        assert await caller.give(first) == 200
        list(link.replies())
        assert await caller.take(had="") is None

    run(work())


def test_who_hangs_up_while_waiting_is_soon_gone_and_back_with_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "GONE_SECONDS", 0.1)

    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        body = Body(join_frames([caller.asks().SerializeToString()]), hangs_up=0.05)
        await caller.take(hold=5, body=body)
        assert link.connected() == [caller.node]
        await asyncio.sleep(0.15)
        assert link.connected() == []
        await caller.take(hold=0)
        assert link.connected() == [caller.node]

    run(work())


@pytest.mark.parametrize(
    ("how", "gone"), [("killed", True), ("idle", False), ("behind a proxy", False), ("moved on", False)]
)
def test_a_device_that_is_killed_at_work_is_soon_gone_and_no_other_whose_connection_ends(
    monkeypatch: pytest.MonkeyPatch, how: str, gone: bool
) -> None:
    monkeypatch.setattr(links, "GONE_SECONDS", 0.1)

    async def take(caller: Caller, address: str = "192.0.2.1") -> None:
        headers = caller.signed() | ({"via": "1.1 proxy"} if how == "behind a proxy" else {})
        body = join_frames([caller.asks().SerializeToString()])
        sent = await call(
            caller.front, "/v1/palate/take", body, {**headers, "x-palate-hold": "0"}, address=address
        )
        assert sent.status == 200

    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        questions = link.ask({caller.node: b"task"}, 1, 60.0)
        await take(caller)
        if how == "moved on":
            await take(caller, "192.0.2.2")
        if how == "idle":
            front.connection_idle(("192.0.2.1", 1234))
        front.connection_lost(("192.0.2.1", 1234))
        await asyncio.sleep(0.15)
        assert (link.connected() == []) is gone
        found = {reply.question: reply.reason for reply in link.replies(all_of_them=True)}
        assert found == (dict.fromkeys(questions, "gone") if gone else {})

    run(work())


def test_a_newer_call_of_a_device_ends_the_older() -> None:
    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        older = asyncio.ensure_future(caller.take(hold=20))
        await asyncio.sleep(0.05)
        newer = asyncio.ensure_future(caller.take(hold=20))
        assert await asyncio.wait_for(older, 5) is None
        link.ask({caller.node: b"task"}, 1, 60.0)
        assert (await newer).content["palate"]["wire"] == b"task"

    run(work())


@pytest.mark.parametrize("hold", ["nan", "inf", "-1", "1e9", "soon"])
def test_an_odd_patience_holds_nothing_for_ever(hold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "MOST_HOLD_SECONDS", 0.1)

    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        data = join_frames([caller.asks().SerializeToString()])
        answer = await asyncio.wait_for(
            call(front, "/v1/palate/take", data, caller.signed() | {"x-palate-hold": hold}), 5
        )
        assert answer.status in (200, 400)

    run(work())


def forged_instruction(link: SuperLink, to: int, source: int) -> Message:
    """An instruction to another device, as only the server may give one."""
    metadata = Metadata(
        run_id=link._run or 0, message_id="", src_node_id=source, dst_node_id=to, reply_to_message_id="",
        group_id="1", created_at=time.time(), ttl=60.0, message_type="train",
    )  # fmt: skip
    return make_message(metadata, RecordDict({"palate": ConfigRecord({"wire": b"forged"})}))


def test_a_device_cannot_instruct_another() -> None:
    async def work() -> None:
        link, front = opened()
        caller, victim = await Caller(front).join(), await Caller(front).join()
        for source in (1, caller.node):
            request, parts = caller.pushed(forged_instruction(link, victim.node, source))
            assert await caller.give_parts(request, parts) == 403
            assert (await caller.fleet("push-messages", request)).status == 403
        assert await victim.take() is None
        # The control: Flower's own handler takes it for the server's.
        request, parts = caller.pushed(forged_instruction(link, victim.node, 1))
        links.fleet.push_messages(request, link._books)
        assert len(link._books.message_ins_store) == 1

    run(work())


def test_a_device_cannot_answer_for_another_nor_twice() -> None:
    async def work() -> None:
        link, front = opened()
        caller, victim = await Caller(front).join(), await Caller(front).join()
        link.ask({victim.node: b"task", caller.node: b"task"}, 1, 60.0)
        asked = await victim.take()
        request, parts = caller.reply(asked)
        assert await caller.give_parts(request, parts) == 403  # to another's question, in its name
        request, parts = victim.reply(asked, node=caller.node)
        assert await caller.give_parts(request, parts) == 403  # signed by the caller, in the victim's name
        own = await caller.take()
        assert await caller.give(own, b"first") == 200
        assert await caller.give(own, b"second") != 200
        assert [reply.wire for reply in link.replies()] == [b"first"]
        assert await caller.give(own, b"third") == 403  # nobody waits any more

    run(work())


@pytest.mark.parametrize(
    "kind", ["two messages", "a deep tree", "a wide tree", "parts missing", "parts of another"]
)
def test_a_reply_of_another_form_is_refused(kind: str) -> None:
    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        link.ask({caller.node: b"task"}, 1, 60.0)
        request, parts = caller.reply(await caller.take())
        tree = request.message_object_trees[0]
        if kind == "two messages":
            request.messages_list.append(request.messages_list[0])
        elif kind == "a deep tree":
            inner = tree.children[0].children[0]
            for _ in range(50):
                inner = inner.children.add(object_id="1" * 64)
        elif kind == "a wide tree":
            for _ in range(1_000):
                tree.children.add(object_id="1" * 64)
        elif kind == "parts missing":
            parts = parts[:1]
        else:
            parts = [parts[0], parts[1], b"ConfigRecord 0\0"]
        assert await caller.give_parts(request, parts) in (400, 403)
        assert list(link.replies()) == []

    run(work())


def test_a_device_of_flowers_own_kind_is_served_part_by_part() -> None:
    async def work() -> None:
        link, front = opened()
        caller, other = await Caller(front).join(), await Caller(front).join()
        link.ask({caller.node: b"task", other.node: b"other"}, 1, 60.0)
        answer = await caller.fleet("pull-messages", caller.asks())
        pulled = fleet_pb2.PullMessagesResponse.FromString(answer.body)
        names = [one.object_id for one in objects.iterate_object_tree(pulled.message_object_trees[0])]
        run_id = pulled.messages_list[0].metadata.run_id

        async def part(who: Caller, name: str) -> Any:
            asked = message_pb2.PullObjectRequest(node=who.me(), run_id=run_id, object_id=name)
            return message_pb2.PullObjectResponse.FromString((await who.fleet("pull-object", asked)).body)

        assert b"task" in (await part(caller, names[0])).object_content
        assert not (await part(other, names[0])).object_found  # it took no message with that part
        known = run_pb2.GetRunResponse.FromString(
            (await caller.fleet("get-run", run_pb2.GetRunRequest(node=caller.me(), run_id=run_id))).body
        )
        assert known.run.fab_hash in known_hashes()
        done = message_pb2.ConfirmMessageReceivedRequest(
            node=caller.me(), run_id=run_id, message_object_id=names[-1]
        )
        stolen = message_pb2.ConfirmMessageReceivedRequest(
            node=other.me(), run_id=run_id, message_object_id=names[-1]
        )
        assert (await other.fleet("confirm-message-received", stolen)).status == 403
        assert (await caller.fleet("confirm-message-received", done)).status == 200
        request, parts = caller.reply(message_from_proto(pulled.messages_list[0]))
        pushed = fleet_pb2.PushMessagesResponse.FromString(
            (await caller.fleet("push-messages", request)).body
        )
        assert list(link.replies()) == []
        tree = [one.object_id for one in objects.iterate_object_tree(request.message_object_trees[0])][::-1]
        for name, content in zip(tree, parts, strict=True):
            one = message_pb2.PushObjectRequest(
                node=caller.me(), run_id=run_id, object_id=name, object_content=content,
                session_id=pushed.session_id,
            )  # fmt: skip
            assert message_pb2.PushObjectResponse.FromString(
                (await caller.fleet("push-object", one)).body
            ).stored
        assert [reply.wire for reply in link.replies()] == [b"answer"]

    run(work())


# --- devices ------------------------------------------------------------------------------------------------


def test_a_node_keeps_its_number_over_a_restart_of_the_server() -> None:
    async def work() -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        numbers = [(await Caller(opened()[1], key).join()).node for _ in range(2)]
        assert numbers[0] == numbers[1] > 1

    run(work())


def test_any_call_and_any_waiting_counts_as_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ALIVE_SECONDS", 0.0)

    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        known = link._books.nodes[caller.node]
        for path in ("take", "wait"):
            known.online_until = time.time() - 1
            assert link.connected() == []
            waiting = asyncio.ensure_future(caller.take(hold=0.2 if path == "wait" else 0.0))
            await asyncio.sleep(0.05)
            if path == "wait":
                known.online_until = time.time() - 1
                front.keep_waiting_alive()
            assert link.connected() == [caller.node]
            await waiting

    run(work())


def test_who_was_away_for_long_is_forgotten_with_all_that_waited() -> None:
    async def work() -> None:
        link, front = opened()
        caller, here = await Caller(front).join(), await Caller(front).join()
        link.ask({caller.node: b"task", here.node: b"task"}, 1, 0.05)
        link._books.nodes[caller.node].online_until = time.time() - links.FORGET_SECONDS - 1
        await asyncio.sleep(0.1)
        link.forget_absent()
        assert set(link._books.nodes) == {here.node}
        assert not link._books.queues
        assert await caller.take() == 401

    run(work())


def test_a_server_takes_so_many_devices_and_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MOST_NODES", 2)

    async def work() -> None:
        _, front = opened()
        for _ in range(2):
            await Caller(front).join()
        third = Caller(front)
        asked = fleet_pb2.RegisterNodeFleetRequest(public_key=third.public)
        answer = await third.fleet("register-node", asked)
        assert answer.status == 503
        assert int(answer.headers[b"retry-after"]) > 0

    run(work())


def test_only_admitted_keys_join_where_keys_are_asked_for() -> None:
    async def work() -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        known = Caller(opened()[1], key)
        link, front = opened({known.public: "Mara's laptop"})
        known.front = front
        stranger = Caller(front)
        register = fleet_pb2.RegisterNodeFleetRequest(public_key=stranger.public)
        assert (await stranger.fleet("register-node", register)).status in (403, 412)
        assert (await stranger.activate()).status in (401, 412)
        assert (await known.activate()).status == 200
        assert await known.take() is None
        link.admit({stranger.public: "another"})
        assert await known.take() == 401
        assert (await stranger.activate()).status == 200

    run(work())
