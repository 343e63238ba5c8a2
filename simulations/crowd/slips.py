"""Slips of the keyboard and spellings of two countries, for the comments of virtual people (`remarks`)."""

from __future__ import annotations

import random
import re

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_AMERICAN = (
    ("colour", "color"), ("grey", "gray"), ("favourite", "favorite"), ("centre", "center"), ("cosy", "cozy"),
    ("tranquillity", "tranquility"), ("mesmerising", "mesmerizing"), ("analogue", "analog"),
    ("my mum", "my mom"),
)  # fmt: skip


def americanise(text: str) -> str:
    """Return the same words in American spelling."""
    for british, american in _AMERICAN:
        text = text.replace(british, american).replace(british.capitalize(), american.capitalize())
    return text


def misspell(text: str, rate: float, rng: random.Random) -> str:
    """Garbles words of four letters or more, each with this chance; apostrophes go missing as often.

    The slips are those of quick typing: two letters swapped, one left out, one doubled, or a neighbouring
    key. Raises ValueError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate = {rate} must lie in [0, 1]")

    def slip(match: re.Match[str]) -> str:
        word = match.group()
        return _garble(word, rng) if rng.random() < rate else word

    return re.sub(r"[A-Za-z]{2,}'[a-z]{1,2}\b|[A-Za-z]{4,}", slip, text)


def _garble(word: str, rng: random.Random) -> str:
    if "'" in word:
        return word.replace("'", "")
    at = rng.randrange(1, len(word) - 1)  # first letters are seldom wrong
    kind = rng.choice(("swap", "omit", "double", "neighbour"))
    if kind == "swap" and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == "omit":
        return word[:at] + word[at + 1 :]
    if kind == "neighbour":
        row = next(r for r in _ROWS if word[at].lower() in r)
        place = row.index(word[at].lower())
        return (
            word[:at]
            + rng.choice(row[max(0, place - 1) : place] + row[place + 1 : place + 2])
            + word[at + 1 :]
        )
    return word[: at + 1] + word[at:]
