"""Train the network that says of each look in a comment whether the person judges it, and likes it.

    python -m palate.simulations.recipes.sentiment --run runs/sentiment [--seed 0] [--steps 17000] [--workers
    2] python -m palate.simulations.recipes.sentiment --join runs/first runs/second --run runs/both

From: the shipped sentence tower, whose weights stay, and marked comments of invented people
(`simulations/crowd/marked.py`) with those of training people of the drawn world (seed 1001). Low-rank changes
of all linear maps of the tower and a head are trained by cross-entropy: of the signs, and of what is marked
among all that the extractor takes for a look. Looks are swapped for others at random, so that what is said
decides and not what it is said of; now and then the verdict is withheld and capitals are lost. Plain formulas
(formulas.toml) come with any look and verdict, since people who write as they please seldom use the same one
twice. One person in ten is left out and scored at the end. A good hour on two cores. What is shipped are two
such networks, joined.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tomllib
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertModel

from palate.client.reader import sentiment as shipped
from palate.client.reader.extractor import JUDGED, find_places
from palate.client.reader.sentence_network import LINEAR
from palate.client.reader.sentences import WIDTH, SentenceTower
from palate.client.reader.sentiment import (
    Window,
    batch_of,
    best_window,
    cut_windows,
    judge_states,
)
from palate.shared.attributes import load_vocabulary
from palate.simulations.crowd.marked import Marked, parse_marked, read_marked
from palate.simulations.crowd.people import make_people, sample_shown, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.recipes.training import Plan, Worker, launch, train

RANK = 8
HIDDEN = 96
DROPPED = 0.1
SWAPPED = 0.25  # share of looks that are swapped for another
UNTOLD = 0.1  # share of verdicts that are withheld
SMALL = 0.3  # share of comments in small letters
WHETHER = 0.5  # weight of whether a look is judged next to whether it is liked
CERTAIN = 0.98  # what the network is to say at most: some marks are wrong
PEOPLE, COMMENTS_EACH = 150, 4  # of the drawn world
PEOPLE_SEED = 1001
FORMULAS = Path(__file__).parent / "formulas.toml"
FORMULA_SHARE = 0.2  # comments made of plain formulas, for each other
LEFT_OUT = 10  # one person in so many


class Reader(nn.Module):
    """The tower with changes of rank `RANK`, and the head of `judge_states`."""

    def __init__(self, tower: SentenceTower, seed: int = 0) -> None:
        super().__init__()
        folder = tower.folder / "text_encoder"
        self.tower = BertModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).requires_grad_(False)
        g = torch.Generator().manual_seed(seed)
        self.changes = nn.ParameterDict()
        for number, layer in enumerate(self.tower.encoder.layer):
            for name in LINEAR:
                linear = layer.get_submodule(name)
                key = f"{number} {name}".replace(".", "_")
                down = torch.randn(RANK, linear.in_features, generator=g) / linear.in_features**0.5
                self.changes[f"{key} down"] = nn.Parameter(down)
                self.changes[f"{key} up"] = nn.Parameter(torch.zeros(linear.out_features, RANK))
                linear.register_forward_hook(self._hook(key))
        self.hidden, self.out = nn.Linear(2 * WIDTH, HIDDEN), nn.Linear(HIDDEN, 2)

    def _hook(self, key: str) -> Any:
        def add(_module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
            down, up = (self.changes[f"{key} {side}"].float() for side in ("down", "up"))
            return made + 2 * F.linear(F.linear(given[0], down), up)

        return add

    def tensors(self) -> dict[str, Tensor]:
        """Return what is shipped, named as `client.reader.sentiment` reads it."""
        found = {}
        for number in range(len(self.tower.encoder.layer)):
            for name in LINEAR:
                key = f"{number} {name}".replace(".", "_")
                found[f"layer.{number}.{name}.down"] = self.changes[f"{key} down"].float()
                found[f"layer.{number}.{name}.up"] = 2 * self.changes[f"{key} up"].float()
        return found | self.head()

    def head(self) -> dict[str, Tensor]:
        """Return the tensors of the head alone."""
        layers = (("hidden", self.hidden), ("out", self.out))
        return {
            f"head.{name}.{kind}": getattr(layer, kind).float()
            for name, layer in layers
            for kind in ("weight", "bias")
        }

    def forward(self, batch: Sequence[Marked], tokenizer: Any) -> tuple[Tensor, Tensor]:
        """Log-odds (places, 2), as `client.reader.sentiment.Odds`, and the signs.

        Places that the tower cannot read are left out.
        """
        windows: list[Window] = []
        rows: list[int] = []
        tokens: list[list[int]] = []
        signs: list[float] = []
        for one in batch:
            cut = cut_windows(tokenizer, one.comment, one.liked)
            chosen = [best_window(cut, place) for place in one.places]
            used = sorted({number for number in chosen if number is not None})
            for place, number, sign in zip(one.places, chosen, one.signs, strict=True):
                if number is not None:
                    rows.append(len(windows) + used.index(number))
                    tokens.append(cut[number].tokens_of(place))
                    signs.append(float(sign))
            windows += [cut[number] for number in used]
        device = next(self.parameters()).device
        ids, mask, types = (given.to(device) for given in batch_of(windows))
        shares = torch.zeros(len(rows), ids.shape[1])
        for row, some in enumerate(tokens):
            shares[row, some] = 1 / len(some)
        states = self.tower(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        states = F.dropout(states, DROPPED, self.training)
        odds = judge_states(states, torch.tensor(rows, device=device), shares.to(device), self.head())
        return odds, torch.tensor(signs, device=device)


def with_unjudged(one: Marked) -> Marked:
    """Return a comment with all places that the extractor takes for a look; unmarked ones have the sign 0."""
    places, signs = list(one.places), list(one.signs)
    for start, end in (place for place, _ in find_places(one.comment)):
        if not any(a < end and b > start for a, b in one.places):
            places.append((start, end))
            signs.append(0)
    order = sorted(range(len(places)), key=lambda i: places[i])
    return replace(one, places=tuple(places[i] for i in order), signs=tuple(signs[i] for i in order))


def drawn_comments() -> list[Marked]:
    """Comments of training people on what they were shown.

    Of what the writer meant, what the comment names by a known word.
    """
    vocabulary, found = load_vocabulary(), []
    for person in make_people(PEOPLE, PEOPLE_SEED):
        rng = random.Random(f"sentiment {person.id}")
        for _ in range(COMMENTS_EACH):
            truth = sample_shown(rng)
            liked = verdict(person, truth, rng)
            remark = comment(person, truth, liked, rng)
            meant = dict(remark.mentions)
            named = find_places(remark.text) if meant else []
            kept = [
                (place, meant[shown])
                for place, name in named
                if name is not None and (shown := vocabulary.main_show(name) or name) in meant
            ]
            if kept:
                places, signs = zip(*kept, strict=True)
                told = liked if rng.random() > 0.2 else None
                found.append(Marked(f"drawn {person.id}", told, remark.text, places, signs))
    return found


def formula_comments(count: int, turn: int, looks: Sequence[str]) -> list[Marked]:
    """Return plain formulas of liking and dislike about any look, one or two in a comment."""
    formulas = tomllib.loads(FORMULAS.read_text(encoding="utf-8"))
    rng, found = random.Random(f"formulas {turn}"), []
    for _ in range(count):
        text = ""
        for number in range(rng.choice((1, 1, 2))):
            sign, kind = rng.choice((("+", "liked"), ("-", "disliked")))
            said = rng.choice(formulas[kind]).replace("{}", f"[{sign}{rng.choice(looks)}]")
            opens = not number or text.endswith(". ")
            text += (said[0].upper() + said[1:] if opens else said) + rng.choice((". ", ", but ", "; ", "! "))
        text = (
            text.removesuffix(", but ").rstrip(" ;")
            if rng.random() < 0.7
            else text.split(", but ")[0].strip()
        )
        found.append(parse_marked("a formula", rng.choice((True, False, None)), text))
    return found


def is_left_out(one: Marked) -> bool:
    """Says whether a comment is of one of the people who are scored rather than learned from."""
    return zlib.crc32(one.person.encode()) % LEFT_OUT == 0


def varied(one: Marked, rng: random.Random, looks: Sequence[str]) -> Marked:
    """Return a comment as it might also have been written.

    Some looks swapped, the verdict or capitals gone.
    """
    text, places, last = "", [], 0
    for (start, end), sign in zip(one.places, one.signs, strict=True):
        text += one.comment[last:start]
        words = rng.choice(looks) if sign and rng.random() < SWAPPED else one.comment[start:end]
        places.append((len(text), len(text) + len(words)))
        text, last = text + words, end
    text += one.comment[last:]
    return replace(
        one,
        comment=text.lower() if rng.random() < SMALL else text,
        places=tuple(places),
        liked=None if rng.random() < UNTOLD else one.liked,
    )


def batches(lessons: Sequence[Marked], size: int, turn: int) -> list[list[Marked]]:
    """Return all comments once, in batches of about the same length; another order in each turn."""
    rng = random.Random(f"sentiment {turn}")
    order = sorted(lessons, key=lambda one: len(one.comment) + 60 * rng.random())
    cut = [order[first : first + size] for first in range(0, len(order), size)]
    rng.shuffle(cut)
    return cut


def work(worker: Worker, plan: Plan, seed: int) -> None:
    """Trains, and writes weights and card into the run's folder."""
    tower = SentenceTower()
    tokenizer = tower.tokenizer
    spoken = [*map(with_unjudged, read_marked()), *drawn_comments()]
    spoken = [one for one in spoken if one.places]
    lessons = [one for one in spoken if not is_left_out(one)]
    vocabulary = load_vocabulary()
    looks = [term.name for term in vocabulary.terms if not vocabulary.is_sour(tuple(term.name.split()))]
    model = Reader(tower, seed).to(worker.device)
    turns: dict[int, list[list[Marked]]] = {}
    formulas = round(FORMULA_SHARE * len(lessons))
    in_turn = math.ceil((len(lessons) + formulas) / plan.batch)
    part = plan.batch // worker.world

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        turn, place = divmod(step, in_turn)
        if turn not in turns:
            turns.clear()
            turns[turn] = batches([*lessons, *formula_comments(formulas, turn, looks)], plan.batch, turn)
        rng = random.Random(f"sentiment {step} {worker.rank}")
        some = turns[turn][place][worker.rank * part : (worker.rank + 1) * part] or lessons[:1]
        odds, signs = model.train()([varied(one, rng, looks) for one in some], tokenizer)
        return loss_of(odds, signs)

    train(worker, plan, model, loss).export()
    if worker.rank:
        return
    left_out = [one for one in spoken if is_left_out(one)]
    measured = {
        "invented people left out": score(
            model, [one for one in left_out if not one.person.startswith("drawn")], tokenizer
        ),
        "drawn people left out": score(
            model, [one for one in left_out if one.person.startswith("drawn")], tokenizer
        ),
    }
    write(model, worker.folder, plan, len(lessons), measured)


