"""How far independent markers agree on the looks of the same comments.

    python -m palate.simulations.crowd.agreement

`recipes/marked_twice.jsonl` holds lessons in the manner of threads as their writers marked them, and as two
other runs of a large language model marked them by `recipes/marking-guide.md` without seeing any marks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from palate.simulations.crowd.marked import THREADS, Marked, parse_marked

TWICE = THREADS.with_name("marked_twice.jsonl")
MARKERS = ("writer", "first", "second")


def read_twice(file: Path = TWICE) -> dict[str, list[Marked]]:
    """Return the comments as each of `MARKERS` marked them, in the same order."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {name: [parse_marked(name, row["liked"], row[name]) for row in rows] for name in MARKERS}


def agreement(one: Sequence[Marked], other: Sequence[Marked]) -> dict[str, float]:
    """Return how far two markers agree on the same comments.

    Returns:
        marks of each, the F1 of marks that overlap, the share of the same kind among these, and Cohen's kappa
        (1960) of the kinds of words, unmarked ones too.
    """
    first = second = overlapping = same = 0
    words: Counter[tuple[str, str]] = Counter()
    for a, b in zip(one, other, strict=True):
        first, second = first + len(a.places), second + len(b.places)
        mine, yours = _kinds(a), _kinds(b)
        for (start, end), kind in mine:
            over = [theirs for (x, y), theirs in yours if x < end and y > start]
            overlapping += bool(over)
            same += bool(over) and over[0] == kind
        at = 0
        for word in a.comment.split(" "):
            after = at + len(word)
            words[_kind_at(mine, at, after), _kind_at(yours, at, after)] += 1
            at = after + 1
    total = sum(words.values())
    agreed = sum(count for (a, b), count in words.items() if a == b) / total
    left, right = (Counter[str](), Counter[str]())
    for (here, there), count in words.items():
        left[here] += count
        right[there] += count
    chance = sum(left[kind] * right[kind] for kind in left) / total**2
    return {
        "marks": first,
        "other marks": second,
        "F1": round(2 * overlapping / (first + second), 3),
        "same kind": round(same / overlapping, 3),
        "kappa": round((agreed - chance) / (1 - chance), 3),
    }


def _kinds(one: Marked) -> list[tuple[tuple[int, int], str]]:
    return list(zip(one.places, one.kinds, strict=True))


def _kind_at(kinds: Sequence[tuple[tuple[int, int], str]], start: int, end: int) -> str:
    return next((kind for (x, y), kind in kinds if x < end and y > start), "none")


def main() -> None:
    """Print the agreement of each two markers."""
    marked = read_twice()
    for one, other in combinations(MARKERS, 2):
        print(f"{one} and {other}: {json.dumps(agreement(marked[one], marked[other]))}")


if __name__ == "__main__":
    main()
