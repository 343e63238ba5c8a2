"""Checks of single values: what is a number, what is none, and what the error says."""

import math
from dataclasses import dataclass

import pytest

from palate.shared.checks import (
    check_number,
    check_whole,
    check_wholes,
    is_hex,
    is_number,
    is_whole,
    keep_numbers,
    shown,
)
from palate.shared.errors import OptionError

NO_NUMBERS = [True, False, None, "1", [1], 1j, math.nan, math.inf, -math.inf, 10**400]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    assert not is_number(value)
    with pytest.raises(OptionError, match=r"^share is .*; it must be a number from 0 to 1$"):
        check_number("share", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 6])
def test_what_is_no_whole_number_of_the_range_is_refused(value: object) -> None:
    assert not is_whole(value, 1, 5)
    with pytest.raises(OptionError, match=r"^count is .*; it must be a whole number from 1 to 5$"):
        check_whole("count", value, 1, 5)


def test_ends_of_a_range_are_in_it_unless_told_otherwise() -> None:
    for value in (0, 0.0, 1, 0.5):
        check_number("share", value, 0.0, 1.0)
    with pytest.raises(OptionError, match="a number above 0, at most 1"):
        check_number("share", 0, 0.0, 1.0, above=True)
    with pytest.raises(OptionError, match="a number above 0 and below 1"):
        check_number("share", 1.0, 0.0, 1.0, above=True, below=True)
    with pytest.raises(OptionError, match=r"a finite number from 0$"):
        check_number("share", math.inf, 0.0, math.inf)


def test_minus_zero_is_refused_everywhere() -> None:
    assert not is_number(-0.0, 0.0, 1.0)
    assert not is_number(-0.0, -1.0, 1.0)
    assert is_number(0.0, -1.0, 1.0)
    with pytest.raises(OptionError, match=r"^noise is -0\.0;"):
        check_number("noise", -0.0, 0.0, 1.0)


@pytest.mark.parametrize("value", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 63 + "\n", b"a" * 64, None])
def test_hexadecimal_text_has_exactly_its_digits(value: object) -> None:
    assert not is_hex(value)
    assert is_hex("0123456789abcdef" * 4)
    assert is_hex("ab", 2)


@dataclass(frozen=True)
class Settings:
    rounds: int = 3
    share: float = 1

    def __post_init__(self) -> None:
        check_wholes(self, {"rounds": (1, 10)})
        keep_numbers(self, {"share": (0.0, 1.0)})


def test_settings_keep_their_numbers_as_floats_and_name_what_is_wrong() -> None:
    assert type(Settings().share) is float
    with pytest.raises(OptionError, match=r"^rounds is 11;"):
        Settings(rounds=11)
    with pytest.raises(OptionError, match=r"^share is 'all';"):
        Settings(share="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["x" * 10_000, 10**10_000, "two\nlines", list(range(10_000)), None, 1e300], ids=range(6)
)
def test_a_value_in_an_error_is_short_and_on_one_line(value: object) -> None:
    assert len(shown(value)) < 80
    assert "\n" not in shown(value)
