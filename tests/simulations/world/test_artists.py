"""Subjects that artists drew: the table, the drawings, the scenes, and what the palette does to them."""

import colorsys
import gzip
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from palate.simulations.crowd.captions import SUBJECT_WORDS, UNSEEN_SUBJECT_WORDS
from palate.simulations.recipes.drawings import collect
from palate.simulations.world.artists import load_artists
from palate.simulations.world.canvas import DRAWN, Canvas
from palate.simulations.world.drawings import DRAWINGS, SETS, stamp
from palate.simulations.world.render import render
from palate.simulations.world.scenes import all_subjects, sample_scene
from palate.simulations.world.shards import to_json, truth_of
from palate.simulations.world.truth import MORE_SETTINGS, SETTINGS, SIDE, SUBJECTS, Truth


def test_there_are_enough_subjects_and_the_painter_learns_some() -> None:
    assert len(all_subjects()) >= 350
    assert len(all_subjects(painted=True)) >= 120
    assert all_subjects()[:12] == SUBJECTS
    assert not set(load_artists()) & set(SUBJECTS)


def test_every_drawing_of_the_table_is_there_in_both_sets_and_no_other() -> None:
    bodies = json.loads(gzip.decompress(DRAWINGS.read_bytes()))["bodies"]
    named = {label for artist in load_artists().values() for label in artist.drawn}
    assert {kind: set(found) for kind, found in bodies.items()} == dict.fromkeys(SETS, named)


def test_no_two_of_the_artists_subjects_share_a_word_or_a_drawing() -> None:
    artists = load_artists().values()
    words = Counter(word for one in artists for word in {*one.words, *one.unseen})
    drawn = Counter(label for one in artists for label in one.drawn)
    assert [word for word, times in words.items() if times > 1] == []
    assert [label for label, times in drawn.items() if times > 1] == []


def test_words_that_measure_what_the_text_tower_knows_are_in_no_caption() -> None:
    used = {word for one in load_artists().values() for word in one.words}
    ours = {word for words in SUBJECT_WORDS.values() for word in words}
    assert not used & ours  # a word leads to one subject
    used |= ours
    unseen = [word for one in load_artists().values() for word in one.unseen]
    assert len(unseen) >= 50
    assert not used & set(unseen)
    assert not {word for words in UNSEEN_SUBJECT_WORDS.values() for word in words} & set(unseen)


def test_every_place_is_one_that_the_world_can_draw() -> None:
    for one in load_artists().values():
        assert set(one.settings) <= set(SETTINGS + MORE_SETTINGS)


@pytest.mark.parametrize("setting", [*SETTINGS, *MORE_SETTINGS])
def test_a_scene_is_a_picture_that_its_truth_and_seed_decide(setting: str) -> None:
    truth = Truth("fox", {}, setting)
    one, again, other = render(truth, 5), render(truth, 5), render(truth, 6)
    assert one.shape == (SIDE, SIDE, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.std() > 10


def test_several_of_a_subject_and_a_companion_change_the_picture() -> None:
    alone, three = Truth("fox", {}, "plain"), Truth("fox", {}, "plain", count=3)
    pair = Truth("fox", {}, "plain", companion="owl")
    pictures = [render(truth, 1) for truth in (alone, three, pair)]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"subject": "house", "count": 2},
        {"subject": "house", "companion": "fox"},
        {"subject": "fox", "count": 4},
        {"subject": "fox", "count": 2, "companion": "owl"},
        {"subject": "fox", "companion": "hippogriff"},
    ],
)
def test_a_company_that_the_world_cannot_draw_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"stands alone|a picture shows|not in the world"):
        Truth(**arguments)  # type: ignore[arg-type]


def colours_of(subject: str, attributes: dict[str, str]) -> list[tuple[float, float, float]]:
    """Return hue, saturation and value of the pixels that a stamp changed on a white canvas."""
    c = Canvas(random.Random(3), Truth(subject, attributes))
    c.image.paste((255, 255, 255), (0, 0, DRAWN, DRAWN))
    stamp(c, subject, DRAWN / 2, DRAWN * 0.9, DRAWN * 0.7, kind="fluent")
    pixels = np.asarray(c.image).reshape(-1, 3)[::37]
    drawn = pixels[(pixels != 255).any(1)] / 255
    return [colorsys.rgb_to_hsv(*map(float, one)) for one in drawn]


