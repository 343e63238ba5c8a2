"""Personal pictures, many at once.

The device's own conditioning, fidelity guard and evaluator round the stock pipeline.

The same steps as `client/painter/generator` and `client/painter/create` take for one person, batched: what
goes in is made by `client/painter/conditioning`, the guard draws a picture again at half the strengths, at
most twice, when the picture tower no longer sees the subject, and candidates are ranked by the evaluator from
the profile alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.studio import Studio, Words
from palate.client.painter.conditioning import TextStates, condition
from palate.client.painter.create import LEAST_SHOWN, worth
from palate.client.painter.drawable import likes_and_dislikes
from palate.client.painter.generator import (
    DEFAULT_GUIDANCE,
    DEFAULT_MODE,
    DEFAULT_STRENGTH,
    MAX_HALVINGS,
    Request,
    load_generator,
)
from palate.client.painter.pipelines import SHIPPED_GENERATOR
from palate.client.taste.profile import Profile
from palate.shared.arrays import Float32s
from palate.shared.encoder import EncoderWeights
from palate.simulations.world.shards import Pictures

Asked = tuple[str, int, Profile | None]  # prompt, seed, and whose profile (None: impersonal)


@dataclass(frozen=True)
class Taste:
    """How a profile is put to use; the defaults are the product's."""

    mode: str = DEFAULT_MODE
    strength: float = DEFAULT_STRENGTH
    dislike_strength: float | None = None  # None: as the strength
    guidance: float = DEFAULT_GUIDANCE
    guard: bool = True


class Painter:
    """One loaded generator, with what it takes to make and rank personal pictures."""

    def __init__(self, folder: Path = SHIPPED_GENERATOR, steps: int = 20) -> None:
        self.folder = folder
        self.studio = Studio(folder)
        self.text = TextStates(self.studio.pipeline.tokenizer, self.studio.pipeline.text_encoder)
        self.steps = steps

    def words(self, prompt: str, profile: Profile | None, taste: Taste, share: float = 1.0) -> Words:
        """Return what the pipeline takes for a prompt and a profile, at a share of the strengths."""
        likes, dislikes = ((), ()) if profile is None else likes_and_dislikes(profile)
        dislike = taste.strength if taste.dislike_strength is None else taste.dislike_strength
        made = condition(
            self.text, taste.mode, prompt, "", likes, dislikes,
            share * taste.strength, share * dislike,
        )  # fmt: skip
        return Words(made.prompt_embeds[0], made.negative_prompt_embeds[0], taste.guidance)

    def paint(self, asked: Sequence[Asked], taste: Taste = Taste(), *, what: str = "painting") -> Pictures:
        """Return pictures (n, 128, 128, 3) uint8; each depends on its own prompt, seed and profile alone."""
        if taste.mode == "guidance":
            return self._one_by_one(asked, taste, what)
        words = [self.words(prompt, profile, taste) for prompt, _, profile in asked]
        out = self.studio.paint(words, [seed for _, seed, _ in asked], steps=self.steps, what=what)
        if not taste.guard or taste.strength == 0:
            return out
        share = 1.0
        again = [i for i, (_, _, profile) in enumerate(asked) if profile is not None]
        for _ in range(MAX_HALVINGS):
            share /= 2
            again = [i for i in again if not self._is_faithful(asked[i][0], out[i])]
            if again:
                words = [self.words(asked[i][0], asked[i][2], taste, share) for i in again]
                seeds = [asked[i][1] for i in again]
                out[again] = self.studio.paint(
                    words, seeds, steps=self.steps, what=f"{what}: again at {share:g}"
                )
        return out

    def _one_by_one(self, asked: Sequence[Asked], taste: Taste, what: str) -> Pictures:
        """Return the pictures of the mode with further terms of guidance, which cannot be batched."""
        generator = load_generator(self.folder)
        out = np.zeros((len(asked), 128, 128, 3), np.uint8)
        for i, (prompt, seed, profile) in enumerate(
            tqdm(asked, desc=what, unit="picture", mininterval=2, disable=None)
        ):
            likes, dislikes = ((), ()) if profile is None else likes_and_dislikes(profile)
            request = Request(
                prompt,
                seed=seed,
                steps=self.steps,
                guidance_scale=taste.guidance,
                mode=taste.mode,
                strength=taste.strength,
                dislike_strength=taste.dislike_strength,
                likes=likes,
                dislikes=dislikes,
            )

            def faithful(image: Image.Image, prompt: str = prompt) -> bool:
                return self._is_faithful(prompt, np.asarray(image))

            out[i] = np.asarray(
                generator.generate(request, faithful=faithful if taste.guard else None)[0].image
            )
        return out

    def rank(
        self, pictures: Pictures, prompt: str, profile: Profile, encoder: EncoderWeights | None = None
    ) -> Float32s:
        """Return what the device ranks candidates by, from the profile alone.

        No verdict was ever given, (n,).
        """
        from palate.client.eye.tower import FEATURE_NAMES, load_tower, subject_of_prompt
        from palate.client.taste.evaluator import fit_evaluator
        from palate.client.taste.scoring import read_directions
        from palate.shared.encoder import load_encoder

        encoder = load_encoder() if encoder is None else encoder
        nothing = np.zeros((0, len(FEATURE_NAMES)), np.float32)
        tastes = profile.signed()
        directions = read_directions(encoder, tastes)
        evaluator = fit_evaluator(encoder, nothing, nothing, tastes=tastes, directions=directions)
        look = load_tower().look([Image.fromarray(p) for p in pictures])
        return worth(evaluator, look, subject_of_prompt(prompt))

    @staticmethod
    def _is_faithful(prompt: str, picture: NDArray[np.uint8]) -> bool:
        from palate.client.eye.tower import subject_of_prompt, subject_probability

        subject = subject_of_prompt(prompt)
        return (
            subject is None
            or float(subject_probability([Image.fromarray(picture)], subject)[0]) >= LEAST_SHOWN
        )
