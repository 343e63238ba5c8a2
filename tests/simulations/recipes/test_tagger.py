"""The recipe of the tagger: what is learned from, and that what it writes is what devices read."""

import json
import random
from pathlib import Path

import pytest
import torch

from palate.client.reader.tagger import KINDS, Tagger, cut_windows
from palate.client.runtime.tokenizers import load_tokenizer
from palate.simulations.crowd.marked import Marked, parse_marked
from palate.simulations.recipes import tagger as recipe
from palate.simulations.recipes.training import Plan, Worker

LESSONS = [
    parse_marked(f"person {i}", liked, text)
    for i in range(24)
    for liked, text in (
        (True, "Love the [+fog]."),
        (False, "Hate the [-neon] and it needs [>depth]."),
        (None, "Is it [~gouache]?"),
        (None, "Cold coffee again."),
    )
]


def test_verdicts_are_withheld_until_looks_contradict_them_as_seldom_as_people_do() -> None:
    lessons = [parse_marked("a", True, "[+red]" if i % 3 else "[-red]") for i in range(3000)]
    lessons += [parse_marked("a", False, "[-red]" if i % 2 else "[+red]") for i in range(3000)]
    told = recipe.told_as_people_do(lessons, random.Random(0))
    for verdict, share in recipe.TOLD.items():
        signs = [one.signs[0] for one in told if one.liked is verdict]
        assert signs.count(-1 if verdict else 1) / len(signs) == pytest.approx(share, abs=0.03)
    assert [one.comment for one in told] == [one.comment for one in lessons]


def test_a_varied_comment_names_the_same_looks_at_its_places() -> None:
    one = parse_marked("Ada", True, "No [-Glare], and what [+soft light]!")
    seen = set()
    for seed in range(60):
        other = recipe.varied(one, random.Random(seed))
        words = [other.comment[start:end] for start, end in other.places]
        assert words[0].lower()[0] == "g"
        assert words[1].lower()[0] == "s"
        seen.add((*words, other.liked))
    assert len(seen) > 3
    assert {liked for _, _, liked in seen} == {True, None}


def test_two_comments_joined_keep_their_places() -> None:
    both = recipe.joined(LESSONS[0], LESSONS[1])
    assert [both.comment[a:b] for a, b in both.places] == ["fog", "neon", "depth"]


def test_marks_allow_what_they_say_and_no_more() -> None:
    one = Marked("a", None, "red deep", ((0, 3),), (1,))
    places = [(0, 3), (4, 8)]
    liked, wished, mentioned = (1 + 2 * KINDS.index(kind) for kind in ("liked", "wished", "mentioned"))
    assert recipe.allowed_tags(one, places, True).nonzero().tolist() == [[0, liked], [1, 0]]
    assert recipe.allowed_tags(one, places, False).nonzero().tolist() == [
        [0, liked],
        [0, wished],
        [1, 0],
        [1, mentioned],
        [1, mentioned + 1],
    ]
    assert recipe.allowed_tags(one, places, None)[1].all()


def test_what_is_measured_counts_right_wrong_missed_and_made_up_looks() -> None:
    said = [
        parse_marked("a", None, "love the [+fog] and the [-neon]"),
        parse_marked("a", None, "cold coffee"),
        parse_marked("a", None, "it needs [>depth], is it [~ink]?"),
    ]

    def heard(number: int, *spans: tuple[str, int]) -> recipe.Heard:
        text, odds = said[number].comment, [[0.0] * 4 for _ in spans]
        for row, (_, kind) in zip(odds, spans, strict=True):
            row[kind] = 1.0
        found = [
            recipe.Span(text.index(word), text.index(word) + len(word), tuple(row))  # type: ignore[arg-type]
            for (word, _), row in zip(spans, odds, strict=True)
        ]
        one = recipe.Heard(said[number], recipe.Tokens((), None))  # type: ignore[arg-type]
        object.__setattr__(one, "spans", lambda *_: found)
        return one

    figures = recipe.measure(
        [heard(0, ("fog", 0), ("neon", 0)), heard(1, ("cold", 1)), heard(2, ("ink", 3))], 1, 0.5
    )
    assert figures["looks"] == 3
    assert figures["precision"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["recall"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["wrong sign"] == 0.5
    assert figures["no look, yet found"] == 1.0


def test_comments_of_drawn_people_are_marked_where_they_name_what_was_meant() -> None:
    drawn = recipe.drawn_comments()
    assert len(drawn) > 500
    assert all(one.places and len(one.places) == len(one.signs) for one in drawn)
    assert not any(recipe.is_left_out(one) for one in recipe.read_lessons().threads)


def test_the_recipe_resumes_and_writes_what_devices_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "read_marked", lambda _: LESSONS)
    monkeypatch.setattr(recipe, "drawn_comments", lambda: LESSONS[:4])

    def train(steps: int) -> None:
        plan = Plan(steps, 8, 1e-3, 100, every=2, warmup=1, ema=0.5)
        worker = Worker(0, 1, torch.device("cpu"), tmp_path / "run", torch.Generator().manual_seed(0))
        worker.folder.mkdir(exist_ok=True)
        recipe.work(worker, plan, None, None)

    with torch.random.fork_rng():
        train(2)
        train(4)
        recipe.average([tmp_path / "run", tmp_path / "run"], tmp_path, 0.4)
        network = recipe.Network()
    card = json.loads((tmp_path / "reader" / "tagger.json").read_text(encoding="utf-8"))
    assert card["made"] == "the mean of run, run"
    assert card["threshold"] == 0.4
    once = json.loads((tmp_path / "run" / "reader" / "tagger.json").read_text(encoding="utf-8"))
    assert once["made"].startswith("4 steps")
    assert 0.3 <= once["threshold"] <= 0.75
    assert card["measured"]["with verdict"]["comments"] > 0
    network.load_state_dict(recipe.load_file(str(tmp_path / "network.safetensors")))
    network.eval()
    tokenizer = load_tokenizer(recipe.model_folder() / "tokenizer.json")
    ids = torch.tensor([cut_windows(tokenizer, LESSONS[1].comment, False)[0].ids])
    with torch.no_grad():
        stock = network(ids, torch.ones_like(ids))
        assert (recipe.Graph(network)(ids) - stock).abs().max() < 1e-4
    from palate.client.runtime.sessions import load_graph

    made = torch.tensor(load_graph(tmp_path / "reader" / "tagger.onnx").run(None, {"ids": ids.numpy()})[0])
    assert (made - stock).abs().max() < 0.3 * stock.abs().max()
    assert isinstance(Tagger(tmp_path / "reader").read("Hate the neon.", False), list)
