"""Experiments: files that are read or refused, and the arithmetic of their results."""

from dataclasses import replace
from pathlib import Path

import pytest

from palate.shared.errors import FileFormatError, OptionError
from palate.simulations.experiments.comparison import (
    MethodOutcome,
    Results,
    interval,
    read_comparison,
    shipped_experiments,
)


@pytest.mark.parametrize("name", shipped_experiments())
def test_a_shipped_experiment_can_be_read(name: str) -> None:
    assert "local only" in read_comparison(name).methods


@pytest.mark.parametrize(
    ("old", "new", "kind", "says"),
    [
        ("people = 200", "people = 1", OptionError, "people is 1"),
        ("people = 200", "persons = 200", FileFormatError, "unknown key persons"),
        ("people = 200", "", FileFormatError, "lacks the key people"),
        ("cohort = 50", "cohort = 201", OptionError, "at most people"),
        ("seeds = [1]", "seeds = 1", FileFormatError, "seeds must be a list"),
        ("seeds = [1]", "seeds = []", OptionError, "at least one"),
        ('"local only", ', "", OptionError, "local only"),
        ('release = "weak"', 'release = "strong"', OptionError, "weak, shipped"),
        ("steps = 1", "steps = 0", OptionError, "steps is 0"),
        ("title", "= title", FileFormatError, "not TOML"),
    ],
)
def test_a_file_of_another_form_is_one_line(
    old: str, new: str, kind: type[Exception], says: str, tmp_path: Path
) -> None:
    shipped = Path(__file__).parents[3] / "simulations" / "experiments" / "quickstart.toml"
    text = shipped.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(kind, match=says) as caught:
        read_comparison(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_what_there_is() -> None:
    with pytest.raises(FileFormatError, match="quickstart"):
        read_comparison("no-such-experiment")


def test_the_gap_is_what_lies_between_local_only_and_central() -> None:
    one = MethodOutcome(0.6, 0.7, (), (), None, "a")
    outcomes = {
        "local only": [one],
        "reconstruction": [replace(one, accuracy=0.69)],
        "central": [replace(one, accuracy=0.7)],
    }
    results = Results(read_comparison("quickstart"), outcomes)
    assert results.gap_closed() == pytest.approx([0.9])
    assert results.to_json()["gap_closed"] == pytest.approx(0.9)


def test_the_interval_is_students() -> None:
    mean, low, high = interval([0.1, 0.2, 0.3])
    assert (mean, low, high) == pytest.approx((0.2, -0.0484, 0.4484), abs=1e-4)
    assert interval([0.5]) == (0.5, 0.5, 0.5)
