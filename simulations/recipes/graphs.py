"""Write networks as graphs for onnxruntime, their weights beside them in safetensors.

A recipe exports its network with these functions; `client/runtime/sessions.py` loads what they write.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPSET = 17
_LEAST = 256  # bytes from which a tensor is a weight rather than a constant of the graph


class PlainBert(nn.Module):
    """A stock BertModel in plain steps, for one text without padding: what the exporter understands."""

    def __init__(self, bert: Any, first: int = 0) -> None:
        """Wrap the model; the tokens before `first` have token type 0, others 1, or 0 where `first` is 0."""
        super().__init__()
        self.bert, self.first = bert, first

    def forward(self, ids: Tensor) -> Tensor:
        """Return the last hidden states (1, tokens, width) of ids (1, tokens)."""
        table, places = self.bert.embeddings, torch.arange(ids.shape[1])
        types = (places >= self.first).long() if self.first else torch.zeros_like(places)
        states = table.word_embeddings(ids) + table.token_type_embeddings(types)[None]
        states = table.LayerNorm(states + table.position_embeddings(places)[None])
        width, heads = self.bert.config.hidden_size, self.bert.config.num_attention_heads
        for layer in self.bert.encoder.layer:
            own = layer.attention.self
            query, key, value = (
                part(states).reshape(1, -1, heads, width // heads).transpose(1, 2)
                for part in (own.query, own.key, own.value)
            )
            weights = ((query @ key.transpose(2, 3)) * (width // heads) ** -0.5).softmax(-1)
            mixed = (weights @ value).transpose(1, 2).reshape(1, -1, width)
            after = layer.attention.output
            states = after.LayerNorm(after.dense(mixed) + states)
            inner = F.gelu(layer.intermediate.dense(states))
            states = layer.output.LayerNorm(layer.output.dense(inner) + states)
        return states  # type: ignore[no-any-return]


def write_graph_over(network: PlainBert, ids: Tensor, graph: Path) -> None:
    """Write a network's graph over the weights that lie beside it already, in half precision.

    No weight is written twice: the graph points into `graph`.safetensors, which transformers wrote, and casts
    what it reads to single precision.

    Args:
        network: of these weights.
        ids: an example (1, n), int64; other lengths are read too.
        graph: the file to write, *.onnx, beside its weights.
    """
    import onnx
    from onnx import TensorProto, helper

    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        _export(network, ids, plain, fold=False)
        model = onnx.load(str(plain))
    offsets, header = _read_header(graph.with_suffix(".safetensors"))
    casts = []
    for one in list(model.graph.initializer):
        entry = header.get(one.name.removeprefix("bert."))
        if entry is None or entry["dtype"] != "F16":
            continue
        half = TensorProto(name=f"{one.name} half", data_type=TensorProto.FLOAT16, dims=entry["shape"])
        _point(half, graph.with_suffix(".safetensors").name, offsets, entry)
        model.graph.initializer.remove(one)
        model.graph.initializer.append(half)
        casts.append(helper.make_node("Cast", [half.name], [one.name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    graph.write_bytes(model.SerializeToString())


def write_int8_graph(network: nn.Module, ids: Tensor, graph: Path) -> None:
    """Write a network of token ids (1, n) as `graph`, its matrices in int8 per channel.

    Args:
        network: maps ids to (1, n, k) logits or states, in float32 and for inference.
        ids: an example (1, n), int64; other lengths are read too.
        graph: the file to write, *.onnx.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (str(Path(folder) / name) for name in ("plain.onnx", "ready.onnx", "int8.onnx"))
        _export(network, ids, Path(plain), fold=True)
        # Without this step the quantiser silently skips every product of matrices.
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_dynamic(ready, small, weight_type=QuantType.QInt8, per_channel=True)
        write_beside(onnx.load(small), graph)


def write_beside(model: Any, graph: Path) -> None:
    """Write a model as `graph`, which points to its larger tensors in a safetensors file beside it."""
    from onnx import numpy_helper
    from safetensors.numpy import save_file

    weights = graph.with_suffix(".safetensors")
    large = {one.name: one for one in model.graph.initializer if len(one.raw_data) >= _LEAST}
    save_file({name: numpy_helper.to_array(one) for name, one in large.items()}, str(weights))
    offset, header = _read_header(weights)
    for name, one in large.items():
        one.ClearField("raw_data")
        _point(one, weights.name, offset, header[name])
    graph.write_bytes(model.SerializeToString())


def _export(network: nn.Module, ids: Tensor, file: Path, *, fold: bool) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        # The newer exporter makes twice the nodes and takes half a minute (torch 2.13).
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (ids,),
            str(file),
            input_names=["ids"],
            output_names=["out"],
            dynamic_axes={"ids": {1: "n"}, "out": {1: "n"}},
            opset_version=_OPSET,
            do_constant_folding=fold,
            dynamo=False,
        )


def _read_header(weights: Path) -> tuple[int, dict[str, Any]]:
    """Return where the tensors of a safetensors file begin, and its header."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 8 + length, dict(json.loads(file.read(length)))


def _point(tensor: Any, file: str, offset: int, entry: dict[str, Any]) -> None:
    """Make a tensor of a graph point to its bytes in a file beside the graph."""
    from onnx import TensorProto

    start, end = entry["data_offsets"]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset + start), ("length", end - start)):
        tensor.external_data.add(key=key, value=str(value))
