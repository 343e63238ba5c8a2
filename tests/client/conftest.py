"""Tiny pipelines with random weights, in the format of Stable Diffusion, for the painter's tests."""

from pathlib import Path
from typing import Any

import pytest

WORDS = [
    "a",
    "house",
    "by",
    "the",
    "sea",
    "tree",
    "cat",
    "red",
    "blue",
    "misty",
    "golden",
    "hour",
    "neon",
    "calm",
]
WORDS += ["bold", "outlines", "pixel", "art", "high", "contrast", "watercolour", ","]
PADDED_LENGTH = 12  # states of a prompt


def _tokenizer(kind: str) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    begin, end, pad = {"bert": ("[CLS]", "[SEP]", "[PAD]"), "clip": ("<begin>", "<end>", "<end>")}[kind]
    names = dict.fromkeys([pad, begin, end, "[UNK]", *WORDS])
    vocabulary = {name: i for i, name in enumerate(names)}
    core = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = Lowercase()
    core.pre_tokenizer = Whitespace()
    special = [(begin, vocabulary[begin]), (end, vocabulary[end])]
    core.post_processor = TemplateProcessing(single=f"{begin} $A {end}", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=PADDED_LENGTH,
        unk_token="[UNK]",
        pad_token=pad,
        bos_token=begin,
        eos_token=end,
        cls_token=begin,
        sep_token=end,
    )


def _text_encoder(kind: str, words: int) -> Any:
    from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

    sizes: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": PADDED_LENGTH,
        "initializer_range": 0.5,
    }
    if kind == "bert":
        return BertModel(BertConfig(**sizes, use_attention_mask=True))
    return CLIPTextModel(CLIPTextConfig(**sizes, bos_token_id=1, eos_token_id=0, pad_token_id=0))


def _pipeline(kind: str) -> Any:
    import torch
    from diffusers import (
        AutoencoderTiny,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    with torch.random.fork_rng():
        torch.manual_seed(7)
        tokenizer = _tokenizer(kind)
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = AutoencoderTiny(
            encoder_block_out_channels=(4, 4, 4, 4),
            decoder_block_out_channels=(4, 4, 4, 4),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
        with torch.no_grad():  # brings the colours of a random decoder into the range that is shown
            vae.decoder.layers[-1].weight.mul_(4)
            vae.decoder.layers[-1].bias.fill_(1)
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=_text_encoder(kind, len(tokenizer)),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DPMSolverMultistepScheduler(
                beta_schedule="squaredcos_cap_v2",
                prediction_type="v_prediction",
                timestep_spacing="trailing",
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


@pytest.fixture(scope="session")
def tiny_pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two untrained pipelines that draw 32 × 32: one with a BERT, as shipped, one with a CLIP."""
    from palate.client.painter.pipelines import quiet

    folders = {}
    with quiet():
        for kind in ("bert", "clip"):
            folders[kind] = tmp_path_factory.mktemp("pipelines") / f"tiny-{kind}"
            _pipeline(kind).save_pretrained(folders[kind], safe_serialization=True)
    return folders
