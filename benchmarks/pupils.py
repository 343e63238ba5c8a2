"""Virtual people who teach the device by comments alone, and the prompts that they ask for.

Used by `personalization`. The people's tastes are known to the measurement only: what the device learns is
what the real extractor reads out of their words about rendered pictures, without verdicts, merged by the real
profile.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from tqdm import tqdm

from palate.client.reader.extractor import extract_attributes
from palate.client.taste.profile import Evidence, Profile, build_profile
from palate.shared.errors import CommentError
from palate.simulations.crowd.captions import SETTING_PHRASES
from palate.simulations.crowd.people import Person, make_people, sample_shown, verdict
from palate.simulations.crowd.remarks import comment
from palate.simulations.world.render import render
from palate.simulations.world.truth import CATEGORY_OF, OWN_PLACE, SETTINGS, SUBJECTS

POPULATION = 20_300_000  # the seed of people who took no part in any training
FIRST_SHOWN = 20_310_000  # picture numbers of what they comment on
FIRST_SEED = 20_320_000
COMMENTS = 16  # eight liked and eight disliked pictures are what the device asks for
NOISES = 8  # seeds of first pictures; candidates next to the first take the seeds that follow


@dataclass(frozen=True)
class Pupil:
    """One person, and what the device made of this person's comments."""

    person: Person
    profile: Profile

    @property
    def found(self) -> tuple[int, int, int]:
        """Count the profile's likes and dislikes: right, with the wrong sign, and without ground."""
        signed = {a: s for a, s in self.profile.signed().items() if a in CATEGORY_OF}
        agreement = [self.person.weights.get(a, 0.0) * s for a, s in signed.items()]
        return sum(x > 0 for x in agreement), sum(x < 0 for x in agreement), sum(x == 0 for x in agreement)


@dataclass(frozen=True)
class Wish:
    """One prompt of one person, with the seed of the picture."""

    pupil: int
    subject: str
    prompt: str
    seed: int


def teach_person(person: Person, comments: int = COMMENTS) -> Profile:
    """Return the profile after this many comments on rendered pictures, no verdict given."""
    rng = random.Random(f"pupil {person.seed} {person.id}")
    evidence = []
    for k in range(comments):
        truth = sample_shown(rng)
        picture = Image.fromarray(render(truth, FIRST_SHOWN + person.id * comments + k))
        remark = comment(person, truth, verdict(person, truth, rng), rng)
        try:
            mentions = extract_attributes(remark.text, picture)
        except CommentError:
            continue  # a word that the device cannot read teaches nothing
        evidence.append(Evidence(f"{k:08x}", f"2026-01-01T00:00:{k:02d}+00:00", tuple(mentions)))
    return build_profile(evidence)


def teach_people(count: int, comments: int = COMMENTS) -> list[Pupil]:
    """People 0 .. count - 1 of the benchmark's population with their profiles."""
    people = make_people(count, POPULATION)
    bar = tqdm(people, desc="reading comments", unit="person", mininterval=2, disable=None)
    return [Pupil(person, teach_person(person, comments)) for person in bar]


def draw_wishes(pupils: Sequence[Pupil], each: int = 5) -> list[Wish]:
    """Return prompts that name a subject, sometimes with a place, and no attribute.

    There are only a few seeds, so people can share the impersonal pictures.
    """
    wishes = []
    for i, pupil in enumerate(pupils):
        rng = random.Random(f"wishes {pupil.person.seed} {pupil.person.id}")
        for subject in rng.sample(SUBJECTS, each):
            setting = None if subject in OWN_PLACE or rng.random() < 0.5 else rng.choice(SETTINGS)
            prompt = f"a {subject}" + (f" {SETTING_PHRASES[setting][0]}" if setting else "")
            wishes.append(Wish(i, subject, prompt, FIRST_SEED + 100 * rng.randrange(NOISES)))
    return wishes
