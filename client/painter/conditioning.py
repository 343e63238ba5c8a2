"""Turns a prompt and a taste into the states that the stock Stable Diffusion pipeline takes instead of words.

Where it stands: profile, then **conditioning**, then generator. A mode is a plain function from the words,
the liked and disliked attributes and two strengths to a `Conditioning`; nothing of the pipeline is copied or
patched.

- `tokens`: each attribute is encoded alone. The states of its words, scaled by its weight, follow the
  prompt's along the sequence; the disliked ones follow the negative prompt's. Cross-attention takes any
  length. The shipped generator was trained with 24 such slots, and the free ones hold the padding state of
  the empty prompt.
- `embedding`: p = E(p) + β₊ (E(VP⁺) − E(∅)) − β₋ (E(VP⁻) − E(∅)). For equal strengths this is the formula of
  ViPer, E(p) + β (E(VP⁺) − E(VP⁻)) (Salehi, Shafiei, Yeo, Bachmann, Zamir, ECCV 2024). No cost per step.
- `guidance`: ViPer's released second term, ε_∅ + w (ε_p + d₊ (ε_VP⁺ − ε_∅) − d₋ (ε_VP⁻ − ε_∅) − ε_∅). With
  equal strengths it is theirs; with unequal ones theirs would change the amount of noise itself. Twice the
  cost per step.
- `prompt`: the attributes as words after the prompt's words, the disliked ones in the negative prompt. The
  baseline.

Attributes are encoded one by one, so a list is never cut at the text encoder's length. At strength 0, or with
nothing liked or disliked, every mode returns the very states of the impersonal picture.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Weighted = tuple[str, float]  # the words of an attribute, and how much it counts (above 0)

TRAINED_SLOTS = (
    24  # states of attributes that the shipped generator was trained with, next to the prompt's 32
)
MAX_ATTRIBUTES = 100  # of each list: the strongest; more would drown the prompt and take seconds to encode
_KEPT_TEXTS = 512  # encodings kept in memory: prompts, and every attribute of several profiles


@dataclass(frozen=True)
class Conditioning:
    """What the pipeline takes: states of both branches, (1, length, width), and further guidance terms.

    A term (d, states) adds d · (ε_states − ε_negative) to the prediction for the prompt, at the cost of one
    more prediction per step.
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    terms: tuple[tuple[float, Tensor], ...] = ()


class TextStates:
    """A pipeline's frozen text encoder: texts become states exactly as `StableDiffusionPipeline` makes them.

    Encodings are kept in memory, the least used are dropped first. Works with any encoder whose first output
    is (1, length, width); the attention mask is used where the encoder's configuration asks for it, as in the
    pipeline.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        config = text_encoder.config
        self.length: int = min(tokenizer.model_max_length, config.max_position_embeddings)
        # No other Stable Diffusion model has a BERT: such a folder was made by our own recipe.
        self.slots: int | None = TRAINED_SLOTS if config.model_type == "bert" else None
        self._masked = bool(getattr(config, "use_attention_mask", False))
        self._kept: OrderedDict[tuple[str, bool], tuple[Tensor, list[int]]] = OrderedDict()

    def whole(self, text: str) -> Tensor:
        """Return the states of a text with its padding, (1, length, width)."""
        return self._encode(text, padded=True)[0]

    def words(self, text: str) -> Tensor:
        """Return the states of the words alone, without beginning, end and padding, (words, width).

        A long text is cut.
        """
        # With an attention mask the words do not see the padding, which then is not worth computing.
        states, at = self._encode(text, padded=not self._masked)
        return states[0, at]

    def padding(self) -> Tensor:
        """Return the last padding state of the empty prompt, which says nothing, (width,)."""
        return self.whole("")[0, -1]

    def fits(self, text: str) -> bool:
        """Return whether the whole text is read; what is beyond the encoder's length is cut."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) <= self.length

    def _encode(self, text: str, *, padded: bool) -> tuple[Tensor, list[int]]:
        import torch

        key = text, padded
        if key not in self._kept:
            # One text at a time: in a batch the last bits depend on the neighbours, and so would the picture.
            read = self.tokenizer(
                [text],
                padding="max_length" if padded else False,
                max_length=self.length,
                truncation=True,
                return_tensors="pt",
                return_attention_mask=True,
                return_special_tokens_mask=True,
            )
            device = self.text_encoder.device
            mask = read["attention_mask"].to(device) if self._masked else None
            with torch.no_grad():
                states = self.text_encoder(read["input_ids"].to(device), attention_mask=mask)[0]
            special, seen = read["special_tokens_mask"][0].tolist(), read["attention_mask"][0].tolist()
            at = [i for i, (s, m) in enumerate(zip(special, seen, strict=True)) if m and not s]
            self._kept[key] = states, at
            while len(self._kept) > _KEPT_TEXTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


Mode = Callable[[TextStates, str, str, Sequence[Weighted], Sequence[Weighted], float, float], Conditioning]


