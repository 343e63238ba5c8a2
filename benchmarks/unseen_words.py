"""Does the generator know words that no caption ever used?

Each unseen word against the known word of its subject.

    python -m benchmarks.unseen_words [--each 8] [--folder client/weights/generator]

The words are `captions.UNSEEN_SUBJECT_WORDS`. All captions of the training recipe are written again and
searched first; a word that is found in one, in whatever sense, is named and left out. The known word gets the
same wording and seeds.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.rows import Row, print_rows
from benchmarks.studio import Studio, ask_judge, judge_figures
from palate.client.painter.pipelines import SHIPPED_GENERATOR
from palate.simulations.crowd.captions import (
    ATTRIBUTE_PHRASES,
    SETTING_PHRASES,
    SUBJECT_WORDS,
    UNSEEN_SUBJECT_WORDS,
    attributes_only,
    caption,
)
from palate.simulations.world.shards import truth_of
from palate.simulations.world.truth import SUBJECTS

COMMAND = "python -m benchmarks.unseen_words"
FIRST_SEED = 20_200_000
CAPTIONS = 48_000  # pictures that the shipped generator learned from
PLURAL = frozenset({"skyscrapers", "high-rises", "office towers", "fungi", "manhattan"})
FRAMES = (
    "{}",
    "a painting of {}",
    "a picture of {}",
    "{} in warm light",
    "{}, watercolour",
    "{} on a calm day",
    "{}, flat colour",
    "{}, vibrant",
)


def training_texts(captions: int = CAPTIONS) -> Iterator[str]:
    """Return every text that the generator met.

    Captions of `recipes/conditions` and pieces of short prompts.
    """
    for number in range(captions):
        rng, truth = random.Random(f"caption {number}"), truth_of(number)
        yield attributes_only(rng, truth) if rng.random() < 0.06 else caption(rng, truth)
    for pieces in (SUBJECT_WORDS, SETTING_PHRASES, ATTRIBUTE_PHRASES):
        for some in pieces.values():
            yield from some


def find_used(words: Iterable[str], texts: Iterable[str]) -> set[str]:
    """Return those of the words that occur in the texts, as whole words, singular or plural."""
    pattern = re.compile(
        r"(?<![a-z-])(" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + r")s?(?![a-z-])"
    )
    return {found for text in texts for found in pattern.findall(text.lower())}


def phrase(word: str, number: int) -> str:
    """Return a prompt with the word; the same number gives the same wording round it."""
    article = "" if word in PLURAL else "an " if word[0] in "aeiou" else "a "
    return FRAMES[number % len(FRAMES)].format(article + word)


def run(quick: bool = False, each: int | None = None, folder: Path = SHIPPED_GENERATOR) -> list[Row]:
    """Measures the row with `each` pictures a word (8, or 1 when `quick`)."""
    each = each or (1 if quick else 8)
    judge, accuracy = ask_judge(200 if quick else 1000)
    listed = [word for words in UNSEEN_SUBJECT_WORDS.values() for word in words]
    texts = tqdm(
        training_texts(2000 if quick else CAPTIONS),
        desc="searching captions",
        unit="text",
        mininterval=2,
        disable=None,
    )
    used = find_used(listed, texts)
    print(
        f"{len(listed) - len(used)} of {len(listed)} words are in no caption; found and left out: "
        f"{sorted(used) or 'none'}"
    )
    unseen = [(s, w) for s in SUBJECTS for w in UNSEEN_SUBJECT_WORDS[s] if w not in used]
    known = [(s, s) for s in SUBJECTS]
    asked = [(s, phrase(w, k), FIRST_SEED + k) for s, w in unseen + known for k in range(each)]
    studio = Studio(folder)
    painted = studio.paint(
        studio.words([p for _, p, _ in asked]), [seed for *_, seed in asked], what="unseen words"
    )
    right = judge(painted).names_subject([s for s, *_ in asked]).reshape(-1, each).mean(1)  # (words,)
    with_known = dict(zip(SUBJECTS, right[len(unseen) :], strict=True))
    mean_unseen = float(right[: len(unseen)].mean())
    mean_known = float(np.mean([with_known[s] for s, _ in unseen]))
    ratio = mean_unseen / mean_known if mean_known else 0.0
    extra = {
        "words": len(unseen),
        "found_in_captions": sorted(used),
        "pictures_each": each,
        "unseen": round(mean_unseen, 4),
        "known": round(mean_known, 4),
        "each_known": {s: round(float(v), 3) for s, v in with_known.items()},
        "each_unseen": {w: round(float(v), 3) for (_, w), v in zip(unseen, right, strict=False)},
        **judge_figures(accuracy),
    }
    row = "words never used in a caption: accuracy relative to the known word"
    holds = len(unseen) >= 40 and ratio >= 0.70
    return [Row(row, round(ratio, 4), "at least 0.70, at least 40 words", holds, COMMAND, extra)]


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--each", type=int, default=None)
    p.add_argument("--folder", type=Path, default=SHIPPED_GENERATOR)
    a = p.parse_args()
    print_rows(run(each=a.each, folder=a.folder))


if __name__ == "__main__":
    main()
