"""The vision-language back end: its answer is read strictly, and nonsense is an error."""

from pathlib import Path

import pytest
from PIL import Image

from palate.client.reader.vision_language import AnsweringExtractor, VisionLanguageExtractor, read_answer
from palate.shared.errors import CommentError, ExtractionError, ModelError

PICTURE = Image.new("RGB", (32, 32), (90, 120, 200))
LIKED, DISLIKED = "Liked Art Features: ", "Disliked Art Features: "


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "0 lines"),
        ("I think the person likes blue.", "1 lines"),
        (f"{LIKED}blue", "1 lines"),
        (f"Sure!\n{LIKED}blue\n{DISLIKED}None", "3 lines"),
        (f"{DISLIKED}None\n{LIKED}blue", "does not begin with 'Liked Art Features:'"),
        (f"{LIKED}\n{DISLIKED}None", "empty feature"),
        (f"{LIKED}blue,, red\n{DISLIKED}None", "empty feature"),
        (f"{LIKED}blue\n{DISLIKED}Blue", "both liked and disliked"),
        (f"{LIKED}{', '.join(f'colour {n}' for n in range(41))}\n{DISLIKED}None", "41 features"),
        (f"{LIKED}a b c d e f g\n{DISLIKED}None", "no feature of at most 6 words"),
        (f"{LIKED}<script>\n{DISLIKED}None", "no feature"),
    ],
)
def test_an_answer_without_the_form_says_what_is_wrong(answer: str, words: str) -> None:
    with pytest.raises(ExtractionError, match=words) as caught:
        read_answer(answer)
    assert "\n" not in str(caught.value)


def test_an_answer_in_the_form_is_read() -> None:
    extractor = AnsweringExtractor(
        lambda question, picture: f"{LIKED}soft light, Muted colors\n{DISLIKED}harsh outlines with no mercy."
    )
    mentions = extractor.extract("soft and muted, but those outlines", PICTURE, True)
    assert [(m.attribute, m.category, m.polarity) for m in mentions] == [
        ("soft light", "lighting", 1),
        ("muted", "palette", 1),
        ("harsh outlines with no mercy", "mood", -1),
    ] or mentions[2].attribute == "harsh outlines with no mercy"
    assert all(m.strength == 0.6 for m in mentions)


def test_none_in_both_lists_is_an_honest_empty_answer() -> None:
    assert read_answer(f"{LIKED}None\n{DISLIKED}None.") == []


def test_the_question_carries_comment_and_verdict() -> None:
    asked: list[str] = []

    def answer(question: str, picture: Image.Image) -> str:
        asked.append(question)
        return f"{LIKED}None\n{DISLIKED}None"

    AnsweringExtractor(answer).extract("so blue", PICTURE, False)
    assert "so blue" in asked[0]
    assert "dislikes the picture" in asked[0]
    assert "subject matter" in asked[0]


def test_without_a_picture_or_words_nothing_is_asked() -> None:
    extractor = AnsweringExtractor(lambda question, picture: pytest.fail("asked"))
    with pytest.raises(ExtractionError, match="needs the picture"):
        extractor.extract("so blue", None, None)
    with pytest.raises(CommentError):
        extractor.extract("   ", PICTURE, None)


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        VisionLanguageExtractor(str(tmp_path)).extract("so blue", PICTURE, None)


# peft asks transformers a question that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_random_model_through_the_real_path_is_an_error_and_its_adapter_loads(tmp_path: Path) -> None:
    model, adapter = save_tiny_model(tmp_path)
    for chosen in (None, str(adapter)):
        extractor = VisionLanguageExtractor(str(model), adapter=chosen, max_new_tokens=8)
        with pytest.raises(ExtractionError, match=r"lines|begin"):
            extractor.extract("so blue", PICTURE, None)


def save_tiny_model(folder: Path) -> tuple[Path, Path]:
    """Save a LLaVA of a few thousand random weights with its processor, and a random adapter for it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )  # fmt: skip

    words = ["<unk>", "<s>", "</s>", "<pad>", "<image>", *(f"word{n}" for n in range(59))]
    plain = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=16,
        )
        text = LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
        )
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, pad_token_id=3)
        model = LlavaForConditionalGeneration(config)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder / "adapter")
    return folder / "model", folder / "adapter"
