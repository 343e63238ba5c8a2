"""Metrics: one line per round whatever happens, and curves for TensorBoard."""

import sys
from pathlib import Path
from typing import Any

import pytest

from palate.server.metrics import MetricsLog, read_metrics, scalars, write_curves
from palate.shared.errors import OptionError


def of_round(number: int) -> dict[str, Any]:
    return {
        "round": number,
        "used": 3,
        "seconds": 0.5,
        "counted": True,
        "when": "2026-11-30T10:00:00.000+00:00",
        "refused": {"late": 2},
    }


def test_each_round_is_one_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "rounds.jsonl", after={})
    log.record(of_round(1))
    log.record(of_round(2))
    assert read_metrics(tmp_path / "rounds.jsonl") == [of_round(1), of_round(2)]


def test_lines_beyond_the_checkpoint_are_dropped_and_a_missing_one_is_added(tmp_path: Path) -> None:
    lines = tmp_path / "rounds.jsonl"
    log = MetricsLog(lines, after={})
    for number in (1, 2, 3):
        log.record(of_round(number))
    MetricsLog(lines, after=of_round(2))
    assert [line["round"] for line in read_metrics(lines)] == [1, 2]
    MetricsLog(lines, after=of_round(3))
    assert [line["round"] for line in read_metrics(lines)] == [1, 2, 3]


def test_a_line_that_was_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    lines = tmp_path / "rounds.jsonl"
    log = MetricsLog(lines, after={})
    log.record(of_round(1))
    with lines.open("ab") as file:
        file.write(b'{"round": 2, "us')
    assert read_metrics(lines) == [of_round(1)]
    log = MetricsLog(lines, after=of_round(1))
    log.record(of_round(2))
    assert read_metrics(lines) == [of_round(1), of_round(2)]


def test_no_metrics_yet_is_no_error(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "rounds.jsonl") == []


def test_figures_and_reasons_become_curves() -> None:
    assert scalars(of_round(4)) == {
        "round/used": 3.0, "round/seconds": 0.5, "round/counted": 1.0, "refused/late": 2.0,
    }  # fmt: skip


def curves_of(folder: Path) -> list[tuple[int, str, float]]:
    """The scalars of the one event file in a folder, read by tensorboardX's own protobuf."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, start, found = path.read_bytes(), 0, []
    while start < len(data):
        size = int.from_bytes(data[start : start + 8], "little")
        event = Event.FromString(data[start + 12 : start + 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        start += 16 + size
    return found


def test_tensorboard_files_hold_the_curves(tmp_path: Path) -> None:
    lines = tmp_path / "rounds.jsonl"
    log = MetricsLog(lines, after={})
    for number in (1, 300):
        log.record(of_round(number))
    assert write_curves(lines, tmp_path / "curves") == 2
    found = curves_of(tmp_path / "curves")
    assert [(step, value) for step, tag, value in found if tag == "refused/late"] == [(1, 2.0), (300, 2.0)]
    assert {tag for _, tag, _ in found} == set(scalars(of_round(1)))


def test_a_folder_that_holds_something_gets_no_curves(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(OptionError, match="new or an empty folder"):
            write_curves(tmp_path / "rounds.jsonl", taken)


def test_without_tensorboardx_curves_are_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(OptionError, match=r"palate\[tensorboard\]") as caught:
        write_curves(tmp_path / "rounds.jsonl", tmp_path / "curves")
    assert "\n" not in str(caught.value)