def condition(
    text: TextStates,
    mode: str,
    prompt: str,
    negative: str = "",
    likes: Sequence[Weighted] = (),
    dislikes: Sequence[Weighted] = (),
    strength: float = 0.0,
    dislike_strength: float = 0.0,
) -> Conditioning:
    """Return what the pipeline takes for this prompt and this taste.

    Args:
        text: the pipeline's text encoder.
        mode: one of `MODES`.
        prompt: what the picture shows.
        negative: what it should not show.
        likes: attributes with weights, of which the strongest 100 are taken. A weight counts in proportion to
            the largest of its list.
        dislikes: the same.
        strength: how much the likes count, from 0.
        dislike_strength: how much the dislikes count, from 0.
    """
    likes = _strongest_first(likes) if strength > 0 else []
    dislikes = _strongest_first(dislikes) if dislike_strength > 0 else []
    if not likes and not dislikes:
        return _impersonal(text, prompt, negative)
    return MODES[mode](text, prompt, negative, likes, dislikes, strength, dislike_strength)


def _strongest_first(attributes: Sequence[Weighted]) -> list[Weighted]:
    """Sort by weight, scaled so that the strongest counts 1.

    Equal weights keep the order in which they came.
    """
    largest = max((weight for _, weight in attributes), default=1.0)
    scaled = sorted(((words, weight / largest) for words, weight in attributes), key=lambda a: -a[1])
    return scaled[:MAX_ATTRIBUTES]


def _impersonal(text: TextStates, prompt: str, negative: str) -> Conditioning:
    return Conditioning(text.whole(prompt), text.whole(negative))


def _tokens(
    text: TextStates,
    prompt: str,
    negative: str,
    likes: Sequence[Weighted],
    dislikes: Sequence[Weighted],
    strength: float,
    dislike_strength: float,
) -> Conditioning:
    liked = _states(text, likes, strength)
    disliked = _states(text, dislikes, dislike_strength)
    slots = text.slots if text.slots is not None else max(len(liked), len(disliked))
    return Conditioning(_append(text, prompt, liked, slots), _append(text, negative, disliked, slots))


def _states(text: TextStates, attributes: Sequence[Weighted], strength: float) -> Tensor:
    """Return the states of the attributes' words, each scaled by its weight and the strength, (words, width).

    Where the number of slots is fixed, an attribute that no longer fits is left out whole, and a shorter one
    tried.
    """
    import torch

    rows: list[Tensor] = []
    free = math.inf if text.slots is None else text.slots
    for words, weight in attributes:
        if not free:
            break
        states = text.words(words)
        if len(states) <= free:
            rows.append(states * (strength * weight))
            free -= len(states)
    return torch.cat(rows) if rows else text.padding().new_zeros((0, text.padding().shape[-1]))


def _append(text: TextStates, words: str, states: Tensor, slots: int) -> Tensor:
    """Return the states of the words, followed by `slots` states: the given ones, then padding.

    (1, length + slots, width)
    """
    import torch

    padding = text.padding().expand(slots - len(states), -1)
    return torch.cat([text.whole(words), torch.cat([states, padding])[None]], dim=1)


def _embedding(
    text: TextStates,
    prompt: str,
    negative: str,
    likes: Sequence[Weighted],
    dislikes: Sequence[Weighted],
    strength: float,
    dislike_strength: float,
) -> Conditioning:
    moved = text.whole(prompt)
    for attributes, factor in ((likes, strength), (dislikes, -dislike_strength)):
        if attributes:
            moved = moved + factor * (_mean(text, attributes) - text.whole(""))
    return Conditioning(moved, text.whole(negative))


def _mean(text: TextStates, attributes: Sequence[Weighted]) -> Tensor:
    """Return E(VP): the weighted mean of the attributes' encodings, (1, length, width)."""
    total = sum(weight for _, weight in attributes)
    first, *rest = (text.whole(words) * (weight / total) for words, weight in attributes)
    return sum(rest, start=first)


def _guidance(
    text: TextStates,
    prompt: str,
    negative: str,
    likes: Sequence[Weighted],
    dislikes: Sequence[Weighted],
    strength: float,
    dislike_strength: float,
) -> Conditioning:
    liked, disliked = _states(text, likes, 1.0), _states(text, dislikes, 1.0)
    slots = text.slots if text.slots is not None else max(len(liked), len(disliked))
    nothing = liked[:0]
    terms = [
        (factor, _append(text, "", states, slots))
        for factor, states in ((strength, liked), (-dislike_strength, disliked))
        if len(states)
    ]
    return Conditioning(
        _append(text, prompt, nothing, slots), _append(text, negative, nothing, slots), tuple(terms)
    )


def _prompt(
    text: TextStates,
    prompt: str,
    negative: str,
    likes: Sequence[Weighted],
    dislikes: Sequence[Weighted],
    strength: float,
    dislike_strength: float,
) -> Conditioning:
    return _impersonal(
        text, _say(text, prompt, likes, strength), _say(text, negative, dislikes, dislike_strength)
    )


def _say(text: TextStates, words: str, attributes: Sequence[Weighted], strength: float) -> str:
    """Append attributes as words.

    Words have no weight, so the strength decides what share of the list is said at all.
    """
    for attribute, _ in attributes[: math.ceil(min(strength, 1.0) * len(attributes))]:
        longer = f"{words}, {attribute}" if words else attribute
        if text.fits(longer):  # an attribute that would be cut is left out whole
            words = longer
    return words


MODES: dict[str, Mode] = {
    "tokens": _tokens,
    "embedding": _embedding,
    "guidance": _guidance,
    "prompt": _prompt,
}
