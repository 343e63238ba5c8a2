"""What the generator is told about each training picture: states of the text tower, in three forms.

- stock: a full caption, 32 states, what `StableDiffusionPipeline` makes of a prompt;
- tokens: a prompt that names the subject only, followed by the states of attribute phrases that were encoded
  one by one and weighted (`palate.client.painter.conditioning`, mode `tokens`);
- embedding: E(prompt) + β (E(attributes shown) − E(attributes not shown)), ViPer's formula (Salehi et al.,
  ECCV 2024).

A generator that meets all three while it learns can be personalized in any of them without leaving what it
knows. Everything is encoded once and cached, because the text tower is frozen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palate.simulations.crowd.captions import ATTRIBUTE_PHRASES, attributes_only, caption, subject_phrase
from palate.simulations.world.truth import CATEGORY_OF, SETTINGS, SUBJECTS, Truth

WIDTH = 384
LENGTH = 32  # states of a prompt
SLOTS = 24  # states of attributes that follow it in the tokens form
PROMPTS_EACH = 48  # wordings of each subject in each setting

_OPENINGS = ("", "", "", "a painting of ", "an image of ", "a picture of ")


class TextTower:
    """The frozen text tower as the stock pipeline uses it: 32 states of 384 per text, padding included."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer, BertModel

        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.model = BertModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval().to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (n, 32, 384) float32 and the attention mask (n, 32)."""
        t = self.tokenizer(
            list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            states = self.model(t["input_ids"], attention_mask=t["attention_mask"])[0]
        return states.float().cpu(), t["attention_mask"].cpu()


@dataclass
class Conditions:
    """Cached states, and how they are put together for a batch."""

    captions: NDArray[np.float16]  # (pictures, 32, 384) float16, memory-mapped
    prompts: Tensor  # (subjects · settings · PROMPTS_EACH, 32, 384)
    prompt_rows: dict[tuple[str, str | None], range]
    phrases: Tensor  # (phrases, 32, 384), every attribute phrase encoded alone
    phrase_lengths: list[int]  # its words' states are 1 .. length
    phrase_rows: dict[str, range]
    empty: Tensor  # (32, 384), the empty prompt

    def stock(self, numbers: Sequence[int], rng: random.Random) -> Tensor:
        """(n, 32, 384): cached captions, one in ten replaced by the empty prompt."""
        rows = [self.empty if rng.random() < 0.1 else torch.from_numpy(self.captions[i]) for i in numbers]
        return torch.stack([r.float() for r in rows])

    def _prompt(self, truth: Truth, rng: random.Random) -> Tensor:
        return self.prompts[rng.choice(self.prompt_rows[truth.subject, truth.setting])].float()

    def tokens(self, truths: Sequence[Truth], rng: random.Random) -> Tensor:
        """(n, 32 + 24, 384): a prompt and weighted attribute states.

        What is free holds the empty prompt's padding.
        """
        out = []
        for truth in truths:
            prompt = self.empty.float() if rng.random() < 0.15 else self._prompt(truth, rng)
            slots = self.empty[-1:].float().repeat(SLOTS, 1)
            shown, filled = list(truth.values()), 0
            rng.shuffle(shown)
            for value in shown if rng.random() < 0.9 else ():
                row = rng.choice(self.phrase_rows[value])
                n = self.phrase_lengths[row]
                if filled + n > SLOTS:
                    break
                slots[filled : filled + n] = self.phrases[row, 1 : 1 + n].float() * rng.uniform(0.7, 1.3)
                filled += n
            out.append(torch.cat([prompt, slots]))
        return torch.stack(out)

    def embedding(self, truths: Sequence[Truth], rng: random.Random) -> Tensor:
        """(n, 32, 384): E(prompt) + β (mean E(shown) − mean E(not shown))."""
        out = []
        for truth in truths:
            shown = truth.values()
            absent = rng.sample([a for a in CATEGORY_OF if a not in shown], rng.randint(0, 4))
            plus, minus = self._mean(shown, rng), self._mean(absent, rng)
            out.append(self._prompt(truth, rng) + rng.uniform(0.2, 1.2) * (plus - minus))
        return torch.stack(out)

    def _mean(self, attributes: Sequence[str], rng: random.Random) -> Tensor:
        if not attributes:
            return self.empty.float()
        return torch.stack([self.phrases[rng.choice(self.phrase_rows[a])].float() for a in attributes]).mean(
            0
        )


def prepare(folder: Path, tower_folder: Path, truths: Sequence[Truth], device: torch.device) -> Conditions:
    """Encode every text once into `folder` (resumes where it stopped) and returns the conditions."""
    from tqdm import tqdm

    tower = TextTower(tower_folder, device)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "captions.npy"
    if not path.exists():
        part = folder / "captions.part.npy"
        out = np.lib.format.open_memmap(part, "w+", np.float16, (len(truths), LENGTH, WIDTH))
        texts = []
        for i, truth in enumerate(truths):
            rng = random.Random(f"caption {i}")
            texts.append(attributes_only(rng, truth) if rng.random() < 0.06 else caption(rng, truth))
        for start in tqdm(range(0, len(texts), 256), desc="encoding captions", mininterval=10):
            out[start : start + 256] = tower(texts[start : start + 256])[0].numpy()
        out.flush()
        part.replace(path)
    rng = random.Random("prompts")
    prompts: list[str] = []
    prompt_rows = {}
    for subject in SUBJECTS:
        for setting in (None, *SETTINGS):
            first = len(prompts)
            truth = Truth(subject, {}, setting)
            prompts += [rng.choice(_OPENINGS) + subject_phrase(rng, truth) for _ in range(PROMPTS_EACH)]
            prompt_rows[subject, setting] = range(first, len(prompts))
    phrases: list[str] = []
    phrase_rows = {}
    for value, wordings in ATTRIBUTE_PHRASES.items():
        first = len(phrases)
        phrases += [value, *(w for w in wordings if w != value)]
        phrase_rows[value] = range(first, len(phrases))
    prompt_states = torch.cat([tower(prompts[i : i + 256])[0].half() for i in range(0, len(prompts), 256)])
    phrase_states, mask = tower(phrases)
    return Conditions(
        captions=np.load(path, mmap_mode="r"),
        prompts=prompt_states,
        prompt_rows=prompt_rows,
        phrases=phrase_states.half(),
        phrase_lengths=[int(m.sum()) - 2 for m in mask],
        phrase_rows=phrase_rows,
        empty=tower([""])[0][0],
    )
