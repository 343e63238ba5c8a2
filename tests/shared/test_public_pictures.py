"""The public pictures that ship: what is in the file, that the card fits, and that another file is refused in
one line."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from palate.shared.encoder import ATTRIBUTE_NAMES, load_encoder, project_pictures, project_sentences
from palate.shared.errors import ModelError, OptionError
from palate.shared.public_pictures import MAX_BYTES, SHIPPED, PublicPictures, load_public_pictures


def test_the_card_is_of_the_file_that_ships() -> None:
    card = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert card["bytes"] == SHIPPED.stat().st_size < MAX_BYTES
    assert card["pictures"] == len(load_public_pictures())


def test_release_0_sees_in_them_what_they_show_and_finds_it_by_its_name() -> None:
    public, encoder = load_public_pictures(), load_encoder()
    assert public.shows.sum(0).min() >= 5  # each attribute is there
    seen = project_pictures(encoder, public.features)
    said = project_sentences(encoder, public.words)
    for tastes in (seen[:, : len(ATTRIBUTE_NAMES)], seen @ said.T):
        right = [np.corrcoef(a, b)[0, 1] for a, b in zip(tastes.T, public.shows.T, strict=True)]
        assert np.median(right) > 0.5


def test_nobody_can_write_to_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_public_pictures().features[0, 0] = 1.0


@pytest.mark.parametrize(
    "broken", ["nothing", "no tensors", "one missing", "another shape", "not finite", "too many"]
)
def test_another_file_is_refused_in_one_line(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "public.safetensors"
    public = load_public_pictures()
    tensors = {
        "features": public.features.copy(),
        "shows": public.shows.astype(np.uint8),
        "words": public.words.copy(),
    }
    if broken == "no tensors":
        path.write_bytes(b"x" * 100)
    elif broken != "nothing":
        if broken == "one missing":
            del tensors["words"]
        elif broken == "another shape":
            tensors["shows"] = tensors["shows"][:-1]
        elif broken == "not finite":
            tensors["features"][0, 0] = np.nan
        else:
            tensors["features"] = np.zeros((2 * MAX_BYTES, 1), np.float32)
        if broken in ("one missing", "another shape", "not finite"):
            tensors = {n: t.astype(np.float16) if t.dtype == np.float32 else t for n, t in tensors.items()}
        save_file(tensors, path)
    with pytest.raises(ModelError) as caught:
        load_public_pictures(path)
    assert "\n" not in str(caught.value)


def test_one_picture_is_no_ground_to_judge_on() -> None:
    public = load_public_pictures()
    with pytest.raises(OptionError):
        PublicPictures(public.features[:1], public.shows[:1], public.words)
