"""Colour, edge and arrangement statistics: values that one can work out, and pictures of any kind."""

import numpy as np
import pytest
from PIL import Image

from palate.client.eye.statistics import STATISTIC_NAMES, measure_statistics, shrink, to_lab


def measured(pixels: np.ndarray) -> dict[str, float]:
    return dict(
        zip(
            STATISTIC_NAMES,
            measure_statistics(Image.fromarray(pixels.astype(np.uint8))).tolist(),
            strict=True,
        )
    )


def stripes(width: int, upright: bool = True) -> np.ndarray:
    line = ((np.arange(128) // width) % 2 * 200 + 20)[None, :].repeat(128, 0)
    return np.stack([line if upright else line.T] * 3, -1)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (128, 128), (333, 77)])
def test_a_picture_of_any_size_and_mode_gives_finite_statistics(size: tuple[int, int], mode: str) -> None:
    found = measure_statistics(Image.new(mode, size))
    assert found.shape == (len(STATISTIC_NAMES),)
    assert np.isfinite(found).all()


def test_names_are_distinct() -> None:
    assert len(set(STATISTIC_NAMES)) == len(STATISTIC_NAMES)


def test_the_same_picture_gives_the_same_numbers_and_is_left_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(measure_statistics(image), measure_statistics(image))
    assert np.array_equal(np.asarray(image), pixels)


def test_lab_agrees_with_published_values() -> None:
    lab = to_lab(np.array([[[1, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]]], np.float32))[0]
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [0, 0, 0]]
    assert np.allclose(lab, expected, atol=0.1)


def test_grey_has_no_colour_and_red_is_warm() -> None:
    grey, red = measured(np.full((64, 64, 3), 128)), measured(np.full((64, 64, 3), (200, 60, 20)))
    assert grey["chroma"] < 0.01
    assert grey["grey_share"] == 1
    assert red["warm_share"] == 1
    assert red["warmth"] > 0.3 > grey["warmth"]


def test_an_even_picture_is_empty_and_noise_is_busy() -> None:
    even = measured(np.full((128, 128, 3), 90))
    noise = measured(np.random.default_rng(1).integers(0, 256, (128, 128, 3)))
    assert (even["empty_share"], even["busy_share"], even["flat_1"]) == (1, 0, 1)
    assert (noise["empty_share"], noise["busy_share"]) == (0, 1)
    assert noise["noise"] > even["noise"] + 3


def test_stripes_are_upright_straight_and_regular_where_noise_is_none_of_it() -> None:
    lines = measured(stripes(6))
    noise = measured(np.random.default_rng(2).integers(0, 256, (128, 128, 3)))
    assert lines["upright_1"] > 0.95 > noise["upright_1"]
    assert lines["coherent_1"] > 0.9 > noise["coherent_1"]
    assert lines["grid"] > 0.5 > noise["grid"]
    assert lines["turns_1"] < 0.5 < noise["turns_1"]


def test_rings_bend_where_stripes_do_not() -> None:
    y, x = np.mgrid[-64:64, -64:64]
    rings = np.stack([np.sin(np.hypot(x, y) / 2.5) * 100 + 120] * 3, -1)
    assert measured(rings)["bends_1"] > 2 * measured(stripes(8))["bends_1"]


def test_a_mirrored_picture_is_symmetrical() -> None:
    half = np.random.default_rng(3).integers(0, 256, (16, 8, 3)).repeat(8, 0).repeat(8, 1)
    whole = np.concatenate([half, half[:, ::-1]], 1)
    assert measured(whole)["mirror"] > 0.95
    assert measured(np.concatenate([half, half], 1))["mirror"] < 0.7


def test_size_hardly_matters() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    small = Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC)
    large = Image.fromarray(pixels).resize((640, 640), Image.Resampling.BICUBIC)
    assert np.abs(measure_statistics(small)[:13] - measure_statistics(large)[:13]).max() < 0.05


def test_proportions_are_kept() -> None:
    assert shrink(Image.new("RGB", (400, 100))).size == (256, 64)
