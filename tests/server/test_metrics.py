"""Metrics: one line per round whatever happens, and TensorBoard's files beside them."""

from pathlib import Path
from typing import Any

from palate.server.events import _checksum
from palate.server.metrics import MetricsLog, read_metrics, scalars


def of_round(number: int) -> dict[str, Any]:
    return {
        "round": number,
        "used": 3,
        "seconds": 0.5,
        "counted": True,
        "when": "now",
        "refused": {"late": 2},
    }


def test_each_round_is_one_line(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "rounds.jsonl", None, after={}) as log:
        log.record(of_round(1))
        log.record(of_round(2))
    assert read_metrics(tmp_path / "rounds.jsonl") == [of_round(1), of_round(2)]


def test_lines_beyond_the_checkpoint_are_dropped_and_a_missing_one_is_added(tmp_path: Path) -> None:
    lines = tmp_path / "rounds.jsonl"
    with MetricsLog(lines, None, after={}) as log:
        for number in (1, 2, 3):
            log.record(of_round(number))
    MetricsLog(lines, None, after=of_round(2)).close()
    assert [line["round"] for line in read_metrics(lines)] == [1, 2]
    MetricsLog(lines, None, after=of_round(3)).close()
    assert [line["round"] for line in read_metrics(lines)] == [1, 2, 3]


def test_a_line_that_was_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    lines = tmp_path / "rounds.jsonl"
    with MetricsLog(lines, None, after={}) as log:
        log.record(of_round(1))
    with lines.open("ab") as file:
        file.write(b'{"round": 2, "us')
    assert read_metrics(lines) == [of_round(1)]
    with MetricsLog(lines, None, after=of_round(1)) as log:
        log.record(of_round(2))
    assert read_metrics(lines) == [of_round(1), of_round(2)]


def test_no_metrics_yet_is_no_error(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "rounds.jsonl") == []


def test_figures_and_reasons_become_curves() -> None:
    assert scalars(of_round(4)) == {
        "round/used": 3.0, "round/seconds": 0.5, "round/counted": 1.0, "refused/late": 2.0,
    }  # fmt: skip


def test_tensorboard_files_hold_the_curves(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "rounds.jsonl", tmp_path / "events", after={}) as log:
        for number in (1, 300):
            log.record(of_round(number))
    (path,) = (tmp_path / "events").iterdir()
    found = events(path)
    assert [(step, value) for step, tag, value in found if tag == "refused/late"] == [(1, 2.0), (300, 2.0)]
    assert {tag for _, tag, _ in found} == set(scalars(of_round(1)))


def test_a_resumed_run_has_an_event_file_of_its_own(tmp_path: Path) -> None:
    for number in (1, 2):
        with MetricsLog(tmp_path / "rounds.jsonl", tmp_path / "events", after={}) as log:
            log.record(of_round(number))
    assert sorted({step for path in (tmp_path / "events").iterdir() for step, _, _ in events(path)}) == [1, 2]


def test_the_checksum_of_an_event_is_the_one_of_the_standard() -> None:
    # CRC-32C of "123456789" is e3069283 (RFC 3720's check value), masked as TensorFlow does.
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == masked.to_bytes(4, "little")


def events(path: Path) -> list[tuple[int, str, float]]:
    """The scalars of an event file, read by somebody else's code."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, start, found = path.read_bytes(), 0, []
    versions = []
    while start < len(data):
        size = int.from_bytes(data[start : start + 8], "little")
        body = data[start + 12 : start + 12 + size]
        assert data[start + 8 : start + 12] == masked_crc32c(data[start : start + 8]).to_bytes(4, "little")
        assert data[start + 12 + size : start + 16 + size] == masked_crc32c(body).to_bytes(4, "little")
        event = Event.FromString(body)
        versions.append(event.file_version)
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        start += 16 + size
    assert versions == ["brain.Event:2", *[""] * (len(versions) - 1)]
    return found


def test_a_disk_that_has_no_room_for_curves_does_not_end_a_run(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file where the folder should be")
    with MetricsLog(tmp_path / "rounds.jsonl", tmp_path / "events", after={}) as log:
        log.record(of_round(1))
    assert read_metrics(tmp_path / "rounds.jsonl") == [of_round(1)]
