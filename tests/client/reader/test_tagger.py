"""The tagger: windows of long comments, words to spans, odds, and files that are not what ships."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from palate.client.reader.tagger import (
    HEAD,
    KINDS,
    MAX_TOKENS,
    SHIPPED,
    TAGS,
    Span,
    Tagger,
    Tokens,
    cut_windows,
    find_spans,
    shipped_tagger,
)
from palate.shared.errors import ModelError


def spans_of(text: str, places: list[tuple[int, int]], *tags: int) -> list[Span]:
    """The looks of tokens whose tags are nearly certain."""
    odds = np.full((len(tags), TAGS), 0.01, dtype=np.float32)
    odds[np.arange(len(tags)), tags] = 1 - 0.01 * (TAGS - 1)
    return find_spans(text, Tokens(tuple(places), np.log(odds)), 1.0, 0.5)


class Marks:
    """A network that takes one word for a liked look, and nothing else."""

    def __init__(self, word: int) -> None:
        self.word = word

    def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        logits = np.zeros((1, given["ids"].shape[1], TAGS), dtype=np.float32)
        logits[0, :, 0] = 9
        logits[0, given["ids"][0] == self.word, 1] = 20
        return [logits]


def test_a_long_comment_is_read_in_windows_that_overlap_by_half_and_miss_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tagger = shipped_tagger()
    words = [("light" if i % 17 == 0 else "tea") for i in range(1500)]
    text = " ".join(words)
    windows = cut_windows(tagger.tokenizer, text, True)
    assert len(windows) > 8
    assert all(len(window.ids) <= MAX_TOKENS for window in windows)
    monkeypatch.setattr(
        "palate.client.reader.tagger.load_graph", lambda _: Marks(tagger.tokenizer.token_to_id("light"))
    )
    found = tagger.read(text, True)
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(0, 1500, 17)]
    assert [(span.start, span.end) for span in found] == [(start, start + 5) for start in starts]
    assert all(span.odds[0] > 0.9 for span in found)


def test_the_verdict_stands_before_the_comment() -> None:
    tokenizer = shipped_tagger().tokenizer
    for liked, word in ((True, "liked"), (False, "disliked"), (None, "unknown")):
        window = cut_windows(tokenizer, "too dark", liked)[0]
        assert window.ids[1] == tokenizer.token_to_id(word) is not None
        assert len(window.ids) == HEAD + len(window.places) + 1


def test_tags_become_spans_of_whole_words() -> None:
    text = "soft light, dull greys"
    places = [(0, 4), (5, 10), (10, 11), (12, 16), (17, 21), (21, 22)]  # "greys" is two pieces
    spans = spans_of(text, places, 1, 2, 0, 3, 4, 0)
    assert [text[span.start : span.end] for span in spans] == ["soft light", "dull greys"]
    assert [span.liking > 0 for span in spans] == [True, False]
    assert all(sum(span.odds) == pytest.approx(1) for span in spans)
    assert spans_of(text, places, 0, 0, 0, 0, 0, 0) == []
    joined = spans_of("soft, light", [(0, 4), (4, 5), (6, 11)], 1, 2, 2)
    assert [(span.start, span.end) for span in joined] == [(0, 11)]


def test_what_is_wished_for_is_wanted_and_what_is_only_named_is_not_judged() -> None:
    wished, named = (
        spans_of("depth", [(0, 5)], 1 + 2 * KINDS.index(kind))[0] for kind in ("wished", "mentioned")
    )
    assert wished.liking > 0.8
    assert wished.is_judged
    assert not named.is_judged


def test_a_missing_or_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        Tagger(tmp_path).read("soft light", None)
    folder = tmp_path / "reader"
    shutil.copytree(SHIPPED, folder)
    (folder / "tagger.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        Tagger(folder).read("soft light", None)
    assert "\n" not in str(caught.value)
    (folder / "tagger.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tagger\.json"):
        _ = Tagger(folder).card


def test_its_card_says_what_it_was_made_of_and_how_good_it_is() -> None:
    card = shipped_tagger().card
    assert 0.5 < card["temperature"] < 3
    assert 0.2 < card["threshold"] < 0.8
    assert "language model" in card["data"]
    assert card["measured"]["with verdict"]["calibration error"] <= 0.05
