"""The public port: what it serves, to whom, how much of it, and what nobody gets."""

import asyncio
import random
import time
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from front_caller import Body, Caller, call, opened, run

from palate.server.front import port as fronts
from palate.server.front.port import CALLS, Front
from palate.server.front.superlink import SuperLink
from palate.shared.frames import join_frames


def requests_of(caller: Caller) -> dict[str, Any]:
    """A request of every call, as this device would make it."""
    me, run_id = caller.me(), 7
    return {
        "register-node": fleet_pb2.RegisterNodeFleetRequest(public_key=caller.public),
        "activate-node": fleet_pb2.ActivateNodeRequest(public_key=caller.public, heartbeat_interval=30),
        "deactivate-node": fleet_pb2.DeactivateNodeRequest(node_id=caller.node),
        "unregister-node": fleet_pb2.UnregisterNodeFleetRequest(node_id=caller.node),
        "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest(node=me, heartbeat_interval=30),
        "pull-messages": caller.asks(),
        "push-messages": fleet_pb2.PushMessagesRequest(node=me),
        "get-run": run_pb2.GetRunRequest(node=me, run_id=run_id),
        "get-fab": fab_pb2.GetFabRequest(node=me, run_id=run_id, hash_str="0"),
        "push-object": message_pb2.PushObjectRequest(node=me, run_id=run_id, object_id="0" * 64),
        "pull-object": message_pb2.PullObjectRequest(node=me, run_id=run_id, object_id="0" * 64),
        "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest(
            node=me, run_id=run_id, message_object_id="0" * 64
        ),
        "take": caller.asks(),
        "give": fleet_pb2.PushMessagesRequest(node=me),
    }


def body_of(path: str, request: Any) -> bytes:
    data: bytes = request.SerializeToString()
    return join_frames([data]) if path.startswith("/v1/palate/") else data


# --- routes -------------------------------------------------------------------------------------------------


def test_flowers_control_and_runtime_are_not_there() -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        foreign = [path for _, path in PROTOBUF_REQUEST_TYPES if "/fleet/" not in path]
        assert len(foreign) > 50  # or Flower calls them something else now
        for path in foreign:
            assert (await call(front, path, b"", caller.signed())).status == 404, path

    run(work())


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/fleet/../control/start-run",
        "//v1/fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/V1/FLEET/pull-messages",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/palate/ask",
        "/v1/palate/start",
        "/start",
        "/v1/fleet/take",
        "/v1/palate/pull-messages",
    ],
)
def test_odd_spellings_are_not_found(path: str) -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        assert (await call(front, path, caller.asks().SerializeToString(), caller.signed())).status == 404

    run(work())


def test_an_encoded_path_is_not_the_route_that_it_decodes_to() -> None:
    async def work() -> None:
        _, front = opened()
        answers = []

        async def send(event: Any) -> None:
            answers.append(event)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/fleet/pull-messages", "headers": [],
            "client": None,
            "raw_path": b"/v1/fleet/%70ull-messages",
        }  # fmt: skip
        await front(scope, Body(), send)
        assert answers[0]["status"] == 404
        assert (await call(front, "/v1/fleet/pull-messages", method="GET")).status == 404

    run(work())


def test_calls_that_nobody_signed_are_refused() -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        asked = requests_of(caller)
        for place, (path, name) in enumerate(CALLS.items()):
            answer = await call(front, path, body_of(path, asked[name]), address=f"192.0.2.{place}")
            assert answer.status == 401, path

    run(work())


def test_a_key_speaks_for_its_own_node_only() -> None:
    async def work() -> None:
        _, front = opened()
        caller, other = await Caller(front).join(), await Caller(front).join()
        asked = requests_of(other)
        for path, name in CALLS.items():
            if name != "give":  # of which a test stands below
                answer = await call(front, path, body_of(path, asked[name]), caller.signed())
                assert answer.status == 401, path

    run(work())


