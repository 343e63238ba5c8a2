"""Models that a person names: folders and cached commits; nothing is fetched, no pickle is read."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from palate.client.painter.pipelines import load_pipeline
from palate.client.reader.vision_language import VisionLanguageExtractor
from palate.client.runtime.hub_cache import find_model, hub_cache
from palate.shared.errors import ModelError

COMMIT = "0123456789abcdef" * 2 + "01234567"
PICTURE = Image.new("RGB", (32, 32), (90, 120, 200))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a machine on which every attempt to reach the hub is a failed test."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def reach(*given: Any, **named: Any) -> Any:
        raise AssertionError("something wanted to reach the network")

    monkeypatch.setattr(socket, "getaddrinfo", reach)
    return tmp_path / "hub"


def keep(cache: Path, folder: Path, repository: str = "owner/name") -> Path:
    """Lay a folder into the cache as `hf download` does: files as links to blobs named for their content."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "blobs").mkdir(parents=True)
    for number, file in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        blob = place / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        link = place / "snapshots" / COMMIT / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return place / "snapshots" / COMMIT


def test_a_commit_in_the_cache_is_loaded_like_a_folder(tiny_pipelines: dict[str, Path], cache: Path) -> None:
    keep(cache, tiny_pipelines["bert"])
    loaded = load_pipeline(f"owner/name@{COMMIT}", device="cpu")
    assert loaded.name == f"owner/name@{COMMIT}"
    assert loaded.weights_sha256 == load_pipeline(tiny_pipelines["bert"], device="cpu").weights_sha256


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name@main", f"owner/name@{COMMIT[:-1]}", "owner/name@"]
)
def test_a_model_that_is_named_without_its_commit_is_refused_also_from_the_cache(
    name: str, tiny_pipelines: dict[str, Path], cache: Path
) -> None:
    keep(cache, tiny_pipelines["bert"])
    with pytest.raises(
        ModelError, match=f"name its commit.*in this machine's cache: owner/name@{COMMIT}"
    ) as caught:
        load_pipeline(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["models/mine", "models/mine@", f"models/mine@{COMMIT}", "./mine", "a/b/c", ""]
)
def test_a_mistyped_folder_reaches_no_hub(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_pipeline(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        VisionLanguageExtractor(name).extract("so blue", PICTURE, None)


def test_a_folder_that_is_there_is_meant_before_any_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / f"name@{COMMIT}").mkdir(parents=True)
    assert find_model(f"owner/name@{COMMIT}")[0] == tmp_path / "owner" / f"name@{COMMIT}"


def test_weights_without_safetensors_are_refused_in_the_cache_too(
    tiny_pipelines: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(tiny_pipelines["bert"], tmp_path / "copy")
    weights = tmp_path / "copy" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    keep(cache, tmp_path / "copy")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_pipeline(f"owner/name@{COMMIT}", device="cpu")


def test_a_model_that_sends_the_loader_to_another_one_is_refused(
    tiny_pipelines: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    keep(cache, tiny_pipelines["bert"], "evil/base")
    shutil.copytree(tiny_pipelines["bert"], tmp_path / "copy")
    reference = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "evil/base"})
    (tmp_path / "copy" / "text_encoder" / "adapter_config.json").write_text(reference)
    with pytest.raises(
        ModelError, match=r"text_encoder/adapter_config\.json, which names another model"
    ) as caught:
        load_pipeline(tmp_path / "copy", device="cpu")
    assert "\n" not in str(caught.value)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_config.json").write_text(reference)
    with pytest.raises(ModelError, match="which names another model"):
        VisionLanguageExtractor(str(tmp_path / "model")).extract("so blue", PICTURE, None)


def test_a_pickled_adapter_is_never_opened(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "load", lambda *given, **named: pytest.fail("pickle was read"))
    (tmp_path / "model").mkdir()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x02")
    keep(cache, adapter)
    for name in (str(adapter), f"owner/name@{COMMIT}"):
        with pytest.raises(ModelError, match=r"adapter_model\.safetensors") as caught:
            VisionLanguageExtractor(str(tmp_path / "model"), adapter=name).extract("so blue", PICTURE, None)
        assert "\n" not in str(caught.value)


def test_the_cache_is_where_the_hubs_own_programs_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub_cache() == tmp_path / "hub"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert hub_cache() == tmp_path / "home" / "hub"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub_cache() == tmp_path / "xdg" / "huggingface" / "hub"
