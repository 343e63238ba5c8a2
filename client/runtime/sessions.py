"""Sessions of onnxruntime: made when first needed, kept for the life of the process, one thread each."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped


@lru_cache(maxsize=8)
def load_graph(graph: Path) -> Any:
    """Return the session of a graph whose weights lie beside it, in a file of the same name.

    Raises:
        ModelError: a file that is missing, damaged, or not the one that ships.
    """
    import onnxruntime

    for file in (graph, graph.with_suffix(".safetensors")):
        check_shipped(file)
        if not file.is_file():
            raise ModelError(f"{file} is missing; install Palate anew")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise ModelError(f"{graph} cannot be loaded ({reason}); install Palate anew") from error
