"""The independent judge of pictures, which took no part in any training.

It says which subject and which attributes a picture shows.

Claims about generated pictures are read off this classifier, never off the evaluator that ranks candidates:
it learned from renders alone (`recipes/judge`, picture numbers that no other recipe uses), has an
architecture of its own (a residual network of full pre-activation, He et al., ECCV 2016, with
squeeze-and-excitation, Hu et al., CVPR 2018), and no code of the device imports it. It is fallible:
`measure_judge` says how often it is right on fresh renders, and every benchmark that asks the judge prints
that next to its own figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from palate.shared.arrays import Float32s
from palate.simulations.crowd.people import Person
from palate.simulations.world.render import render
from palate.simulations.world.truth import ATTRIBUTES, CATEGORY_OF, SUBJECTS, Pixels, Truth

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"
FRESH = 20_000_000  # the first picture number of the renders on which the judge is measured

VALUES: tuple[str, ...] = tuple(CATEGORY_OF)  # the 55 attribute values, category after category
# Where each category's logits lie: its values, then "none of them".
CATEGORY_LOGITS: dict[str, slice] = {}
for _category, _values in ATTRIBUTES.items():
    _start = len(SUBJECTS) + sum(len(ATTRIBUTES[c]) + 1 for c in CATEGORY_LOGITS)
    CATEGORY_LOGITS[_category] = slice(_start, _start + len(_values) + 1)
LOGITS = len(SUBJECTS) + len(VALUES) + len(ATTRIBUTES)

TEXTURE = 64
WIDTHS = (32, 64, 112, 144)
DEPTHS = (1, 2, 2)
HIDDEN = 192


class Residual(nn.Module):
    """Two 3 × 3 convolutions and a squeeze-and-excitation next to a shortcut.

    (n, inner, h, w) to (n, outer, h / stride, ...).
    """

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.squeeze = nn.Linear(outer, outer // 8)
        self.excite = nn.Linear(outer // 8, outer)
        self.shortcut = nn.Conv2d(inner, outer, 1, bias=False) if inner != outer else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(h.mean((2, 3))))))
        rest = F.avg_pool2d(x, 2) if self.stride == 2 else x
        out: Tensor = self.shortcut(rest) + h * gate[:, :, None, None]
        return out


class JudgeNetwork(nn.Module):
    """Pictures (n, 3, 128, 128) in [-1, 1] to logits (n, 80).

    The subjects, then each category's values and its "none".

    Shapes are seen at half the size by the residual stages, textures and colours at full size by patches of 8
    × 8, whose answers are only averaged over the picture. The head reads both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, TEXTURE, 8, 4, 2)  # (n, 64, 32, 32)
        self.patch_norm = nn.BatchNorm2d(TEXTURE)
        self.mix = nn.Conv2d(TEXTURE, TEXTURE, 1)
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, 2, 2)  # (n, 32, 32, 32), from 64 × 64
        self.stages = nn.ModuleList()
        for inner, width, depth in zip(WIDTHS, WIDTHS[1:], DEPTHS, strict=False):
            blocks = [Residual(width if b else inner, width, 1 if b else 2) for b in range(depth)]
            self.stages.append(nn.Sequential(*blocks))  # (n, 64, 16, 16), (n, 112, 8, 8), (n, 160, 4, 4)
        read = 2 * (2 * TEXTURE + sum(WIDTHS))
        self.norm = nn.BatchNorm1d(read)
        self.hidden = nn.Linear(read, HIDDEN)
        self.head = nn.Linear(HIDDEN, LOGITS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, 80)."""
        patches = self.patches(x)
        levels = [patches, self.mix(F.silu(self.patch_norm(patches))), self.stem(F.avg_pool2d(x, 2))]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        seen = torch.cat([torch.cat([F.silu(v).mean((2, 3)), v.abs().mean((2, 3))], 1) for v in levels], 1)
        logits: Tensor = self.head(F.silu(self.hidden(self.norm(seen))))
        return logits


def to_network(pictures: NDArray[np.uint8]) -> Tensor:
    """Return pictures (n, 128, 128, 3) uint8 as the network takes them, (n, 3, 128, 128) in [-1, 1].

    Raises ValueError for another shape or type.
    """
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (128, 128, 3):
        raise ValueError(
            f"pictures are {pictures.dtype} {pictures.shape}; the judge takes uint8 (n, 128, 128, 3)"
        )
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Opinion:
    """What the judge thinks of n pictures: probabilities of `SUBJECTS` (n, 12) and of `VALUES` (n, 55).

    Within a category the values' probabilities and that of "none of them" sum to one.
    """

    subjects: Float32s
    values: Float32s

    def __len__(self) -> int:
        """Return how many pictures were judged."""
        return len(self.subjects)

    def names_subject(self, subjects: Sequence[str]) -> NDArray[np.bool_]:
        """Return whether the likeliest subject of each picture is the one given for it, (n,)."""
        named: NDArray[np.bool_] = self.subjects.argmax(1) == np.array(
            [SUBJECTS.index(s) for s in subjects], int
        )
        return named

    def shows(self, picture: int, value: str) -> bool:
        """Return whether `value` is the likeliest answer in its category, "none of them" included."""
        rivals = [VALUES.index(v) for v in ATTRIBUTES[CATEGORY_OF[value]]]
        own = self.values[picture, VALUES.index(value)]
        shares = self.values[picture, rivals]
        return bool(own >= shares.max() and own >= 1 - shares.sum())

    def utilities(self, person: Person) -> Float32s:
        """Return what each picture is worth to a person of known taste, by the judge's probabilities, (n,).

        In the units of `people.true_utility`: standard deviations over shown pictures.
        """
        weights = np.array([person.weights.get(v, 0.0) for v in VALUES], np.float32)
        return (self.values @ weights / np.float32(person.spread)).astype(np.float32)


class Judge:
    """The trained network, ready to be asked."""

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.eval()

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8] | Sequence[Pixels]) -> Opinion:
        """Judges pictures, (n, 128, 128, 3) uint8; raises ValueError for another shape or type."""
        x = to_network(np.stack(list(pictures)) if not isinstance(pictures, np.ndarray) else pictures)
        logits = (
            torch.cat([self.network(x[i : i + 64]) for i in range(0, len(x), 64)])
            if len(x)
            else torch.zeros(0, LOGITS)
        )
        subjects = logits[:, : len(SUBJECTS)].softmax(1)
        values = [logits[:, where].softmax(1)[:, :-1] for where in CATEGORY_LOGITS.values()]
        return Opinion(subjects.numpy(), torch.cat(values, 1).numpy())


@lru_cache(maxsize=2)
def load_judge(path: Path = WEIGHTS) -> Judge:
    """Return the judge that ships with the simulations.

    Raises FileNotFoundError when its weights are missing.
    """
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; make it with: python -m palate.simulations.recipes.judge"
        )
    network = JudgeNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return Judge(network)


@dataclass(frozen=True)
class JudgeAccuracy:
    """How often the judge is right on renders, whose truth is known; shares in [0, 1]."""

    pictures: int
    subject: float  # the subject is named
    attribute: float  # a drawn attribute is named
    invented: float  # a category in which nothing was asked for is said to show something
    values: Mapping[str, float]  # for each value, how often it is named when it was drawn
    utility: float  # correlation of judged and true utility, over virtual people

    def __str__(self) -> str:
        """Return one line, to be printed with every opinion of the judge."""
        return (
            f"judge on {self.pictures} fresh renders: subject {self.subject:.1%}, drawn attribute "
            f"{self.attribute:.1%}, "
            f"empty category filled {self.invented:.1%}, correlation of judged with true utility "
            f"{self.utility:.3f}"
        )


def score_truths(opinion: Opinion, truths: Sequence[Truth]) -> tuple[float, float, float, dict[str, float]]:
    """Return the shares of subjects and attributes named, of empty categories filled, of each value named."""
    named = {v: [opinion.shows(i, v) for i, t in enumerate(truths) if t.shows(v)] for v in VALUES}
    flat = [hit for hits in named.values() for hit in hits]
    empty = [
        any(opinion.shows(i, v) for v in ATTRIBUTES[c])
        for i, t in enumerate(truths)
        for c in ATTRIBUTES
        if c not in t.attributes
    ]
    subject = float(opinion.names_subject([t.subject for t in truths]).mean())
    return subject, _share(flat), _share(empty), {v: _share(hits) for v, hits in named.items() if hits}


def measure_judge(
    judge: Judge, count: int = 1000, first: int = FRESH, progress: Callable[[int], object] | None = None
) -> JudgeAccuracy:
    """Asks the judge about fresh renders, numbers `first` to `first + count - 1`.

    `progress` is called with each number done.
    """
    from palate.simulations.crowd.people import make_people, true_utility
    from palate.simulations.world.shards import truth_of

    truths, pictures = [], []
    for number in range(first, first + count):
        truths.append(truth_of(number))
        pictures.append(render(truths[-1], number))
        if progress is not None:
            progress(1)
    opinion = judge(np.stack(pictures))
    people = make_people(20, seed=99)
    correlations = [
        np.corrcoef(opinion.utilities(p), [true_utility(p, t) for t in truths])[0, 1] for p in people
    ]
    subject, attribute, invented, values = score_truths(opinion, truths)
    return JudgeAccuracy(count, subject, attribute, invented, values, float(np.mean(correlations)))


def _share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else 0.0
