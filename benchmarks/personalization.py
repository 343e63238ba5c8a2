"""Do personal pictures please?

200 virtual people × 5 prompts, taught by comments alone, judged by their true taste.

    python -m benchmarks.personalization [--people 200] [--curve-people 40] [--pick-people 60] [--folder ...]

For each person and prompt one picture is made with the profile and one without, of the same seed. Worth is
the person's true weights times the judge's probabilities: the profile, the picture tower and the evaluator
have no part in it. A pair is won when the personal picture is worth more; an equal pair counts as lost. The
control asks how often person i prefers the picture made with person j's profile, over all other persons j.
The curve over strength, the four modes and best-of-4 by the evaluator (which knows the profile alone, no
verdict) are measured on fewer people.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.painting import Painter, Taste
from benchmarks.pupils import COMMENTS, Pupil, Wish, draw_wishes, teach_people
from benchmarks.rows import Row, print_rows
from benchmarks.studio import ask_judge, judge_figures
from palate.client.painter.generator import DEFAULT_GUIDANCE, DEFAULT_MODE, DEFAULT_STRENGTH, MODES
from palate.client.painter.pipelines import SHIPPED_GENERATOR
from palate.shared.arrays import Float64s
from palate.shared.encoder import EncoderWeights
from palate.simulations.judge import VALUES, Judge, Opinion

COMMAND = "python -m benchmarks.personalization"
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
CANDIDATES = 4


@dataclass(frozen=True)
class PersonalGain:
    """What the personal pictures of some wishes reached next to the impersonal ones of the same seeds."""

    pairs: int
    won: float  # share of pairs
    gain: float  # mean utility of personal minus impersonal, in standard deviations over shown pictures
    subject: float  # share of personal pictures whose subject is seen
    impersonal_subject: float

    def figures(self) -> dict[str, float]:
        """Return the figures as rounded numbers."""
        return {
            "pairs": self.pairs,
            "won": round(self.won, 4),
            "gain": round(self.gain, 3),
            "subject": round(self.subject, 4),
            "impersonal_subject": round(self.impersonal_subject, 4),
        }


@dataclass
class Measurement:
    """The painter and the judge; opinions of impersonal pictures are kept within one run."""

    painter: Painter
    judge: Judge
    pupils: Sequence[Pupil]
    _plain: dict[tuple[str, int], tuple[Float64s, Float64s]] = field(default_factory=dict)

    def weights(self) -> Float64s:
        """Return everybody's true weights in units of utility, (people, 55)."""
        rows = [[p.person.weights.get(v, 0.0) / p.person.spread for v in VALUES] for p in self.pupils]
        return np.array(rows, float)

    def plain(self, wishes: Sequence[Wish]) -> Opinion:
        """Return the judge's opinion of the impersonal pictures; each prompt and seed is painted once."""
        fresh = list(
            dict.fromkeys((w.prompt, w.seed) for w in wishes if (w.prompt, w.seed) not in self._plain)
        )
        if fresh:
            done = self.judge(self.painter.paint([(p, s, None) for p, s in fresh], what="impersonal"))
            self._plain |= {key: (done.subjects[i], done.values[i]) for i, key in enumerate(fresh)}
        kept = [self._plain[w.prompt, w.seed] for w in wishes]
        return Opinion(np.stack([k[0] for k in kept]), np.stack([k[1] for k in kept]))

    def personal(self, wishes: Sequence[Wish], taste: Taste, what: str) -> Opinion:
        """Return the judge's opinion of the personal pictures."""
        asked = [(w.prompt, w.seed, self.pupils[w.pupil].profile) for w in wishes]
        return self.judge(self.painter.paint(asked, taste, what=what))

    def compare(self, wishes: Sequence[Wish], personal: Opinion) -> PersonalGain:
        """Return how the personal pictures fare, each by the true taste of the person who wished for it."""
        plain = self.plain(wishes)
        weights = self.weights()[[w.pupil for w in wishes]]
        gains = ((personal.values - plain.values) * weights).sum(1)
        subjects = [w.subject for w in wishes]
        return PersonalGain(
            len(wishes),
            float((gains > 0).mean()),
            float(gains.mean()),
            float(personal.names_subject(subjects).mean()),
            float(plain.names_subject(subjects).mean()),
        )

    def control(self, wishes: Sequence[Wish], personal: Opinion) -> dict[str, float]:
        """Return how often a person prefers the picture of another's profile to the impersonal one."""
        change = personal.values - self.plain(wishes).values  # (wishes, 55)
        won = change @ self.weights().T > 0  # (wishes, people)
        makers = np.array([w.pupil for w in wishes])
        others = makers[:, None] != np.arange(len(self.pupils))[None]
        cohorts = np.array([p.person.cohort for p in self.pupils])
        alike = cohorts[makers][:, None] == cohorts[None]
        return {
            name: round(float(won[where].mean()), 4)
            for name, where in (
                ("all", others),
                ("same_cohort", others & alike),
                ("other_cohort", others & ~alike),
            )
            if where.any()
        }

    def pick(
        self, wishes: Sequence[Wish], taste: Taste, encoders: Sequence[EncoderWeights | None] = (None,)
    ) -> list[PersonalGain]:
        """Pick the best of several candidates by the device's evaluator.

        One outcome for each encoder that the evaluator stands on, None for the shipped one; all choose among
        the same pictures.
        """
        many = [replace(w, seed=w.seed + k) for w in wishes for k in range(CANDIDATES)]
        asked = [(w.prompt, w.seed, self.pupils[w.pupil].profile) for w in many]
        pictures = self.painter.paint(asked, taste, what=f"best of {CANDIDATES}")
        outcomes = []
        for encoder in encoders:
            picked = []
            for i, wish in enumerate(wishes):
                mine = pictures[i * CANDIDATES : (i + 1) * CANDIDATES]
                rank = self.painter.rank(mine, wish.prompt, self.pupils[wish.pupil].profile, encoder)
                picked.append(i * CANDIDATES + int(np.argmax(rank)))
            outcomes.append(self.compare([many[i] for i in picked], self.judge(pictures[picked])))
        return outcomes


