"""Makes pictures with a stock Stable Diffusion pipeline: a prompt and a taste come in, and pictures go out.

Where it stands: profile, conditioning, **generator**, then pictures, ranked by the private evaluator. What is
personal reaches the pipeline as states in place of words (`conditioning`); the pipeline itself is the stock
class of diffusers.

Every picture is drawn alone and from a seed of its own. So picture i of a request is the same whether two
pictures are wanted or ten, and its impersonal sibling differs in the taste alone. (In a batch the last bits
of each would depend on its neighbours.) A small model draws several at the same time, each on one thread
(`threads`).
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from palate.client.painter.conditioning import MODES as _MODES
from palate.client.painter.conditioning import Conditioning, TextStates, Weighted, condition
from palate.client.painter.pipelines import LoadedPipeline, load_pipeline
from palate.client.runtime import Progress, no_progress, side_by_side
from palate.shared.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MODES: tuple[str, ...] = tuple(_MODES)
DEFAULT_MODE = "tokens"
DEFAULT_STRENGTH = 0.4
DEFAULT_STEPS = 20
DEFAULT_GUIDANCE = 3.0  # of the shipped generator and of models that its recipe made
FOREIGN_GUIDANCE = 7.5  # what the stock pipeline takes
MAX_STRENGTH = 2.0
MAX_HALVINGS = 2
SMALL = (
    50_000_000  # weights of a U-Net up to which a picture is drawn on one thread; the shipped one has 11 M
)

_MAX_PROMPT = 10_000  # characters
_RANGES = {
    "count": (1, 1000),
    "pick": (1, 1000),
    "steps": (1, 200),
    "seed": (0, 2**62),
    "strength": (0, MAX_STRENGTH),
    "guidance_rescale": (0, 1),
}
_OPTIONAL_RANGES = {
    "dislike_strength": (0, MAX_STRENGTH),
    "guidance_scale": (0, 50),
    "width": (32, 4096),
    "height": (32, 4096),
}

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Request:
    """What a generator draws; validated when built (`OptionError`).

    Attributes:
        likes: attributes in words with a weight above 0, which counts in proportion to its list.
        dislikes: the same.
        strength: how much the likes count, from 0, the impersonal picture, to 2.
        dislike_strength: the same for the dislikes; None stands for `strength`.
        guidance_scale: None stands for the model's own default.
        pick: the number of candidates drawn for each picture that is kept.
        beside: whether to draw each picture's impersonal sibling too.
    """

    prompt: str
    count: int = 1
    seed: int = 0
    steps: int = DEFAULT_STEPS
    guidance_scale: float | None = None
    guidance_rescale: float = 0.0
    negative: str = ""
    mode: str = DEFAULT_MODE
    strength: float = DEFAULT_STRENGTH
    dislike_strength: float | None = None
    likes: tuple[Weighted, ...] = ()
    dislikes: tuple[Weighted, ...] = ()
    width: int | None = None
    height: int | None = None
    pick: int = 1
    beside: bool = False

    def __post_init__(self) -> None:
        """Refuse what no model can draw."""
        if not self.prompt.strip():
            raise OptionError("prompt is empty; say what the picture shows")
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            if len(text) > _MAX_PROMPT:
                raise OptionError(f"{name} has {len(text):,} characters; it may have {_MAX_PROMPT:,}")
        if self.mode not in MODES:
            raise OptionError(f"mode = {self.mode!r} is unknown; take one of {', '.join(MODES)}")
        for name, (low, high) in _RANGES.items():
            _within(name, getattr(self, name), low, high)
        for name, (low, high) in _OPTIONAL_RANGES.items():
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), low, high)
        for name, side in (("width", self.width), ("height", self.height)):
            if (side or 0) % 8:
                raise OptionError(f"{name} = {side} is no multiple of 8; take {(side or 0) // 8 * 8}")
        _refuse_odd_weights((*self.likes, *self.dislikes))

    @property
    def strengths(self) -> tuple[float, float]:
        """The strength of the likes and that of the dislikes."""
        return self.strength, self.strength if self.dislike_strength is None else self.dislike_strength

    @property
    def personal(self) -> bool:
        """Whether the taste counts at all."""
        strength, dislike_strength = self.strengths
        return bool(self.likes and strength) or bool(self.dislikes and dislike_strength)


def _refuse_odd_weights(attributes: Sequence[Weighted]) -> None:
    for words, weight in attributes:
        if not words.strip():
            raise OptionError("an attribute has no words")
        if not (math.isfinite(weight) and weight > 0):
            raise OptionError(f"the weight of {words!r} is {weight}; a weight is above 0")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise OptionError(f"{name} = {value} is out of range; take a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class DrawnPicture:
    """A drawn picture, with the seed and the strengths it was drawn with in the end.

    It has a score if one was wanted, and an impersonal sibling of the same seed.
    """

    image: Image
    seed: int
    strength: float
    dislike_strength: float
    score: float | None = None
    impersonal: Image | None = None


class Generator:
    """A loaded pipeline that draws what a `Request` asks for; build it with `load_generator`."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self.pipeline = loaded.pipeline
        self.name = loaded.name
        self.weights_sha256 = loaded.weights_sha256
        self.shipped = loaded.shipped
        self.text = TextStates(loaded.pipeline.tokenizer, loaded.pipeline.text_encoder)
        self._conditioning = threading.Lock()
        unet = loaded.pipeline.unet
        self._small = unet.device.type == "cpu" and sum(one.numel() for one in unet.parameters()) <= SMALL

    @property
    def size(self) -> tuple[int, int]:
        """The width and height of a picture for which no size is given, in pixels."""
        side = self.pipeline.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return width * self.pipeline.vae_scale_factor, height * self.pipeline.vae_scale_factor

    def guidance_scale(self, request: Request) -> float:
        """Return how strongly this request is guided: its own scale, or the model's default."""
        if request.guidance_scale is not None:
            return request.guidance_scale
        return DEFAULT_GUIDANCE if self.text.slots is not None else FOREIGN_GUIDANCE

    def reads_whole(self, text: str) -> bool:
        """Return whether the model reads a prompt to its end; what is beyond its length has no effect."""
        return self.text.fits(text)

    def generate(
        self,
        request: Request,
        *,
        score: Callable[[Image], float] | None = None,
        faithful: Callable[[Image], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[DrawnPicture]:
        """Draw the pictures of a request; picture i has the seed `request.seed` + i.

        With `pick` = K, count · K candidates are drawn from as many seeds, and the `count` best are kept, the
        best first. The three functions may be called from several threads, `progress` from one at a time.

        Args:
            request: what to draw.
            score: ranks candidates, higher is better; needed if `pick` is above 1.
            faithful: whether a picture shows what was wanted. If not, it is drawn again at half the
                strengths, at most twice.
            progress: is told how many steps are done, and how many there are; these grow if a picture is
                drawn again.

        Raises:
            OptionError: candidates without a score, or a guidance that has no effect.
        """
        if request.pick > 1 and score is None:
            raise OptionError(
                f"pick = {request.pick} needs an evaluator to rank the candidates; leave it at 1"
            )
        if request.mode == "guidance" and request.personal and self.guidance_scale(request) <= 1:
            raise OptionError("mode = 'guidance' needs a guidance scale above 1; take mode 'embedding'")
        candidates = request.count * request.pick
        counter = _Counter((candidates + request.count * request.beside) * request.steps, progress)
        plain = replace(request, likes=(), dislikes=())

        def draw(seed: int) -> DrawnPicture:
            picture = self._draw_faithfully(request, seed, faithful, counter)
            return picture if score is None else replace(picture, score=float(score(picture.image)))

        def draw_beside(picture: DrawnPicture) -> DrawnPicture:
            return replace(picture, impersonal=self._draw(plain, picture.seed, plain.strengths, counter))

        with warnings.catch_warnings():
            # The schedulers of diffusers use numpy in a way that it is about to drop; nobody here can change
            # that.
            warnings.simplefilter("ignore", DeprecationWarning)
            drawn = self._for_each(draw, range(request.seed, request.seed + candidates), request)
            if request.pick > 1:
                drawn = sorted(drawn, key=_score_of, reverse=True)[: request.count]
            return self._for_each(draw_beside, drawn, plain) if request.beside else drawn

    def _for_each(
        self, draw: Callable[[_Item], DrawnPicture], items: Sequence[_Item], request: Request
    ) -> list[DrawnPicture]:
        """Draw for each item: one after the other, or, with a small model, at the same time."""
        import torch

        if not self._small:
            return [draw(item) for item in items]
        # Further terms hang on the U-Net, which all share.
        return side_by_side(draw, items, 1 if request.mode == "guidance" else torch.get_num_threads())

    def _draw_faithfully(
        self, request: Request, seed: int, faithful: Callable[[Image], bool] | None, counter: _Counter
    ) -> DrawnPicture:
        strengths = request.strengths
        image = self._draw(request, seed, strengths, counter)
        for _ in range(MAX_HALVINGS if faithful is not None and request.personal else 0):
            if faithful is None or faithful(image):
                break
            strengths = strengths[0] / 2, strengths[1] / 2
            counter.expect(request.steps)
            image = self._draw(request, seed, strengths, counter)
        return DrawnPicture(image, seed, *strengths)

    def _draw(self, request: Request, seed: int, strengths: tuple[float, float], counter: _Counter) -> Image:
        import torch

        with self._conditioning:  # a tokenizer is for one thread at a time
            told = condition(
                self.text,
                request.mode,
                request.prompt,
                request.negative,
                request.likes,
                request.dislikes,
                *strengths,
            )

        def stepped(_pipeline: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            counter.step()
            return tensors

        # The same weights, and progress of its own, since others may be drawing.
        pipeline = copy.copy(self.pipeline)
        pipeline.scheduler = self.pipeline.scheduler.from_config(self.pipeline.scheduler.config)
        with _further_terms(pipeline.unet, told):
            (image,) = pipeline(
                prompt_embeds=told.prompt_embeds,
                negative_prompt_embeds=told.negative_prompt_embeds,
                # The noise is drawn on the CPU, so a seed means the same picture on every device.
                generator=torch.Generator().manual_seed(seed),
                num_inference_steps=request.steps,
                guidance_scale=self.guidance_scale(request),
                guidance_rescale=request.guidance_rescale,
                width=request.width,
                height=request.height,
                callback_on_step_end=stepped,
                callback_on_step_end_tensor_inputs=[],
            ).images
        drawn: Image = image
        return drawn


def load_generator(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    progress: Progress = no_progress,
) -> Generator:
    """Return the shipped generator, or that of a folder or of the hub's cache.

    Args:
        model: None for the shipped one, a folder in the format of diffusers, or a hub id with its commit.
        device: torch's name for it; None takes a GPU where there is one.
        progress: is told of the beginning and the end; importing the libraries alone takes seconds.

    Raises:
        ModelError: the model cannot be loaded.
    """
    progress("loading the generator", 0, 1)
    generator = Generator(load_pipeline(model, device=device))
    progress("loading the generator", 1, 1)
    return generator


class _Counter:
    """Counts denoising steps, and tells the progress."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self._tell = 0, total, tell
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self.done += 1
            if self._tell is not None:
                self._tell(self.done, self.total)

    def expect(self, steps: int) -> None:
        with self._lock:
            self.total += steps


def _score_of(picture: DrawnPicture) -> float:
    return -math.inf if picture.score is None or math.isnan(picture.score) else picture.score


@contextlib.contextmanager
def _further_terms(unet: Any, told: Conditioning) -> Iterator[None]:
    """Let the U-Net predict further terms of the guidance with the two, and add them to the second.

    The stock pipeline then computes ε_∅ + w (ε_p + Σ d (ε_term − ε_∅) − ε_∅) by itself. Two hooks of torch do
    it, for one picture only; they are gone afterwards, however it ends.
    """
    if not told.terms:
        yield
        return
    import torch

    factors = [factor for factor, _ in told.terms]
    states = torch.cat([states for _, states in told.terms])

    def ask_more(
        _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        latents, *rest = args  # (2, channels, height, width): for the negative and for the prompt, both equal
        asked = kwargs["encoder_hidden_states"]
        latents = torch.cat([latents, latents[:1].expand(len(factors), -1, -1, -1)])
        return (latents, *rest), {**kwargs, "encoder_hidden_states": torch.cat([asked, states.to(asked)])}

    def add_up(_module: Any, _args: tuple[Any, ...], output: Sequence[Tensor]) -> tuple[Tensor]:
        nothing, prompt, *terms = output[0]
        for factor, term in zip(factors, terms, strict=True):
            prompt = prompt + factor * (term - nothing)
        return (torch.stack([nothing, prompt]),)

    hooks = unet.register_forward_pre_hook(ask_more, with_kwargs=True), unet.register_forward_hook(add_up)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
