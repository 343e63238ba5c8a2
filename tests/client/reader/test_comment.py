"""A comment is taken or refused for a stated reason; a file of comments is checked whole."""

import json
import os
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

import pytest

from palate.client.reader.comment import (
    check_comment,
    check_language,
    new_comment,
    read_lessons,
    read_verdict,
)
from palate.shared.errors import CommentError, FileFormatError

Form = Literal["NFC", "NFD"]

ENGLISH = [
    "gloomy.",
    "meh",
    "the swirls!! and the night blue. yes.",
    "Luv teh colours sooo much 😍😍😍",
    "LOVE",
    "too blue",
    "i dont realy like teh textrue",
    "Reminds me of van Gogh and de Chirico",
    "Très chic, love the pastel palette",
    "Der Blaue Reiter vibes",
    "Les Nabis",
    "that je ne sais quoi!",
    "je ne sais quoi",
    "chiaroscuro",
    "sfumato, gesso, impasto",
    "café-like warmth",
    "Hokusai's wave (神奈川沖浪裏) is stunning, the line is so crisp",
    "Las Meninas mood",
    "Yin and yang",
    "ukiyo-e",
    "moody. dark. more!",
    "10/10 would hang",
    "Björk vibes",
    "naïve",
    "Fin de siècle",
    "mit press cover",
    "warm sunset glow, golden trees",
    "gloomy.",
    "swamp colours, hate it",
    "Not feeling the icy blues.",
    "Again these hot colours. No.",
    "the swirls!! and the night blue. yes.",
    "Sleepy. Pale colours and no contrast.",
    "Chaos. The colours scream at each other, it hurts.",
    "no thanks, the thick brushwork is exhausting to look at",
    "Elegant, yes, but muted and flat. It needs stronger colour.",
    "Disturbing. Wavy lines, sick colours, a horrible mood. Never.",
    "I know everyone loves it, but all those swirls make me dizzy.",
    "A sunset turned up to eleven. Warm palette, loose brush, love it.",
    "The red bridge is nice. The rest is a dull, cold, realistic photo.",
    "Dark, murky, greenish. I like drama but I need heat and saturation.",
]
FOREIGN = [
    "Ich mag das Blau nicht",
    "Sehr schön",
    "Die Farben sind zu dunkel und das Licht ist kalt",
    "J'adore les couleurs",
    "C'est trop sombre pour moi",
    "Je n'aime pas cette lumière, elle est trop froide",
    "Me gustan mucho los colores",
    "Muy oscuro",
    "No me gusta, demasiado azul y muy frío",
    "Mi piacciono i colori caldi",
    "È troppo scuro e non mi piace la luce",
    "Não gosto das cores, muito escuro",
    "Ik vind het heel mooi maar te donker",
    "Jag tycker det är för mörkt",
    "Bardzo ładne, ale nie podoba mi się światło",
    "Çok karanlık ve soğuk bir resim",
    "Tôi không thích màu này",
    "Мне нравится этот закат",
    "色がとてもきれいです",
    "这幅画太暗了",
    "أحب الألوان الدافئة",
    "너무 어둡다",
    "Μου αρέσει πολύ",
]
WORDLESS = ["😍", "👍👍👍", "...", "!!!", "10/10", "42", "🎨 100%"]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_taken_with_typos_names_and_single_words(text: str) -> None:
    assert check_comment(f"  {text}\n") == text


@pytest.mark.parametrize("text", FOREIGN)
def test_other_languages_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(CommentError, match="does not read as English") as caught:
        check_language(check_comment(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "liked"),
    [
        ("nice", True), ("Love it!!", True), ("no", False), ("Meh.", False), ("👍🏽", True), ("💔", False),
        ("🤮🤮", False), ("😍 wow", True), ("love the mist", None), ("not nice", None), ("no, love it", None),
        ("🎨", None), ("", None), ("👍👎", None),
    ],
)  # fmt: skip
def test_a_text_of_nothing_but_a_verdict_is_one(text: str, liked: bool | None) -> None:
    assert read_verdict(text) is liked
    if liked is not None:
        assert new_comment(text, None, None).liked is liked
        assert new_comment(text, not liked, None).liked is not liked  # what is given goes before what is said


@pytest.mark.parametrize("text", WORDLESS)
def test_a_comment_without_words_is_refused(text: str) -> None:
    with pytest.raises(CommentError, match="no words"):
        check_comment(text)


@pytest.mark.parametrize("text", ["", "   \n\t", "\u200b", "\0\0"])
def test_an_empty_comment_is_refused(text: str) -> None:
    with pytest.raises(CommentError, match="empty"):
        check_comment(text)


def test_a_comment_has_at_most_10_000_characters() -> None:
    assert len(check_comment("so dark " * 1249 + "so dark.")) == 10_000
    for length in (10_001, 100_000):
        with pytest.raises(CommentError, match="10,000"):
            check_comment("a" * length)


def test_a_message_about_a_comment_is_one_short_line() -> None:
    with pytest.raises(CommentError) as caught:
        check_comment("!\n\x1b[31" * 1000)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_new_comment_has_an_id_of_its_own_and_a_time_in_utc() -> None:
    now = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    one, two = (new_comment(" gloomy ", False, None, now) for _ in range(2))
    assert one.text == "gloomy"
    assert one.created == "2025-12-31T23:00:00.000000+00:00"
    assert one.id != two.id
    assert new_comment("gloomy", None, None).created <= datetime.now(UTC).isoformat(timespec="microseconds")


