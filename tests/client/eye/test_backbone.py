"""The installed shared weights: the frozen backbone by its hash, and release 0, which was not exchanged."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from palate.client.eye import backbone
from palate.client.eye.backbone import installed_backbone
from palate.client.eye.statistics import measure_statistics
from palate.client.releases.own_encoder import own_encoder
from palate.shared.encoder import load_encoder
from palate.shared.errors import ReleaseError
from palate.shared.releases.message import BACKBONE_HASH

CLIENT = Path(__file__).resolve().parents[3] / "client"


def test_the_installed_backbone_is_the_one_that_is_written_in_the_code() -> None:
    # New towers or statistics need a new BACKBONE_HASH (and, the encoder being trained on them, a new release
    # 0).
    assert installed_backbone() == BACKBONE_HASH


def test_a_changed_file_is_another_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in backbone.FROZEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(backbone, "WEIGHTS", tmp_path)
    seen = {installed_backbone()}
    for name in backbone.FROZEN:
        (tmp_path / name).write_bytes(name.encode() + b" ")
        seen.add(installed_backbone())
    monkeypatch.setattr(backbone, "STATISTICS_VERSION", 2)
    seen.add(installed_backbone())
    assert len(seen) == len(backbone.FROZEN) + 2
    (tmp_path / backbone.FROZEN[0]).unlink()
    with pytest.raises(Exception, match="install Palate again"):
        installed_backbone()


def test_the_statistics_are_those_of_their_version() -> None:
    # If they have changed on purpose: raise STATISTICS_VERSION, and with it BACKBONE_HASH.
    known = json.loads((CLIENT.parent / "tests" / "data" / "release_vectors.json").read_text("utf-8"))[
        "statistics"
    ]
    y, x = np.mgrid[0:96, 0:128]
    pixels = np.stack([(2 * x) % 256, (x * y // 16) % 256, 255 - 2 * y], -1).astype(np.uint8)
    np.testing.assert_allclose(
        measure_statistics(Image.fromarray(pixels)), known["values"], rtol=1e-3, atol=2e-3
    )


def test_only_this_module_loads_an_encoder() -> None:
    users = {
        path.relative_to(CLIENT).as_posix()
        for path in CLIENT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "load_encoder" for alias in node.names)
    }
    assert users == {"eye/backbone.py"}


def test_a_release_0_that_was_exchanged_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "load_encoder", lambda: load_encoder().with_shared({}, 1).with_shared(
        {"picture.hidden.bias": load_encoder().tensors["picture.hidden.bias"] + np.float32(1)}
    ))  # fmt: skip
    backbone.shipped.cache_clear()
    with pytest.raises(ReleaseError, match="not the one that Palate ships with"):
        own_encoder()
    monkeypatch.undo()
    backbone.shipped.cache_clear()
    own_encoder()
