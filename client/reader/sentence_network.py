"""The network of the sentence tower: BERT from torch's own layers, with a stock BertModel's weights.

The generator's pipeline loads the same folder through transformers. That takes ten seconds of importing where
a comment takes hundredths to read, so the reader builds the same network (Devlin et al., NAACL 2019) from
`torch.nn.TransformerEncoder`; a test holds it against transformers'.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped

LINEAR: Final = {
    "attention.self.query": ("self_attn.in_proj", 0),
    "attention.self.key": ("self_attn.in_proj", 1),
    "attention.self.value": ("self_attn.in_proj", 2),
    "attention.output.dense": ("self_attn.out_proj", None),
    "intermediate.dense": ("linear1", None),
    "output.dense": ("linear2", None),
}
"""BERT's name of each linear map of a layer, with torch's, and which third of that it is."""
_NORMS: Final = {"attention.output.LayerNorm": "norm1", "output.LayerNorm": "norm2"}


class SentenceNetwork(nn.Module):
    """Token ids to hidden states, `width` numbers for each token."""

    def __init__(
        self, *, vocabulary: int, positions: int, width: int, heads: int, inner: int, layers: int
    ) -> None:
        """Build a network of these sizes, its weights not yet set."""
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            width, heads, inner, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """Return the last hidden states, (batch, tokens, width).

        Args:
            ids: (batch, tokens).
            mask: (batch, tokens), 0 at padding.
            types: (batch, tokens); 0 if not given.
        """
        places = torch.arange(ids.shape[1], device=ids.device)
        kinds = torch.zeros_like(ids) if types is None else types
        found = self.words(ids) + self.positions(places) + self.types(kinds)
        states: Tensor = self.encoder(self.norm(found), src_key_padding_mask=mask == 0)
        return states

    def linear(self, layer: int, name: str) -> Tensor:
        """Return the weight, (out, in), of the linear map that BERT calls by this name.

        What is written into it counts.
        """
        return _part(self.encoder.layers[layer], name, "weight")


def load_network(folder: Path) -> SentenceNetwork:
    """Return the network of a folder in which a BertModel was saved, in float32, for inference.

    Raises:
        ModelError: files that are missing, damaged, exchanged, or of a network of another kind.
    """
    check_shipped(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (config["model_type"], config["hidden_act"]) != ("bert", "gelu"):
            raise ModelError(f"folder={str(folder)!r}: holds no BERT with GELU; name a folder of one")
        network = SentenceNetwork(
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            inner=config["intermediate_size"],
            layers=config["num_hidden_layers"],
        )
        _fill(network, load_file(str(folder / "model.safetensors")))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"folder={str(folder)!r}: text_encoder/ cannot be read ({str(error).splitlines()[0]})"
        ) from error
    return network.requires_grad_(False).eval()


@torch.no_grad()
def _fill(network: SentenceNetwork, tensors: dict[str, Tensor]) -> None:
    """Put a BertModel's tensors into the network.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: a tensor has another shape.
    """
    for name, module in (
        ("word", network.words),
        ("position", network.positions),
        ("token_type", network.types),
    ):
        module.weight.copy_(tensors[f"embeddings.{name}_embeddings.weight"])
    for kind in ("weight", "bias"):
        getattr(network.norm, kind).copy_(tensors[f"embeddings.LayerNorm.{kind}"])
        for number, layer in enumerate(network.encoder.layers):
            for name in LINEAR:
                _part(layer, name, kind).copy_(tensors[f"encoder.layer.{number}.{name}.{kind}"])
            for name, ours in _NORMS.items():
                getattr(getattr(layer, ours), kind).copy_(tensors[f"encoder.layer.{number}.{name}.{kind}"])


def _part(layer: nn.Module, name: str, kind: str) -> Tensor:
    """Return the weight or bias in a layer that BERT calls by this name, as a view."""
    ours, third = LINEAR[name]
    if third is None:
        whole: Tensor = getattr(layer.get_submodule(ours), kind)
        return whole.data
    owner, _, prefix = ours.rpartition(".")
    whole = getattr(layer.get_submodule(owner), f"{prefix}_{kind}")
    return whole.data.chunk(3)[third]
