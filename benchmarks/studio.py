"""Many pictures at once from the shipped generator, and the judge that looks at them.

The stock pipeline paints; only the embeddings that go in differ. Seeds name the noise of each single picture,
so a picture does not depend on what else is in its batch, and a personal picture can be set next to the
impersonal one of the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from palate.client.painter.generator import DEFAULT_GUIDANCE
from palate.client.painter.pipelines import SHIPPED_GENERATOR, load_pipeline
from palate.simulations.judge import Judge, JudgeAccuracy, load_judge, measure_judge
from palate.simulations.world.shards import Pictures

BATCH = 8


@dataclass(frozen=True)
class Words:
    """What one picture is asked for.

    States of the prompt and of its opposite, each (states, 384), and how hard it is guided.
    """

    positive: Tensor
    negative: Tensor
    guidance: float = DEFAULT_GUIDANCE


class Studio:
    """The stock pipeline of a generator's folder."""

    def __init__(self, folder: Path = SHIPPED_GENERATOR) -> None:
        self.pipeline: Any = load_pipeline(folder).pipeline

    @torch.inference_mode()
    def words(self, prompts: Sequence[str], guidance: float = DEFAULT_GUIDANCE) -> list[Words]:
        """Return the plain words of prompts, as the stock pipeline encodes them."""
        device = self.pipeline.device
        out: list[Words] = []
        for start in range(0, len(prompts), 64):
            some = list(prompts[start : start + 64])
            positive, negative = self.pipeline.encode_prompt(some, device, 1, True)
            out += [Words(p, n, guidance) for p, n in zip(positive, negative, strict=True)]
        return out

    @torch.inference_mode()
    def paint(
        self, words: Sequence[Words], seeds: Sequence[int], *, steps: int = 20, what: str = "painting"
    ) -> Pictures:
        """Paint one picture for each words and seed, (n, 128, 128, 3) uint8, with progress named `what`."""
        if len(words) != len(seeds):
            raise ValueError(f"{len(words)} words but {len(seeds)} seeds: each picture takes one of each")
        out = np.zeros((len(words), 128, 128, 3), np.uint8)
        groups: dict[tuple[int, float], list[int]] = {}
        for i, one in enumerate(words):
            groups.setdefault((len(one.positive), one.guidance), []).append(i)
        with tqdm(total=len(words), desc=what, unit="picture", mininterval=2, disable=None) as bar:
            for (_, guidance), members in groups.items():
                for start in range(0, len(members), BATCH):
                    some = members[start : start + BATCH]
                    done = self.pipeline(
                        prompt_embeds=torch.stack([words[i].positive for i in some]),
                        negative_prompt_embeds=torch.stack([words[i].negative for i in some]),
                        generator=[torch.Generator().manual_seed(seeds[i]) for i in some],
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        output_type="np",
                    ).images
                    out[some] = np.rint(done * 255).astype(np.uint8)
                    bar.update(len(some))
        return out


@lru_cache(maxsize=1)
def ask_judge(count: int = 1000) -> tuple[Judge, JudgeAccuracy]:
    """Return the judge and what it reaches on fresh renders, measured once in a run and printed."""
    judge = load_judge()
    with tqdm(total=count, desc="measuring the judge", unit="render", mininterval=2, disable=None) as bar:
        accuracy = measure_judge(judge, count, progress=bar.update)
    print(accuracy)
    return judge, accuracy


def judge_figures(accuracy: JudgeAccuracy) -> dict[str, float]:
    """Return the judge's own accuracy as plain numbers for a row's extra figures."""
    return {
        "judge_subject": round(accuracy.subject, 4),
        "judge_attribute": round(accuracy.attribute, 4),
        "judge_invented": round(accuracy.invented, 4),
        "judge_utility_correlation": round(accuracy.utility, 4),
    }
