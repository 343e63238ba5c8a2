"""What the server uses of Flower's inside: each name here is in `palate.server.front.superlink`, `books` or
`fleet_calls`."""

import pytest

pytest.importorskip("flwr")

import flwr
from flower_inside import changes
from flwr.app import ConfigRecord, RecordDict
from flwr.common import constant as common_constants
from flwr.supercore import constant as constants
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from palate.server.front import port as front
from palate.server.front.fleet_calls import REQUESTS
from palate.server.front.superlink import SuperLink

BOOKS = "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState"
FLEET = "flwr.superlink.servicer.fleet.fleet_handlers"
OBJECTS = "flwr.supercore.inflatable.inflatable_object"
USED = {
    "flwr.app.message:make_message": "metadata, content, error",
    "flwr.app.message:remove_content_from_message": "message",
    "flwr.common.serde:message_to_proto": "message",
    "flwr.common.serde:user_config_to_proto": "user_config",
    f"{BOOKS}.__init__": "self, federation_manager, object_store",
    f"{BOOKS}.create_node": "self, owner_aid, owner_name, public_key, heartbeat_interval, location, name",
    f"{BOOKS}.store_message_ins": "self, message",
    f"{BOOKS}.get_message_ins": "self, node_id, limit, run_id",
    f"{BOOKS}.get_message_res": "self, message_ids, run_id",
    f"{BOOKS}.store_message_and_object_tree": "self, message, object_tree, session_id",
    f"{BOOKS}.store_object": "self, run_id, session_id, object_id, object_content",
    f"{BOOKS}.get_object": "self, run_id, object_id",
    f"{BOOKS}.start_session": "self, run_id",
    f"{BOOKS}.delete_messages": "self, message_ins_ids",
    f"{BOOKS}.get_nodes": "self, run_id",
    f"{BOOKS}.get_node_id_by_public_key": "self, public_key",
    f"{BOOKS}.acknowledge_node_heartbeat": "self, node_id, heartbeat_interval",
    f"{BOOKS}.claim_task": "self, task_id",
    f"{BOOKS}.activate_task": "self, task_id",
    f"{BOOKS}.acknowledge_task_heartbeat": "self, task_id",
    f"{BOOKS}.finish_task": "self, task_id, sub_status, details",
    f"{BOOKS}.cleanup_run": "self, run_id",
    f"{BOOKS}._check_stored_messages": "self, message_ids, run_id",
    f"{OBJECTS}:get_all_nested_objects": "obj",
    f"{OBJECTS}:get_object_id": "object_content",
    f"{OBJECTS}:get_object_tree": "obj",
    f"{OBJECTS}:iterate_object_tree": "tree",
    f"{OBJECTS}:no_object_id_recompute": "",
    "flwr.supercore.object_store:ObjectStoreFactory.__init__": "self, database",
    "flwr.superlink.config_loader:get_federation_manager": "is_simulation",
    "flwr.superlink.servicer.control.control_handlers:start_run": "request, account, state, "
    "fleet_api_type, source",
    f"{FLEET}:register_node": "request, state, enable_supernode_auth",
    f"{FLEET}:activate_node": "request, state",
    f"{FLEET}:deactivate_node": "request, state",
    f"{FLEET}:unregister_node": "request, state, enable_supernode_auth",
    f"{FLEET}:send_node_heartbeat": "request, state",
    f"{FLEET}:push_messages": "request, state",
    f"{FLEET}:get_run": "request, state",
    f"{FLEET}:get_fab": "request, state",
    f"{FLEET}:push_object": "request, state",
    f"{FLEET}:pull_object": "request, state",
    f"{FLEET}:confirm_message_received": "request, state, store",
}

ATTRIBUTES = (
    "nodes",
    "node_public_key_to_node_id",
    "owner_to_node_ids",
    "run_ids",
    "message_ins_store",
    "message_res_store",
    "message_ins_id_to_message_res_id",
    "_object_push_sessions",
    "_object_push_session_by_root",
)


def test_the_version_is_the_one_that_this_was_written_for() -> None:
    assert flwr.__version__.startswith("1.42."), (
        "look through palate.server.front.superlink, books and fleet_calls, then change this line"
    )


def test_what_is_called_takes_the_same_arguments() -> None:
    assert changes(USED) == {}


def test_the_books_have_the_attributes_that_are_read() -> None:
    books = SuperLink()._books
    assert [name for name in ATTRIBUTES if not hasattr(books, name)] == []


def test_the_fleet_api_has_the_calls_that_the_front_serves_and_no_more() -> None:
    flowers = {
        path.removeprefix(front.FLEET) for _, path in PROTOBUF_REQUEST_TYPES if path.startswith(front.FLEET)
    }
    assert flowers == set(REQUESTS) - {"take", "give"}
    types = {path.removeprefix(front.FLEET): kind for (_, path), kind in PROTOBUF_REQUEST_TYPES.items()}
    assert {name for name in flowers if types[name] is not REQUESTS[name]} == set()


def test_headers_and_records_are_called_the_same() -> None:
    assert constants.FLEET_HTTP_PUBLIC_KEY_HEADER.encode() == front.KEY_HEADER
    assert constants.FLEET_HTTP_SIGNATURE_HEADER.encode() == front.SIGNATURE_HEADER
    assert common_constants.TIMESTAMP_HEADER.encode() == front.TIME_HEADER
    record = RecordDict({"palate": ConfigRecord({"wire": b"x"})})
    assert ConfigRecord.inflate(record["palate"].deflate())["wire"] == b"x"
