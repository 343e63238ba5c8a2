"""What the pipeline is given in place of words, against values worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from palate.client.painter.conditioning import MAX_ATTRIBUTES, MODES, TRAINED_SLOTS, TextStates, condition
from palate.client.painter.pipelines import load_pipeline

PROMPT = "a house by the sea"
LIKES = (("misty", 0.4), ("golden hour", 0.8))
DISLIKES = (("neon", 0.5),)
LENGTH = 12


@pytest.fixture(scope="module", params=["bert", "clip"])
def pipeline(request: pytest.FixtureRequest, tiny_pipelines: dict[str, Path]) -> Any:
    return load_pipeline(tiny_pipelines[request.param], device="cpu").pipeline


@pytest.fixture
def text(pipeline: Any) -> TextStates:
    return TextStates(pipeline.tokenizer, pipeline.text_encoder)


@pytest.fixture(scope="module")
def trained_form(tiny_pipelines: dict[str, Path]) -> Any:
    return load_pipeline(tiny_pipelines["bert"], device="cpu").pipeline


@pytest.fixture
def slotted(trained_form: Any) -> TextStates:
    return TextStates(trained_form.tokenizer, trained_form.text_encoder)


@pytest.fixture
def open_ended(tiny_pipelines: dict[str, Path]) -> TextStates:
    loaded = load_pipeline(tiny_pipelines["clip"], device="cpu").pipeline
    return TextStates(loaded.tokenizer, loaded.text_encoder)


# --- hostile and empty input --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("words", ["👍👍👍", "\x00", "red " * 500, "¿qué?", " "])
def test_strange_attributes_give_finite_states_of_equal_length(
    text: TextStates, mode: str, words: str
) -> None:
    told = condition(text, mode, words, words, [(words, 1.0)], [(words, 1.0)], 1.0, 1.0)
    assert told.prompt_embeds.shape == told.negative_prompt_embeds.shape
    for states in (told.prompt_embeds, told.negative_prompt_embeds, *(s for _, s in told.terms)):
        assert torch.isfinite(states).all()
        assert states.shape == told.prompt_embeds.shape


@pytest.mark.parametrize("mode", MODES)
def test_of_ten_thousand_attributes_the_strongest_are_taken(text: TextStates, mode: str) -> None:
    many = [("golden hour", 2.0)] * MAX_ATTRIBUTES + [(f"red {i}", 1.0) for i in range(9_900)]
    told = condition(text, mode, PROMPT, "", many, DISLIKES, 1.0, 1.0)
    strongest = condition(text, mode, PROMPT, "", many[:MAX_ATTRIBUTES], DISLIKES, 1.0, 1.0)
    assert torch.equal(told.prompt_embeds, strongest.prompt_embeds)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "taste",
    [(LIKES, DISLIKES, 0.0, 0.0), ((), (), 1.0, 1.0), (LIKES, (), 0.0, 1.0), ((), DISLIKES, 1.0, 0.0)],
)
def test_without_strength_or_taste_the_states_are_those_of_the_stock_pipeline(
    pipeline: Any, text: TextStates, mode: str, taste: Any
) -> None:
    wanted = pipeline.encode_prompt(PROMPT, "cpu", 1, True, "blue cat")
    told = condition(text, mode, PROMPT, "blue cat", *taste)
    assert told.terms == ()
    assert torch.equal(told.prompt_embeds, wanted[0])
    assert torch.equal(told.negative_prompt_embeds, wanted[1])


# --- the text encoder ---------------------------------------------------------------------------------------


def test_the_words_of_an_attribute_are_its_states_without_begin_end_and_padding(text: TextStates) -> None:
    assert torch.allclose(text.words("golden hour"), text.whole("golden hour")[0, 1:3], atol=1e-5)
    assert text.words("").shape == (0, 16)


def test_an_encoding_is_kept_so_that_a_second_picture_asks_no_text_encoder(
    text: TextStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    forward = text.text_encoder.forward
    monkeypatch.setattr(text.text_encoder, "forward", lambda *a, **k: asked.append(a) or forward(*a, **k))
    first = condition(text, "tokens", PROMPT, "", LIKES, DISLIKES, 1.0, 1.0)
    assert asked
    asked.clear()
    second = condition(text, "tokens", PROMPT, "", LIKES, DISLIKES, 1.0, 1.0)
    assert not asked
    assert torch.equal(first.prompt_embeds, second.prompt_embeds)


def test_kept_encodings_are_bounded(text: TextStates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.client.painter.conditioning._KEPT_TEXTS", 3)
    for i in range(9):
        text.whole(f"cat {i}")
    assert len(text._kept) == 3


# --- tokens -------------------------------------------------------------------------------------------------


def test_tokens_follow_the_prompt_in_slots_as_in_training(slotted: TextStates) -> None:
    told = condition(slotted, "tokens", PROMPT, "cat", LIKES, DISLIKES, 0.5, 0.9)
    padding = slotted.whole("")[0, -1]
    # The largest weight of a list counts 1: golden hour 1, misty 0.4 / 0.8.
    liked = torch.cat([slotted.words("golden hour") * 0.5, slotted.words("misty") * 0.25])
    prompt, slots = told.prompt_embeds[0].split([LENGTH, TRAINED_SLOTS])
    assert torch.equal(prompt, slotted.whole(PROMPT)[0])
    assert torch.allclose(slots[:3], liked)
    assert torch.equal(slots[3:], padding.expand(TRAINED_SLOTS - 3, -1))
    negative, slots = told.negative_prompt_embeds[0].split([LENGTH, TRAINED_SLOTS])
    assert torch.equal(negative, slotted.whole("cat")[0])
    assert torch.allclose(slots[:1], slotted.words("neon") * 0.9)
    assert torch.equal(slots[1:], padding.expand(TRAINED_SLOTS - 1, -1))


def test_the_training_recipe_made_the_same_form(slotted: TextStates, tiny_pipelines: dict[str, Path]) -> None:
    from palate.simulations.recipes import conditions

    if not (tiny_pipelines["bert"] / "tokenizer").is_dir():
        pytest.fail("the tiny pipeline has no tokenizer")
    assert conditions.SLOTS == TRAINED_SLOTS
    ids = slotted.tokenizer(["golden hour"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        states = slotted.text_encoder(ids["input_ids"], attention_mask=ids["attention_mask"])[0]
    count = int(ids["attention_mask"].sum()) - 2
    assert torch.allclose(slotted.words("golden hour"), states[0, 1 : 1 + count], atol=1e-5)
    assert torch.allclose(slotted.padding(), slotted.whole("")[0][-1])


def test_when_slots_run_out_the_strongest_stay_and_none_is_cut(slotted: TextStates) -> None:
    # 11 attributes of two words fill 22 slots, one of three words does not fit any more, one of two still
    # does.
    pairs = [("golden hour", 1.0)] * 11
    told = condition(
        slotted,
        "tokens",
        PROMPT,
        "",
        [("red", 0.1), ("bold red outlines", 0.5), *pairs, ("pixel art", 0.4)],
        (),
        1,
        1,
    )
    slots = told.prompt_embeds[0, LENGTH:]
    assert len(slots) == TRAINED_SLOTS
    assert torch.allclose(slots[22:], slotted.words("pixel art") * 0.4)


def test_dislikes_alone_leave_the_slots_of_the_prompt_free(slotted: TextStates) -> None:
    told = condition(slotted, "tokens", PROMPT, "", (), DISLIKES, 1.0, 1.0)
    assert torch.equal(told.prompt_embeds[0, LENGTH:], slotted.padding().expand(TRAINED_SLOTS, -1))


def test_other_models_take_any_number_of_attributes_and_the_shorter_branch_is_filled(
    open_ended: TextStates,
) -> None:
    told = condition(open_ended, "tokens", PROMPT, "", [("golden hour", 1.0)] * 100, DISLIKES, 1.0, 1.0)
    assert told.prompt_embeds.shape == (1, LENGTH + 200, 16)
    assert torch.equal(told.prompt_embeds[0, -2:], open_ended.words("golden hour"))
    assert torch.equal(told.negative_prompt_embeds[0, LENGTH + 1 :], open_ended.padding().expand(199, -1))


# --- embedding ----------------------------------------------------------------------------------------------


def test_equal_strengths_give_the_formula_of_viper(text: TextStates) -> None:
    told = condition(text, "embedding", PROMPT, "cat", LIKES, DISLIKES, 0.7, 0.7)
    plus = (text.whole("golden hour") * 0.8 + text.whole("misty") * 0.4) / 1.2
    wanted = text.whole(PROMPT) + 0.7 * (plus - text.whole("neon"))
    assert torch.allclose(told.prompt_embeds, wanted, atol=1e-5)
    assert torch.equal(told.negative_prompt_embeds, text.whole("cat"))


def test_each_side_of_the_taste_has_a_strength_of_its_own(text: TextStates) -> None:
    told = condition(text, "embedding", PROMPT, "", LIKES[:1], DISLIKES, 0.5, 0.2)
    nothing = text.whole("")
    wanted = text.whole(PROMPT) + 0.5 * (text.whole("misty") - nothing) - 0.2 * (text.whole("neon") - nothing)
    assert torch.allclose(told.prompt_embeds, wanted, atol=1e-5)


# --- guidance and prompt ------------------------------------------------------------------------------------


def test_guidance_leaves_both_branches_and_adds_a_term_for_each_side(slotted: TextStates) -> None:
    told = condition(slotted, "guidance", PROMPT, "cat", LIKES[:1], DISLIKES, 0.5, 0.2)
    assert [factor for factor, _ in told.terms] == [0.5, -0.2]
    assert torch.equal(told.prompt_embeds[:, :LENGTH], slotted.whole(PROMPT))
    assert torch.equal(told.negative_prompt_embeds[:, :LENGTH], slotted.whole("cat"))
    for (_, states), words in zip(told.terms, ("misty", "neon"), strict=True):
        assert torch.equal(states[:, :LENGTH], slotted.whole(""))
        assert torch.equal(states[0, LENGTH : LENGTH + 1], slotted.words(words))


def test_prompt_says_attributes_in_words_strongest_first(text: TextStates) -> None:
    told = condition(text, "prompt", PROMPT, "", LIKES, DISLIKES, 1.0, 1.0)
    assert torch.equal(told.prompt_embeds, text.whole("a house by the sea, golden hour, misty"))
    assert torch.equal(told.negative_prompt_embeds, text.whole("neon"))


def test_prompt_at_half_strength_says_half_of_the_attributes(text: TextStates) -> None:
    told = condition(text, "prompt", PROMPT, "", LIKES, (), 0.5, 1.0)
    assert torch.equal(told.prompt_embeds, text.whole("a house by the sea, golden hour"))


def test_prompt_leaves_out_an_attribute_that_would_be_cut(text: TextStates) -> None:
    # Twelve states hold ten words and signs: five of the prompt and five more.
    likes = [("golden hour", 3.0), ("bold outlines", 2.0), ("red", 1.0)]
    told = condition(text, "prompt", PROMPT, "", likes, (), 1.0, 1.0)
    assert torch.equal(told.prompt_embeds, text.whole("a house by the sea, golden hour, red"))