# --- signatures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-280.0, -30.0, 30.0, 280.0])
def test_a_clock_may_be_off_by_minutes(off: float) -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        answer = await call(front, "/v1/fleet/pull-messages", Body(caller.asks().SerializeToString()),
                            caller.signed(off=off) | {"x-palate-hold": "0"})  # fmt: skip
        assert answer.status == 200

    run(work())


@pytest.mark.parametrize("off", [-330.0, 330.0])
def test_a_clock_that_is_further_off_is_told_so_but_only_to_who_has_the_key(off: float) -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        body = caller.asks().SerializeToString()
        late = caller.signed(off=off)
        answer = await call(front, "/v1/fleet/pull-messages", body, late)
        assert (answer.status, b"the time" in answer.body) == (401, True)
        forged = late | {"flwr-signature": Caller(front).signed(off=off)["flwr-signature"]}
        answer = await call(front, "/v1/fleet/pull-messages", body, forged)
        assert (answer.status, b"the time" in answer.body) == (401, False)

    run(work())


@pytest.mark.parametrize(
    "stamp", ["", "yesterday", "2026-01-01T00:00:00", "9" * 5_000, "0001-01-01T00:00:00+14:00"]
)
def test_a_time_that_is_none_is_refused(stamp: str) -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        body = caller.asks().SerializeToString()
        assert (
            await call(front, "/v1/fleet/pull-messages", body, caller.signed() | {"flwr-timestamp": stamp})
        ).status == 401

    run(work())


def test_a_signature_is_checked_once_and_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        now = [time.time()]
        link = SuperLink()
        front = Front(link, clock=lambda: now[0])
        caller = await Caller(front).join()
        headers = caller.signed() | {"x-palate-hold": "0"}
        body = caller.asks().SerializeToString()
        assert (await call(front, "/v1/fleet/pull-messages", body, headers)).status == 200
        known = front._keys[headers["flwr-public-key"].encode()]
        monkeypatch.setattr(known, "public", None)  # whatever would check it again fails
        assert (await call(front, "/v1/fleet/pull-messages", body, headers)).status == 200
        now[0] += 299
        assert (await call(front, "/v1/fleet/pull-messages", body, headers)).status == 200
        now[0] += 2
        assert (await call(front, "/v1/fleet/pull-messages", body, headers)).status == 401

    run(work())


def test_who_cannot_sign_is_slowed_down_before_signatures_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        now = [time.time()]
        front = Front(SuperLink(), clock=lambda: now[0])
        joined = await Caller(front).join()
        sound = joined.signed() | {"x-palate-hold": "0"}
        body = joined.asks().SerializeToString()
        assert (await call(front, "/v1/fleet/pull-messages", body, sound)).status == 200
        forged = Caller(front).signed() | {"flwr-timestamp": joined.signed()["flwr-timestamp"]}
        seen = [(await call(front, "/v1/fleet/pull-messages", body, forged)).status for _ in range(40)]
        assert seen == [401] * fronts.MOST_FAILURES + [429] * (40 - fronts.MOST_FAILURES)
        checked = []
        monkeypatch.setattr(fronts, "load_pem_public_key", lambda pem: checked.append(pem))
        answer = await call(front, "/v1/fleet/pull-messages", body, forged)
        assert (answer.status, checked) == (429, [])
        assert int(answer.headers[b"retry-after"]) >= 1
        # A device behind the same address, whose signature was checked before, goes on.
        assert (await call(front, "/v1/fleet/pull-messages", body, sound)).status == 200
        assert (await call(front, "/v1/fleet/pull-messages", body, forged, address="192.0.2.9")).status == 401
        now[0] += fronts.FORGIVEN_SECONDS * 1.5
        assert (await call(front, "/v1/fleet/pull-messages", body, forged)).status == 401

    run(work())


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "br", "deflate", "GZIP"])
def test_a_compressed_body_is_refused_unread(coding: str) -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        body = Body(b"x" * 100)
        answer = await call(front, "/v1/palate/give", body, caller.signed() | {"content-encoding": coding})
        assert (answer.status, body.read) == (415, 0)

    run(work())


