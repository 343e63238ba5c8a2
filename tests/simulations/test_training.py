"""Training for the recipes: it learns, it resumes to the same place, and its checkpoints are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from palate.simulations.recipes.training import Plan, Weights, Worker, train


def _worker(folder: Path) -> Worker:
    return Worker(0, 1, torch.device("cpu"), folder, torch.Generator().manual_seed(0))


def _model() -> nn.Linear:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    return model


def _fit(folder: Path, steps: int) -> tuple[Weights, nn.Linear]:
    model = _model()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    y = torch.tensor([[2.0], [-1.0], [1.0]])

    def loss(_step: int) -> tuple[Tensor, dict[str, float]]:
        out = model(x.bfloat16()).float()
        return (out - y).pow(2).mean(), {}

    plan = Plan(steps, 3, 0.05, decay=100, warmup=1, ema=0.9, weight_decay=0.0, every=50)
    return train(_worker(folder), plan, model, loss), model


def test_training_finds_the_solution_and_exports_the_average(tmp_path: Path) -> None:
    weights, model = _fit(tmp_path, 300)
    weights.export()
    assert model.weight.dtype == torch.float32
    assert model.weight.detach().flatten().tolist() == pytest.approx([2.0, -1.0], abs=0.1)


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first, _ = _fit(tmp_path, 100)
    again, _ = _fit(tmp_path, 100)
    assert again.step == first.step == 100
    assert torch.equal(again.master, first.master)
    longer, _ = _fit(tmp_path, 150)
    assert longer.step == 150


def test_losses_are_logged_as_json_lines(tmp_path: Path) -> None:
    _fit(tmp_path, 100)
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100]
    assert lines[1]["loss"] < lines[0]["loss"]


def test_a_step_with_a_nan_gradient_changes_nothing(tmp_path: Path) -> None:
    model = _model()
    weights = Weights(model.parameters(), _worker(tmp_path), Plan(10, 1, 0.1, decay=5))
    before = weights.master.detach().clone()
    model.weight.grad = torch.full_like(model.weight, float("nan"))
    weights.update()
    assert torch.equal(weights.master, before)


def test_the_rate_rises_stays_and_falls() -> None:
    plan = Plan(1000, 1, 1.0, decay=200, warmup=10)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(500) == 1.0
    assert plan.rate(900) == pytest.approx(0.5)
    assert plan.rate(1000) == 0.0
