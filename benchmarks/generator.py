"""Does the shipped generator paint what it is asked for?

500 prompts, judged, against real renders of the same truths.

    python -m benchmarks.generator [--prompts 500] [--folder client/weights/generator]

Each prompt names a subject and one to three attributes that can be seen together; half of them in plain
canonical words, half in the varied wording of captions. The judge is fallible, so what it grants the
generated pictures is divided by what it grants renders of the same truths. The control counts the same
pictures against the attributes of the next prompt.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, print_rows
from benchmarks.studio import Studio, ask_judge, judge_figures
from palate.client.painter.generator import DEFAULT_GUIDANCE
from palate.client.painter.pipelines import SHIPPED_GENERATOR
from palate.simulations.crowd.captions import SETTING_PHRASES, attribute_phrase, subject_phrase
from palate.simulations.judge import Opinion
from palate.simulations.world.render import render
from palate.simulations.world.truth import (
    ATTRIBUTES,
    CATEGORY_OF,
    OWN_PLACE,
    SETTINGS,
    SUBJECTS,
    Truth,
    can_meet,
)

COMMAND = "python -m benchmarks.generator"
FIRST = 20_100_000  # picture numbers of the renders next to, and seeds of the pictures


def ask(number: int) -> tuple[Truth, str]:
    """Return what prompt `number` asks for, and its wording."""
    rng = random.Random(f"asked {number}")
    subject = SUBJECTS[number % len(SUBJECTS)]
    chosen: list[str] = []
    wanted = 1 + number // len(SUBJECTS) % 3
    for value in rng.sample(list(CATEGORY_OF), len(CATEGORY_OF)):
        fresh = CATEGORY_OF[value] not in {CATEGORY_OF[c] for c in chosen}
        if len(chosen) < wanted and fresh and can_meet(value, tuple(chosen)):
            chosen.append(value)
    setting = None if subject in OWN_PLACE or rng.random() < 0.5 else rng.choice(SETTINGS)
    if setting == "desert" and "snowy" in chosen:
        setting = None
    truth = Truth(subject, {CATEGORY_OF[v]: v for v in chosen}, setting)
    if rng.random() < 0.5:
        place = f" {SETTING_PHRASES[setting][0]}" if setting else ""
        article = "an" if subject[0] in "aeiou" else "a"
        return truth, ", ".join([f"{article} {subject}{place}", *chosen])
    return truth, ", ".join([subject_phrase(rng, truth), *(attribute_phrase(rng, v) for v in chosen)])


def count_shown(opinion: Opinion, truths: Sequence[Truth]) -> tuple[float, float, dict[str, float]]:
    """Return shares of subjects and attributes seen as asked, and the share in each category."""
    hits = {
        c: [opinion.shows(i, t.attributes[c]) for i, t in enumerate(truths) if c in t.attributes]
        for c in ATTRIBUTES
    }
    flat = [hit for some in hits.values() for hit in some]
    subject = float(opinion.names_subject([t.subject for t in truths]).mean())
    return subject, float(np.mean(flat)), {c: round(float(np.mean(h)), 3) for c, h in hits.items() if h}


def run(
    quick: bool = False,
    prompts: int | None = None,
    folder: Path = SHIPPED_GENERATOR,
    steps: int = 20,
    guidance: float = DEFAULT_GUIDANCE,
) -> list[Row]:
    """Measures both rows; `quick` takes 36 prompts."""
    count = prompts or (36 if quick else 500)
    judge, accuracy = ask_judge(200 if quick else 1000)
    asked = [ask(i) for i in range(count)]
    truths = [truth for truth, _ in asked]
    studio = Studio(folder)
    painted = studio.paint(
        studio.words([p for _, p in asked], guidance),
        range(FIRST, FIRST + count),
        steps=steps,
        what="generator",
    )
    opinion = judge(painted)
    subject, attribute, each = count_shown(opinion, truths)
    real_subject, real_attribute, real_each = count_shown(
        judge(np.stack([render(t, FIRST + i) for i, t in enumerate(truths)])), truths
    )
    _, other, _ = count_shown(opinion, truths[1:] + truths[:1])
    counts = {"prompts": count, "steps": steps, "guidance": guidance, **judge_figures(accuracy)}
    ratio_subject, ratio_attribute = _ratio(subject, real_subject), _ratio(attribute, real_attribute)
    by_subject = {
        s: round(
            float(
                np.mean(
                    [
                        h
                        for h, t in zip(
                            opinion.names_subject([t.subject for t in truths]), truths, strict=True
                        )
                        if t.subject == s
                    ]
                )
            ),
            3,
        )
        for s in sorted({t.subject for t in truths})
    }
    return [
        Row(
            "generator: subject shown as asked, relative to renders",
            round(ratio_subject, 4),
            "at least 0.85",
            ratio_subject >= 0.85,
            COMMAND,
            {"generated": round(subject, 4), "renders": round(real_subject, 4), "each": by_subject, **counts},
        ),
        Row(
            "generator: attribute shown as asked, relative to renders",
            round(ratio_attribute, 4),
            "at least 0.75",
            ratio_attribute >= 0.75,
            COMMAND,
            {
                "generated": round(attribute, 4),
                "renders": round(real_attribute, 4),
                "control_other_prompt": round(other, 4),
                "each": each,
                "each_renders": real_each,
                **counts,
            },
        ),
    ]


def _ratio(share: float, of: float) -> float:
    return share / of if of else 0.0


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--prompts", type=int, default=None)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=DEFAULT_GUIDANCE)
    p.add_argument("--folder", type=Path, default=SHIPPED_GENERATOR)
    a = p.parse_args()
    print_rows(run(prompts=a.prompts, folder=a.folder, steps=a.steps, guidance=a.guidance))


if __name__ == "__main__":
    main()
