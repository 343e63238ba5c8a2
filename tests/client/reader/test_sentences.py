"""The sentence tower: the network that we build of torch's parts is the one that transformers builds."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.client.reader.sentence_network import LINEAR, load_network
from palate.client.reader.sentences import MAX_TOKENS, SHIPPED, SentenceTower
from palate.shared.errors import ModelError

TEXTS = ("misty", "I love how the fog eats the harbour.", "the quick " * 100, "ünïcode 🎨 words", "")


def test_hidden_states_are_those_of_transformers() -> None:
    from transformers import BertModel

    stock = BertModel.from_pretrained(SHIPPED / "text_encoder", dtype=torch.float32, local_files_only=True)
    ours = load_network(SHIPPED / "text_encoder")
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 10_000, (3, 20), generator=rng)
    mask = (torch.arange(20) < torch.tensor([[20], [7], [1]])).long()
    types = (torch.arange(20) > 4).long().expand(3, -1)
    with torch.inference_mode():
        for kinds in (None, types):
            theirs = stock.eval()(input_ids=ids, attention_mask=mask, token_type_ids=kinds).last_hidden_state
            assert torch.allclose(ours(ids, mask, kinds)[mask == 1], theirs[mask == 1], atol=2e-5)


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


def test_each_linear_map_can_be_changed_in_place() -> None:
    network, rng = load_network(SHIPPED / "text_encoder"), torch.Generator().manual_seed(1)
    ids, mask = torch.tensor([[2, 40, 80, 3]]), torch.ones(1, 4, dtype=torch.long)
    seen = [network(ids, mask)]
    for name in LINEAR:
        change = network.linear(2, name)
        change.add_(torch.randn(change.shape, generator=rng), alpha=0.05)
        seen.append(network(ids, mask))
    assert all(not torch.allclose(one, other, atol=1e-6) for one, other in pairwise(seen))


@pytest.mark.parametrize("harm", ["no weights", "cut weights", "other kind", "no config", "other width"])
def test_a_folder_that_holds_no_such_network_is_refused_in_one_line(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED / "text_encoder", folder / "text_encoder")
    shutil.copytree(SHIPPED / "tokenizer", folder / "tokenizer")
    weights, config = (folder / "text_encoder" / name for name in ("model.safetensors", "config.json"))
    settings = json.loads(config.read_text(encoding="utf-8"))
    if harm == "no weights":
        weights.unlink()
    elif harm == "cut weights":
        weights.write_bytes(weights.read_bytes()[:9000])
    elif harm == "other kind":
        config.write_text(json.dumps({**settings, "model_type": "gpt2"}), encoding="utf-8")
    elif harm == "other width":
        config.write_text(json.dumps({**settings, "hidden_size": 192}), encoding="utf-8")
    else:
        config.unlink()
    with pytest.raises(ModelError, match="folder=") as caught:
        SentenceTower(folder).embed(["misty"])
    assert "\n" not in str(caught.value)