@pytest.mark.parametrize("length", [str(300_000_000), "9" * 40, "-1", "1e3", "0x10", ""])
def test_a_body_that_is_announced_too_large_or_oddly_is_refused_unread(length: str) -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        body = Body(b"x" * 5_000)
        answer = await call(
            front, "/v1/fleet/pull-messages", body, caller.signed() | {"content-length": length}
        )
        assert answer.status == 413
        assert body.read <= 5_000

    run(work())


def test_a_body_of_unknown_length_is_counted_while_it_is_read() -> None:
    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        for path, limit in (("/v1/fleet/pull-messages", fronts.SMALL), ("/v1/palate/give", fronts.LARGE)):
            body = Body(*[b"x" * 65_536] * 5_000)  # 300 MB
            answer = await call(front, path, body, caller.signed())
            assert answer.status == 413
            assert body.read <= limit + 65_536

    run(work())


def test_an_unsigned_body_is_not_read_at_all() -> None:
    async def work() -> None:
        _, front = opened()
        body = Body(b"x" * 1_000)
        assert (await call(front, "/v1/palate/give", body)).status == 401
        assert body.read == 0

    run(work())


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "BODY_SECONDS", 0.2)

    async def work() -> None:
        _, front = opened()
        caller = await Caller(front).join()
        answer = await call(front, "/v1/palate/give", Body(*[b"x"] * 100, pause=0.05), caller.signed())
        assert answer.status == 408

    run(work())


def test_all_bodies_together_are_bounded_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "BUFFERED", 3 * fronts.LARGE)

    async def work() -> None:
        _, front = opened()
        callers = [await Caller(front).join() for _ in range(8)]
        most = 0

        async def slow(caller: Caller) -> int:
            nonlocal most
            body = Body(*[b"x" * 1_000] * 3, pause=0.02)
            answering = asyncio.ensure_future(call(front, "/v1/palate/give", body, caller.signed()))
            while not answering.done():
                most = max(most, front._buffered)
                await asyncio.sleep(0.005)
            return answering.result().status

        statuses = await asyncio.gather(*map(slow, callers))
        assert statuses == [400] * 8  # read whole, and no frames
        assert 0 < most <= 3 * fronts.LARGE
        assert front._buffered == 0

    run(work())


def test_whatever_comes_no_call_ends_in_a_fault_of_ours() -> None:
    async def work() -> None:
        link, front = opened()
        caller = await Caller(front).join()
        link.ask({caller.node: b"task"}, 1, 60.0)
        message = await caller.take()
        request, parts = caller.reply(message)
        sound = {
            "/v1/palate/give": join_frames([request.SerializeToString(), *parts]),
            "/v1/fleet/push-messages": request.SerializeToString(),
            "/v1/palate/take": join_frames([caller.asks().SerializeToString()]),
        }
        rng = random.Random(1)
        headers = caller.signed() | {"x-palate-hold": "0"}
        seen = set()
        for _ in range(10_000):
            path = rng.choice(list(sound))
            body = bytearray(sound[path])
            for _ in range(rng.randint(1, 6)):
                kind = rng.randrange(3)
                if kind == 0 and body:
                    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
                elif kind == 1:
                    del body[rng.randrange(len(body) + 1) :]
                else:
                    body[rng.randrange(len(body) + 1) :] += rng.randbytes(rng.randint(1, 40))
            seen.add((await call(front, path, bytes(body), headers)).status)
        assert seen <= {200, 400, 401, 403, 404, 412, 413}, seen
        assert {400, 403} <= seen  # it was not all refused for one reason
        assert len(link._books.message_ins_store) <= 1
        assert len(link._books.nodes) == 1

    run(work())
