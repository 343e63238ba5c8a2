"""What a person puts right stays right, and teaches how sure to be."""

import pytest

from palate.client.reader.corrections import Calibration, Correction, correct, find_mentions, fit_calibration
from palate.shared.attributes import Mention
from palate.shared.errors import OptionError

TEXT = "hm, the dark palette and the golden glow"
READ = (
    Mention("dark palette", "palette", 1, 0.6, "dark palette", "dark palette", unsure=True),
    Mention("golden glow", "lighting", 1, 0.6, "golden glow", "luminous"),
)


def says(words: str, polarity: int, read: float | None = None, day: int = 1) -> Correction:
    return Correction(words, polarity, read, f"2026-12-{day:02d}T00:00:00+00:00")


def test_a_correction_turns_adds_or_takes_away_and_the_newest_holds() -> None:
    turned = correct(TEXT, READ, [says("dark", -1)])
    assert [(m.name, m.polarity, m.strength, m.unsure) for m in turned] == [
        ("dark palette", -1, 1.0, False),
        ("luminous", 1, 0.6, False),
    ]
    assert correct(TEXT, READ, [says("luminous", 0)]) == READ[:1]
    added = correct("so much mist here", (), [says("mist", -1)])
    assert [(m.name, m.polarity) for m in added] == [("misty", -1)]
    assert correct(TEXT, READ, [says("dark", 1, day=2), says("dark", -1)])[0].polarity == 1


def test_words_mean_the_mention_of_that_name_or_phrase() -> None:
    assert find_mentions(READ, "golden") == [READ[1]]
    assert find_mentions(READ, "Luminous") == [READ[1]]
    assert find_mentions(READ, "blue") == []


@pytest.mark.parametrize(("words", "polarity"), [("", 1), ("!!", 1), ("dark", 2)])
def test_a_correction_of_nothing_is_refused(words: str, polarity: int) -> None:
    with pytest.raises(OptionError):
        says(words, polarity)


def test_corrections_make_the_reader_less_sure_where_it_was_wrong_and_surer_where_it_was_right() -> None:
    assert fit_calibration([]) == Calibration()
    wrong = fit_calibration([says("x", -1, 0.6), says("y", 1, -0.6), says("z", -1, 0.5)])
    right = fit_calibration([says("x", 1, 0.3), says("y", -1, -0.3), says("z", 1, 0.3)])
    assert wrong.scale < 1 < right.scale
    assert wrong.apply(READ[1]).strength < READ[1].strength
    gloomy = fit_calibration([says(f"{i}", -1, 0.5) for i in range(30)])
    assert gloomy.shift < 0
    assert gloomy.apply(READ[0]).polarity == -1
    assert Calibration().apply(READ[0]) == READ[0]
