"""Loads text-to-image pipelines: the shipped one, a folder's, or a commit's of the hub's local cache.

Where it stands: hub_cache, **pipelines**, generator. Weights are read from safetensors files only, those that
ship are checked against their hashes, no code that comes with a model is run, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.client.runtime import find_model, refuse_reference
from palate.shared.errors import ModelError
from palate.shared.shipped import check_shipped

SHIPPED_GENERATOR = Path(__file__).resolve().parents[1] / "weights" / "generator"

_CLASS = "StableDiffusionPipeline"


@dataclass(frozen=True)
class LoadedPipeline:
    """A stock pipeline, a name for it without a path, and the hash of its U-Net's files."""

    pipeline: Any
    name: str
    weights_sha256: str
    shipped: bool


def load_pipeline(model: str | Path | None = None, *, device: str | None = None) -> LoadedPipeline:
    """Load a `StableDiffusionPipeline`: the shipped one (None), a folder's, or a hub id's with its commit.

    `device` is torch's name for it; None takes a GPU where there is one. Raises `ModelError`.
    """
    folder, name = _locate(model)
    check_shipped(folder)
    with quiet():
        import torch
        from diffusers import StableDiffusionPipeline

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # On a CPU fp32: at batch 1 bf16 gains little where the processor has it, and is slow where it has
        # not; and the same seed should make the same picture on either.
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        try:
            kind = StableDiffusionPipeline.load_config(folder).get("_class_name")
            if kind != _CLASS:
                raise ModelError(
                    f"model = {name!r} is a {kind}; Palate personalizes a {_CLASS}, so give one of these"
                )
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
            )
            pipeline = pipeline.to(device)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(_explain(name, model, error)) from error
    pipeline.set_progress_bar_config(disable=True)
    return LoadedPipeline(pipeline, name, _hash_of_unet(folder), folder == SHIPPED_GENERATOR)


def _locate(model: str | Path | None) -> tuple[Path, str]:
    """Return the pipeline's folder, and a name that tells nothing about this machine."""
    folder, name = find_model(SHIPPED_GENERATOR if model is None else model)
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"model = {str(model)!r} holds no model_index.json; give a folder that `save_pretrained` of a "
            f"{_CLASS} wrote"
        )
    refuse_reference(folder, name)
    return folder, "palate" if folder == SHIPPED_GENERATOR else name


def _explain(name: str, model: str | Path | None, error: Exception) -> str:
    words = " ".join(str(error).split())
    reason = words if len(words) <= 160 else words[:157] + "..."
    step = "install Palate again" if model is None else "check the folder"
    return f"model = {name!r} could not be loaded ({type(error).__name__}: {reason}); {step}"


def _hash_of_unet(folder: Path) -> str:
    """Return the SHA-256 of the U-Net's files."""
    digest = hashlib.sha256()
    for file in sorted((folder / "unet").glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and remarks of diffusers and transformers off the terminal; errors raise."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = [
        (library, library.get_verbosity(), library.is_progress_bar_enabled())
        for library in (of_diffusers, of_transformers)
    ]
    for library, _, _ in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity, bars in libraries:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
