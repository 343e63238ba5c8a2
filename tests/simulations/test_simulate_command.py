"""`palate simulate` from the file to the plot, on an experiment of a dozen people.

How pictures look is not what is tested.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

pytest.importorskip("flwr")
pytest.importorskip("matplotlib")

from palate.client.commands.cli import app
from palate.client.eye.tower import SHIPPED as TOWER
from palate.shared.encoder import PICTURE_FEATURES, load_encoder
from palate.shared.wire import TASK_BYTES, UPDATE_BYTES
from palate.simulations.crowd.population import BATCH, FIRST_PICTURE
from palate.simulations.experiments import comparison, methods
from palate.simulations.experiments.comparison import METHODS, WEAK

PICTURES = 450
TINY = f"""
title = "a dozen people"
release = "weak"
people = 12
strangers = 3
pictures = {PICTURES}
rounds = 4
cohort = 6
seeds = [1]
methods = {json.dumps(METHODS)}
[server]
learning_rate = 0.001
[local]
steps = 1
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features as if the pictures had been drawn and looked at before, which takes most of the time."""
    folder = tmp_path_factory.mktemp("cache")
    tower = hashlib.sha256(TOWER.read_bytes()).hexdigest()[:12]
    t = load_encoder(WEAK).tensors
    for first in range(FIRST_PICTURE, FIRST_PICTURE + PICTURES, BATCH):
        rows = np.random.default_rng(first).standard_normal((BATCH, PICTURE_FEATURES))
        features = (t["feature.mean"] + t["feature.scale"] * rows).astype(np.float32)
        np.save(folder / f"pool-{tower}-{first}-{BATCH}.npy", features)
    return folder


def simulate(place: Path, cache: Path, *options: str, text: str = TINY, status: int = 0) -> Result:
    file = place / "tiny.toml"
    file.write_text(text)
    arguments = ["simulate", str(file), "--out", str(place / "out"), "--cache", str(cache), *options]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def test_an_experiment_ends_with_a_table_a_plot_and_the_same_numbers_in_json(
    tmp_path: Path, cache: Path
) -> None:
    found = json.loads(simulate(tmp_path, cache, "--json").stdout)
    assert set(found) >= {"methods", "gap_closed", "devices_per_second", "checksum"}
    assert list(found["methods"]) == list(METHODS)
    for name, row in found["methods"].items():
        assert 0 <= row["low"] == row["accuracy"] == row["high"] <= 1  # one seed has no interval
        alone = name in ("crowd only", "local only", "central")
        assert row["bytes_per_device_round"] == (0 if alone else TASK_BYTES + UPDATE_BYTES)
        assert [number for number, _ in row["by_round"]] in ([1, 4], [1, 2, 3, 4])
    assert found["devices_per_second"] > 0
    assert re.fullmatch(r"[0-9a-f]{64}", found["checksum"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    assert (tmp_path / "out" / "plots.png").read_bytes().startswith(b"\x89PNG")

    shown = simulate(tmp_path, cache).stdout  # what was reached before is not computed again
    assert re.search(r"reconstruction +│ +0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", shown)
    assert "a dozen people" in shown
    assert "plots.png" in shown


def test_what_was_reached_is_kept_and_a_damaged_note_is_computed_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TINY.replace(json.dumps(METHODS), '["local only", "reconstruction"]').replace("[1]", "[2]")
    first = json.loads(simulate(tmp_path, cache, "--json", text=text).stdout)
    notes = {path: path.read_text() for path in cache.glob("outcome-*.json")}
    with monkeypatch.context() as only:
        only.setattr(comparison, "train_deployed", lambda *_: pytest.fail("not to be computed again"))
        assert json.loads(simulate(tmp_path, cache, "--json", text=text).stdout) == first
    for path, note in notes.items():
        path.write_text(note[: len(note) // 2])
    again = json.loads(simulate(tmp_path, cache, "--json", text=text).stdout)
    assert again["checksum"] == first["checksum"]
    assert again["methods"] == first["methods"]


@pytest.mark.parametrize(
    ("options", "text", "says"),
    [
        (["--engine", "spark"], TINY, "engine is 'spark'; it must be one of process, ray"),
        ([], TINY.replace("people = 12", "people = 1"), "people is 1"),
        ([], TINY.replace("cohort", "cohrot"), "unknown key cohrot"),
        ([], "= 1", "tiny.toml is not TOML"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, cache: Path, options: list[str], text: str, says: str
) -> None:
    done = simulate(tmp_path, cache, *options, text=text, status=1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("palate: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_without_ray_its_engine_says_what_to_install(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "find_spec", lambda _: None)
    assert "pip install 'palate[simulate]'" in simulate(tmp_path, cache, "--engine", "ray", status=1).stderr


def test_the_engine_runs_what_is_deployed_and_nothing_else(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def in_its_place(*arguments: Any) -> Any:
        asked.append("ray")
        return methods.train_deployed(*arguments)

    monkeypatch.setattr(comparison, "find_spec", lambda _: object())
    monkeypatch.setattr(comparison, "train_on_ray", in_its_place)
    text = TINY.replace(json.dumps(METHODS), '["local only", "FedPer", "without words", "reconstruction"]')
    text = text.replace("[1]", "[3]")
    by_ray = json.loads(simulate(tmp_path, cache, "--engine", "ray", "--json", text=text).stdout)
    assert asked == ["ray", "ray"]
    here = json.loads(simulate(tmp_path, cache, "--json", text=text).stdout)
    assert asked == ["ray", "ray"]
    assert here["checksum"] == by_ray["checksum"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_dozen_people_learn_by_flowers_own_engine(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("ray")
    text = TINY.replace(json.dumps(METHODS), '["local only", "reconstruction"]').replace(
        "cohort = 6", "cohort = 12"
    )
    found = json.loads(simulate(tmp_path, cache, "--engine", "ray", "--json", text=text).stdout)
    row = found["methods"]["reconstruction"]
    assert [number for number, _ in row["by_round"]] == [1, 2, 3, 4]
    here = json.loads(simulate(tmp_path, cache, "--json", text=text).stdout)["methods"]["reconstruction"]
    assert row["accuracy"] == pytest.approx(
        here["accuracy"], abs=0.005
    )  # everybody is asked: but for the last bits
