"""Comments with marks, and the recipe that learns from them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.comments_read import ARTWORKS
from benchmarks.sentiment import MARKED
from palate.client.reader.sentences import SentenceTower
from palate.client.reader.sentiment import WEIGHTS, Sentiment
from palate.shared.errors import FileFormatError
from palate.simulations.crowd.marked import Marked, parse_marked, read_marked
from palate.simulations.recipes import sentiment as recipe
from palate.simulations.recipes.training import Plan, Worker


def test_marks_are_taken_out_and_kept_as_places() -> None:
    one = parse_marked("Ada", True, "No [-glare], and what [+soft light]!")
    assert one.comment == "No glare, and what soft light!"
    assert [one.comment[start:end] for start, end in one.places] == ["glare", "soft light"]
    assert one.signs == (-1, 1)


@pytest.mark.parametrize("line", ["", "[]", '{"person": "Ada", "liked": true}', "not JSON"])
def test_a_line_of_another_form_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "comments.jsonl"
    path.write_text('{"person": "Ada", "liked": null, "comment": "Fine."}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="line 2"):
        read_marked(path)


def test_shipped_lessons_have_many_people_and_both_signs() -> None:
    lessons = read_marked()
    signs = [sign for one in lessons for sign in one.signs]
    assert len({one.person for one in lessons}) > 80
    assert 0.4 < signs.count(1) / len(signs) < 0.65
    # Every mark was taken out.
    assert not any("[+" in one.comment or "[-" in one.comment for one in (*lessons, *read_marked(MARKED)))


@pytest.mark.skipif(
    not (ARTWORKS / "tastes.json").exists(), reason="the real comments lie outside the project"
)
def test_no_real_comment_is_among_the_lessons() -> None:
    tastes = json.loads((ARTWORKS / "tastes.json").read_text(encoding="utf-8"))["tastes"]
    real = {entry["comment"].strip().lower() for entries in tastes.values() for entry in entries}
    assert real
    assert not real & {one.comment.strip().lower() for one in read_marked()}


def test_a_varied_comment_keeps_its_signs_and_names_something_at_each_place() -> None:
    one = Marked("Ada", True, "No glare, and what soft light!", ((3, 8), (19, 29)), (-1, 1))
    rng = random.Random(3)
    seen = set()
    for _ in range(50):
        other = recipe.varied(one, rng, ["misty", "bold lines"])
        words = [other.comment[start:end].lower() for start, end in other.places]
        assert words[0] in ("glare", "misty", "bold lines")
        assert words[1] in ("soft light", "misty", "bold lines")
        assert other.signs == one.signs
        seen.add((*words, other.liked))
    assert len(seen) > 5


def test_the_recipe_writes_weights_that_the_device_reads_alike_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = [
        parse_marked(f"{who} {i}", None, text)
        for who in ("invented", "drawn")
        for i in range(24)
        for text in ("Love the [+fog].", "Hate the [-neon].")
    ]
    monkeypatch.setattr(recipe, "read_marked", lambda: lessons)
    monkeypatch.setattr(recipe, "drawn_comments", list)
    models: list[recipe.Reader] = []
    monkeypatch.setattr(
        recipe,
        "Reader",
        lambda tower, seed, made=recipe.Reader: models.append(made(tower, seed)) or models[-1],
    )

    def train(steps: int) -> None:
        plan = Plan(steps, 8, 1e-2, 100, every=2, warmup=1, ema=0.5)
        recipe.work(Worker(0, 1, torch.device("cpu"), tmp_path, torch.Generator().manual_seed(0)), plan, 0)

    train(2)
    train(6)
    assert [json.loads((tmp_path / "sentiment.json").read_text(encoding="utf-8"))["steps"]] == [6]
    shapes = {name: tensor.shape for name, tensor in load_file(str(WEIGHTS)).items()}
    recipe.join([tmp_path, tmp_path], tmp_path / "both")
    joined = load_file(str(tmp_path / "both" / WEIGHTS.name))
    assert {name: tensor.shape for name, tensor in joined.items()} == shapes
    assert (
        len(json.loads((tmp_path / "both" / "sentiment.json").read_text(encoding="utf-8"))["networks"]) == 2
    )
    tower = SentenceTower()
    told = parse_marked("Ada", True, "I love the [+fog], and the [-neon] I hate. No [-glare]!")
    with torch.no_grad():
        odds, signs = models[-1].eval()([told], tower.tokenizer)
    assert signs.tolist() == [1, -1, -1]
    read = Sentiment(tower, tmp_path / WEIGHTS.name).read(told.comment, told.liked, told.places)
    assert [list(one or ()) for one in read] == [pytest.approx(row, abs=0.02) for row in odds.tolist()]
    assert abs(odds).max() > 0.1
    assert (
        Sentiment(tower, tmp_path / "both" / WEIGHTS.name).read(told.comment, told.liked, told.places) == read
    )