def loss_of(odds: Tensor, signs: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the signs of what is judged, and of whether it is.

    With the shares of wrong answers.
    """
    judged = signs != 0
    right = judged.float() * (2 * CERTAIN - 1) + 1 - CERTAIN
    value = WHETHER * F.binary_cross_entropy_with_logits(odds[:, 1], right)
    if judged.any():
        liked = (signs[judged] > 0).float() * (2 * CERTAIN - 1) + 1 - CERTAIN
        value = value + F.binary_cross_entropy_with_logits(odds[judged, 0], liked)
    wrong = (odds[:, 0] * signs < 0).sum() / judged.sum().clamp(min=1)
    return value, {"wrong": float(wrong), "misjudged": float(((odds[:, 1] > 0) != judged).float().mean())}


@torch.no_grad()
def score(model: Reader, spoken: Sequence[Marked], tokenizer: Any) -> dict[str, float]:
    """Return the number of looks, the share of wrong signs, and what the extractor's bound leaves out."""
    model.eval()
    if not spoken:
        return {"looks": 0}
    parts = [model(spoken[first : first + 16], tokenizer) for first in range(0, len(spoken), 16)]
    odds, signs = torch.cat([odds for odds, _ in parts]), torch.cat([signs for _, signs in parts])
    judged, out = signs != 0, odds[:, 1] < JUDGED
    found = {
        "looks": int(judged.sum()),
        "wrong": float((odds[judged, 0] * signs[judged] <= 0).float().mean()),
        "looks left out": float(out[judged].float().mean()),
    }
    if not judged.all():
        found |= {"others": int((~judged).sum()), "others left out": float(out[~judged].float().mean())}
    return {name: round(value, 4) for name, value in found.items()}


def write(model: Reader, folder: Path, plan: Plan, lessons: int, measured: dict[str, Any]) -> None:
    """Write `sentiment.safetensors` (fp16) and its card."""
    tensors = {
        f"0.{name}": tensor.detach().half().contiguous().cpu() for name, tensor in model.tensors().items()
    }
    save_file(tensors, str(folder / shipped.WEIGHTS.name))
    card = {
        "name": "sentiment of looks in comments",
        "recipe": "python -m palate.simulations.recipes.sentiment",
        "weights": sum(tensor.numel() for tensor in tensors.values()),
        "steps": plan.steps,
        "data": f"{lessons} comments of invented people (simulations/recipes/comments.jsonl, written by "
        "a large language model) "
        f"and, for each five, one made of plain formulas (formulas.toml), "
        f"and of drawn people (seed {PEOPLE_SEED})",
        "measured": measured,
        "limits": "English. It has read no comment of a real person. Irony that only the picture gives "
        "away stays unread.",
    }
    text = json.dumps(card, indent=2, ensure_ascii=False)
    (folder / shipped.WEIGHTS.with_suffix(".json").name).write_text(f"{text}\n", encoding="utf-8")
    print(text)


def join(runs: Sequence[Path], folder: Path) -> None:
    """Write the networks of several runs into one file, and their cards into one."""
    tensors, cards = {}, []
    for number, run in enumerate(runs):
        for name, tensor in load_file(str(run / shipped.WEIGHTS.name)).items():
            tensors[f"{number}.{name.partition('.')[2]}"] = tensor
        cards.append(
            json.loads((run / shipped.WEIGHTS.with_suffix(".json").name).read_text(encoding="utf-8"))
        )
    same = {key: cards[0].pop(key) for key in ("name", "recipe", "limits")}
    for card in cards:
        for key in same:
            card.pop(key, None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / shipped.WEIGHTS.name))
    text = json.dumps({**same, "networks": cards}, indent=2, ensure_ascii=False)
    (folder / shipped.WEIGHTS.with_suffix(".json").name).write_text(f"{text}\n", encoding="utf-8")


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--run", type=Path, required=True, help="folder for the checkpoint, losses, weights and card"
    )
    p.add_argument("--steps", type=int, default=17000)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--seed", type=int, default=0, help="another network from the same comments")
    p.add_argument(
        "--join",
        type=Path,
        nargs="+",
        help="runs whose networks are to be shipped together; nothing is trained",
    )
    a = p.parse_args()
    if a.join:
        join(a.join, a.run)
    else:
        plan = Plan(a.steps, 16, 1.5e-3, a.steps, weight_decay=0.05, ema=0.995)
        launch(work, a.run, a.workers, plan, a.seed)


if __name__ == "__main__":
    main()