def run(
    quick: bool = False,
    people: int | None = None,
    curve_people: int | None = None,
    pick_people: int | None = None,
    folder: Path = SHIPPED_GENERATOR,
    taste: Taste | None = None,
    modes: Sequence[str] = MODES,
    strengths: Sequence[float] = STRENGTHS,
) -> list[Row]:
    """Measures all rows; `quick` takes 4 people. Counts of 0 leave a part out."""
    count = people if people is not None else 4 if quick else 200
    on_curve = curve_people if curve_people is not None else 2 if quick else 40
    on_pick = pick_people if pick_people is not None else 2 if quick else 60
    taste = taste or Taste()
    judge, accuracy = ask_judge(200 if quick else 1000)
    pupils = teach_people(count)
    wishes = draw_wishes(pupils)
    measurement = Measurement(Painter(folder), judge, pupils)
    personal = measurement.personal(wishes, taste, f"personal ({taste.mode} {taste.strength:g})")
    outcome = measurement.compare(wishes, personal)
    control = measurement.control(wishes, personal)
    found = np.array([p.found for p in pupils]).mean(0).round(2)
    extra: dict[str, Any] = {
        "people": count,
        "comments_each": COMMENTS,
        **outcome.figures(),
        "mode": taste.mode,
        "strength": taste.strength,
        "profile_right_wrong_unfelt": found.tolist(),
        **judge_figures(accuracy),
    }
    some = [w for w in wishes if w.pupil < on_curve]
    if some:
        extra["curve"] = _curve(measurement, some, taste, strengths)
        extra["modes"] = _modes(measurement, some, taste, modes)
    drop = outcome.impersonal_subject - outcome.subject
    rows = [
        Row(
            "personalization from comments alone: pairs won",
            round(outcome.won, 4),
            "at least 0.86",
            outcome.won >= 0.86,
            COMMAND,
            extra,
        ),
        Row(
            "personalization: subject accuracy lost",
            round(drop, 4),
            "at most 0.03",
            drop <= 0.03,
            COMMAND,
            outcome.figures(),
        ),
        Row(
            "personalization with another person's profile (control): pairs won",
            control.get("all", 0.0),
            "at most 0.55",
            control.get("all", 0.0) <= 0.55,
            COMMAND,
            control,
        ),
    ]
    some = [w for w in wishes if w.pupil < on_pick]
    if some:
        (best,) = measurement.pick(some, taste)
        rows.append(
            Row(
                f"personalization with best-of-{CANDIDATES} by the evaluator: pairs won",
                round(best.won, 4),
                "at least 0.92",
                best.won >= 0.92,
                COMMAND,
                best.figures(),
            )
        )
    return rows


def _curve(
    measurement: Measurement, wishes: Sequence[Wish], taste: Taste, strengths: Sequence[float]
) -> dict[str, dict[str, float]]:
    out = {}
    for strength in strengths:
        at = replace(taste, strength=strength)
        out[f"{strength:g}"] = measurement.compare(
            wishes, measurement.personal(wishes, at, f"strength {strength:g}")
        ).figures()
        print(f"  {taste.mode} at strength {strength:g}: {out[f'{strength:g}']}", flush=True)
    return out


def _modes(
    measurement: Measurement, wishes: Sequence[Wish], taste: Taste, modes: Sequence[str]
) -> dict[str, dict[str, float]]:
    out = {}
    for mode in modes:
        at = replace(taste, mode=mode)
        out[mode] = measurement.compare(wishes, measurement.personal(wishes, at, f"mode {mode}")).figures()
        print(f"  mode {mode} at strength {taste.strength:g}: {out[mode]}", flush=True)
    return out


def main() -> None:
    """Run the command and return the exit status."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--people", type=int, default=200)
    p.add_argument(
        "--curve-people", type=int, default=40, help="people on the curve over strength and modes; 0 for none"
    )
    p.add_argument("--pick-people", type=int, default=60, help="people for best-of-4; 0 for none")
    p.add_argument("--mode", choices=MODES, default=DEFAULT_MODE)
    p.add_argument("--strength", type=float, default=DEFAULT_STRENGTH)
    p.add_argument("--guidance", type=float, default=DEFAULT_GUIDANCE)
    p.add_argument(
        "--no-guard", action="store_true", help="without the check that the subject is still there"
    )
    p.add_argument("--folder", type=Path, default=SHIPPED_GENERATOR)
    a = p.parse_args()
    taste = Taste(a.mode, a.strength, guidance=a.guidance, guard=not a.no_guard)
    print_rows(run(False, a.people, a.curve_people, a.pick_people, a.folder, taste))


if __name__ == "__main__":
    main()