# --- the file for `teach --from` ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "below").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"picture")
    (folder / "below" / "b.png").write_bytes(b"picture")
    (tmp_path / "outside.png").write_bytes(b"picture")
    return folder


def write(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "file.json").write_text(text, encoding="utf-8")
    return folder / "file.json"


def test_a_good_file_is_read_in_order(folder: Path) -> None:
    entries = [
        {"image": "a.png", "comment": "too gloomy", "liked": False},
        {"image": "below/b.png", "comment": " lovely light ", "liked": None},
        {"image": "./a.png", "comment": "yes"},
    ]
    lessons = read_lessons(write(folder, "\ufeff" + json.dumps(entries)))
    assert [lesson.image.name for lesson in lessons] == ["a.png", "b.png", "a.png"]
    assert [lesson.comment for lesson in lessons] == ["too gloomy", "lovely light", "yes"]
    assert [lesson.liked for lesson in lessons] == [False, None, None]


GOOD = {"image": "a.png", "comment": "too gloomy"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ("[{", "not JSON"),
        ("[" * 100_000, "nested|not JSON"),
        ('[{"image": "a.png", "image": "a.png", "comment": "x"}]', "'image' stands twice"),
        ({"tastes": [GOOD]}, "holds an object"),
        ([], "empty list"),
        ([GOOD] * 10_001, "10,000"),
        ([GOOD, "a.png"], "entry 1 is text"),
        ([GOOD, {"image": "a.png"}], "entry 1: the key 'comment' is missing"),
        ([{"comment": "dark"}], "entry 0: the key 'image' is missing"),
        ([GOOD | {"like": True}], "entry 0: unknown key 'like'"),
        ([GOOD | {"liked": 1}], "entry 0: 'liked' is a number"),
        ([GOOD | {"liked": "yes"}], "entry 0: 'liked' is text"),
        ([GOOD | {"image": 3}], "entry 0: 'image' is a number"),
        ([GOOD | {"comment": None}], "entry 0: 'comment' is null"),
        ([GOOD | {"comment": ""}], "entry 0, 'comment': the comment is empty"),
        ([GOOD | {"comment": "🎨"}], "entry 0, 'comment': .* no words"),
        ([{"image": "a.png", "liked": None}], "entry 0: the key 'comment' is missing"),
        ([{"image": "a.png", "liked": True, "comment": None}], "entry 0: 'comment' is null"),
        ([{"liked": True}], "entry 0: the key 'image' is missing"),
        ([GOOD | {"image": "/nowhere/a.png"}], "'image'.* does not exist"),
        ([GOOD | {"image": "C:\\a.png"}], "'image'.* does not exist"),
        ([GOOD | {"image": "~nobody-of-this-name/a.png"}], "'image'.* not a usable path"),
        ([GOOD | {"image": "none.png"}], "'image'.* does not exist"),
        ([GOOD | {"image": "below"}], "'image'.* does not exist"),
        ([GOOD | {"image": ""}], "'image'.* does not exist"),
        ([GOOD | {"image": "a\0.png"}], "'image'.* (not a usable path|does not exist)"),
        ([GOOD | {"image": "a" * 5000}], "'image'.* (not a usable path|does not exist)"),
    ],
)
def test_a_file_that_is_not_of_the_form_says_where(folder: Path, content: Any, says: str) -> None:
    with pytest.raises(FileFormatError, match=says) as caught:
        read_lessons(write(folder, content))
    assert "\n" not in str(caught.value)


def test_images_may_lie_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = folder.parent / "outside.png"
    monkeypatch.setenv("HOME", str(folder.parent))
    for image in (str(outside), "../outside.png", "below/../../outside.png", "~/outside.png"):
        (lesson,) = read_lessons(write(folder, [GOOD | {"image": image}]))
        assert lesson.image == outside.resolve(), image


@pytest.mark.parametrize(("in_file", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_are_compared_in_one_form_of_unicode(folder: Path, in_file: Form, on_disk: Form) -> None:
    place = folder / unicodedata.normalize(on_disk, "Gemälde") / unicodedata.normalize(on_disk, "é.png")
    place.parent.mkdir()
    place.write_bytes(b"picture")
    name = unicodedata.normalize(in_file, "Gemälde/é.png")
    for image in (name, str(folder / name)):
        (lesson,) = read_lessons(write(folder, [GOOD | {"image": image}]))
        assert lesson.image.samefile(place)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_unless_they_lead_round_in_a_loop(folder: Path) -> None:
    (folder / "out.png").symlink_to(folder.parent / "outside.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert len(read_lessons(write(folder, [GOOD | {"image": "out.png"}]))) == 1
    with pytest.raises(FileFormatError, match="'image'"):
        read_lessons(write(folder, [GOOD | {"image": "loop.png"}]))


def test_a_verdict_needs_no_words(folder: Path) -> None:
    entries = [{"image": "a.png", "liked": True}, {"image": "a.png", "liked": False, "comment": "  "}]
    lessons = read_lessons(write(folder, entries))
    assert [(lesson.comment, lesson.liked) for lesson in lessons] == [("", True), ("", False)]
    assert new_comment(" ", True, None).text == ""
    with pytest.raises(CommentError, match="empty"):
        new_comment(" ", None, None)


def test_a_file_that_cannot_be_read_says_why(folder: Path) -> None:
    (folder / "latin.json").write_bytes(b'[{"image": "a.png", "comment": "caf\xe9"}]')
    for path, says in [
        (folder / "none.json", "does not exist"),
        (folder, "cannot be read"),
        (folder / "latin.json", "UTF-8"),
    ]:
        with pytest.raises(FileFormatError, match=says):
            read_lessons(path)
