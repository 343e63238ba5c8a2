"""The sentence tower: on onnxruntime, over the weights that transformers reads, with the same directions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.client.reader.sentences import MAX_TOKENS, SHIPPED, SentenceTower
from palate.shared.errors import ModelError

TEXTS = ("misty", "I love how the fog eats the harbour.", "the quick " * 100, "ünïcode 🎨 words", "")


def test_directions_are_those_of_transformers() -> None:
    from transformers import BertModel

    stock = BertModel.from_pretrained(SHIPPED / "text_encoder", dtype=torch.float32, local_files_only=True)
    tower = SentenceTower()
    for text in TEXTS:
        ids = torch.tensor([tower.tokenizer.encode(text).ids])
        if ids.shape[1] > MAX_TOKENS:
            continue
        with torch.inference_mode():
            mean = stock.eval()(input_ids=ids).last_hidden_state[0].mean(dim=0)
        assert np.allclose(tower.embed([text])[0], (mean / mean.norm()).numpy(), atol=2e-6)


def test_texts_are_embedded_as_the_mean_over_their_words_and_alone_as_among_others() -> None:
    tower = SentenceTower()
    together = tower.embed(TEXTS)
    assert together.shape == (len(TEXTS), 384)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, row in zip(TEXTS, together, strict=True):
        assert np.allclose(tower.embed([text])[0], row, atol=1e-5)
    assert tower.embed([]).shape == (0, 384)
    # What lies beyond the tower's reach counts for nothing.
    cut = tower.embed(["the quick " * 100, "the quick " * (MAX_TOKENS // 2) + "fox " * 60])
    assert np.allclose(cut[0], cut[1], atol=1e-5)


@pytest.mark.parametrize("harm", ["no weights", "cut weights", "no graph", "no tokenizer"])
def test_a_folder_that_holds_no_such_network_is_refused_in_one_line(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED / "text_encoder", folder / "text_encoder")
    shutil.copytree(SHIPPED / "tokenizer", folder / "tokenizer")
    weights = folder / "text_encoder" / "model.safetensors"
    if harm == "no weights":
        weights.unlink()
    elif harm == "cut weights":
        weights.write_bytes(weights.read_bytes()[:9000])
    elif harm == "no graph":
        weights.with_suffix(".onnx").unlink()
    else:
        (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="install Palate anew") as caught:
        SentenceTower(folder).embed(["misty"])
    assert "\n" not in str(caught.value)