def test_the_palette_reaches_every_colour_of_a_drawing() -> None:
    grey = colours_of("parrot", {"palette": "black and white"})
    natural = colours_of("parrot", {})
    assert max(s for _, s, _ in grey) < 0.1 < max(s for _, s, _ in natural)
    blue = [h for h, s, _ in colours_of("strawberry", {"colour": "blue"}) if s > 0.3]
    assert np.mean([abs(h - 0.6) < 0.1 for h in blue]) > 0.5


def test_line_art_is_ink_on_paper() -> None:
    c = Canvas(random.Random(3), Truth("fox", {"technique": "line art"}))
    stamp(c, "fox", DRAWN / 2, DRAWN * 0.9, DRAWN * 0.7)
    pixels = np.asarray(c.image).reshape(-1, 3).astype(int)
    near = np.minimum(np.abs(pixels - c.ink).sum(1), np.abs(pixels - c.paper).sum(1))
    assert np.mean(near < 60) > 0.85


def test_a_subject_of_its_grounds_colour_is_set_off_from_it() -> None:
    def contrast(ground: tuple[int, int, int]) -> float:
        c = Canvas(random.Random(3), Truth("pig", {}))
        c.image.paste(ground, (0, 0, DRAWN, DRAWN))
        stamp(c, "pig", DRAWN / 2, DRAWN * 0.8, DRAWN * 0.6, kind="fluent", facing_left=False)
        changed = np.abs(np.asarray(c.image).astype(int) - ground).sum(2) > 12
        return float(changed.mean())

    assert contrast((246, 140, 150)) > contrast((20, 60, 160))  # the halo is drawn too


def test_places_and_weather_that_do_not_go_together_are_not_sampled() -> None:
    rng = random.Random(0)
    truths = [sample_scene(rng, "teapot", companions=("teapot", "candle")) for _ in range(400)]
    assert not [t for t in truths if t.setting in ("room", "table") and "atmosphere" in t.attributes]
    assert {t.companion for t in truths} == {None, "candle"}
    assert {t.count for t in truths} == {1, 2, 3}
    assert max(len(sample_scene(rng, "fox", most_attributes=1).attributes) for _ in range(100)) == 1


@pytest.mark.parametrize("subjects", ["twelve", "painted", "all"])
def test_truths_of_a_data_set_survive_its_file(subjects: str) -> None:
    truths = [truth_of(number, subjects) for number in range(300)]
    assert [Truth(**json.loads(json.dumps(to_json(t)))) for t in truths] == truths  # type: ignore[arg-type]
    shown = {t.subject for t in truths}
    assert shown <= set(all_subjects(painted=subjects == "painted") if subjects != "twelve" else SUBJECTS)
    assert len(shown) > (11 if subjects == "twelve" else 100)
    share = sum(t.subject in SUBJECTS for t in truths) / 300
    assert share == 1 if subjects == "twelve" else 0.08 < share < 0.25


def test_the_recipe_finds_drawings_by_label_through_aliases_and_selectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = sorted({label for one in load_artists().values() for label in one.drawn})
    codes = {label: f"{0x1F000 + i:X}" + ("-FE0F" if i % 2 else "") for i, label in enumerate(labels)}
    (tmp_path / "en").mkdir()
    entries = [{"label": label.title(), "hexcode": code} for label, code in codes.items()]
    (tmp_path / "en" / "data.json").write_text(json.dumps(entries))
    chars = {code.lower().replace("-fe0f", ""): f"icon-{label}" for label, code in codes.items()}
    (tmp_path / "chars.json").write_text(json.dumps(chars))
    icons = {f"icon-{label}": {"body": f"<{label}>"} for label in labels[1:]} | {"other": {"body": "<first>"}}
    aliases = {f"icon-{labels[0]}": {"parent": "other"}}
    (tmp_path / "icons.json").write_text(json.dumps({"icons": icons, "aliases": aliases}))
    found = collect({"fluent": tmp_path}, tmp_path)["fluent"]
    assert found[labels[0]] == "<first>"
    assert found[labels[1]] == f"<{labels[1]}>"
    del chars[codes[labels[2]].lower().replace("-fe0f", "")]
    (tmp_path / "chars.json").write_text(json.dumps(chars))
    with pytest.raises(KeyError, match="no drawing of"):
        collect({"fluent": tmp_path}, tmp_path)
