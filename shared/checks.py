"""Checks of single values: is it a finite number, a whole number in a range, hexadecimal text?

Where it stands in the flow: everything that takes settings or reads bytes checks its values here, when they
are built. `is_...` answers yes or no, for callers with an error of their own. `check_...` raises OptionError
in one line that names the argument, the value and the rule. True and False are no numbers, and NaN is in no
range. Minus zero is refused everywhere: it is zero written in a second way, which would change what is hashed
and signed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Final

from palate.shared.errors import OptionError

_SHOWN: Final = 60  # characters of a value that is not ours, in an error
_HEX_DIGITS: Final = frozenset("0123456789abcdef")


def is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether the value is a finite number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        return False
    return abs(value) <= sys.float_info.max and (value != 0 or math.copysign(1.0, value) > 0)


def is_whole(value: object, least: int, most: int) -> bool:
    """Return whether the value is an int from `least` to `most`; True and 1.0 are none."""
    return type(value) is int and least <= value <= most


def is_hex(value: object, digits: int = 64) -> bool:
    """Return whether the value is text of exactly so many lower-case hexadecimal digits."""
    return isinstance(value, str) and len(value) == digits and _HEX_DIGITS.issuperset(value)


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise OptionError unless the value is a whole number from `least` to `most`."""
    if not is_whole(value, least, most):
        raise OptionError(f"{name} is {shown(value)}; it must be a whole number from {least:,} to {most:,}")


def check_number(
    name: str, value: object, least: float, most: float, *, above: bool = False, below: bool = False
) -> None:
    """Raise OptionError unless the value is a finite number in a range.

    Args:
        name: what the error calls the value.
        value: what to check.
        least: the smallest number that is allowed.
        most: the largest; infinity for no bound.
        above: `least` itself is not allowed.
        below: `most` itself is not allowed.

    Raises:
        OptionError: the value is no number, not finite, or out of range.
    """
    if is_number(value, least, most) and not (above and value == least) and not (below and value == most):
        return
    start = f"{'above' if above else 'from'} {least:g}"
    end = "" if math.isinf(most) else f"{' and below' if below else ', at most' if above else ' to'} {most:g}"
    finite = "finite " if math.isinf(most) else ""
    raise OptionError(f"{name} is {shown(value)}; it must be a {finite}number {start}{end}")


def check_wholes(settings: object, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Raise OptionError unless each named attribute of the settings is a whole number in its range."""
    for name, (least, most) in ranges.items():
        check_whole(name, getattr(settings, name), least, most)


def keep_numbers(settings: object, ranges: Mapping[str, tuple[float, float]], *, above: bool = False) -> None:
    """Check each named attribute of a frozen dataclass with `check_number`, and keep it as a float."""
    for name, (least, most) in ranges.items():
        value: Any = getattr(settings, name)
        check_number(name, value, least, most, above=above)
        object.__setattr__(settings, name, float(value))


def shown(value: object) -> str:
    """Return a value for an error: short, and on one line, whatever it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
    if type(value) is int:
        return f"{value:,}" if abs(value) < 10**_SHOWN else "huge"
    return repr(value) if value is None or type(value) in (bool, float) else f"a {type(value).__name__}"
