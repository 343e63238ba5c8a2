"""What the device uses of Flower's inside: each name here is in `palate.client.federation.fleet`, and a
change of it must be looked at there."""

import pytest

pytest.importorskip("flwr")

import flwr
from flower_inside import changes
from flwr.app import ConfigRecord, Message, RecordDict

USED = {
    "flwr.app.message:remove_content_from_message": "message",
    "flwr.common.serde:message_from_proto": "message_proto",
    "flwr.common.serde:message_to_proto": "message",
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "obj",
    "flwr.supercore.inflatable.inflatable_object:get_object_id": "object_content",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "obj",
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "tree",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "",
}


def test_the_version_is_the_one_that_this_was_written_for() -> None:
    assert flwr.__version__.startswith("1.42."), (
        "look through palate.client.federation.fleet, then change this line"
    )


def test_what_is_called_takes_the_same_arguments() -> None:
    assert changes(USED) == {}


def test_a_message_of_one_record_has_three_parts_and_the_record_comes_first() -> None:
    from flwr.supercore.inflatable import inflatable_object as objects
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    record = ConfigRecord({"wire": b"x"})
    message = Message(RecordDict({"palate": record}), 5, "train", ttl=60)
    names = [one.object_id for one in objects.iterate_object_tree(objects.get_object_tree(message))]
    assert len(names) == 3
    assert names[0] == objects.get_object_id(record.deflate())
