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
from torch import Tensor, nn

_OPSET = 17
_LEAST = 256  # bytes from which a tensor is a weight rather than a constant of the graph


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
        with torch.no_grad(), warnings.catch_warnings():
            # The newer exporter makes twice the nodes and takes half a minute (torch 2.13).
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                network,
                (ids,),
                plain,
                input_names=["ids"],
                output_names=["out"],
                dynamic_axes={"ids": {1: "n"}, "out": {1: "n"}},
                opset_version=_OPSET,
                dynamo=False,
            )
        # Without this step the quantiser silently skips every product of matrices.
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_dynamic(ready, small, weight_type=QuantType.QInt8, per_channel=True)
        write_beside(onnx.load(small), graph)


def write_beside(model: Any, graph: Path) -> None:
    """Write a model as `graph`, which points to its larger tensors in a safetensors file beside it."""
    from onnx import TensorProto, numpy_helper
    from safetensors.numpy import save_file

    weights = graph.with_suffix(".safetensors")
    large = {one.name: one for one in model.graph.initializer if len(one.raw_data) >= _LEAST}
    save_file({name: numpy_helper.to_array(one) for name, one in large.items()}, str(weights))
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, one in large.items():
        start, end = header[name]["data_offsets"]
        one.ClearField("raw_data")
        one.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", weights.name),
            ("offset", 8 + length + start),
            ("length", end - start),
        ):
            one.external_data.add(key=key, value=str(value))
    graph.write_bytes(model.SerializeToString())
