"""Says of each look that a comment names whether the person judges it at all, and likes it, by reading the whole comment.

    comment, verdict ── sentence tower with low-rank changes ── mean over the words of a look ── log-odds: judged, liked

Two networks that were trained apart read each comment, and their log-odds are averaged (deep ensembles,
Lakshminarayanan et al., NeurIPS 2017): where one of them errs, it is often less sure than the other.

Rules (client/reader/polarity.py) know the turns of phrase that somebody thought of. These networks have read
some thousand comments and also follow idiom, irony and what is said two sentences later; the extractor weighs
the two. The task is aspect-based sentiment analysis (Pontiki et al., SemEval 2014), the changes of the
tower's weights are of low rank (LoRA, Hu et al., ICLR 2022). Made by simulations/recipes/sentiment.py; a
comment takes some hundredths of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palate.client.reader.sentences import MAX_TOKENS, SentenceTower
from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped

if TYPE_CHECKING:
    import torch

    from palate.client.reader.sentence_network import SentenceNetwork

WEIGHTS = Path(__file__).parents[1] / "weights" / "sentiment.safetensors"
VERDICTS = {True: "liked", False: "disliked", None: "unknown"}
"""How the person's verdict on the picture is told to the network: a word before the comment."""
HEAD = ("head.hidden.weight", "head.hidden.bias", "head.out.weight", "head.out.bias")
_BATCH = 16


class Odds(NamedTuple):
    """Log-odds that a person, if they judge a look, likes it, and that they judge it: "went cold" and "a flat in Leith" judge none."""

    liked: float
    judged: float


Place = tuple[int, int]
"""The characters [start, end) of a comment that name a look."""


@dataclass(frozen=True)
class Window:
    """As much of a comment as the tower reads at once: token ids, how many of them are the verdict's, and where the others stand."""

    ids: tuple[int, ...]
    before: int
    offsets: tuple[Place, ...]

    def tokens_of(self, place: Place) -> list[int]:
        """Return the positions of the tokens that a place touches."""
        start, end = place
        return [self.before + i for i, (a, b) in enumerate(self.offsets) if a < end and b > start]


def cut_windows(tokenizer: Any, comment: str, liked: bool | None) -> list[Window]:
    """Return a comment with its verdict in windows of at most `MAX_TOKENS` tokens, each overlapping the next by half."""
    close = tokenizer.token_to_id("[SEP]")
    verdict = tokenizer.encode(VERDICTS[liked], add_special_tokens=False).ids
    head = (tokenizer.token_to_id("[CLS]"), *verdict, close)
    read = tokenizer.encode(comment, add_special_tokens=False)
    room = MAX_TOKENS - len(head) - 1
    last = max(0, len(read.ids) - room)
    starts = [*range(0, last, room // 2), last]
    return [
        Window(
            (*head, *read.ids[start : start + room], close),
            len(head),
            tuple(read.offsets[start : start + room]),
        )
        for start in starts
    ]


def best_window(windows: Sequence[Window], place: Place) -> int | None:
    """Return which window reads a place with the most words on both sides, None when no token stands there."""
    best, margin = None, -1
    for number, window in enumerate(windows):
        tokens = window.tokens_of(place)
        if tokens:
            around = min(tokens[0] - window.before, len(window.ids) - 2 - tokens[-1])
            if around > margin:
                best, margin = number, around
    return best


def batch_of(windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what the tower reads of windows, padded: ids, mask and types, each (windows, tokens)."""
    import torch

    shape = len(windows), max(len(window.ids) for window in windows)
    ids, mask, types = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, window in enumerate(windows):
        n = len(window.ids)
        ids[row, :n] = torch.tensor(window.ids)
        mask[row, :n] = 1
        types[row, window.before : n] = 1
    return ids, mask, types


def judge_states(
    states: torch.Tensor, rows: torch.Tensor, shares: torch.Tensor, head: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return log-odds (places, 2), those of `Odds`, from the tower's states (windows, tokens, 384).

    `rows` (places,) is the window of each place, `shares` (places, tokens) the mean over its tokens. What a
    place says and what the whole window says go through one hidden layer together.
    """
    import torch
    import torch.nn.functional as F

    at = torch.einsum("pt,ptd->pd", shares, states[rows])
    hidden = F.gelu(
        F.linear(torch.cat([at, states[rows, 0]], 1), head["head.hidden.weight"], head["head.hidden.bias"])
    )
    return F.linear(hidden, head["head.out.weight"], head["head.out.bias"])


@dataclass(frozen=True)
class Sentiment:
    """The shipped networks. Build it once and keep it; weights are read when first used."""

    tower: SentenceTower
    weights: Path = WEIGHTS

    @cached_property
    def _members(self) -> list[tuple[SentenceNetwork, dict[str, torch.Tensor]]]:
        """The tower's network with each member's changes added, and its head.

        Raises ModelError when a file is missing or of another tower.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from palate.client.reader.sentence_network import LINEAR, load_network

        check_shipped(self.weights)
        members = []
        try:
            tensors = {name: tensor.float() for name, tensor in load_file(str(self.weights)).items()}
            for member in sorted({name.partition(".")[0] for name in tensors}):
                network = load_network(self.tower.folder / "text_encoder")
                head = {name: tensors[f"{member}.{name}"] for name in HEAD}
                with torch.no_grad():
                    for number in range(len(network.encoder.layers)):
                        for name in LINEAR:
                            down, up = (
                                tensors[f"{member}.layer.{number}.{name}.{side}"] for side in ("down", "up")
                            )
                            network.linear(number, name).add_(up @ down)
                members.append((network, head))
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"{self.weights.name}: cannot be read, or is of another sentence tower ({str(error).splitlines()[0]})"
            ) from error
        return members

    def read(self, comment: str, liked: bool | None, places: Sequence[Place]) -> list[Odds | None]:
        """Return for each place what the networks say of the look that it names.

        None where the tower reads nothing.

        liked is the verdict on the picture, None when not given. Raises ModelError when there are no weights.
        """
        import torch

        if not places:
            return []
        members = self._members
        windows = cut_windows(self.tower.tokenizer, comment, liked)
        where = [best_window(windows, place) for place in places]
        found: list[Odds | None] = [None] * len(places)
        needed = sorted({window for window in where if window is not None})
        for first in range(0, len(needed), _BATCH):
            some = needed[first : first + _BATCH]
            ids, mask, types = batch_of([windows[number] for number in some])
            asked = [i for i, window in enumerate(where) if window in some]
            shares = torch.zeros(len(asked), ids.shape[1])
            for row, i in enumerate(asked):
                tokens = windows[where[i] or 0].tokens_of(places[i])
                shares[row, tokens] = 1 / len(tokens)
            rows = torch.tensor([some.index(where[i] or 0) for i in asked])
            with torch.inference_mode():
                odds = [
                    judge_states(network(ids, mask, types), rows, shares, head) for network, head in members
                ]
            for i, one in zip(asked, torch.stack(odds).mean(0).tolist(), strict=True):
                found[i] = Odds(*one)
        return found


@lru_cache(maxsize=1)
def shipped_sentiment() -> Sentiment:
    """Return the shipped networks over the shipped tower, kept between comments."""
    return Sentiment(SentenceTower())
