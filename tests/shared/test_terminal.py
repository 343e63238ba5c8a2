"""Text that is safe to print: no control code reaches a terminal."""

import pytest

from palate.shared.terminal import printable


@pytest.mark.parametrize(
    "code", ["\x1b[2J", "\x1b]0;title\x07", "\r", "\x08", "\x9b31m", "\u202e", "\u2066", "\x00", "\t"]
)
def test_a_control_code_is_replaced(code: str) -> None:
    shown = printable(f"before{code}after")
    assert code not in shown
    assert shown.startswith("before�")
    assert shown.endswith("after")
    assert all(one.isprintable() for one in shown)


def test_words_and_line_ends_stay() -> None:
    assert printable("Ölbild, 静か 🎨\nzweite Zeile") == "Ölbild, 静か 🎨\nzweite Zeile"
