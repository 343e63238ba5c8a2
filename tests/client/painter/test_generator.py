"""Pictures from tiny untrained pipelines: seeds, modes, ranking, the guard, and wrong options."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image

from palate.client.painter.conditioning import condition
from palate.client.painter.generator import MODES, Generator, Request, _further_terms, load_generator
from palate.client.painter.pipelines import SHIPPED_GENERATOR, quiet
from palate.client.runtime.threads import one_thread
from palate.shared.errors import ModelError, OptionError

LIKES = (("misty", 0.4), ("golden hour", 0.8))
DISLIKES = (("neon", 0.5),)
PROMPT = "a house by the sea"


@pytest.fixture(scope="module", params=["bert", "clip"])
def generator(request: pytest.FixtureRequest, tiny_pipelines: dict[str, Path]) -> Generator:
    return load_generator(tiny_pipelines[request.param], device="cpu")


@pytest.fixture(scope="module")
def bert(tiny_pipelines: dict[str, Path]) -> Generator:
    return load_generator(tiny_pipelines["bert"], device="cpu")


def pixels(image: Image | None) -> np.ndarray:
    assert image is not None
    return np.asarray(image).astype(int)


# --- what a person can get wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "a" * 10_001}, "prompt"),
        ({"negative": "a" * 10_001}, "negative"),
        ({"mode": "magic"}, "tokens"),
        ({"count": 0}, "count"),
        ({"pick": 0}, "pick"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"strength": -0.1}, "strength"),
        ({"strength": 2.5}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"dislike_strength": float("inf")}, "dislike_strength"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"width": 30}, "width"),
        ({"height": 129}, "height"),
        ({"likes": ((" ", 1.0),)}, "words"),
        ({"dislikes": (("neon", 0.0),)}, "neon"),
        ({"likes": (("misty", float("nan")),)}, "misty"),
    ],
)
def test_a_request_that_cannot_be_drawn_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        Request(**{"prompt": PROMPT, **wrong})


def test_a_folder_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither a folder nor a hub id"):
        load_generator(tmp_path / "gone")


def test_a_folder_without_a_pipeline_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        load_generator(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["", "{", "[]", "{}", '{"_class_name": "StableDiffusionXLPipeline"}', '{"_class_name": ["x", "Y"]}'],
)
def test_a_folder_of_something_else_is_one_clear_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ModelError) as caught:
        load_generator(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "gone", "pickle"])
def test_damaged_or_pickled_weights_are_refused(
    tiny_pipelines: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipelines["bert"], folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "gone":
        shutil.rmtree(folder / "unet")
    else:
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError) as caught:
        load_generator(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/nothing-here", "nobody/nothing-here@main", f"nobody/x@{'0' * 40}"])
def test_a_hub_id_that_is_not_on_this_machine_is_one_clear_line(name: str) -> None:
    with pytest.raises(ModelError, match=r"name its commit|hf download nobody/x --revision 0{40}") as caught:
        load_generator(name)
    assert "\n" not in str(caught.value)


def test_picking_needs_an_evaluator(bert: Generator) -> None:
    with pytest.raises(OptionError, match="pick"):
        bert.generate(Request(PROMPT, pick=2, steps=1))


def test_guidance_mode_needs_guidance(bert: Generator) -> None:
    with pytest.raises(OptionError, match="guidance"):
        bert.generate(Request(PROMPT, mode="guidance", guidance_scale=1.0, likes=LIKES, steps=1))


# --- loading ------------------------------------------------------------------------------------------------


def test_loading_says_when_it_begins_and_ends(tiny_pipelines: dict[str, Path]) -> None:
    heard: list[tuple[str, int, int]] = []
    load_generator(tiny_pipelines["bert"], device="cpu", progress=lambda *now: heard.append(now))
    assert heard == [("loading the generator", 0, 1), ("loading the generator", 1, 1)]


def test_loading_and_drawing_leave_the_terminal_alone(
    tiny_pipelines: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_generator(tiny_pipelines["bert"], device="cpu")
    loaded.generate(Request(f"{PROMPT} " * 50, steps=1))
    assert capfd.readouterr() == ("", "")


def test_a_generator_tells_its_name_without_its_path(
    generator: Generator, tiny_pipelines: dict[str, Path]
) -> None:
    assert generator.name in {folder.name for folder in tiny_pipelines.values()}
    assert not generator.shipped
    assert generator.size == (32, 32)


def test_other_weights_have_another_hash(
    tiny_pipelines: dict[str, Path], tmp_path: Path, bert: Generator
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipelines["bert"], folder)
    assert load_generator(folder, device="cpu").weights_sha256 == bert.weights_sha256
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert load_generator(folder, device="cpu").weights_sha256 != bert.weights_sha256


def test_a_long_prompt_is_said_to_be_cut(generator: Generator) -> None:
    assert generator.reads_whole(PROMPT)
    assert not generator.reads_whole(f"{PROMPT} " * 50)


# --- seeds --------------------------------------------------------------------------------------------------


def test_a_picture_is_the_same_whatever_the_count(generator: Generator) -> None:
    asked = {"likes": LIKES, "dislikes": DISLIKES, "steps": 2}
    three = generator.generate(Request(PROMPT, count=3, seed=5, **asked))
    (second,) = generator.generate(Request(PROMPT, seed=6, **asked))
    assert [p.seed for p in three] == [5, 6, 7]
    assert three[1].image.tobytes() == second.image.tobytes()
    assert three[0].image.tobytes() != second.image.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_is_the_same_on_any_number_of_threads(generator: Generator, mode: str) -> None:
    """Guarded, so that pictures of several strengths are drawn at once, and others beside them."""
    asked = Request(PROMPT, count=5, steps=2, mode=mode, likes=LIKES, dislikes=DISLIKES, beside=True, seed=7)

    def faithful(image: Image) -> bool:
        return pixels(image).sum() % 2 == 0

    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            drawn.append(generator.generate(asked, faithful=faithful))
    finally:
        torch.set_num_threads(before)
    one, *others = [
        [(p.seed, p.strength, pixels(p.image).tolist(), pixels(p.impersonal).tolist()) for p in pictures]
        for pictures in drawn
    ]
    assert [seed for seed, *_ in one] == [7, 8, 9, 10, 11]
    assert len({strength for _, strength, *_ in one}) > 1
    assert others == [one, one]


def test_pictures_are_drawn_at_once_each_on_one_thread(bert: Generator) -> None:
    """Each waits for the other when it is scored, so one after the other would break the barrier."""
    both, threads = threading.Barrier(2, timeout=30), []

    def score(image: Image) -> float:
        threads.append(torch.get_num_threads())
        both.wait()
        return 0.0

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bert.generate(Request(PROMPT, count=2, steps=1), score=score)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1]


def test_a_picture_without_a_taste_is_that_of_the_stock_pipeline(generator: Generator) -> None:
    (mine,) = generator.generate(Request(PROMPT, seed=3, steps=2, negative="neon", guidance_scale=4.0))
    with quiet(), one_thread():
        (stock,) = generator.pipeline(
            PROMPT,
            negative_prompt="neon",
            num_inference_steps=2,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(3),
        ).images
    assert mine.image.tobytes() == stock.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_changes_the_picture_and_strength_0_does_not(generator: Generator, mode: str) -> None:
    asked: dict[str, Any] = {"likes": LIKES, "dislikes": DISLIKES, "steps": 2, "mode": mode, "beside": True}
    (personal,) = generator.generate(Request(PROMPT, strength=1.5, **asked))
    assert np.abs(pixels(personal.image) - pixels(personal.impersonal)).max() > 0
    (plain,) = generator.generate(Request(PROMPT, strength=0.0, **asked))
    assert plain.image.tobytes() == pixels(plain.impersonal).astype(np.uint8).tobytes()
    assert pixels(plain.image).tolist() == pixels(personal.impersonal).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_likes_and_dislikes_have_strengths_of_their_own(generator: Generator, mode: str) -> None:
    asked: dict[str, Any] = {"steps": 2, "mode": mode, "strength": 1.0}
    (both,) = generator.generate(
        Request(PROMPT, likes=LIKES, dislikes=DISLIKES, dislike_strength=0.0, **asked)
    )
    (likes,) = generator.generate(Request(PROMPT, likes=LIKES, **asked))
    assert both.image.tobytes() == likes.image.tobytes()


def test_drawing_leaves_the_global_random_state_alone(generator: Generator) -> None:
    before = torch.random.get_rng_state()
    generator.generate(Request(PROMPT, steps=1, likes=LIKES))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_size_of_ones_own_is_drawn(generator: Generator) -> None:
    (drawn,) = generator.generate(Request(PROMPT, steps=1, width=64, height=48))
    assert drawn.image.size == (64, 48)


# --- guidance -----------------------------------------------------------------------------------------------


def test_guidance_adds_the_second_term_of_viper(generator: Generator) -> None:
    unet = generator.pipeline.unet
    told = condition(generator.text, "guidance", PROMPT, "", LIKES, DISLIKES, 0.6, 0.6)
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    def predict(states: torch.Tensor) -> torch.Tensor:
        return unet(latents, 500, encoder_hidden_states=states, return_dict=False)[0]

    with torch.no_grad():
        nothing, prompt = predict(told.negative_prompt_embeds), predict(told.prompt_embeds)
        plus, minus = (predict(states) for _, states in told.terms)
        viper = nothing + 5 * (prompt + 0.6 * plus - nothing - 0.6 * minus)
        with _further_terms(unet, told):
            pair = torch.cat([told.negative_prompt_embeds, told.prompt_embeds])
            out = unet(torch.cat([latents] * 2), 500, encoder_hidden_states=pair, return_dict=False)[0]
    assert torch.allclose(out[:1] + 5 * (out[1:] - out[:1]), viper, atol=1e-4)


def test_an_interrupted_picture_leaves_no_hook_behind(bert: Generator) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (before,) = bert.generate(Request(PROMPT, steps=2))
    with pytest.raises(KeyboardInterrupt):
        bert.generate(Request(PROMPT, steps=2, mode="guidance", likes=LIKES), progress=interrupt)
    (after,) = bert.generate(Request(PROMPT, steps=2))
    assert before.image.tobytes() == after.image.tobytes()


# --- ranking, guard, progress -------------------------------------------------------------------------------


def scores_of(generator: Generator, first: int, *scores: float) -> Callable[[Image], float]:
    """A score that knows the pictures of the seeds from `first` on."""
    pictures = generator.generate(Request(PROMPT, count=len(scores), steps=1, seed=first))
    known = {one.image.tobytes(): score for one, score in zip(pictures, scores, strict=True)}
    assert len(known) == len(scores)
    return lambda image: known[image.tobytes()]


def test_picking_keeps_the_pictures_with_the_highest_scores_best_first(bert: Generator) -> None:
    score = scores_of(bert, 10, 0.1, 0.9, float("nan"), 0.5)
    drawn = bert.generate(Request(PROMPT, count=2, pick=2, steps=1, seed=10), score=score)
    assert [(p.seed, p.score) for p in drawn] == [(11, 0.9), (13, 0.5)]


def test_scores_alone_do_not_change_the_order(bert: Generator) -> None:
    score = scores_of(bert, 0, 0.1, 0.9)
    drawn = bert.generate(Request(PROMPT, count=2, steps=1), score=score)
    assert [(p.seed, p.score) for p in drawn] == [(0, 0.1), (1, 0.9)]


@pytest.mark.parametrize(
    ("answers", "strength"), [([True], 0.8), ([False, True], 0.4), ([False, False, False], 0.2)]
)
def test_the_guard_halves_the_strengths_at_most_twice(
    bert: Generator, answers: list[bool], strength: float
) -> None:
    left = iter(answers)
    heard: list[tuple[int, int]] = []
    request = Request(PROMPT, steps=2, likes=LIKES, strength=0.8, dislike_strength=0.4)
    (drawn,) = bert.generate(
        request, faithful=lambda image: next(left), progress=lambda *now: heard.append(now)
    )
    assert (drawn.strength, drawn.dislike_strength) == (strength, strength / 2)
    assert heard[-1][0] == heard[-1][1]
    (same,) = bert.generate(
        Request(PROMPT, steps=2, likes=LIKES, strength=strength, dislike_strength=strength / 2)
    )
    assert drawn.image.tobytes() == same.image.tobytes()


def test_the_guard_leaves_an_impersonal_picture_alone(bert: Generator) -> None:
    def never(image: Image) -> bool:
        raise AssertionError("there is no strength to lower")

    bert.generate(Request(PROMPT, steps=1), faithful=never)


def test_progress_counts_every_step_to_the_end(bert: Generator) -> None:
    heard: list[tuple[int, int]] = []
    request = Request(PROMPT, count=2, pick=2, steps=3, beside=True, likes=LIKES)
    bert.generate(request, score=lambda image: 0.0, progress=lambda *now: heard.append(now))
    assert heard == [(i + 1, 18) for i in range(18)]


# --- the shipped weights ------------------------------------------------------------------------------------


def test_the_shipped_folder_loads_with_the_stock_class_and_draws() -> None:
    from diffusers import StableDiffusionPipeline

    with quiet():
        stock = StableDiffusionPipeline.from_pretrained(SHIPPED_GENERATOR)
        stock.set_progress_bar_config(disable=True)
        (image,) = stock(PROMPT, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images
    assert image.size == (128, 128)
    assert pixels(image).std() > 10  # not one flat colour
    generator = load_generator()
    assert (generator.shipped, generator.name, generator.size) == (True, "palate", (128, 128))
    index = json.loads((SHIPPED_GENERATOR / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline"
